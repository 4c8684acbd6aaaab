// Package peer holds the one noun every other part of Warren shares: a machine
// that is on the mesh.
//
// A peer is a WireGuard public key with exactly one IPv4 and one IPv6 address
// inside the tunnel. WireGuard proves, for every packet, that its source
// address belongs to the key that sealed it; because no two peers ever share
// an address, the source address of a packet *is* the identity of the machine.
// Everything Warren decides about machines rests on that, so a Roster refuses
// to exist when two peers overlap.
//
// Keys that must stay secret are types that cannot be printed, compared with
// == or marshalled by accident. The one way to the bytes is called Reveal.
package peer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// ID names a peer for as long as it exists. It is opaque, made by the hub,
// never reused, and survives a rename or a change of key.
type ID string

// Kind says what sort of client holds the key.
type Kind string

// The kinds of peer. An invite is the throw-away identity that an invite code
// carries: it reaches the enrol service and nothing else.
const (
	KindSpoke  Kind = "spoke"
	KindPhone  Kind = "phone"
	KindInvite Kind = "invite"
)

// Peer is one machine on the mesh. The zero value is nobody.
type Peer struct {
	ID        ID         `json:"id"`
	Name      string     `json:"name"`
	PublicKey PublicKey  `json:"public_key"`
	V4        netip.Addr `json:"v4"`
	V6        netip.Addr `json:"v6"`
	Kind      Kind       `json:"kind"`
	// Owner is the user the machine belongs to, "" if it belongs to none.
	Owner string `json:"owner,omitempty"`
	// Tags are sorted, without duplicates, each with its "tag:" prefix.
	Tags []string `json:"tags,omitempty"`
	// Household is the tenant the machine belongs to, "" for machines that
	// serve all of them.
	Household string `json:"household,omitempty"`
	// Quarantined peers keep their name and addresses and reach nothing.
	Quarantined bool      `json:"quarantined,omitempty"`
	Created     time.Time `json:"created"`
}

// Has reports whether addr is one of the peer's two addresses.
func (p *Peer) Has(addr netip.Addr) bool {
	return addr.IsValid() && (addr == p.V4 || addr == p.V6)
}

// Tagged reports whether the peer carries tag (with its "tag:" prefix).
func (p *Peer) Tagged(tag string) bool { return slices.Contains(p.Tags, tag) }

// Roster is who is on the mesh at one moment. It is immutable; any number of
// goroutines may read it. A nil Roster knows nobody.
type Roster struct {
	peers  []Peer
	byAddr map[netip.Addr]int
	byName map[string]int
	byKey  map[PublicKey]int
	byID   map[ID]int
}

// NewRoster indexes peers. It fails when two peers share an ID, a name, a key
// or an address, because then an address would no longer say who is speaking.
func NewRoster(peers []Peer) (*Roster, error) {
	r := &Roster{
		peers:  slices.Clone(peers),
		byAddr: make(map[netip.Addr]int, 2*len(peers)),
		byName: make(map[string]int, len(peers)),
		byKey:  make(map[PublicKey]int, len(peers)),
		byID:   make(map[ID]int, len(peers)),
	}
	for i := range r.peers {
		p := &r.peers[i]
		if p.PublicKey.IsZero() {
			return nil, fmt.Errorf("peer %q has no public key", p.Name)
		}
		if !p.V4.Is4() || !p.V6.Is6() || p.V6.Is4In6() {
			return nil, fmt.Errorf("peer %q needs one IPv4 and one IPv6 address, has %v and %v", p.Name, p.V4, p.V6)
		}
		for _, dup := range []bool{
			!insert(r.byID, p.ID, i), !insert(r.byName, p.Name, i), !insert(r.byKey, p.PublicKey, i),
			!insert(r.byAddr, p.V4, i), !insert(r.byAddr, p.V6, i),
		} {
			if dup {
				return nil, fmt.Errorf("peer %q shares an id, name, key or address with another", p.Name)
			}
		}
	}
	return r, nil
}

func insert[K comparable](m map[K]int, k K, i int) bool {
	if _, ok := m[k]; ok {
		return false
	}
	m[k] = i
	return true
}

// All returns every peer. The slice must not be changed.
func (r *Roster) All() []Peer {
	if r == nil {
		return nil
	}
	return r.peers
}

// ByAddr finds the peer that owns addr.
func (r *Roster) ByAddr(addr netip.Addr) (Peer, bool) { return find(r, addr, (*Roster).addrs) }

// ByName finds a peer by its name.
func (r *Roster) ByName(name string) (Peer, bool) { return find(r, name, (*Roster).names) }

// ByKey finds a peer by its public key.
func (r *Roster) ByKey(key PublicKey) (Peer, bool) { return find(r, key, (*Roster).keys) }

// ByID finds a peer by its ID.
func (r *Roster) ByID(id ID) (Peer, bool) { return find(r, id, (*Roster).ids) }

func (r *Roster) addrs() map[netip.Addr]int { return r.byAddr }
func (r *Roster) names() map[string]int     { return r.byName }
func (r *Roster) keys() map[PublicKey]int   { return r.byKey }
func (r *Roster) ids() map[ID]int           { return r.byID }

func find[K comparable](r *Roster, k K, index func(*Roster) map[K]int) (Peer, bool) {
	if r == nil {
		return Peer{}, false
	}
	i, ok := index(r)[k]
	if !ok {
		return Peer{}, false
	}
	return r.peers[i], true
}

type contextKey struct{}

// NewContext returns a context that says which peer is calling. Only the code
// that took the address from the tunnel may call it.
func NewContext(ctx context.Context, p Peer) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// FromContext returns the peer that is calling, false if nobody was
// established: treat that as a refusal.
func FromContext(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(contextKey{}).(Peer)
	return p, ok
}
