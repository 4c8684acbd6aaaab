package oauth_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// TestRevocation: a client ends its own grant with either token, from the
// grant's own machine, and nobody else's.
func TestRevocation(t *testing.T) {
	k := newKit(t)
	r := k.redeem("ann-laptop", k.code("ann-laptop", k.public, callback))
	revoke := func(machine string, c account.Client, token string) reply {
		return k.call(machine, "/oauth/revoke", url.Values{"token": {token}, "client_id": {c.ID}, "token_type_hint": {"refresh_token"}})
	}
	for what, got := range map[string]reply{
		"no token of ours":       revoke("ann-laptop", k.public, "made-up"),
		"another client":         revoke("ann-laptop", k.other, r.Refresh),
		"another client, access": revoke("ann-laptop", k.other, r.Access),
		"another machine":        revoke("bob-phone", k.public, r.Refresh),
		"the id_token":           revoke("ann-laptop", k.public, r.ID),
	} {
		// RFC 7009, section 2.2: the answer does not tell.
		if got.code != http.StatusOK || !k.opens("ann-laptop", r.Access) {
			t.Errorf("%s: %d", what, got.code)
		}
	}
	revoke("ann-laptop", account.Client{ID: "nobody"}, r.Refresh).refused(t, "no client", "invalid_client")
	revoke("ann-laptop", k.secret, r.Refresh).refused(t, "a client without its secret", "invalid_client")
	k.call("ann-laptop", "/oauth/revoke", url.Values{"client_id": {k.public.ID}}).refused(t, "no token", "invalid_request")
	if got := k.call("ann-laptop", "/oauth/revoke?token="+r.Refresh, url.Values{"client_id": {k.public.ID}}); got.code != http.StatusBadRequest {
		t.Errorf("in the URL: %d", got.code) // by the gate, in its own words
	}

	for what, pick := range map[string]func(reply) string{"refresh": func(r reply) string { return r.Refresh }, "access": func(r reply) string { return r.Access }} {
		r := k.redeem("ann-laptop", k.code("ann-laptop", k.public, callback))
		if got := revoke("ann-laptop", k.public, pick(r)); got.code != http.StatusOK {
			t.Errorf("%s: %d", what, got.code)
		}
		if k.opens("ann-laptop", r.Access) {
			t.Errorf("%s: the access token works on", what)
		}
		k.refresh("ann-laptop", k.public, r.Refresh).refused(t, what, "invalid_grant")
		if got := revoke("ann-laptop", k.public, pick(r)); got.code != http.StatusOK {
			t.Errorf("%s again: %d", what, got.code)
		}
	}
	if !k.opens("ann-laptop", r.Access) {
		t.Error("another grant ended as well")
	}
}

// introspect asks as the confidential client, a service on another machine.
func (k *kit) introspect(token string) reply {
	k.Helper()
	return k.call("stt", "/oauth/introspect", url.Values{"token": {token}, "client_id": {k.secret.ID}, "client_secret": {k.secretText}})
}

