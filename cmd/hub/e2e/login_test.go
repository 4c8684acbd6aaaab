package e2e_test

import (
	"html"
	"os"
	"regexp"
	"strings"
	"testing"
)

// hidden finds what a form carries along.
var hidden = regexp.MustCompile(`type="hidden" name="([a-z_]+)" value="([^"]*)"`)

// browser is curl on a spoke, through its SOCKS door, with cookies and the hub's
// authority.
type browser struct {
	*spoke
	t     *testing.T
	where string
}

// newBrowser trusts the authority that the hub hands out.
func newBrowser(t *testing.T, s *spoke, socks string) *browser {
	b := &browser{s, t, s.dir + "-browser"}
	if err := os.Mkdir(b.where, 0o700); err != nil {
		t.Fatal(err)
	}
	s.must(t, "", "curl", "-sSf", "-x", "socks5h://"+socks, "-o", b.where+"/ca.crt", "http://auth.warren.internal/ca.crt")
	conf := "proxy = socks5h://" + socks + "\ncacert = " + b.where + "/ca.crt\ncookie = " + b.where + "/jar\ncookie-jar = " + b.where + "/jar\nmax-time = 15\n"
	if err := os.WriteFile(b.where+"/curlrc", []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

// get opens a page, or posts the form of the last one with fields filled in.
func (b *browser) get(url, last string, fields ...string) string {
	b.t.Helper()
	argv := []string{"curl", "-sSf", "-K", b.where + "/curlrc", url}
	for _, f := range hidden.FindAllStringSubmatch(last, -1) {
		argv = append(argv, "--data-urlencode", f[1]+"="+html.UnescapeString(f[2]))
	}
	for _, f := range fields {
		argv = append(argv, "--data-urlencode", f)
	}
	return b.must(b.t, "", argv...)
}

// TestSpokeLogin signs a person in for a machine without a screen, on another
// machine of theirs, by the command and the page. What the first gets works
// there only, and ends with logout.
func TestSpokeLogin(t *testing.T) {
	m := newMesh(t)
	m.settle()
	box, laptop := m.join("box", "--owner", "ann").up(), m.join("laptop", "--owner", "ann").up("--socks", "127.0.0.1:1080")
	const me = "https://auth.warren.internal/auth/me"
	if r := box.command("get", "--login", me); r.code == 0 || !strings.Contains(r.errs, "spoke login") {
		t.Errorf("before anybody signed in: exit code %d, %s%s", r.code, r.out, r.errs)
	}
	login := box.start(t, m.dir+"/login.log", spokeProgram(), "login", "--dir", box.dir)
	said := regexp.MustCompile(`Open +(\S+)\nCode +(\S+)\n`)
	until(t, "the spoke says a page and a code", func() bool { return said.MatchString(login.said()) })
	prompt := said.FindStringSubmatch(login.said())

	b := newBrowser(t, laptop, "127.0.0.1:1080")
	host := prompt[1][:strings.Index(prompt[1], "/device")]
	page := b.get(prompt[1], "")
	page = b.get(host+"/device", page, "user_code="+prompt[2], "email=ann@example.org", "password="+password)
	if !strings.Contains(page, "<strong>box</strong>") {
		t.Errorf("the page does not say which machine is meant:\n%s", page)
	}
	b.get(host+"/device/decide", page, "decision=allow")
	<-login.done
	if login.cmd.ProcessState.ExitCode() != 0 || !strings.Contains(login.said(), "Signed in as ") {
		t.Fatalf("spoke login: %s", login.said())
	}
	if r := box.command("get", "--login", me); r.code != 0 || !strings.Contains(r.out, "ann@example.org") {
		t.Errorf("signed in: exit code %d, %s%s", r.code, r.out, r.errs)
	}
	if r := laptop.command("get", "--login", me); r.code == 0 {
		t.Errorf("the laptop, where nobody signed in: %s", r.out)
	}
	if out := m.admin("user", "sessions", "ann@example.org"); !strings.Contains(out, "box") || strings.Contains(out, "laptop") {
		t.Errorf("hub user sessions:\n%s", out)
	}
	if r := box.command("logout"); r.code != 0 {
		t.Errorf("spoke logout: exit code %d %s", r.code, r.errs)
	}
	if r := box.command("get", "--login", me); r.code == 0 {
		t.Errorf("after logout: %s", r.out)
	}
	if out := m.admin("user", "sessions"); !strings.Contains(out, "Nobody") {
		t.Errorf("hub user sessions, after logout:\n%s", out)
	}
}
