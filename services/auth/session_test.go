package auth

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer/account"
)

func (k *kit) refresh(machine, token string) reply {
	k.Helper()
	return k.call(machine, "POST", "/auth/refresh", "", fields{"refresh_token": token})
}

func (k *kit) alive(machine, access string) bool {
	k.Helper()
	r := k.call(machine, "GET", "/auth/me", access, nil)
	if r.code != 200 && r.code != 401 {
		k.Fatalf("%d %s", r.code, r.text)
	}
	return r.code == 200
}

// TestJ08_TokenOfAnotherMachine: a stolen token is worth nothing elsewhere.
func TestJ08_TokenOfAnotherMachine(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	k.want(k.call("ann-laptop", "GET", "/auth/me", first.AccessToken, nil), 200, `"email":"ann@example.org"`)
	for _, machine := range []string{"thief", "ann-tablet", "bob-phone"} {
		k.want(k.call(machine, "GET", "/auth/me", first.AccessToken, nil), 401, `{"detail":"Invalid token"}`)
		// The gate looks as well; this is without it.
		_, _, err := k.s.Bearer(t.Context(), k.peer(machine), first.AccessToken)
		k.refused(err, 401)
		k.want(k.refresh(machine, first.RefreshToken), 401, "Invalid refresh token")
	}
	if n := k.audited("session.stranger"); n != 3 {
		t.Errorf("%d strangers were recorded", n)
	}
	// The machine itself is not harmed by it.
	k.want(k.refresh("ann-laptop", first.RefreshToken), 200, "")

	// A machine of the same name and id with another key is another machine.
	peers := k.roster.Load().All()
	next := append(peers[:0:0], peers...)
	next[0].PublicKey[5] ^= 1
	k.setRoster(next...)
	k.want(k.call("ann-laptop", "GET", "/auth/me", first.AccessToken, nil), 401, "Invalid token")
}

// TestJ09_TokensInEachOthersPlace: a refresh token opens nothing, an access
// token refreshes nothing.
func TestJ09_TokensInEachOthersPlace(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	k.want(k.call("ann-laptop", "GET", "/auth/me", first.RefreshToken, nil), 401, "Invalid token")
	// An access token is longer than any refresh token may be: either way it is
	// refused.
	k.want(k.refresh("ann-laptop", first.AccessToken[:200]), 401, "Invalid refresh token")
	if r := k.refresh("ann-laptop", first.AccessToken); r.code != 401 && r.code != 422 {
		t.Errorf("%d %s", r.code, r.text)
	}
	k.want(k.call("ann-laptop", "GET", "/auth/me", "", nil), 401, "Missing or invalid Authorization header")
	k.want(k.call("ann-laptop", "GET", "/auth/me", "not.a.token", nil), 401, "Invalid token")
}

// TestJ10_ReuseEndsTheFamily: a token that was used twice ends all that came
// from it.
func TestJ10_ReuseEndsTheFamily(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	second := get[loginOut](k, k.refresh("ann-laptop", first.RefreshToken), 200)
	third := get[loginOut](k, k.refresh("ann-laptop", second.RefreshToken), 200)
	other := k.signIn("ann", "ann-laptop")
	if second.RefreshToken == first.RefreshToken || third.RefreshToken == second.RefreshToken {
		t.Fatal("a refresh token came again")
	}
	if !k.alive("ann-laptop", first.AccessToken) || !k.alive("ann-laptop", third.AccessToken) {
		t.Fatal("an access token ended with its refresh token")
	}
	// Within the ten seconds, but the successor was used.
	k.want(k.refresh("ann-laptop", first.RefreshToken), 401, "Invalid refresh token")
	for _, access := range []string{first.AccessToken, second.AccessToken, third.AccessToken} {
		if k.alive("ann-laptop", access) {
			t.Error("an access token outlived its family")
		}
	}
	k.want(k.refresh("ann-laptop", third.RefreshToken), 401, "Invalid refresh token")
	if n := k.audited("session.reuse"); n != 1 {
		t.Errorf("reuse was recorded %d times", n)
	}
	if !k.alive("ann-laptop", other.AccessToken) {
		t.Error("another session ended as well")
	}
	// And its person is told.
	k.want(k.call("ann-laptop", "GET", "/gdpr/users/1/data", other.AccessToken, nil), 200, `"event":"session.reuse"`)
}