// TestIntrospection: only who has a secret may ask, and the answer is what a
// gate would say now.
func TestIntrospection(t *testing.T) {
	k := newKit(t)
	fresh := func() reply { return k.redeem("ann-laptop", k.code("ann-laptop", k.public, callback)) }
	r := fresh()
	got := k.introspect(r.Access)
	laptop, _ := k.roster.Load().ByName("ann-laptop")
	cnf, _ := got.all["cnf"].(map[string]any)
	if got.code != http.StatusOK || !got.Active || got.Subject != k.ann.ID.String() || got.Scope != "openid warren" || got.Role != "admin" ||
		cnf["wg"] != laptop.PublicKey.String() || got.all["did"] != string(laptop.ID) || got.all["client_id"] != k.public.ID || got.all["email"] != nil {
		t.Errorf("%d %v", got.code, got.all)
	}
	inactive := func(what, token string) {
		t.Helper()
		if got := k.introspect(token); got.code != http.StatusOK || len(got.all) != 1 || got.all["active"] != false {
			t.Errorf("%s: %d %v", what, got.code, got.all)
		}
	}
	inactive("a made-up token", "made-up")
	inactive("an id_token", r.ID)
	inactive("another client's refresh token", r.Refresh)

	for what, v := range map[string]url.Values{
		"no secret":       {"token": {r.Access}, "client_id": {k.secret.ID}},
		"a wrong one":     {"token": {r.Access}, "client_id": {k.secret.ID}, "client_secret": {"x"}},
		"a public client": {"token": {r.Access}, "client_id": {k.public.ID}},
		"its own client":  {"token": {r.Access}, "client_id": {k.public.ID}, "client_secret": {k.secretText}},
	} {
		got := k.call("stt", "/oauth/introspect", v)
		got.refused(t, what, "invalid_client")
		if got.Active || got.code != http.StatusUnauthorized {
			t.Errorf("%s: %d active %v", what, got.code, got.Active)
		}
	}
	own := k.call("ann-laptop", "/oauth/token", redemption(k.secret, k.code("ann-laptop", k.secret, k.secret.Redirects[0]), k.secret.Redirects[0], "client_secret", k.secretText))
	if got := k.introspect(own.Refresh); !got.Active || got.all["token_type"] != "refresh_token" {
		t.Errorf("its own refresh token: %v", got.all)
	}

	accounts := k.store.Accounts()
	keep := func(fn func(account.Tx) error) { t.Helper(); k.ok(accounts.Keep(t.Context(), fn)) }
	set := func(disabled bool) func(account.Tx) error {
		u := k.ann
		u.Disabled = disabled
		return func(tx account.Tx) error { return tx.UpdateUser(u) }
	}
	keep(set(true))
	inactive("a disabled person's", r.Access)
	keep(set(false))
	peers := k.roster.Load().All()
	out := append([]peer.Peer(nil), peers...)
	for i := range out {
		out[i].Quarantined = out[i].Name == "ann-laptop"
	}
	k.setRoster(out)
	inactive("a quarantined machine's", r.Access)
	k.setRoster(peers[1:])
	inactive("a removed machine's", r.Access)
	k.setRoster(peers)
	if !k.introspect(r.Access).Active {
		t.Error("not active when all is well again")
	}
	k.ok(k.auth.Revoke(t.Context(), got.all["sid"].(string), "test"))
	inactive("a revoked session's", r.Access)
	r = fresh()
	k.pass(15*time.Minute + 30*time.Second)
	inactive("one that is over", r.Access)
	r = fresh()
	keep(func(tx account.Tx) error { return tx.DeleteMembership(k.home.ID, k.ann.ID) })
	inactive("one for a household that was left", r.Access)
}

// TestIntrospectionIsWhatAGateSays: what a gate refuses for the machine's, the
// household's or the password's sake is not active either.
func TestIntrospectionIsWhatAGateSays(t *testing.T) {
	k := newKit(t)
	r := k.redeem("ann-laptop", k.code("ann-laptop", k.public, callback))
	peers := k.roster.Load().All()
	with := func(change func(*peer.Peer)) {
		t.Helper()
		list := append([]peer.Peer(nil), peers...)
		for i := range list {
			if list[i].Name == "ann-laptop" {
				change(&list[i])
			}
		}
		k.setRoster(list)
	}
	want := func(what string, active bool) {
		t.Helper()
		if got := k.introspect(r.Access); got.Active != active || !active && len(got.all) != 1 {
			t.Errorf("%s: %v", what, got.all)
		}
	}
	k.ok(k.auth.SetLabel(t.Context(), "hub", k.home.ID, "home"))
	with(func(p *peer.Peer) { p.Household = "home" })
	want("a machine of this household", true)
	with(func(p *peer.Peer) { p.Household = "guests" })
	want("a machine of another household", false)
	with(func(p *peer.Peer) { p.Household = "" })
	want("a machine of none", true)
	with(func(p *peer.Peer) { p.PublicKey = peer.PublicKey{9, 9} })
	want("a machine with another key", false)
	k.setRoster(peers)
	temporary := func(until time.Time) {
		t.Helper()
		u := k.ann
		u.MustChange, u.TempUntil = true, until
		k.ok(k.store.Accounts().Keep(t.Context(), func(tx account.Tx) error { return tx.UpdateUser(u) }))
	}
	temporary(k.now().Add(time.Minute))
	want("a temporary password", true)
	temporary(k.now().Add(-time.Second))
	want("a temporary password that is over", false)
}
