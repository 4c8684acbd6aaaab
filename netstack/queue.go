package netstack

import (
	"sync"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// The way out is one queue with one reader, the WireGuard device. It is fair
// twice. First between peers: each has a lane, and lanes take turns, so what
// one peer is sent never stands in line behind what another is sent. Then
// between the flows of a lane, in the manner of fq_codel (RFC 8290): a flow
// that has little to send, as voice, a name lookup or an acknowledgement has,
// goes ahead of those that always have more. Packets of one flow are never
// reordered.
//
// Fairness ends where the queue ends, so the reader hands over no more than
// window packets of a lane at a time; the Bind says when they have left. Left
// alone, WireGuard would take a hundred thousand packets per peer, and their
// buffers, out of our hands.
const (
	flowsPerLane = 32
	// laneQuantum is how many bytes a lane is served before the next has its
	// turn: one UDP super-datagram.
	laneQuantum = 48 << 10
	// flowQuantum is the same between the flows of a lane.
	flowQuantum = 16 << 10
)

// limits are the bounds of a queue, by class of device.
type limits struct {
	packets int // copied packets in a lane
	bytes   int // bytes of our own stack's packets in a lane
	window  int // packets of a lane inside WireGuard
}

func limitsFor(small bool) limits {
	if small {
		return limits{packets: 128, bytes: 1 << 20, window: 48}
	}
	return limits{packets: 1024, bytes: 16 << 20, window: 512}
}

// queue is the way out of the node.
type queue struct {
	limits limits
	wake   chan struct{} // capacity 1
	closed chan struct{}
	once   sync.Once

	mu     sync.Mutex
	turn   []*lane // lanes with something to send and room to send it, in order
	parked []*lane // lanes that wait for packets to leave
	lanes  map[uint32]*lane
	nextID uint32
	moved  chan struct{} // closed when packets left WireGuard and someone asked
}

func newQueue(l limits) *queue {
	return &queue{
		limits: l,
		wake:   make(chan struct{}, 1),
		closed: make(chan struct{}),
		lanes:  make(map[uint32]*lane),
	}
}

// add makes the lane of a peer.
func (q *queue) add(key peer.PublicKey) *lane {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.nextID++
	l := &lane{id: q.nextID, key: key, window: windowFirst, stall: stallTime}
	q.lanes[l.id] = l
	return l
}

// remove drops what waits for a peer and takes nothing for it any more.
func (q *queue) remove(l *lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l.gone = true
	delete(q.lanes, l.id)
	q.clear(l)
}

// clear drops what waits in a lane, except an item that the reader is copying
// right now: finish clears that.
func (q *queue) clear(l *lane) {
	for i := range l.flows {
		f := &l.flows[i]
		for f.head != nil && !f.head.cut.busy {
			q.forget(l, f.pop())
		}
	}
}

// push adds one packet. It never blocks: a full lane refuses, and the packet
// is released. A flow that is not itself what filled the lane has a reserve.
func (q *queue) push(l *lane, hash uint32, it *item) bool {
	q.mu.Lock()
	f := &l.flows[hash%flowsPerLane]
	if l.gone || q.full(l, f, it) {
		q.mu.Unlock()
		l.discarded.Add(1)
		it.release()
		return false
	}
	if it.pkt != nil {
		l.bytes += it.size
	} else {
		l.packets++
	}
	l.items++
	f.push(it)
	if !f.listed {
		f.listed, f.deficit = true, flowQuantum
		l.fresh.push(f)
	}
	woken := q.ready(l)
	q.mu.Unlock()
	if woken {
		q.signal()
	}
	return true
}

func (q *queue) full(l *lane, f *flow, it *item) bool {
	if it.pkt != nil {
		return l.bytes+it.size > q.limits.bytes && (f.packets > 0 || l.bytes > 2*q.limits.bytes)
	}
	limit := q.limits.packets
	return l.packets >= limit && (f.packets > limit/flowsPerLane || l.packets >= limit+limit/4)
}

// ready puts a lane in line if it has something to send and room to send it.
// It reports whether the reader has to be told.
func (q *queue) ready(l *lane) bool {
	if l.ready || l.items == 0 || l.gone {
		return false
	}
	if !l.parked.IsZero() {
		return false
	}
	if l.inside() >= l.window {
		l.parked = time.Now()
		q.parked = append(q.parked, l)
		return true // the reader has to set its clock
	}
	l.ready = true
	q.turn = append(q.turn, l)
	return true
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pick is a run of packets of one item: the reader copies them out of the lock.
type pick struct {
	it    *item
	lane  *lane
	count int  // packets, at least 1
	last  bool // nothing of the item is left after this
	// failed is set by the reader: packets that it did not hand on after all.
	failed int
	dead   bool // set by the reader: drop the rest of the item
}

// take chooses up to max packets and appends them to picks. The items of the
// picks belong to the reader until it calls finish.
func (q *queue) take(picks []pick, max int) ([]pick, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var sleep time.Duration
	if len(q.parked) > 0 {
		sleep = q.revive(time.Now())
	}
	for max > 0 && len(q.turn) > 0 {
		l := q.turn[0]
		q.turn = q.turn[1:]
		l.ready = false
		var n int
		picks, n = q.serve(l, picks, max)
		max -= n
		q.ready(l)
	}
	if len(q.turn) == 0 && cap(q.turn) > 4096 {
		q.turn = nil
	}
	if len(picks) > 0 {
		return picks, 0
	}
	if sleep == 0 && len(q.parked) > 0 {
		sleep = stallTime
	}
	return picks, sleep
}

// serve takes from one lane until its turn is over.
func (q *queue) serve(l *lane, picks []pick, max int) ([]pick, int) {
	budget, n := laneQuantum, 0
	room := l.window - l.inside()
	for budget > 0 && n < max && n < room {
		f := l.nextFlow()
		if f == nil {
			break
		}
		it := f.head
		if it.dead {
			q.forget(l, f.pop())
			continue
		}
		most := min(max-n, room-n)
		count, bytes, last := it.reserve(most, min(f.deficit, budget))
		f.deficit -= bytes
		budget -= bytes
		n += count
		q.account(l, it, bytes)
		if last {
			f.pop()
			l.items--
			if it.pkt == nil {
				l.packets--
			}
		}
		picks = append(picks, pick{it: it, lane: l, count: count, last: last})
	}
	l.out += uint64(n)
	return picks, n
}

func (q *queue) account(l *lane, it *item, bytes int) {
	taken := min(bytes, it.size)
	it.size -= taken
	if it.pkt != nil {
		l.bytes -= taken
	}
}

// finish returns picks after the reader has copied them.
func (q *queue) finish(picks []pick) {
	q.mu.Lock()
	for i := range picks {
		p := &picks[i]
		p.it.cut.busy = false
		p.lane.done = min(p.lane.done+uint64(p.failed), p.lane.out)
		p.lane.left = min(p.lane.left+uint64(p.failed), p.lane.out)
		if p.last {
			p.it.release()
		} else if p.dead {
			p.it.dead = true
		}
		if p.lane.gone {
			q.clear(p.lane)
		}
		*p = pick{}
	}
	q.mu.Unlock()
}

// forget releases an item that will not be sent.
func (q *queue) forget(l *lane, it *item) {
	l.items--
	if it.pkt != nil {
		l.bytes -= it.size
	} else {
		l.packets--
	}
	it.release()
}

// wait sleeps until there may be something to take, at most d if d > 0. It
// reports false once the queue is closed.
func (q *queue) wait(timer *time.Timer, d time.Duration) bool {
	var tick <-chan time.Time
	if d > 0 {
		timer.Reset(d)
		defer timer.Stop()
		tick = timer.C
	}
	select {
	case <-q.wake:
	case <-tick:
	case <-q.closed:
		return false
	}
	return true
}

// close ends every wait. It may be called twice.
func (q *queue) close() { q.once.Do(func() { close(q.closed) }) }

// purge releases everything that waits; for after the reader has stopped.
func (q *queue) purge() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.lanes {
		l.gone = true
		q.clear(l)
	}
}
