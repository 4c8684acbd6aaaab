package hub_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services/sync"
)

// older starts a hub on a store from before there were accounts: machines are
// called auth and command there, and something is published as hooks.
func older(t *testing.T) *hubtest.Mesh {
	t.Helper()
	m := hubtest.New(t)
	m.Stop()
	old, err := filepath.Glob(filepath.Join(m.Dir, "hub.db*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"hub.db", "hub.key"} {
		b, err := os.ReadFile(filepath.Join("testdata", "before-accounts", f))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.Dir, f), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.Start()
	return m
}

// TestUpgrade: a hub from before there were accounts has all that it had, an
// unbroken audit log, and accounts.
func TestUpgrade(t *testing.T) {
	m := older(t)
	v, err := m.Hub.VerifyAudit(t.Context(), "warren-audit:8:2BUHeOdLg9xECIOS4m17Oe5o477XFHRGhY_FvR276Vw")
	if err != nil || v.Bad != nil || v.Entries < 8 {
		t.Errorf("audit log: %+v, %v", v, err)
	}
	var who []string
	for _, p := range m.Hub.Peers() {
		who = append(who, p.Name)
	}
	if got := strings.Join(who, " "); got != "ann-phone auth command" {
		t.Errorf("machines: %s", got)
	}
	for _, svc := range m.Hub.Services() {
		if want := svc.Name != "lights"; svc.Builtin != want {
			t.Errorf("service %s of the hub's own: %t", svc.Name, svc.Builtin)
		}
	}
	if st := m.Hub.Status(); st.Recovery != "" || st.Generation != 2 {
		t.Errorf("policy: generation %d, %s", st.Generation, st.Recovery)
	}
	home := m.Household("house", "home")
	if ann := m.Person("ann", home, "admin"); ann.ID != 1 {
		t.Errorf("the first person is %v", ann.ID)
	}
	m.Stop()
	m.Start()
	if v, err = m.Hub.VerifyAudit(t.Context(), v.Head); err != nil || v.Bad != nil {
		t.Errorf("audit log after a person: %+v, %v", v, err)
	}
}

// TestUpgrade_Names: a machine that is called what the hub calls one of its own
// services by now gets no certificate for that name, and can be tagged, held and
// renamed; what was published under one can be taken away. The doctor tells.
func TestUpgrade_Names(t *testing.T) {
	m := older(t)
	told := func(what string) bool {
		for _, c := range m.Hub.Doctor(t.Context()) {
			if c.Name == "services" {
				return strings.Contains(c.Note, what+" is a name of the hub's own")
			}
		}
		return false
	}
	if !told("hooks") {
		t.Error("the doctor does not tell of what is published")
	}
	if _, err := m.Hub.Unpublish(t.Context(), "test", "hooks"); err != nil {
		t.Errorf("what is published cannot be taken away: %v", err)
	}
	if _, err := m.Hub.Unpublish(t.Context(), "test", "hooks"); err == nil {
		t.Error("the hub's own service was taken away")
	}
	for _, name := range []string{"auth", "command"} {
		if !told(name) {
			t.Errorf("the doctor does not tell of the machine %s", name)
		}
		for _, edit := range []control.PeerEdit{
			{Name: name, SetTags: true, Tags: []string{"tag:server"}}, {Name: name, Quarantine: true}, {Name: name, Release: true},
		} {
			if _, err := m.Hub.EditPeer(t.Context(), "test", edit); err != nil {
				t.Errorf("%+v: %v", edit, err)
			}
		}
		if err := certify(t, m, name); name == "command" && (err == nil || !strings.Contains(err.Error(), "hub peer rename command")) {
			t.Errorf("a certificate for the name of a service of the hub's own: %v", err)
		}
		if _, err := m.Hub.EditPeer(t.Context(), "test", control.PeerEdit{Name: name, Rename: name + "-pi"}); err != nil {
			t.Error(err)
		}
	}
	if err := certify(t, m, "command-pi"); err != nil {
		t.Errorf("renamed, and still without a certificate: %v", err)
	}
	if told("auth") || told("command") {
		t.Error("the doctor goes on about it")
	}
}

// certify asks for a certificate as a machine would.
func certify(t *testing.T, m *hubtest.Mesh, name string) error {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range m.Hub.Peers() {
		if p.Name == name {
			_, err = m.Hub.Certificate(t.Context(), peer.Peer{ID: p.ID}, sync.CertificateRequest{Request: request})
			return err
		}
	}
	t.Fatalf("there is no %s", name)
	return nil
}
