package main_test

import (
	"bytes"
	"context"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	}{
		{"linux-amd64", elf.EM_X86_64, nil},
		{"linux-arm64", elf.EM_AARCH64, []string{"qemu-aarch64-static"}},
		{"linux-armv6", elf.EM_ARM, []string{"qemu-arm-static", "-cpu", "arm1176"}},
	} {
		t.Run(linux.target, func(t *testing.T) {
			program := cross(t, dist, linux.target)
			static(t, program, linux.machine)
			if linux.emulate != nil {
				joins(t, append(linux.emulate, program))
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
func joins(t *testing.T, program []string) {
	if out := must(t, program, "", "--help"); !strings.Contains(out, "join") {
		t.Errorf("help does not mention join:\n%s", out)
	}
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
	var out string
	hubtest.Until(t, "the page came through the tunnel", func() bool {
		var err error
		out, err = command(t, program, "", "get", "http://web.warren.internal/", "--dir", dir)
		return err == nil
	})
	if out != "peer=pi" {
		t.Errorf("the page said %q", out)
	}
}

// webServer answers with the name of the machine that asks.
func webServer(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
