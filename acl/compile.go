package acl

import (
	"errors"
	"fmt"
	"slices"
)

// maxProblems is how many problems Recompile lists before it stops counting
// them one by one.
const maxProblems = 100

// maxWork bounds what the tests and proofs of one compilation cost, in words
// of the matrix that are looked at: two or three seconds. A hub compiles at
// every change, and a removal must not wait for an endless proof.
const (
	maxWork  = 1 << 32
	pairCost = 1 << 10 // working out one pair of machines, in the same unit
)

var errWork = errors.New("the policy tells apart too many machines for so many tests and nevers; use groups and tags, or delete some")

// spend counts work and reports when there was too much.
func (c *compiler) spend(n int) error {
	if c.work += int64(n); c.work > maxWork {
		return errWork
	}
	return nil
}

// The built-in rules, as Verdict.Rule has them.
const (
	ruleSync     int32 = -1 // every machine reaches the sync service
	ruleEnrol    int32 = -2 // an invite reaches the enrol service
	ruleRecovery int32 = -3 // without a policy, the admin reaches the console
)

// Compile holds a policy against a world and returns the filter that enforces
// it. It is strict: every name must exist, every test must hold and every
// never must be proven, else nothing is returned but an error, an *Error where
// a place in the text is to blame.
func Compile(p *Policy, w *World) (*Filter, error) {
	if p == nil || w == nil {
		return nil, errors.New("compiling policy: there is no policy; only Recovery works without one")
	}
	c := &compiler{p: p, world: w, strict: true}
	if err := c.compile(); err != nil {
		return nil, err
	}
	if err := c.prove(); err != nil {
		return nil, err
	}
	if err := c.runTests(); err != nil {
		return nil, err
	}
	return c.f, nil
}

// Recompile holds a policy that Compile once accepted against the world as it
// is now. It always returns a filter, which never allows more than the text
// says: a name that is gone matches nothing, what never forbids stays
// forbidden, and whatever else is amiss is reported. Without a policy it is
// Recovery; in a world without an address plan the filter is nil, which drops
// everything.
func Recompile(p *Policy, w *World) (*Filter, []Problem) {
	if w == nil {
		return nil, []Problem{{Msg: "there is no world to compile for; everything is refused"}}
	}
	if p == nil {
		return Recovery(w), []Problem{{Msg: "there is no policy; only the admin's own machines reach the console, and nothing else is allowed"}}
	}
	c := &compiler{p: p, world: w}
	if err := c.compile(); err != nil {
		return nil, append(c.problems, Problem{Msg: err.Error() + "; everything is refused"})
	}
	// In this mode neither returns an error: they report problems.
	_ = c.prove()
	_ = c.runTests()
	return c.f, c.problems
}

// Recovery is the filter for a hub without a usable policy: the untagged
// machines of w.Admin reach the console on tcp/80, and nothing else is allowed
// to anybody, enrolment included.
func Recovery(w *World) *Filter {
	if w == nil {
		return nil
	}
	c := &compiler{p: &Policy{}, world: w, recovery: true}
	if err := c.compile(); err != nil {
		return nil
	}
	return c.f
}

// compiler is one run. Nothing of it but f is kept.
type compiler struct {
	p        *Policy
	world    *World
	strict   bool
	recovery bool
	problems []Problem
	work     int64

	f              *Filter
	r              *resolver
	homes          map[string]string // user to household, as the policy says
	users          map[string]bool
	userOrder      []string // those that only the policy knows may have no machine: each gets a ghost
	tags           map[string]bool
	households     map[string]bool
	householdOrder []string
}

func (c *compiler) problem(p Problem) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, p)
	} else if len(c.problems) == maxProblems {
		c.problems = append(c.problems, Problem{Msg: "there are more problems than are listed here"})
	}
}

func (c *compiler) compile() error {
	c.f = &Filter{policy: c.p, recovery: c.recovery}
	if err := c.f.setPlan(c.world); err != nil {
		return fmt.Errorf("compiling policy: %w", err)
	}
	c.names()
	if err := c.machines(); err != nil {
		return err
	}
	c.ghosts()
	c.r = newResolver(c.f, c.p)
	if err := c.checkAll(); err != nil {
		return err
	}
	m := newMatrix(c.f, c.r)
	if m.most = maxMatrix; c.strict {
		m.most = maxMatrixFresh
	}
	if err := m.rules(c.slots()); err != nil {
		return err
	}
	if err := m.build(); err != nil {
		return err
	}
	c.f.setNodes()
	return nil
}

// names collects every user, tag and household that may be spoken of.
func (c *compiler) names() {
	c.homes, c.users = make(map[string]string), make(map[string]bool)
	c.tags, c.households = make(map[string]bool), make(map[string]bool)
	user := func(name string) {
		if name != "" && !c.users[name] {
			c.users[name] = true
			c.userOrder = append(c.userOrder, name)
		}
	}
	household := func(name string) {
		if name != "" && !c.households[name] {
			c.households[name] = true
			c.householdOrder = append(c.householdOrder, name)
		}
	}
	for _, h := range c.p.households {
		household(h.name)
		for _, m := range h.members {
			c.homes[m.name] = h.name
			user(m.name)
		}
	}
	user(c.world.Admin)
	for i := range c.world.Peers {
		user(c.world.Peers[i].Owner)
		household(c.world.Peers[i].Household)
	}
	slices.Sort(c.userOrder)
	slices.Sort(c.householdOrder)
	for _, t := range c.p.tagOwners {
		c.tags[t.name] = true
	}
}

// checkAll looks up every name in the policy, each once.
func (c *compiler) checkAll() error {
	seen := make(map[selectorKey]bool)
	for s := range c.p.selectors() {
		if seen[s.key()] {
			continue
		}
		seen[s.key()] = true
		e := c.check(s)
		switch {
		case e == nil:
		case c.strict:
			return e
		default:
			c.problem(Problem{Line: e.Line, Column: e.Column, Msg: e.Msg})
		}
	}
	return nil
}

// slots returns the rules in the order that decides which one a verdict names:
// the built-in ones, the policy's, and then the nevers.
func (c *compiler) slots() []slot {
	list := make([]slot, 0, len(c.p.rules)+len(c.p.nevers)+1)
	builtin := func(n int32, src, dst selector, port uint16) {
		ports := []Port{{Proto: ProtoTCP, First: port, Last: port}}
		list = append(list, slot{n: n, rule: &rule{src: []selector{src}, dst: []target{{sel: dst, ports: ports}}}})
	}
	if c.recovery {
		if c.world.Admin != "" && c.hubOffers(serviceConsole) {
			builtin(ruleRecovery, selector{kind: selUser, name: c.world.Admin}, selector{kind: selService, name: serviceConsole}, 80)
		}
		return list
	}
	if c.hubOffers(serviceSync) {
		builtin(ruleSync, selector{kind: selPeers}, selector{kind: selService, name: serviceSync}, 80)
	}
	for i := range c.p.rules {
		list = append(list, slot{n: int32(i) + 1, rule: &c.p.rules[i]})
	}
	for i := range c.p.nevers {
		list = append(list, slot{n: int32(i) + 1, rule: &c.p.nevers[i], never: true})
	}
	return list
}

func (c *compiler) hubOffers(name string) bool {
	for _, i := range c.r.byService[name] {
		if c.f.machines[i].host != "" {
			return false
		}
	}
	return len(c.r.byService[name]) == 1
}
