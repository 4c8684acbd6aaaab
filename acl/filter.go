package acl

import (
	"encoding/binary"
	"net/netip"
)

// A node is a place in the address plan. Its index i in [1, 2^hostbits-2]
// gives both addresses: network+i and ula::i. Index 0 is nobody, so an address
// that is not on the overlay is a node that nothing is known about.
type node struct {
	src, dst  uint16 // class as a source, as a destination
	owner     uint16 // 0: none, or tagged
	household uint16 // 0: none
	flags     nodeFlags
}

type nodeFlags uint8

const (
	flagActive nodeFlags = 1 << iota // may be judged by the matrix at all
	flagKnown
	flagQuarantined
	flagInvite
	flagEnrol
	flagService
	flagLocal
)

// Filter is a compiled policy. It never changes, so any number of goroutines
// may use it; a new policy is a new Filter. A nil Filter drops everything.
type Filter struct {
	net4  uint32 // the IPv4 network, host order
	mask4 uint32 // its host bits
	net6  uint64 // the ULA's first 64 bits
	pages [256]*[256]node
}

// node returns the index of an address, 0 if it is not on the overlay.
func (f *Filter) node(a netip.Addr) uint16 {
	if a.Is4() {
		b := a.As4()
		return f.node4(binary.BigEndian.Uint32(b[:]))
	}
	if !a.Is6() || a.Is4In6() || a.Zone() != "" {
		return 0
	}
	b := a.As16()
	return f.node6(binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:]))
}

// node4 is node for an IPv4 address in host order.
func (f *Filter) node4(a uint32) uint16 {
	if f == nil || a&^f.mask4 != f.net4 {
		return 0
	}
	return uint16(a & f.mask4)
}

// node6 is node for the two halves of an IPv6 address. All but the last 16
// bits of the interface identifier are zero: an address with anything hidden
// there (a mapped or translated IPv4 address) is nobody's.
func (f *Filter) node6(hi, lo uint64) uint16 {
	if f == nil || hi != f.net6 || lo > uint64(f.mask4) {
		return 0
	}
	return uint16(lo)
}

// at returns what is known about a node.
func (f *Filter) at(n uint16) *node {
	return &f.pages[n>>8][n&0xff]
}

// local reports whether the node is this machine's own stack.
func (f *Filter) local(n uint16) bool {
	return f != nil && f.at(n).flags&flagLocal != 0
}

// lookup judges one packet: from node src to node dst, both from node, node4
// or node6. port is the destination's, 0 for ICMP. It allocates nothing.
func (f *Filter) lookup(src, dst uint16, proto Proto, port uint16) Verdict {
	if f == nil {
		return Verdict{Reason: ReasonNoPolicy}
	}
	return Verdict{Reason: ReasonNoRule, Local: f.local(dst)}
}
