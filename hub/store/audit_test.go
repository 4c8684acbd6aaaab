package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
)

// TestL02_VerifyNamesTheFirstBadEntry tampers with the audit table in every way
// that its rows allow, and with the sealed head.
func TestL02_VerifyNamesTheFirstBadEntry(t *testing.T) {
	t.Parallel()
	const copyRow = `INSERT INTO audit (idx, at, event, prev, hash) SELECT 10, at, event, prev, hash FROM audit WHERE idx = 9`
	cases := []struct {
		name string
		sql  []string
		bad  uint64
	}{
		{"edit", []string{`UPDATE audit SET event = REPLACE(event, 'test', 'tesT') WHERE idx = 5`}, 5},
		{"blank in the JSON", []string{`UPDATE audit SET event = REPLACE(event, ',', ', ') WHERE idx = 5`}, 5},
		{"unknown key", []string{`UPDATE audit SET event = REPLACE(event, '{', '{"x":1,') WHERE idx = 5`}, 5},
		{"not JSON", []string{`UPDATE audit SET event = 'x' WHERE idx = 5`}, 5},
		{"time", []string{`UPDATE audit SET at = at + 1 WHERE idx = 1`}, 1},
		{"short hash", []string{`UPDATE audit SET hash = prev WHERE idx = 5`}, 5},
		{"delete middle", []string{`DELETE FROM audit WHERE idx = 4`}, 4},
		{"delete first", []string{`DELETE FROM audit WHERE idx = 1`}, 1},
		{"renumber", []string{`DELETE FROM audit WHERE idx = 4`, `UPDATE audit SET idx = 4 WHERE idx = 5`}, 4},
		{"swap", []string{`UPDATE audit SET idx = 100 WHERE idx = 3`, `UPDATE audit SET idx = 3 WHERE idx = 4`, `UPDATE audit SET idx = 4 WHERE idx = 100`}, 3},
		{"duplicate", []string{copyRow}, 10},
		{"insert below", []string{`INSERT INTO audit (idx, at, event, prev, hash) SELECT -1, at, event, prev, hash FROM audit WHERE idx = 9`}, 1},
		{"truncate tail", []string{`DELETE FROM audit WHERE idx > 6`}, 7},
		{"truncate all", []string{`DELETE FROM audit`}, 1},
	}
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		for i := range 9 {
			do(t, s, func(tx *store.Tx) error { return tx.SetMeta("n", fmt.Sprint(i)) })
		}
		if n, err := s.VerifyAudit(t.Context()); n != 9 || err != nil {
			t.Fatal(n, err)
		}
		raw := func(query string) {
			t.Helper()
			if err := store.Raw(t.Context(), s, query); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
		}
		raw(`CREATE TABLE good AS SELECT idx, at, event, prev, hash FROM audit`)
		for _, c := range cases {
			for _, q := range c.sql {
				raw(q)
			}
			n, err := s.VerifyAudit(t.Context())
			var bad *audit.BadEntry
			if !errors.As(err, &bad) || (bad.Index != c.bad && c.name != "insert below") || n >= max(c.bad, 1) && c.name != "insert below" {
				t.Errorf("%s: %d good, %v; want entry %d", c.name, n, err, c.bad)
			}
			raw(`DELETE FROM audit`)
			raw(`INSERT INTO audit (idx, at, event, prev, hash) SELECT idx, at, event, prev, hash FROM good`)
		}
		// A head from somewhere else does not open.
		if n, err := s.VerifyAudit(t.Context()); n != 9 || err != nil {
			t.Fatal(n, err)
		}
		raw(`UPDATE meta SET value = (SELECT value FROM meta WHERE key = 'store.key-check') WHERE key = 'store.audit'`)
		if _, err := s.VerifyAudit(t.Context()); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("with a forged head: %v", err)
		}
		// And without a head there is no record, so there is no action.
		refused(t, s, store.ErrCorrupt, func(tx *store.Tx) error { return tx.SetMeta("n", "x") })
	})
}

