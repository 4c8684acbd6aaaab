package store

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/warrenmesh/warren/peer/account"
)

// maxBlobs is how many blobs a household has at most, of all kinds together.
const maxBlobs = 2000

// PutBlob keeps a blob for one of the household's nodes. Expired ones go. A
// zero Created is now. ErrExists if the id is taken, ErrNotFound if the node is
// not the household's, ErrConflict if the household has enough.
func (sc *scoped) PutBlob(b account.Blob) error {
	const doing = "writing blob"
	if err := checkBlob(b); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := sc.owned(b.Node); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if b.Created.IsZero() {
		b.Created = sc.Now()
	}
	if _, err := sc.change(doing, `DELETE FROM blobs WHERE household = $1 AND expires > 0 AND expires < $2`, nanos(sc.Now())); err != nil {
		return err
	}
	n, err := sc.count(doing, `SELECT COUNT(*) FROM blobs WHERE household = $1`)
	if err != nil {
		return err
	}
	if n >= maxBlobs {
		return fmt.Errorf("%s: the household has %d: %w", doing, n, ErrConflict)
	}
	return sc.insert(doing, `INSERT INTO blobs (household, kind, id, node, by_user, state, payload, created, expires)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING`,
		string(b.Kind), b.ID, b.Node, int64(b.By), b.State, append([]byte{}, b.Payload...), nanos(b.Created), nanos(b.Expires))
}

func checkBlob(b account.Blob) error {
	switch b.Kind {
	case account.BlobRequest, account.BlobPush, account.BlobKey, account.BlobPin, account.BlobCommand:
	default:
		return fmt.Errorf("%w: %.40q is no kind of blob", ErrInvalid, b.Kind)
	}
	if err := checkShort("blob's state", b.State); err != nil {
		return err
	}
	if b.By < 0 {
		return fmt.Errorf("%w: nobody has a number below 1", ErrInvalid)
	}
	if err := checkPayload(b.Payload); err != nil {
		return err
	}
	return checkID("blob", b.ID)
}

func checkPayload(p json.RawMessage) error {
	if len(p) > account.MaxBlob || (len(p) > 0 && !json.Valid(p)) {
		return fmt.Errorf("%w: a blob is JSON of at most %d bytes", ErrInvalid, account.MaxBlob)
	}
	return nil
}

const selectBlobs = `SELECT kind, id, node, by_user, state, payload, created, expires FROM blobs WHERE household = $1`

// Blob finds one, also one that has expired and was not cleared away yet.
func (sc *scoped) Blob(kind account.BlobKind, id string) (account.Blob, error) {
	if !storable(string(kind), maxLabel) || !storable(id, maxLabel) {
		return account.Blob{}, ErrNotFound
	}
	return only(sc.blobs(selectBlobs+` AND kind = $2 AND id = $3`, string(kind), id))
}

// Blobs are those of a kind for one node that have not expired, oldest first.
func (sc *scoped) Blobs(kind account.BlobKind, node string) ([]account.Blob, error) {
	if !storable(string(kind), maxLabel) || !storable(node, maxLabel) {
		return nil, nil
	}
	list, err := sc.blobs(selectBlobs+` AND kind = $2 AND node = $3 ORDER BY created, id`, string(kind), node)
	live := list[:0]
	for _, b := range list {
		if b.Expires.IsZero() || b.Expires.After(sc.Now()) {
			live = append(live, b)
		}
	}
	return live, err
}

func (sc *scoped) blobs(query string, args ...any) ([]account.Blob, error) {
	var list []account.Blob
	err := sc.each("reading blobs", query, args, func(scan func(...any) error) error {
		var b account.Blob
		var kind string
		var payload []byte
		var by, created, expires int64
		if err := scan(&kind, &b.ID, &b.Node, &by, &b.State, &payload, &created, &expires); err != nil {
			return err
		}
		if len(payload) > 0 {
			b.Payload = payload
		}
		b.Kind, b.By = account.BlobKind(kind), account.UserID(by)
		b.Created, b.Expires = fromNanos(created), fromNanos(expires)
		list = append(list, b)
		return nil
	})
	return list, err
}

// MoveBlob changes a blob's state, and its payload if that is not nil, in one
// conditional UPDATE: of two that try the same move one is told ErrConflict.
func (sc *scoped) MoveBlob(kind account.BlobKind, id, from, to string, payload []byte) error {
	const doing = "changing blob"
	if err := checkShort("blob's state", to); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := checkPayload(payload); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if !storable(from, maxLabel) {
		return fmt.Errorf("%s: %w", doing, ErrConflict)
	}
	if _, err := sc.Blob(kind, id); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	query := `UPDATE blobs SET household = $1, state = $2 WHERE household = $1 AND kind = $3 AND id = $4 AND state = $5`
	args := []any{to, string(kind), id, from}
	if payload != nil {
		query = `UPDATE blobs SET household = $1, payload = $2, state = $3 WHERE household = $1 AND kind = $4 AND id = $5 AND state = $6`
		args = append([]any{payload}, args...)
	}
	n, err := sc.change(doing, query, args...)
	if err == nil && n == 0 {
		err = fmt.Errorf("%s: %w", doing, ErrConflict)
	}
	return err
}

// DeleteBlob removes one; ErrNotFound if there is none.
func (sc *scoped) DeleteBlob(kind account.BlobKind, id string) error {
	if !storable(string(kind), maxLabel) || !storable(id, maxLabel) {
		return ErrNotFound
	}
	return sc.must("removing blob", `DELETE FROM blobs WHERE household = $1 AND kind = $2 AND id = $3`, string(kind), id)
}

// RaiseVersion sets the highest version of one kind of setting of a node;
// ErrConflict unless it is above the last one.
func (sc *scoped) RaiseVersion(node, configType string, version uint64) error {
	const doing = "raising version"
	if err := checkLabel("kind of setting", configType); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if version > math.MaxInt64 {
		return fmt.Errorf("%s: %w: %d is too high", doing, ErrInvalid, version)
	}
	if err := sc.owned(node); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	last, err := sc.Version(node, configType)
	if err != nil {
		return err
	}
	if version <= last {
		return fmt.Errorf("%s: it is at %d already: %w", doing, last, ErrConflict)
	}
	n, err := sc.change(doing, `UPDATE versions SET household = $1, version = $2 WHERE household = $1 AND version < $2 AND node = $3 AND config_type = $4`, int64(version), node, configType)
	if err != nil || n == 1 {
		return err
	}
	return sc.insert(doing, `INSERT INTO versions (household, node, config_type, version) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, node, configType, int64(version))
}

// Version is the highest version so far, 0 if there is none.
func (sc *scoped) Version(node, configType string) (uint64, error) {
	if !storable(node, maxLabel) || !storable(configType, maxLabel) {
		return 0, nil
	}
	n, err := sc.count("reading version", `SELECT COALESCE(MAX(version), 0) FROM versions WHERE household = $1 AND node = $2 AND config_type = $3`, node, configType)
	return uint64(n), err
}
