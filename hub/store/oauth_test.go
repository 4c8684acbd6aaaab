package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

func TestClients(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		k := account.Client{ID: "phone", Name: "Phone", Redirects: []string{"http://127.0.0.1/cb", "app:/cb"}, SecretDigest: hashOf("s"), Device: true}
		kept(t, h.a, func(tx account.Tx) error { return tx.PutClient(k) })
		k.Created = c.in(0).UTC()
		read := func() {
			t.Helper()
			seen(t, h.a, func(tx account.Tx) error { got, err := tx.Client("phone"); same(t, got, k); return err })
		}
		read()
		c.pass(time.Second)
		changed := account.Client{ID: "phone", Name: "Other", FirstParty: true, Created: c.in(0)}
		kept(t, h.a, func(tx account.Tx) error { return tx.PutClient(changed) })
		k = account.Client{ID: "phone", Name: "Other", FirstParty: true, Created: k.Created}
		read()
		held := h.session("held", c)
		held.Client = "phone"
		kept(t, h.a, func(tx account.Tx) error {
			list, err := tx.Clients()
			if len(list) != 2 || list[0].ID != "console" || list[1].ID != "phone" {
				t.Errorf("the clients are %+v", list)
			}
			return firstError(err, tx.CreateSession(held), tx.CreateSession(h.session("other", c)),
				tx.CreateAuthRequest(account.AuthRequest{ID: "r", Client: "phone", Peer: "p", Key: h.key, Expires: c.in(time.Hour)}))
		})
		kept(t, h.a, func(tx account.Tx) error { return tx.DeleteClient("phone") })
		seen(t, h.a, func(tx account.Tx) error {
			gone, err := tx.Session("held")
			stays, err2 := tx.Session("other")
			if gone.Revoked.IsZero() || !stays.Revoked.IsZero() {
				t.Errorf("the client's session: %v, another's: %v", gone.Revoked, stays.Revoked)
			}
			return firstError(err, err2)
		})
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.AuthRequest("r"); return err })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.Client("phone"); return err })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.DeleteClient("phone") })
		for _, bad := range notMachineIDs() {
			turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.PutClient(account.Client{ID: bad}) })
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.Client(bad); return err })
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.DeleteClient(bad) })
		}
		for _, bad := range []account.Client{{Name: "a\x00"}, {Redirects: []string{""}}, {Redirects: []string{strings.Repeat("x", 3000)}},
			{Redirects: strings.Split(strings.Repeat("x,", 40), ",")}, {SecretDigest: []byte("plain")}} {
			bad.ID = "x"
			turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.PutClient(bad) })
		}
	})
}

// request is an authorization request that lasts ten minutes.
func (h *home) request(id string, c *clock) account.AuthRequest {
	return account.AuthRequest{ID: id, Client: "console", Redirect: "https://console.warren.internal/cb", State: "st", Nonce: "n", Scope: "openid",
		Challenge: "ch", Peer: "p-laptop", Key: h.key, Created: c.in(0).UTC(), Expires: c.in(10 * time.Minute).UTC()}
}

func TestAuthRequests(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		r := h.request("r", c)
		r.Methods = []string{}
		kept(t, h.a, func(tx account.Tx) error { return tx.CreateAuthRequest(r) })
		read := func() {
			t.Helper()
			seen(t, h.a, func(tx account.Tx) error { got, err := tx.AuthRequest("r"); same(t, got, r); return err })
		}
		read()
		agree := func(tx account.Tx) error {
			return tx.Agree("r", h.ann.ID, h.household.ID, c.in(0), []string{"pwd", "otp"})
		}
		code := func(tx account.Tx) error { return tx.SetCode("r", hashOf("code"), c.in(time.Minute)) }
		redeem := func(tx account.Tx) error { return tx.RedeemCode(hashOf("code"), "session") }
		// One step after the other, and each once.
		turned(t, h.a, store.ErrConflict, code)
		turned(t, h.a, store.ErrNotFound, redeem)
		kept(t, h.a, agree)
		r.User, r.Household, r.AuthTime, r.Methods = h.ann.ID, h.household.ID, c.in(0).UTC(), []string{"pwd", "otp"}
		read()
		turned(t, h.a, store.ErrConflict, agree)
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error { return tx.Agree("r", h.bob.ID, "", c.in(0), nil) })
		kept(t, h.a, code)
		r.CodeHash, r.Expires = hashOf("code"), c.in(time.Minute).UTC()
		turned(t, h.a, store.ErrConflict, code)
		kept(t, h.a, redeem)
		r.Redeemed, r.Session = c.in(0).UTC(), "session"
		turned(t, h.a, store.ErrConflict, redeem)
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error { return tx.RedeemCode(hashOf("code"), "thief") })
		seen(t, h.a, func(tx account.Tx) error {
			got, err := tx.AuthRequestByCode(hashOf("code"))
			same(t, got, r)
			return err
		})
		for _, bad := range [][]byte{nil, {}, hashOf("other")} {
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.AuthRequestByCode(bad); return err })
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.RedeemCode(bad, "s") })
		}
		kept(t, h.a, func(tx account.Tx) error {
			return firstError(tx.DeleteAuthRequest("r"), tx.DeleteAuthRequest("r"), tx.DeleteAuthRequest("\x00"))
		})
		turned(t, h.a, store.ErrNotFound, redeem)
	})
}

