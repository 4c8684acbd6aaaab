package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// session is one of ann's that lives for an hour.
func (h *home) session(id string, c *clock) account.Session {
	return account.Session{ID: id, User: h.ann.ID, Peer: "p-laptop", Key: h.key, Household: h.household.ID, Client: "console",
		Scope: "openid offline_access", Nonce: "n", AuthTime: c.in(-time.Minute).UTC(), Methods: []string{"pwd", "otp"},
		Created: c.in(0).UTC(), Expires: c.in(time.Hour).UTC()}
}

func TestSessions(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		first := h.session("first", c)
		c.pass(time.Second)
		second := h.session("second", c)
		kept(t, h.a, func(tx account.Tx) error { return firstError(tx.CreateSession(first), tx.CreateSession(second)) })
		read := func(id string, want account.Session) {
			t.Helper()
			seen(t, h.a, func(tx account.Tx) error { got, err := tx.Session(id); same(t, got, want); return err })
		}
		live := func(want ...account.Session) {
			t.Helper()
			seen(t, h.a, func(tx account.Tx) error { got, err := tx.SessionsOf(h.ann.ID); same(t, got, want); return err })
		}
		read("first", first)
		live(second, first)
		first.Household, first.Expires = "", c.in(2*time.Hour).UTC()
		kept(t, h.a, func(tx account.Tx) error {
			return firstError(tx.SetSessionHousehold("first", ""), tx.ExtendSession("first", first.Expires))
		})
		read("first", first)
		second.Revoked, second.Why = c.in(0).UTC(), "signed out"
		kept(t, h.a, func(tx account.Tx) error { return tx.RevokeSession("second", "signed out") })
		c.pass(time.Second)
		kept(t, h.a, func(tx account.Tx) error { return tx.RevokeSession("second", "other") })
		read("second", second)
		live(first)
		// What has ended stays so.
		for _, try := range []func(account.Tx) error{
			func(tx account.Tx) error { return tx.SetSessionHousehold("second", "") },
			func(tx account.Tx) error { return tx.ExtendSession("second", c.in(time.Hour)) },
			func(tx account.Tx) error {
				return tx.AddRefresh(account.Refresh{Hash: hashOf("r"), Session: "second", Expires: c.in(time.Hour)})
			},
		} {
			turned(t, h.a, store.ErrConflict, try)
		}
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.SetSessionHousehold("first", "nowhere") })
		for _, bad := range append(hostileIDs(), "third") {
			for _, try := range []func(account.Tx) error{
				func(tx account.Tx) error { _, err := tx.Session(bad); return err },
				func(tx account.Tx) error { return tx.SetSessionHousehold(bad, "") },
				func(tx account.Tx) error { return tx.ExtendSession(bad, c.in(time.Hour)) },
				func(tx account.Tx) error { return tx.RevokeSession(bad, "x") },
				func(tx account.Tx) error {
					return tx.AddRefresh(account.Refresh{Hash: hashOf("r"), Session: bad, Expires: c.in(time.Hour)})
				},
			} {
				turned(t, h.a, store.ErrNotFound, try)
			}
		}
		c.pass(2 * time.Hour)
		live()
	})
}

