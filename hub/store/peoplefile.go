package store

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/warrenmesh/warren/peer/account"
)

// A people file goes with a backup and holds the one thing that the backup does
// not: people's keys. It is
//
//	"warren-people-1\n"  16 bytes
//	lock, salt, time, memory, lanes, check: as in a backup
//	count                8 bytes, big endian
//	people               68 bytes each: number, nonce, sealed key and tag
//
// Every key is sealed by itself (AES-256-GCM, the number authenticated with
// it), so that somebody can be taken out without the passphrase: their nonce
// and key become zeros, and the number stays, saying so. To remove a person is
// all that can be done to the file without its key, and the file cannot tell by
// whom it was done; who can write to it could delete it as well.
const (
	peopleMagic  = "warren-people-1\n"
	peopleHeader = backupHeader + sha256.Size + 8
	personSize   = 8 + 12 + keySize + tagSize
	maxPeople    = 1 << 20
)

// BackupPeople writes people's keys, and the numbers of those who were erased,
// to w. The lock is as in Backup. Take it after the backup it goes with, so
// that nobody in that one is missing in this. Without this file a backup brings
// back no person and none of their data; an erased person is not in it, or is
// taken out by ForgetInBackups if it was written to a place that this store
// knows: see BackupPeopleTo.
func (s *Store) BackupPeople(ctx context.Context, w io.Writer, passphrase []byte) error {
	text, err := s.peopleFile(ctx, passphrase)
	if err == nil {
		_, err = w.Write(text)
	}
	if err != nil {
		return fmt.Errorf("writing people's keys: %w", err)
	}
	return nil
}

func (s *Store) peopleFile(ctx context.Context, passphrase []byte) ([]byte, error) {
	l := lock{passphrase, s.backupKey}
	header, err := l.newHeader()
	if err != nil {
		return nil, err
	}
	copy(header, peopleMagic)
	aead, check, err := l.keys(header)
	if err != nil {
		return nil, err
	}
	var people []byte
	if err := s.viewSlowly(ctx, func(tx *Tx) error {
		people, err = tx.sealPeople(func(u account.UserID, key []byte) ([]byte, error) {
			nonce := make([]byte, 12)
			if _, err := rand.Read(nonce); err != nil {
				return nil, fmt.Errorf("sealing a person's key: %w", err)
			}
			return aead.Seal(nonce, nonce, key, personNumber(u)), nil
		})
		return err
	}); err != nil {
		return nil, err
	}
	out := binary.BigEndian.AppendUint64(append(header, check...), uint64(len(people)/personSize))
	return append(out, people...), nil
}

func personNumber(u account.UserID) []byte { return binary.BigEndian.AppendUint64(nil, uint64(u)) }

// sealPeople makes the entries of a people file: those who have a key, then
// those who were erased.
func (tx *Tx) sealPeople(seal func(account.UserID, []byte) ([]byte, error)) ([]byte, error) {
	var out []byte
	err := tx.each("reading people's keys", `SELECT user_id, key FROM person_keys ORDER BY user_id`, nil, func(scan func(...any) error) error {
		var n int64
		var b []byte
		if err := scan(&n, &b); err != nil {
			return err
		}
		u := account.UserID(n)
		key, err := tx.s.seal.open("person_keys", "key", personRow(u), b)
		if err != nil {
			return err
		}
		sealed, err := seal(u, key)
		out = append(append(out, personNumber(u)...), sealed...)
		return err
	})
	if err != nil {
		return nil, err
	}
	gone, err := tx.ledger(`SELECT user_id FROM erased WHERE done > 0 ORDER BY user_id`)
	for _, u := range gone {
		out = append(append(out, personNumber(u)...), make([]byte, personSize-8)...)
	}
	return out, err
}

// peopleIn is what a people file says.
type peopleIn struct {
	keys   map[account.UserID][]byte
	erased []account.UserID
}

// readPeople reads a people file; nil is none.
func readPeople(r io.Reader, l lock) (peopleIn, error) {
	in := peopleIn{keys: make(map[account.UserID][]byte)}
	if r == nil {
		return in, nil
	}
	text, err := readPeopleText(r)
	if err != nil {
		return in, err
	}
	aead, check, err := l.keys(text[:backupHeader])
	if err != nil {
		return in, err
	}
	if !hmac.Equal(check, text[backupHeader:backupHeader+sha256.Size]) {
		return in, ErrBackupKey
	}
	for p := text[peopleHeader:]; len(p) > 0; p = p[personSize:] {
		u := account.UserID(binary.BigEndian.Uint64(p))
		if u <= 0 || in.keys[u] != nil {
			return in, fmt.Errorf("%w: the file with people's keys is altered", ErrBackup)
		}
		if allZero(p[8:personSize]) {
			in.erased = append(in.erased, u)
			continue
		}
		key, err := aead.Open(nil, p[8:20], p[20:personSize], p[:8])
		if err != nil {
			return in, fmt.Errorf("%w: the key of person %v in the file with people's keys is altered", ErrBackup, u)
		}
		in.keys[u] = key
	}
	return in, nil
}

