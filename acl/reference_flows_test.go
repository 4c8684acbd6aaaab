package acl

import "net/netip"

// refFlow is a flow as it was opened.
type refFlow struct {
	from, to         netip.Addr
	proto            Proto
	fromPort, toPort uint16
}

type refState struct {
	version int
	last    int64
	// TCP. reset is who sent one: "from", "to" or nobody.
	answered, established bool
	finFrom, finTo        bool
	reset                 string
}

// refGate is the whole gate, obviously.
type refGate struct {
	refPolicy
	version int
	flows   map[refFlow]*refState
	now     int64
}

func newRefGate(w *World) *refGate {
	return &refGate{refPolicy: refPolicy{world: w}, flows: map[refFlow]*refState{}}
}

func (g *refGate) swap(rules []plainRule) {
	g.rules = rules
	g.version++
}

// alive finds a flow that has not expired and that the rules still allow.
func (g *refGate) alive(f refFlow) *refState {
	s := g.flows[f]
	if s == nil {
		return nil
	}
	const second = 1e9
	idle := int64(7200 * second)
	switch {
	case f.proto == ProtoUDP:
		idle = 120 * second
	case f.proto == ProtoICMP:
		idle = 30 * second
	case s.reset != "" || s.finFrom && s.finTo:
		idle = 10 * second
	case !s.established:
		idle = 30 * second
	}
	if g.now-s.last > idle {
		delete(g.flows, f)
		return nil
	}
	if s.version != g.version {
		if !g.allowed(f.from, f.to, f.proto, f.toPort) {
			delete(g.flows, f)
			return nil
		}
		s.version = g.version
	}
	return s
}

// forward and back name the flow that p would belong to in either direction.
func (p *refPacket) forward() refFlow { return refFlow{p.src, p.dst, p.proto, p.srcPort, p.dstPort} }
func (p *refPacket) back() refFlow    { return refFlow{p.dst, p.src, p.proto, p.dstPort, p.srcPort} }

// belongs reports whether p is part of a flow that is alive.
func (g *refGate) belongs(f refFlow, p *refPacket, forward bool) bool {
	if forward && p.reply || !forward && p.request || !forward && p.opens() && p.proto == ProtoTCP {
		return false
	}
	s := g.alive(f)
	if s == nil || p.proto == ProtoTCP && !s.tcp(p, forward) {
		return false
	}
	s.last = g.now
	return true
}

// tcp follows a connection and reports whether p fits it.
func (s *refState) tcp(p *refPacket, forward bool) bool {
	me, other := "from", "to"
	if !forward {
		me, other = other, me
	}
	over := s.reset != "" || s.finFrom && s.finTo
	early := !s.established && !over
	switch {
	case p.rst:
		s.reset = me
		return true
	case p.syn && !p.ack: // only ever forward
		if over {
			*s = refState{version: s.version, last: s.last}
		}
		return true
	case p.syn && forward:
		return false
	case p.syn:
		if over || s.finFrom || s.finTo {
			return false
		}
		s.answered = true
		return true
	case early && forward && !s.answered:
		return false
	case early && forward:
		s.established = true
	case early:
		return !p.data && !p.fin
	}
	if s.reset != "" {
		if s.reset == other && !p.data && !p.fin {
			*s = refState{version: s.version, last: s.last, answered: true, established: true}
		}
		return true
	}
	if p.fin && forward {
		s.finFrom = true
	} else if p.fin {
		s.finTo = true
	}
	return true
}

// opens reports whether p is fit to open a flow.
func (p *refPacket) opens() bool {
	return p.proto == ProtoTCP && p.syn && !p.ack || p.proto == ProtoUDP || p.request
}

// open admits a new flow if it may be.
func (g *refGate) open(p *refPacket) bool {
	if !p.opens() || !g.allowed(p.src, p.dst, p.proto, p.dstPort) {
		return false
	}
	g.flows[p.forward()] = &refState{version: g.version, last: g.now}
	return true
}

func (g *refGate) knows(a netip.Addr) bool {
	_, _, ok := g.find(a)
	return ok
}

// in is Gate.In.
func (g *refGate) in(b []byte) bool {
	p, ok := refDecode(b)
	switch {
	case !ok || !g.knows(p.src) || g.local(p.src) || p.src == p.dst:
		return false
	case p.quote != nil:
		return g.quoted(p)
	case g.local(p.dst):
		if g.belongs(p.back(), p, false) {
			return true
		}
		return !p.reply && !(p.syn && p.ack) && g.allowed(p.src, p.dst, p.proto, p.dstPort)
	}
	return g.belongs(p.forward(), p, true) || g.belongs(p.back(), p, false) || g.open(p)
}

// out is Gate.Out.
func (g *refGate) out(b []byte) bool {
	p, ok := refDecode(b)
	switch {
	case !ok || !g.local(p.src) || !g.knows(p.dst) || g.local(p.dst):
		return false
	case p.quote != nil:
		return g.quoted(p)
	case g.belongs(p.forward(), p, true):
		return true
	case !p.request && !(p.syn && !p.ack) && g.allowed(p.dst, p.src, p.proto, p.srcPort):
		return true
	}
	return g.open(p)
}

// quoted judges an error: the packet it quotes must be of an exchange with
// this node that the rules allow, or of a flow.
func (g *refGate) quoted(p *refPacket) bool {
	q := p.quote
	if g.local(q.dst) && !q.reply && g.allowed(q.src, q.dst, q.proto, q.dstPort) {
		return true
	}
	if g.local(q.src) && !q.request && g.allowed(q.dst, q.src, q.proto, q.srcPort) {
		return true
	}
	if !q.reply && g.alive(q.forward()) != nil {
		return true
	}
	return !q.request && g.alive(q.back()) != nil
}

// standing is Gate.Standing, for a packet that was admitted before.
func (g *refGate) standing(b []byte) bool {
	p, ok := refDecode(b)
	clean := p.proto == ProtoTCP && p.syn && !p.ack
	switch {
	case !ok:
		return false
	case p.quote != nil:
		return g.quoted(p)
	case !p.reply && g.alive(p.forward()) != nil, !p.request && !clean && g.alive(p.back()) != nil:
		return true
	case g.local(p.dst):
		return !p.reply && !(p.syn && p.ack) && g.allowed(p.src, p.dst, p.proto, p.dstPort)
	case g.local(p.src):
		return !p.request && !clean && g.allowed(p.dst, p.src, p.proto, p.srcPort)
	}
	return false
}
