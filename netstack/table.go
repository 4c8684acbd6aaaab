package netstack

import (
	"net/netip"

	"golang.zx2c4.com/wireguard/device"

	"github.com/warrenmesh/warren/peer"
)

// table says which peer an address belongs to. It is immutable; SetPeers makes
// a new one.
type table struct {
	byAddr   map[netip.Addr]*lane
	routes   []route // longest prefix first
	byKey    map[peer.PublicKey]*lane
	byDevice map[*device.Peer]*lane
}

// route is a prefix that is reached through a peer: a spoke's hub.
type route struct {
	prefix netip.Prefix
	lane   *lane
}

// lookup returns the lane of the peer that addr is reached through, nil for
// none.
func (t *table) lookup(addr netip.Addr) *lane {
	if l := t.byAddr[addr]; l != nil {
		return l
	}
	for i := range t.routes {
		if t.routes[i].prefix.Contains(addr) {
			return t.routes[i].lane
		}
	}
	return nil
}
