package acl

import (
	"math"
	"sync"
	"sync/atomic"
)

// entry is what is remembered of a flow. Its fields are atomic because they are
// read without the lock; they are written under it.
type entry struct {
	epoch atomic.Uint64 // the policy that admitted it, or last let it stay
	last  atomic.Int64  // when a packet of it last passed, to touchEvery
	phase atomic.Uint32
	rule  atomic.Int32
}

// slots is the storage of a table: a two-choice hash table of sets of ways.
// Looking costs at most two cache lines, whatever keys an attacker picks.
type slots struct {
	mask    uint32 // number of sets - 1
	keys    []atomic.Uint64
	entries []entry
}

func newSlots(n int) *slots {
	return &slots{mask: uint32(n/ways - 1), keys: make([]atomic.Uint64, n), entries: make([]entry, n)}
}

// sets returns where the two sets begin that may hold k.
func (s *slots) sets(k flowKey, seed uint64) (int, int) {
	h := (uint64(k) ^ seed) * 0x9e3779b97f4a7c15
	return int(uint32(h>>32)&s.mask) * ways, int(uint32(h>>48)&s.mask) * ways
}

// find returns the slot that holds k, -1 if none does.
func (s *slots) find(k flowKey, seed uint64) int {
	a, b := s.sets(k, seed)
	set := (*[ways]atomic.Uint64)(s.keys[a:])
	for i := range set {
		if set[i].Load() == uint64(k) {
			return a + i
		}
	}
	set = (*[ways]atomic.Uint64)(s.keys[b:])
	for i := range set {
		if set[i].Load() == uint64(k) {
			return b + i
		}
	}
	return -1
}

// flows is the flow table of one peer. Readers take no lock: they read seq,
// look, and believe what they saw only if seq is even and has not moved. seq
// moves whenever a slot changes hands, so a reader can never mistake one flow's
// admission for another's.
type flows struct {
	seq     atomic.Uint64
	slots   atomic.Pointer[slots]
	dialled atomic.Int32 // how many entries are dialled flows
	mu      sync.Mutex   // held by writers
}

// outcome is what a table says about a packet.
type outcome uint8

const (
	absent  outcome = iota // no such flow
	live                   // the packet belongs to a flow that is allowed
	refused                // the flow is there, the packet does not fit it
	revoked                // the flow was there, the policy no longer allows it
	stale                  // the flow was judged under a newer policy than ours
)

// pass reports whether p belongs to flow k of owner and may go on, and notes
// that it did. forward says that it travels as the flow's first packet did.
func (t *flows) pass(g *Gate, s *state, owner uint16, k flowKey, p *Packet, forward bool, now int64) (outcome, int32) {
	seq := t.seq.Load()
	tab := t.slots.Load()
	if tab == nil {
		return absent, 0
	}
	i := tab.find(k, g.seed)
	if i < 0 {
		if seq&1 == 0 && t.seq.Load() == seq {
			return absent, 0
		}
		return t.passLocked(g, s, owner, k, p, forward, now)
	}
	e, ok := t.glance(tab, i, seq)
	if !ok || e.epoch != s.epoch || now-e.last >= touchEvery || !e.phase.steady(p, forward) {
		return t.passLocked(g, s, owner, k, p, forward, now)
	}
	return live, e.rule
}

// seen is what a reader saw of an entry.
type seen struct {
	epoch uint64
	last  int64
	phase phase
	rule  int32
}

// glance reads the entry in slot i without the lock. It reports false if any
// slot has changed hands since seq was read: then the slot may have been
// another flow's, with an admission of its own.
func (t *flows) glance(tab *slots, i int, seq uint64) (seen, bool) {
	e := &tab.entries[i]
	s := seen{e.epoch.Load(), e.last.Load(), phase(e.phase.Load()), e.rule.Load()}
	return s, seq&1 == 0 && t.seq.Load() == seq
}

func (t *flows) passLocked(g *Gate, s *state, owner uint16, k flowKey, p *Packet, forward bool, now int64) (outcome, int32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, o := t.judged(g, s, owner, k, now)
	if o != live {
		return o, 0
	}
	next, ok := phase(e.phase.Load()).step(p, forward)
	if !ok {
		return refused, 0
	}
	e.phase.Store(uint32(next))
	if now > e.last.Load() {
		e.last.Store(now)
	}
	return live, e.rule.Load()
}

