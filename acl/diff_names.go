package acl

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// changes turns what was seen into rectangles: destinations with the same
// sources and the same ports go together.
func (d *differ) changes(direction int, n *namer) ([]Change, int) {
	type rectangle struct {
		key  changeKey
		srcs []uint32
		dsts []uint32
	}
	rects := make(map[string]*rectangle)
	for key, byDst := range d.seen {
		if key.direction != direction {
			continue
		}
		for t, sources := range byDst {
			var srcs []uint32
			for s := range sources {
				srcs = append(srcs, s)
			}
			slices.Sort(srcs)
			id := fmt.Sprint(key, srcs)
			if rects[id] == nil {
				rects[id] = &rectangle{key: key, srcs: srcs}
			}
			rects[id].dsts = append(rects[id].dsts, t)
		}
	}
	list := make([]*rectangle, 0, len(rects))
	for _, r := range rects {
		slices.Sort(r.dsts)
		list = append(list, r)
	}
	// Broad changes first; the rest of the order only has to be fixed.
	slices.SortFunc(list, func(a, b *rectangle) int {
		return cmp.Or(len(b.srcs)*len(b.dsts)-len(a.srcs)*len(a.dsts), cmp.Compare(a.key.ranges, b.key.ranges),
			slices.Compare(a.dsts, b.dsts), slices.Compare(a.srcs, b.srcs), int(a.key.kind)-int(b.key.kind))
	})
	out := []Change{}
	for _, r := range list[:min(len(list), maxChanges)] {
		c := Change{Src: n.name(r.srcs, d.bySrc), Ports: unpackRanges(r.key.ranges)}
		switch {
		case r.key.kind&toSelf != 0:
			c.Dst = []string{selector{kind: selSelf}.String()}
		case r.key.kind&toHousehold != 0:
			c.Dst = []string{selector{kind: selSameHousehold}.String()}
		default:
			c.Dst = n.name(r.dsts, d.byDst)
		}
		out = append(out, c)
	}
	return out, max(0, len(list)-maxChanges)
}

// namer finds the selectors that an admin would use for a set of machines.
type namer struct {
	d          *differ
	candidates []candidate
}

type candidate struct {
	name    string
	members []uint64 // a bit for each joint machine
	count   int
}

func newNamer(d *differ) *namer {
	n := &namer{d: d}
	index := make(map[*machine]int, 2*len(d.machines))
	for i, j := range d.machines {
		for _, m := range j {
			if m != nil {
				index[m] = i
			}
		}
	}
	byName := make(map[string]int)
	for _, f := range d.side {
		if f == nil || f.policy == nil {
			continue
		}
		r := newResolver(f, f.policy)
		for _, s := range nameable(f, r) {
			name := s.String()
			k, ok := byName[name]
			if !ok {
				k = len(n.candidates)
				byName[name] = k
				n.candidates = append(n.candidates, candidate{name: name, members: make([]uint64, len(d.machines)/64+1)})
			}
			for _, i := range r.find(s) {
				if m, ok := index[&f.machines[i]]; ok {
					n.candidates[k].members[m/64] |= 1 << (m % 64)
				}
			}
		}
	}
	for i := range n.candidates {
		for _, word := range n.candidates[i].members {
			n.candidates[i].count += bits.OnesCount64(word)
		}
	}
	return n
}

// nameable lists the selectors worth using as a name, broad ones first.
func nameable(f *Filter, r *resolver) []selector {
	list := []selector{{kind: selAll}, {kind: selMember}, {kind: selService}}
	if r.groups[adminGroup] != nil {
		list = append(list, selector{kind: selAdmin})
	}
	for _, keys := range []struct {
		kind selectorKind
		of   map[string][]int32
	}{{selHousehold, r.byHousehold}, {selTag, r.byTag}, {selUser, r.byOwner}} {
		var names []string
		for name := range keys.of {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			list = append(list, selector{kind: keys.kind, name: name})
		}
	}
	for i := range f.policy.groups {
		list = append(list, selector{kind: selGroup, name: f.policy.groups[i].name})
	}
	return list
}

// name covers the machines of some joint classes with selectors, widest first,
// and names what is left one by one.
func (n *namer) name(classes []uint32, members [][]int32) []string {
	left, whole := make([]uint64, len(n.d.machines)/64+1), make([]uint64, len(n.d.machines)/64+1)
	for _, c := range classes {
		for _, m := range members[c] {
			left[m/64] |= 1 << (m % 64)
		}
	}
	copy(whole, left)
	var names []string
	for {
		best, most := -1, 1 // one machine goes by its own name, if it has one
		for i := range n.candidates {
			c := &n.candidates[i]
			if c.count <= most && c.count > 1 {
				continue
			}
			if gain := n.gain(c, whole, left); gain > most {
				best, most = i, gain
			}
		}
		if best < 0 {
			break
		}
		names = append(names, n.candidates[best].name)
		for i, word := range n.candidates[best].members {
			left[i] &^= word
		}
	}
	return append(names, n.single(whole, left)...)
}

// gain is how many machines of left a candidate would cover, 0 if it has any
// outside of whole.
func (n *namer) gain(c *candidate, whole, left []uint64) int {
	gain := 0
	for i, word := range c.members {
		if word&^whole[i] != 0 {
			return 0
		}
		gain += bits.OnesCount64(word & left[i])
	}
	return gain
}

// single names machines one by one. A ghost goes by the selector it stands
// for, if that fits, because "bob@" reads better than "a new machine of bob@".
func (n *namer) single(whole, left []uint64) []string {
	var names []string
	for i, j := range n.d.machines {
		if left[i/64]&(1<<(i%64)) == 0 {
			continue
		}
		m := j.any()
		name := m.String()
		if m.ghost() {
			for k := range n.candidates {
				c := &n.candidates[k]
				if c.members[i/64]&(1<<(i%64)) != 0 && n.gain(c, whole, left) > 0 {
					name = c.name
				}
			}
		}
		names = append(names, strings.TrimSpace(name))
	}
	slices.Sort(names)
	return slices.Compact(names)
}
