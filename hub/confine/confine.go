// Package confine takes away from this process what a hub never does, so that
// "one UDP port and nothing else" is the kernel's word and not a habit.
//
// After Apply, on Linux, no thread of the process can make a socket listen,
// open a raw, packet or multipath-TCP socket, start another program, trace or
// read another process, mount, load code into the kernel or use interfaces
// whose only use here would be to break out (io_uring, bpf, userfaultfd). A
// call that is taken away fails with EPERM. Sockets that listen already keep
// working: the control socket is opened before.
//
// There is no way back for the process, and none for its children: it has
// none. Apply checks that the lock holds by trying the handle; a lock that
// does not hold is an error, never a silent pass.
package confine

import "errors"

// ErrUnsupported says that this system has no such lock. The hub runs on
// without and says so; nothing else of its protection depends on it.
var ErrUnsupported = errors.New("this system cannot confine a process (seccomp is missing)")
