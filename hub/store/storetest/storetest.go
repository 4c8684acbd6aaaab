// Package storetest opens real stores in tests: a SQLCipher file in a
// temporary directory, or a database of its own in a PostgreSQL server that
// the test process starts for itself on a Unix socket. There is no make-believe
// store, so what a test shows holds for the hub.
package storetest

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/warrenmesh/warren/hub/store"
)

// Plan is the overlay that the stores of this package are set up with.
func Plan() store.Plan {
	return store.Plan{V4: netip.MustParsePrefix("10.77.0.0/16"), V6: netip.MustParsePrefix("fd77:7777:7777:7777::/64")}
}

// Open returns an empty SQLCipher store with Plan set, closed when the test ends.
func Open(t testing.TB) *store.Store {
	t.Helper()
	return Create(t, Config(t))
}

// Postgres is Open on PostgreSQL.
func Postgres(t testing.TB) *store.Store {
	t.Helper()
	return Create(t, PostgresConfig(t))
}

// Config returns where a SQLCipher store can be created, with a fresh key.
func Config(t testing.TB) store.Config {
	t.Helper()
	return store.Config{Path: filepath.Join(t.TempDir(), "hub.db"), Key: key(t)}
}

// PostgresConfig is Config for a new, empty PostgreSQL database.
func PostgresConfig(t testing.TB) store.Config {
	t.Helper()
	return store.Config{DSN: shared(t).NewDatabase(t), Key: key(t)}
}

// Create makes a store with Plan set; it is closed when the test ends.
func Create(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	s, err := store.Create(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Keep(t.Context(), func(tx *store.Tx) error { return tx.SetPlan(Plan()) }); err != nil {
		t.Fatal(err)
	}
	return s
}

// Each runs test once on each engine, as a subtest named after it.
func Each(t *testing.T, test func(t *testing.T, cfg store.Config)) {
	t.Helper()
	t.Run("sqlcipher", func(t *testing.T) { test(t, Config(t)) })
	t.Run("postgresql", func(t *testing.T) { test(t, PostgresConfig(t)) })
}

func key(t testing.TB) store.Key {
	t.Helper()
	k, err := store.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}
