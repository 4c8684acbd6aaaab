package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer/account"
)

// TestRecords puts, replaces, lists and removes.
func TestRecords(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		clock := newClock(&cfg)
		s := storetest.Create(t, cfg)
		ann, _ := village(t, s)
		put := func(id, body string, at time.Time) {
			t.Helper()
			change(t, s, ann.scope(), func(sc account.Scoped) error {
				return sc.PutRecord(account.Record{Kind: account.Memory, ID: id, User: ann.person, At: at, Body: []byte(body)})
			})
		}
		put("a", "one", clock.in(-3*time.Hour))
		put("b", "two", clock.in(-2*time.Hour))
		put("c", "three", clock.in(-time.Hour))
		put("b", "again", clock.in(0))
		change(t, s, ann.personal(), func(sc account.Scoped) error {
			list, err1 := sc.Records(account.Memory, ann.person, clock.in(-90*time.Minute), 10)
			one, err2 := sc.Records(account.Memory, 0, time.Time{}, 1)
			if len(list) != 2 || list[0].ID != "b" || string(list[0].Body) != "again" || list[1].ID != "c" || len(one) != 1 || one[0].ID != "b" {
				t.Errorf("got %+v and %+v", list, one)
			}
			r, err3 := sc.Record(account.Memory, "a")
			if string(r.Body) != "one" || r.User != ann.person || !r.At.Equal(clock.in(-3*time.Hour)) {
				t.Errorf("got %+v", r)
			}
			if _, err := sc.Record(account.Chat, "a"); !errors.Is(err, account.ErrNotFound) {
				t.Errorf("of another kind: %v", err)
			}
			return errors.Join(err1, err2, err3, sc.DeleteRecord(account.Memory, "a"))
		})
		fails(t, s, ann.scope(), account.ErrNotFound, func(sc account.Scoped) error { return sc.DeleteRecord(account.Memory, "a") })
		for _, bad := range []account.Record{
			{Kind: "gossip", ID: "x", User: ann.person}, {Kind: account.Chat, User: ann.person}, {Kind: account.Chat, ID: "a/b", User: ann.person},
			{Kind: account.Chat, ID: "x", User: -1}, {Kind: account.Access, ID: "x", User: ann.person},
			{Kind: account.Chat, ID: "x", User: ann.person, Body: make([]byte, account.MaxBlob+1)},
		} {
			fails(t, s, ann.scope(), account.ErrInvalid, func(sc account.Scoped) error { return sc.PutRecord(bad) })
		}
	})
}

// TestG01_Sealed: what is a person's is sealed under their own key in its own
// place: it opens neither in another row nor under another person.
func TestG01_Sealed(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		ann, bob := village(t, s)
		change(t, s, ann.scope(), func(sc account.Scoped) error {
			return sc.PutRecord(account.Record{Kind: account.Chat, ID: "r2", User: ann.person, Body: []byte("second")})
		})
		text, err := store.Tables(t.Context(), s)
		if err != nil || strings.Contains(string(text), "ann's secret") || strings.Contains(string(text), "ann@example.org") || strings.Contains(string(text), "second") {
			t.Errorf("the tables can be read: %v", err)
		}
		read := func(h house) error {
			return s.Data().View(t.Context(), h.scope(), func(sc account.Scoped) error {
				_, err := sc.Records(account.Chat, 0, time.Time{}, 10)
				return err
			})
		}
		for _, c := range []struct{ name, query, back string }{
			{"another household", fmt.Sprintf(`UPDATE records SET household = '%s' WHERE id = 'r2'`, bob.id),
				fmt.Sprintf(`UPDATE records SET household = '%s' WHERE id = 'r2'`, ann.id)},
			{"another person", `UPDATE records SET user_id = 2 WHERE id = 'r2'`, `UPDATE records SET user_id = 1 WHERE id = 'r2'`},
			{"another id", `UPDATE records SET id = 'r3' WHERE id = 'r2'`, `UPDATE records SET id = 'r2' WHERE id = 'r3'`},
			{"another's key", `UPDATE person_keys SET key = (SELECT key FROM person_keys WHERE user_id = 1) WHERE user_id = 2`, ``},
		} {
			if err := errors.Join(read(ann), read(bob)); err != nil {
				t.Fatal(err)
			}
			if err := store.Raw(t.Context(), s, c.query); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(read(ann), read(bob)); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%s: %v", c.name, err)
			}
			if err := store.Raw(t.Context(), s, c.back); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestG04_Export: a person's export is theirs, all of it, page by page, also
// where ids repeat.
func TestG04_Export(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		ann, bob := village(t, s)
		kept(t, s.Accounts(), func(tx account.Tx) error {
			return errors.Join(tx.PutMembership(account.Membership{Household: bob.id, User: ann.person, Role: account.Member}),
				tx.PutAccess(account.Record{Kind: account.Access, ID: "x1", User: ann.person, Body: []byte("ann's")}),
				tx.PutAccess(account.Record{Kind: account.Access, ID: "x1", User: bob.person, Body: []byte("bob's")}))
		})
		for _, h := range []house{ann, bob} {
			change(t, s, h.scope(), func(sc account.Scoped) error {
				var errs []error
				for i := range 7 {
					for _, kind := range []account.Kind{account.Chat, account.Memory} {
						errs = append(errs, sc.PutRecord(account.Record{Kind: kind, ID: fmt.Sprint("x", i), User: ann.person, Body: []byte("ann's")}))
					}
				}
				return errors.Join(errs...)
			})
		}
		for _, page := range []int{1, 2, 3, 5, 1000} {
			all := make(map[string]int)
			seen(t, s.Accounts(), func(tx account.Tx) error {
				for after := ""; ; {
					list, err := tx.AllRecords(ann.person, after, page)
					if err != nil || len(list) == 0 {
						return err
					}
					for _, r := range list {
						if r.User != ann.person || string(r.Body) != "ann's" {
							t.Errorf("the export holds %+v", r)
						}
						all[string(r.Kind)+r.ID]++
					}
					after = list[len(list)-1].ID
				}
			})
			total := 0
			for _, n := range all {
				total += n
			}
			// Seven of two kinds in two households, r1, and the access log.
			if total != 2*2*7+2 || all["accessx1"] != 1 || all["chatx3"] != 2 {
				t.Errorf("in pages of %d: %d records, %v", page, total, all)
			}
		}
	})
}

