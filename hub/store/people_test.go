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

func TestPeople(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		same(t, h.ann, account.User{ID: 1, Email: "ann@example.org", Username: "ann", Created: c.in(0).UTC()})
		seen(t, h.a, func(tx account.Tx) error {
			for _, email := range []string{"ann@example.org", "ANN@EXAMPLE.ORG", "Ann@Example.org"} {
				u, err := tx.UserByEmail(email)
				if err != nil || u.ID != h.ann.ID {
					t.Errorf("%s: %v, %v", email, u.ID, err)
				}
			}
			u, err := tx.UserByName("Ann")
			if err != nil || u.ID != h.ann.ID {
				t.Errorf("by name: %v, %v", u.ID, err)
			}
			list, err := tx.Users()
			same(t, list, []account.User{h.ann, h.bob})
			return err
		})
		// Nobody is found by the name that people without one have.
		for _, bad := range append(hostileIDs(), "nobody@example.org") {
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.UserByEmail(bad); return err })
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.UserByName(bad); return err })
		}
		changed := account.User{ID: h.bob.ID, Email: "Bób@example.org", Username: "bob", Superuser: true, MustChange: true,
			TempUntil: c.in(time.Hour).UTC(), Created: h.bob.Created}
		kept(t, h.a, func(tx account.Tx) error {
			if n, err := tx.CountSuperusers(); n != 0 || err != nil {
				t.Errorf("%d superusers, %v", n, err)
			}
			return tx.UpdateUser(changed)
		})
		kept(t, h.a, func(tx account.Tx) error {
			got, err := tx.UserByEmail("BÓB@example.org")
			same(t, got, changed)
			if n, err := tx.CountSuperusers(); n != 1 || err != nil {
				t.Errorf("%d superusers, %v", n, err)
			}
			return err
		})
		changed.Disabled = true
		kept(t, h.a, func(tx account.Tx) error { return tx.UpdateUser(changed) })
		kept(t, h.a, func(tx account.Tx) error {
			n, err := tx.CountSuperusers()
			same(t, n, 0)
			return err
		})
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.UserByEmail("bob@example.org"); return err })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { changed.ID = 99; return tx.UpdateUser(changed) })
	})
}

func TestPeopleRefused(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		create := func(u account.User, password string) func(account.Tx) error {
			return func(tx account.Tx) error { _, err := tx.CreateUser(u, password); return err }
		}
		for _, email := range []string{"", "ann", "@", "ann@", "@example.org", "an n@example.org", "ann@example.org\n", "ann\x00@example.org",
			"\xff@example.org", "a\u200bnn@example.org", strings.Repeat("a", 250) + "@example.org"} {
			turned(t, h.a, store.ErrInvalid, create(account.User{Email: email}, ""))
			turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { u := h.ann; u.Email = email; return tx.UpdateUser(u) })
		}
		turned(t, h.a, store.ErrInvalid, create(account.User{Email: "eve@example.org", Username: "E v e"}, ""))
		turned(t, h.a, store.ErrInvalid, create(account.User{Email: "eve@example.org"}, strings.Repeat("x", 2000)))
		// The Kelvin sign is a k to whoever reads it.
		kept(t, h.a, create(account.User{Email: "kim@example.org"}, ""))
		for _, email := range []string{"Ann@example.org", "\u212aim@example.org"} {
			turned(t, h.a, store.ErrExists, create(account.User{Email: email}, ""))
			turned(t, h.a, store.ErrExists, func(tx account.Tx) error { u := h.bob; u.Email = email; return tx.UpdateUser(u) })
		}
		turned(t, h.a, store.ErrExists, create(account.User{Email: "eve@example.org", Username: "ann"}, ""))
	})
}

// TestPeopleNumbers: what was refused or erased does not give its number away.
func TestPeopleNumbers(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		var eve, mia account.User
		kept(t, h.a, func(tx account.Tx) (err error) {
			eve, err = tx.CreateUser(account.User{Email: "eve@example.org"}, "")
			return err
		})
		kept(t, h.a, func(tx account.Tx) error {
			if err := tx.BeginErasure(eve.ID); err != nil {
				return err
			}
			return tx.FinishErasure(eve.ID)
		})
		kept(t, h.a, func(tx account.Tx) (err error) {
			mia, err = tx.CreateUser(account.User{Email: "eve@example.org"}, "")
			return err
		})
		if mia.ID <= eve.ID {
			t.Errorf("number %v comes after %v", mia.ID, eve.ID)
		}
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.User(eve.ID); return err })
	})
}

