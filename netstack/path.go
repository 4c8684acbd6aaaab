package netstack

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/warrenmesh/warren/acl"
)

// path is the way of every packet, in both directions, and the tun.Device that
// WireGuard sees. What a peer sent comes in through Write, what is for a peer
// goes out through Read. Between the two stand the gate, which judges, and the
// queue, which is fair. There is no other way in or out.
type path struct {
	gate    *acl.Gate
	queue   *queue
	link    *link      // our own stack; nil when the kernel takes its place
	kernel  tun.Device // the kernel's stack; nil when ours is used
	forward bool
	mtu     int
	batch   int
	log     *slog.Logger
	now     func() int64 // monotonic ns, the gate's clock
	table   atomic.Pointer[table]
	fence   fence
	scratch sync.Pool // *scratch
	events  chan tun.Event
	inject  chan []byte // answers to our own stack, see answer.go
	closed  sync.Once
	aborts  aborts
	dying   dying
	cutting sync.RWMutex // held while SetFilter ends connections
	counts  counters

	picks []pick // Read's own
	timer *time.Timer
	seen  scratch // Read's own

	// probe is called with every packet from a peer if it is set; tests look
	// there, and panic there.
	probe atomic.Pointer[func([]byte)]
}

// scratch is what one Write needs, reused.
type scratch struct {
	packet acl.Packet
	merge  coalescer
	kernel [][]byte
	header [slotSize]byte
	epoch  uint64 // of the gate, before the first verdict
	lane   *lane  // cache of the last destination
	addr   netip.Addr
}

func newPath(gate *acl.Gate, q *queue, log *slog.Logger) *path {
	p := &path{
		gate: gate, queue: q, log: log,
		events: make(chan tun.Event, 1),
		inject: make(chan []byte, 256),
		timer:  time.NewTimer(time.Hour),
	}
	p.fence.drained = make(chan struct{}, 1)
	p.scratch.New = func() any { return new(scratch) }
	p.table.Store(new(table))
	return p
}

// Write takes packets that peers sent: WireGuard has decrypted each and proven
// that its source address belongs to the peer. It is called by one goroutine
// for each peer, at the same time, and never blocks. It never fails, so that
// one bad packet cannot lose the rest of the vector.
func (p *path) Write(bufs [][]byte, offset int) (int, error) {
	turn := p.fence.enter()
	defer p.fence.leave(turn)
	s := p.scratch.Get().(*scratch)
	s.merge.reset()
	s.lane, s.addr = nil, netip.Addr{}
	s.epoch = p.gate.Epoch() // before any verdict: at worst a packet is judged twice
	now := p.now()
	for _, b := range bufs {
		if len(b) >= offset {
			p.incoming(s, b, offset, now)
		}
	}
	p.deliver(s, offset)
	p.scratch.Put(s)
	return len(bufs), nil
}

// incoming judges one packet from a peer. A panic anywhere in here drops the
// packet; it opens nothing.
func (p *path) incoming(s *scratch, whole []byte, offset int, now int64) {
	defer p.recovered("incoming")
	b := whole[offset:]
	if probe := p.probe.Load(); probe != nil {
		(*probe)(b)
	}
	pkt := &s.packet
	_ = pkt.Parse(b) // the gate refuses what did not parse, and counts it
	v := p.gate.In(pkt, now)
	switch {
	case !v.Allow:
		p.refuseIncoming(s, b, pkt, v)
	case v.Local && p.kernel != nil:
		s.kernel = append(s.kernel, whole)
	case v.Local && pkt.Proto() == acl.ProtoTCP && pkt.Flags() == acl.FlagSYN && !p.mayOpen(pkt, now):
		p.counts.openings.Add(1)
	case v.Local:
		s.merge.add(b, pkt)
	case p.forward:
		p.pass(s, b, pkt)
	default:
		p.counts.notForwarding.Add(1)
	}
}

// mayOpen reports whether the sender of a SYN to our own stack has one left.
func (p *path) mayOpen(pkt *acl.Packet, now int64) bool {
	l := p.table.Load().lookup(pkt.Src())
	return l != nil && l.openings.take(now, openRate, openBurst)
}

// deliver gives what was allowed and is ours to the stack.
func (p *path) deliver(s *scratch, offset int) {
	if len(s.kernel) > 0 {
		if _, err := p.kernel.Write(s.kernel, offset); err != nil {
			p.counts.kernelErrors.Add(1)
		}
		clear(s.kernel)
		s.kernel = s.kernel[:0]
	}
	if p.link == nil {
		return
	}
	d := p.link.deliverer()
	if d == nil {
		return
	}
	for k := range s.merge.runs {
		p.deliverRun(&s.merge, k, d)
	}
}

func (p *path) deliverRun(c *coalescer, k int, d stack.NetworkDispatcher) {
	defer p.recovered("delivery")
	c.deliver(k, d)
}

// pass sends a packet from one peer on to another, as a router does: one hop
// less to live, and never through our own stack.
func (p *path) pass(s *scratch, b []byte, pkt *acl.Packet) {
	dst := pkt.Dst()
	if s.lane == nil || s.addr != dst {
		s.lane, s.addr = p.table.Load().lookup(dst), dst
	}
	switch {
	case s.lane == nil:
		p.counts.noPeer.Add(1)
		return
	case len(b) > p.mtu:
		p.tooBig(b, pkt)
		return
	case !hopsLeft(b):
		p.counts.expired.Add(1)
		return
	}
	it := newCopy(b)
	it.epoch = s.epoch
	decrementHops(it.buf)
	if pkt.Proto() == acl.ProtoTCP && pkt.Flags()&acl.FlagSYN != 0 {
		clampMSS(it.buf, pkt.HeaderLen(), p.mtu)
	}
	p.queue.push(s.lane, transitHash(b, pkt), it)
}

