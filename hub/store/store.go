// Package store keeps what the hub must not forget, and holds the only SQL in
// the program.
//
// There is one Store type and one set of queries for two engines: a SQLCipher
// file, which is the default and needs nothing to run, and PostgreSQL. What
// passes on one passes on the other; package storetest opens either in a test.
//
// All access is by transaction. Do runs a change and writes its audit entry in
// the same transaction: no entry, no change. Keep is for bookkeeping that
// nobody decided (endpoints, flow counts), View for reading. On both engines
// writers run one after another, whole transaction by whole transaction, also
// when two hubs share one PostgreSQL database; readers see one moment and
// never wait for a writer on SQLite. Functions given to Do, Keep and View must
// not call Do or Keep themselves: they would wait for their own end.
//
// There are three ways in. Do, Keep and View are the hub's own: machines,
// policy, services. Accounts is for signing in and for the admin: people,
// households, sessions, nodes, apps, over all households. Data is for services:
// one household at a time, and on PostgreSQL the database itself holds a
// transaction inside it (see roles.go).
//
// What is secret (private keys, pre-shared keys) is sealed under a key drawn
// from the master key before it reaches either engine; the SQLCipher file is
// encrypted as a whole besides. What is a person's (address, name, password,
// records) is sealed under a key of that person's own, and found by an HMAC
// where it has to be found; erasing somebody ends with destroying that key. On
// PostgreSQL the rest (names of machines and households, addresses, policies,
// the audit log) is readable to whoever can read that database.
//
// The master key is a file beside the store (CreateKey, LoadKey), a file
// descriptor (KeyFromFD) or a systemd credential (KeyFromCredential). Without
// it nothing here can be read, and nobody can make it again: a backup with a
// passphrase is the way back.
//
// A store that cannot be opened is never changed, repaired or made anew:
// ErrWrongKey, ErrPlaintext, ErrCorrupt, ErrNewer and ErrLocked say which it
// is. There is no downgrade in place: to go back to an older version, install
// it and restore the backup taken before the upgrade.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
)

// Config says where a store is and how to open it.
type Config struct {
	// Path is the SQLCipher file. Beside it appear Path-wal and Path-shm
	// while it is open, and Path.lock.
	Path string
	// DSN is the address of a PostgreSQL database, postgres://…; if it is
	// set, Path is unused. It is never logged and never part of an error.
	DSN string
	// Key is the master key, required on both engines.
	Key Key
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Logger gets what is worth knowing but is not an error; nil discards it.
	Logger *slog.Logger

	// migrations replaces the embedded ones in tests; nil uses those.
	migrations fs.FS
}

// timeout bounds every transaction: a database that hangs must not hang the
// hub. The packet path never waits for the store.
const timeout = 10 * time.Second

// Store is an open store. Any number of goroutines may use it.
type Store struct {
	write, read *sql.DB // the same pool on PostgreSQL
	engine      engine
	lock        *lockFile // nil on PostgreSQL
	seal        *sealer
	backupKey   []byte
	now         func() time.Time
	log         *slog.Logger
	closed      atomic.Bool
	people      sync.Mutex // held while a people file is written
}

// engine is the little in which the two databases differ.
type engine struct {
	name      string
	hasTable  string                              // SQL: how many tables are called $1
	begin     string                              // SQL run first in each writing transaction, may be ""
	system    string                              // SQL that lets a transaction reach all households, may be ""
	tenant    string                              // SQL that confines it to the one that confine names, may be ""
	confine   string                              // SQL that names the household $1, may be ""
	unlimited string                              // SQL that lifts the time limit of the statements that follow, may be ""
	snapshot  *sql.TxOptions                      // what gives a reader one picture
	classify  func(error) error                   // driver error to one of ours, or nil
	dead      func(error) bool                    // whether a connection broke that once worked, nil for never
	prepare   func(context.Context, *Store) error // makes what a schema needs outside of it, may be nil
	granted   string                              // SQL run after each migration, may be ""
}

// Create makes a new, empty store at the newest schema. It refuses to
// overwrite one that exists (ErrExists). If it fails or is killed, there is
// either a complete store or none.
func Create(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.DSN != "" {
		s, err := connectPostgres(ctx, cfg)
		if err != nil {
			return nil, fmt.Errorf("creating store: %w", err)
		}
		if err := s.build(ctx, cfg, nil); err != nil {
			return nil, errors.Join(fmt.Errorf("creating store: %w", err), s.Close())
		}
		return s, nil
	}
	if err := createSQLite(ctx, cfg, nil); err != nil {
		return nil, fmt.Errorf("creating store: %w", err)
	}
	return Open(ctx, cfg)
}

// Open opens a store that Create made and brings its schema up to date, each
// step in one transaction. ErrNotFound means there is none.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	open := openSQLite
	if cfg.DSN != "" {
		open = connectPostgres
	}
	s, err := open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	if err := s.ready(ctx, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("opening store: %w", err), s.Close())
	}
	return s, nil
}

