package store

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// How long an address rests after its holder has gone: whoever still has it in
// a cache, a rule or a flow table must not find somebody else behind it. Only
// the few addresses of invites, which reach one port, come round sooner.
const (
	RestPeer   = 24 * time.Hour
	RestInvite = time.Hour
)

// Holders of addresses and names.
const (
	holdPeer    = "peer:"
	holdInvite  = "invite:"
	holdService = "service:"
)

// allocate gives holder an index from r: one that was never used if there is
// one, else the one that has rested longest. Those in skip stay unused.
func (tx *Tx) allocate(r Range, rest time.Duration, holder string, skip Range) (Index, error) {
	last, err := tx.count("choosing address", `SELECT COALESCE(MAX(idx), 0) FROM addresses WHERE idx >= $1 AND idx <= $2`, int64(r.First), int64(r.Last))
	if err != nil {
		return 0, err
	}
	next := max(Index(last)+1, r.First)
	if skip.Has(next) {
		next = skip.Last + 1
	}
	if r.Has(next) {
		return next, tx.exec("choosing address", `INSERT INTO addresses (idx, holder, freed) VALUES ($1, $2, 0)`, int64(next), holder)
	}
	rested, err := tx.count("choosing address",
		`SELECT idx FROM addresses WHERE idx >= $1 AND idx <= $2 AND holder = '' AND freed <= $3
			AND NOT (idx >= $4 AND idx <= $5) ORDER BY freed, idx LIMIT 1`,
		int64(r.First), int64(r.Last), nanos(tx.now.Add(-rest)), int64(skip.First), int64(skip.Last))
	if errors.Is(err, ErrNotFound) {
		return 0, fmt.Errorf("the range of %d addresses is used up, and one that was freed rests for %v first: %w", r.Last-r.First+1, rest, ErrFull)
	}
	if err != nil {
		return 0, err
	}
	return Index(rested), tx.exec("choosing address", `UPDATE addresses SET holder = $1, freed = 0 WHERE idx = $2`, holder, rested)
}

// free lets the address of a holder rest.
func (tx *Tx) free(holder string) error {
	return tx.exec("freeing address", `UPDATE addresses SET holder = '', freed = $1 WHERE holder = $2`, nanos(tx.now), holder)
}

// claimName refuses a name that another peer, service or open invite has: all
// of them share one zone in DNS. own is the holder that may have it already.
func (tx *Tx) claimName(name, own string) error {
	if err := peer.ValidName(name); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if slices.Contains(reservedNames[:], name) {
		return fmt.Errorf("%w: the name %q is the hub's own", ErrInvalid, name)
	}
	taken := func(kind string, prefix, query string, args ...any) error {
		var holder string
		err := tx.one("looking for the name", query, args, &holder)
		if errors.Is(err, ErrNotFound) || (err == nil && prefix+holder == own) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("%s %q: %w", kind, name, ErrExists)
	}
	if err := taken("peer", holdPeer, `SELECT id FROM peers WHERE name = $1`, name); err != nil {
		return err
	}
	if err := taken("service", holdService, `SELECT name FROM services WHERE name = $1`, name); err != nil {
		return err
	}
	return taken("an open invite for", holdInvite,
		`SELECT id FROM invites WHERE name = $1 AND used_by IS NULL AND expires > $2`, name, nanos(tx.now))
}

// claimKey refuses a public key that a peer or an invite has: a key is who
// somebody is. own is the holder that may have it already.
func (tx *Tx) claimKey(key peer.PublicKey, own string) error {
	if key.IsZero() {
		return fmt.Errorf("%w: there is no public key", ErrInvalid)
	}
	for _, q := range [...]struct{ prefix, query string }{
		{holdPeer, `SELECT id FROM peers WHERE public_key = $1`},
		{holdInvite, `SELECT id FROM invites WHERE public_key = $1`},
	} {
		var id string
		err := tx.one("looking for the key", q.query, []any{key[:]}, &id)
		if errors.Is(err, ErrNotFound) || (err == nil && q.prefix+id == own) {
			continue
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("a machine with this public key: %w", ErrExists)
	}
	return nil
}
