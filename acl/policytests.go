package acl

import (
	"maps"
	"slices"
)

// What a test means. Its src and dst stand for every machine they select. If
// they select none that exists, they stand for one that may come: a new
// machine of that user, with that tag, in that household. "accept" holds if
// each pair that households do not keep apart may use each port; "deny" holds
// if no pair may use any. Without "proto", accept asks for TCP or UDP, and
// deny for neither. Quarantine is not the policy's doing and is not looked at.

// runTests holds the policy's examples against its matrix.
func (c *compiler) runTests() error {
	for i := range c.p.tests {
		t := &c.p.tests[i]
		err := c.runTest(t)
		if err == nil {
			continue
		}
		if c.strict {
			return err
		}
		c.problem(Problem{Line: err.Line, Column: err.Column, Msg: err.Msg})
	}
	return nil
}

func (c *compiler) runTest(t *test) *Error {
	from := c.standIns(t.src)
	if len(from) == 0 {
		return t.src.at.errorf("the test cannot run: %v is no machine; name one, or delete the test", t.src)
	}
	for _, list := range []struct {
		targets []target
		accept  bool
	}{{t.accept, true}, {t.deny, false}} {
		for _, target := range list.targets {
			if err := c.runTarget(from, target, list.accept); err != nil {
				return err
			}
		}
	}
	return nil
}

// standIns are the machines a test speaks of: real ones if there are any.
func (c *compiler) standIns(s selector) []*machine {
	var real, ghosts []*machine
	for _, i := range c.r.find(s) {
		if m := &c.f.machines[i]; m.ghost() {
			ghosts = append(ghosts, m)
		} else {
			real = append(real, m)
		}
	}
	if len(real) == 0 {
		return ghosts
	}
	return real
}

func (c *compiler) runTarget(from []*machine, t target, accept bool) *Error {
	to := c.standIns(t.sel)
	if len(to) == 0 {
		if !accept {
			return nil // nothing is there, so nothing can be reached
		}
		return t.sel.at.errorf("the test fails: %v is no machine, so nothing can be accepted there", t.sel)
	}
	met, err := c.runPairs(from, to, t, accept)
	if err != nil {
		return err
	}
	if accept && !met {
		return t.sel.at.errorf("the test fails: %v and %v belong to different households, and no rule can change that", from[0], to[0])
	}
	return nil
}

// runPairs asks about one pair of machines of each kind. It reports whether
// there was any.
func (c *compiler) runPairs(from, to []*machine, t target, accept bool) (met bool, err *Error) {
	asked := rangesOf(t.ports, 0)
	srcs := gather(from, func(m *machine) uint32 { return uint32(m.src) })
	dsts := gather(to, func(m *machine) uint32 { return uint32(m.dst)<<16 | uint32(m.wide) })
	for _, d := range dsts {
		open := c.f.openers(d[0], asked)
		for _, s := range srcs {
			if err := c.spend(len(open)); err != nil {
				return met, t.sel.at.errorf("the test cannot run: %v", err)
			}
			if accept && !compatible(s[0], d[0]) {
				continue
			}
			if !accept && !meets(c.f.source(s[0].src), open) {
				continue // by autogroup:self or its like, or not at all
			}
			for _, pair := range pairsOf(s, d) {
				met = true
				if err := c.runPair(pair[0], pair[1], t, accept); err != nil {
					return met, err
				}
			}
		}
	}
	if accept {
		return met, nil // what a relation adds is not needed any more
	}
	return met, c.runRelated(from, to, t)
}

