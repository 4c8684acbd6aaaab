package e2e_test

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// spoke is a machine that has joined the mesh.
type spoke struct {
	*machine
	mesh *mesh
	dir  string
	log  string
	prog *program // nil while it does not run
}

// join makes a machine and joins it, the invite coming on standard input.
func (m *mesh) join(name string, flags ...string) *spoke {
	m.t.Helper()
	s := &spoke{machine: newMachine(m.t, place(), "sp"), mesh: m, dir: m.dir + "/" + name, log: m.dir + "/" + name + ".log"}
	code := m.admin(append([]string{"invite", name}, flags...)...)
	s.must(m.t, code+"\n", spokeProgram(), "join", "-", "--dir", s.dir)
	return s
}

// up runs the spoke and waits until it is on the mesh.
func (s *spoke) up(flags ...string) *spoke {
	s.mesh.t.Helper()
	s.launch(flags...)
	until(s.mesh.t, "the spoke is ready", func() bool { return strings.Contains(s.prog.said(), "msg=ready") })
	return s
}

func (s *spoke) launch(flags ...string) {
	s.mesh.t.Helper()
	s.prog = s.start(s.mesh.t, s.log, append([]string{spokeProgram(), "run", "--dir", s.dir}, flags...)...)
}

func (s *spoke) stop(sig syscall.Signal) {
	s.prog.end(sig)
	s.prog = nil
}

// command runs a spoke command, whatever comes of it.
func (s *spoke) command(args ...string) result {
	s.mesh.t.Helper()
	return s.run(s.mesh.t, "", append([]string{spokeProgram(), "--dir", s.dir}, args...)...)
}

// reads reports whether the spoke gets the page now.
func (s *spoke) reads() bool {
	s.mesh.t.Helper()
	return s.command("get", "--max-time", "500ms", "http://page.warren.internal/").code == 0
}

// TestSpoke is a spoke's life by its command line: join, every door of run,
// get, ping, status, leave.
func TestSpoke(t *testing.T) {
	m := newMesh(t)
	s := m.join("laptop", "--owner", "ann")
	m.admin("phone", "ann-phone", "--owner", "ann", "--conf")
	servePages(t, s.listen(t, "127.0.0.1:7000"))
	s.up("--forward", "127.0.0.1:9000=page.warren.internal:80", "--socks", "127.0.0.1:1080",
		"--http-proxy", "127.0.0.1:8118", "--serve", "notes=127.0.0.1:7000")

	const page = "http://page.warren.internal/"
	for what, argv := range map[string][]string{
		"forward":     {"curl", "-sSf", "http://127.0.0.1:9000/"},
		"SOCKS5":      {"curl", "-sSf", "-x", "socks5h://127.0.0.1:1080", page},
		"HTTP proxy":  {"curl", "-sSf", "-x", "http://127.0.0.1:8118", page},
		"CONNECT":     {"curl", "-sSf", "-p", "-x", "http://127.0.0.1:8118", page},
		"get":         {spokeProgram(), "get", "--dir", s.dir, page},
		"get by name": {spokeProgram(), "get", "--dir", s.dir, "page"},
	} {
		r := s.run(t, "", argv...)
		if r.code != 0 || r.out != "peer=laptop user=ann" {
			t.Errorf("%s: exit code %d, %q %s", what, r.code, r.out, r.errs)
		}
	}
	t.Run("Refused", func(t *testing.T) {
		for what, argv := range map[string][]string{
			"a service that the policy does not name": {spokeProgram(), "get", "--dir", s.dir, "http://console.warren.internal/"},
			"the Internet":             {spokeProgram(), "get", "--dir", s.dir, "http://" + m.v4 + ":" + outerPort + "/"},
			"the Internet, by SOCKS5":  {"curl", "-sS", "-x", "socks5h://127.0.0.1:1080", "http://" + m.v4 + ":" + outerPort + "/"},
			"this machine, by CONNECT": {"curl", "-sSf", "-p", "-x", "http://127.0.0.1:8118", "http://127.0.0.1:7000/"},
			"ping of a service":        {spokeProgram(), "ping", "--dir", s.dir, "-c", "1", "page"},
		} {
			if r := s.run(t, "", argv...); r.code == 0 || r.took > 5*time.Second {
				t.Errorf("%s: exit code %d after %v: %s%s", what, r.code, r.took, r.out, r.errs)
			}
		}
	})
	if r := s.command("ping", "-c", "1", "hub"); r.code != 0 || !strings.Contains(r.out, "ms") {
		t.Errorf("spoke ping hub: exit code %d, %s%s", r.code, r.out, r.errs)
	}
	t.Run("Serve", func(t *testing.T) {
		until(t, "the hub lists notes", func() bool { return strings.Contains(m.admin("services"), "notes.") })
		m.apply(strings.Replace(first, `"svc:page:80"`, `"svc:page:80", "svc:notes:7000"`, 1))
		p := m.phone("bob-phone", "--owner", "ann")
		until(t, "the phone gets the spoke's page", func() bool { return p.curl("http://notes.warren.internal:7000/").code == 0 })
		if r := p.curl("http://laptop.warren.internal:7000/"); r.code != 7 {
			t.Errorf("the spoke's own address: exit code %d, want 7 (refused) %s", r.code, r.errs)
		}
	})
	status := s.command("status")
	for _, want := range []string{"laptop.warren.internal  connected", "127.0.0.1:1080", "127.0.0.1:8118", "offers     notes", "page.warren.internal"} {
		if !strings.Contains(status.out, want) {
			t.Errorf("spoke status lacks %q:\n%s%s", want, status.out, status.errs)
		}
	}
	t.Run("Leave", func(t *testing.T) { leaves(t, s) })
}