// TestL02_OutsideCheckpoint puts back an older copy of log and head, which only
// a checkpoint from outside can tell.
func TestL02_OutsideCheckpoint(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		step := func() (c audit.Checkpoint) {
			do(t, s, func(tx *store.Tx) error { return nil })
			if err := s.View(t.Context(), func(tx *store.Tx) (err error) { c, err = tx.AuditHead(); return err }); err != nil {
				t.Fatal(err)
			}
			return c
		}
		early := step()
		if err := store.Raw(t.Context(), s, `CREATE TABLE old AS SELECT value FROM meta WHERE key = 'store.audit'`); err != nil {
			t.Fatal(err)
		}
		late := step()
		if n, err := s.VerifyAudit(t.Context(), early, late); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		for _, q := range []string{`DELETE FROM audit WHERE idx = 2`, `UPDATE meta SET value = (SELECT value FROM old) WHERE key = 'store.audit'`} {
			if err := store.Raw(t.Context(), s, q); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := s.VerifyAudit(t.Context(), early); n != 1 || err != nil {
			t.Errorf("the old copy by itself: %d, %v", n, err)
		}
		var bad *audit.BadEntry
		if _, err := s.VerifyAudit(t.Context(), late); !errors.As(err, &bad) || bad.Index != 2 {
			t.Errorf("with a checkpoint from outside: %v", err)
		}
		late.Count = 1
		if _, err := s.VerifyAudit(t.Context(), late); !errors.As(err, &bad) || bad.Index != 1 {
			t.Errorf("with a checkpoint of another log: %v", err)
		}
	})
}

// TestL03_NoEntryNoAction: what cannot be recorded does not happen, and what
// does not happen is not recorded.
func TestL03_NoEntryNoAction(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		act := func(tx *store.Tx) error { return tx.SetMeta("acted", "yes") }
		untouched := func() {
			t.Helper()
			err := s.View(t.Context(), func(tx *store.Tx) error {
				if head, err := tx.AuditHead(); err != nil || head.Count != 0 {
					t.Errorf("%d entries, %v", head.Count, err)
				}
				_, err := tx.Meta("acted")
				return err
			})
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("it happened: %v", err)
			}
		}
		for _, ev := range []audit.Event{{}, {Actor: "hub"}, {Actor: "hub", Action: strings.Repeat("x", 1<<20)}} {
			if err := s.Do(t.Context(), ev, act); !errors.Is(err, store.ErrInvalid) {
				t.Errorf("an unrecordable action: %v", err)
			}
			untouched()
		}
		mine := errors.New("mine")
		if err := s.Do(t.Context(), someEvent, func(tx *store.Tx) error { return errors.Join(act(tx), mine) }); !errors.Is(err, mine) {
			t.Errorf("a failed action: %v", err)
		}
		untouched()
		func() {
			defer func() { _ = recover() }()
			_ = s.Do(t.Context(), someEvent, func(tx *store.Tx) error { _ = act(tx); panic("in the middle") })
		}()
		untouched()
		// The place of the next entry is taken: the insert fails, so does the action.
		if err := store.Raw(t.Context(), s, `INSERT INTO audit (idx, at, event, prev, hash) SELECT 1, 0, 'x', value, value FROM meta WHERE key = 'store.audit'`); err != nil {
			t.Fatal(err)
		}
		if err := s.Do(t.Context(), someEvent, act); err == nil {
			t.Error("acted without an entry")
		}
		untouched()
		if err := store.Raw(t.Context(), s, `DELETE FROM audit`); err != nil {
			t.Fatal(err)
		}
		// fn may fill in the detail; Record adds entries.
		ev := audit.Event{Actor: "hub", Action: "x", Detail: map[string]string{}}
		if err := s.Do(t.Context(), ev, func(tx *store.Tx) error { ev.Detail["address"] = "10.77.1.0"; return tx.Record(someEvent) }); err != nil {
			t.Fatal(err)
		}
		if err := s.View(t.Context(), func(tx *store.Tx) error {
			list, err := tx.AuditEntries(0, 10)
			if len(list) != 2 || list[1].Detail["address"] != "10.77.1.0" || list[1].Time.IsZero() {
				t.Errorf("got %+v", list)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}
