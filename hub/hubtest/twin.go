package hubtest

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Twin starts a second hub on the same PostgreSQL database, with the same keys,
// on another UDP port, and stops it when the test ends.
func (m *Mesh) Twin() *Mesh {
	m.t.Helper()
	dir, err := os.MkdirTemp("", "hub")
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{"hub.key", "hub.dsn"} {
		b, err := os.ReadFile(filepath.Join(m.Dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			m.t.Fatal(err)
		}
	}
	twin := &Mesh{Dir: dir, Endpoint: FreePort(m.t), t: m.t, cfg: m.cfg}
	twin.cfg.Dir, twin.cfg.Listen, twin.cfg.Endpoint = dir, twin.Endpoint, twin.Endpoint.String()
	twin.Start()
	m.t.Cleanup(twin.Stop)
	return twin
}

// Redis starts the distribution's redis-server for a test, on a Unix socket and
// nothing else, and returns its address.
func Redis(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	cmd := exec.Command("redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	Until(t, "Redis answers", func() bool {
		c, err := net.DialTimeout("unix", socket, time.Second)
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
	return "unix://" + socket
}

// builtins are the places of the hub's own services.
var builtins = map[string]uint32{"console": 4, "auth": 5, "command": 6, "hooks": 7}

// HTTPClient speaks to the hub's own services by their names, over the
// stranger's tunnel.
func (s *Stranger) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		at, err := netip.ParseAddr(host)
		if err != nil {
			label, _, _ := strings.Cut(host, ".")
			at = s.at(builtins[label])
		}
		to, err := netip.ParseAddrPort(net.JoinHostPort(at.String(), port))
		if err != nil {
			return nil, err
		}
		return s.Dial(ctx, "tcp", s.V4, to)
	}}}
}