// TestJ10_ThiefHangsUp: a token that comes twice ends its family, whether who
// sent it waits for the answer or not.
func TestJ10_ThiefHangsUp(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	second := get[loginOut](k, k.refresh("ann-laptop", first.RefreshToken), 200)
	k.want(k.refresh("ann-laptop", second.RefreshToken), 200, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := k.s.Rotate(ctx, k.peer("ann-laptop"), first.RefreshToken, "")
	k.refused(err, 401)
	if k.alive("ann-laptop", second.AccessToken) {
		t.Error("the family lives on")
	}
}

// TestJ11_LostReply: the same successor for ten seconds, and the end of the
// family after.
func TestJ11_LostReply(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	second := get[loginOut](k, k.refresh("ann-laptop", first.RefreshToken), 200)
	k.clock.pass(Grace)
	again := get[loginOut](k, k.refresh("ann-laptop", first.RefreshToken), 200)
	if again.RefreshToken != second.RefreshToken {
		t.Fatal("another successor was made")
	}
	k.clock.pass(time.Millisecond)
	k.want(k.refresh("ann-laptop", first.RefreshToken), 401, "Invalid refresh token")
	k.want(k.refresh("ann-laptop", second.RefreshToken), 401, "Invalid refresh token")
	if k.alive("ann-laptop", second.AccessToken) {
		t.Error("the family lives on")
	}
}

// TestJ11_ManyAtOnce: however many come, there is one successor.
func TestJ11_ManyAtOnce(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	replies := make([]reply, 32)
	var all sync.WaitGroup
	for i := range replies {
		all.Go(func() { replies[i] = k.refresh("ann-laptop", first.RefreshToken) })
	}
	all.Wait()
	successor := ""
	for _, r := range replies {
		next := get[loginOut](k, r, 200).RefreshToken
		if successor != "" && next != successor {
			t.Fatal("there are two successors")
		}
		successor = next
	}
	third := get[loginOut](k, k.refresh("ann-laptop", successor), 200)
	if !k.alive("ann-laptop", third.AccessToken) {
		t.Error("the session ended")
	}
}

// TestRefreshEnds: thirty days after its last use.
func TestRefreshEnds(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	k.clock.pass(RefreshLife - time.Second)
	second := get[loginOut](k, k.refresh("ann-laptop", first.RefreshToken), 200)
	k.clock.pass(RefreshLife)
	k.want(k.refresh("ann-laptop", second.RefreshToken), 401, "Refresh token expired")
	k.want(k.call("ann-laptop", "GET", "/auth/me", second.AccessToken, nil), 401, "Token has expired")
	k.ok(k.s.prune(t.Context()))
	k.want(k.refresh("ann-laptop", second.RefreshToken), 401, "")
}

// TestRefreshOfAnotherClient: a token is for the client that it was given to.
func TestRefreshOfAnotherClient(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	if _, _, err := k.s.Rotate(t.Context(), k.peer("ann-laptop"), first.RefreshToken, "console"); err == nil {
		t.Error("another client used it")
	}
	var got Tokens
	p := k.peer("ann-laptop")
	k.ok(k.cfg.Store.Keep(t.Context(), func(tx account.Tx) (err error) {
		got, err = k.s.Start(t.Context(), tx, account.Session{User: first.User.ID, Peer: p.ID, Key: p.PublicKey, Client: "console", Scope: "openid"})
		return err
	}))
	k.want(k.refresh("ann-laptop", got.Refresh), 401, "Invalid refresh token")
	// Without the scope for it, it says who somebody is and opens nothing.
	k.want(k.call("ann-laptop", "GET", "/auth/me", got.Access, nil), 403, "scope")
	if u, _, err := k.s.Bearer(t.Context(), p, got.Access); err != nil || u.ID != first.User.ID {
		t.Error(u, err)
	}
	if _, sess, err := k.s.Rotate(t.Context(), p, got.Refresh, "console"); err != nil || sess.ID != got.Session.ID {
		t.Error(sess.ID, err)
	}
}

// TestLogout: always 204, and what it ends is ended at once.
func TestLogout(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	second, third := k.signIn("ann", "ann-laptop"), k.signIn("ann", "ann-tablet")
	out := func(machine, token string, everywhere bool) {
		t.Helper()
		k.want(k.call(machine, "POST", "/auth/logout", "", fields{"refresh_token": token, "all_devices": everywhere}), 204, "")
	}
	out("ann-laptop", "nobody's", true)
	out("thief", first.RefreshToken, true)
	if !k.alive("ann-laptop", first.AccessToken) || !k.alive("ann-laptop", second.AccessToken) {
		t.Fatal("a stranger signed somebody out")
	}
	out("ann-laptop", first.RefreshToken, false)
	if k.alive("ann-laptop", first.AccessToken) || !k.alive("ann-laptop", second.AccessToken) {
		t.Error("not that session ended")
	}
	out("ann-laptop", second.RefreshToken, true)
	if k.alive("ann-tablet", third.AccessToken) {
		t.Error("another device is still signed in")
	}
}

// TestSessionList: the caller's own, and nobody else's to end.
func TestSessionList(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	k.clock.pass(time.Second)
	tablet, bob := k.signIn("ann", "ann-tablet"), k.signIn("bob", "bob-phone")
	list := get[sessionsOut](k, k.call("ann-laptop", "GET", "/auth/sessions", first.AccessToken, nil), 200).Sessions
	if len(list) != 2 || list[0].Machine != "ann-tablet" || list[0].Current || !list[1].Current {
		t.Fatalf("%+v", list)
	}
	k.want(k.call("bob-phone", "DELETE", "/auth/sessions/"+list[0].ID, bob.AccessToken, nil), 404, "Session not found")
	k.want(k.call("bob-phone", "DELETE", "/auth/sessions/nothing", bob.AccessToken, nil), 404, "Session not found")
	k.want(k.call("ann-laptop", "DELETE", "/auth/sessions/"+list[0].ID, first.AccessToken, nil), 204, "")
	if k.alive("ann-tablet", tablet.AccessToken) || !k.alive("ann-laptop", first.AccessToken) {
		t.Error("not that session ended")
	}
}

// TestSessionSettles: who left the household of their session gets another with
// the next refresh, and who had none the first one.
func TestSessionSettles(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	bob, bobs := k.household("bob")
	in := k.signIn("bob", "bob-phone")
	where := func(token string) (string, account.HouseholdID) {
		t.Helper()
		got, sess, err := k.s.Rotate(t.Context(), k.peer("bob-phone"), token, "")
		k.ok(err)
		return got.Refresh, sess.Household
	}
	next, h := where(in.RefreshToken)
	if h != bobs {
		t.Errorf("%q", h)
	}
	k.ok(k.cfg.Store.Keep(t.Context(), func(tx account.Tx) error { return tx.DeleteHousehold(bobs) }))
	if next, h = where(next); h != "" {
		t.Errorf("%q", h)
	}
	k.ok(k.s.SetMember(t.Context(), "hub", first.HouseholdID, bob, account.Member))
	if _, h = where(next); h != first.HouseholdID {
		t.Errorf("%q", h)
	}
}
