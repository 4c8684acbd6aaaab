package auth

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/auth/token"
)

// refused checks that err is a refusal with a status.
func (k *kit) refused(err error, status int) {
	k.Helper()
	var why *services.Refusal
	if !errors.As(err, &why) || why.Status != status {
		k.Errorf("%v, want a refusal %d", err, status)
	}
}

// TestJ06_CredentialsInEachOthersPlace: what proves a node or an app proves no
// person, an ID token is no access token, and the other way round.
func TestJ06_CredentialsInEachOthersPlace(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	a, ctx, p := k.s.Authority(), t.Context(), k.peer("ann-laptop")
	_, nodeKey, err := k.s.CreateNode(ctx, "hub", NewNode{ID: "kitchen", Name: "Kitchen", Household: first.HouseholdID, Services: []string{Self}})
	k.ok(err)
	_, appKey, err := k.s.CreateApp(ctx, "hub", NewApp{ID: "kitchen", Name: "Same name"})
	k.ok(err)
	_, adminKey, err := k.s.CreateApp(ctx, "hub", NewApp{ID: "tools", Name: "Tools", Admin: true})
	k.ok(err)

	for _, raw := range []string{nodeKey, "kitchen:" + nodeKey, appKey, adminKey, first.RefreshToken} {
		_, _, err := a.User(ctx, p, raw)
		k.refused(err, 401)
		k.want(k.call("ann-laptop", "GET", "/auth/me", raw, nil), 401, "Invalid token")
	}
	ring, err := k.s.ring(ctx)
	k.ok(err)
	now := k.clock.now().Unix()
	id, err := ring.SignID(map[string]any{"iss": k.cfg.Issuer, "aud": Audience, "sub": "1", "iat": now, "exp": now + 600, "sid": "x"})
	k.ok(err)
	_, _, err = a.User(ctx, p, id)
	k.refused(err, 401)

	for _, key := range []string{appKey, adminKey, first.AccessToken, first.RefreshToken} {
		_, err := a.Node(ctx, p, "kitchen", key, Self)
		k.refused(err, 401)
	}
	for _, key := range []string{nodeKey, adminKey, first.AccessToken} {
		_, err := a.App(ctx, p, "kitchen", key, Self)
		k.refused(err, 401)
		_, err = a.Admin(ctx, p, "kitchen."+key)
		k.refused(err, 401)
	}
	_, err = a.Admin(ctx, p, "kitchen."+appKey) // an app, and not the admin's
	k.refused(err, 401)
	if _, err := a.Admin(ctx, p, adminKey); err != nil {
		t.Error(err)
	}
}

// TestTokenOfAnotherSession: what a token says must be what its session says.
func TestTokenOfAnotherSession(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	bob := k.signIn("bob", "bob-phone")
	p := k.peer("ann-laptop")
	_, mine, err := k.s.Bearer(t.Context(), p, first.AccessToken)
	k.ok(err)
	_, theirs, err := k.s.Bearer(t.Context(), k.peer("bob-phone"), bob.AccessToken)
	k.ok(err)
	good := token.Claims{Issuer: k.cfg.Issuer, Subject: first.User.ID.String(), ID: "x", Device: p.ID, Peer: p.PublicKey, Session: mine.ID,
		Audience: []string{Audience}, Issued: k.clock.now(), Expires: k.clock.now().Add(time.Minute)}
	judge := func(change func(*token.Claims)) error {
		c := good
		change(&c)
		ring, err := k.s.ring(t.Context())
		k.ok(err)
		raw, err := ring.Sign(c)
		k.ok(err)
		_, _, err = k.s.Bearer(t.Context(), p, raw)
		return err
	}
	k.ok(judge(func(*token.Claims) {}))
	for _, change := range []func(*token.Claims){
		func(c *token.Claims) { c.Session = theirs.ID },
		func(c *token.Claims) { c.Session, c.Subject = theirs.ID, theirs.User.String() },
		func(c *token.Claims) { c.Subject = theirs.User.String() },
		func(c *token.Claims) { c.Session = "none" },
		func(c *token.Claims) { c.Client = "console" },
		func(c *token.Claims) { c.Peer = k.peer("thief").PublicKey },
		func(c *token.Claims) { c.Device = k.peer("thief").ID },
		func(c *token.Claims) { c.Audience = []string{"other"} },
		func(c *token.Claims) { c.Issuer = "https://auth.evil.example" },
	} {
		k.refused(judge(change), 401)
	}
}

