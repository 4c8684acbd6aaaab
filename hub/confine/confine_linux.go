//go:build linux && (amd64 || arm64)

package confine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// denied are system calls a hub never makes.
var denied = [...]string{
	"listen",
	"execve", "execveat",
	"ptrace", "process_vm_readv", "process_vm_writev", "kcmp",
	"mount", "umount2", "pivot_root", "chroot", "setns", "unshare", "open_by_handle_at",
	"bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
	"init_module", "finit_module", "delete_module", "kexec_load", "reboot", "swapon", "swapoff",
	"keyctl", "add_key", "request_key", "acct", "quotactl", "settimeofday", "clock_settime",
}

// protoMPTCP is IPPROTO_MPTCP: a kind of TCP that filters for TCP overlook.
const protoMPTCP = 262

// Apply confines the process for good. Call it when everything that listens
// is open. It fails with ErrUnsupported where the kernel has no seccomp, and
// with another error when the lock does not hold.
func Apply() error {
	if !seccomp.Supported() {
		return ErrUnsupported
	}
	filter := seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync, // every thread, or none
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls: []seccomp.SyscallGroup{
				{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM), Names: denied[:], NamesWithCondtions: sockets()},
			},
		},
	}
	if err := seccomp.LoadFilter(filter); err != nil {
		return fmt.Errorf("confining the process: %w", err)
	}
	// All threads have given up new privileges by now, so this needs none.
	if err := refuseForeign(); err != nil {
		return fmt.Errorf("confining the process: %w", err)
	}
	return Check(context.Background())
}

// sockets are the kinds of socket a hub never opens.
func sockets() []seccomp.NameWithConditions {
	when := func(conditions ...seccomp.Condition) seccomp.NameWithConditions {
		return seccomp.NameWithConditions{Name: "socket", Conditions: conditions}
	}
	arg := func(i uint32, value uint64) seccomp.Condition {
		return seccomp.Condition{Argument: i, Operation: seccomp.Equal, Value: value}
	}
	var out []seccomp.NameWithConditions
	for _, family := range []uint64{unix.AF_PACKET, unix.AF_ALG, unix.AF_VSOCK, unix.AF_XDP, unix.AF_KEY, unix.AF_BLUETOOTH, unix.AF_TIPC, unix.AF_CAN, unix.AF_RDS} {
		out = append(out, when(arg(0, family)))
	}
	for _, family := range []uint64{unix.AF_INET, unix.AF_INET6} {
		for _, flags := range []uint64{0, unix.SOCK_CLOEXEC, unix.SOCK_NONBLOCK, unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK} {
			out = append(out, when(arg(0, family), arg(1, unix.SOCK_RAW|flags)))
		}
		out = append(out, when(arg(0, family), arg(2, protoMPTCP)))
	}
	return out
}

// Check tries what must not work: an error names what did.
func Check(ctx context.Context) error {
	var lc net.ListenConfig
	tries := []struct {
		what string
		try  func() error
	}{
		{"listening on TCP", func() error {
			ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
			if err == nil {
				ln.Close()
			}
			return err
		}},
		{"a raw socket", func() error { return open(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }},
		{"a packet socket", func() error { return open(unix.AF_PACKET, unix.SOCK_DGRAM, 0) }},
		{"a multipath-TCP socket", func() error { return open(unix.AF_INET, unix.SOCK_STREAM, protoMPTCP) }},
		{"starting a program", func() error { return unix.Exec("/proc/self/no-such-program", nil, nil) }},
		{"mounting", func() error { return unix.Mount("none", "/proc/self/no-such-place", "tmpfs", 0, "") }},
		{"bpf", func() error { _, _, errno := unix.Syscall(unix.SYS_BPF, 0, 0, 0); return errno }},
	}
	for _, t := range tries {
		// Without the lock these fail in other ways, or not at all: only
		// EPERM is the lock's answer.
		if err := t.try(); !errors.Is(err, os.ErrPermission) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("the process is not confined: %s gave %v", t.what, err)
		}
	}
	return nil
}

func open(family, kind, proto int) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err == nil {
		unix.Close(fd)
	}
	return err
}
