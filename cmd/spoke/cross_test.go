package main_test

import (
	"bytes"
	"context"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
)

// TestCross builds the spoke for the machines it is meant for. The ARM builds
// are started on an emulated processor, the Pi Zero's on exactly that one, and
// join a real hub.
func TestCross(t *testing.T) {
	dist := t.TempDir()
	t.Run("windows-amd64", func(t *testing.T) {
		f, err := pe.Open(cross(t, dist, "windows-amd64") + ".exe")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 {
			t.Errorf("machine %#x", f.Machine)
		}
	})
	for target, cpu := range map[string]macho.Cpu{"darwin-amd64": macho.CpuAmd64, "darwin-arm64": macho.CpuArm64} {
		t.Run(target, func(t *testing.T) {
			f, err := macho.Open(cross(t, dist, target))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if f.Cpu != cpu {
				t.Errorf("processor %v", f.Cpu)
			}
		})
	}
	for _, linux := range []struct {
		target  string
		machine elf.Machine
		emulate []string
		memory  int // kB that its work may need beyond what `spoke --help` needs; 0 is not asked
	}{
		{"linux-amd64", elf.EM_X86_64, nil, 0},
		{"linux-arm64", elf.EM_AARCH64, []string{"qemu-aarch64-static"}, 0},
		{"linux-armv6", elf.EM_ARM, []string{"qemu-arm-static", "-cpu", "arm1176"}, 44 << 10}, // with its 20 MB at rest, 64 MB
	} {
		t.Run(linux.target, func(t *testing.T) {
			program := cross(t, dist, linux.target)
			static(t, program, linux.machine)
			if linux.emulate != nil {
				joins(t, append(linux.emulate, program), linux.memory)
			}
		})
	}
}

// cross builds one target with the script that `make cross` runs.
func cross(t *testing.T, dist, target string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join("..", "..", ".ci", "cross"), target)
	cmd.Env = append(os.Environ(), "DIST="+dist)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building for %s (make setup installs the compilers): %v\n%s", target, err, out)
	}
	return filepath.Join(dist, "spoke-"+target)
}

// static fails the test unless program is for the machine and needs nothing of
// the system it will run on, not even a loader.
func static(t *testing.T, program string, machine elf.Machine) {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != machine {
		t.Errorf("machine %v, want %v", f.Machine, machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("not static: it asks for a loader")
		}
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MB", float64(info.Size())/1e6)
}

// joins runs the program through its life: help, a refused invite, joining a
// hub, and fetching a page through the tunnel.
func joins(t *testing.T, program []string, memory int) {
	help := exec.CommandContext(t.Context(), program[0], append(program[1:len(program):len(program)], "--help")...)
	if out, err := help.Output(); err != nil || !bytes.Contains(out, []byte("join")) {
		t.Errorf("help does not mention join: %v\n%s", err, out)
	}
	// The emulator and the program's text, which on a real machine are not
	// there or shared.
	rest := int(help.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	dir := filepath.Join(t.TempDir(), "state")
	if out, err := command(t, program, "warren1nonsense", "join", "-", "--dir", dir); err == nil {
		t.Errorf("nonsense joined:\n%s", out)
	}

	m := hubtest.New(t)
	web := webServer(t)
	if _, err := m.Hub.Publish(t.Context(), "test", control.PublishRequest{Name: "web", Target: "http://" + web}); err != nil {
		t.Fatal(err)
	}
	m.Apply(`{"households": {"home": ["ann@"]}, "acls": [{"action": "accept", "src": ["ann@"], "proto": "tcp", "dst": ["svc:web:80"]}]}`)
	must(t, program, m.Invite("pi", control.PeerSpec{Owner: "ann"}), "join", "-", "--dir", dir)

	ctx, cancel := context.WithCancel(t.Context())
	run := exec.CommandContext(ctx, program[0], append(program[1:], "run", "--dir", dir)...)
	run.Cancel = func() error { return run.Process.Signal(os.Interrupt) }
	run.WaitDelay = 10 * time.Second
	var log bytes.Buffer
	run.Stdout, run.Stderr = &log, &log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = run.Wait()
		if t.Failed() {
			t.Logf("spoke run said:\n%s", &log)
		}
	}()
	// Before that, `get` would open the tunnel itself, and be in the way.
	hubtest.Until(t, "the spoke runs", func() bool {
		_, err := os.Stat(filepath.Join(dir, "spoke.sock"))
		return err == nil
	})
	var out string
	hubtest.Until(t, "the page came through the tunnel", func() bool {
		var err error
		out, err = command(t, program, "", "get", "http://web.warren.internal/", "--dir", dir)
		return err == nil
	})
	if out != "peer=pi" {
		t.Errorf("the page said %q", out)
	}
	if memory > 0 {
		if n := len(must(t, program, "", "get", "http://web.warren.internal/big", "--dir", dir)); n != bigPage {
			t.Errorf("a large page has %d bytes, want %d", n, bigPage)
		}
		used := peakMemory(t, run.Process.Pid)
		t.Logf("%d kB at the most, the emulator's memory included; %d kB for --help", used, rest)
		if used-rest >= memory {
			t.Errorf("the work needed %d kB, the most is %d", used-rest, memory)
		}
	}
}

// bigPage is what a spoke is made to carry before its memory is looked at, in
// bytes: many times what its queues hold.
const bigPage = 24 << 20

// peakMemory is the most that a process ever had in memory, in kB.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kB int
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kB); err == nil {
			return kB
		}
	}
	t.Fatal("the kernel does not say how much memory it used")
	return 0
}

// webServer answers with the name of the machine that asks.
func webServer(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/big" {
			_, _ = w.Write(make([]byte, bigPage))
			return
		}
		_, _ = w.Write([]byte("peer=" + r.Header.Get("X-Warren-Peer")))
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return l.Addr().String()
}

func command(t *testing.T, program []string, input string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program[0], append(program[1:len(program):len(program)], args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func must(t *testing.T, program []string, input string, args ...string) string {
	t.Helper()
	out, err := command(t, program, input, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program[len(program)-1], args[0], err, out)
	}
	return out
}
