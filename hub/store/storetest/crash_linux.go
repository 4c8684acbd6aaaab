package storetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// KillAtWrite runs a test of the calling test binary in a child process and
// ends it with SIGKILL at the moment it begins its n-th system call that
// changes a file or a socket (write, truncate, sync, rename, unlink, …), n from
// 1. What was written before is there, what follows never happens: the child is
// gone exactly as with kill -9 at that write. It returns whether the child was
// killed, which it was not if it came to its end with fewer than n such calls,
// and what it printed: standard output and error do not count as writes.
//
// The child finds env in its environment; it is how the test function tells
// that it is the child. The child must call Begin when its set-up is done: what
// came before does not count.
func KillAtWrite(t testing.TB, n int, test string, env ...string) (killed bool, output string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, "-test.run=^"+test+"$", "-test.count=1", "-test.timeout=60s")
	c.Env = append(os.Environ(), env...)
	c.Env = append(c.Env, "GOMAXPROCS=2", childEnv+"=1")
	out, err := os.CreateTemp(t.TempDir(), "child")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.Stdout, c.Stderr = out, out
	c.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	type result struct {
		killed bool
		err    error
	}
	done := make(chan result, 1)
	// All requests of a tracer must come from one thread. It is not unlocked:
	// it ends with the goroutine.
	go func() {
		runtime.LockOSThread()
		killed, err := trace(c, n)
		done <- result{killed, err}
	}()
	r := <-done
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	if r.err != nil {
		t.Fatalf("child %s, killed at call %d: %v\n%s", test, n, r.err, text)
	}
	return r.killed, string(text)
}

const (
	childEnv = "WARREN_TEST_CHILD"
	// begin is a file descriptor that no program has: a write to it is the
	// child's sign to the tracer.
	begin = 0x5eed
)

// Child reports whether this process was started by KillAtWrite.
func Child() bool { return os.Getenv(childEnv) != "" }

// Begin is called by the child: from here on its calls count.
func Begin() { _, _ = syscall.Write(begin, nil) }

// startTraced starts the child so that it stops at every system call.
func startTraced(c *exec.Cmd) (pid int, err error) {
	if err := c.Start(); err != nil {
		return 0, err
	}
	pid = c.Process.Pid
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, syscall.WALL, nil); err != nil {
		return 0, err
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	if err := syscall.PtraceSetOptions(pid, options); err != nil {
		return 0, err
	}
	return pid, syscall.PtraceSyscall(pid, 0)
}

func trace(c *exec.Cmd, n int) (killed bool, err error) {
	pid, err := startTraced(c)
	if err != nil {
		return false, err
	}
	var status syscall.WaitStatus
	inside := make(map[int]bool) // threads that are in a system call
	counting := false
	for calls := 0; ; {
		// Only this process and its threads: it was made a group of its own
		// by the tracing, and no other child is traced.
		tid, err := syscall.Wait4(-1, &status, syscall.WALL|syscall.WNOTHREAD, nil)
		if err != nil {
			return false, err
		}
		switch {
		case status.Exited() || status.Signaled():
			if tid != pid {
				delete(inside, tid)
				continue
			}
			if status.Signaled() && !killed || status.Exited() && status.ExitStatus() != 0 {
				return killed, fmt.Errorf("it ended with %v", describe(status))
			}
			return killed, nil
		case status.Stopped() && status.StopSignal() == syscall.SIGTRAP|0x80:
			if inside[tid] = !inside[tid]; inside[tid] && !killed {
				call, fd, err := callOf(tid)
				if err != nil && !errors.Is(err, syscall.ESRCH) {
					return false, err
				}
				if call == unix.SYS_WRITE && fd == begin {
					counting = true
				} else if err == nil && counting && changes(call, fd) {
					if calls++; calls == n {
						killed = true
						if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
							return false, err
						}
						continue // it is dead where it stands
					}
				}
			}
			resume(tid, 0)
		case status.Stopped():
			// New threads stop with SIGSTOP, clone with a trap; both are ours.
			sig := status.StopSignal()
			if sig == syscall.SIGTRAP || sig == syscall.SIGSTOP {
				sig = 0
			}
			resume(tid, int(sig))
		}
	}
}

// resume lets a thread go on; one that is gone by now is waited for later.
func resume(tid, signal int) { _ = syscall.PtraceSyscall(tid, signal) }

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return fmt.Sprintf("exit code %d", s.ExitStatus())
}

// changes reports whether a system call changes what outlives the process.
func changes(call uint64, fd int) bool {
	switch call {
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_FTRUNCATE, unix.SYS_FSYNC, unix.SYS_FDATASYNC:
		return fd > 2
	case unix.SYS_RENAMEAT, unix.SYS_UNLINKAT, unix.SYS_SENDTO, unix.SYS_FALLOCATE:
		return true
	}
	return changesOld(call)
}

// RunChild runs a test of the calling test binary in a child process like
// KillAtWrite, to its end. It returns whether the test passed.
func RunChild(t testing.TB, test string, env ...string) (ok bool, output string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, "-test.run=^"+test+"$", "-test.count=1", "-test.timeout=60s")
	c.Env = append(append(os.Environ(), env...), childEnv+"=1")
	text, err := c.CombinedOutput()
	return err == nil, string(text)
}