// newStore fills in what both engines share.
func newStore(cfg Config, e engine) (*Store, error) {
	s := &Store{engine: e, now: cfg.Now, log: cfg.Logger}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.seal, err = newSealer(cfg.Key, "values"); err != nil {
		return nil, err
	}
	s.backupKey, err = cfg.Key.subkey("backup")
	return s, err
}

// Engine names the database: "sqlcipher" or "postgresql".
func (s *Store) Engine() string { return s.engine.name }

// Close waits for running transactions and closes the store. It may be called
// more than once.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	var errs []error
	if s.read != nil && s.read != s.write {
		errs = append(errs, s.read.Close())
	}
	if s.write != nil {
		// The writer goes last: SQLite's last connection moves the
		// write-ahead log into the file and removes it.
		errs = append(errs, s.write.Close())
	}
	errs = append(errs, s.lock.release())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("closing store: %w", err)
	}
	return nil
}

// Do runs fn and records ev, both or neither. fn may fill ev.Detail, which is
// read after it returned. If fn fails its error is returned as it is.
func (s *Store) Do(ctx context.Context, ev audit.Event, fn func(*Tx) error) error {
	return s.update(ctx, func(tx *Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return tx.Record(ev)
	})
}

// Keep runs fn without an audit entry, for bookkeeping only. When it turns out
// that something did happen, fn calls Record.
func (s *Store) Keep(ctx context.Context, fn func(*Tx) error) error {
	return s.update(ctx, fn)
}

// View runs fn on one unchanging picture of the store. Its Tx cannot write.
func (s *Store) View(ctx context.Context, fn func(*Tx) error) error {
	return s.transact(ctx, s.read, s.engine.snapshot, (*Tx).everywhere, fn)
}

// viewSlowly is View without a time limit.
func (s *Store) viewSlowly(ctx context.Context, fn func(*Tx) error) error {
	return s.transactSlowly(ctx, s.read, s.engine.snapshot, (*Tx).everywhere, func(tx *Tx) error {
		if s.engine.unlimited != "" {
			if _, err := tx.tx.ExecContext(ctx, s.engine.unlimited); err != nil {
				return s.fault("lifting time limit", err)
			}
		}
		return fn(tx)
	})
}

func (s *Store) update(ctx context.Context, fn func(*Tx) error) error {
	return s.transact(ctx, s.write, nil, (*Tx).everywhere, taking(fn))
}

// taking makes fn a writer: one that waits for its turn.
func taking(fn func(*Tx) error) func(*Tx) error {
	return func(tx *Tx) error {
		tx.writes = true
		if err := tx.exec("taking turns", tx.s.engine.begin); err != nil {
			return err
		}
		return fn(tx)
	}
}

func (s *Store) transact(ctx context.Context, db *sql.DB, opts *sql.TxOptions, reach, fn func(*Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return s.transactSlowly(ctx, db, opts, reach, fn)
}

// transactSlowly is transact without a time limit, for work whose length
// depends on how much there is: backup, verification, migration. reach says
// whose data the transaction sees: everywhere, or a method value of a scope.
func (s *Store) transactSlowly(ctx context.Context, db *sql.DB, opts *sql.TxOptions, reach, fn func(*Tx) error) error {
	if s.closed.Load() {
		return ErrClosed
	}
	sqltx, err := s.beginTx(ctx, db, opts)
	if err != nil {
		return err
	}
	// Also when fn panics. After Commit it does nothing.
	defer func() { _ = sqltx.Rollback() }()
	tx := &Tx{ctx: ctx, s: s, tx: sqltx, now: s.now().UTC().Round(0)}
	if err := reach(tx); err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return err
	}
	if err := sqltx.Commit(); err != nil {
		return s.fault("committing; look before you try again", err)
	}
	return nil
}

// beginTx begins a transaction. A server that was restarted leaves dead
// connections in the pool; each is found by using it, and since nothing has
// happened yet the next one may be tried.
func (s *Store) beginTx(ctx context.Context, db *sql.DB, opts *sql.TxOptions) (*sql.Tx, error) {
	for range connections {
		tx, err := db.BeginTx(ctx, opts)
		if err == nil {
			return tx, nil
		}
		if ctx.Err() != nil || s.engine.dead == nil || !s.engine.dead(err) {
			return nil, s.fault("beginning transaction", err)
		}
	}
	tx, err := db.BeginTx(ctx, opts)
	return tx, s.fault("beginning transaction", err)
}

// fault turns a driver's error into one of ours, with what was being done. The
// driver's own words are kept only where they hold nothing of the address.
func (s *Store) fault(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	case errors.Is(err, sql.ErrConnDone) && s.closed.Load():
		return ErrClosed
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, context.DeadlineExceeded)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", doing, context.Canceled)
	}
	if ours := s.engine.classify(err); ours != nil {
		return fmt.Errorf("%s: %w", doing, ours)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