// TestRetention: what is older than a kind may be goes, some at a time.
func TestRetention(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		clock := newClock(&cfg)
		s := storetest.Create(t, cfg)
		ann, _ := village(t, s)
		day := 24 * time.Hour
		change(t, s, ann.scope(), func(sc account.Scoped) error {
			var errs []error
			for i := range 10 {
				at := clock.in(-time.Duration(i) * 20 * day)
				errs = append(errs, sc.PutRecord(account.Record{Kind: account.Chat, ID: fmt.Sprint("c", i), User: ann.person, At: at}),
					sc.PutRecord(account.Record{Kind: account.Behaviour, ID: fmt.Sprint("b", i), User: ann.person, At: at}))
			}
			return errors.Join(errs...)
		})
		kept(t, s.Accounts(), func(tx account.Tx) error {
			var errs []error
			for i := range 5 {
				errs = append(errs, tx.PutAccess(account.Record{Kind: account.Access, ID: fmt.Sprint("a", i), User: ann.person, At: clock.in(-time.Duration(i) * 100 * day)}))
			}
			return errors.Join(errs...)
		})
		for _, c := range []struct {
			kind  account.Kind
			keep  time.Duration
			limit int
			want  []int
		}{
			{account.Chat, 90 * day, 3, []int{3, 2, 0}},
			{account.Behaviour, 30 * day, 100, []int{8, 0}},
			{account.Access, 365 * day, 100, []int{1, 0}},
			{account.Memory, 0, 100, []int{0}},
		} {
			for _, want := range c.want {
				kept(t, s.Accounts(), func(tx account.Tx) error {
					n, err := tx.Expire(c.kind, clock.in(-c.keep), c.limit)
					if n != want {
						t.Errorf("%s: %d expired, want %d", c.kind, n, want)
					}
					return err
				})
			}
		}
		turned(t, s.Accounts(), account.ErrInvalid, func(tx account.Tx) error { _, err := tx.Expire(account.Chat, clock.in(0), 0); return err })
		turned(t, s.Accounts(), account.ErrExists, func(tx account.Tx) error {
			return tx.PutAccess(account.Record{Kind: account.Access, ID: "a0", User: ann.person})
		})
		turned(t, s.Accounts(), account.ErrNotFound, func(tx account.Tx) error {
			return tx.PutAccess(account.Record{Kind: account.Access, ID: "a9", User: 99})
		})
		turned(t, s.Accounts(), account.ErrInvalid, func(tx account.Tx) error {
			return tx.PutAccess(account.Record{Kind: account.Chat, ID: "a9", User: ann.person})
		})
	})
}
