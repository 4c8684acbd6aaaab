package oauth_test

import (
	"crypto/sha256"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

func sum(s string) []byte {
	h := sha256.Sum256([]byte(s))
	return h[:]
}

// TestJ14_CodeTwice: a code that comes again gets nothing and ends what came of
// it the first time.
func TestJ14_CodeTwice(t *testing.T) {
	k := newKit(t)
	code := k.code("ann-laptop", k.public, callback)
	first := k.redeem("ann-laptop", code)
	if first.code != http.StatusOK || !k.opens("ann-laptop", first.Access) {
		t.Fatalf("%d %s", first.code, first.Error)
	}
	k.redeem("ann-laptop", code).refused(t, "again", "invalid_grant")
	if k.opens("ann-laptop", first.Access) {
		t.Error("the access token works on")
	}
	k.refresh("ann-laptop", k.public, first.Refresh).refused(t, "the refresh token", "invalid_grant")
}

// TestJ14_OnlyItsOwnerEndsIt: whoever could not have redeemed a code cannot end
// what it was redeemed for, and does not use it up.
func TestJ14_OnlyItsOwnerEndsIt(t *testing.T) {
	k := newKit(t)
	code := k.code("ann-laptop", k.public, callback)
	attempts := func(when string) {
		t.Helper()
		for what, r := range map[string]reply{
			"another client":         k.call("ann-laptop", "/oauth/token", redemption(k.other, code, callback)),
			"another redirect":       k.redeem("ann-laptop", code, "redirect_uri", "http://127.0.0.1:9/done"),
			"another verifier":       k.redeem("ann-laptop", code, "code_verifier", strings.Repeat("v", 43)),
			"another machine":        k.redeem("bob-phone", code),
			"no code that there is":  k.redeem("ann-laptop", code+"x"),
			"the code's hash":        k.redeem("ann-laptop", string(sum(code)[:8])+"x"),
			"another machine, again": k.redeem("kitchen", code),
		} {
			if r.Error != "invalid_grant" && r.Error != "invalid_request" || r.Access != "" {
				t.Errorf("%s, %s: %d %s", when, what, r.code, r.Error)
			}
		}
	}
	attempts("before")
	r := k.redeem("ann-laptop", code)
	if r.code != http.StatusOK {
		t.Fatalf("%d %s", r.code, r.Error)
	}
	attempts("after")
	if !k.opens("ann-laptop", r.Access) {
		t.Error("somebody who could not redeem the code ended the session")
	}
}

// TestJ14_Parallel: of 32 who come at once, one gets a session, and the others
// end it. On both engines.
func TestJ14_Parallel(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		k := newKitOn(t, cfg)
		code := k.code("ann-laptop", k.public, callback)
		replies := make([]reply, 32)
		var all sync.WaitGroup
		for i := range replies {
			all.Go(func() { replies[i] = k.redeem("ann-laptop", code) })
		}
		all.Wait()
		winner := reply{}
		for _, r := range replies {
			if r.code == http.StatusOK {
				if winner.Access != "" {
					t.Error("two winners")
				}
				winner = r
			} else {
				r.refused(t, "a loser", "invalid_grant")
			}
		}
		if winner.Access == "" {
			t.Fatal("no winner")
		}
		if k.opens("ann-laptop", winner.Access) {
			t.Error("the winner's token works on")
		}
		var sessions []account.Session
		k.ok(k.store.Accounts().View(t.Context(), func(tx account.Tx) (err error) {
			sessions, err = tx.SessionsOf(k.ann.ID)
			return err
		}))
		if len(sessions) != 0 {
			t.Errorf("%d sessions live on", len(sessions))
		}
	})
}

func TestJ14_After60Seconds(t *testing.T) {
	k := newKit(t)
	late, inTime := k.code("ann-laptop", k.public, callback), k.code("ann-laptop", k.public, callback)
	k.pass(59 * time.Second)
	if r := k.redeem("ann-laptop", inTime); r.code != http.StatusOK {
		t.Errorf("after 59 s: %d %s", r.code, r.Error)
	}
	k.pass(time.Second)
	k.redeem("ann-laptop", late).refused(t, "after 60 s", "invalid_grant")
}

// TestJ14_RightsAtRedemption: what was lost between the consent and the
// redemption is lost.
func TestJ14_RightsAtRedemption(t *testing.T) {
	k := newKit(t)
	code := k.code("ann-laptop", k.public, callback)
	u := k.ann
	u.Disabled = true
	k.ok(k.store.Accounts().Keep(t.Context(), func(tx account.Tx) error { return tx.UpdateUser(u) }))
	k.redeem("ann-laptop", code).refused(t, "a disabled person", "invalid_grant")
	u.Disabled = false
	k.ok(k.store.Accounts().Keep(t.Context(), func(tx account.Tx) error { return tx.UpdateUser(u) }))

	// The machine has another key now: somebody enrolled it anew.
	peers := k.roster.Load().All()
	rekeyed := append([]peer.Peer(nil), peers...)
	for i := range rekeyed {
		if rekeyed[i].Name == "ann-laptop" {
			rekeyed[i].PublicKey = peer.PublicKey{99}
		}
	}
	k.setRoster(rekeyed)
	k.redeem("ann-laptop", code).refused(t, "another key", "invalid_grant")
	k.setRoster(peers)
	if r := k.redeem("ann-laptop", code); r.code != http.StatusOK {
		t.Errorf("the right machine: %d %s", r.code, r.Error)
	}
}

