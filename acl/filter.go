package acl

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// A node is a place in the address plan. Its index i in [1, 2^hostbits-2]
// gives both addresses: network+i and ula::i. Index 0 is nobody, so an address
// that is not on the overlay is a node that nothing is known about.
type node struct {
	src       uint16 // class as a source
	dst, wide uint16 // classes as a destination
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
// The verdict on a packet is two array look-ups, the source's class and the
// destination's, a search for the port in the destination's few segments, and
// a test whether one of that segment's rules is about the source.
type Filter struct {
	net4  uint32 // the IPv4 network, host order
	mask4 uint32 // its host bits
	net6  uint64 // the ULA's first 64 bits
	words int    // 64-bit words in a set of slots

	sources  []uint64      // source class * words: a bit for each slot about it
	dsts     []destination // by destination class
	segments []segment
	firsts   []uint32 // where each segment begins, packed for the search
	lists    []uint32 // slots, sorted
	sets     []uint64 // slots as bits
	cells    []cell   // cell 0 is empty
	ranges   []portRange
	relative [numRelations][]uint32 // source class -> cell, for its own owner's and household's machines
	pages    [256]*[256]node
	nobody   node

	recovery bool // no enrolment either
	partial  bool // made from a Slice: who is missing may well exist

	slots []slot // every rule, in the order of precedence

	// What follows is for people: Explain, Diff, Resolve.
	v4, v6   netip.Prefix
	policy   *Policy
	machines []machine // by index, then ghosts
	grants   []appGrant
}

// destination is a class of destinations: by port, the slots that open it and
// those that forbid it. offer is the cell with a service's ports, 0 for peers.
type destination struct {
	allow, never segmentList
	offer        uint32
}

// segmentList is a run of Filter.segments, sorted and without overlaps.
type segmentList struct {
	start, n uint32
}

// segment is a range of ports for which the same slots count.
type segment struct {
	first, last uint32 // as portKey packs them
	slots       slotList
}

// slotList is a run of Filter.lists, or, with n -1, a set in Filter.sets.
type slotList struct {
	start uint32
	n     int32
}

// cell is a run of Filter.ranges, sorted and without overlaps.
type cell struct {
	start, n uint32
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
	key, row := portKey(proto, port), f.source(s.src)
	to := &f.dsts[d.dst]
	slot := f.search(to.allow, key, row)
	if slot < 0 && d.wide != 0 {
		slot = f.search(f.dsts[d.wide].allow, key, row)
	}
	if slot >= 0 {
		v.Allow, v.Rule = true, f.slots[slot].n
	} else if rule := f.lookupRelative(s, d, key); rule != 0 {
		v.Allow, v.Rule = true, rule
	} else {
		v.Reason = ReasonNoRule
		if d.flags&flagService != 0 && !f.partial && searchRanges(f.ports(to.offer), key) == nil {
			v.Reason = ReasonNotOffered
		}
	}
	if to.never.n != 0 && f.search(to.never, key, row) >= 0 || d.wide != 0 && f.search(f.dsts[d.wide].never, key, row) >= 0 {
		return Verdict{Local: v.Local, Reason: ReasonNever}
	}
	return v
}

// source returns the rules about a source class, as bits.
func (f *Filter) source(class uint16) []uint64 {
	return f.sources[int(class)*f.words : (int(class)+1)*f.words]
}

// search returns the first slot that counts for a port and is in row, -1 for
// none.
func (f *Filter) search(l segmentList, key uint32, row []uint64) int32 {
	if l.n == 0 {
		return -1
	}
	// The loop has no branch that depends on the packet: a mispredicted one
	// costs as much as the rest of the verdict.
	firsts := f.firsts[l.start : l.start+l.n]
	at := uint32(0)
	for n := l.n; n > 1; {
		half := n / 2
		next := at + half
		if firsts[next] <= key {
			at = next
		}
		n -= half
	}
	seg := &f.segments[l.start+at]
	if key < seg.first || key > seg.last {
		return -1
	}
	return f.first(seg.slots, row)
}

// first returns the first slot that a list and a row have in common, -1 for
// none.
func (f *Filter) first(l slotList, row []uint64) int32 {
	if l.n >= 0 {
		for _, slot := range f.lists[l.start : l.start+uint32(l.n)] {
			if row[slot/64]>>(slot%64)&1 != 0 {
				return int32(slot)
			}
		}
		return -1
	}
	set := f.sets[l.start : int(l.start)+len(row)]
	for i, word := range row {
		if both := word & set[i]; both != 0 {
			return int32(i*64 + bits.TrailingZeros64(both))
		}
	}
	return -1
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
		if hit := searchRanges(f.ports(n), key); hit != nil {
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
