package acl

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// GateConfig says how a Gate is sized. The zero value is right for a hub.
type GateConfig struct {
	// Small makes tables of spoke size: 512 flows per peer rather than 4096.
	Small bool
	// Clock returns monotonic nanoseconds and must never go back; nil is the
	// time since NewGate. The now that In and Out are given is of this clock.
	Clock func() int64
}

// Gate is where packets are judged. It holds the current Filter and, for each
// peer, what a filter cannot know: which flows are open. A packet of a flow
// that an older policy admitted is judged again under the current one, so
// swapping the filter is all there is to revoking.
//
// What is sent to this node's own stack needs no state: the peer, the
// protocol, the address and the port decide, for every packet. Flows that this
// node dials, and flows between two peers, have an entry in the table of one
// peer, of bounded size; a peer can only evict entries of its own.
//
// All methods may be called from any goroutine. In and Out take no lock for a
// packet of a known flow and allocate nothing but a peer's first tables.
type Gate struct {
	state atomic.Pointer[state]
	swap  sync.Mutex
	pages [256]atomic.Pointer[page]
	// refused counts what no peer can be blamed for.
	refused [NumReasons]atomic.Uint64
	records atomic.Int64 // lines that all ledgers have room for

	clock           func() int64
	seed            uint64
	maxFlows        int
	maxRecords      int
	maxRecordsTotal int64
}

// state is one policy with its number. A packet is judged by the one it loads
// at its beginning, by no other and by no part of another.
type state struct {
	filter *Filter
	epoch  uint64
}

// member is what a gate remembers of one peer.
type member struct {
	flows   flows
	ledger  ledger
	refused [NumReasons]atomic.Uint64
}

type page [256]atomic.Pointer[member]

// NewGate returns a gate that denies everything until Swap.
func NewGate(c GateConfig) *Gate {
	g := &Gate{clock: c.Clock, maxFlows: maxFlows, maxRecords: maxRecords, maxRecordsTotal: maxRecordsTotal}
	if c.Small {
		g.maxFlows, g.maxRecords, g.maxRecordsTotal = maxFlowsSmall, maxRecordsSmall, maxRecordsTotalSmall
	}
	if g.clock == nil {
		start := time.Now()
		g.clock = func() int64 { return int64(time.Since(start)) }
	}
	var seed [8]byte
	rand.Read(seed[:]) // never fails
	g.seed = binary.NativeEndian.Uint64(seed[:])
	g.state.Store(&state{})
	return g
}

// Now returns the gate's clock, for In and Out: read it once per batch.
func (g *Gate) Now() int64 { return g.clock() }

// Swap puts f in force, nil to deny everything, and returns its epoch. A
// packet whose In or Out begins after Swap has returned is judged by f; one
// that was admitted before and still waits somewhere can be asked about with
// Standing.
func (g *Gate) Swap(f *Filter) (epoch uint64) {
	g.swap.Lock()
	defer g.swap.Unlock()
	old := g.state.Load()
	next := &state{f, old.epoch + 1}
	g.state.Store(next)
	if o := old.filter; o != nil && f != nil && (o.net4 != f.net4 || o.net6 != f.net6 || o.mask4 != f.mask4) {
		// Tables are kept by place in the address plan: another plan, other
		// machines.
		for i := range g.pages {
			g.pages[i].Store(nil)
		}
	}
	return next.epoch
}

// Filter returns the filter in force, nil if there is none.
func (g *Gate) Filter() *Filter { return g.state.Load().filter }

// Epoch returns the number of the policy in force: how often Swap was called.
func (g *Gate) Epoch() uint64 { return g.state.Load().epoch }

// Forget drops all that is remembered of the peer with this address: its
// flows, other peers' flows with it, its ledger. Call it after the Swap that
// removed the peer, so that nothing of it is left when the address is given to
// another.
func (g *Gate) Forget(addr netip.Addr) {
	s := g.state.Load()
	n := s.filter.node(addr)
	if n == 0 {
		return
	}
	if pg := g.pages[n>>8].Load(); pg != nil {
		if m := pg[n&0xff].Swap(nil); m != nil {
			for r := range m.refused {
				g.refused[r].Add(m.refused[r].Load())
			}
			if records := m.ledger.records.Load(); records != nil {
				g.records.Add(int64(-len(*records)))
			}
		}
	}
	now := g.Now()
	g.members(func(owner uint16, m *member) {
		m.flows.sweep(g, s, owner, n, now)
		m.ledger.forget(n)
	})
}

// members calls fn for every peer that something is remembered of.
func (g *Gate) members(fn func(node uint16, m *member)) {
	for i := range g.pages {
		pg := g.pages[i].Load()
		if pg == nil {
			continue
		}
		for j := range pg {
			if m := pg[j].Load(); m != nil {
				fn(uint16(i<<8|j), m)
			}
		}
	}
}

// find returns what is remembered of a node, nil for nothing.
func (g *Gate) find(n uint16) *member {
	pg := g.pages[n>>8].Load()
	if pg == nil {
		return nil
	}
	return pg[n&0xff].Load()
}

// member is find for a node that the filter knows; it makes room for one that
// is new. The number of nodes bounds it, and strangers get none.
func (g *Gate) member(n uint16) *member {
	if m := g.find(n); m != nil {
		return m
	}
	g.pages[n>>8].CompareAndSwap(nil, new(page))
	pg := g.pages[n>>8].Load()
	if pg == nil {
		return new(member) // Swap has just changed the address plan
	}
	pg[n&0xff].CompareAndSwap(nil, new(member))
	if m := pg[n&0xff].Load(); m != nil {
		return m
	}
	return new(member) // Forget was faster
}

// nodes returns the places of p's two ends, 0 for an address off the overlay.
func (f *Filter) nodes(p *Packet) (src, dst uint16) {
	if p.v6 {
		return f.node6(p.src.hi, p.src.lo), f.node6(p.dst.hi, p.dst.lo)
	}
	return f.node4(uint32(p.src.lo)), f.node4(uint32(p.dst.lo))
}

// Stats is what a gate has refused since it was made.
type Stats struct {
	Epoch   uint64
	Reasons [NumReasons]uint64 // packets refused, by Reason
	Peers   []PeerStats        // those that something was refused to or from
	Flows   int                // flows that have an entry
}

// PeerStats is what was refused to and from one peer.
type PeerStats struct {
	V4, V6  netip.Addr
	Refused uint64 // packets
}

// Stats counts. It may be called at any time; the sums are not of one instant.
func (g *Gate) Stats() Stats {
	s := g.state.Load()
	out := Stats{Epoch: s.epoch}
	for r := range g.refused {
		out.Reasons[r] = g.refused[r].Load()
	}
	now := g.Now()
	g.members(func(n uint16, m *member) {
		ps := PeerStats{V4: s.filter.address(n, false), V6: s.filter.address(n, true)}
		for r := range m.refused {
			c := m.refused[r].Load()
			out.Reasons[r] += c
			ps.Refused += c
		}
		if ps.Refused > 0 {
			out.Peers = append(out.Peers, ps)
		}
		out.Flows += m.flows.sweep(g, s, n, 0, now)
	})
	return out
}
