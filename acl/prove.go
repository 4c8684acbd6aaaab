package acl

import (
	"cmp"
	"slices"
)

// A never is not only checked here. It is compiled into the matrix beside the
// rules, so the packet path refuses what a never forbids. Proving it means
// finding no pair of classes in which a rule had allowed it. When a world
// changes so that the proof no longer holds, the never still does.

// prove checks every never against every pair of classes that machines, real
// or yet to come, can be in.
func (c *compiler) prove() error {
	for i := range c.p.nevers {
		never := &c.p.nevers[i]
		e, cause := c.breach(never)
		if cause != nil {
			err := never.at.errorf("this never cannot be proven: %v", cause)
			if c.strict {
				return err
			}
			c.problem(Problem{Line: err.Line, Column: err.Column, Msg: err.Msg + "; it is enforced all the same"})
			return nil // there is no time for the others either
		}
		if e == nil {
			continue
		}
		err := never.at.errorf("this never does not hold: %v would reach %v on %v by the %s: %s; narrow one of the two",
			e.src, e.dst, e.port, c.f.ruleName(e.rule), c.f.RuleText(e.rule))
		if c.strict {
			return err
		}
		c.problem(Problem{Line: err.Line, Column: err.Column, Msg: err.Msg + "; until then the never wins"})
	}
	return nil
}

// example is a pair of machines that breaks a never.
type example struct {
	src, dst *machine
	port     Port
	rule     int32
}

// breach looks for an example against one never, nil if there is none: the
// proof. It fails if looking takes too long.
func (c *compiler) breach(never *rule) (*example, error) {
	from := make(map[int32]bool)
	for _, s := range never.src {
		for _, i := range c.r.speakers(s) {
			from[i] = true
		}
	}
	srcs := groupBy(c.f, from, func(m *machine) uint32 { return uint32(m.src) })
	// An example that the never names itself says more than a service of it.
	slices.SortStableFunc(srcs, func(a, b []int32) int {
		return cmp.Compare(c.f.machines[a[0]].flags&flagService, c.f.machines[b[0]].flags&flagService)
	})
	for _, t := range never.dst {
		to := make(map[int32]bool)
		for _, i := range c.r.find(t.sel) {
			to[i] = true
		}
		dsts := groupBy(c.f, to, func(m *machine) uint32 { return uint32(m.dst)<<16 | uint32(m.wide) })
		ports := rangesOf(t.ports, 0)
		for _, d := range dsts {
			open := c.f.openers(&c.f.machines[d[0]], ports)
			for _, s := range srcs {
				if err := c.spend(len(open)); err != nil {
					return nil, err
				}
				if meets(c.f.source(c.f.machines[s[0]].src), open) {
					if err := c.spend(len(s) * len(d) * exampleCost); err != nil {
						return nil, err
					}
					if e := c.f.example(s, d, ports); e != nil {
						return e, nil
					}
				}
			}
		}
		if e := c.relatedBreach(from, to, ports); e != nil {
			return e, nil
		}
	}
	return nil, nil
}

// exampleCost is what one pair of machines costs that households keep apart,
// as most are that get so far, in words of the matrix.
const exampleCost = 16

// groupBy puts machines of one class together, two for each household: within
// the matrix nothing else tells them apart. Invites and the enrol service are
// not in the matrix. The quarantined are: quarantine passes.
func groupBy(f *Filter, set map[int32]bool, class func(*machine) uint32) [][]int32 {
	type key struct {
		class     uint32
		household string
	}
	var out [][]int32
	place, count := make(map[uint32]int), make(map[key]int)
	for i := range f.machines {
		m := &f.machines[i]
		if !set[int32(i)] || m.flags&(flagInvite|flagEnrol) != 0 {
			continue
		}
		k := key{class(m), m.household}
		if count[k]++; count[k] > 2 {
			continue
		}
		n, ok := place[k.class]
		if !ok {
			n = len(out)
			place[k.class] = n
			out = append(out, nil)
		}
		out[n] = append(out[n], int32(i))
	}
	return out
}

// openers returns, as bits, every slot that opens one of the ports of dst.
func (f *Filter) openers(dst *machine, ports []portRange) []uint64 {
	open := make([]uint64, f.words)
	for _, class := range []uint16{dst.dst, dst.wide} {
		l := f.dsts[class].allow
		for _, seg := range f.segments[l.start : l.start+l.n] {
			if len(intersect([]portRange{{seg.first, seg.last, 0}}, ports)) > 0 {
				f.collect(seg.slots, open)
			}
		}
	}
	return open
}

// collect adds a list's slots to a set.
func (f *Filter) collect(l slotList, set []uint64) {
	if l.n < 0 {
		for i := range set {
			set[i] |= f.sets[int(l.start)+i]
		}
		return
	}
	for _, slot := range f.lists[l.start : l.start+uint32(l.n)] {
		set[slot/64] |= 1 << (slot % 64)
	}
}

func meets(a, b []uint64) bool {
	for i, word := range a {
		if word&b[i] != 0 {
			return true
		}
	}
	return false
}

// example finds two machines that may meet and whose rules allow one of the
// ports.
func (f *Filter) example(from, to []int32, ports []portRange) *example {
	for _, s := range from {
		for _, d := range to {
			src, dst := &f.machines[s], &f.machines[d]
			if s == d && !src.ghost() || !compatible(src, dst) {
				continue
			}
			if hit := intersect(f.allowed(src, dst), ports); len(hit) > 0 {
				hit[0].last = hit[0].first
				return &example{src: src, dst: dst, port: hit[0].port(), rule: hit[0].rule}
			}
		}
	}
	return nil
}

// relatedBreach does for autogroup:self and autogroup:same-household what the
// walk over classes does for all other destinations.
func (c *compiler) relatedBreach(from, to map[int32]bool, ports []portRange) *example {
	for rel := toSelf; rel < numRelations; rel++ {
		srcs, dsts := make(map[string][]int32), make(map[string][]int32)
		for i := range c.f.machines {
			m := &c.f.machines[i]
			group := m.owner
			if rel == toHousehold {
				group = m.household
			}
			if group == "" || m.service() || m.flags&flagInvite != 0 {
				continue
			}
			if from[int32(i)] && len(intersect(c.f.ports(c.f.relative[rel][m.src]), ports)) > 0 {
				srcs[group] = append(srcs[group], int32(i))
			}
			if to[int32(i)] {
				dsts[group] = append(dsts[group], int32(i))
			}
		}
		for group, list := range srcs {
			if e := c.f.example(list, dsts[group], ports); e != nil {
				return e
			}
		}
	}
	return nil
}

// compatible reports whether promise 3 lets two machines meet at all.
func compatible(a, b *machine) bool {
	return a.household == b.household || a.household == "" || b.household == ""
}

func sameOwner(a, b *machine) bool { return a.owner != "" && a.owner == b.owner }

func sameHousehold(a, b *machine) bool { return a.household != "" && a.household == b.household }
