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
	if err := s.Scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	for where, text := range everywhere(t, s, cfg) {
		if bytes.Contains(text, key) {
			t.Errorf("the person's key is in the %s", where)
		}
	}
}
