package auth

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// stream opens a request of ann's that goes on until it is ended, for a role in
// a household, and returns what it ended with.
func (k *kit) stream(machine, access string, h account.HouseholdID, role account.Role) <-chan error {
	k.Helper()
	gate := services.NewGate(services.GateConfig{
		Service: "talk", Authority: k.s.Authority(), Roster: k.roster.Load, Limit: noLimit{}, Live: k.live,
		Grants: func(peer.Peer, string) map[string][]json.RawMessage { return nil },
	})
	need := services.Requirement{Any: []services.Credential{services.AsUser}, Household: "id", Role: role, Stream: true}
	began, ended := make(chan struct{}), make(chan error, 1)
	mux := http.NewServeMux()
	mux.Handle("GET /talk/{id}", services.Require(gate, "GET /talk/{id}", need, services.WriteProblem, func(w http.ResponseWriter, r *http.Request, _ *services.Caller) {
		close(began)
		select {
		case <-r.Context().Done():
			ended <- errors.New("it was ended")
		case <-k.Context().Done():
		}
	}))
	req := httptest.NewRequestWithContext(k.Context(), "GET", "/talk/"+string(h), nil)
	req.RemoteAddr = netip.AddrPortFrom(k.peer(machine).V4, 40000).String()
	req.Header.Set("Authorization", "Bearer "+access)
	w := httptest.NewRecorder()
	go func() {
		services.Identify(k.roster.Load, mux).ServeHTTP(w, req)
		if w.Code != 200 {
			ended <- errors.New(w.Body.String())
		}
	}()
	select {
	case <-began:
	case err := <-ended:
		k.Fatalf("the stream did not begin: %v", err)
	}
	return ended
}

// within a second of a change what ran on what was changed has ended.
func (k *kit) within(ended <-chan error, what string) {
	k.Helper()
	select {
	case <-ended:
	case <-time.After(time.Second):
		k.Errorf("%s: the stream goes on", what)
	}
}

func (k *kit) goesOn(ended <-chan error, what string) {
	k.Helper()
	k.live.Judge()
	select {
	case err := <-ended:
		k.Errorf("%s: the stream ended: %v", what, err)
	default:
	}
}

// TestTakenRightsBite: what takes a right away ends the streams that began with
// it, and no others.
func TestTakenRightsBite(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	bob, _ := k.household("bob")
	h, ctx := first.HouseholdID, t.Context()
	in := func() loginOut { k.Helper(); return k.signIn("bob", "bob-phone") }
	role := func(r account.Role) { k.Helper(); k.ok(k.s.SetMember(ctx, "hub", h, bob, r)) }
	bystander := k.stream("ann-laptop", first.AccessToken, h, account.Admin)
	for what, take := range map[string]func(loginOut){
		"role":     func(loginOut) { role(account.Member) },
		"removal":  func(loginOut) { role(account.None) },
		"password": func(loginOut) { k.ok(k.s.SetPassword(ctx, "hub", bob, secretWord, false)) },
		"sign-out": func(i loginOut) { k.ok(k.s.logout(ctx, k.peer("bob-phone"), i.RefreshToken, false)) },
		"reuse": func(i loginOut) {
			next := get[loginOut](k, k.refresh("bob-phone", i.RefreshToken), 200)
			k.want(k.refresh("bob-phone", next.RefreshToken), 200, "")
			k.want(k.refresh("bob-phone", i.RefreshToken), 401, "")
		},
		"another machine's key": func(loginOut) {
			all := k.roster.Load().All()
			next := append(all[:0:0], all...)
			next[2].PublicKey[7] ^= 1
			k.setRoster(next...)
			k.live.Judge() // the hub's part
		},
	} {
		role(account.PowerUser)
		access := in()
		ended := k.stream("bob-phone", access.AccessToken, h, account.Member)
		k.goesOn(ended, what)
		take(access)
		k.within(ended, what)
	}
	k.goesOn(bystander, "somebody else")
}

// TestErasureBites: being erased ends what runs.
func TestErasureBites(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	bob, h := k.household("bob")
	ended := k.stream("bob-phone", k.signIn("bob", "bob-phone").AccessToken, h, account.Admin)
	k.goesOn(ended, "before")
	if _, err := k.s.Erase(t.Context(), "hub", bob); err != nil {
		t.Fatal(err)
	}
	k.within(ended, "erasure")
}

// TestChangeOnAnotherHub: what another hub on the same store takes away is
// noticed by the next round.
func TestChangeOnAnotherHub(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	bob, h := k.household("bob")
	ended := k.stream("bob-phone", k.signIn("bob", "bob-phone").AccessToken, h, account.Admin)
	far := k.cfg
	far.Live = nil
	other, _ := k.open(far)
	k.goesOn(ended, "before")
	k.ok(other.SetPassword(t.Context(), "hub", bob, secretWord, false))
	go func() { _ = k.live.Run(t.Context()) }()
	k.within(ended, "password")
}

// TestRun: it does what was interrupted and what is due, and ends with its
// context.
func TestRun(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	bob, _ := k.household("bob")
	k.ok(k.cfg.Store.Keep(t.Context(), func(tx account.Tx) error { return tx.BeginErasure(bob) }))
	scrubbed := make(chan struct{}, 1)
	cfg := k.cfg
	cfg.Scrub = func(context.Context) error { scrubbed <- struct{}{}; return nil }
	s, _ := k.open(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	<-scrubbed // the last of what Run does first
	if _, err := s.User(t.Context(), bob.String()); !errors.Is(err, account.ErrNotFound) {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !k.alive("ann-laptop", first.AccessToken) {
		t.Error("upkeep ended a session")
	}
}
