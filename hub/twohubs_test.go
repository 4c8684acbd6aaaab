package hub_test

import (
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// pair is two hubs on one PostgreSQL database and one Redis, and one machine,
// Ann's, with a tunnel to each.
type pair struct {
	a, b     *hubtest.Mesh
	atA, atB *hubtest.Stranger
}

func newPair(t *testing.T) *pair {
	t.Helper()
	dsn, redis := storetest.PostgresConfig(t).DSN, hubtest.Redis(t)
	p := &pair{a: hubtest.New(t, func(i *hub.InitConfig, c *hub.Config) { i.DSN, c.Redis = dsn, redis })}
	p.a.Apply(open)
	p.a.Person("ann", p.a.Household("Home", "home"), "admin")
	key, err := peer.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	var phone control.PhoneReply
	p.a.Command("phone", control.PhoneRequest{PeerSpec: control.PeerSpec{Name: "ann-phone", Owner: "ann"}, PublicKey: key.Public()}, &phone)
	psk, err := peer.ParsePresharedKey(phone.PSK)
	if err != nil {
		t.Fatal(err)
	}
	p.b = p.a.Twin()
	p.b.Hub.Stream("/test/stream", services.Requirement{Any: []services.Credential{services.AsUser}, Role: account.Member})
	p.atA = p.a.Stranger(key, psk, phone.Peer.V4, phone.Peer.V6)
	p.atB = p.b.Stranger(key, psk, phone.Peer.V4, phone.Peer.V6)
	return p
}

func me(t *testing.T, at hubtest.Machine, k hubtest.Tokens) hubtest.Answer {
	t.Helper()
	return hubtest.Call(t, at, hubtest.Request{Method: http.MethodGet, URL: hubtest.AuthURL + "/auth/me", Header: []string{k.Bearer()}})
}

// TestTwoHubs: who signs in at one hub is signed in at the other, and who signs
// out at one is out at the other within a second, running answers included.
func TestTwoHubs(t *testing.T) {
	p := newPair(t)
	ann := hubtest.SignIn(t, p.atA, "ann")
	if a := me(t, p.atB, ann); a.Status != 200 || a.String("email") != "ann@example.org" {
		t.Fatalf("at the other hub: %d %s", a.Status, a.Text)
	}
	// Whoever joins at the other is told where that one is.
	key, err := peer.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	var phone control.PhoneReply
	if p.b.Command("phone", control.PhoneRequest{PeerSpec: control.PeerSpec{Name: "tablet", Owner: "ann"}, PublicKey: key.Public()}, &phone); phone.Endpoint != p.b.Endpoint.String() {
		t.Errorf("the other hub's machines are told %s", phone.Endpoint)
	}
	// A key that the one makes is believed by the other at once.
	p.a.Command("keys/rotate", nil, nil)
	again := hubtest.SignIn(t, p.atA, "ann")
	if a := me(t, p.atB, again); a.Status != 200 {
		t.Errorf("a token of the new key at the other hub: %d %s", a.Status, a.Text)
	}
	if a := me(t, p.atB, ann); a.Status != 200 {
		t.Errorf("a token of the key before: %d %s", a.Status, a.Text)
	}
	running := begin(t, p.atB, "/test/stream", ann.Bearer())
	other := begin(t, p.atB, "/test/stream", again.Bearer())
	out := hubtest.Request{Method: http.MethodPost, URL: hubtest.AuthURL + "/auth/logout", Body: map[string]string{"refresh_token": ann.Refresh}}
	at := time.Now()
	if a := hubtest.Call(t, p.atA, out); a.Status != 204 {
		t.Fatalf("signing out: %d %s", a.Status, a.Text)
	}
	running.endsSoon(t, "signed out at the other hub", at)
	refuses(t, p.atB, hubtest.Request{Method: http.MethodGet, URL: hubtest.AuthURL + "/auth/me", Header: []string{ann.Bearer()}}, 401, "Invalid token")
	if other.over() {
		t.Error("the other session ended as well")
	}
}

// TestJ11_AtTwoHubs: one refresh token, presented at both hubs at once by the
// machine whose it is, has one successor.
func TestJ11_AtTwoHubs(t *testing.T) {
	p := newPair(t)
	ann := hubtest.SignIn(t, p.atA, "ann")
	const tries = 16
	var wg sync.WaitGroup
	answers := make([]hubtest.Answer, tries)
	for i := range tries {
		at := p.atA
		if i%2 == 1 {
			at = p.atB
		}
		wg.Go(func() {
			a, err := hubtest.Try(t.Context(), at, hubtest.Request{Method: http.MethodPost, URL: hubtest.AuthURL + "/auth/refresh",
				Body: map[string]string{"refresh_token": ann.Refresh}})
			if err != nil {
				t.Error(err)
			}
			answers[i] = a
		})
	}
	wg.Wait()
	successors := make(map[string]int)
	for _, a := range answers {
		if a.Status != 200 {
			t.Errorf("%d %s", a.Status, a.Text)
		}
		successors[a.String("refresh_token")]++
	}
	if len(successors) != 1 {
		t.Fatalf("one token has %d successors", len(successors))
	}
	// Once the successor is used, the first one is a thief's.
	next := hubtest.Request{Method: http.MethodPost, URL: hubtest.AuthURL + "/auth/refresh", Body: map[string]string{"refresh_token": answers[0].String("refresh_token")}}
	third := hubtest.Call(t, p.atB, next)
	if third.Status != 200 {
		t.Fatalf("the successor: %d %s", third.Status, third.Text)
	}
	if a := hubtest.Call(t, p.atA, hubtest.Request{Method: http.MethodPost, URL: hubtest.AuthURL + "/auth/refresh",
		Body: map[string]string{"refresh_token": ann.Refresh}}); a.Status != 401 {
		t.Errorf("the first one again: %d %s", a.Status, a.Text)
	}
	if a := me(t, p.atB, hubtest.Tokens{Access: third.String("access_token")}); a.Status != 401 {
		t.Errorf("the family lives on at the other hub: %d", a.Status)
	}
}

// TestTwoHubsShareLimits: what a machine asks at one hub counts at the other.
func TestTwoHubsShareLimits(t *testing.T) {
	p := newPair(t)
	left := func(at *hubtest.Stranger) int {
		a := hubtest.Call(t, at, hubtest.Request{Method: http.MethodGet, URL: hubtest.AuthURL + "/health"})
		n, err := strconv.Atoi(a.Header.Get("RateLimit-Remaining"))
		if a.Status != 200 || err != nil {
			t.Fatalf("%d, RateLimit-Remaining %q", a.Status, a.Header.Get("RateLimit-Remaining"))
		}
		return n
	}
	last := left(p.atA)
	for range 5 {
		for _, at := range []*hubtest.Stranger{p.atB, p.atA} {
			now := left(at)
			if now >= last {
				t.Errorf("%d left after %d were left at the other hub", now, last)
			}
			last = now
		}
	}
	for _, m := range []*hubtest.Mesh{p.a, p.b} {
		if st := m.Hub.Status(); st.Accounts.Redis != "shared" {
			t.Errorf("status says of Redis %q", st.Accounts.Redis)
		}
	}
}
