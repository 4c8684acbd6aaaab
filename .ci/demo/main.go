// Command demo is a guided tour of Warren on real parts: a hub, two spokes and
// a phone (the distribution's wireguard-go and wg), each in a network of its
// own, on one machine. It prints what it does and what it measures, ends by
// itself, and exits 0 only if everything it says held.
//
// It needs no privileges: the networks, and all they leave behind, exist only
// inside namespaces of this process, and vanish with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// inside marks the process that has its own namespaces.
const inside = "WARREN_DEMO_INSIDE"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case len(os.Args) > 1:
		err = helper(ctx, os.Args[1], os.Args[2:])
	case os.Getenv(inside) == "":
		err = enter()
	default:
		err = run(ctx)
	}
	if code := (*exec.ExitError)(nil); errors.As(err, &code) && os.Getenv(inside) == "" {
		os.Exit(code.ExitCode()) // it has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// enter runs this program again in namespaces of its own: as root in its own
// user namespace, if this is an ordinary user.
func enter() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.Command(self)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	// Ctrl-C reaches the whole process group; the one inside cleans up.
	signal.Ignore(os.Interrupt)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("making network namespaces (this machine may forbid them to ordinary users; try as root): %w", err)
	}
	return cmd.Wait()
}

func run(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "warren-demo-")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	bin, err := filepath.Abs("bin")
	if err != nil {
		return err
	}
	t := &tour{ctx: ctx, dir: dir, bin: bin}
	defer func() {
		t.end()
		if err == nil {
			err = os.RemoveAll(dir)
		} else {
			fmt.Fprintf(os.Stderr, "demo: the logs are in %s\n", dir)
		}
	}()
	if err := t.lay(); err != nil {
		return fmt.Errorf("laying the networks: %w", err)
	}
	for _, act := range acts {
		fmt.Printf("\n%s\n", act.title)
		if err := act.play(t); err != nil {
			return fmt.Errorf("%s: %w", act.title, err)
		}
	}
	fmt.Printf("\n%d of %d statements held.\n", t.held, t.said)
	if t.held != t.said {
		return fmt.Errorf("%d did not", t.said-t.held)
	}
	return nil
}