// outgoing judges and queues what our own stack sends.
func (p *path) outgoing(pkts []*stack.PacketBuffer) {
	turn := p.fence.enter()
	defer p.fence.leave(turn)
	s := p.scratch.Get().(*scratch)
	now := p.now()
	for _, pkt := range pkts {
		p.outgoingOne(s, pkt, now)
	}
	p.scratch.Put(s)
}

func (p *path) outgoingOne(s *scratch, buf *stack.PacketBuffer, now int64) {
	defer p.recovered("outgoing")
	b := outgoingHeader(buf, s.header[:])
	pkt := &s.packet
	epoch := p.gate.Epoch() // before the verdict: at worst it is judged twice
	_ = pkt.Parse(b)
	own := false
	if v := p.gate.Out(pkt, now); !v.Allow {
		if !p.aborts.has(pkt) {
			p.refuseOutgoing(b, pkt)
			return
		}
		own = true
	}
	l := p.table.Load().lookup(pkt.Dst())
	if l == nil {
		p.counts.noPeer.Add(1)
		p.refuseOutgoing(b, pkt)
		return
	}
	it := newLocal(buf, p.mtu)
	it.epoch, it.own = epoch, own
	p.queue.push(l, flowHash(b, pkt), it)
}

// Read gives WireGuard the next packets for peers. It has one caller.
func (p *path) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		var sleep time.Duration
		p.picks, sleep = p.queue.take(p.picks[:0], len(bufs))
		if len(p.picks) > 0 {
			if n := p.fill(bufs, sizes, offset); n > 0 {
				return n, nil
			}
			continue
		}
		if !p.queue.wait(p.timer, sleep) {
			return 0, os.ErrClosed
		}
	}
}

// fill copies the picked packets, each judged once more if the policy has
// changed since it was queued.
func (p *path) fill(bufs [][]byte, sizes []int, offset int) int {
	turn := p.fence.enter()
	defer p.fence.leave(turn)
	n := 0
	for i := range p.picks {
		n += p.fillOne(&p.picks[i], bufs[n:], sizes[n:], offset)
	}
	p.queue.finish(p.picks)
	return n
}

func (p *path) fillOne(k *pick, bufs [][]byte, sizes []int, offset int) (n int) {
	k.failed, k.dead = k.count, true // until they are copied; a panic leaves it so
	defer p.recovered("read")
	if !k.it.standing(p.gate, &p.seen.packet, p.seen.header[:]) {
		p.counts.revoked.Add(uint64(k.count))
		return p.resetInstead(k, bufs[0], sizes, offset)
	}
	epoch := k.it.epoch
	if k.it.own {
		epoch = p.gate.Epoch()
	}
	for n < k.count {
		b := bufs[n][offset:]
		if k.it.pkt != nil {
			sizes[n] = k.it.cut.next(k.it.pkt, b)
		} else {
			sizes[n] = copy(b, k.it.buf)
		}
		mark(bufs[n], k.lane.id, epoch)
		n++
	}
	k.failed, k.dead = 0, false
	return n
}

// recovered ends a panic: the packet at hand is dropped and counted.
func (p *path) recovered(where string) {
	r := recover()
	if r == nil {
		return
	}
	if n := p.counts.panics.Add(1); n <= 10 {
		p.log.Error("a packet made the packet path panic; it was dropped",
			"where", where, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	}
}

// flowHash spreads flows over the buckets of a lane.
func flowHash(b []byte, pkt *acl.Packet) uint32 {
	at := pkt.HeaderLen()
	if len(b) < at+4 {
		return 0
	}
	h := uint32(pkt.Proto()) * 0x9e3779b1
	if pkt.Proto() != acl.ProtoICMP {
		h ^= binary.BigEndian.Uint32(b[at:])
	}
	if pkt.Is6() {
		h = h*31 + binary.BigEndian.Uint32(b[20:]) + 7*binary.BigEndian.Uint32(b[36:])
	} else {
		h = h*31 + binary.BigEndian.Uint32(b[12:]) + 7*binary.BigEndian.Uint32(b[16:])
	}
	h *= 0x85ebca6b
	return h ^ h>>16
}

// transitHash spreads the flows of one sender over a quarter of the buckets of a
// lane. Attack: a lane is all that goes to one peer, whoever it comes from, so a
// sender with flows in every bucket would crowd out all other senders.
func transitHash(b []byte, pkt *acl.Packet) uint32 {
	var from uint32
	if pkt.Is6() {
		from = binary.BigEndian.Uint32(b[20:])
	} else {
		from = binary.BigEndian.Uint32(b[12:])
	}
	from *= 0x9e3779b1
	return from>>16 + flowHash(b, pkt)%(flowsPerLane/4)
}

// The rest of tun.Device.

func (p *path) File() *os.File           { return nil }
func (p *path) MTU() (int, error)        { return p.mtu, nil }
func (p *path) Name() (string, error)    { return "warren", nil }
func (p *path) Events() <-chan tun.Event { return p.events }
func (p *path) BatchSize() int           { return p.batch }

// Close ends Read and the events. WireGuard calls it, possibly twice.
func (p *path) Close() error {
	p.closed.Do(func() {
		p.queue.close()
		close(p.events)
	})
	return nil
}
