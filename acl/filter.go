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
	flagActive      nodeFlags = 1 << iota // the matrix may judge it at all
	flagKnown                             // there is such a machine
	flagQuarantined                       // itself, or the host it is on
	flagInvite
	flagEnrol
	flagService
	flagLocal // this node's own stack
)

// Filter is a compiled policy. It never changes, so any number of goroutines
// may use it; a new policy is a new Filter. A nil Filter drops everything, and
// so does the zero one.
//
// The verdict on a packet is two array look-ups, one for the row's block and
// one for the cell, and a search in the few port ranges of that cell.
type Filter struct {
	net4  uint32 // the IPv4 network, host order
	mask4 uint32 // its host bits
	net6  uint64 // the ULA's first 64 bits
	width int    // blocks in a row

	rows     []uint32 // source class * width + destination class / 64 -> block
	blocks   []block  // destination class % 64 -> cell
	cells    []cell   // cell 0 is empty
	ranges   []portRange
	relative [numRelations][]uint32 // source class -> cell, for its own owner's and household's machines
	pages    [256]*[256]node
	nobody   node

	recovery bool // no enrolment either
	partial  bool // made from a Slice: who is missing may well exist

	// What follows is for people: Explain, Diff, Resolve.
	v4, v6   netip.Prefix
	policy   *Policy
	slots    []slot
	machines []machine // by index, then ghosts
	grants   []appGrant
}

// cell is what one class of sources may send to one class of destinations:
// allowed ranges, then ranges that never forbids, at start in f.ranges.
type cell struct {
	start        uint32
	allow, never uint32 // how many
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
	if page := f.pages[n>>8]; page != nil {
		return &page[n&0xff]
	}
	return &f.nobody
}

// local reports whether the node is this machine's own stack.
func (f *Filter) local(n uint16) bool {
	return f != nil && f.at(n).flags&flagLocal != 0
}

// lookup judges one packet: from node src to node dst, both from node, node4
// or node6. port is the destination's, ignored for ICMP. It allocates nothing.
func (f *Filter) lookup(src, dst uint16, proto Proto, port uint16) Verdict {
	if f == nil {
		return Verdict{Reason: ReasonNoPolicy}
	}
	s, d := f.at(src), f.at(dst)
	v := Verdict{Local: d.flags&flagLocal != 0}
	if s.flags&d.flags&flagActive == 0 {
		f.special(&v, s, d, proto, port)
		return v
	}
	// Promise 3: no rule is looked at between two households.
	if s.household != d.household && s.household != 0 && d.household != 0 {
		v.Reason = ReasonCrossHousehold
		return v
	}
	key := portKey(proto, port)
	c := &f.cells[f.cellOf(s.src, d.dst)]
	if hit := searchRanges(f.ranges[c.start:c.start+c.allow], key); hit != nil {
		v.Allow, v.Rule = true, hit.rule
	} else if rule := f.lookupRelative(s, d, key); rule != 0 {
		v.Allow, v.Rule = true, rule
	} else {
		v.Reason = ReasonNoRule
		if d.flags&flagService != 0 && !f.offers(dst, key) {
			v.Reason = ReasonNotOffered
		}
	}
	if c.never != 0 && searchRanges(f.ranges[c.start+c.allow:c.start+c.allow+c.never], key) != nil {
		return Verdict{Local: v.Local, Reason: ReasonNever}
	}
	return v
}

// cellOf is the matrix.
func (f *Filter) cellOf(src, dst uint16) uint32 {
	return f.blocks[f.rows[int(src)*f.width+int(dst/blockSize)]][dst%blockSize]
}

// lookupRelative looks at autogroup:self and autogroup:same-household, which
// hang on the pair and not on its classes. It returns the rule, 0 for none.
func (f *Filter) lookupRelative(s, d *node, key uint32) int32 {
	if d.flags&flagService != 0 {
		return 0
	}
	for rel := toSelf; rel < numRelations; rel++ {
		n := f.relative[rel][s.src]
		if n == 0 || rel == toSelf && (s.owner == 0 || s.owner != d.owner) ||
			rel == toHousehold && (s.household == 0 || s.household != d.household) {
			continue
		}
		c := &f.cells[n]
		if hit := searchRanges(f.ranges[c.start:c.start+c.allow], key); hit != nil {
			return hit.rule
		}
	}
	return 0
}

// special judges where one of the two is not an ordinary, active node.
func (f *Filter) special(v *Verdict, s, d *node, proto Proto, port uint16) {
	switch either := s.flags | d.flags; {
	case s.flags&flagKnown == 0 && !f.partial:
		v.Reason = ReasonUnknownSource
	case d.flags&flagKnown == 0 && !f.partial:
		v.Reason = ReasonUnknownDestination
	case either&flagQuarantined != 0:
		v.Reason = ReasonQuarantined
	case s.flags&flagInvite != 0 && d.flags&flagEnrol != 0 && !f.recovery:
		if proto == ProtoTCP && port == 443 {
			v.Allow, v.Rule = true, ruleEnrol
			return
		}
		v.Reason = ReasonInvite
	case either&flagInvite != 0:
		v.Reason = ReasonInvite
	case either&flagEnrol != 0:
		v.Reason = ReasonEnrol
	default:
		v.Reason = ReasonNoRule
	}
}

// offers reports whether a service has a port at all. It is asked only on
// refusal, so that the reason can say so.
func (f *Filter) offers(n uint16, key uint32) bool {
	m := f.machineAt(n)
	return m == nil || searchRanges(m.offer, key) != nil
}
