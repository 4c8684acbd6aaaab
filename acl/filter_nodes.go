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
			src: m.src, dst: m.dst, flags: m.flags,
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

// addCell stores a cell. An empty one is cell 0.
func (f *Filter) addCell(allow, never []portRange) uint32 {
	if len(f.cells) == 0 {
		f.cells = []cell{{}}
	}
	if len(allow)+len(never) == 0 {
		return 0
	}
	c := cell{start: uint32(len(f.ranges)), allow: uint32(len(allow)), never: uint32(len(never))}
	f.ranges = append(append(f.ranges, allow...), never...)
	f.cells = append(f.cells, c)
	return uint32(len(f.cells) - 1)
}

func (f *Filter) allowed(c uint32) []portRange {
	return f.ranges[f.cells[c].start : f.cells[c].start+f.cells[c].allow]
}

func (f *Filter) forbidden(c uint32) []portRange {
	start := f.cells[c].start + f.cells[c].allow
	return f.ranges[start : start+f.cells[c].never]
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
	src, dst            map[uint16]bool
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
		if !g.src[s.src] || !g.dst[d.dst] && !self && !home {
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