// refresh presents a refresh token of a public client.
func (k *kit) refresh(machine string, c account.Client, token string, pairs ...string) reply {
	k.Helper()
	v := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {c.ID}}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return k.call(machine, "/oauth/token", v)
}

// TestJ10_RefreshReuseAtTokenEndpoint: a token whose successor was used ends the
// family when it comes again.
func TestJ10_RefreshReuseAtTokenEndpoint(t *testing.T) {
	k := newKit(t)
	first := k.redeem("ann-laptop", k.code("ann-laptop", k.public, callback))
	second := k.refresh("ann-laptop", k.public, first.Refresh)
	third := k.refresh("ann-laptop", k.public, second.Refresh)
	if second.code != http.StatusOK || third.code != http.StatusOK || !k.opens("ann-laptop", third.Access) {
		t.Fatalf("%d %s, %d %s", second.code, second.Error, third.code, third.Error)
	}
	k.refresh("ann-laptop", k.public, first.Refresh).refused(t, "the first token again", "invalid_grant")
	k.refresh("ann-laptop", k.public, third.Refresh).refused(t, "the newest token", "invalid_grant")
	for i, r := range []reply{first, second, third} {
		if k.opens("ann-laptop", r.Access) {
			t.Errorf("access token %d works on", i)
		}
	}
}

// TestJ11_LostReplyAtTokenEndpoint: within ten seconds the same unused
// successor is given out again, to any number at once.
func TestJ11_LostReplyAtTokenEndpoint(t *testing.T) {
	k := newKit(t)
	first := k.redeem("ann-laptop", k.code("ann-laptop", k.public, callback))
	replies := make([]reply, 32)
	var all sync.WaitGroup
	for i := range replies {
		all.Go(func() { replies[i] = k.refresh("ann-laptop", k.public, first.Refresh) })
	}
	all.Wait()
	for _, r := range replies {
		if r.code != http.StatusOK || r.Refresh != replies[0].Refresh || r.Refresh == first.Refresh {
			t.Fatalf("%d %s: successors differ", r.code, r.Error)
		}
	}
	k.pass(11 * time.Second)
	k.refresh("ann-laptop", k.public, first.Refresh).refused(t, "after eleven seconds", "invalid_grant")
	k.refresh("ann-laptop", k.public, replies[0].Refresh).refused(t, "the successor", "invalid_grant")
}

// TestRefreshIsBound to its client and its machine, and to its scope.
func TestRefreshIsBound(t *testing.T) {
	k := newKit(t)
	first := k.redeem("ann-laptop", k.code("ann-laptop", k.public, callback))
	for what, r := range map[string]reply{
		"another client":              k.refresh("ann-laptop", k.other, first.Refresh),
		"another machine":             k.refresh("bob-phone", k.public, first.Refresh),
		"another machine and client":  k.refresh("bob-phone", k.other, first.Refresh),
		"the access token":            k.refresh("ann-laptop", k.public, first.Access),
		"a made-up token":             k.refresh("ann-laptop", k.public, "made-up"),
		"a long token":                k.refresh("ann-laptop", k.public, strings.Repeat("x", 5000)),
		"another client with a scope": k.refresh("ann-laptop", k.other, first.Refresh, "scope", "warren"),
	} {
		r.refused(t, what, "invalid_grant")
	}
	k.refresh("ann-laptop", k.public, first.Refresh, "scope", "openid email").refused(t, "more scope", "invalid_scope")
	k.refresh("ann-laptop", k.public, "").refused(t, "none", "invalid_request")
	r := k.refresh("ann-laptop", k.public, first.Refresh, "scope", "openid")
	if r.code != http.StatusOK || r.Scope != "openid warren" || !k.opens("ann-laptop", r.Access) || k.opens("bob-phone", r.Access) {
		t.Errorf("the right one: %d %s %s", r.code, r.Error, r.Scope)
	}
	// J-09: a refresh token opens nothing.
	if k.opens("ann-laptop", r.Refresh) || k.works("ann-laptop", r.Refresh) {
		t.Error("a refresh token works as an access token")
	}
}

// TestScopeOfTokens: without the scope for the account a token says who
// somebody is, and opens nothing.
func TestScopeOfTokens(t *testing.T) {
	k := newKit(t)
	p := k.browse("ann-laptop", request(k.public, callback, "scope", "openid unknown openid")).signIn()
	if strings.Contains(p.text, "whatever you may do") {
		t.Error("the page asks for more than the client does")
	}
	r := k.redeem("ann-laptop", p.submit("decision", "allow").answer().Get("code"))
	if r.code != http.StatusOK || r.Scope != "openid" || !k.works("ann-laptop", r.Access) || k.opens("ann-laptop", r.Access) {
		t.Errorf("%d %s, scope %q", r.code, r.Error, r.Scope)
	}
	full := k.browse("ann-laptop", request(k.public, callback)).signIn()
	if !strings.Contains(full.text, "whatever you may do") {
		t.Error("the page does not say what the client asks for")
	}
}