func TestSessionsRefused(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		for name, test := range map[string]struct {
			change func(*account.Session)
			want   error
		}{
			"no id":          {func(v *account.Session) { v.ID = "" }, store.ErrInvalid},
			"no machine":     {func(v *account.Session) { v.Peer = "" }, store.ErrInvalid},
			"no key":         {func(v *account.Session) { v.Key = peer.PublicKey{} }, store.ErrInvalid},
			"expired":        {func(v *account.Session) { v.Expires = c.in(0) }, store.ErrInvalid},
			"revoked":        {func(v *account.Session) { v.Revoked = c.in(0) }, store.ErrInvalid},
			"long scope":     {func(v *account.Session) { v.Scope = strings.Repeat("x", 3000) }, store.ErrInvalid},
			"NUL in nonce":   {func(v *account.Session) { v.Nonce = "\x00" }, store.ErrInvalid},
			"bad method":     {func(v *account.Session) { v.Methods = []string{"a b"} }, store.ErrInvalid},
			"empty method":   {func(v *account.Session) { v.Methods = []string{""} }, store.ErrInvalid},
			"nobody":         {func(v *account.Session) { v.User = 99 }, store.ErrNotFound},
			"no household":   {func(v *account.Session) { v.Household = "nowhere" }, store.ErrNotFound},
			"the same again": {func(v *account.Session) { v.ID = "taken" }, store.ErrExists},
		} {
			t.Run(name, func(t *testing.T) {
				if test.want == store.ErrExists {
					kept(t, h.a, func(tx account.Tx) error { return tx.CreateSession(h.session("taken", c)) })
				}
				v := h.session("s", c)
				test.change(&v)
				turned(t, h.a, test.want, func(tx account.Tx) error { return tx.CreateSession(v) })
			})
		}
	})
}

func TestRevokeSessions(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		bobs := h.session("bobs", c)
		bobs.User = h.bob.ID
		kept(t, h.a, func(tx account.Tx) error {
			return firstError(tx.CreateSession(h.session("a", c)), tx.CreateSession(h.session("b", c)), tx.CreateSession(h.session("c", c)),
				tx.CreateSession(bobs), tx.RevokeSession("c", "before"))
		})
		revoke := func(except string, want int) {
			t.Helper()
			kept(t, h.a, func(tx account.Tx) error {
				n, err := tx.RevokeSessions(h.ann.ID, except, "password changed")
				same(t, n, want)
				return err
			})
		}
		revoke("b", 1)
		revoke("b", 0)
		seen(t, h.a, func(tx account.Tx) error {
			a, err := tx.Session("a")
			b, err2 := tx.Session("b")
			other, err3 := tx.Session("bobs")
			before, err4 := tx.Session("c")
			if a.Why != "password changed" || a.Revoked.IsZero() || !b.Revoked.IsZero() || !other.Revoked.IsZero() || before.Why != "before" {
				t.Errorf("%+v %+v %+v %+v", a, b, other, before)
			}
			return firstError(err, err2, err3, err4)
		})
		// An id that cannot be anybody's spares nobody.
		revoke("\x00", 1)
	})
}

func TestRefresh(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		r := account.Refresh{Hash: hashOf("r"), Session: "s", Issued: c.in(0).UTC(), Expires: c.in(time.Hour).UTC()}
		kept(t, h.a, func(tx account.Tx) error { return firstError(tx.CreateSession(h.session("s", c)), tx.AddRefresh(r)) })
		read := func() {
			t.Helper()
			seen(t, h.a, func(tx account.Tx) error { got, err := tx.Refresh(r.Hash); same(t, got, r); return err })
		}
		read()
		c.pass(time.Second)
		kept(t, h.a, func(tx account.Tx) error { return tx.UseRefresh(r.Hash, hashOf("next")) })
		r.Successor, r.Used = hashOf("next"), c.in(0).UTC()
		read()
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error { return tx.UseRefresh(r.Hash, hashOf("next")) })
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error { return tx.UseRefresh(r.Hash, hashOf("mine")) })
		read()
		for _, bad := range [][]byte{nil, {}, hashOf("other"), r.Hash[:31]} {
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.Refresh(bad); return err })
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.UseRefresh(bad, hashOf("x")) })
		}
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.UseRefresh(r.Hash, nil) })
		turned(t, h.a, store.ErrExists, func(tx account.Tx) error {
			return tx.AddRefresh(account.Refresh{Hash: r.Hash, Session: "s", Expires: r.Expires})
		})
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.AddRefresh(account.Refresh{Hash: []byte("short"), Session: "s"}) })
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error {
			return tx.AddRefresh(account.Refresh{Hash: hashOf("x"), Session: "s", Successor: hashOf("y")})
		})
	})
}

