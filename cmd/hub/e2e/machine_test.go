package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds hangs; nothing is asserted about how much of it is used.
const patience = 20 * time.Second

// machine is a network namespace with one cable to the Internet, which is the
// network of the test process itself. The zero value is the Internet.
type machine struct {
	t     testing.TB
	name  string // of the namespace
	cable string // the Internet's end; the machine's own is eth0
	// The machine's addresses, and the Internet's end of the cable.
	v4, v6, gate4, gate6 string
}

// newMachine makes a machine. Place numbers the networks of one test process.
func newMachine(t testing.TB, place int, name string) *machine {
	t.Helper()
	m := &machine{t: t, name: fmt.Sprintf("%s%d", name, place), cable: fmt.Sprintf("to-%s%d", name, place)}
	sh(t, `ip netns add NAME
		ip link add CABLE type veth peer name eth0 netns NAME
		echo 0 > /proc/sys/net/ipv6/conf/CABLE/accept_dad
		ip netns exec NAME sh -c 'echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad'
		ip link set CABLE up; ip -n NAME link set lo up; ip -n NAME link set eth0 up`, "NAME", m.name, "CABLE", m.cable)
	t.Cleanup(func() { sh(t, "ip link del CABLE; ip netns del NAME", "NAME", m.name, "CABLE", m.cable) })
	m.address(place)
	return m
}

// address gives the machine the addresses of a place, instead of those it has.
func (m *machine) address(place int) {
	m.t.Helper()
	net4, net6 := fmt.Sprintf("100.64.%d.", place), fmt.Sprintf("2001:db8:%x::", place)
	m.gate4, m.v4, m.gate6, m.v6 = net4+"1", net4+"2", net6+"1", net6+"2"
	sh(m.t, `ip addr flush dev CABLE scope global; ip -n NAME addr flush dev eth0 scope global
		ip addr add GATE4/24 dev CABLE; ip addr add GATE6/64 dev CABLE nodad
		ip -n NAME addr add ADDR4/24 dev eth0; ip -n NAME addr add ADDR6/64 dev eth0 nodad
		ip -n NAME route replace default via GATE4; ip -n NAME -6 route replace default via GATE6`,
		"NAME", m.name, "CABLE", m.cable, "GATE4", m.gate4, "GATE6", m.gate6, "ADDR4", m.v4, "ADDR6", m.v6)
}

// sh runs a script in the Internet, with words replaced.
func sh(t testing.TB, script string, words ...string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", strings.NewReplacer(words...).Replace(script)).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.NewReplacer(words...).Replace(script), err, out)
	}
	return string(out)
}

// inside runs f on a thread that is in the machine's network. Sockets that it
// opens, and processes that it starts, are and stay there.
func (m *machine) inside(f func() error) error {
	if m == nil || m.name == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here, and does not go back
		ns, err := os.Open("/run/netns/" + m.name)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			err = errors.Join(err, ns.Close())
		}
		if err != nil {
			done <- fmt.Errorf("entering %s: %w", m.name, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// listen opens a TCP port on the machine.
func (m *machine) listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	var ln net.Listener
	err := m.inside(func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// result is how a command ended.
type result struct {
	out, errs string
	code      int // 0 done; -1 could not be run or was killed
	took      time.Duration
}

// run runs a command on the machine to its end.
func (m *machine) run(t testing.TB, input string, argv ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(input)
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err := m.inside(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	r := result{out: out.String(), errs: errs.String(), took: time.Since(began)}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.code = exit.ExitCode()
	} else if err != nil {
		t.Fatalf("%s: %v", strings.Join(argv, " "), err)
	}
	return r
}

// must is run for what has to succeed; it returns what was printed.
func (m *machine) must(t testing.TB, input string, argv ...string) string {
	t.Helper()
	r := m.run(t, input, argv...)
	if r.code != 0 {
		t.Fatalf("%s: exit code %d\n%s%s", strings.Join(argv, " "), r.code, r.out, r.errs)
	}
	return strings.TrimSpace(r.out)
}

// program runs until it is ended.
type program struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// start starts a program on the machine and ends it with the test.
func (m *machine) start(t testing.TB, log string, argv ...string) *program {
	t.Helper()
	return m.startWith(t, "", log, argv...)
}

// startWith is start with something on standard input.
func (m *machine) startWith(t testing.TB, input, log string, argv ...string) *program {
	t.Helper()
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p := &program{t: t, cmd: exec.Command(argv[0], argv[1:]...), log: log, done: make(chan struct{})}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = strings.NewReader(input), file, file
	if err := m.inside(p.cmd.Start); err != nil {
		t.Fatalf("starting %s: %v", argv[0], err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() { p.end(syscall.SIGTERM) })
	return p
}

func (p *program) pid() int { return p.cmd.Process.Pid }

// end sends a signal and waits until the program is gone.
func (p *program) end(sig syscall.Signal) {
	p.t.Helper()
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
		p.t.Errorf("%s did not end within %v of a signal", filepath.Base(p.cmd.Path), patience)
	}
}

// said is the program's log so far.
func (p *program) said() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// until waits for a condition and returns how long it took.
func until(t testing.TB, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > patience {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-tick.C
	}
	return time.Since(began)
}
