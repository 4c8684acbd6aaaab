package store

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// Peer is a machine on the mesh with what only the hub knows about it.
type Peer struct {
	peer.Peer
	// PSK is the pre-shared key, zero if the peer has none.
	PSK peer.PresharedKey
	// Endpoint is where its last authentic datagram came from, not valid if
	// it was never heard.
	Endpoint netip.AddrPort
	// LastHandshake is zero if there was none.
	LastHandshake time.Time
}

// NewPeer is what AddPeer needs to know. ID and addresses are chosen by the store.
type NewPeer struct {
	Name      string
	PublicKey peer.PublicKey
	PSK       peer.PresharedKey
	Kind      peer.Kind // KindSpoke or KindPhone
	Owner     string    // "" if none
	Household string    // "" if none
	Tags      []string
	// Invite is the ID of the consumed invite that the peer comes from, "" if
	// it was added by hand. The invite remembers the peer.
	Invite string
}

const selectPeers = `SELECT id, name, public_key, idx, kind, owner, tags, household, quarantined, created, psk, endpoint, last_handshake FROM peers`

// Peers returns all peers in the order of their addresses, without the
// throw-away peers of invites.
func (tx *Tx) Peers() ([]Peer, error) { return tx.peers(selectPeers + ` ORDER BY idx`) }

// Peer returns the peer with an ID, ErrNotFound if there is none.
func (tx *Tx) Peer(id peer.ID) (Peer, error) {
	if !storable(string(id), maxText) {
		return Peer{}, ErrNotFound
	}
	return only(tx.peers(selectPeers+` WHERE id = $1`, string(id)))
}

// PeerByName returns the peer with a name, ErrNotFound if there is none.
func (tx *Tx) PeerByName(name string) (Peer, error) {
	if peer.ValidName(name) != nil {
		return Peer{}, ErrNotFound
	}
	return only(tx.peers(selectPeers+` WHERE name = $1`, name))
}

// PeerByKey returns the peer with a public key, ErrNotFound if there is none.
func (tx *Tx) PeerByKey(key peer.PublicKey) (Peer, error) {
	return only(tx.peers(selectPeers+` WHERE public_key = $1`, key[:]))
}

// only turns a list of at most one into that one.
func only[T any](list []T, err error) (T, error) {
	var none T
	if err != nil {
		return none, err
	}
	if len(list) == 0 {
		return none, ErrNotFound
	}
	return list[0], nil
}

func (tx *Tx) peers(query string, args ...any) ([]Peer, error) {
	plan, err := tx.Plan()
	if errors.Is(err, ErrNotFound) {
		return nil, nil // without a network nobody can have been added
	}
	if err != nil {
		return nil, err
	}
	var peers []Peer
	err = tx.each("reading peers", query, args, func(scan func(...any) error) error {
		var p Peer
		var id, kind, tags, endpoint string
		var key, psk []byte
		var idx, quarantined, created, handshake int64
		if err := scan(&id, &p.Name, &key, &idx, &kind, &p.Owner, &tags, &p.Household, &quarantined, &created, &psk, &endpoint, &handshake); err != nil {
			return err
		}
		if len(key) != peer.KeySize {
			return fmt.Errorf("peer %s: %w", p.Name, ErrCorrupt)
		}
		p.ID, p.Kind, p.PublicKey, p.Tags = peer.ID(id), peer.Kind(kind), peer.PublicKey(key), strings.Fields(tags)
		p.V4, p.V6 = plan.Addrs(Index(idx))
		p.Quarantined, p.Created, p.LastHandshake = quarantined != 0, fromNanos(created), fromNanos(handshake)
		if endpoint != "" {
			if p.Endpoint, err = netip.ParseAddrPort(endpoint); err != nil {
				return fmt.Errorf("peer %s: endpoint: %w", p.Name, ErrCorrupt)
			}
		}
		if p.PSK, err = tx.openPSK("peers", id, psk); err != nil {
			return fmt.Errorf("peer %s: %w", p.Name, err)
		}
		peers = append(peers, p)
		return nil
	})
	return peers, err
}

func (tx *Tx) openPSK(table, row string, sealed []byte) (peer.PresharedKey, error) {
	plain, err := tx.s.seal.open(table, "psk", row, sealed)
	if err != nil || len(plain) == 0 {
		return peer.PresharedKey{}, err
	}
	psk, err := peer.PresharedKeyFrom(plain)
	if err != nil {
		return peer.PresharedKey{}, fmt.Errorf("pre-shared key: %w", ErrCorrupt)
	}
	return psk, nil
}

func (tx *Tx) sealPSK(table, row string, psk peer.PresharedKey) ([]byte, error) {
	var plain []byte
	if !psk.IsZero() {
		b := psk.Reveal()
		plain = b[:]
	}
	return tx.s.seal.seal(table, "psk", row, plain)
}

// newID makes an identifier of 128 random bits.
func newID(prefix string) (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("making identifier: %w", err)
	}
	return prefix + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:])), nil
}

// checkWho refuses malformed owners, households and tags; it returns the tags
// sorted, each once.
func checkWho(owner, household string, tags []string) ([]string, error) {
	if owner != "" {
		if err := peer.ValidUser(owner); err != nil {
			return nil, fmt.Errorf("%w: owner: %w", ErrInvalid, err)
		}
	}
	if household != "" {
		if err := peer.ValidName(household); err != nil {
			return nil, fmt.Errorf("%w: household: %w", ErrInvalid, err)
		}
	}
	if len(tags) > maxTags {
		return nil, fmt.Errorf("%w: %d tags are too many, the most is %d", ErrInvalid, len(tags), maxTags)
	}
	for _, t := range tags {
		if err := peer.ValidTag(t); err != nil {
			return nil, fmt.Errorf("%w: tag: %w", ErrInvalid, err)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(tags))), nil
}