// runRelated asks about what autogroup:self and autogroup:same-household allow,
// which the matrix does not show.
func (c *compiler) runRelated(from, to []*machine, t target) *Error {
	asked := rangesOf(t.ports, 0)
	for rel := toSelf; rel < numRelations; rel++ {
		group := func(m *machine) string {
			if rel == toSelf {
				return m.owner
			}
			return m.household
		}
		srcs, dsts := make(map[string][]*machine), make(map[string][]*machine)
		for _, m := range from {
			if group(m) != "" && len(intersect(c.f.ports(c.f.relative[rel][m.src]), asked)) > 0 {
				srcs[group(m)] = append(srcs[group(m)], m)
			}
		}
		if len(srcs) == 0 {
			continue
		}
		for _, m := range to {
			dsts[group(m)] = append(dsts[group(m)], m)
		}
		for _, g := range slices.Sorted(maps.Keys(srcs)) {
			for _, s := range gather(srcs[g], func(m *machine) uint32 { return uint32(m.src) }) {
				for _, d := range gather(dsts[g], func(m *machine) uint32 { return uint32(m.dst)<<16 | uint32(m.wide) }) {
					for _, pair := range pairsOf(s, d) {
						if err := c.runPair(pair[0], pair[1], t, false); err != nil {
							return err
						}
					}
				}
			}
		}
	}
	return nil
}

// gather puts machines together that fare alike but for their owners: of each
// kind two, with different owners if there are, so that every kind of pair has
// one between two machines.
func gather(list []*machine, class func(*machine) uint32) [][]*machine {
	type kind struct {
		class     uint32
		service   bool
		household string
	}
	var out [][]*machine
	place := make(map[kind]int)
	for _, m := range list {
		k := kind{class(m), m.service(), m.household}
		n, ok := place[k]
		switch {
		case !ok:
			place[k] = len(out)
			out = append(out, []*machine{m})
		case len(out[n]) == 1:
			out[n] = append(out[n], m)
		case out[n][0].owner == out[n][1].owner && m.owner != out[n][0].owner:
			out[n][1] = m
		}
	}
	return out
}

// pairsOf are the pairs that a packet can travel between: not from a machine to
// itself, unless it stands for many.
func pairsOf(srcs, dsts []*machine) (pairs [][2]*machine) {
	for _, s := range srcs {
		for _, d := range dsts {
			if s != d || s.ghost() {
				pairs = append(pairs, [2]*machine{s, d})
			}
		}
	}
	return pairs
}

func (c *compiler) runPair(src, dst *machine, t target, accept bool) *Error {
	if err := c.spend(pairCost); err != nil {
		return t.sel.at.errorf("the test cannot run: %v", err)
	}
	asked := rangesOf(t.ports, 0)
	if dst.service() {
		asked = intersect(asked, dst.offer)
		if accept && len(asked) == 0 {
			return t.sel.at.errorf("the test fails: %v does not offer that port", dst)
		}
	}
	allowed := c.f.pair(src, dst)
	if !accept {
		for _, r := range intersect(allowed, asked) {
			r.last = r.first
			return t.sel.at.errorf("the test fails: %v reaches %v on %v, which it should not, by the %s: %s",
				src, dst, r.port(), c.f.ruleName(r.rule), c.f.RuleText(r.rule))
		}
		return nil
	}
	missing := subtract(asked, allowed)
	if t.either {
		missing = eitherProto(asked, missing)
	}
	for _, r := range missing {
		r.last = r.first
		return t.sel.at.errorf("the test fails: %v does not reach %v on %v, which it should: %v", src, dst, r.port(), ReasonNoRule)
	}
	return nil
}

// eitherProto forgives what one of TCP and UDP lacks where the other was asked
// for too and has it; ping is a bonus.
func eitherProto(asked, missing []portRange) []portRange {
	const step = 1 << 16 // from TCP to UDP
	var out []portRange
	granted := subtract(asked, missing)
	for _, r := range missing {
		shift := int64(step)
		switch r.first >> 16 {
		case 2:
			shift = -step
		case 3:
			continue
		}
		other := portRange{uint32(int64(r.first) + shift), uint32(int64(r.last) + shift), 0}
		for _, left := range subtract([]portRange{other}, granted) {
			out = append(out, portRange{uint32(int64(left.first) - shift), uint32(int64(left.last) - shift), 0})
		}
	}
	return out
}

// pair works out everything that src may send to dst, as the packet path
// would decide it one port at a time, quarantine apart.
func (f *Filter) pair(src, dst *machine) []portRange {
	if !compatible(src, dst) || (src.flags|dst.flags)&(flagInvite|flagEnrol) != 0 {
		return nil
	}
	return subtract(f.allowed(src, dst), f.forbidden(src, dst))
}