// TestJ11_RefreshOnce: of 32 who come with one refresh token at once, one gets
// the successor.
func TestJ11_RefreshOnce(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		kept(t, h.a, func(tx account.Tx) error {
			return firstError(tx.CreateSession(h.session("s", c)), tx.AddRefresh(account.Refresh{Hash: hashOf("r"), Session: "s", Expires: c.in(time.Hour)}))
		})
		same(t, race(t, h.a, func(tx account.Tx, i int) error { return tx.UseRefresh(hashOf("r"), hashOf(string(rune('a'+i)))) }), 1)
	})
}

// TestJ11_RefreshOnceAtTwoHubs is the same with two hubs on one database, which
// have to agree on the digests too.
func TestJ11_RefreshOnceAtTwoHubs(t *testing.T) {
	cfg := storetest.PostgresConfig(t)
	c := newClock(&cfg)
	first := storetest.Create(t, cfg)
	second, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	h := newHome(t, first, c.in(0))
	kept(t, h.a, func(tx account.Tx) error {
		return firstError(tx.CreateSession(h.session("s", c)), tx.AddRefresh(account.Refresh{Hash: hashOf("r"), Session: "s", Expires: c.in(time.Hour)}))
	})
	use := func(tx account.Tx, i int) error { return tx.UseRefresh(hashOf("r"), hashOf(string(rune('a'+i)))) }
	won := make(chan int, 2)
	for _, s := range []*store.Store{first, second} {
		go func() { won <- race(t, s.Accounts(), use) }()
	}
	same(t, <-won+<-won, 1)
	var digests [2][]byte
	for i, s := range []*store.Store{first, second} {
		seen(t, s.Accounts(), func(tx account.Tx) error { digests[i] = tx.Digest("node", []byte("k")); return nil })
	}
	same(t, digests[0], digests[1])
}

func TestPruneSessions(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		gone, long := h.session("gone", c), h.session("long", c)
		long.Expires = c.in(100 * time.Hour).UTC()
		kept(t, h.a, func(tx account.Tx) error {
			return firstError(tx.CreateSession(gone), tx.CreateSession(long), tx.CreateSession(h.session("revoked", c)), tx.RevokeSession("revoked", "x"),
				tx.ExtendSession("gone", c.in(time.Minute)),
				tx.AddRefresh(account.Refresh{Hash: hashOf("gone"), Session: "gone", Expires: c.in(99 * time.Hour)}),
				tx.AddRefresh(account.Refresh{Hash: hashOf("old"), Session: "long", Expires: c.in(time.Minute)}),
				tx.AddRefresh(account.Refresh{Hash: hashOf("new"), Session: "long", Expires: c.in(time.Hour)}),
				tx.CreateInvitation(account.Invitation{ID: "v", Household: h.household.ID, CodeHash: hashOf("v"), Role: account.Member, Expires: c.in(time.Minute)}))
		})
		c.pass(30 * time.Minute)
		kept(t, h.a, func(tx account.Tx) error { return tx.PruneSessions(c.in(0)) })
		seen(t, h.a, func(tx account.Tx) error {
			_, err := tx.Session("long")
			_, err2 := tx.Refresh(hashOf("new"))
			return firstError(err, err2)
		})
		for _, try := range []func(account.Tx) error{
			func(tx account.Tx) error { _, err := tx.Session("gone"); return err },
			func(tx account.Tx) error { _, err := tx.Session("revoked"); return err },
			func(tx account.Tx) error { _, err := tx.Refresh(hashOf("gone")); return err },
			func(tx account.Tx) error { _, err := tx.Refresh(hashOf("old")); return err },
			func(tx account.Tx) error { _, err := tx.InvitationByCode(hashOf("v")); return err },
		} {
			turned(t, h.a, store.ErrNotFound, try)
		}
	})
}
