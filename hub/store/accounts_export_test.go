package store

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/warrenmesh/warren/peer/account"
)

// The bounds that tests go to.
const (
	MaxFailures = maxFailures
	MaxKnown    = maxKnown
	MaxRequests = maxRequests
)

// FillFailures counts one failure under each of n keys, all at one moment.
func FillFailures(ctx context.Context, a account.Store, n int, at time.Time) error {
	return a.Keep(ctx, func(at2 account.Tx) error {
		tx := at2.(*accountTx)
		for i := range n {
			if err := tx.exec("filling", `INSERT INTO failures (key_idx, count, last_at) VALUES ($1, 1, $2)`,
				tx.failureIndex(fmt.Sprint("fill", i)), nanos(at)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Dump returns every value of every table as whoever holds the database reads
// it: of SQLCipher, with the file's key besides.
func Dump(ctx context.Context, s *Store) (tables map[string]int, values [][]byte, err error) {
	list := `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`
	if s.engine.name == "postgresql" {
		list = `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()`
	}
	tables = make(map[string]int)
	err = s.View(ctx, func(tx *Tx) error {
		var names []string
		if err := tx.each("listing tables", list, nil, func(scan func(...any) error) error {
			var name string
			err := scan(&name)
			names = append(names, name)
			return err
		}); err != nil {
			return err
		}
		for _, name := range names {
			rows, err := tx.tx.QueryContext(ctx, `SELECT * FROM `+name)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			n, got, err := dumpRows(rows)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			tables[name], values = n, append(values, got...)
		}
		return nil
	})
	return tables, values, err
}

func dumpRows(rows *sql.Rows) (n int, values [][]byte, err error) {
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, nil, err
	}
	for ; rows.Next(); n++ {
		row := make([]any, len(columns))
		dest := make([]any, len(columns))
		for i := range row {
			dest[i] = &row[i]
		}
		if err := rows.Scan(dest...); err != nil {
			return 0, nil, err
		}
		for _, v := range row {
			switch v := v.(type) {
			case []byte:
				values = append(values, bytes.Clone(v))
			default:
				values = append(values, fmt.Append(nil, v))
			}
		}
	}
	return n, values, rows.Err()
}

// Unwrap returns the store behind accounts.
func Unwrap(a account.Store) *Store { return a.(accounts).s }
