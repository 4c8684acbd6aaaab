package e2e_test

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/warrenmesh/warren/hub/control"
)

// TestErasedStaysErased backs a hub up, erases somebody, and restores: she does
// not come back, he does, and their phones know.
func TestErasedStaysErased(t *testing.T) {
	m := newMesh(t)
	m.settle()
	ann, bob := m.phone("ann-phone", "--owner", "ann"), m.phone("bob-phone", "--owner", "bob")
	_, refresh := ann.signIn(t, "ann")
	access, _ := bob.signIn(t, "bob")
	m.known(ann, bob)
	phrase, file, back := m.dir+"/phrase", m.dir+"/hub.backup", m.dir+"/back"
	if err := os.WriteFile(phrase, []byte("tea and rusks at nine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.admin("backup", file, "--passphrase-file", phrase)
	m.admin("user", "export", "bob@example.org", m.dir+"/bob.json")
	if text := m.read(m.dir + "/bob.json"); !strings.Contains(text, "bob@example.org") {
		t.Errorf("the export: %s", text)
	}
	m.admin("user", "rm", "bob@example.org", "--yes")
	want(t, "bob, erased", bob.ask(t, "GET", authURL+"/auth/me", "", bearer(access)), 401, "")
	if out := m.admin("doctor"); strings.Contains(out, "backup --destroyed") {
		t.Errorf("hub doctor:\n%s", out)
	}
	m.hub.end(syscall.SIGTERM)

	out := m.must(t, "", hubProgram(), "restore", file, "--dir", back, "--passphrase-file", phrase)
	if !strings.Contains(out, "1 account came back.") || !strings.Contains(out, "1 account did not") {
		t.Errorf("hub restore:\n%s", out)
	}
	if err := os.Rename(m.dir+"/h", m.dir+"/before"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(back, m.dir+"/h"); err != nil {
		t.Fatal(err)
	}
	m.startHub()
	var users []control.UserInfo
	m.adminJSON(&users, "user", "list")
	if len(users) != 1 || users[0].Email != "ann@example.org" {
		t.Errorf("hub user list:\n%s", m.admin("user", "list"))
	}
	until(t, "ann's phone is heard again", func() bool { return ann.ask(t, "GET", authURL+"/health", "").status == 200 })
	until(t, "bob's phone is heard again", func() bool { return bob.ask(t, "GET", authURL+"/health", "").status == 200 })
	want(t, "bob's token, after the restore", bob.ask(t, "GET", authURL+"/auth/me", "", bearer(access)), 401, "")
	want(t, "bob signs in", bob.ask(t, "POST", authURL+"/auth/login", object("email", "bob@example.org", "password", password)), 401, "")
	if a := ann.ask(t, "POST", authURL+"/auth/refresh", object("refresh_token", refresh)); a.status != 200 && a.status != 401 {
		t.Errorf("ann's refresh token, after the restore: %v", a)
	}
	ann.signIn(t, "ann")
	if r := m.run(t, "", hubProgram(), "user", "export", "bob@example.org", "-", "--dir", m.dir+"/h"); r.code == 0 {
		t.Errorf("there is something to export of bob: %s", r.out)
	}
	if out := m.admin("audit", "verify"); !strings.Contains(out, "unbroken") {
		t.Errorf("hub audit verify: %s", out)
	}
}