// holds reports whether flow k is there and allowed, without touching its
// clock: for what is about a flow but not of it.
func (t *flows) holds(g *Gate, s *state, owner uint16, k flowKey, now int64) outcome {
	if t.slots.Load() == nil {
		return absent
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, o := t.judged(g, s, owner, k, now)
	return o
}

// judged finds flow k, forgets it if it has expired or if the policy in s no
// longer allows it, and returns live with its entry, or why not. t.mu is held.
func (t *flows) judged(g *Gate, s *state, owner uint16, k flowKey, now int64) (*entry, outcome) {
	tab := t.slots.Load()
	if tab == nil {
		return nil, absent
	}
	i := tab.find(k, g.seed)
	if i < 0 {
		return nil, absent
	}
	e := &tab.entries[i]
	if now-e.last.Load() > phase(e.phase.Load()).idle(k) {
		t.remove(tab, i)
		return nil, absent
	}
	switch epoch := e.epoch.Load(); {
	case epoch > s.epoch:
		return nil, stale
	case epoch < s.epoch:
		v := k.judge(s.filter, owner)
		if !v.Allow {
			t.remove(tab, i)
			return nil, revoked
		}
		e.rule.Store(v.Rule)
		e.epoch.Store(s.epoch)
	}
	return e, live
}

// add admits flow k under the policy in s. It reports stale if the flow is
// there and was judged under a newer one.
func (t *flows) add(g *Gate, s *state, k flowKey, rule int32, now int64) outcome {
	t.mu.Lock()
	defer t.mu.Unlock()
	tab := t.slots.Load()
	if tab == nil {
		tab = newSlots(firstFlows)
		t.slots.Store(tab)
	}
	i := tab.find(k, g.seed)
	if i >= 0 && tab.entries[i].epoch.Load() > s.epoch {
		return stale
	}
	t.seq.Add(1)
	defer t.seq.Add(1)
	if i < 0 {
		for {
			var full bool
			if i, full = t.victim(tab, k, g.seed, now); !full || len(tab.keys) >= g.maxFlows {
				break
			}
			tab = t.grow(tab, g.seed)
		}
		t.clear(tab, i)
		if k&keyDialled != 0 {
			t.dialled.Add(1)
		}
	}
	e := &tab.entries[i]
	e.epoch.Store(s.epoch)
	e.last.Store(now)
	e.phase.Store(uint32(phaseOpening))
	e.rule.Store(rule)
	tab.keys[i].Store(uint64(k))
	return live
}

// victim returns the slot that k should take: a free one, else that of the
// flow nearest to being forgotten anyway; full says that this flow is still
// alive. So a peer that floods evicts its own half-open and unanswered flows
// first, and never one of another peer.
func (t *flows) victim(tab *slots, k flowKey, seed uint64, now int64) (slot int, full bool) {
	a, b := tab.sets(k, seed)
	best, left := a, int64(math.MaxInt64)
	for _, set := range [2]int{a, b} {
		for i := set; i < set+ways; i++ {
			key := flowKey(tab.keys[i].Load())
			if key == 0 {
				return i, false
			}
			e := &tab.entries[i]
			ph := phase(e.phase.Load())
			l := e.last.Load() + ph.idle(key) - now
			if l >= 0 && key&keyProto != keyTCP && ph == phaseAnswered {
				l += idleUDP
			}
			if l >= 0 && key&keyDialled != 0 {
				l += idleEstablished // what this node itself began goes last
			}
			if l < left {
				best, left = i, l
			}
		}
	}
	return best, left >= 0
}

// grow doubles a table. Each flow stays in the same one of its two sets, and a
// set splits into two, so none is lost. t.mu is held and seq is odd.
func (t *flows) grow(old *slots, seed uint64) *slots {
	tab := newSlots(2 * len(old.keys))
	for i := range old.keys {
		k := flowKey(old.keys[i].Load())
		if k == 0 {
			continue
		}
		oldFirst, _ := old.sets(k, seed)
		to, second := tab.sets(k, seed)
		if i < oldFirst || i >= oldFirst+ways {
			to = second
		}
		for tab.keys[to].Load() != 0 {
			to++
		}
		from, e := &old.entries[i], &tab.entries[to]
		e.epoch.Store(from.epoch.Load())
		e.last.Store(from.last.Load())
		e.phase.Store(from.phase.Load())
		e.rule.Store(from.rule.Load())
		tab.keys[to].Store(uint64(k))
	}
	t.slots.Store(tab)
	return tab
}

// remove frees a slot. t.mu is held, seq is even.
func (t *flows) remove(tab *slots, i int) {
	t.seq.Add(1)
	t.clear(tab, i)
	t.seq.Add(1)
}

// clear frees a slot. t.mu is held, seq is odd.
func (t *flows) clear(tab *slots, i int) {
	if flowKey(tab.keys[i].Load())&keyDialled != 0 {
		t.dialled.Add(-1)
	}
	tab.keys[i].Store(0)
}

// sweep forgets what has expired, what the policy in s no longer allows and
// every flow with node (0 for none). It gives back the memory of an empty table
// and returns how many flows are left.
func (t *flows) sweep(g *Gate, s *state, owner, node uint16, now int64) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	tab := t.slots.Load()
	if tab == nil {
		return 0
	}
	n := 0
	for i := range tab.keys {
		k := flowKey(tab.keys[i].Load())
		if k == 0 {
			continue
		}
		if node != 0 && k.other() == node {
			t.remove(tab, i)
		} else if _, o := t.judged(g, s, owner, k, now); o == live || o == stale {
			n++
		}
	}
	if n == 0 {
		t.seq.Add(1)
		t.slots.Store(nil)
		t.seq.Add(1)
	}
	return n
}
