package acl

import "net/netip"

// Reaches reports whether src may start any flow at all to dst: whether it is
// of use to src to know that dst exists.
func (f *Filter) Reaches(src, dst netip.Addr) bool {
	if f == nil {
		return false
	}
	s, d := f.at(f.node(src)), f.at(f.node(dst))
	if s.flags&flagInvite != 0 && d.flags&flagEnrol != 0 {
		return !f.recovery
	}
	if s.flags&d.flags&flagActive == 0 || s.household != d.household && s.household != 0 && d.household != 0 {
		return false
	}
	row := f.source(s.src)
	list := append(f.matching(f.dsts[d.dst].allow, row), f.matching(f.dsts[d.wide].allow, row)...)
	if d.flags&flagService == 0 {
		if s.owner != 0 && s.owner == d.owner {
			list = append(list, f.ports(f.relative[toSelf][s.src])...)
		}
		if s.household != 0 && s.household == d.household {
			list = append(list, f.ports(f.relative[toHousehold][s.src])...)
		}
	}
	never := append(f.matching(f.dsts[d.dst].never, row), f.matching(f.dsts[d.wide].never, row)...)
	return len(subtract(mergeRanges(list), mergeRanges(never))) > 0
}

// Strangers reports whether two machines belong to different households, in
// which case not even the name of one is the other's business.
func (f *Filter) Strangers(a, b netip.Addr) bool {
	if f == nil {
		return true
	}
	x, y := f.at(f.node(a)), f.at(f.node(b))
	return x.household != y.household && x.household != 0 && y.household != 0
}
