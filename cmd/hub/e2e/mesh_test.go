package e2e_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/control"
	_ "github.com/warrenmesh/warren/spoke"
)

// The programs are built from these packages and from the sources that
// newMesh reads: `go test` knows by that when a result of yesterday has aged.
const programSources = "../*.go ../../spoke/*.go ../../internal/cli/*.go"

// What is on the hub's machine besides the hub.
const (
	pageAt    = "127.0.0.1:8123" // a page, published as "page" by tests that say so
	privateAt = "127.0.0.1:9999" // never published
	lanIP     = "10.99.0.1"      // an address of the hub's machine that leads nowhere else
	hubPort   = "51820"
	outerPort = "8022" // open to the Internet, by another program of the machine
)

// first is the policy most tests begin with.
const first = `{
	"households": {"home": ["ann@", "bob@"]},
	"groups":     {"group:admin": ["ann@"]},
	"acls": [
		{"action": "accept", "src": ["ann@"], "proto": "tcp", "dst": ["svc:page:80"]},
		{"action": "accept", "src": ["ann@", "bob@"], "dst": ["svc:dns:53"]},
		{"action": "accept", "src": ["ann@"], "proto": "icmp", "dst": ["svc:hub:*"]},
	],
}`

// places numbers the networks of this test process: each machine has its own.
var places atomic.Int32

// mesh is a hub on a machine of its own, and whoever joins it.
type mesh struct {
	*machine // the hub's
	t        testing.TB
	dir      string // of everything that belongs to this test
	hub      *program
	pages    *pages
	flags    []string
}

func place() int { return int(places.Add(1)) }

// newMesh starts a hub with the policy first and the service page.
func newMesh(t testing.TB, flags ...string) *mesh {
	t.Helper()
	return newMeshOn(t, "", flags...)
}

// newMeshOn is newMesh with the store in a PostgreSQL database, unless dsn is
// "".
func newMeshOn(t testing.TB, dsn string, flags ...string) *mesh {
	t.Helper()
	if reason := os.Getenv(reasonEnv); reason != "" {
		t.Skipf("this machine lets an ordinary user make no network namespaces (%s): run the tests as root", reason)
	}
	for pattern := range strings.FieldsSeq(programSources) {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no sources at %s: %v", pattern, err)
		}
		for _, file := range files {
			if _, err := os.ReadFile(file); err != nil {
				t.Fatal(err)
			}
		}
	}
	// t.TempDir is too long for a Unix socket when the test's name is.
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &mesh{machine: newMachine(t, place(), "hub"), t: t, dir: dir, flags: flags}
	t.Cleanup(m.checkLogs)
	sh(t, "ip -n NAME addr add LAN/32 dev lo", "NAME", m.name, "LAN", lanIP)
	m.pages = servePages(t, m.listen(t, pageAt))
	for _, addr := range []string{privateAt, lanIP + ":9999", net.JoinHostPort(m.v4, outerPort), net.JoinHostPort(m.v6, outerPort)} {
		servePages(t, m.listen(t, addr))
	}
	if dsn == "" {
		m.admin("init", "--endpoint", net.JoinHostPort(m.v4, hubPort), "--admin", "ann")
	} else {
		m.typed(dsn, "init", "--endpoint", net.JoinHostPort(m.v4, hubPort), "--admin", "ann", "--db", "-")
	}
	m.startHub()
	m.admin("publish", "page", "http://"+pageAt)
	m.apply(first)
	return m
}

// checkLogs ends the test badly if a program said what no program may say.
func (m *mesh) checkLogs() {
	logs, err := filepath.Glob(m.dir + "/*.log")
	if err != nil {
		m.t.Error(err)
	}
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			m.t.Error(err)
		}
		if m.t.Failed() {
			lines := strings.Split(string(text), "\n")
			m.t.Logf("%s ends with:\n%s", filepath.Base(log), strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
		for _, bad := range []string{"DATA RACE", "panic: ", "fatal error: "} {
			if strings.Contains(string(text), bad) {
				m.t.Errorf("%s has a %q:\n%s", filepath.Base(log), bad, text)
			}
		}
	}
}

func hubProgram() string   { return os.Getenv(programsEnv) + "/hub" }
func spokeProgram() string { return os.Getenv(programsEnv) + "/spoke" }

// startHub starts the hub and waits until it answers its admin.
func (m *mesh) startHub() time.Duration {
	m.t.Helper()
	began := time.Now()
	m.launchHub()
	m.awaitHub()
	return time.Since(began)
}

func (m *mesh) launchHub() {
	m.t.Helper()
	argv := append([]string{hubProgram(), "run", "--dir", m.dir + "/h", "--listen", ":" + hubPort,
		"--resolver", "127.0.0.1:1"}, m.flags...)
	m.hub = m.machine.start(m.t, m.dir+"/hub.log", argv...)
}

func (m *mesh) awaitHub() {
	m.t.Helper()
	until(m.t, "the hub answers its admin", func() bool {
		return m.run(m.t, "", hubProgram(), "status", "--dir", m.dir+"/h").code == 0
	})
}

// killHub is kill -9.
func (m *mesh) killHub() { m.hub.end(syscall.SIGKILL) }

// admin runs a hub command that has to succeed.
func (m *mesh) admin(args ...string) string {
	m.t.Helper()
	return m.typed("", args...)
}

// typed is admin with something on standard input.
func (m *mesh) typed(input string, args ...string) string {
	m.t.Helper()
	return m.must(m.t, input, append([]string{hubProgram(), "--dir", m.dir + "/h"}, args...)...)
}

// adminJSON is admin for what prints a table.
func (m *mesh) adminJSON(into any, args ...string) {
	m.t.Helper()
	out := m.admin(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		m.t.Fatalf("hub %s --json: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// peer is one row of `hub peers`; false if there is none.
func (m *mesh) peer(name string) (control.PeerInfo, bool) {
	m.t.Helper()
	var all []control.PeerInfo
	m.adminJSON(&all, "peers")
	for _, p := range all {
		if p.Name == name {
			return p, true
		}
	}
	return control.PeerInfo{}, false
}

// policyFile writes a policy down for `hub acl`.
func (m *mesh) policyFile(text string) string {
	m.t.Helper()
	file := m.dir + "/policy.hujson"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return file
}

func (m *mesh) apply(text string) string {
	m.t.Helper()
	return m.admin("acl", "apply", m.policyFile(text))
}

// pages is a web site: its first page says who asks, /big never ends.
type pages struct {
	began atomic.Int32 // how many /big were begun
	open  atomic.Int32 // and not ended
}

func servePages(t testing.TB, ln net.Listener) *pages {
	p := new(pages)
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "peer=%s user=%s", r.Header.Get("X-Warren-Peer"), r.Header.Get("X-Warren-User"))
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		p.began.Add(1)
		p.open.Add(1)
		defer p.open.Add(-1)
		// About 13 MB/s: a download is there to be cut, not to fill two cores.
		block := make([]byte, 64<<10)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for r.Context().Err() == nil {
			if _, err := w.Write(block); err != nil {
				return
			}
			<-tick.C
		}
	})
	srv := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return p
}

// publicKey is the hub's WireGuard key.
func (m *mesh) publicKey() string {
	m.t.Helper()
	var st control.Status
	m.adminJSON(&st, "status")
	return st.PublicKey.String()
}
