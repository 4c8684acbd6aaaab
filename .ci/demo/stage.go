package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// tour is the stage: the networks, what runs in them, and how many of the
// statements made so far held.
type tour struct {
	ctx        context.Context
	dir, bin   string
	procs      []*proc
	said, held int
	phoneDNS   string // the resolver that the phone's configuration names
}

// proc is a program that runs until it is ended.
type proc struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// Each of these is a network namespace with one cable to the hub's machine,
// whose end is .1 and the other .2.
var networks = []struct{ name, prefix string }{
	{"home", "192.0.2"},       // the spokes
	{"mobile", "198.51.100"},  // the phone
	{"stranger", "203.0.113"}, // somebody who has never heard of Warren
}

// lay makes the networks. The hub's machine is the namespace this runs in.
func (t *tour) lay() error {
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keeping mounts to ourselves: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("covering /run: %w", err)
	}
	if _, err := t.sh("ip link set lo up"); err != nil {
		return err
	}
	for _, n := range networks {
		script := `ip netns add NAME
			ip link add to-NAME type veth peer name eth0 netns NAME
			ip addr add PREFIX.1/24 dev to-NAME && ip link set to-NAME up
			ip -n NAME link set lo up && ip -n NAME link set eth0 up
			ip -n NAME addr add PREFIX.2/24 dev eth0 && ip -n NAME route add default via PREFIX.1`
		if _, err := t.sh(strings.NewReplacer("NAME", n.name, "PREFIX", n.prefix).Replace(script)); err != nil {
			return err
		}
	}
	return nil
}

// in prefixes a command so that it runs in a network; "" is the hub's machine.
func in(network string, argv ...string) []string {
	if network == "" {
		return argv
	}
	return append([]string{"ip", "netns", "exec", network}, argv...)
}

// sh runs a script on the hub's machine.
func (t *tour) sh(script string) (string, error) { return t.out("", "", "sh", "-ec", script) }

// out runs a command to its end, in a network, with input, and returns what it
// printed. The error has what it printed to standard error.
func (t *tour) out(network, input string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.ctx, 60*time.Second)
	defer cancel()
	argv = in(network, argv...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(input)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

// hub runs a hub command; spoke one of the spoke that lives in dir name.
func (t *tour) hub(args ...string) (string, error) {
	return t.out("", "", append([]string{t.bin + "/hub", "--dir", t.dir + "/hub"}, args...)...)
}

func (t *tour) spoke(name, input string, args ...string) (string, error) {
	return t.out("home", input, append([]string{t.bin + "/spoke", "--dir", t.dir + "/" + name}, args...)...)
}

// start runs a program until end, its output in a file named after it.
func (t *tour) start(network, name string, argv ...string) (*proc, error) {
	log, err := os.OpenFile(filepath.Join(t.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	argv = in(network, argv...)
	p := &proc{cmd: exec.Command(argv[0], argv[1:]...), log: log.Name(), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A group of its own: Ctrl-C is for the tour, which ends what it started.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	t.procs = append(t.procs, p)
	return p, nil
}

// kill ends a program with a signal and waits until it is gone.
func (p *proc) kill(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// end stops everything, the last first.
func (t *tour) end() {
	for i := len(t.procs) - 1; i >= 0; i-- {
		t.procs[i].kill(syscall.SIGTERM)
	}
}

// until tries again and again, and returns how long it took to succeed.
func (t *tour) until(limit time.Duration, try func() error) (time.Duration, error) {
	began := time.Now()
	for {
		err := try()
		if err == nil {
			return time.Since(began), nil
		}
		if t.ctx.Err() != nil || time.Since(began) > limit {
			return time.Since(began), fmt.Errorf("not within %v: %w", limit, errors.Join(err, t.ctx.Err()))
		}
		select {
		case <-t.ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// say states something and whether it held.
func (t *tour) say(held bool, format string, args ...any) {
	t.said++
	mark := "  ok    "
	if held {
		t.held++
	} else {
		mark = "  FALSE "
	}
	fmt.Println(mark + fmt.Sprintf(format, args...))
}

// ms prints a duration the way people compare them.
func ms(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
