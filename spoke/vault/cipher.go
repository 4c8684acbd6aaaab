//go:build cgo

package vault

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	sqlite3 "github.com/mutecomm/go-sqlcipher/v4"
)

// makers lists the forms that this build can open; the first is for new vaults.
func makers() []maker {
	return []maker{{dbFile, createCipher, openCipher}, sealedMaker()}
}

const (
	saltSize    = 16
	plainHeader = "SQLite format 3\x00"
	// cipherVersion is the table's version, kept in SQLite's user_version.
	cipherVersion = 1
	// timeout bounds each access.
	timeout = 10 * time.Second
)

// ciphered is the form with cgo: a SQLCipher file with one table and a
// rollback journal, used through one connection.
type ciphered struct{ db *sql.DB }

// connector opens connections for database/sql without a DSN that anybody
// could print: it holds the key.
type connector struct{ dsn string }

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.Driver().Open(c.dsn) }
func (connector) Driver() driver.Driver                          { return &sqlite3.SQLiteDriver{} }

// cipherKeys draws the file's key and its first 16 bytes, the salt, from K1:
// SQLCipher answers to a wrong key and to damage alike, the salt tells.
func cipherKeys(k key) (raw, salt []byte, err error) {
	if raw, err = k.subkey("sqlcipher"); err != nil {
		return nil, nil, err
	}
	salt, err = k.subkey("sqlcipher salt")
	if err != nil {
		return nil, nil, err
	}
	return raw, salt[:saltSize], nil
}

func connect(path string, raw, salt []byte, options url.Values) *ciphered {
	options.Set("_pragma_key", "x'"+hex.EncodeToString(raw)+hex.EncodeToString(salt)+"'")
	options.Set("_pragma_cipher_page_size", "4096")
	options.Set("_secure_delete", "true")
	options.Set("_synchronous", "EXTRA")
	options.Set("_txlock", "immediate")
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: options.Encode()}
	db := sql.OpenDB(connector{dsn.String()})
	db.SetMaxOpenConns(1)
	return &ciphered{db}
}

func createCipher(path string, k key) error {
	raw, salt, err := cipherKeys(k)
	if err != nil {
		return err
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	// Made under another name, so that a crash leaves a whole vault or none.
	fresh := path + ".new"
	for _, name := range []string{fresh, fresh + "-journal", path + "-journal"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	c := connect(fresh, raw, salt, url.Values{"mode": {"rw"}})
	_, err = c.db.Exec(`BEGIN; CREATE TABLE vault (name TEXT PRIMARY KEY, value BLOB NOT NULL); PRAGMA user_version = 1; COMMIT`)
	if err = errors.Join(fault(err), c.close()); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func openCipher(path string, k key) (form, error) {
	raw, salt, err := cipherKeys(k)
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if err := inspect(path, raw, salt); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c := connect(path, raw, salt, url.Values{"mode": {"rw"}})
	if err := c.check(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), c.close())
	}
	return c, nil
}

// inspect looks at the file's beginning before SQLite may touch it.
func inspect(path string, raw, salt []byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	header := make([]byte, saltSize)
	if _, err := io.ReadFull(f, header); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrCorrupt
	} else if err != nil {
		return err
	}
	switch string(header) {
	case string(salt):
		return nil
	case plainHeader:
		return ErrPlaintext
	case string(make([]byte, saltSize)):
		return ErrCorrupt
	}
	// Another salt: another key's file, or ours with its beginning damaged.
	// Then what follows still opens; immutable keeps SQLite from writing.
	c := connect(path, raw, salt, url.Values{"mode": {"ro"}, "immutable": {"1"}})
	defer func() { _ = c.close() }()
	var n int
	if c.db.QueryRow(`SELECT COUNT(*) FROM sqlite_master`).Scan(&n) == nil {
		return ErrCorrupt
	}
	return ErrWrongKey
}

// check reads the version, then every page. A change that a crash interrupted
// is rolled back by the first read, so what is checked after it is whole.
func (c *ciphered) check() error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var version int
	if err := c.db.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return fault(err)
	}
	if version > cipherVersion {
		return ErrNewer
	}
	rows, err := c.db.QueryContext(ctx, `PRAGMA cipher_integrity_check`)
	if err != nil {
		return fault(err)
	}
	damaged := rows.Next() // one row for each damaged page
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return fault(err)
	}
	var verdict string
	if err := c.db.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&verdict); err != nil {
		return fault(err)
	}
	if damaged || verdict != "ok" || version != cipherVersion {
		return ErrCorrupt
	}
	return nil
}

func (c *ciphered) get(name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var value []byte
	err := c.db.QueryRowContext(ctx, `SELECT value FROM vault WHERE name = $1`, name).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	return append([]byte{}, value...), fault(err)
}

func (c *ciphered) names() ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	rows, err := c.db.QueryContext(ctx, `SELECT name FROM vault`)
	if err != nil {
		return nil, fault(err)
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fault(err)
		}
		names = append(names, name)
	}
	return names, fault(rows.Err())
}

func (c *ciphered) apply(changes map[string][]byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	tx, err := c.db.BeginTx(ctx, nil)
	if err != nil {
		return fault(err)
	}
	defer func() { _ = tx.Rollback() }()
	for name, value := range changes {
		if value == nil {
			_, err = tx.ExecContext(ctx, `DELETE FROM vault WHERE name = $1`, name)
		} else {
			_, err = tx.ExecContext(ctx, `INSERT INTO vault (name, value) VALUES ($1, $2)
				ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
		}
		if err != nil {
			return fault(err)
		}
	}
	return fault(tx.Commit())
}

func (c *ciphered) close() error { return c.db.Close() }

// fault turns SQLite's codes into our errors.
func fault(err error) error {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code {
	case sqlite3.ErrNotADB, sqlite3.ErrCorrupt:
		return ErrCorrupt
	case sqlite3.ErrFull, sqlite3.ErrIoErr, sqlite3.ErrCantOpen, sqlite3.ErrReadonly:
		return fmt.Errorf("%w (%s)", ErrStorage, e.Code.Error())
	case sqlite3.ErrBusy, sqlite3.ErrLocked:
		return ErrLocked
	}
	return errors.New("the database failed: " + e.Code.Error())
}
