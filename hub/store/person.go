package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"

	"github.com/warrenmesh/warren/peer/account"
)

// Each person has a key of their own, 32 random bytes, and what is personal is
// sealed under it. The key is one row of person_keys, itself sealed under the
// master key, and goes into no backup but the small file that BackupPeople
// writes. To erase somebody is to destroy that key: whatever is left of them,
// in a page that was not overwritten or in a backup of last year, is noise.

// errErased: what was asked for is sealed under the key of a person who was
// erased. It is an ErrNotFound too: to the rest of the program it is gone.
var errErased = fmt.Errorf("the person was erased: %w", ErrNotFound)

const selectPersonKey = `SELECT key FROM person_keys WHERE user_id = $1`

// newPersonKey makes a person's key; ErrExists if there is one.
func (tx *Tx) newPersonKey(u account.UserID) error {
	key := make([]byte, keySize)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("making a person's key: %w", err)
	}
	return tx.putPersonKey(u, key)
}

func (tx *Tx) putPersonKey(u account.UserID, key []byte) error {
	if u <= 0 || len(key) != keySize {
		return fmt.Errorf("%w: a person's key", ErrInvalid)
	}
	b, err := tx.s.seal.seal("person_keys", "key", personRow(u), key)
	if err != nil {
		return err
	}
	return tx.exec("writing a person's key", `INSERT INTO person_keys (user_id, key) VALUES ($1, $2)`, int64(u), b)
}

// dropPersonKey destroys a person's key: nothing sealed under it opens again.
// One that is gone already is no error.
func (tx *Tx) dropPersonKey(u account.UserID) error {
	delete(tx.people, u)
	return tx.exec("destroying a person's key", `DELETE FROM person_keys WHERE user_id = $1`, int64(u))
}

// sealFor seals a value under a person's key, for one place in the database;
// row is the row's primary key as text. errErased if the person has no key.
func (tx *Tx) sealFor(u account.UserID, table, column, row string, plain []byte) ([]byte, error) {
	s, err := tx.person(u)
	if err != nil {
		return nil, err
	}
	return s.seal(table, column, row, plain)
}

// openFor opens what sealFor sealed for the same place; errErased if the
// person's key is gone.
func (tx *Tx) openFor(u account.UserID, table, column, row string, sealed []byte) ([]byte, error) {
	s, err := tx.person(u)
	if err != nil {
		return nil, err
	}
	return s.open(table, column, row, sealed)
}

// person returns what seals under a person's key.
func (tx *Tx) person(u account.UserID) (*sealer, error) {
	if s, ok := tx.people[u]; ok {
		return s, nil
	}
	var b []byte
	err := tx.asSystem(func() error {
		return tx.one("reading a person's key", selectPersonKey, []any{int64(u)}, &b)
	})
	if errors.Is(err, ErrNotFound) {
		return nil, errErased
	}
	if err != nil {
		return nil, err
	}
	key, err := tx.s.seal.open("person_keys", "key", personRow(u), b)
	if err != nil {
		return nil, err
	}
	aead, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	if tx.people == nil {
		tx.people = make(map[account.UserID]*sealer)
	}
	tx.people[u] = &sealer{aead}
	return tx.people[u], nil
}

func personRow(u account.UserID) string { return strconv.FormatInt(int64(u), 10) }
