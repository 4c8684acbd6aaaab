package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// How much is kept of what grows by itself: the oldest go first.
const (
	maxFailures = 20_000 // counts of failed sign-ins
	maxKnown    = 64     // machines that a person signed in from
)

// The most of each that one person has.
const (
	maxPasskeys = 32
	maxRecovery = 32
)

// The largest of each, in bytes. 1023 is the limit of WebAuthn, section 4.
const (
	maxTOTP          = 128
	maxPasskeyID     = 1023
	maxPasskeyRecord = 64 << 10
)

func checkPasswordHash(hash string) error {
	if !storable(hash, maxPassword) {
		return fmt.Errorf("%w: a password's hash must be text of at most %d bytes", ErrInvalid, maxPassword)
	}
	return nil
}

// Secrets returns what a person proves themselves with.
func (tx *accountTx) Secrets(u account.UserID) (account.Secrets, error) {
	var s account.Secrets
	var password, totp []byte
	var confirmed int64
	if err := tx.one("reading secrets", `SELECT password, totp, confirmed, last_step FROM users WHERE id = $1`, []any{int64(u)},
		&password, &totp, &confirmed, &s.LastStep); err != nil {
		return account.Secrets{}, err
	}
	plain, err := tx.openFor(u, "users", "password", u.String(), password)
	if err != nil {
		return account.Secrets{}, err
	}
	if totp, err = tx.openFor(u, "users", "totp", u.String(), totp); err != nil {
		return account.Secrets{}, err
	}
	if len(totp) > 0 {
		s.TOTP = totp
	}
	s.Password, s.Confirmed = string(plain), confirmed != 0
	return s, nil
}

// SetPassword replaces the password's hash; "" leaves none.
func (tx *accountTx) SetPassword(u account.UserID, hash string) error {
	if err := checkPasswordHash(hash); err != nil {
		return fmt.Errorf("setting password: %w", err)
	}
	b, err := tx.sealFor(u, "users", "password", u.String(), []byte(hash))
	if err != nil {
		return fmt.Errorf("setting password: %w", err)
	}
	return tx.must("setting password", `UPDATE users SET password = $1 WHERE id = $2`, b, int64(u))
}

// SetTOTP replaces the secret and all recovery codes. The last step used is
// forgotten with the secret it was for: confirming the one that is there does
// not let its code be used again.
func (tx *accountTx) SetTOTP(u account.UserID, secret []byte, confirmed bool, recovery [][]byte) error {
	fail := func(err error) error { return fmt.Errorf("setting second factor: %w", err) }
	if len(secret) > maxTOTP || len(recovery) > maxRecovery {
		return fail(fmt.Errorf("%w: a secret of at most %d bytes with at most %d recovery codes", ErrInvalid, maxTOTP, maxRecovery))
	}
	if len(secret) == 0 && (confirmed || len(recovery) > 0) {
		return fail(fmt.Errorf("%w: without a secret there is nothing to confirm or recover", ErrInvalid))
	}
	old, err := tx.Secrets(u)
	if err != nil {
		return fail(err)
	}
	step := int64(0)
	if string(old.TOTP) == string(secret) {
		step = old.LastStep
	}
	b, err := tx.sealFor(u, "users", "totp", u.String(), secret)
	if err != nil {
		return fail(err)
	}
	if err := tx.must("setting second factor", `UPDATE users SET totp = $1, confirmed = $2, last_step = $3 WHERE id = $4`, b, flag(confirmed), step, int64(u)); err != nil {
		return err
	}
	if err := tx.exec("removing recovery codes", `DELETE FROM recovery_codes WHERE user_id = $1`, int64(u)); err != nil {
		return err
	}
	for _, hash := range recovery {
		if err := checkHash("recovery code's hash", hash); err != nil {
			return fail(err)
		}
		if err := tx.exec("writing recovery code", `INSERT INTO recovery_codes (code_idx, user_id) VALUES ($1, $2)`, tx.recoveryIndex(u, hash), int64(u)); err != nil {
			return err
		}
	}
	return nil
}

func (tx *accountTx) recoveryIndex(u account.UserID, hash []byte) []byte {
	return tx.index("recovery_codes", u.String()+"\x00"+string(hash))
}

