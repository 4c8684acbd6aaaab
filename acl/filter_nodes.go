package acl

import (
	"encoding/json"
	"net/netip"
	"slices"
)

// setNodes fills the pages from f.machines.
func (f *Filter) setNodes() {
	owners, households := map[string]uint16{"": 0}, map[string]uint16{"": 0}
	number := func(known map[string]uint16, name string) uint16 {
		n, ok := known[name]
		if !ok {
			// At most 65,534 machines have an address, so this cannot wrap.
			n = uint16(len(known))
			known[name] = n
		}
		return n
	}
	for i := range f.machines {
		m := &f.machines[i]
		if m.ghost() {
			break
		}
		n := f.slotFor(m.index)
		*n = node{
			src: m.src, dst: m.dst, wide: m.wide, flags: m.flags,
			owner: number(owners, m.owner), household: number(households, m.household),
		}
	}
}

func (f *Filter) slotFor(n uint16) *node {
	page := f.pages[n>>8]
	if page == nil {
		page = new([256]node)
		f.pages[n>>8] = page
	}
	return &page[n&0xff]
}

// addCell stores a list of ranges. An empty one is cell 0.
func (f *Filter) addCell(ranges []portRange) uint32 {
	if len(f.cells) == 0 {
		f.cells = []cell{{}}
	}
	if len(ranges) == 0 {
		return 0
	}
	f.cells = append(f.cells, cell{start: uint32(len(f.ranges)), n: uint32(len(ranges))})
	f.ranges = append(f.ranges, ranges...)
	return uint32(len(f.cells) - 1)
}

// ports returns what a cell holds. A world in which no cell was needed has
// none, not even the empty one.
func (f *Filter) ports(c uint32) []portRange {
	if c == 0 {
		return nil
	}
	return f.ranges[f.cells[c].start : f.cells[c].start+f.cells[c].n]
}

// allowed is everything that rules let src send to dst, whatever a never says,
// as the packet path would find it one port at a time.
func (f *Filter) allowed(src, dst *machine) []portRange {
	row := f.source(src.src)
	var list []portRange
	for _, class := range []uint16{dst.dst, dst.wide} {
		list = append(list, f.matching(f.dsts[class].allow, row)...)
	}
	if !dst.service() {
		if sameOwner(src, dst) {
			list = append(list, f.ports(f.relative[toSelf][src.src])...)
		}
		if sameHousehold(src, dst) {
			list = append(list, f.ports(f.relative[toHousehold][src.src])...)
		}
	}
	return mergeRanges(list)
}

// forbidden is everything that a never keeps src from sending to dst. The
// ranges' rules are numbers of nevers.
func (f *Filter) forbidden(src, dst *machine) []portRange {
	row := f.source(src.src)
	return mergeRanges(append(f.matching(f.dsts[dst.dst].never, row), f.matching(f.dsts[dst.wide].never, row)...))
}

// matching returns the segments in which a row has a slot.
func (f *Filter) matching(l segmentList, row []uint64) []portRange {
	var list []portRange
	for _, seg := range f.segments[l.start : l.start+l.n] {
		if slot := f.first(seg.slots, row); slot >= 0 {
			list = append(list, portRange{seg.first, seg.last, f.slots[slot].n})
		}
	}
	return list
}

// machineAt finds the machine at an index, nil if there is none.
func (f *Filter) machineAt(n uint16) *machine {
	if n == 0 {
		return nil
	}
	i, ok := slices.BinarySearchFunc(f.placed(), n, func(m machine, n uint16) int { return int(m.index) - int(n) })
	if !ok {
		return nil
	}
	return &f.machines[i]
}

// placed are the machines with an address.
func (f *Filter) placed() []machine {
	n := len(f.machines)
	for n > 0 && f.machines[n-1].ghost() {
		n--
	}
	return f.machines[:n]
}

// appGrant is a grant's "app" for classes of machines.
type appGrant struct {
	slot                uint32
	dst                 map[uint16]bool // narrow and wide classes
	toSelf, toHousehold bool
	app                 map[string][]json.RawMessage
}

// Grants returns the capabilities that the policy's grants give src on dst,
// by name. Whoever may not be reached at all grants nothing.
func (f *Filter) Grants(src, dst netip.Addr) map[string][]json.RawMessage {
	if f == nil {
		return nil
	}
	s, d := f.at(f.node(src)), f.at(f.node(dst))
	if s.flags&d.flags&flagActive == 0 || s.household != d.household && s.household != 0 && d.household != 0 {
		return nil
	}
	var out map[string][]json.RawMessage
	for i := range f.grants {
		g := &f.grants[i]
		peers := d.flags&flagService == 0
		self := g.toSelf && peers && s.owner != 0 && s.owner == d.owner
		home := g.toHousehold && peers && s.household != 0 && s.household == d.household
		about := f.source(s.src)[g.slot/64]>>(g.slot%64)&1 != 0
		if !about || !g.dst[d.dst] && !g.dst[d.wide] && !self && !home {
			continue
		}
		if out == nil {
			out = make(map[string][]json.RawMessage)
		}
		for name, values := range g.app {
			for _, v := range values {
				out[name] = append(out[name], slices.Clone(v))
			}
		}
	}
	return out
}
