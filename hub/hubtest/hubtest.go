// Package hubtest starts a whole mesh inside one test: a real hub with a real
// store and real WireGuard over loopback, and real spokes that join it with
// invites. No root, no containers, no make-believe.
//
//	m := hubtest.New(t)
//	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
//	m.Apply(`{"households": {"home": ["ann"]}, "acls": […]}`)
//	conn, err := kitchen.Dial(ctx, "tcp", "lights.warren.internal:80")
//
// Everything is stopped when the test ends, and the test fails if a goroutine
// stays behind.
package hubtest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/spoke"
)

// Patience is how long a test waits for something that ought to happen soon.
// It bounds hangs; nothing is asserted about how much of it is used.
const Patience = 20 * time.Second

// Mesh is a hub and what joined it.
type Mesh struct {
	Hub *hub.Server
	// Dir is the hub's state directory, Endpoint its UDP address.
	Dir      string
	Endpoint netip.AddrPort

	t    testing.TB
	cfg  hub.Config
	stop func()
}

// Option changes how a mesh starts.
type Option func(*hub.InitConfig, *hub.Config)

// New starts a hub on loopback and stops it when the test ends.
func New(t testing.TB, options ...Option) *Mesh {
	t.Helper()
	checkLeaks(t)
	// t.TempDir is too long for a Unix socket when the test's name is.
	dir, err := os.MkdirTemp("", "hub")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &Mesh{Dir: filepath.Join(dir, "h"), Endpoint: FreePort(t), t: t}
	initial := hub.InitConfig{Dir: m.Dir, Endpoint: m.Endpoint.String(), Admin: "admin"}
	m.cfg = hub.Config{Dir: m.Dir, Listen: m.Endpoint, Version: "test", Logger: Logger(t),
		// Nothing leaves the machine: nobody answers there.
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}}
	for _, o := range options {
		o(&initial, &m.cfg)
	}
	if err := hub.Init(t.Context(), initial); err != nil {
		t.Fatalf("hub init: %v", err)
	}
	m.Start()
	t.Cleanup(m.Stop)
	return m
}

// FreePort finds a UDP port on loopback that nobody uses.
func FreePort(t testing.TB) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Start starts the hub after Stop, as a new process would.
func (m *Mesh) Start() {
	m.t.Helper()
	srv, err := hub.New(context.Background(), m.cfg)
	if err != nil {
		m.t.Fatalf("hub: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	m.Hub = srv
	m.stop = func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("hub: %v", err)
		}
	}
}

// Stop stops the hub; calling it again does nothing.
func (m *Mesh) Stop() {
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
}

// Apply puts a policy in force and fails the test if it is refused.
func (m *Mesh) Apply(policy string) control.Change {
	m.t.Helper()
	change, err := m.Hub.ApplyPolicy(m.t.Context(), "test", control.PolicyRequest{Text: policy, Lockout: true})
	if err != nil {
		m.t.Fatalf("applying policy: %v\n%s", err, policy)
	}
	return change
}

// Invite makes an invite code.
func (m *Mesh) Invite(name string, spec control.PeerSpec) string {
	m.t.Helper()
	spec.Name = name
	code, err := m.Hub.Invite(m.t.Context(), "test", spec)
	if err != nil {
		m.t.Fatalf("inviting %s: %v", name, err)
	}
	return code.Reveal()
}

// Join invites a machine, lets it join and run, and waits until it knows its
// part of the policy.
func (m *Mesh) Join(name string, spec control.PeerSpec) *spoke.Client {
	m.t.Helper()
	cfg := spoke.Config{Dir: m.t.TempDir(), Logger: Logger(m.t).With("spoke", name)}
	ctx, cancel := context.WithTimeout(m.t.Context(), Patience)
	defer cancel()
	if _, err := spoke.Join(ctx, m.Invite(name, spec), cfg); err != nil {
		m.t.Fatalf("%s joining: %v", name, err)
	}
	return m.Open(cfg)
}

// Open runs a spoke that has joined, until the test ends.
func (m *Mesh) Open(cfg spoke.Config) *spoke.Client {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), Patience)
	defer cancel()
	c, err := spoke.Open(ctx, cfg)
	if err != nil {
		m.t.Fatalf("opening spoke: %v", err)
	}
	run, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(run) }()
	m.t.Cleanup(func() {
		end()
		<-done
		if err := c.Close(); err != nil {
			m.t.Errorf("closing spoke: %v", err)
		}
	})
	if err := c.Ready(ctx); err != nil {
		m.t.Fatalf("spoke does not get ready: %v", err)
	}
	return c
}

// Until waits for a condition and fails the test if it does not come true.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain until %s", Patience, what)
		}
		<-tick.C
	}
}

// Logger writes to the test's log, and to nothing once the test is over.
func Logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(&testWriter{t: t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type testWriter struct{ t testing.TB }

func (w *testWriter) Write(b []byte) (int, error) {
	// t.Context ends just before the cleanups; what a part says while it is
	// being closed is of no use, and t.Log would panic after the test.
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// checkLeaks fails the test if goroutines that it started outlive it.
func checkLeaks(t testing.TB) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		deadline := time.Now().Add(Patience)
		for runtime.NumGoroutine() > before {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				buf = buf[:runtime.Stack(buf, true)]
				t.Errorf("goroutines stay behind: %s", leaks(before, buf))
				return
			}
			runtime.Gosched()
			time.Sleep(time.Millisecond) // the poll's pace, not a hope
		}
	})
}

func leaks(before int, stacks []byte) string {
	return fmt.Sprintf("%d before, %d after\n%s", before, runtime.NumGoroutine(), stacks)
}
