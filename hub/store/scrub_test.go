package store_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer/account"
)

// TestG01_WhileSomebodyReads: PostgreSQL keeps deleted rows for whoever looks
// at an older picture, and says nothing. An erasure does not take that for
// done: it is refused, and done once the reader has ended.
func TestG01_WhileSomebodyReads(t *testing.T) {
	t.Parallel()
	cfg := storetest.PostgresConfig(t)
	s := storetest.Create(t, cfg)
	ann, _ := village(t, s)
	key, err := store.SealedPersonKey(t.Context(), s, ann.person)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := pgx.Connect(t.Context(), cfg.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close(context.WithoutCancel(t.Context()))
	tx, err := reader.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT COUNT(*) FROM meta`); err != nil {
		t.Fatal(err)
	}
	kept(t, s.Accounts(), func(tx account.Tx) error {
		return errors.Join(tx.BeginErasure(ann.person), tx.FinishErasure(ann.person))
	})
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.Scrub(soon); err == nil {
		t.Error("done, although somebody still sees the person")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	scrub(t, s)
	for where, text := range everywhere(t, s, cfg) {
		if bytes.Contains(text, key) {
			t.Errorf("the person's key is in the %s", where)
		}
	}
}

// TestG01_WhileAnotherDatabaseWrites: a transaction that writes in another
// database of the server is in the picture that VACUUM FULL takes, and keeps
// the rows as a reader does.
func TestG01_WhileAnotherDatabaseWrites(t *testing.T) {
	t.Parallel()
	cfg := storetest.PostgresConfig(t)
	s := storetest.Create(t, cfg)
	ann, _ := village(t, s)
	key, err := store.SealedPersonKey(t.Context(), s, ann.person)
	if err != nil {
		t.Fatal(err)
	}
	writer, err := pgx.Connect(t.Context(), storetest.PostgresConfig(t).DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close(context.WithoutCancel(t.Context()))
	if _, err := writer.Exec(t.Context(), `BEGIN; SELECT txid_current()`); err != nil {
		t.Fatal(err)
	}
	kept(t, s.Accounts(), func(tx account.Tx) error {
		return errors.Join(tx.BeginErasure(ann.person), tx.FinishErasure(ann.person))
	})
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.Scrub(soon); err == nil {
		t.Error("done, although a writer elsewhere keeps the rows")
	}
	if _, err := writer.Exec(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	scrub(t, s)
	for where, text := range everywhere(t, s, cfg) {
		if bytes.Contains(text, key) {
			t.Errorf("the person's key is in the %s", where)
		}
	}
}

// scrub is Scrub as the hub does it: again while somebody is in the way, such as
// other tests on the same server.
func scrub(t testing.TB, s *store.Store) {
	t.Helper()
	err := s.Scrub(t.Context())
	for n := 0; errors.Is(err, store.ErrLocked) && n < 10; n++ {
		err = s.Scrub(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}
