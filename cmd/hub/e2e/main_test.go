// Package e2e_test runs the two programs as people run them: a hub, spokes and
// phones, each on a machine of its own, with the distribution's wireguard-go,
// wg, curl and dig where a person would have the WireGuard app and a browser.
//
// A machine is a network namespace. All of them, and everything they leave
// behind (interfaces, sockets in /run, processes), exist only inside namespaces
// of the test process and vanish with it, however it ends. As an ordinary user
// the test becomes root in a user namespace of its own; where the kernel forbids
// even that, the tests skip and say so.
package e2e_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// These tell the process inside where the programs are, or why it cannot be.
const (
	programsEnv = "WARREN_E2E_PROGRAMS"
	reasonEnv   = "WARREN_E2E_REASON"
)

func TestMain(m *testing.M) {
	if os.Getenv(programsEnv) == "" {
		os.Exit(outside(m))
	}
	if err := furnish(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: furnishing the namespaces:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// outside builds the programs and runs this test again in its own namespaces.
func outside(m *testing.M) int {
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	args := []string{"build", "-o", dir + "/", "github.com/warrenmesh/warren/cmd/hub", "github.com/warrenmesh/warren/cmd/spoke"}
	if raceEnabled {
		args = append([]string{"build", "-race"}, args[1:]...)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "e2e: building the programs: %v\n%s", err, out)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The race detector makes every command sleep for a second at its end.
	cmd.Env = append(os.Environ(), programsEnv+"="+dir, "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that starts it
	signal.Ignore(os.Interrupt)
	if err := cmd.Start(); err != nil {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
			os.Setenv(reasonEnv, err.Error())
			return m.Run()
		}
		fmt.Fprintln(os.Stderr, "e2e: making namespaces:", err)
		return 1
	}
	if err := cmd.Wait(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 {
			return exit.ExitCode()
		}
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return 0
}

// furnish prepares the namespaces: mounts nobody else sees, a /run and a /proc
// of our own, a resolv.conf that tests may write, and a network that routes.
func furnish() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keeping mounts to ourselves: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("covering /run: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("covering /proc: %w", err)
	}
	if err := ownResolvConf(); err != nil {
		return err
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	for _, file := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+file, []byte("1"), 0); err != nil {
			return fmt.Errorf("making the Internet forward: %w", err)
		}
	}
	return nil
}

// resolvConf is what the phones' DNS goes to.
const resolvConf = "/run/resolv.conf"

// ownResolvConf puts a file of ours in the place of /etc/resolv.conf.
func ownResolvConf() error {
	if err := os.WriteFile(resolvConf, []byte("nameserver 192.0.2.53\n"), 0o644); err != nil {
		return err
	}
	place, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if errors.Is(err, fs.ErrNotExist) {
		// A link into the /run that is covered now.
		if place, err = os.Readlink("/etc/resolv.conf"); err != nil {
			return fmt.Errorf("finding resolv.conf: %w", err)
		}
		if !filepath.IsAbs(place) {
			place = filepath.Join("/etc", place)
		}
		if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
			return err
		}
		return os.Symlink(resolvConf, place)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(resolvConf, place, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("covering %s: %w", place, err)
	}
	return nil
}