func TestAuthRequestsExpire(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		kept(t, h.a, func(tx account.Tx) error {
			return firstError(tx.CreateAuthRequest(h.request("open", c)),
				tx.CreateAuthRequest(h.request("agreed", c)), tx.Agree("agreed", h.ann.ID, "", c.in(0), nil),
				tx.CreateAuthRequest(h.request("coded", c)), tx.Agree("coded", h.ann.ID, "", c.in(0), nil), tx.SetCode("coded", hashOf("code"), c.in(time.Minute)))
		})
		c.pass(time.Minute)
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error { return tx.RedeemCode(hashOf("code"), "s") })
		c.pass(9 * time.Minute)
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error { return tx.Agree("open", h.ann.ID, "", c.in(0), nil) })
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error { return tx.SetCode("agreed", hashOf("x"), c.in(time.Minute)) })
		kept(t, h.a, func(tx account.Tx) error { return tx.PruneOAuth(c.in(1)) })
		for _, id := range []string{"open", "agreed", "coded"} {
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.AuthRequest(id); return err })
		}
	})
}

func TestAuthRequestsRefused(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		long := strings.Repeat("x", 3000)
		for name, bad := range map[string]func(*account.AuthRequest){
			"no id":     func(r *account.AuthRequest) { r.ID = "" },
			"no peer":   func(r *account.AuthRequest) { r.Peer = "" },
			"no key":    func(r *account.AuthRequest) { r.Key = peer.PublicKey{} },
			"redirect":  func(r *account.AuthRequest) { r.Redirect = long },
			"state":     func(r *account.AuthRequest) { r.State = long },
			"nonce":     func(r *account.AuthRequest) { r.Nonce = "\x00" },
			"scope":     func(r *account.AuthRequest) { r.Scope = "\xff" },
			"challenge": func(r *account.AuthRequest) { r.Challenge = long },
			"agreed":    func(r *account.AuthRequest) { r.User = h.ann.ID },
			"coded":     func(r *account.AuthRequest) { r.CodeHash = hashOf("x") },
			"redeemed":  func(r *account.AuthRequest) { r.Redeemed = c.in(0) },
			"expired":   func(r *account.AuthRequest) { r.Expires = c.in(0) },
		} {
			t.Run(name, func(t *testing.T) {
				r := h.request("r", c)
				bad(&r)
				turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.CreateAuthRequest(r) })
			})
		}
		r := h.request("r", c)
		r.Client = "nobody"
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.CreateAuthRequest(r) })
		for _, id := range append(hostileIDs(), "r") {
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.AuthRequest(id); return err })
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.Agree(id, h.ann.ID, "", c.in(0), nil) })
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.SetCode(id, hashOf("x"), c.in(time.Minute)) })
		}
		kept(t, h.a, func(tx account.Tx) error { return tx.CreateAuthRequest(h.request("r", c)) })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.Agree("r", 0, "", c.in(0), nil) })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.Agree("r", h.ann.ID, "nowhere", c.in(0), nil) })
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.Agree("r", h.ann.ID, "", c.in(0), []string{" "}) })
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.SetCode("r", []byte("x"), c.in(time.Minute)) })
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.RedeemCode(hashOf("x"), "") })
	})
}

// TestAuthRequestsBounded: one machine that asks without end pushes out its own
// requests, and nobody else's.
func TestAuthRequestsBounded(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		other := h.request("other", c)
		other.Peer = "p-phone"
		kept(t, h.a, func(tx account.Tx) error { return tx.CreateAuthRequest(other) })
		for i := range store.MaxRequests + 1 {
			r := h.request(fmt.Sprint(i), c)
			r.Created = c.in(time.Duration(i))
			kept(t, h.a, func(tx account.Tx) error { return tx.CreateAuthRequest(r) })
		}
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.AuthRequest("0"); return err })
		seen(t, h.a, func(tx account.Tx) error {
			_, err := tx.AuthRequest("1")
			_, err2 := tx.AuthRequest("other")
			return firstError(err, err2)
		})
	})
}

// TestJ12_CodeOnce: of 32 who come with one code at once, one gets a session;
// and of two who agree at once, one did.
func TestJ12_CodeOnce(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		kept(t, h.a, func(tx account.Tx) error { return tx.CreateAuthRequest(h.request("r", c)) })
		same(t, race(t, h.a, func(tx account.Tx, i int) error { return tx.Agree("r", h.ann.ID, "", c.in(0), nil) }), 1)
		same(t, race(t, h.a, func(tx account.Tx, i int) error { return tx.SetCode("r", hashOf("code"), c.in(time.Minute)) }), 1)
		same(t, race(t, h.a, func(tx account.Tx, i int) error { return tx.RedeemCode(hashOf("code"), fmt.Sprint("s", i)) }), 1)
	})
}
