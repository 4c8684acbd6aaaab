package acl

import "time"

// How long a flow may be silent before it is forgotten, in the units of the
// gate's clock. A flow's last packet is noted at most once a second, so it may
// be forgotten up to a second early.
const (
	idleUDP         = int64(120 * time.Second)
	idleICMP        = int64(30 * time.Second)
	idleOpening     = int64(30 * time.Second)
	idleEstablished = int64(2 * time.Hour)
	idleClosing     = int64(10 * time.Second)

	touchEvery = int64(time.Second)
)

// How many flows one peer may have. They are its own quota: what one peer does
// never evicts a flow of another.
const (
	maxFlows      = 4096
	maxFlowsSmall = 512
	firstFlows    = 16
	ways          = 8 // slots in a set: one cache line of keys
)

// flowKey names a flow in the table of one peer, its owner, in one word:
//
//	63 always set   62 IPv6   61-60 protocol   59 dialled   47-32 other node
//	31-16 the owner's port, or the echo identifier          15-0 the other's port
//
// In a transit flow the owner is the peer that opened it. In a dialled flow the
// owner is the peer that this node's own stack called.
type flowKey uint64

const (
	keyUsed    flowKey = 1 << 63
	keyV6      flowKey = 1 << 62
	keyTCP     flowKey = 1 << 60
	keyUDP     flowKey = 2 << 60
	keyICMP    flowKey = 3 << 60
	keyProto   flowKey = 3 << 60
	keyDialled flowKey = 1 << 59
)

func newFlowKey(v6 bool, proto Proto, other, ownerPort, otherPort uint16) flowKey {
	k := keyUsed | flowKey(other)<<32 | flowKey(ownerPort)<<16 | flowKey(otherPort)
	if v6 {
		k |= keyV6
	}
	switch proto {
	case ProtoTCP:
		return k | keyTCP
	case ProtoUDP:
		return k | keyUDP
	}
	return k | keyICMP
}

func (k flowKey) other() uint16 { return uint16(k >> 32) }

// judge asks f about the first packet of the flow: whoever opened it, to the
// port it was opened to. This is what re-judging under a newer policy means.
func (k flowKey) judge(f *Filter, owner uint16) Verdict {
	proto, ownerPort, otherPort := ProtoICMP, uint16(0), uint16(0)
	switch k & keyProto {
	case keyTCP:
		proto, ownerPort, otherPort = ProtoTCP, uint16(k>>16), uint16(k)
	case keyUDP:
		proto, ownerPort, otherPort = ProtoUDP, uint16(k>>16), uint16(k)
	}
	if k&keyDialled != 0 {
		return f.lookup(k.other(), owner, proto, ownerPort)
	}
	return f.lookup(owner, k.other(), proto, otherPort)
}

// phase is how far a flow has come.
type phase uint32

const (
	phaseOpening      phase = iota // TCP: SYN seen. UDP, ICMP: no answer yet
	phaseAnswered                  // TCP: SYN-ACK seen. UDP, ICMP: answered
	phaseEstablished               // TCP: handshake done
	phaseFinForward                // TCP: the opener has closed its half
	phaseFinBack                   // TCP: the other has closed its half
	phaseClosed                    // TCP: both have
	phaseResetForward              // TCP: the opener sent a reset
	phaseResetBack                 // TCP: the other sent a reset
)

// idle returns how long a flow with key k may be silent in this phase.
func (ph phase) idle(k flowKey) int64 {
	switch k & keyProto {
	case keyUDP:
		return idleUDP
	case keyICMP:
		return idleICMP
	}
	switch ph {
	case phaseOpening, phaseAnswered:
		return idleOpening
	case phaseClosed, phaseResetForward, phaseResetBack:
		return idleClosing
	}
	return idleEstablished
}

// steady reports whether p may pass in this phase without changing it. False
// only means: look closer, under the lock.
func (ph phase) steady(p *Packet, forward bool) bool {
	switch p.kind {
	case kindUDP, kindPing, kindPong:
		return forward || ph == phaseAnswered
	case kindMid:
		return ph == phaseEstablished && p.flags&(FlagSYN|FlagFIN|FlagRST) == 0
	}
	return false
}

// step returns the phase after p, and whether p fits the flow at all.
func (ph phase) step(p *Packet, forward bool) (phase, bool) {
	switch p.kind {
	case kindUDP, kindPing, kindPong:
		if !forward {
			return phaseAnswered, true
		}
		return ph, true
	case kindOpen:
		return ph.open()
	case kindMid:
		if p.flags&FlagRST != 0 {
			if forward {
				return phaseResetForward, true
			}
			return phaseResetBack, true
		}
		if forward {
			return ph.forward(p)
		}
		return ph.back(p)
	}
	return ph, false
}

// open judges a clean SYN by the opener, who may repeat it, or use the ports
// again after a close. (A SYN from the far end is never looked up as part of a
// flow: see Packet.answers.)
func (ph phase) open() (phase, bool) {
	if ph >= phaseClosed {
		return phaseOpening, true
	}
	return ph, true
}

// forward judges what the opener sends after its SYN.
func (ph phase) forward(p *Packet) (phase, bool) {
	if p.flags&FlagSYN != 0 || ph == phaseOpening {
		return ph, false // a SYN-ACK of its own, or talk before an answer
	}
	if ph == phaseAnswered {
		ph = phaseEstablished
	}
	return ph.talk(p, phaseFinForward, phaseFinBack, phaseResetBack)
}

// back judges what the other end sends.
func (ph phase) back(p *Packet) (phase, bool) {
	bare := p.payload == p.length && p.flags&FlagFIN == 0
	switch {
	case p.flags&FlagSYN != 0:
		if ph == phaseOpening {
			return phaseAnswered, true
		}
		return ph, ph == phaseAnswered || ph == phaseEstablished
	case ph == phaseOpening:
		// Only a challenge ACK: the far end remembers an older connection on
		// these ports, and the opener will reset it (RFC 5961 section 4).
		return ph, bare
	case ph == phaseAnswered:
		return ph, bare
	}
	return ph.talk(p, phaseFinBack, phaseFinForward, phaseResetForward)
}

// talk moves an established flow. mine and theirs are the phases in which the
// sender and the other have closed; reset is the phase in which the other has
// sent a reset.
func (ph phase) talk(p *Packet, mine, theirs, reset phase) (phase, bool) {
	switch {
	case p.flags&FlagFIN != 0 && ph == theirs:
		return phaseClosed, true
	case p.flags&FlagFIN != 0 && ph == phaseEstablished:
		return mine, true
	case ph == reset && p.payload == p.length && p.flags&FlagFIN == 0:
		// A bare ACK in answer to a reset: the reset was not acceptable, the
		// connection lives (RFC 5961 section 3). Forgetting it here would give
		// whoever can forge a reset what the end point just denied.
		return phaseEstablished, true
	}
	return ph, true
}