// leaves takes the spoke off the mesh.
func leaves(t *testing.T, s *spoke) {
	if r := s.command("leave"); r.code != 0 || !strings.Contains(r.out, "left the mesh") {
		t.Fatalf("spoke leave: exit code %d %s%s", r.code, r.out, r.errs)
	}
	select {
	case <-s.prog.done:
	case <-time.After(patience):
		t.Error("the running spoke did not end")
	}
	if p, ok := s.mesh.peer("laptop"); ok {
		t.Errorf("the hub still has it: %+v", p)
	}
	if r := s.command("get", "page"); r.code != 1 || !strings.Contains(r.errs, "spoke join") {
		t.Errorf("spoke get after leaving: exit code %d %s", r.code, r.errs)
	}
}

// TestSpokeTUN gives a whole machine the mesh: a curl that knows nothing of it
// reaches what the policy allows.
func TestSpokeTUN(t *testing.T) {
	m := newMesh(t)
	s := m.join("laptop", "--owner", "ann").up("--tun")
	if err := os.WriteFile(resolvConf, []byte("nameserver 10.77.0.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, family := range []string{"-4", "-6"} {
		r := s.run(t, "", "curl", "-sS", "--max-time", "15", family, "http://page.warren.internal/")
		if r.code != 0 || r.out != "peer=laptop user=ann" {
			t.Errorf("curl %s: exit code %d, %q %s", family, r.code, r.out, r.errs)
		}
		r = s.run(t, "", "curl", "-sS", "--max-time", "15", family, "http://console.warren.internal/")
		if r.code != 7 || r.took > 5*time.Second {
			t.Errorf("curl %s of what is not allowed: exit code %d after %v, want 7 (refused): %s", family, r.code, r.took, r.errs)
		}
		t.Logf("curl %s refused after %v", family, r.took.Round(time.Millisecond))
	}
	if r := s.run(t, "", "ping", "-c1", "-W5", "hub.warren.internal"); r.code != 0 {
		t.Errorf("ping of the hub: %s%s", r.out, r.errs)
	}
	s.stop(syscall.SIGTERM)
	if r := s.run(t, "", "ip", "link", "show", "warren0"); r.code == 0 {
		t.Errorf("the interface outlives the spoke: %s", r.out)
	}
}
