package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/warrenmesh/warren/peer/account"
)

// Tx is a running transaction. It belongs to one goroutine and is dead when
// the function that got it returns.
type Tx struct {
	ctx    context.Context
	s      *Store
	tx     *sql.Tx
	now    time.Time // one moment for all that happens in the transaction
	writes bool

	tenant string                     // SQL that confines it again after asSystem, "" if nothing confines it
	people map[account.UserID]*sealer // persons' keys that were read
}

// Now is the transaction's time: what it writes is stamped with it.
func (tx *Tx) Now() time.Time { return tx.now }

var errReadOnly = errors.New("this transaction only reads")

// exec runs one statement; an empty one is none.
func (tx *Tx) exec(doing, query string, args ...any) error {
	_, err := tx.change(doing, query, args...)
	return err
}

// change is exec that says how many rows it changed.
func (tx *Tx) change(doing, query string, args ...any) (int64, error) {
	if !tx.writes {
		return 0, fmt.Errorf("%s: %w", doing, errReadOnly)
	}
	if query == "" {
		return 0, nil
	}
	res, err := tx.tx.ExecContext(tx.ctx, query, args...)
	if err != nil {
		return 0, tx.s.fault(doing, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, tx.s.fault(doing, err)
	}
	return n, nil
}

// one reads a single row; ErrNotFound if there is none.
func (tx *Tx) one(doing, query string, args []any, dest ...any) error {
	return tx.s.fault(doing, tx.tx.QueryRowContext(tx.ctx, query, args...).Scan(dest...))
}

// each calls row for every row of the result.
func (tx *Tx) each(doing, query string, args []any, row func(scan func(...any) error) error) error {
	rows, err := tx.tx.QueryContext(tx.ctx, query, args...)
	if err != nil {
		return tx.s.fault(doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return tx.s.fault(doing, err)
		}
	}
	return tx.s.fault(doing, rows.Err())
}

// count reads a single number.
func (tx *Tx) count(doing, query string, args ...any) (int64, error) {
	var n int64
	err := tx.one(doing, query, args, &n)
	return n, err
}

// nanos is how a time is kept: nanoseconds since 1970, 0 for no time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// flag is how a truth value is kept.
func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// storable reports whether both engines keep s as it is: PostgreSQL's text
// takes neither NUL nor bytes that are not UTF-8, SQLite's would, and a search
// for such a name must find nothing on either.
func storable(s string, limit int) bool {
	return len(s) <= limit && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// maxText is the longest free text of a single field, in bytes.
const maxText = 2048

// checkText refuses what is not storable.
func checkText(what, s string) error {
	if !storable(s, maxText) {
		return fmt.Errorf("%w: the %s must be text of at most %d bytes", ErrInvalid, what, maxText)
	}
	return nil
}
