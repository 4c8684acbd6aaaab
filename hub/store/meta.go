package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	getMeta = `SELECT value FROM meta WHERE key = $1`
	putMeta = `INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value`
)

// Meta returns a setting, ErrNotFound if it was never set.
func (tx *Tx) Meta(key string) (string, error) {
	if checkMetaKey(key) != nil {
		return "", ErrNotFound
	}
	b, err := tx.meta(key)
	return string(b), err
}

// SetMeta sets a setting: any bytes, up to 1 MiB, and not secret. A key is 1 to
// 100 printable ASCII characters and does not begin with "store.".
func (tx *Tx) SetMeta(key, value string) error {
	if err := checkMetaKey(key); err != nil {
		return err
	}
	if len(value) > maxValue {
		return fmt.Errorf("%w: setting %s is over %d bytes", ErrInvalid, key, maxValue)
	}
	return tx.setMeta(key, []byte(value))
}

// maxValue is the most that a setting or a secret takes, in bytes.
const maxValue = 1 << 20

func checkMetaKey(key string) error {
	if key == "" || len(key) > 100 || strings.HasPrefix(key, metaPrefix) ||
		strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%w: %.40q cannot be the name of a setting", ErrInvalid, key)
	}
	return nil
}

func (tx *Tx) meta(key string) ([]byte, error) {
	var b []byte
	err := tx.one("reading setting", getMeta, []any{key}, &b)
	return b, err
}

func (tx *Tx) setMeta(key string, value []byte) error {
	return tx.exec("writing setting", putMeta, key, value)
}

func (tx *Tx) sealedMeta(key string) ([]byte, error) {
	b, err := tx.meta(key)
	if err != nil {
		return nil, err
	}
	return tx.s.seal.open("meta", "value", key, b)
}

func (tx *Tx) setSealedMeta(key string, plain []byte) error {
	b, err := tx.s.seal.seal("meta", "value", key, plain)
	if err != nil {
		return err
	}
	return tx.setMeta(key, b)
}

// checkKey opens the value that build sealed. On SQLite the file's header has
// told a wrong key from damage before; on PostgreSQL this is what does: a value
// of the right form that does not open was sealed with another key.
func (tx *Tx) checkKey() error {
	sealed, err := tx.meta(metaKeyCheck)
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("the key check is missing: %w", ErrCorrupt)
	}
	if err != nil {
		return err
	}
	if len(sealed) != sealedSize(len(keyCheck)) || sealed[0] != sealVersion {
		return fmt.Errorf("the key check: %w", ErrCorrupt)
	}
	if plain, err := tx.s.seal.open("meta", "value", metaKeyCheck, sealed); err != nil || string(plain) != keyCheck {
		return ErrWrongKey
	}
	return nil
}

// Epoch is 1 in a new store and grows with each restore from a backup. What
// was issued in an earlier epoch (sessions, tokens) is void.
func (tx *Tx) Epoch() (uint64, error) {
	b, err := tx.meta(metaEpoch)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading epoch: %w", ErrCorrupt)
	}
	return n, nil
}

func (tx *Tx) setEpoch(n uint64) error {
	return tx.setMeta(metaEpoch, strconv.AppendUint(nil, n, 10))
}

// Plan returns the overlay's address plan, ErrNotFound before SetPlan.
func (tx *Tx) Plan() (Plan, error) {
	b, err := tx.meta(metaPlan)
	if errors.Is(err, ErrNotFound) {
		return Plan{}, fmt.Errorf("the network has not been chosen: %w", ErrNotFound)
	}
	if err != nil {
		return Plan{}, err
	}
	var p Plan
	if err := json.Unmarshal(b, &p); err != nil || p.Validate() != nil {
		return Plan{}, fmt.Errorf("reading network: %w", ErrCorrupt)
	}
	return p, nil
}

// SetPlan chooses the overlay's networks, once: afterwards every peer's
// configuration holds addresses from it, so another plan is ErrConflict.
func (tx *Tx) SetPlan(p Plan) error {
	if err := p.Validate(); err != nil {
		return err
	}
	old, err := tx.Plan()
	switch {
	case err == nil && old == p:
		return nil
	case err == nil:
		return fmt.Errorf("the network is %v already and cannot be changed: %w", old.V4, ErrConflict)
	case !errors.Is(err, ErrNotFound):
		return err
	}
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("writing network: %w", err)
	}
	return tx.setMeta(metaPlan, b)
}

// Secret returns a secret that SetSecret kept, ErrNotFound if there is none.
func (tx *Tx) Secret(name string) ([]byte, error) {
	if checkMetaKey(name) != nil {
		return nil, ErrNotFound
	}
	var b []byte
	if err := tx.one("reading secret", `SELECT value FROM secrets WHERE name = $1`, []any{name}, &b); err != nil {
		return nil, err
	}
	return tx.s.seal.open("secrets", "value", name, b)
}

// SetSecret keeps a secret of up to 1 MiB, sealed, under a name like a
// setting's. An empty one removes it.
func (tx *Tx) SetSecret(name string, value []byte) error {
	if err := checkMetaKey(name); err != nil {
		return err
	}
	if len(value) == 0 {
		return tx.exec("removing secret", `DELETE FROM secrets WHERE name = $1`, name)
	}
	if len(value) > maxValue {
		return fmt.Errorf("%w: secret %s is over %d bytes", ErrInvalid, name, maxValue)
	}
	b, err := tx.s.seal.seal("secrets", "value", name, value)
	if err != nil {
		return err
	}
	return tx.exec("writing secret",
		`INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, b)
}
