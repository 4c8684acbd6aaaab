package acl

import "slices"

// A never is not only checked here. Its selectors are part of the classes and
// its ports are in the matrix beside those of the rules, so the packet path
// refuses what a never forbids. Proving it means finding no cell in which a
// rule had allowed it. When a world changes so that the proof no longer
// holds, the never still does.

// example is a pair of machines that breaks a never.
type example struct {
	src, dst *machine
	port     Port
	rule     int32
	never    int32
}

// prove checks every cell of the matrix that some pair of machines, real or
// yet to come, can meet in.
func (c *compiler) prove() error {
	for _, e := range c.f.breaches(c.p) {
		never := &c.p.nevers[e.never-1]
		err := never.at.errorf("this never does not hold: %v would reach %v on %v by the %s: %s; narrow one of the two",
			e.src, e.dst, e.port, c.f.ruleName(e.rule), c.f.RuleText(e.rule))
		if c.strict {
			return err
		}
		c.problem(Problem{Line: err.Line, Column: err.Column, Msg: err.Msg + "; until then the never wins"})
	}
	return nil
}

// breaches finds at most one example for each never.
func (f *Filter) breaches(p *Policy) []example {
	if len(p.nevers) == 0 {
		return nil
	}
	b := &breachFinder{f: f, found: make(map[int32]example), cells: make(map[[2]uint32][]example)}
	srcs, dsts := b.groups(func(m *machine) uint16 { return m.src }), b.groups(func(m *machine) uint16 { return m.dst })
	for src, from := range srcs {
		for dst, to := range dsts {
			if n := f.cellOf(uint16(src), uint16(dst)); f.cells[n].never != 0 {
				b.cell(n, n, from, to, anyPair)
			}
		}
	}
	for rel := toSelf; rel < numRelations; rel++ {
		b.relation(rel)
	}
	var list []example
	for _, e := range b.found {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b example) int { return int(a.never - b.never) })
	return list
}

type breachFinder struct {
	f     *Filter
	found map[int32]example
	cells map[[2]uint32][]example // what two cells contradict each other in
}

// groups lists machines of each class: two for each household stand for all,
// because within the matrix nothing else tells them apart. Invites and the
// enrol service are not in the matrix; quarantine passes, so the quarantined
// are.
func (b *breachFinder) groups(class func(*machine) uint16) [][]int32 {
	type key struct {
		class     uint16
		household string
	}
	var out [][]int32
	count := make(map[key]int)
	for i := range b.f.machines {
		m := &b.f.machines[i]
		if m.flags&(flagInvite|flagEnrol) != 0 {
			continue
		}
		k := key{class(m), m.household}
		if count[k]++; count[k] > 2 {
			continue
		}
		n := int(k.class)
		for len(out) <= n {
			out = append(out, nil)
		}
		out[n] = append(out[n], int32(i))
	}
	return out
}

func anyPair(_, _ *machine) bool { return true }

func sameOwner(a, b *machine) bool { return a.owner != "" && a.owner == b.owner }

func sameHousehold(a, b *machine) bool { return a.household != "" && a.household == b.household }

// cell looks for a pair of machines between which allow's rules and never's
// nevers meet.
func (b *breachFinder) cell(allow, never uint32, from, to []int32, fits func(a, b *machine) bool) {
	clashes, ok := b.cells[[2]uint32{allow, never}]
	if !ok {
		clashes = b.f.clashes(allow, never)
		b.cells[[2]uint32{allow, never}] = clashes
	}
	if len(clashes) == 0 {
		return
	}
	clashes = slices.DeleteFunc(slices.Clone(clashes), func(e example) bool { _, ok := b.found[e.never]; return ok })
	if len(clashes) == 0 {
		return
	}
	for _, s := range from {
		for _, d := range to {
			src, dst := &b.f.machines[s], &b.f.machines[d]
			if s == d && !src.ghost() || !compatible(src, dst) || !fits(src, dst) {
				continue
			}
			for _, e := range clashes {
				e.src, e.dst = src, dst
				b.found[e.never] = e
			}
			return
		}
	}
}

// compatible reports whether promise 3 lets two machines meet at all.
func compatible(a, b *machine) bool {
	return a.household == b.household || a.household == "" || b.household == ""
}

// clashes lists, for each never in a cell, the first port that a rule allows.
func (f *Filter) clashes(allow, never uint32) []example {
	var list []example
	for _, n := range f.forbidden(never) {
		for _, r := range intersect(f.allowed(allow), []portRange{n}) {
			r.last = r.first
			list = append(list, example{port: r.port(), rule: r.rule, never: n.rule})
			break
		}
	}
	return list
}

// relation does for autogroup:self and autogroup:same-household what the walk
// over the matrix does for all other destinations.
func (b *breachFinder) relation(rel relation) {
	group, fits := func(m *machine) string { return m.owner }, sameOwner
	if rel == toHousehold {
		group, fits = func(m *machine) string { return m.household }, sameHousehold
	}
	type key struct {
		group string
		class uint16
	}
	froms, tos := make(map[key][]int32), make(map[string]map[uint16][]int32)
	for i := range b.f.machines {
		m := &b.f.machines[i]
		if m.service() || m.flags&flagInvite != 0 || group(m) == "" {
			continue
		}
		if b.f.relative[rel][m.src] != 0 {
			froms[key{group(m), m.src}] = append(froms[key{group(m), m.src}], int32(i))
		}
		if tos[group(m)] == nil {
			tos[group(m)] = make(map[uint16][]int32)
		}
		tos[group(m)][m.dst] = append(tos[group(m)][m.dst], int32(i))
	}
	for k, from := range froms {
		for dst, to := range tos[k.group] {
			if n := b.f.cellOf(k.class, dst); b.f.cells[n].never != 0 {
				b.cell(b.f.relative[rel][k.class], n, from, to, fits)
			}
		}
	}
}
