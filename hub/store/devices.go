package store

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// CreateDevice keeps a device authorization; ErrExists if its user code is
// another's that has not ended. The user code is short, so it is sealed and
// found by an index.
func (tx *accountTx) CreateDevice(d account.Device) error {
	fail := func(err error) error { return fmt.Errorf("writing device authorization: %w", err) }
	if err := tx.checkDevice(d); err != nil {
		return fail(err)
	}
	if d.Created.IsZero() {
		d.Created = tx.now
	}
	if err := tx.exec("dropping old device authorizations", `DELETE FROM devices WHERE expires <= $1 OR (peer = $2 AND hash NOT IN (
		SELECT hash FROM devices WHERE peer = $3 ORDER BY created DESC, hash LIMIT $4))`, nanos(tx.now), string(d.Peer), string(d.Peer), maxRequests-1); err != nil {
		return err
	}
	code, err := tx.s.seal.seal("devices", "code", hex.EncodeToString(d.Hash), []byte(d.UserCode))
	if err != nil {
		return fail(err)
	}
	n, err := tx.change("writing device authorization", `INSERT INTO devices (hash, code, code_idx, client, scope, peer, peer_key, created, expires,
		last_poll, user_id, household, denied, auth_time, methods, redeemed)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, '', 0, 0, '', 0) ON CONFLICT DO NOTHING`,
		d.Hash, code, tx.deviceIndex(d.UserCode), d.Client, d.Scope, string(d.Peer), d.Key[:], nanos(d.Created), nanos(d.Expires))
	if err == nil && n == 0 {
		err = fail(ErrExists)
	}
	return err
}

func (tx *accountTx) deviceIndex(code string) []byte { return tx.index("devices", code) }

func (tx *accountTx) checkDevice(d account.Device) error {
	if err := checkHash("device code's hash", d.Hash); err != nil {
		return err
	}
	if err := checkLabel("user code", d.UserCode); err != nil {
		return err
	}
	if err := checkMachine(d.Peer, d.Key); err != nil {
		return err
	}
	if err := checkText("scope", d.Scope); err != nil {
		return err
	}
	if !d.Expires.After(tx.now) || d.User != 0 || d.Denied || !d.Redeemed.IsZero() {
		return fmt.Errorf("%w: it would have ended already", ErrInvalid)
	}
	_, err := tx.Client(d.Client)
	return err
}

const selectDevices = `SELECT hash, code, client, scope, peer, peer_key, created, expires, last_poll, user_id, household, denied, auth_time, methods, redeemed FROM devices`

// Device finds one by its device code's hash, ended ones too until they are
// pruned.
func (tx *accountTx) Device(hash []byte) (account.Device, error) {
	if len(hash) == 0 {
		return account.Device{}, ErrNotFound
	}
	return only(tx.devices(selectDevices+` WHERE hash = $1`, hash))
}

// DeviceByUserCode finds one by its user code.
func (tx *accountTx) DeviceByUserCode(code string) (account.Device, error) {
	return only(tx.devices(selectDevices+` WHERE code_idx = $1`, tx.deviceIndex(code)))
}

func (tx *accountTx) devices(query string, args ...any) ([]account.Device, error) {
	var list []account.Device
	err := tx.each("reading device authorizations", query, args, func(scan func(...any) error) error {
		var d account.Device
		var id, h, methods string
		var code, key []byte
		var created, expires, poll, user, denied, auth, redeemed int64
		err := scan(&d.Hash, &code, &d.Client, &d.Scope, &id, &key, &created, &expires, &poll, &user, &h, &denied, &auth, &methods, &redeemed)
		if err != nil {
			return err
		}
		if code, err = tx.s.seal.open("devices", "code", hex.EncodeToString(d.Hash), code); err != nil {
			return err
		}
		if d.Key, err = scanPeerKey(key); err != nil {
			return fmt.Errorf("device authorization: %w", err)
		}
		d.UserCode, d.Peer, d.User, d.Household = string(code), peer.ID(id), account.UserID(user), account.HouseholdID(h)
		d.Denied, d.Methods = denied != 0, strings.Fields(methods)
		d.Created, d.Expires, d.LastPoll = fromNanos(created), fromNanos(expires), fromNanos(poll)
		d.AuthTime, d.Redeemed = fromNanos(auth), fromNanos(redeemed)
		list = append(list, d)
		return nil
	})
	return list, err
}

