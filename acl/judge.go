package acl

// In judges a packet that a peer sent. The caller vouches that the source
// address is the sender's (WireGuard has proven it). now is Now, read once per
// batch. A packet whose Parse failed is refused with that reason, and counted:
// hand over every packet.
//
// To this node's own stack: allowed if the filter allows it, SYN or not, or if
// it belongs to a flow that this node has dialled. To another peer: allowed if
// it belongs to a flow, or is fit to open one and the filter allows that.
func (g *Gate) In(p *Packet, now int64) Verdict {
	for {
		s := g.state.Load()
		j := judgement{g: g, s: s, now: now}
		if v, ok := j.in(p); ok {
			return v
		}
	}
}

// Out judges a packet that this node's own stack sends to a peer: allowed if
// it answers what the filter lets the peer send here, or belongs to a flow
// that this node has dialled, or is fit to open one and the filter allows
// that.
func (g *Gate) Out(p *Packet, now int64) Verdict {
	for {
		s := g.state.Load()
		j := judgement{g: g, s: s, now: now}
		if v, ok := j.out(p); ok {
			return v
		}
	}
}

// Standing reports whether a packet that In or Out has admitted, and that has
// waited in a queue since, is still allowed. It opens nothing and keeps
// nothing alive.
func (g *Gate) Standing(p *Packet) bool {
	for {
		s := g.state.Load()
		j := judgement{g: g, s: s, now: g.Now(), standing: true}
		f := s.filter
		if f == nil || p.kind == kindNone {
			return false
		}
		var v Verdict
		var ok bool
		if src, _ := f.nodes(p); f.local(src) {
			v, ok = j.out(p)
		} else {
			v, ok = j.in(p)
		}
		if ok {
			return v.Allow
		}
	}
}

// judgement is one packet before one policy. Its methods return ok = false
// when the packet met a flow that a newer policy has already judged: then the
// newer one judges the packet, from the beginning.
type judgement struct {
	g        *Gate
	s        *state
	now      int64
	src, dst uint16  // nodes
	who      *member // the peer that the packet is from, or to if this node sends
	sending  bool    // this node sends it
	standing bool    // look, do not touch
	cut      bool    // a flow was there, and the policy has ended it
}

func (j *judgement) in(p *Packet) (Verdict, bool) {
	f := j.s.filter
	if f == nil {
		return j.refuse(p, Verdict{Reason: ReasonNoPolicy})
	}
	j.src, j.dst = f.nodes(p)
	j.who = j.known(j.src)
	switch {
	case p.kind == kindNone:
		return j.refuse(p, Verdict{Reason: p.Reason()})
	case j.who == nil:
		return j.refuse(p, j.ask(p, j.src, j.dst, p.dstPort))
	case j.src == j.dst:
		return j.refuse(p, Verdict{Reason: ReasonSpoofed}) // the LAND attack
	case f.local(j.src):
		// The hub routes for everybody, so a spoke cannot rely on WireGuard to
		// tell that somebody behind it speaks as the spoke itself.
		return j.refuse(p, Verdict{Reason: ReasonSpoofed})
	case f.local(j.dst):
		return j.inLocal(p)
	}
	return j.transit(p)
}

// inLocal judges what a peer sends to this node's own stack.
func (j *judgement) inLocal(p *Packet) (Verdict, bool) {
	if p.kind == kindError {
		return j.quoted(p, j.who, j.src, j.dst)
	}
	// What this node has dialled comes first, so that the flow's clock and
	// phase follow the conversation even if a rule would let the packet in.
	if p.answers() && j.who.flows.dialled.Load() > 0 {
		k := newFlowKey(p.v6, p.proto, j.dst, p.srcPort, p.dstPort) | keyDialled
		switch o, rule := j.flow(p, j.who, j.src, k, false); o {
		case stale:
			return Verdict{}, false
		case live:
			return Verdict{Allow: true, Local: true, Rule: rule}, true
		}
	}
	v := j.ask(p, j.src, j.dst, p.dstPort)
	// An echo reply or a SYN-ACK that nobody asked for is no request, so no
	// rule about requests can let it in.
	if v.Allow && (p.kind == kindPong || p.flags&(FlagSYN|FlagACK) == FlagSYN|FlagACK) {
		v = Verdict{Local: true, Reason: ReasonNoFlow}
	}
	if !v.Allow {
		return j.refuse(p, v)
	}
	switch p.kind {
	case kindOpen:
		j.record(p, true, ReasonNone, true)
	case kindUDP, kindPing:
		j.record(p, true, ReasonNone, false)
	}
	return v, true
}