func TestSecrets(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		u := h.ann.ID
		read := func(want account.Secrets) {
			t.Helper()
			seen(t, h.a, func(tx account.Tx) error { got, err := tx.Secrets(u); same(t, got, want); return err })
		}
		read(account.Secrets{Password: "$argon2id$ann"})
		kept(t, h.a, func(tx account.Tx) error {
			if err := tx.SetPassword(u, "$argon2id$new"); err != nil {
				return err
			}
			return tx.SetTOTP(u, []byte("totp secret"), false, nil)
		})
		read(account.Secrets{Password: "$argon2id$new", TOTP: []byte("totp secret")})
		kept(t, h.a, func(tx account.Tx) error { return tx.UseStep(u, 100) })
		for _, old := range []int64{100, 99, 0, -1} {
			turned(t, h.a, store.ErrConflict, func(tx account.Tx) error { return tx.UseStep(u, old) })
		}
		// Confirming keeps the step that was used to confirm.
		kept(t, h.a, func(tx account.Tx) error {
			return tx.SetTOTP(u, []byte("totp secret"), true, [][]byte{hashOf("one"), hashOf("two")})
		})
		read(account.Secrets{Password: "$argon2id$new", TOTP: []byte("totp secret"), Confirmed: true, LastStep: 100})
		kept(t, h.a, func(tx account.Tx) error { return tx.UseRecovery(u, hashOf("one")) })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.UseRecovery(u, hashOf("one")) })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.UseRecovery(h.bob.ID, hashOf("two")) })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.UseRecovery(u, nil) })
		kept(t, h.a, func(tx account.Tx) error { return tx.SetTOTP(u, nil, false, nil) })
		read(account.Secrets{Password: "$argon2id$new"})
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.UseRecovery(u, hashOf("two")) })
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.SetTOTP(u, nil, true, nil) })
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.SetTOTP(u, []byte("x"), true, [][]byte{{1}}) })
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.SetPassword(u, "a\x00b") })
		for _, err := range []func(account.Tx) error{
			func(tx account.Tx) error { return tx.SetPassword(99, "x") },
			func(tx account.Tx) error { return tx.SetTOTP(99, []byte("x"), false, nil) },
			func(tx account.Tx) error { return tx.UseStep(99, 1) },
			func(tx account.Tx) error { _, err := tx.Secrets(99); return err },
		} {
			turned(t, h.a, store.ErrNotFound, err)
		}
	})
}

