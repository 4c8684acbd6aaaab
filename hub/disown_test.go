package hub_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/peer"
)

// TestG01_Machines: who erases themselves gets the answer on the machine they
// sit at; then that machine is nobody's, has another name and is held.
func TestG01_Machines(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	home := m.Household("home", "")
	m.Person("bob", home, "admin")
	ann := m.Person("ann", home, "member")
	phone := m.Join("ann-phone", control.PeerSpec{Owner: "ann"})
	m.Join("kitchen", control.PeerSpec{Owner: "bob"})
	m.Invite("ann-watch", control.PeerSpec{Owner: "ann"})
	m.Invite("erased-"+ann.ID.String()+"-1", control.PeerSpec{Owner: "bob"}) // a name somebody guessed
	keys := hubtest.SignIn(t, phone, "ann")
	a := hubtest.Call(t, phone, hubtest.Request{Method: http.MethodDelete, Header: []string{keys.Bearer()},
		URL: hubtest.AuthURL + "/gdpr/users/" + ann.ID.String() + "/data"})
	if a.Status != http.StatusOK || a.String("status") != "erased" {
		t.Fatalf("%d %s", a.Status, a.Text)
	}
	hubtest.Until(t, "the machine is held", func() bool {
		for _, p := range m.Hub.Peers() {
			if strings.HasPrefix(p.Name, "erased-") && p.Kind != peer.KindInvite {
				return p.Quarantined && p.Owner == ""
			}
		}
		return false
	})
	for _, p := range m.Hub.Peers() {
		if strings.Contains(p.Name, "ann") || p.Owner == "ann" {
			t.Errorf("still there: %s of %q", p.Name, p.Owner)
		}
		if p.Name == "kitchen" && (p.Quarantined || p.Owner != "bob") {
			t.Errorf("bob's machine suffered: %+v", p)
		}
	}
}

// TestG01_LastWord: what the hub does every second does not cut off a machine
// before it has the answer that its owner is erased.
func TestG01_LastWord(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	m.Person("bob", m.Household("home", ""), "admin")
	ann := m.Person("ann", "home", "member")
	m.Join("ann-phone", control.PeerSpec{Owner: "ann"})
	if _, err := m.Hub.Sweep(t.Context()); err != nil { // the invite has done its work
		t.Fatal(err)
	}
	before, err := m.Hub.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	m.Command("user/rm", control.UserRequest{User: ann.ID.String()}, nil)
	after, err := m.Hub.Sweep(t.Context())
	if took := time.Since(began); err != nil || after != before && took < 2*time.Second { // later it may
		t.Errorf("put in force %d times at once, %v", after-before, err)
	}
	hubtest.Until(t, "the machine is held", func() bool {
		for _, p := range m.Hub.Peers() {
			if p.Quarantined {
				return true
			}
		}
		return false
	})
}