// transit judges what one peer sends to another.
func (j *judgement) transit(p *Packet) (Verdict, bool) {
	if p.kind == kindError {
		return j.quoted(p, j.who, j.src, j.dst)
	}
	if p.kind != kindPong {
		k := newFlowKey(p.v6, p.proto, j.dst, p.srcPort, p.dstPort)
		switch o, rule := j.flow(p, j.who, j.src, k, true); o {
		case stale:
			return Verdict{}, false
		case live:
			return Verdict{Allow: true, Rule: rule}, true
		}
	}
	if to := j.g.find(j.dst); to != nil && p.answers() {
		ownerPort, otherPort := p.dstPort, p.srcPort
		if p.kind == kindPong {
			ownerPort, otherPort = p.srcPort, 0 // the identifier, as in the request
		}
		k := newFlowKey(p.v6, p.proto, j.src, ownerPort, otherPort)
		switch o, rule := j.flow(p, to, j.dst, k, false); o {
		case stale:
			return Verdict{}, false
		case live:
			return Verdict{Allow: true, Rule: rule}, true
		}
	}
	return j.open(p, newFlowKey(p.v6, p.proto, j.dst, p.srcPort, p.dstPort))
}

func (j *judgement) out(p *Packet) (Verdict, bool) {
	f := j.s.filter
	j.sending = true
	if f == nil {
		return j.refuse(p, Verdict{Reason: ReasonNoPolicy})
	}
	j.src, j.dst = f.nodes(p)
	j.who = j.known(j.dst)
	switch {
	case p.kind == kindNone:
		return j.refuse(p, Verdict{Reason: p.Reason()})
	case !f.local(j.src):
		return j.refuse(p, Verdict{Reason: ReasonSpoofed})
	case j.who == nil:
		return j.refuse(p, j.ask(p, j.src, j.dst, p.dstPort))
	case f.local(j.dst):
		return j.refuse(p, Verdict{Reason: ReasonWrongDestination})
	case p.kind == kindError:
		return j.quoted(p, j.who, j.dst, j.src)
	}
	k := newFlowKey(p.v6, p.proto, j.src, p.dstPort, p.srcPort) | keyDialled
	if p.kind == kindPing {
		k = newFlowKey(p.v6, p.proto, j.src, p.srcPort, 0) | keyDialled
	}
	if p.kind != kindPong && j.who.flows.dialled.Load() > 0 {
		switch o, rule := j.flow(p, j.who, j.dst, k, true); o {
		case stale:
			return Verdict{}, false
		case live:
			return Verdict{Allow: true, Rule: rule}, true
		}
	}
	if p.answers() {
		// The answer to what the peer may ask, whether or not it did: this is
		// our own stack speaking. A SYN is a question, so not this way.
		port := p.srcPort
		if p.kind == kindPong {
			port = 0
		}
		if v := j.ask(p, j.dst, j.src, port); v.Allow {
			return Verdict{Allow: true, Rule: v.Rule}, true
		}
	}
	return j.open(p, k)
}

// open admits a packet that begins a flow, if it is fit to and a rule allows
// it: a clean SYN, a datagram, an echo request. k is the flow.
func (j *judgement) open(p *Packet, k flowKey) (Verdict, bool) {
	v := j.ask(p, j.src, j.dst, p.dstPort)
	v.Local = false
	switch {
	case !v.Allow:
		return j.refuse(p, v)
	case p.kind != kindOpen && p.kind != kindUDP && p.kind != kindPing, j.standing:
		return j.refuse(p, Verdict{Reason: ReasonNoFlow})
	}
	if j.who.flows.add(j.g, j.s, k, v.Rule, j.now) == stale {
		return Verdict{}, false
	}
	j.record(p, true, ReasonNone, true)
	return v, true
}

