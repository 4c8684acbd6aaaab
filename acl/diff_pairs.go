package acl

import (
	"maps"
	"slices"
)

// unrelated compares every cell of the two matrices.
func (d *differ) unrelated() {
	for t := range d.dsts {
		for s := range d.srcs {
			if c := d.change(uint32(s), uint32(t), toClass); (c[0] != "" || c[1] != "") && d.meet(uint32(s), uint32(t)) {
				d.note(uint32(s), uint32(t), toClass)
			}
		}
	}
}

// meet reports whether two classes have a pair of machines that households do
// not keep apart and that has no relation.
func (d *differ) meet(s, t uint32) bool {
	for _, a := range d.bySrc[s] {
		for _, b := range d.byDst[t] {
			from, to := d.machines[a], d.machines[b]
			if (a != b || from.any().ghost()) && d.kind(s, from, to) == toClass && compatible(from.any(), to.any()) {
				return true
			}
		}
	}
	return false
}

// related compares pairs of one owner or one household, where a rule is about
// that.
func (d *differ) related() {
	together := make(map[string][]int32)
	for i, j := range d.machines {
		m := j.any()
		if m.service() {
			continue
		}
		if m.owner != "" {
			together["o"+m.owner] = append(together["o"+m.owner], int32(i))
		}
		if m.household != "" {
			together["h"+m.household] = append(together["h"+m.household], int32(i))
		}
	}
	type triple struct {
		s, t uint32
		kind relation
	}
	done := make(map[triple]bool)
	for _, group := range slices.Sorted(maps.Keys(together)) {
		for _, a := range together[group] {
			if !d.relates(d.src[a]) {
				continue
			}
			for _, b := range together[group] {
				from, to := d.machines[a], d.machines[b]
				k := triple{d.src[a], d.dst[b], d.kind(d.src[a], from, to)}
				if k.kind != toClass && (a != b || from.any().ghost()) && compatible(from.any(), to.any()) && !done[k] {
					done[k] = true
					d.note(k.s, k.t, k.kind)
				}
			}
		}
	}
}

// relates reports whether a source class has any rule about its own owner or
// household.
func (d *differ) relates(s uint32) bool {
	for i, f := range d.side {
		if c := d.srcs[s][i]; f != nil && c >= 0 && f.relative[toSelf][c]+f.relative[toHousehold][c] != 0 {
			return true
		}
	}
	return false
}
