package netstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/warrenmesh/warren/peer"
)

// PeerConfig is one peer of the WireGuard device.
type PeerConfig struct {
	Key peer.PublicKey
	// PSK is the pre-shared key, the zero one for none.
	PSK peer.PresharedKey
	// Addresses are what the peer may speak as: each a /32 or a /128 that no
	// other peer and not this node has.
	Addresses []netip.Addr
	// Routes are prefixes that are reached through the peer. A spoke gives the
	// whole overlay to its hub; a hub gives nobody any.
	Routes []netip.Prefix
	// Endpoint is where the peer was last seen, the invalid AddrPort for not
	// known. A peer that moves is followed without being told.
	Endpoint netip.AddrPort
	// Keepalive is sent to keep a NAT open, in whole seconds up to 65535; 0
	// for never.
	Keepalive time.Duration
}

// equal reports whether the two leave the device as it is. The learnt endpoint
// is the device's own business, so only a change of the configured one counts.
func (c *PeerConfig) equal(o *PeerConfig) bool {
	return c.Key == o.Key && samePSK(c.PSK, o.PSK) && slices.Equal(c.Addresses, o.Addresses) &&
		slices.Equal(c.Routes, o.Routes) && c.Endpoint == o.Endpoint && c.Keepalive == o.Keepalive
}

// PeerStatus is what the device knows about a peer.
type PeerStatus struct {
	Key           peer.PublicKey
	Endpoint      netip.AddrPort // the invalid one if it was never seen
	LastHandshake time.Time      // zero if there was none
	RxBytes       uint64         // received from it, as sent on the wire
	TxBytes       uint64
	Spoofed       uint64 // packets dropped for a source that is not its own
	Refused       uint64 // packets from it that the policy refused
	Discarded     uint64 // packets to it that found its queue full
}

// SetPeers makes the device's peers those of the list. Peers that are in both
// keep their session; absent ones are removed, and what they had open is reset.
// The list is checked as a whole first: on an error from the check nothing has
// changed.
func (s *Stack) SetPeers(ctx context.Context, list []PeerConfig) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return fmt.Errorf("setting peers: %w", err)
	}
	want, err := s.checkPeers(list)
	if err != nil {
		return fmt.Errorf("setting peers: %w", err)
	}
	// Removals first, so that an address can move to another peer.
	gone := s.revokeAbsent(want)
	if err := s.configure(removals(s.peers, want)); err != nil {
		return fmt.Errorf("removing peers: %w", err)
	}
	next := make(map[peer.PublicKey]PeerConfig, len(want))
	for key, c := range want {
		next[key] = c
	}
	text := additions(s.peers, want)
	s.peers = next
	for _, l := range gone {
		s.queue.remove(l)
	}
	if err := s.configure(text); err != nil {
		return fmt.Errorf("adding peers: %w", err)
	}
	s.rebuild()
	return nil
}

// checkPeers refuses a list in which an address would not say who is speaking.
func (s *Stack) checkPeers(list []PeerConfig) (map[peer.PublicKey]PeerConfig, error) {
	want := make(map[peer.PublicKey]PeerConfig, len(list))
	owner := make(map[netip.Addr]peer.PublicKey, 2*len(list))
	for _, c := range list {
		switch {
		case c.Key.IsZero():
			return nil, errors.New("a peer has no public key")
		case c.Key == s.public:
			return nil, fmt.Errorf("peer %s has this node's own public key", c.Key.Short())
		case c.Keepalive < 0 || c.Keepalive > 65535*time.Second:
			return nil, fmt.Errorf("peer %s: a keep-alive of %v; use 0 to 65535 seconds", c.Key.Short(), c.Keepalive)
		}
		if _, dup := want[c.Key]; dup {
			return nil, fmt.Errorf("peer %s is listed twice", c.Key.Short())
		}
		for _, a := range c.Addresses {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
				return nil, fmt.Errorf("peer %s: %v is not an address inside the tunnel", c.Key.Short(), a)
			}
			if slices.Contains(s.addresses, a) {
				return nil, fmt.Errorf("peer %s has this node's own address %v", c.Key.Short(), a)
			}
			if other, dup := owner[a]; dup {
				return nil, fmt.Errorf("peers %s and %s share the address %v", other.Short(), c.Key.Short(), a)
			}
			owner[a] = c.Key
		}
		for _, r := range c.Routes {
			if !r.IsValid() || r != r.Masked() {
				return nil, fmt.Errorf("peer %s: %v is not a network prefix", c.Key.Short(), r)
			}
		}
		want[c.Key] = c
	}
	return want, nil
}