// UseStep marks a time step used, in one statement: of any number who come with
// the same code one gets in.
func (tx *accountTx) UseStep(u account.UserID, step int64) error {
	return tx.once("using code", func() error { return tx.userThere(u) },
		`UPDATE users SET last_step = $1 WHERE id = $2 AND last_step < $3`, step, int64(u), step)
}

func (tx *accountTx) userThere(u account.UserID) error {
	return tx.there("looking for person", `SELECT COUNT(*) FROM users WHERE id = $1`, int64(u))
}

// there is ErrNotFound if a query counts nothing.
func (tx *Tx) there(doing, query string, args ...any) error {
	n, err := tx.count(doing, query, args...)
	if err == nil && n == 0 {
		err = fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	return err
}

// UseRecovery uses up a recovery code, in one statement.
func (tx *accountTx) UseRecovery(u account.UserID, hash []byte) error {
	return tx.must("using recovery code", `DELETE FROM recovery_codes WHERE code_idx = $1 AND user_id = $2`, tx.recoveryIndex(u, hash), int64(u))
}

const selectPasskeys = `SELECT id, user_id, name, record, created, last_used FROM passkeys`

// Passkeys lists a person's, oldest first.
func (tx *accountTx) Passkeys(u account.UserID) ([]account.Passkey, error) {
	return tx.passkeys(selectPasskeys+` WHERE user_id = $1 ORDER BY created, id`, int64(u))
}

// PasskeyByID finds one by its credential id.
func (tx *accountTx) PasskeyByID(id []byte) (account.Passkey, error) {
	if len(id) == 0 || len(id) > maxPasskeyID {
		return account.Passkey{}, ErrNotFound
	}
	return only(tx.passkeys(selectPasskeys+` WHERE id = $1`, id))
}

func (tx *accountTx) passkeys(query string, args ...any) ([]account.Passkey, error) {
	var keys []account.Passkey
	var names [][]byte
	err := tx.each("reading passkeys", query, args, func(scan func(...any) error) error {
		var k account.Passkey
		var name []byte
		var user, created, used int64
		if err := scan(&k.ID, &user, &name, &k.Record, &created, &used); err != nil {
			return err
		}
		k.User, k.Created, k.LastUsed = account.UserID(user), fromNanos(created), fromNanos(used)
		keys, names = append(keys, k), append(names, name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range keys {
		k := &keys[i]
		name, err := tx.openFor(k.User, "passkeys", "name", hex.EncodeToString(k.ID), names[i])
		if err != nil {
			return nil, fmt.Errorf("reading passkey: %w", err)
		}
		k.Name = string(name)
		if k.Record, err = tx.openFor(k.User, "passkeys", "record", hex.EncodeToString(k.ID), k.Record); err != nil {
			return nil, fmt.Errorf("reading passkey: %w", err)
		}
	}
	return keys, nil
}

// PutPasskey adds a passkey or changes one; ErrExists if it is another
// person's, ErrConflict if the person has enough of them.
func (tx *accountTx) PutPasskey(k account.Passkey) error {
	fail := func(err error) error { return fmt.Errorf("writing passkey: %w", err) }
	if len(k.ID) == 0 || len(k.ID) > maxPasskeyID || len(k.Record) == 0 || len(k.Record) > maxPasskeyRecord {
		return fail(fmt.Errorf("%w: the credential is empty or too large", ErrInvalid))
	}
	if err := checkShort("passkey's name", k.Name); err != nil {
		return fail(err)
	}
	if k.Created.IsZero() {
		k.Created = tx.now
	}
	if err := tx.userThere(k.User); err != nil {
		return fail(err)
	}
	n, err := tx.count("counting passkeys", `SELECT COUNT(*) FROM passkeys WHERE user_id = $1 AND id <> $2`, int64(k.User), k.ID)
	if err != nil {
		return fail(err)
	}
	if n >= maxPasskeys {
		return fail(fmt.Errorf("a person has at most %d: %w", maxPasskeys, ErrConflict))
	}
	name, err := tx.sealFor(k.User, "passkeys", "name", hex.EncodeToString(k.ID), []byte(k.Name))
	if err != nil {
		return fail(err)
	}
	record, err := tx.sealFor(k.User, "passkeys", "record", hex.EncodeToString(k.ID), k.Record)
	if err != nil {
		return fail(err)
	}
	n, err = tx.change("writing passkey", `INSERT INTO passkeys (id, user_id, name, record, created, last_used) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, record = excluded.record, last_used = excluded.last_used
		WHERE passkeys.user_id = excluded.user_id`, k.ID, int64(k.User), name, record, nanos(k.Created), nanos(k.LastUsed))
	if err == nil && n == 0 {
		err = fail(ErrExists)
	}
	return err
}

// DeletePasskey removes one of a person's.
func (tx *accountTx) DeletePasskey(u account.UserID, id []byte) error {
	return tx.must("removing passkey", `DELETE FROM passkeys WHERE user_id = $1 AND id = $2`, int64(u), append([]byte{}, id...))
}

// failureIndex hides the key: it can hold an address that somebody typed.
func (tx *accountTx) failureIndex(key string) []byte { return tx.index("failures", key) }

// Failures counts failed sign-ins under a key since the last Forgive.
func (tx *accountTx) Failures(key string) (n int, last time.Time, err error) {
	var count, at int64
	err = tx.one("reading failures", `SELECT count, last_at FROM failures WHERE key_idx = $1`, []any{tx.failureIndex(key)}, &count, &at)
	if errors.Is(err, ErrNotFound) {
		return 0, time.Time{}, nil
	}
	return int(count), fromNanos(at), err
}

// Fail counts one more. Of all counts the oldest go beyond a bound.
func (tx *accountTx) Fail(key string) error {
	if err := tx.exec("counting failure", `INSERT INTO failures (key_idx, count, last_at) VALUES ($1, 1, $2)
		ON CONFLICT (key_idx) DO UPDATE SET count = failures.count + 1, last_at = excluded.last_at`, tx.failureIndex(key), nanos(tx.now)); err != nil {
		return err
	}
	n, err := tx.count("counting failures", `SELECT COUNT(*) FROM failures`)
	if err != nil || n <= maxFailures {
		return err
	}
	return tx.exec("dropping old failures", `DELETE FROM failures WHERE key_idx IN (SELECT key_idx FROM failures ORDER BY last_at, key_idx LIMIT $1)`, n-maxFailures)
}

// Forgive sets a count back to nothing.
func (tx *accountTx) Forgive(key string) error {
	return tx.exec("forgiving failures", `DELETE FROM failures WHERE key_idx = $1`, tx.failureIndex(key))
}

// ForgetFailures removes counts whose last failure is older.
func (tx *accountTx) ForgetFailures(before time.Time) error {
	return tx.exec("forgetting failures", `DELETE FROM failures WHERE last_at < $1`, nanos(before))
}

// Know notes that a person signed in from a machine; of many, the last are
// remembered.
func (tx *accountTx) Know(u account.UserID, p peer.ID) error {
	if err := checkLabel("machine's id", string(p)); err != nil {
		return err
	}
	if err := tx.userThere(u); err != nil {
		return err
	}
	if err := tx.exec("noting machine", `INSERT INTO known_machines (user_id, peer, last_seen) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, peer) DO UPDATE SET last_seen = excluded.last_seen`, int64(u), string(p), nanos(tx.now)); err != nil {
		return err
	}
	return tx.exec("dropping old machines", `DELETE FROM known_machines WHERE user_id = $1 AND peer NOT IN (
		SELECT peer FROM known_machines WHERE user_id = $2 ORDER BY last_seen DESC, peer LIMIT $3)`, int64(u), int64(u), maxKnown)
}

// Knows reports whether a person signed in from a machine.
func (tx *accountTx) Knows(u account.UserID, p peer.ID) (bool, error) {
	if !storable(string(p), maxLabel) {
		return false, nil
	}
	n, err := tx.count("looking for machine", `SELECT COUNT(*) FROM known_machines WHERE user_id = $1 AND peer = $2`, int64(u), string(p))
	return n > 0, err
}
