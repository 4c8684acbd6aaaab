package store

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// Accounts is the store as the account service knows it: the same
// transactions, over all households. What belongs to one household is reached
// through Data instead.
//
// What a person would be known by (address, name) and what they prove
// themselves with is sealed under the person's own key and found by an HMAC.
// Keys and tokens are kept as digests. Somebody who has the database, and not
// the master key, has nothing to sign in with.
func (s *Store) Accounts() account.Store { return accounts{s} }

type accounts struct{ s *Store }

func (a accounts) Do(ctx context.Context, ev account.Event, fn func(account.Tx) error) error {
	return a.s.update(ctx, func(tx *Tx) error {
		at, err := newAccountTx(tx)
		if err != nil {
			return err
		}
		if err := fn(at); err != nil {
			return err
		}
		return at.Record(ev)
	})
}

func (a accounts) Keep(ctx context.Context, fn func(account.Tx) error) error {
	return a.s.update(ctx, func(tx *Tx) error { return runAccounts(tx, fn) })
}

func (a accounts) View(ctx context.Context, fn func(account.Tx) error) error {
	return a.s.View(ctx, func(tx *Tx) error { return runAccounts(tx, fn) })
}

func runAccounts(tx *Tx, fn func(account.Tx) error) error {
	at, err := newAccountTx(tx)
	if err != nil {
		return err
	}
	return fn(at)
}

// accountTx is a transaction with the methods of account.Tx.
type accountTx struct {
	*Tx
	digestKey []byte
}

var _ account.Tx = (*accountTx)(nil)

// secretPrefix keeps the account service's secrets apart from the hub's own:
// by no name does it get at the hub's private keys.
const secretPrefix = "accounts."

const secretSize = 32

// newAccountTx reads the key of all digests. It is made by the first
// transaction that writes. A View before that gets one of its own: nothing was
// digested yet, and nothing will match.
func newAccountTx(tx *Tx) (*accountTx, error) {
	at := &accountTx{Tx: tx}
	var err error
	at.digestKey, err = at.Secret("digest")
	if !errors.Is(err, ErrNotFound) {
		return at, err
	}
	at.digestKey = make([]byte, secretSize)
	if _, err := rand.Read(at.digestKey); err != nil {
		return nil, fmt.Errorf("making secret: %w", err)
	}
	return at, nil
}

// Record adds an audit entry.
func (tx *accountTx) Record(ev account.Event) error {
	return tx.Tx.Record(audit.Event{Actor: ev.Actor, Action: ev.Action, Target: ev.Target, Detail: ev.Detail})
}

// Secret returns the account service's secret of that name, and makes it if
// the transaction writes; ErrNotFound in one that reads.
func (tx *accountTx) Secret(name string) ([]byte, error) {
	if err := checkMetaKey(secretPrefix + name); err != nil {
		return nil, err
	}
	b, err := tx.Tx.Secret(secretPrefix + name)
	if !errors.Is(err, ErrNotFound) || !tx.writes {
		return b, err
	}
	b = make([]byte, secretSize)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("making secret: %w", err)
	}
	return b, tx.SetSecret(secretPrefix+name, b)
}

// Digest is HMAC-SHA256 over the purpose, with its length, and the secret.
func (tx *accountTx) Digest(purpose string, secret []byte) []byte {
	return tx.hmac('d', purpose, secret)
}

// index is what a value is looked up by that the database must not show.
func (tx *accountTx) index(column, value string) []byte {
	return tx.hmac('i', column, []byte(value))
}

func (tx *accountTx) hmac(use byte, purpose string, value []byte) []byte {
	m := hmac.New(sha256.New, tx.digestKey)
	m.Write(binary.BigEndian.AppendUint64([]byte{use}, uint64(len(purpose))))
	m.Write([]byte(purpose))
	m.Write(value)
	return m.Sum(nil)
}

// fold gives all spellings of a text that differ in case alone the same form:
// each letter becomes the least of those that Unicode folds together.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, s)
}

// once is for a conditional UPDATE or DELETE of a single row: nil if it hit,
// else ErrConflict if there is such a row in another state, or ErrNotFound.
func (tx *Tx) once(doing string, there func() error, query string, args ...any) error {
	n, err := tx.change(doing, query, args...)
	if err != nil || n == 1 {
		return err
	}
	if err := there(); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", doing, ErrConflict)
}

// must is for an UPDATE or DELETE of a row that has to be there.
func (tx *Tx) must(doing, query string, args ...any) error {
	n, err := tx.change(doing, query, args...)
	if err == nil && n == 0 {
		err = fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	return err
}

// maxLabel is the longest name or id in an account, in bytes.
const maxLabel = 200

// checkLabel refuses a name or id that is empty, long or not printable.
func checkLabel(what, s string) error {
	if s == "" {
		return fmt.Errorf("%w: the %s is missing", ErrInvalid, what)
	}
	return checkShort(what, s)
}

// checkShort is checkLabel for a text that may be empty.
func checkShort(what, s string) error {
	if !storable(s, maxLabel) || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Errorf("%w: the %s must be printable text of at most %d bytes", ErrInvalid, what, maxLabel)
	}
	return nil
}

// checkHash refuses what is not the length of a SHA-256.
func checkHash(what string, b []byte) error {
	if len(b) != sha256.Size {
		return fmt.Errorf("%w: the %s must be %d bytes", ErrInvalid, what, sha256.Size)
	}
	return nil
}

// maxWords is the most words in a list.
const maxWords = 64

// joinWords makes one text of words, which must not be empty or hold blanks.
func joinWords(what string, words []string) (string, error) {
	if len(words) > maxWords {
		return "", fmt.Errorf("%w: more than %d %s", ErrInvalid, maxWords, what)
	}
	for _, w := range words {
		if err := checkLabel(what, w); err != nil {
			return "", err
		}
		if strings.ContainsFunc(w, unicode.IsSpace) {
			return "", fmt.Errorf("%w: blanks in %s", ErrInvalid, what)
		}
	}
	return strings.Join(words, " "), nil
}

// joinSet is joinWords for a list without order: sorted, each word once.
func joinSet(what string, words []string) (string, error) {
	return joinWords(what, slices.Compact(slices.Sorted(slices.Values(words))))
}

// scanPeerKey reads a machine's public key.
func scanPeerKey(b []byte) (peer.PublicKey, error) {
	if len(b) != peer.KeySize {
		return peer.PublicKey{}, fmt.Errorf("a machine's key: %w", ErrCorrupt)
	}
	return peer.PublicKey(b), nil
}
