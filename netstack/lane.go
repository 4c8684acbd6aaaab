package netstack

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/peer"
)

// item is one packet on its way out: either a copy in buf, or a packet of our
// own stack that may be cut into many.
type item struct {
	next *item
	buf  []byte              // a copy; nil for pkt
	pkt  *stack.PacketBuffer // one reference is ours
	cut  cutter              // state of pkt's segmentation
	// epoch is that of the filter which allowed the packet.
	epoch uint64
	// own marks an answer that we made ourselves: no policy speaks about it.
	own  bool
	dead bool // refused while it waited; the rest is dropped
	size int  // bytes still to be picked
}

// flow is one hash bucket of a lane.
type flow struct {
	head, tail *item
	next       *flow
	deficit    int
	packets    int
	listed     bool
}

func (f *flow) push(it *item) {
	if f.tail == nil {
		f.head = it
	} else {
		f.tail.next = it
	}
	f.tail = it
	f.packets++
}

func (f *flow) pop() *item {
	it := f.head
	f.head = it.next
	if f.head == nil {
		f.tail = nil
	}
	it.next = nil
	f.packets--
	return it
}

// ring is a list of flows, first in first out.
type ring struct{ head, tail *flow }

func (r *ring) push(f *flow) {
	f.next = nil
	if r.tail == nil {
		r.head = f
	} else {
		r.tail.next = f
	}
	r.tail = f
}

func (r *ring) pop() *flow {
	f := r.head
	r.head = f.next
	if r.head == nil {
		r.tail = nil
	}
	f.next = nil
	return f
}

// lane is what is known about one peer on the packet path.
type lane struct {
	id  uint32
	key peer.PublicKey

	spoofed   atomic.Uint64 // packets from it with a source that is not its own
	refused   atomic.Uint64 // packets from it that the policy refused
	discarded atomic.Uint64 // packets to it that found the lane full
	answers   bucket        // rate limit of what we answer to its refused packets
	openings  bucket        // rate limit of connections to our own stack

	// Below: guarded by queue.mu.
	flows      [flowsPerLane]flow
	fresh, old ring
	packets    int // copied packets waiting
	bytes      int // bytes of our own stack's packets waiting
	items      int
	ready      bool // in queue.turn
	parked     time.Time
	out, done  uint64 // packets handed to WireGuard; those that left it or were given up
	left       uint64 // the same without those given up, for drained
	window     int    // how many of them may be inside WireGuard
	stall      time.Duration
	gone       bool // the peer was removed
}

// inside returns how many packets WireGuard holds, as far as is known.
func (l *lane) inside() int {
	if l.done >= l.out {
		return 0
	}
	return int(l.out - l.done)
}

// nextFlow returns the flow whose turn it is: it has something to send and
// credit to send it. Fresh flows come first; one that empties goes through the
// old list once, or a flow that sends one packet at a time would be fresh for
// ever.
func (l *lane) nextFlow() *flow {
	for {
		r, fresh := &l.fresh, true
		if r.head == nil {
			r, fresh = &l.old, false
		}
		f := r.head
		switch {
		case f == nil:
			return nil
		case f.deficit <= 0:
			f.deficit += flowQuantum
			l.old.push(r.pop())
		case f.head != nil:
			return f
		case fresh:
			l.old.push(r.pop())
		default:
			r.pop().listed = false
		}
	}
}

// reserve takes up to most packets and about budget bytes from the item, at
// least one packet.
func (it *item) reserve(most, budget int) (count, bytes int, last bool) {
	it.cut.busy = true
	if it.pkt == nil {
		return 1, len(it.buf), true
	}
	return it.cut.reserve(most, budget)
}

// standing reports whether the packet may still leave under the gate's filter
// of now. p is scratch.
func (it *item) standing(g *acl.Gate, p *acl.Packet, header []byte) bool {
	if it.own {
		return true
	}
	now := g.Epoch()
	if it.epoch == now {
		return true
	}
	if p.Parse(it.judged(header)) != 0 || !g.Standing(p) {
		return false
	}
	it.epoch = now
	return true
}

// judged returns the bytes that the policy judges.
func (it *item) judged(header []byte) []byte {
	if it.pkt == nil {
		return it.buf
	}
	return outgoingHeader(it.pkt, header)
}

func (it *item) release() {
	if it.pkt != nil {
		it.pkt.DecRef()
	}
	putItem(it)
}