// maxTags is the most tags that one peer carries.
const maxTags = 64

// AddPeer adds a machine and gives it the addresses of an index that was never
// used, else of the one that has rested longest, and never one that was freed
// less than RestPeer ago (ErrFull). The name and the key must be nobody else's
// (ErrExists).
func (tx *Tx) AddPeer(n NewPeer) (Peer, error) {
	fail := func(err error) (Peer, error) { return Peer{}, fmt.Errorf("adding peer: %w", err) }
	if n.Kind != peer.KindSpoke && n.Kind != peer.KindPhone {
		return fail(fmt.Errorf("%w: a peer is a spoke or a phone", ErrInvalid))
	}
	tags, err := checkWho(n.Owner, n.Household, n.Tags)
	if err != nil {
		return fail(err)
	}
	if err := tx.claimName(n.Name, ""); err != nil {
		return fail(err)
	}
	if err := tx.claimKey(n.PublicKey, ""); err != nil {
		return fail(err)
	}
	plan, err := tx.Plan()
	if err != nil {
		return fail(err)
	}
	id, err := newID("p-")
	if err != nil {
		return fail(err)
	}
	idx, err := tx.allocate(plan.Peers(), RestPeer, holdPeer+id, Range{})
	if err != nil {
		return fail(err)
	}
	psk, err := tx.sealPSK("peers", id, n.PSK)
	if err != nil {
		return fail(err)
	}
	if err := tx.exec("writing peer", `INSERT INTO peers (id, name, public_key, idx, kind, owner, tags, household, quarantined, created, psk, endpoint, last_handshake)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10, '', 0)`,
		id, n.Name, n.PublicKey[:], int64(idx), string(n.Kind), n.Owner, strings.Join(tags, " "), n.Household, nanos(tx.now), psk); err != nil {
		return fail(err)
	}
	if n.Invite != "" {
		if err := tx.linkInvite(n.Invite, id, n.PublicKey); err != nil {
			return fail(err)
		}
	}
	return tx.Peer(peer.ID(id))
}

// UpdatePeer writes p's name, public key, kind, owner, tags, household,
// quarantine and, unless it is zero, its pre-shared key. The addresses cannot
// be changed: they are who the peer is.
func (tx *Tx) UpdatePeer(p Peer) error {
	fail := func(err error) error { return fmt.Errorf("changing peer: %w", err) }
	old, err := tx.Peer(p.ID)
	if err != nil {
		return fail(err)
	}
	if p.V4 != old.V4 || p.V6 != old.V6 {
		return fail(fmt.Errorf("%w: its addresses cannot be changed", ErrInvalid))
	}
	if p.Kind != peer.KindSpoke && p.Kind != peer.KindPhone {
		return fail(fmt.Errorf("%w: a peer is a spoke or a phone", ErrInvalid))
	}
	tags, err := checkWho(p.Owner, p.Household, p.Tags)
	if err != nil {
		return fail(err)
	}
	// A name that it has already may be one that the hub took for itself since:
	// the machine can be held all the same.
	if p.Name != old.Name {
		if err := tx.claimName(p.Name, holdPeer+string(p.ID)); err != nil {
			return fail(err)
		}
	}
	if err := tx.claimKey(p.PublicKey, holdPeer+string(p.ID)); err != nil {
		return fail(err)
	}
	if p.PSK.IsZero() {
		p.PSK = old.PSK
	}
	psk, err := tx.sealPSK("peers", string(p.ID), p.PSK)
	if err != nil {
		return fail(err)
	}
	return tx.exec("changing peer", `UPDATE peers SET name = $1, public_key = $2, kind = $3, owner = $4, tags = $5, household = $6, quarantined = $7, psk = $8 WHERE id = $9`,
		p.Name, p.PublicKey[:], string(p.Kind), p.Owner, strings.Join(tags, " "), p.Household, flag(p.Quarantined), psk, string(p.ID))
}

// RemovePeer forgets a machine, the services it offered, and the invite it
// came by. Its addresses rest before anybody gets them again.
func (tx *Tx) RemovePeer(id peer.ID) error {
	p, err := tx.Peer(id)
	if err != nil {
		return fmt.Errorf("removing peer: %w", err)
	}
	services, err := tx.Services()
	if err != nil {
		return err
	}
	for _, s := range services {
		if s.Host == id {
			if err := tx.RemoveService(s.Name); err != nil {
				return err
			}
		}
	}
	// With the invite gone, the same key cannot ask for its reply once more.
	invites, err := tx.Invites()
	if err != nil {
		return err
	}
	for _, inv := range invites {
		if inv.PeerID == id {
			if err := tx.dropInvite(inv.ID); err != nil {
				return err
			}
		}
	}
	if err := tx.exec("removing peer", `DELETE FROM peers WHERE id = $1`, string(p.ID)); err != nil {
		return err
	}
	return tx.free(holdPeer + string(p.ID))
}

// SaveEndpoint remembers where a peer was last heard, so that after a restart
// the hub can speak first. A peer that was removed meanwhile is no error.
func (tx *Tx) SaveEndpoint(id peer.ID, endpoint netip.AddrPort, handshake time.Time) error {
	if !storable(string(id), maxText) {
		return ErrNotFound
	}
	text := ""
	if endpoint.IsValid() {
		text = endpoint.String()
	}
	return tx.exec("saving endpoint", `UPDATE peers SET endpoint = $1, last_handshake = $2 WHERE id = $3`, text, nanos(handshake), string(id))
}
