package store

import (
	"context"

	"github.com/warrenmesh/warren/peer/account"
)

// Confined is the check that each query inside a household goes through.
func Confined(query string) error { return confined(query) }

// The bounds that tests go to.
const (
	MaxBlobs      = maxBlobs
	MaxHooks      = maxHooks
	MaxDeliveries = maxDeliveries
)

// OneConnection makes a PostgreSQL store use a single connection, so that what
// one transaction leaves behind the next one finds.
func OneConnection(s *Store) { s.write.SetMaxOpenConns(1) }

// CountWithin runs a query that no method of Scoped would run inside a
// household, as a service with a mistake in it could.
func CountWithin(ctx context.Context, s *Store, in account.Scope, query string, args ...any) (n int64, err error) {
	err = s.transact(ctx, s.write, nil, reach(in), taking(func(tx *Tx) error {
		n, err = tx.count("testing", query, args...)
		return err
	}))
	return n, err
}

// ChangeWithin is CountWithin for a change; n is how many rows it hit.
func ChangeWithin(ctx context.Context, s *Store, in account.Scope, query string, args ...any) (n int64, err error) {
	err = s.transact(ctx, s.write, nil, reach(in), taking(func(tx *Tx) error {
		n, err = tx.change("testing", query, args...)
		return err
	}))
	return n, err
}