// PollDevice notes that the device asked.
func (tx *accountTx) PollDevice(hash []byte) error {
	if len(hash) == 0 {
		return ErrNotFound
	}
	return tx.must("noting poll", `UPDATE devices SET last_poll = $1 WHERE hash = $2`, nanos(tx.now), hash)
}

// DecideDevice sets who decided what, in one statement: the first one stays.
func (tx *accountTx) DecideDevice(code string, u account.UserID, h account.HouseholdID, denied bool, at time.Time, methods []string) error {
	words, err := tx.checkDecision(u, h, methods)
	if err != nil {
		return fmt.Errorf("deciding: %w", err)
	}
	there := func() error { _, err := tx.DeviceByUserCode(code); return err }
	return tx.once("deciding", there, `UPDATE devices SET user_id = $1, household = $2, denied = $3, auth_time = $4, methods = $5 WHERE code_idx = $6 AND user_id = 0 AND expires > $7`,
		int64(u), string(h), flag(denied), nanos(at), words, tx.deviceIndex(code), nanos(tx.now))
}

// RedeemDevice marks an authorization that was agreed to exchanged, in one
// statement; ErrConflict if it was, was denied, is undecided or expired.
func (tx *accountTx) RedeemDevice(hash []byte) error {
	if len(hash) == 0 {
		return ErrNotFound
	}
	there := func() error { _, err := tx.Device(hash); return err }
	return tx.once("redeeming device", there, `UPDATE devices SET redeemed = $1 WHERE hash = $2 AND user_id <> 0 AND denied = 0 AND redeemed = 0 AND expires > $3`,
		nanos(tx.now), hash, nanos(tx.now))
}

// maxSigningKeys is how many there are at most; 30 days each, with overlap, two
// are in use.
const maxSigningKeys = 16

// SigningKeys lists them, oldest first.
func (tx *accountTx) SigningKeys() ([]account.SigningKey, error) {
	var list []account.SigningKey
	err := tx.each("reading signing keys", `SELECT id, private, created, not_before, retires, expires FROM signing_keys ORDER BY created, id`, nil, func(scan func(...any) error) error {
		var k account.SigningKey
		var created, begins, retires, expires int64
		err := scan(&k.ID, &k.Private, &created, &begins, &retires, &expires)
		if err != nil {
			return err
		}
		if k.Private, err = tx.s.seal.open("signing_keys", "private", k.ID, k.Private); err != nil {
			return err
		}
		k.Created, k.NotBefore, k.Retires, k.Expires = fromNanos(created), fromNanos(begins), fromNanos(retires), fromNanos(expires)
		list = append(list, k)
		return nil
	})
	return list, err
}

// PutSigningKey adds a key, or changes when one retires and expires.
func (tx *accountTx) PutSigningKey(k account.SigningKey) error {
	fail := func(err error) error { return fmt.Errorf("writing signing key: %w", err) }
	if err := checkLabel("key's id", k.ID); err != nil {
		return fail(err)
	}
	if len(k.Private) == 0 || len(k.Private) > 4096 {
		return fail(fmt.Errorf("%w: the key is empty or too large", ErrInvalid))
	}
	n, err := tx.count("counting signing keys", `SELECT COUNT(*) FROM signing_keys WHERE id <> $1`, k.ID)
	if err != nil {
		return fail(err)
	}
	if n >= maxSigningKeys {
		return fail(fmt.Errorf("there are %d already: %w", n, ErrConflict))
	}
	if k.Created.IsZero() {
		k.Created = tx.now
	}
	private, err := tx.s.seal.seal("signing_keys", "private", k.ID, k.Private)
	if err != nil {
		return fail(err)
	}
	return tx.exec("writing signing key", `INSERT INTO signing_keys (id, private, created, not_before, retires, expires) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO UPDATE SET not_before = excluded.not_before, retires = excluded.retires, expires = excluded.expires`,
		k.ID, private, nanos(k.Created), nanos(k.NotBefore), nanos(k.Retires), nanos(k.Expires))
}

// DeleteSigningKey removes one for good.
func (tx *accountTx) DeleteSigningKey(id string) error {
	if !storable(id, maxLabel) {
		return ErrNotFound
	}
	return tx.must("removing signing key", `DELETE FROM signing_keys WHERE id = $1`, id)
}