// revokeAbsent ends what peers have open that are removed or that lose an
// address, and returns the lanes to remove. The order matters: first nothing
// more is taken from or for them, then the connections are reset, then the gate
// forgets them, so that whoever gets the address next inherits nothing.
func (s *Stack) revokeAbsent(want map[peer.PublicKey]PeerConfig) (gone []*lane) {
	lost := make(map[netip.Addr]bool)
	old := s.path.table.Load()
	for key, c := range s.peers {
		n, stays := want[key]
		if !stays {
			gone = append(gone, old.byKey[key])
		}
		for _, a := range c.Addresses {
			if !stays || !slices.Contains(n.Addresses, a) {
				lost[a] = true
			}
		}
	}
	if len(lost) == 0 {
		return gone
	}
	s.conns.cut(func(t tuple, _ bool) bool { return lost[t.remote.Addr()] }, s)
	for a := range lost {
		s.gate.Forget(a)
	}
	return gone
}

// rebuild makes the table of the packet path from s.peers.
func (s *Stack) rebuild() {
	old := s.path.table.Load()
	t := &table{
		byAddr:   make(map[netip.Addr]*lane, 2*len(s.peers)),
		byKey:    make(map[peer.PublicKey]*lane, len(s.peers)),
		byDevice: make(map[*device.Peer]*lane, len(s.peers)),
	}
	for key, c := range s.peers {
		l := old.byKey[key]
		if l == nil {
			l = s.queue.add(key)
		}
		t.byKey[key] = l
		if p := s.dev.LookupPeer(device.NoisePublicKey(key)); p != nil {
			t.byDevice[p] = l
		}
		for _, a := range c.Addresses {
			t.byAddr[a] = l
		}
		for _, r := range c.Routes {
			t.routes = append(t.routes, route{r, l})
		}
	}
	slices.SortFunc(t.routes, func(a, b route) int { return cmp.Compare(b.prefix.Bits(), a.prefix.Bits()) })
	s.path.table.Store(t)
}

// Handshake begins a handshake with a peer now, whether or not there is
// anything to send: after waking up, after a change of network, after a start.
// WireGuard itself sends no more than one initiation in five seconds.
func (s *Stack) Handshake(key peer.PublicKey) error {
	p := s.dev.LookupPeer(device.NoisePublicKey(key))
	if p == nil {
		return fmt.Errorf("starting a handshake: there is no peer %s", key.Short())
	}
	if err := p.SendHandshakeInitiation(false); err != nil {
		return fmt.Errorf("starting a handshake with %s: %w", key.Short(), err)
	}
	return nil
}

// Peers returns what is known about every peer, in the order of their keys.
func (s *Stack) Peers() []PeerStatus {
	list := s.deviceStatus()
	t := s.path.table.Load()
	for i := range list {
		if l := t.byKey[list[i].Key]; l != nil {
			list[i].Spoofed = l.spoofed.Load()
			list[i].Refused = l.refused.Load()
			list[i].Discarded = l.discarded.Load()
		}
	}
	slices.SortFunc(list, func(a, b PeerStatus) int { return slices.Compare(a.Key[:], b.Key[:]) })
	return list
}

// spoofed counts a packet that the device dropped for its source address.
func (p *path) spoofed(from *device.Peer) {
	if l := p.table.Load().byDevice[from]; l != nil {
		l.spoofed.Add(1)
	}
}
