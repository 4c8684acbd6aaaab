package hubtest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/netstack"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
)

// everything is a policy under which nothing is held back.
const everything = `{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`

// Stranger is a machine that obeys nobody: it has keys, and its own end of the
// tunnel refuses nothing, so that what stops it is the hub.
type Stranger struct {
	*netstack.Stack
	V4, V6 netip.Addr
	// at is the IPv4 address of a place of the mesh.
	at func(place uint32) netip.Addr
}

// Invited is a stranger with the throw-away identity of an invite code.
func (m *Mesh) Invited(code string) *Stranger {
	m.t.Helper()
	c, err := invite.Parse(code)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.Stranger(c.Key, c.PSK, c.V4, c.V6)
}

// Stranger opens a tunnel to the hub with the given identity.
func (m *Mesh) Stranger(key peer.PrivateKey, psk peer.PresharedKey, v4, v6 netip.Addr) *Stranger {
	m.t.Helper()
	gate := acl.NewGate(acl.GateConfig{Small: true})
	net4, net6 := m.Networks()
	s, err := netstack.Open(netstack.Config{
		Key: key, V4: net4, V6: net6, Addresses: []netip.Addr{v4, v6}, Small: true, Gate: gate,
		Listen: netip.MustParseAddrPort("127.0.0.1:0"), Logger: Logger(m.t),
	})
	if err != nil {
		m.t.Fatalf("opening a stranger's tunnel: %v", err)
	}
	m.t.Cleanup(func() { s.Close() })
	filter, err := m.unfiltered(v4, v6)
	if err != nil {
		m.t.Fatal(err)
	}
	s.SetFilter(filter)
	err = s.SetPeers(m.t.Context(), []netstack.PeerConfig{{
		Key: m.Hub.PublicKey(), PSK: psk, Routes: []netip.Prefix{net4, net6}, Endpoint: m.Endpoint,
	}})
	if err != nil {
		m.t.Fatalf("setting the hub: %v", err)
	}
	return &Stranger{s, v4, v6, func(place uint32) netip.Addr {
		a, _ := at(net4, net6, place)
		return a
	}}
}

// Networks are the mesh's two prefixes.
func (m *Mesh) Networks() (v4, v6 netip.Prefix) {
	nets := m.Hub.Status().Networks
	return nets[0], nets[1]
}

// unfiltered makes the filter of a machine that believes there is somebody at
// each of the first two thousand addresses, and at the last ones, and that it
// may talk to all of them.
func (m *Mesh) unfiltered(v4, v6 netip.Addr) (*acl.Filter, error) {
	net4, net6 := m.Networks()
	self := peer.Peer{ID: "self", Name: "self", Kind: peer.KindSpoke, PublicKey: peer.PublicKey{1}, V4: v4, V6: v6}
	world := &acl.World{V4: net4, V6: net6, Peers: []peer.Peer{self}}
	size := uint32(1) << (32 - net4.Bits())
	add := func(i uint32) {
		a4, a6 := at(net4, net6, i)
		if a4 == v4 {
			return
		}
		key := peer.PublicKey{2}
		binary.BigEndian.PutUint32(key[4:], i)
		world.Peers = append(world.Peers, peer.Peer{
			ID: peer.ID(fmt.Sprintf("x%d", i)), Name: fmt.Sprintf("x%d", i), Kind: peer.KindSpoke, PublicKey: key, V4: a4, V6: a6,
		})
	}
	for i := uint32(1); i < min(2000, size-1); i++ {
		add(i)
	}
	for i := max(2000, size-600); i < size-1; i++ {
		add(i)
	}
	policy, err := acl.Parse([]byte(everything))
	if err != nil {
		return nil, err
	}
	whole, err := acl.Compile(policy, world)
	if err != nil {
		return nil, err
	}
	return whole.Slice(self.ID).Filter()
}

// at is the address plan: network + i and ula::i.
func at(net4, net6 netip.Prefix, i uint32) (netip.Addr, netip.Addr) {
	a4, a6 := net4.Addr().As4(), net6.Addr().As16()
	binary.BigEndian.PutUint32(a4[:], binary.BigEndian.Uint32(a4[:])+i)
	binary.BigEndian.PutUint32(a6[12:], i)
	return netip.AddrFrom4(a4), netip.AddrFrom16(a6)
}

// At returns the addresses of the i-th place of the mesh.
func (m *Mesh) At(i uint32) (netip.Addr, netip.Addr) {
	net4, net6 := m.Networks()
	return at(net4, net6, i)
}

// T is the test the mesh belongs to.
func (m *Mesh) T() testing.TB { return m.t }
