package e2e_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// sockets lists what a process has open, one line each, from the kernel's own
// tables.
func sockets(t testing.TB, pid int) []string {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	mine := make(map[string]bool)
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil {
			continue // closed meanwhile
		}
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			mine[strings.TrimSuffix(inode, "]")] = true
		}
	}
	var out []string
	for _, table := range []struct {
		name               string
		inode, local, more int
	}{
		{"tcp", 9, 1, 3}, {"tcp6", 9, 1, 3}, {"udp", 9, 1, 2}, {"udp6", 9, 1, 2}, {"udplite", 9, 1, 2}, {"udplite6", 9, 1, 2},
		{"raw", 9, 1, 2}, {"raw6", 9, 1, 2}, {"icmp", 9, 1, 2}, {"icmp6", 9, 1, 2}, {"packet", 8, 2, 3}, {"unix", 6, 7, 3}, {"netlink", 9, 1, 2},
	} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table.name))
		if err != nil {
			continue // the kernel does not have it
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) <= table.inode || !mine[f[table.inode]] {
				continue
			}
			local := "-"
			if len(f) > table.local {
				local = f[table.local]
			}
			out = append(out, table.name+" "+local+" "+f[table.more])
			delete(mine, f[table.inode])
		}
	}
	for range mine {
		out = append(out, "a socket of no kind that is known")
	}
	slices.Sort(out)
	return out
}

// ownSockets are all that a hub ever has open for others, sorted.
func ownSockets(m *mesh) []string {
	return []string{
		"udp 00000000:CA6C 00000000:0000", // 51820
		"udp6 00000000000000000000000000000000:CA6C 00000000000000000000000000000000:0000",
		"unix " + m.dir + "/h/hub.sock 00010000", // it accepts connections
	}
}

// TestW03_OnlyItsSockets reads the kernel's tables: a hub has its UDP port, v4
// and v6, and its control socket, before and after everything an admin does, and
// while it is used. What it opens on the way out is connected, and closed again.
func TestW03_OnlyItsSockets(t *testing.T) {
	m := newMesh(t)
	want := ownSockets(m)
	// What the hub opens to answer an admin, or to fetch its page, it closes
	// again: that may take a moment, and the tables are not read in one.
	check := func(when string) {
		t.Helper()
		var have []string
		defer func() {
			if t.Failed() {
				t.Logf("it has open:\n%s", strings.Join(have, "\n"))
			}
		}()
		until(t, when+" the hub has its own sockets open and no other", func() bool {
			have = slices.DeleteFunc(sockets(t, m.hub.pid()), func(s string) bool {
				toPage := strings.HasPrefix(s, "tcp 0100007F:") && strings.HasSuffix(s, " 01")
				return toPage && when == "under load"
			})
			return slices.Equal(have, want)
		})
	}
	check("at the start")
	p := m.phone("ann-phone", "--owner", "ann")
	curl := p.start(t, m.dir+"/curl.log", "curl", "-sS", "--max-time", "60", "-o", "/dev/null", "http://page.warren.internal/big")
	until(t, "the download runs", func() bool { return m.pages.open.Load() == 1 })
	check("under load")
	curl.end(syscall.SIGTERM)
	check("after a download")
	accountsOpenNothing(t, m, p, check)
	for _, act := range [][]string{
		{"invite", "kitchen", "--owner", "ann"}, {"phone", "bob-phone", "--owner", "bob", "--conf"},
		{"publish", "other", "http://" + privateAt}, {"publish", "ssh", "tcp://127.0.0.1:22"}, {"services"},
		{"peer", "rename", "bob-phone", "bobby"}, {"peer", "quarantine", "bobby"}, {"peer", "release", "bobby"}, {"peer", "rm", "bobby"},
		{"acl", "show"}, {"acl", "apply", m.policyFile(first)}, {"acl", "explain", "ann-phone", "page:80"}, {"acl", "history"}, {"acl", "rollback", "1"},
		{"unpublish", "ssh"}, {"peers"}, {"status"}, {"doctor"}, {"audit"}, {"audit", "verify"}, {"peer", "rm", "kitchen"},
		{"user", "passwd", "ann@example.org"}, {"user", "list"}, {"household", "list"},
		{"node", "add", "den", "--household", "home"}, {"node", "rotate", "den"}, {"app", "add", "center"}, {"app", "list"},
		{"client", "add", "notes", "--redirect", "http://127.0.0.1/callback"}, {"client", "add", "wiki", "--redirect", "https://wiki.warren.internal/", "--secret"},
		{"webhook", "add", "doorbell", "--household", "home"}, {"keys", "rotate"}, {"keys", "list"}, {"user", "sessions"},
	} {
		m.run(t, password, append([]string{hubProgram(), "--dir", m.dir + "/h"}, act...)...)
		check("after hub " + strings.Join(act, " "))
	}
}

