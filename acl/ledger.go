package acl

import (
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// How many lines the ledger keeps: of one peer, and of all together. A peer
// that fills its share overwrites its own oldest lines only; when the total is
// reached peers keep the few lines they already have.
const (
	maxRecords           = 128
	maxRecordsSmall      = 32
	maxRecordsTotal      = 1 << 17
	maxRecordsTotalSmall = 1 << 11
	firstRecords         = ways
)

// recordKey is a line of the ledger of one peer in one word, laid out as
// flowKey: who the other is and what port was asked for.
type recordKey uint64

const (
	recordUsed    recordKey = 1 << 63
	recordV6      recordKey = 1 << 62
	recordTCP     recordKey = 1 << 60
	recordUDP     recordKey = 2 << 60
	recordICMP    recordKey = 3 << 60
	recordProto   recordKey = 3 << 60
	recordOut     recordKey = 1 << 59 // the peer is the destination
	recordAllowed recordKey = 1 << 58
)

func newRecordKey(p *Packet, other uint16, out, allowed bool) recordKey {
	k := recordUsed | recordKey(other)<<32
	switch p.proto {
	case ProtoTCP:
		k |= recordTCP | recordKey(p.dstPort)
	case ProtoUDP:
		k |= recordUDP | recordKey(p.dstPort)
	default:
		k |= recordICMP
	}
	if p.v6 {
		k |= recordV6
	}
	if out {
		k |= recordOut
	}
	if allowed {
		k |= recordAllowed
	}
	return k
}

func (k recordKey) other() uint16 { return uint16(k >> 32) }

func (k recordKey) proto() Proto {
	switch k & recordProto {
	case recordTCP:
		return ProtoTCP
	case recordUDP:
		return ProtoUDP
	}
	return ProtoICMP
}

// record is one line. stamp is the second of the last packet, shifted left by
// 16, and its source port: a packet that matches both costs one comparison.
type record struct {
	key    atomic.Uint64
	stamp  atomic.Uint64
	count  atomic.Uint64
	first  atomic.Int64
	reason atomic.Uint32
}

// ledger holds the lines of one peer. Counting a line that exists takes no
// lock. Two packets that meet while a line changes hands may be counted on the
// wrong line; nothing is decided by these numbers.
type ledger struct {
	records atomic.Pointer[[]record]
	mu      sync.Mutex // held to add a line
}

// note counts one packet. each says that every call is an event of its own
// (a SYN, a refusal); otherwise only the first packet of a flow is: one from
// another source port, or after the time in which UDP flows are forgotten.
func (l *ledger) note(g *Gate, k recordKey, srcPort uint16, reason Reason, each bool, now int64) {
	second := uint64(now / int64(time.Second))
	stamp := second<<16 | uint64(srcPort)
	r := l.find(k)
	if r == nil {
		l.add(g, k, stamp, reason, now)
		return
	}
	old := r.stamp.Load()
	if each {
		r.count.Add(1)
		if r.reason.Load() != uint32(reason) {
			r.reason.Store(uint32(reason))
		}
	}
	if old == stamp {
		return
	}
	r.stamp.Store(stamp)
	quiet := int64(second) - int64(old>>16)
	if !each && (uint16(old) != srcPort || quiet > idleUDP/int64(time.Second)) {
		r.count.Add(1)
	}
}

// set returns where the lines that may hold k begin.
func (k recordKey) set(records []record) []record {
	h := uint64(k) * 0x9e3779b97f4a7c15 >> 40
	i := int(h) & (len(records)/ways - 1) * ways
	return records[i : i+ways]
}

func (l *ledger) find(k recordKey) *record {
	records := l.records.Load()
	if records == nil {
		return nil
	}
	set := k.set(*records)
	for i := range set {
		if set[i].key.Load() == uint64(k) {
			return &set[i]
		}
	}
	return nil
}

// add begins a line, in place of the least interesting one of its set if the
// peer's share is used up.
func (l *ledger) add(g *Gate, k recordKey, stamp uint64, reason Reason, now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	records := l.records.Load()
	if records == nil {
		first := make([]record, firstRecords)
		records = &first
		g.records.Add(firstRecords)
		l.records.Store(records)
	}
	r := victimRecord(k.set(*records))
	for r.key.Load() != 0 && l.mayGrow(g, len(*records)) {
		records = l.grow(*records)
		r = victimRecord(k.set(*records))
	}
	r.key.Store(0) // nobody finds the line while it changes
	r.count.Store(1)
	r.first.Store(now)
	r.stamp.Store(stamp)
	r.reason.Store(uint32(reason))
	r.key.Store(uint64(k))
}

// mayGrow reserves room for n more lines, if there is any.
func (l *ledger) mayGrow(g *Gate, n int) bool {
	if 2*n > g.maxRecords {
		return false
	}
	if g.records.Add(int64(n)) > g.maxRecordsTotal {
		g.records.Add(int64(-n))
		return false
	}
	return true
}

func (l *ledger) grow(old []record) *[]record {
	records := make([]record, 2*len(old))
	for i := range old {
		k := recordKey(old[i].key.Load())
		if k == 0 {
			continue
		}
		// A set splits into two, so there is room.
		r := victimRecord(k.set(records))
		r.count.Store(old[i].count.Load())
		r.first.Store(old[i].first.Load())
		r.stamp.Store(old[i].stamp.Load())
		r.reason.Store(old[i].reason.Load())
		r.key.Store(uint64(k))
	}
	l.records.Store(&records)
	return &records
}

// victimRecord returns a free line, else the oldest refusal that happened
// once, else the oldest line: a port scan wears out its own traces first.
func victimRecord(set []record) *record {
	best, score := &set[0], int64(math.MaxInt64)
	for i := range set {
		r := &set[i]
		k := recordKey(r.key.Load())
		if k == 0 {
			return r
		}
		s := int64(r.stamp.Load() >> 16)
		if k&recordAllowed != 0 || r.count.Load() > 1 {
			s += math.MaxInt32
		}
		if s < score {
			best, score = r, s
		}
	}
	return best
}

// forget drops every line about node.
func (l *ledger) forget(node uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	records := l.records.Load()
	if records == nil {
		return
	}
	for i := range *records {
		r := &(*records)[i]
		if k := recordKey(r.key.Load()); k != 0 && k.other() == node {
			r.key.Store(0)
		}
	}
}

// Flows returns the ledger: who tried to reach what, since the gate was made,
// in no particular order. Allowed TCP is counted by connection attempt,
// allowed UDP and ICMP by flow, and refusals by packet. Counts only grow; a
// line that was overwritten and comes back begins again with a new First.
//
// It also gives back the memory of flows that have expired, so call it now and
// then, from any goroutine.
func (g *Gate) Flows() []Flow {
	s := g.state.Load()
	f := s.filter
	now, wall := g.Now(), time.Now()
	var out []Flow
	g.members(func(node uint16, m *member) {
		m.flows.sweep(g, s, node, 0, now)
		records := m.ledger.records.Load()
		if records == nil || f == nil {
			return
		}
		for i := range *records {
			r := &(*records)[i]
			k := recordKey(r.key.Load())
			if k == 0 {
				continue
			}
			flow := Flow{
				Src: f.address(node, k&recordV6 != 0), Dst: f.address(k.other(), k&recordV6 != 0),
				Proto: k.proto(), Port: uint16(k), Allowed: k&recordAllowed != 0,
				Reason: Reason(r.reason.Load()), Count: r.count.Load(),
				First: wall.Add(time.Duration(r.first.Load() - now)),
			}
			flow.Last = wall.Add(time.Duration(int64(r.stamp.Load()>>16)*int64(time.Second) - now))
			if flow.Last.Before(flow.First) {
				flow.Last = flow.First // stamps are whole seconds
			}
			if k&recordOut != 0 {
				flow.Src, flow.Dst = flow.Dst, flow.Src
			}
			out = append(out, flow)
		}
	})
	return out
}

// address returns the address of a node, the zero Addr for node 0.
func (f *Filter) address(n uint16, v6 bool) netip.Addr {
	switch {
	case f == nil || n == 0:
		return netip.Addr{}
	case v6:
		return f.addr6(n)
	}
	return f.addr4(n)
}