// readPeopleText reads a people file and checks its form.
func readPeopleText(r io.Reader) ([]byte, error) {
	const most = peopleHeader + maxPeople*personSize
	text, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err != nil {
		return nil, fmt.Errorf("reading people's keys: %w", err)
	}
	if !bytes.HasPrefix(text, []byte(peopleMagic)) {
		return nil, fmt.Errorf("%w: it is not a file with people's keys", ErrBackup)
	}
	if len(text) < peopleHeader {
		return nil, fmt.Errorf("%w: the file with people's keys is truncated", ErrBackup)
	}
	n := binary.BigEndian.Uint64(text[peopleHeader-8:])
	if n > maxPeople || len(text) != peopleHeader+int(n)*personSize {
		return nil, fmt.Errorf("%w: the file with people's keys is truncated, or has grown", ErrBackup)
	}
	return text, nil
}

// dropPeople returns a people file without some people, and where in it they
// were; nil if none of them has a key in it.
func dropPeople(text []byte, people []account.UserID) (out []byte, at []int64) {
	for i := peopleHeader; i < len(text); i += personSize {
		u := account.UserID(binary.BigEndian.Uint64(text[i:]))
		if slices.Contains(people, u) && !allZero(text[i+8:i+personSize]) {
			at = append(at, int64(i+8))
		}
	}
	if at == nil {
		return nil, nil
	}
	out = bytes.Clone(text)
	for _, i := range at {
		clear(out[i : i+personSize-8])
	}
	return out, at
}

// DropFromPeople copies a people file without some people, for a copy that the
// hub cannot reach. It needs no passphrase.
func DropFromPeople(r io.Reader, w io.Writer, people ...account.UserID) error {
	text, err := readPeopleText(r)
	if err != nil {
		return err
	}
	if out, at := dropPeople(text, people); at != nil {
		text = out
	}
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("writing people's keys: %w", err)
	}
	return nil
}

// loadPeople gives the people of a restored backup their keys and the indexes
// they are found by, and leaves out those who have no key: without it there is
// no address, no password and no data of theirs, only a number.
func (tx *Tx) loadPeople(in peopleIn, erased []account.UserID) (found int, lost []account.UserID, err error) {
	at, err := newAccountTx(tx)
	if err != nil {
		return 0, nil, err
	}
	all, err := tx.ledger(`SELECT id FROM users ORDER BY id`)
	if err != nil {
		return 0, nil, err
	}
	erased = append(slices.Clone(erased), in.erased...)
	for _, u := range all {
		key, ok := in.keys[u]
		if ok && !slices.Contains(erased, u) {
			if err := errors.Join(tx.putPersonKey(u, key), at.reindex(u)); err != nil {
				return 0, nil, err
			}
			found++
			continue
		}
		lost = append(lost, u)
		if err := tx.removePerson(u); err != nil {
			return 0, nil, err
		}
	}
	for u := range in.keys {
		if err := tx.skipUser(u); err != nil {
			return 0, nil, err
		}
	}
	return found, lost, tx.AddErased(erased...)
}

// reindex makes the indexes of a person anew, which no backup holds: with the
// store's secret, which it does hold, one could try addresses on them.
func (tx *accountTx) reindex(id account.UserID) error {
	u, err := tx.User(id)
	if err != nil {
		return unreadable(err)
	}
	return tx.must("indexing person", `UPDATE users SET email_idx = $1, name_idx = $2 WHERE id = $3`, tx.emailIndex(u.Email), tx.nameIndex(u), int64(id))
}

// skipUser makes sure that a number that somebody has, or had, is never given
// to another.
func (tx *Tx) skipUser(u account.UserID) error {
	b, err := tx.meta(metaUsers)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if last, err := strconv.ParseInt(string(b), 10, 64); err == nil && last >= int64(u) {
		return nil
	}
	return tx.setMeta(metaUsers, strconv.AppendInt(nil, int64(u), 10))
}
