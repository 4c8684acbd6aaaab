package store

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/warrenmesh/warren/peer/account"
)

// SealedPersonKey is the row of a person's key, as it is in the database.
func SealedPersonKey(ctx context.Context, s *Store, u account.UserID) (b []byte, err error) {
	err = s.View(ctx, func(tx *Tx) error {
		return tx.one("testing", selectPersonKey, []any{int64(u)}, &b)
	})
	return b, err
}

// Decrypted is every page of a SQLCipher file and of its write-ahead log, with
// the free ones and those that a newer one replaced, as whoever has the master
// key could read them.
func Decrypted(cfg Config) ([]byte, error) {
	k, err := newCipherKey(cfg.Key)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(k.raw)
	if err != nil {
		return nil, err
	}
	var out []byte
	page := func(p []byte, from int) {
		end := pageSize - pageTag - aes.BlockSize
		plain := make([]byte, end-from)
		cipher.NewCBCDecrypter(block, p[end:end+aes.BlockSize]).CryptBlocks(plain, p[from:end])
		out = append(out, plain...)
	}
	text, err := os.ReadFile(cfg.Path)
	if err != nil {
		return nil, err
	}
	for n := 0; n+pageSize <= len(text); n += pageSize {
		if from := 0; n == 0 {
			page(text[:pageSize], from+saltSize)
			continue
		}
		page(text[n:n+pageSize], 0)
	}
	log, err := os.ReadFile(cfg.Path + "-wal")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for n := 32; n+24+pageSize <= len(log); n += 24 + pageSize {
		page(log[n+24:n+24+pageSize], 0)
		page(log[n+24:n+24+pageSize], saltSize) // if it is the first page
	}
	return out, nil
}

// OpenedBackup is what a backup holds, as whoever has its passphrase reads it.
func OpenedBackup(saved, passphrase []byte) ([]byte, error) {
	r, err := newSealReader(bytes.NewReader(saved), lock{passphrase, nil})
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// Tables reads every row of every table.
func Tables(ctx context.Context, s *Store) (rows []byte, err error) {
	list := `SELECT name FROM sqlite_master WHERE type = 'table'`
	if s.lock == nil {
		list = `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()`
	}
	err = s.View(ctx, func(tx *Tx) error {
		var names []string
		if err := tx.each("testing", list, nil, func(scan func(...any) error) error {
			var n string
			err := scan(&n)
			names = append(names, n)
			return err
		}); err != nil {
			return err
		}
		for _, n := range names {
			part, err := tx.wholeTable(n)
			if err != nil {
				return err
			}
			rows = append(rows, part...)
		}
		return nil
	})
	return rows, err
}

func (tx *Tx) wholeTable(name string) (out []byte, err error) {
	rows, err := tx.tx.QueryContext(tx.ctx, `SELECT * FROM `+name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		values := make([][]byte, len(columns))
		dest := make([]any, len(columns))
		for i := range values {
			dest[i] = &values[i]
		}
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		out = append(append(out, name+": "...), bytes.Join(values, []byte(" | "))...)
		out = append(out, '\n')
	}
	return out, rows.Err()
}
