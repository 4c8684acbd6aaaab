package auth

import (
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services/auth/token"
)

func (k *kit) signingKeys() (all []account.SigningKey) {
	k.Helper()
	k.view(func(tx account.Tx) (err error) {
		all, err = tx.SigningKeys()
		return err
	})
	return all
}

// TestJ07_Rotation: tokens of the key before count while it overlaps, and not
// after; a key that is deleted stops counting within a second.
func TestJ07_Rotation(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	k.clock.pass(10 * time.Minute)
	k.ok(k.s.RotateSigningKey(t.Context(), "local:0"))
	k.clock.pass(4 * time.Minute)
	second := k.signIn("ann", "ann-laptop")
	if !k.alive("ann-laptop", first.AccessToken) || !k.alive("ann-laptop", second.AccessToken) {
		t.Fatal("a rotation ended tokens")
	}
	if n := len(k.signingKeys()); n != 2 || strings.Count(string(k.s.Ring().JWKS()), `"kid"`) != 2 {
		t.Errorf("%d keys, %s", n, k.s.Ring().JWKS())
	}
	// Without the overlap, by hand.
	old := k.signingKeys()
	k.ok(k.cfg.Store.Keep(t.Context(), func(tx account.Tx) error {
		for _, key := range old {
			if !key.Expires.IsZero() {
				k.ok(tx.DeleteSigningKey(key.ID))
			}
		}
		return nil
	}))
	k.clock.pass(ringLife)
	if k.alive("ann-laptop", first.AccessToken) || !k.alive("ann-laptop", second.AccessToken) {
		t.Error("not the deleted key stopped counting")
	}
}

// TestJ07_AfterTheOverlap: and the upkeep removes what is over.
func TestJ07_AfterTheOverlap(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	before := k.signingKeys()[0].ID
	k.clock.pass(keyLife - time.Second)
	k.s.Upkeep(t.Context())
	if all := k.signingKeys(); len(all) != 1 || all[0].ID != before {
		t.Fatalf("%d keys", len(all))
	}
	k.clock.pass(time.Second)
	k.s.Upkeep(t.Context())
	all := k.signingKeys()
	if len(all) != 2 || k.audited("key.rotate") != 2 {
		t.Fatalf("%d keys", len(all))
	}
	for _, key := range all {
		if (key.ID == before) == key.Expires.IsZero() {
			t.Errorf("%+v", key.Expires)
		}
	}
	k.clock.pass(keyOverlap)
	if strings.Contains(string(k.s.Ring().JWKS()), before) {
		t.Error("it is still published")
	}
	k.s.Upkeep(t.Context())
	if all := k.signingKeys(); len(all) != 1 || all[0].ID == before {
		t.Errorf("%d keys", len(all))
	}
}

// TestTwoHubsShareKeys: what one hub signs the other accepts, also after either
// has rotated.
func TestTwoHubsShareKeys(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	other, http := k.open(k.cfg)
	if n := len(k.signingKeys()); n != 1 {
		t.Fatalf("%d keys", n)
	}
	me := func(access string) int {
		return k.callOn(http, "ann-laptop", "GET", "/auth/me", access, nil).code
	}
	if code := me(k.signIn("ann", "ann-laptop").AccessToken); code != 200 {
		t.Fatal(code)
	}
	k.ok(k.s.RotateSigningKey(t.Context(), "local:0"))
	k.clock.pass(ringLife) // the store is asked once a second
	if code := me(k.signIn("ann", "ann-laptop").AccessToken); code != 200 {
		t.Error(code)
	}
	k.ok(other.RotateSigningKey(t.Context(), "local:0"))
	k.clock.pass(ringLife)
	in := get[loginOut](k, k.callOn(http, "ann-laptop", "POST", "/auth/login", "", fields{"email": "ann@example.org", "password": secretWord}), 200)
	if !k.alive("ann-laptop", in.AccessToken) {
		t.Error("the first hub does not know the key")
	}
}

// TestSharedSecretForm: HS256 only if it is wanted, and even then on the
// session's own machine only, and as long as it lives.
func TestSharedSecretForm(t *testing.T) {
	k := newKit(t, func(c *Config) { c.HS256 = true })
	first := k.setUp()
	secret, err := k.s.SharedSecret(t.Context(), "local:0")
	k.ok(err)
	claims, err := token.VerifyHS256(secret, first.AccessToken, k.clock.now())
	k.ok(err)
	if claims.Subject != first.User.ID.String() || claims.Household != string(first.HouseholdID) || !claims.Superuser || claims.Email != "ann@example.org" {
		t.Errorf("%+v", claims)
	}
	k.want(k.call("ann-laptop", "GET", "/auth/me", first.AccessToken, nil), 200, "")
	k.want(k.call("thief", "GET", "/auth/me", first.AccessToken, nil), 401, "Invalid token")
	for _, id := range []string{"x", "x.y", "." + claims.ID} {
		forged := claims
		forged.ID = id
		raw, err := token.SignHS256(secret, forged)
		k.ok(err)
		k.want(k.call("ann-laptop", "GET", "/auth/me", raw, nil), 401, "Invalid token")
	}
	off := k.cfg
	off.HS256 = false
	_, http := k.open(off)
	k.want(k.callOn(http, "ann-laptop", "GET", "/auth/me", first.AccessToken, nil), 401, "Invalid token")
	k.clock.pass(AccessLife + time.Minute)
	k.want(k.call("ann-laptop", "GET", "/auth/me", first.AccessToken, nil), 401, "Token has expired")
	next := get[loginOut](k, k.refresh("ann-laptop", first.RefreshToken), 200)
	k.want(k.call("ann-laptop", "POST", "/auth/logout", "", fields{"refresh_token": next.RefreshToken}), 204, "")
	k.want(k.call("ann-laptop", "GET", "/auth/me", next.AccessToken, nil), 401, "Invalid token")
}
