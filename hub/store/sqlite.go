//go:build cgo

package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	sqlite3 "github.com/mutecomm/go-sqlcipher/v4"
)

// readers is how many connections read a SQLCipher file at once.
const readers = 4

// connector opens connections for database/sql without a DSN that anybody
// could print: it holds the key.
type connector struct{ dsn string }

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.Driver().Open(c.dsn) }
func (connector) Driver() driver.Driver                          { return &sqlite3.SQLiteDriver{} }

// dsn returns the address of a file that exists. The key is the raw key and
// the salt, so that no passphrase is stretched on each connection, and so that
// the file's first 16 bytes say whose it is (see cipherKey).
func (k *cipherKey) dsn(path string, writer bool) string {
	options := url.Values{
		"mode":                     {"rw"}, // never create: a wrong path must not make a new store
		"_pragma_key":              {"x'" + hex.EncodeToString(k.raw) + hex.EncodeToString(k.salt) + "'"},
		"_pragma_cipher_page_size": {"4096"},
		"_busy_timeout":            {"5000"},
		"_foreign_keys":            {"1"},
		// A commit that was acknowledged survives the loss of power.
		"_synchronous": {"FULL"},
		// What was deleted is overwritten, although it is ciphertext.
		"_secure_delete": {"true"},
	}
	if writer {
		options.Set("_journal_mode", "WAL")
		options.Set("_txlock", "immediate")
	} else {
		options.Set("_query_only", "1")
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: options.Encode()}).String()
}

func sqliteEngine() engine {
	return engine{
		name:     "sqlcipher",
		hasTable: `SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = $1`,
		classify: classifySQLite,
	}
}

// connectSQLite opens the pools on a file that exists and belongs to the key.
// There is exactly one writing connection: SQLite before 3.51.3 can corrupt a
// write-ahead log that two of them reset in the same instant.
func connectSQLite(cfg Config, path string, k *cipherKey) (*Store, error) {
	s, err := newStore(cfg, sqliteEngine())
	if err != nil {
		return nil, err
	}
	s.write = sql.OpenDB(connector{k.dsn(path, true)})
	s.write.SetMaxOpenConns(1)
	s.read = sql.OpenDB(connector{k.dsn(path, false)})
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	return s, nil
}

// openSQLite opens the file after having looked at it without SQLite: what is
// not ours, or damaged, is told apart before anything could change it.
func openSQLite(ctx context.Context, cfg Config) (_ *Store, err error) {
	k, err := newCipherKey(cfg.Key)
	if err != nil {
		return nil, err
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil || cfg.Path == "" {
		return nil, fmt.Errorf("%w: the store has no path", ErrInvalid)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no store at %s: %w", path, ErrNotFound)
	} else if err != nil {
		return nil, err
	}
	lock, err := takeLock(path + ".lock")
	if err != nil {
		return nil, err
	}
	if err := k.inspect(path); err != nil {
		return nil, errors.Join(err, lock.release())
	}
	s, err := connectSQLite(cfg, path, k)
	if err != nil {
		return nil, errors.Join(err, lock.release())
	}
	s.lock = lock
	if err := s.quickCheck(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// createSQLite makes the store under another name and renames it when it is
// complete and on the disk.
func createSQLite(ctx context.Context, cfg Config, load func(*Tx) error) error {
	k, err := newCipherKey(cfg.Key)
	if err != nil {
		return err
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil || cfg.Path == "" {
		return fmt.Errorf("%w: the store has no path", ErrInvalid)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := takeLock(path + ".lock")
	if err != nil {
		return err
	}
	defer func() { _ = lock.release() }()
	// A log without its file is somebody's data too: SQLite would throw it away.
	for _, name := range []string{path, path + "-wal"} {
		if _, err := os.Lstat(name); err == nil {
			return fmt.Errorf("%s: %w", name, ErrExists)
		}
	}
	fresh := path + ".new"
	if err := removeFiles(fresh); err != nil {
		return err
	}
	if err := fill(ctx, cfg, fresh, k, load); err != nil {
		return errors.Join(err, removeFiles(fresh))
	}
	if err := os.Rename(fresh, path); err != nil {
		return errors.Join(err, removeFiles(fresh))
	}
	return syncDir(dir)
}

// removeFiles removes what an earlier attempt, or SQLite, left.
func removeFiles(path string) error {
	for _, name := range []string{path, path + "-wal", path + "-shm", path + "-journal"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func fill(ctx context.Context, cfg Config, path string, k *cipherKey, load func(*Tx) error) error {
	// SQLite gives its log and its index the mode of this file.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	s, err := connectSQLite(cfg, path, k)
	if err != nil {
		return err
	}
	if err := s.build(ctx, cfg, load); err != nil {
		return errors.Join(err, s.Close())
	}
	return s.Close()
}

// classifySQLite turns SQLite's result codes into our errors. Its messages
// name tables and columns, never values, and are left out all the same.
func classifySQLite(err error) error {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return nil
	}
	switch e.Code {
	case sqlite3.ErrNotADB, sqlite3.ErrCorrupt:
		return ErrCorrupt
	case sqlite3.ErrFull, sqlite3.ErrIoErr, sqlite3.ErrCantOpen, sqlite3.ErrReadonly:
		return fmt.Errorf("%w (%s)", ErrStorage, e.Code.Error())
	case sqlite3.ErrBusy, sqlite3.ErrLocked:
		return ErrLocked
	case sqlite3.ErrInterrupt:
		return fmt.Errorf("%w: %w", ErrUnavailable, context.DeadlineExceeded)
	case sqlite3.ErrConstraint:
		if e.ExtendedCode == sqlite3.ErrConstraintForeignKey { // what it belongs to
			return ErrNotFound
		}
		return ErrExists
	}
	return nil
}
