package store_test

import (
	"crypto/sha256"
	"errors"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

var someAccountEvent = account.Event{Actor: "user:1", Action: "test"}

// kept runs fn on a store's accounts and must succeed.
func kept(t testing.TB, a account.Store, fn func(account.Tx) error) {
	t.Helper()
	if err := a.Do(t.Context(), someAccountEvent, fn); err != nil {
		t.Fatal(err)
	}
}

// turned runs fn, which must fail with want.
func turned(t testing.TB, a account.Store, want error, fn func(account.Tx) error) {
	t.Helper()
	err := a.Do(t.Context(), someAccountEvent, fn)
	if !errors.Is(err, want) {
		t.Errorf("got %.300v, want %v", err, want)
	}
	if err != nil && len(err.Error()) > 400 {
		t.Errorf("the error is %d bytes long", len(err.Error()))
	}
}

// seen runs fn on one picture and must succeed.
func seen(t testing.TB, a account.Store, fn func(account.Tx) error) {
	t.Helper()
	if err := a.View(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// same compares what was read with what it should be.
func same[T any](t testing.TB, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func hashOf(s string) []byte {
	h := sha256.Sum256([]byte(s))
	return h[:]
}

// home is a household with two people in it and a client.
type home struct {
	a         account.Store
	ann, bob  account.User
	household account.Household
	key       peer.PublicKey
	at        time.Time
}

func newHome(t testing.TB, s *store.Store, now time.Time) *home {
	t.Helper()
	h := &home{a: s.Accounts(), at: now.UTC()}
	h.key, _ = newKeys(t)
	kept(t, h.a, func(tx account.Tx) (err error) {
		if h.ann, err = tx.CreateUser(account.User{Email: "ann@example.org", Username: "ann"}, "$argon2id$ann"); err != nil {
			return err
		}
		if h.bob, err = tx.CreateUser(account.User{Email: "bob@example.org"}, ""); err != nil {
			return err
		}
		if h.household, err = tx.CreateHousehold(account.Household{Name: "Home", Label: "home"}); err != nil {
			return err
		}
		for u, role := range map[account.UserID]account.Role{h.ann.ID: account.Admin, h.bob.ID: account.Member} {
			if err := tx.PutMembership(account.Membership{Household: h.household.ID, User: u, Role: role}); err != nil {
				return err
			}
		}
		return tx.PutClient(account.Client{ID: "console", Name: "Console", Redirects: []string{"https://console.warren.internal/cb"}})
	})
	return h
}

// eachHome runs test on both engines, with a clock.
func eachHome(t *testing.T, test func(t *testing.T, h *home, c *clock)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		c := newClock(&cfg)
		test(t, newHome(t, storetest.Create(t, cfg), c.in(0)), c)
	})
}

func TestAccountsRecord(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		a := s.Accounts()
		before := auditCount(t, s)
		kept(t, a, func(tx account.Tx) error { return tx.Record(account.Event{Actor: "hub", Action: "further"}) })
		broken := errors.New("broken")
		turned(t, a, broken, func(tx account.Tx) error {
			if _, err := tx.CreateHousehold(account.Household{Name: "gone"}); err != nil {
				return err
			}
			return broken
		})
		if err := a.Keep(t.Context(), func(tx account.Tx) error { return tx.Fail("x") }); err != nil {
			t.Fatal(err)
		}
		var last []audit.Entry
		if err := s.View(t.Context(), func(tx *store.Tx) (err error) {
			last, err = tx.AuditEntries(before+1, 10)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if len(last) != 2 || last[0].Action != "further" || last[1].Action != "test" || last[1].Actor != "user:1" {
			t.Errorf("the audit log has %+v", last)
		}
		seen(t, a, func(tx account.Tx) error {
			list, err := tx.AllHouseholds()
			if len(list) != 0 {
				t.Errorf("what failed left %v", list)
			}
			return err
		})
	})
}

func auditCount(t testing.TB, s *store.Store) (n uint64) {
	t.Helper()
	if err := s.View(t.Context(), func(tx *store.Tx) error {
		head, err := tx.AuditHead()
		n = head.Count
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAccountsViewOnlyReads calls everything that writes in a View.
func TestAccountsViewOnlyReads(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		later := c.in(time.Hour)
		session := account.Session{ID: "s", User: h.ann.ID, Peer: "p-1", Key: h.key, Expires: later}
		for name, write := range map[string]func(account.Tx) error{
			"CreateUser": func(tx account.Tx) error {
				_, err := tx.CreateUser(account.User{Email: "eve@example.org"}, "")
				return err
			},
			"UpdateUser":       func(tx account.Tx) error { return tx.UpdateUser(h.ann) },
			"SetPassword":      func(tx account.Tx) error { return tx.SetPassword(h.ann.ID, "x") },
			"SetTOTP":          func(tx account.Tx) error { return tx.SetTOTP(h.ann.ID, []byte("x"), true, nil) },
			"UseStep":          func(tx account.Tx) error { return tx.UseStep(h.ann.ID, 9) },
			"Fail":             func(tx account.Tx) error { return tx.Fail("x") },
			"DeleteMembership": func(tx account.Tx) error { return tx.DeleteMembership(h.household.ID, h.ann.ID) },
			"DeleteHousehold":  func(tx account.Tx) error { return tx.DeleteHousehold(h.household.ID) },
			"CreateSession":    func(tx account.Tx) error { return tx.CreateSession(session) },
			"RevokeSessions":   func(tx account.Tx) error { _, err := tx.RevokeSessions(h.ann.ID, "", "x"); return err },
			"CreateNode":       func(tx account.Tx) error { return tx.CreateNode(account.Node{ID: "n", Household: h.household.ID}) },
			"CreateApp":        func(tx account.Tx) error { return tx.CreateApp(account.App{ID: "a"}) },
			"PutClient":        func(tx account.Tx) error { return tx.PutClient(account.Client{ID: "c"}) },
			"DeleteSigningKey": func(tx account.Tx) error { return tx.DeleteSigningKey("x") },
			"Record":           func(tx account.Tx) error { return tx.Record(someAccountEvent) },
			"BeginErasure":     func(tx account.Tx) error { return tx.BeginErasure(h.ann.ID) },
		} {
			if err := h.a.View(t.Context(), write); err == nil || errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s in a View: %v", name, err)
			}
		}
		seen(t, h.a, func(tx account.Tx) error {
			_, err := tx.Secret("not a name")
			if !errors.Is(err, store.ErrInvalid) {
				t.Errorf("a secret without a proper name: %v", err)
			}
			_, err = tx.Secret("new")
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("a secret in a View: %v", err)
			}
			return nil
		})
	})
}

func TestAccountsSecretsAndDigests(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		a := s.Accounts()
		do(t, s, func(tx *store.Tx) error { return tx.SetSecret("hub", []byte("the hub's own")) })
		var before, digest, refresh []byte
		// Nothing has been digested: nothing may match.
		seen(t, a, func(tx account.Tx) error { before = tx.Digest("node", []byte("k")); return nil })
		kept(t, a, func(tx account.Tx) (err error) {
			digest = tx.Digest("node", []byte("k"))
			if reflect.DeepEqual(digest, tx.Digest("nod", []byte("ek"))) || reflect.DeepEqual(digest, tx.Digest("app", []byte("k"))) {
				t.Error("two purposes have one digest")
			}
			refresh, err = tx.Secret("refresh")
			if err != nil {
				return err
			}
			other, err := tx.Secret("hub")
			if string(other) == "the hub's own" || reflect.DeepEqual(other, refresh) {
				t.Errorf("the account service reads another's secret")
			}
			return err
		})
		if reflect.DeepEqual(before, digest) || len(digest) != 32 || len(refresh) != 32 {
			t.Errorf("digests of %d bytes, secret of %d", len(digest), len(refresh))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := store.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		seen(t, again.Accounts(), func(tx account.Tx) error {
			same(t, tx.Digest("node", []byte("k")), digest)
			got, err := tx.Secret("refresh")
			same(t, got, refresh)
			return err
		})
	})
}

// race lets 32 do the same at once and returns how many succeeded; the others
// must fail with ErrConflict.
func race(t *testing.T, a account.Store, try func(tx account.Tx, i int) error) int {
	t.Helper()
	var wg sync.WaitGroup
	var won atomic.Int64
	for i := range 32 {
		wg.Go(func() {
			err := a.Do(t.Context(), someAccountEvent, func(tx account.Tx) error { return try(tx, i) })
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, store.ErrConflict):
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	wg.Wait()
	return int(won.Load())
}

// hostileIDs are ids and names that nothing has.
func hostileIDs() []string {
	return []string{"", " ", "a\x00b", "\xff", "x'; DROP TABLE users; --", "%", strings.Repeat("k", 1<<16)}
}