// quoted judges an ICMP error between a peer, node them, and us: this node's
// own stack, or another peer in transit. The quoted packet went the other way,
// and must be of a flow that is alive or of an exchange the filter allows.
func (j *judgement) quoted(p *Packet, who *member, them, us uint16) (Verdict, bool) {
	f, q, v6 := j.s.filter, p.quote, p.v6
	if !f.local(us) {
		return j.quotedTransit(p)
	}
	// As seen by the peer and by us, whichever of the two sent it.
	theirPort, ourPort := q.dstPort, q.srcPort
	if j.sending {
		theirPort, ourPort = q.srcPort, q.dstPort
	}
	k := newFlowKey(v6, q.proto, us, theirPort, ourPort) | keyDialled
	port, asked, dialled := ourPort, true, true
	if q.proto == ProtoICMP {
		// An echo has one owner: they asked or we did, and the type says which.
		k = newFlowKey(v6, q.proto, us, q.srcPort, 0) | keyDialled
		port, asked = 0, (q.kind == kindPing) == j.sending
		dialled = !asked
	}
	if asked {
		if v := f.lookup(them, us, q.proto, port); v.Allow {
			return Verdict{Allow: true, Local: !j.sending, Rule: v.Rule}, true
		}
	}
	if dialled {
		switch o := who.flows.holds(j.g, j.s, them, k, j.now); o {
		case stale:
			return Verdict{}, false
		case live:
			return Verdict{Allow: true, Local: !j.sending}, true
		}
	}
	return j.refuse(p, Verdict{Local: !j.sending, Reason: ReasonICMPQuote})
}

// quotedTransit is quoted for an error from one peer to another.
func (j *judgement) quotedTransit(p *Packet) (Verdict, bool) {
	q, v6 := p.quote, p.v6
	// The quoted packet went dst to src. Either dst had opened the flow, or
	// src had and dst was answering.
	opened := newFlowKey(v6, q.proto, j.src, q.srcPort, q.dstPort)
	answered := newFlowKey(v6, q.proto, j.dst, q.dstPort, q.srcPort)
	if q.proto == ProtoICMP {
		answered = newFlowKey(v6, q.proto, j.dst, q.srcPort, 0)
	}
	o := absent
	if to := j.g.find(j.dst); to != nil && q.kind != kindPong {
		o = to.flows.holds(j.g, j.s, j.dst, opened, j.now)
	}
	if o != live && o != stale && q.kind != kindPing {
		o = j.who.flows.holds(j.g, j.s, j.src, answered, j.now)
	}
	switch o {
	case stale:
		return Verdict{}, false
	case live:
		return Verdict{Allow: true}, true
	}
	return j.refuse(p, Verdict{Reason: ReasonICMPQuote})
}

// flow asks who's table about the packet.
func (j *judgement) flow(p *Packet, who *member, owner uint16, k flowKey, forward bool) (outcome, int32) {
	if j.standing {
		return who.flows.holds(j.g, j.s, owner, k, j.now), 0
	}
	o, rule := who.flows.pass(j.g, j.s, owner, k, p, forward, j.now)
	if o == revoked {
		j.cut = true
	}
	return o, rule
}

// known returns the member for a node that the filter knows, nil for others:
// strangers get no memory.
func (j *judgement) known(n uint16) *member {
	if n == 0 || j.s.filter.at(n).flags&flagKnown == 0 {
		return nil
	}
	return j.g.member(n)
}

func (j *judgement) ask(p *Packet, src, dst uint16, port uint16) Verdict {
	return j.s.filter.lookup(src, dst, p.proto, port)
}

// answers reports whether p may be the answer to something.
func (p *Packet) answers() bool {
	return p.kind == kindMid || p.kind == kindUDP || p.kind == kindPong
}

// refuse counts a refusal and notes it in the ledger. Whatever it was given,
// what it returns does not allow.
func (j *judgement) refuse(p *Packet, v Verdict) (Verdict, bool) {
	v.Allow = false
	if v.Reason == ReasonNone {
		v.Reason = ReasonNoRule
	}
	if j.cut {
		v.Reason = ReasonRevoked
	}
	switch {
	case j.standing:
	case j.who == nil:
		j.g.refused[v.Reason].Add(1)
	default:
		j.who.refused[v.Reason].Add(1)
		if p.kind != kindNone {
			j.record(p, false, v.Reason, true)
		}
	}
	return v, true
}

// record writes a line, or counts one more of it, in the ledger of the peer.
func (j *judgement) record(p *Packet, allowed bool, reason Reason, each bool) {
	other := j.dst
	if j.sending {
		other = j.src
	}
	if other == 0 {
		return // off the overlay: it is counted, but has no name to note
	}
	j.who.ledger.note(j.g, newRecordKey(p, other, j.sending, allowed), p.srcPort, reason, each, j.now)
}
