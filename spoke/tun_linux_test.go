package spoke

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// namespaced is set in the test process that runs in namespaces of its own.
const namespaced = "WARREN_TEST_NAMESPACED"

// TestTUN runs itself again in a user and a network namespace of its own, where
// it may make an interface and nothing on this machine changes.
func TestTUN(t *testing.T) {
	if os.Getenv(namespaced) != "" {
		testTUN(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTUN$", "-test.v")
	cmd.Env = append(os.Environ(), namespaced+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestTUN") {
		t.Errorf("in a namespace: %v\n%s", err, out)
	}
}

// testTUN uses the mesh with the kernel's own sockets.
func testTUN(t *testing.T) {
	h := newMiniHub(t)
	cfg := h.config(t, "198.51.100.1")
	if _, err := Join(t.Context(), h.invite("kitchen"), cfg); err != nil {
		t.Fatal(err)
	}
	cfg.TUN = "warren0"
	c := open(t, cfg)
	web := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	defer web.CloseIdleConnections()
	resp, err := web.Get("http://10.77.0.10/kernel")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != "hello /kernel\n" {
		t.Errorf("%q, %v", body, err)
	}
	// The gate is the same one: what the policy does not allow is reset.
	if conn, err := net.DialTimeout("tcp", "10.77.0.10:22", patience); err == nil {
		_ = conn.Close()
		t.Error("connected to a port that no rule allows")
	}
	// Dial, Ping and an offer work through the kernel too.
	if got := get1(t, c, "http://stt/a"); got != "hello /a\n" {
		t.Error(got)
	}
	if _, _, err := c.Ping(t.Context(), "stt"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx, Offer{Name: "llm", Port: 8080, Target: "127.0.0.1:9"}) }()
	until(t, "the service's address on the interface", func() bool {
		addrs := c.names("llm")
		if len(addrs) == 0 {
			return false
		}
		ln, err := net.Listen("tcp", net.JoinHostPort(addrs[0].String(), "9999"))
		if err == nil {
			_ = ln.Close()
		}
		return err == nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if _, err := net.InterfaceByName("warren0"); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the interface is still there")
		}
	}
}

// TestTUNWithoutPrivileges: nobody is told "operation not permitted" without
// what to do about it.
func TestTUNWithoutPrivileges(t *testing.T) {
	if os.Getenv(namespaced) != "" {
		h := newMiniHub(t)
		cfg := h.config(t, "198.51.100.1")
		if _, err := Join(t.Context(), h.invite("kitchen"), cfg); err != nil {
			t.Fatal(err)
		}
		cfg.TUN = "warren0"
		c, err := Open(t.Context(), cfg)
		if err == nil {
			_ = c.Close()
			t.Fatal("made an interface without privileges")
		}
		if !strings.Contains(err.Error(), "privileges") && !strings.Contains(err.Error(), "/dev/net/tun") {
			t.Error(err)
		}
		cfg.TUN = ""
		if c, err = Open(t.Context(), cfg); err != nil {
			t.Fatalf("the failure left the directory locked: %v", err)
		}
		_ = c.Close()
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTUNWithoutPrivileges$", "-test.v")
	cmd.Env = append(os.Environ(), namespaced+"=1")
	// Mapped to nobody in particular, and so without any capability.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestTUNWithoutPrivileges") {
		t.Errorf("without privileges: %v\n%s", err, out)
	}
}
