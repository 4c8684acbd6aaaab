package store

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// Invite is an open or used invite. The store knows the public half of its
// throw-away key only.
type Invite struct {
	ID        string
	PublicKey peer.PublicKey // of the throw-away peer
	PSK       peer.PresharedKey
	V4, V6    netip.Addr // of the throw-away peer
	// Name, Owner, Household and Tags are what the machine that uses it gets.
	Name, Owner, Household string
	Tags                   []string
	Created, Expires       time.Time
	// UsedBy is the key of the machine that used it, zero while it is open.
	UsedBy peer.PublicKey
	UsedAt time.Time
	// PeerID is the peer it became, "" until then.
	PeerID peer.ID
}

const selectInvites = `SELECT id, public_key, idx, name, owner, tags, household, psk, created, expires, used_by, used_at, peer_id FROM invites`

// Invites returns all invites that were not removed yet, used ones included,
// oldest first.
func (tx *Tx) Invites() ([]Invite, error) {
	return tx.invites(selectInvites + ` ORDER BY created, idx`)
}

// Invite returns one of them, ErrNotFound if there is none.
func (tx *Tx) Invite(id string) (Invite, error) {
	if !storable(id, maxText) {
		return Invite{}, ErrNotFound
	}
	return only(tx.invites(selectInvites+` WHERE id = $1`, id))
}

func (tx *Tx) invites(query string, args ...any) ([]Invite, error) {
	plan, err := tx.Plan()
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var invites []Invite
	err = tx.each("reading invites", query, args, func(scan func(...any) error) error {
		var v Invite
		var tags, peerID string
		var key, psk, usedBy []byte
		var idx, created, expires, usedAt int64
		if err := scan(&v.ID, &key, &idx, &v.Name, &v.Owner, &tags, &v.Household, &psk, &created, &expires, &usedBy, &usedAt, &peerID); err != nil {
			return err
		}
		if len(key) != peer.KeySize || (len(usedBy) != 0 && len(usedBy) != peer.KeySize) {
			return fmt.Errorf("invite for %s: %w", v.Name, ErrCorrupt)
		}
		v.PublicKey, v.Tags, v.PeerID = peer.PublicKey(key), strings.Fields(tags), peer.ID(peerID)
		v.V4, v.V6 = plan.Addrs(Index(idx))
		v.Created, v.Expires, v.UsedAt = fromNanos(created), fromNanos(expires), fromNanos(usedAt)
		copy(v.UsedBy[:], usedBy)
		var err error
		if v.PSK, err = tx.openPSK("invites", v.ID, psk); err != nil {
			return fmt.Errorf("invite for %s: %w", v.Name, err)
		}
		invites = append(invites, v)
		return nil
	})
	return invites, err
}

// AddInvite keeps a new invite and gives it its throw-away addresses. Its name
// is taken from now on. PublicKey, Name and a future Expires are required; ID
// is made if it is empty; addresses, use and creation time are ignored.
func (tx *Tx) AddInvite(v Invite) (Invite, error) {
	fail := func(err error) (Invite, error) { return Invite{}, fmt.Errorf("adding invite: %w", err) }
	tags, err := checkWho(v.Owner, v.Household, v.Tags)
	if err != nil {
		return fail(err)
	}
	if !v.Expires.After(tx.now) {
		return fail(fmt.Errorf("%w: it would have expired already", ErrInvalid))
	}
	if err := tx.claimName(v.Name, ""); err != nil {
		return fail(err)
	}
	if err := tx.claimKey(v.PublicKey, ""); err != nil {
		return fail(err)
	}
	if v.ID == "" {
		if v.ID, err = newID("i-"); err != nil {
			return fail(err)
		}
	}
	if !storable(v.ID, 100) {
		return fail(fmt.Errorf("%w: its id must be text of at most 100 bytes", ErrInvalid))
	}
	if _, err := tx.Invite(v.ID); err == nil {
		return fail(ErrExists)
	}
	plan, err := tx.Plan()
	if err != nil {
		return fail(err)
	}
	idx, err := tx.allocate(plan.Invites(), RestInvite, holdInvite+v.ID, Range{})
	if err != nil {
		return fail(err)
	}
	psk, err := tx.sealPSK("invites", v.ID, v.PSK)
	if err != nil {
		return fail(err)
	}
	if err := tx.exec("writing invite", `INSERT INTO invites (id, public_key, idx, name, owner, tags, household, psk, created, expires, used_by, used_at, peer_id)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, NULL, 0, '')`,
		v.ID, v.PublicKey[:], int64(idx), v.Name, v.Owner, strings.Join(tags, " "), v.Household, psk, nanos(tx.now), nanos(v.Expires)); err != nil {
		return fail(err)
	}
	return tx.Invite(v.ID)
}

// ConsumeInvite uses an invite for the key that came with it. fresh is true
// exactly once for each invite, however many try at the same time: the whole
// decision is one conditional UPDATE. The same key may come again, because its
// reply may have been lost: then fresh is false and the invite says which peer
// it became. Everything else is ErrInviteSpent, whatever the reason.
func (tx *Tx) ConsumeInvite(id string, by peer.PublicKey) (v Invite, fresh bool, err error) {
	if by.IsZero() || !storable(id, maxText) {
		return Invite{}, false, ErrInviteSpent
	}
	n, err := tx.change("using invite",
		`UPDATE invites SET used_by = $1, used_at = $2 WHERE id = $3 AND used_by IS NULL AND expires > $4`,
		by[:], nanos(tx.now), id, nanos(tx.now))
	if err != nil {
		return Invite{}, false, err
	}
	v, err = tx.Invite(id)
	if errors.Is(err, ErrNotFound) || (err == nil && v.UsedBy != by) {
		return Invite{}, false, ErrInviteSpent
	}
	if err != nil {
		return Invite{}, false, err
	}
	return v, n == 1, nil
}

// linkInvite notes which peer an invite became. The key must be the one that
// used it.
func (tx *Tx) linkInvite(id, peerID string, key peer.PublicKey) error {
	if !storable(id, maxText) {
		return ErrInviteSpent
	}
	n, err := tx.change("using invite",
		`UPDATE invites SET peer_id = $1 WHERE id = $2 AND used_by = $3 AND peer_id = ''`, peerID, id, key[:])
	if err == nil && n != 1 {
		return ErrInviteSpent
	}
	return err
}

// ExpireInvites removes the invites whose time is over, used or not, and
// returns them, so that their throw-away peers can be taken off the tunnel.
func (tx *Tx) ExpireInvites() ([]Invite, error) {
	gone, err := tx.invites(selectInvites+` WHERE expires <= $1 ORDER BY created, idx`, nanos(tx.now))
	if err != nil {
		return nil, err
	}
	for _, v := range gone {
		if err := tx.dropInvite(v.ID); err != nil {
			return nil, err
		}
	}
	return gone, nil
}

// RevokeInvite removes an invite before its time. What it became stays.
func (tx *Tx) RevokeInvite(id string) error {
	if _, err := tx.Invite(id); err != nil {
		return fmt.Errorf("revoking invite: %w", err)
	}
	return tx.dropInvite(id)
}

func (tx *Tx) dropInvite(id string) error {
	if err := tx.exec("removing invite", `DELETE FROM invites WHERE id = $1`, id); err != nil {
		return err
	}
	return tx.free(holdInvite + id)
}