// TestNodeKey: by digest, for its services, from the machine that proved it
// first.
func TestNodeKey(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	a, ctx := k.s.Authority(), t.Context()
	_, key, err := k.s.CreateNode(ctx, "hub", NewNode{ID: "kitchen", Name: "Kitchen", Household: first.HouseholdID, Services: []string{"stt"}})
	k.ok(err)
	for n := range len(key) {
		_, err := a.Node(ctx, k.peer("box"), "kitchen", key[:n], "stt")
		k.refused(err, 401)
	}
	for _, bad := range []struct{ id, key, service string }{
		{"kitchen", key + "x", "stt"}, {"kitchen", key, "llm"}, {"kitchen", key, ""}, {"attic", key, "stt"}, {"", key, "stt"}, {"kitchen", "", "stt"}, {"ki tchen", key, "stt"},
	} {
		_, err := a.Node(ctx, k.peer("box"), bad.id, bad.key, bad.service)
		k.refused(err, 401)
	}
	// The first of many becomes its machine, and no other after.
	var won []peer.ID
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, machine := range []string{"box", "thief", "ann-laptop", "bob-phone"} {
		p := k.peer(machine)
		all.Go(func() {
			if n, err := a.Node(ctx, p, "kitchen", key, "stt"); err == nil && n.Peer == p.ID {
				mu.Lock()
				defer mu.Unlock()
				won = append(won, p.ID)
			}
		})
	}
	all.Wait()
	if len(won) != 1 || k.audited("node.bind") != 1 {
		t.Fatal(won)
	}
	for _, p := range k.roster.Load().All() {
		_, err := a.Node(ctx, p, "kitchen", key, "stt")
		if (err == nil) != (p.ID == won[0]) {
			t.Error(p.Name, err)
		}
	}
	_, next, err := k.s.RotateNode(ctx, "hub", "kitchen", time.Hour)
	k.ok(err)
	at, _ := k.roster.Load().ByID(won[0])
	for _, key := range []string{key, next} {
		if _, err := a.Node(ctx, at, "kitchen", key, "stt"); err != nil {
			t.Error(err)
		}
	}
	k.clock.pass(time.Hour)
	_, err = a.Node(ctx, at, "kitchen", key, "stt")
	k.refused(err, 401)
	if _, err := a.Node(ctx, at, "kitchen", next, "stt"); err != nil {
		t.Error(err)
	}
}

// TestNodeOfAnotherHousehold: a machine that the policy puts elsewhere does not
// become a household's node.
func TestNodeOfAnotherHousehold(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	h, err := k.s.CreateHousehold(t.Context(), "hub", "Labelled", "home", 0)
	k.ok(err)
	_, key, err := k.s.CreateNode(t.Context(), "hub", NewNode{ID: "hall", Name: "Hall", Household: h.ID, Services: []string{"stt"}})
	k.ok(err)
	p := k.peer("box")
	p.Household = "guests"
	_, err = k.s.Authority().Node(t.Context(), p, "hall", key, "stt")
	k.refused(err, 401)
	p.Household = "home"
	if n, err := k.s.Authority().Node(t.Context(), p, "hall", key, "stt"); err != nil || n.Peer != p.ID {
		t.Error(n, err)
	}
}

// TestAppKey: as a node's, and found by its machine for who has a certificate.
func TestAppKey(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	a, ctx := k.s.Authority(), t.Context()
	_, key, err := k.s.CreateApp(ctx, "hub", NewApp{ID: "cc", Name: "CC", Services: []string{"stt", "llm"}})
	k.ok(err)
	_, err = a.AppByPeer(ctx, k.peer("box"), "stt")
	k.refused(err, 401)
	_, err = a.App(ctx, k.peer("box"), "cc", key, "tts")
	k.refused(err, 401)
	app, err := a.App(ctx, k.peer("box"), "cc", key, "stt")
	if err != nil || app.Peer != k.peer("box").ID {
		t.Fatal(app, err)
	}
	_, err = a.App(ctx, k.peer("thief"), "cc", key, "stt")
	k.refused(err, 401)
	if app, err := a.AppByPeer(ctx, k.peer("box"), "llm"); err != nil || app.ID != "cc" {
		t.Error(app, err)
	}
	_, err = a.AppByPeer(ctx, k.peer("box"), "tts")
	k.refused(err, 401)
	k.ok(k.s.RevokeApp(ctx, "hub", "cc"))
	_, err = a.App(ctx, k.peer("box"), "cc", key, "stt")
	k.refused(err, 401)
	_, err = a.AppByPeer(ctx, k.peer("box"), "llm")
	k.refused(err, 401)
}

// TestChecksThatCannotRun: a store that fails lets nobody in, and says so.
func TestChecksThatCannotRun(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	_, nodeKey, err := k.s.CreateNode(t.Context(), "hub", NewNode{ID: "n", Name: "N", Household: first.HouseholdID, Services: []string{"stt"}})
	k.ok(err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a, p := k.s.Authority(), k.peer("ann-laptop")
	_, _, err1 := a.User(ctx, p, first.AccessToken)
	_, err2 := a.Node(ctx, p, "n", nodeKey, "stt")
	_, err3 := a.App(ctx, p, "n", nodeKey, "stt")
	_, err4 := a.Role(ctx, first.User.ID, first.HouseholdID)
	_, err5 := a.AppByPeer(ctx, p, "stt")
	for i, err := range []error{err1, err2, err3, err4, err5} {
		var why *services.Refusal
		if err == nil || errors.As(err, &why) || errors.Is(err, account.ErrNotFound) {
			t.Errorf("%d: %v", i, err)
		}
	}
}