// TestX01_NoSecretsInTheOpen looks for every secret of a mesh in the places
// that others read: arguments, environments and logs, at their most talkative.
func TestX01_NoSecretsInTheOpen(t *testing.T) {
	m := newMesh(t, "--log", "debug")
	code := m.admin("invite", "laptop", "--owner", "ann")
	s := &spoke{machine: newMachine(t, place(), "sp"), mesh: m, dir: m.dir + "/laptop", log: m.dir + "/laptop.log"}
	refused := s.run(t, "warren1"+code[20:], spokeProgram(), "join", "-", "--dir", m.dir+"/nobody")
	s.must(t, code, spokeProgram(), "join", "-", "--dir", s.dir)
	unused := m.admin("invite", "unused")
	again := s.run(t, code, spokeProgram(), "join", "-", "--dir", m.dir+"/thief")
	p := m.phone("ann-phone", "--owner", "ann")
	s.up("-v")
	until(t, "the spoke reads", s.reads)
	p.curl("http://page.warren.internal/")
	p.curl("http://console.warren.internal/")
	people := m.peoplesSecrets(t, p)
	m.admin("status")

	texts := map[string]string{"a refused join": refused.out + refused.errs, "a second join": again.out + again.errs}
	for name, pid := range map[string]int{"hub": m.hub.pid(), "spoke": s.prog.pid()} {
		for _, file := range []string{"cmdline", "environ"} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
			if err != nil || len(text) == 0 {
				t.Fatalf("%s of the %s: %q %v", file, name, text, err)
			}
			texts["the "+name+"'s "+file] = string(text)
		}
	}
	texts["hub status"] = m.admin("status", "--json")
	texts["hub audit"] = m.admin("audit", "--json")
	texts["spoke status"] = s.command("status", "--json").out
	secrets := m.secrets(t, s, p, code, unused)
	maps.Copy(secrets, people)
	texts["the hub's log"], texts["the spoke's log"] = m.hub.said(), m.read(s.log)
	for _, talkative := range []string{"the hub's log", "the spoke's log"} {
		if !strings.Contains(texts[talkative], "level=DEBUG") {
			t.Errorf("%s says nothing at level debug:\n%s", talkative, texts[talkative])
		}
	}
	for where, text := range texts {
		for what, secret := range secrets {
			for form, canary := range forms(secret) {
				if strings.Contains(text, canary) {
					t.Errorf("%s holds %s (as %s)", where, what, form)
				}
			}
		}
	}
	t.Logf("%d secrets in %d texts", len(secrets), len(texts))
}

// onlyItsOwn checks that the hub, whatever else it talks to, can be reached by
// its own sockets alone. A socket that it has made and not connected yet is in
// no table of the kernel's, so that a picture of one moment is not enough.
func (m *mesh) onlyItsOwn(t *testing.T, when string) {
	t.Helper()
	var reachable []string
	defer func() {
		if t.Failed() {
			t.Logf("%s: the hub can be reached at\n%s", when, strings.Join(reachable, "\n"))
		}
	}()
	want := ownSockets(m)
	until(t, when+" the hub can be reached by its own sockets alone", func() bool {
		reachable = slices.DeleteFunc(sockets(t, m.hub.pid()), calledByHub)
		return slices.Equal(reachable, want)
	})
}

// calledByHub is a socket that the hub called another with: nobody reaches the
// hub by it.
func calledByHub(socket string) bool {
	f := strings.Fields(socket)
	switch f[0] {
	case "tcp", "tcp6":
		return f[2] != "0A" // it does not listen
	case "unix":
		return f[2] != "00010000"
	}
	return false
}

// accountsOpenNothing uses the services about people, over TLS too.
func accountsOpenNothing(t *testing.T, m *mesh, p *phone, check func(string)) {
	m.settle()
	check("with people")
	access, _ := p.signIn(t, "ann")
	check("after a sign-in")
	overTLS(t, p, access)
	check("after TLS, discovery and the description of the service")
	m.apply(first)
	m.admin("user", "rm", "bob@example.org", "--yes")
	check("after an erasure")
}