func TestPasskeys(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		k := account.Passkey{ID: []byte("\x00cred"), User: h.ann.ID, Name: "phone", Record: []byte(`{"a":1}`), Created: c.in(0).UTC()}
		kept(t, h.a, func(tx account.Tx) error { return tx.PutPasskey(k) })
		k.LastUsed, k.Record = c.in(time.Minute).UTC(), []byte(`{"a":2}`)
		kept(t, h.a, func(tx account.Tx) error { return tx.PutPasskey(k) })
		seen(t, h.a, func(tx account.Tx) error {
			got, err := tx.PasskeyByID(k.ID)
			same(t, got, k)
			list, err2 := tx.Passkeys(h.ann.ID)
			same(t, list, []account.Passkey{k})
			if list, _ := tx.Passkeys(h.bob.ID); len(list) != 0 {
				t.Errorf("bob has %v", list)
			}
			return firstError(err, err2)
		})
		stolen := k
		stolen.User = h.bob.ID
		turned(t, h.a, store.ErrExists, func(tx account.Tx) error { return tx.PutPasskey(stolen) })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.DeletePasskey(h.bob.ID, k.ID) })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.PasskeyByID([]byte("x")); return err })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.PasskeyByID(nil); return err })
		for _, bad := range []account.Passkey{{User: 1, Record: []byte("x")}, {User: 1, ID: []byte("x")}, {User: 1, ID: make([]byte, 2000), Record: []byte("x")},
			{User: 1, ID: []byte("x"), Record: make([]byte, 1<<20)}, {User: 1, ID: []byte("x"), Record: []byte("x"), Name: "a\nb"}} {
			turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.PutPasskey(bad) })
		}
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error {
			return tx.PutPasskey(account.Passkey{ID: []byte("x"), User: 99, Record: []byte("x")})
		})
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error {
			for i := range 40 {
				if err := tx.PutPasskey(account.Passkey{ID: fmt.Append(nil, i), User: h.bob.ID, Record: []byte("x")}); err != nil {
					return err
				}
			}
			return nil
		})
		kept(t, h.a, func(tx account.Tx) error { return tx.DeletePasskey(h.ann.ID, k.ID) })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.DeletePasskey(h.ann.ID, k.ID) })
	})
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestFailures(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		count := func(key string) (n int, last time.Time) {
			seen(t, h.a, func(tx account.Tx) (err error) { n, last, err = tx.Failures(key); return err })
			return n, last
		}
		key := "user:\x00\xff" + strings.Repeat("x", 10_000)
		for range 3 {
			kept(t, h.a, func(tx account.Tx) error { return tx.Fail(key) })
			c.pass(time.Second)
		}
		if n, last := count(key); n != 3 || !last.Equal(c.in(-time.Second)) {
			t.Errorf("%d failures, the last at %v", n, last)
		}
		if n, last := count("user:"); n != 0 || !last.IsZero() {
			t.Errorf("another key has %d failures", n)
		}
		kept(t, h.a, func(tx account.Tx) error {
			if err := tx.Fail("peer:p-1"); err != nil {
				return err
			}
			return tx.Forgive(key)
		})
		if n, _ := count(key); n != 0 {
			t.Errorf("%d failures after Forgive", n)
		}
		kept(t, h.a, func(tx account.Tx) error { return tx.ForgetFailures(c.in(0)) })
		if n, _ := count("peer:p-1"); n != 1 {
			t.Errorf("a fresh failure was forgotten")
		}
		kept(t, h.a, func(tx account.Tx) error { return tx.ForgetFailures(c.in(1)) })
		if n, _ := count("peer:p-1"); n != 0 {
			t.Errorf("an old failure is remembered")
		}
	})
}

// TestFailuresBounded: whoever fails under many names fills nothing, and the
// bound takes the oldest.
func TestFailuresBounded(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		kept(t, h.a, func(tx account.Tx) error { return tx.Fail("oldest") })
		c.pass(time.Second)
		// The rows that came in between, as Fail would have written them.
		if err := store.FillFailures(t.Context(), h.a, store.MaxFailures-1, c.in(0)); err != nil {
			t.Fatal(err)
		}
		c.pass(time.Second)
		for _, key := range []string{"one", "two"} {
			kept(t, h.a, func(tx account.Tx) error { return tx.Fail(key) })
		}
		seen(t, h.a, func(tx account.Tx) error {
			for key, want := range map[string]int{"oldest": 0, "one": 1, "two": 1} {
				if n, _, err := tx.Failures(key); n != want || err != nil {
					t.Errorf("%s: %d failures, %v", key, n, err)
				}
			}
			return nil
		})
	})
}

func TestKnownMachines(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		for i := range store.MaxKnown + 1 {
			kept(t, h.a, func(tx account.Tx) error { return tx.Know(h.ann.ID, peer.ID(fmt.Sprintf("p-%d", i))) })
			c.pass(time.Second)
		}
		seen(t, h.a, func(tx account.Tx) error {
			for id, want := range map[peer.ID]bool{"p-0": false, "p-1": true, "p-64": true, "p-65": false, "": false, "\xff": false} {
				if got, err := tx.Knows(h.ann.ID, id); got != want || err != nil {
					t.Errorf("knows %q: %v, %v", id, got, err)
				}
			}
			got, err := tx.Knows(h.bob.ID, "p-5")
			same(t, got, false)
			return err
		})
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.Know(99, "p-1") })
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.Know(h.ann.ID, "") })
	})
}
