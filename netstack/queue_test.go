package netstack

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/peer"
)

// newLane adds a lane for a made-up peer that is known to answer.
func newLane(q *queue, n byte) *lane {
	l := q.add(peer.PublicKey{n})
	l.window = q.limits.window
	return l
}

// push queues a packet of size bytes that carries a number.
func pushTest(q *queue, l *lane, hash uint32, size int, number byte) bool {
	b := make([]byte, size)
	b[0] = number
	it := newCopy(b)
	it.own = true
	return q.push(l, hash, it)
}

// takeAll returns the numbers of the packets in the order in which they leave,
// as if WireGuard were infinitely fast.
func takeAll(q *queue, max int) []byte {
	var out []byte
	for len(out) < max {
		picks, _ := q.take(nil, min(128, max-len(out)))
		if len(picks) == 0 {
			break
		}
		for i := range picks {
			out = append(out, picks[i].it.buf[0])
		}
		for i := range picks {
			q.mu.Lock()
			picks[i].lane.done += uint64(picks[i].count)
			q.mu.Unlock()
		}
		q.finish(picks)
	}
	return out
}

func TestQueueIsFairBetweenPeers(t *testing.T) {
	q := newQueue(limitsFor(false))
	noisy, quiet := newLane(q, 1), newLane(q, 2)
	for range 1000 {
		pushTest(q, noisy, 1, 1280, 'n')
	}
	pushTest(q, quiet, 1, 200, 'q')
	order := takeAll(q, 1001)
	if at := index(order, 'q'); at < 0 || at > 64 {
		t.Errorf("the other peer's packet left after %d of the noisy one's", at)
	}
	if len(order) != 1001 {
		t.Errorf("%d packets left, want 1001", len(order))
	}
}

func TestQueueServesSparseFlowsFirst(t *testing.T) {
	q := newQueue(limitsFor(false))
	l := newLane(q, 1)
	for flow := range uint32(4) {
		for range 200 {
			pushTest(q, l, flow, 1280, 'b')
		}
	}
	takeAll(q, 100) // the bulk flows are no longer fresh
	pushTest(q, l, 9, 160, 'v')
	order := takeAll(q, 700)
	if at := index(order, 'v'); at != 0 {
		t.Errorf("the voice packet left after %d bulk packets", at)
	}
	// A flow that sends one packet at a time gets no more than its share.
	voices := 0
	for range 50 {
		pushTest(q, l, 9, 1280, 'v')
		pushTest(q, l, 0, 1280, 'b')
		if out := takeAll(q, 1); len(out) == 1 && out[0] == 'v' {
			voices++
		}
	}
	if voices > 49 {
		t.Errorf("a flow that is always fresh starved the others")
	}
}

func index(b []byte, c byte) int {
	for i := range b {
		if b[i] == c {
			return i
		}
	}
	return -1
}

func TestQueueKeepsOrderWithinAFlow(t *testing.T) {
	q := newQueue(limitsFor(false))
	lanes := []*lane{newLane(q, 1), newLane(q, 2), newLane(q, 3)}
	for i := range byte(200) {
		pushTest(q, lanes[i%3], uint32(i%2), 100+int(i), i)
	}
	last := make(map[string]byte)
	for _, i := range takeAll(q, 200) {
		flow := fmt.Sprint(i%3, i%2)
		if prev, ok := last[flow]; ok && prev > i {
			t.Fatalf("packet %d left after %d of the same flow", i, prev)
		}
		last[flow] = i
	}
}

func TestQueueIsBounded(t *testing.T) {
	for _, small := range []bool{false, true} {
		lim := limitsFor(small)
		q := newQueue(lim)
		l := newLane(q, 1)
		for range 10 * lim.packets {
			pushTest(q, l, 1, 1280, 'n')
		}
		if l.packets > lim.packets+lim.packets/4 {
			t.Errorf("%d packets wait, the limit is %d", l.packets, lim.packets)
		}
		if l.discarded.Load() == 0 {
			t.Error("nothing was counted as discarded")
		}
		if !pushTest(q, l, 2, 100, 'v') {
			t.Error("a flow that has nothing waiting found the lane full")
		}
		q.remove(l)
		if l.packets != 0 || l.items != 0 || l.bytes != 0 {
			t.Errorf("%d packets are left of a removed peer", l.items)
		}
		if pushTest(q, l, 1, 100, 'x') {
			t.Error("a removed peer's lane took a packet")
		}
	}
}

// TestQueueHoldsBackWhatWireGuardHasNotSent: no more than the window is handed
// over, and a lane whose packets never leave does not stop the others, nor for
// ever itself.
func TestQueueHoldsBackWhatWireGuardHasNotSent(t *testing.T) {
	lim := limitsFor(false)
	q := newQueue(lim)
	stuck, other := newLane(q, 1), newLane(q, 2)
	for range lim.packets {
		pushTest(q, stuck, 1, 1280, 's')
	}
	take := func() (n int) {
		for {
			picks, _ := q.take(nil, 128)
			if len(picks) == 0 {
				return n
			}
			n += len(picks)
			q.finish(picks)
		}
	}
	if n := take(); n != lim.window {
		t.Fatalf("%d packets were handed over, the window is %d", n, lim.window)
	}
	pushTest(q, other, 1, 100, 'o')
	if n := take(); n != 1 {
		t.Fatalf("the other lane gave %d packets, want 1", n)
	}
	q.left(stuck.id, lim.window/2)
	if n := take(); n != lim.window/2 {
		t.Fatalf("%d packets after half had left, want %d", n, lim.window/2)
	}
	deadline := time.Now().Add(5 * time.Second)
	for take() == 0 {
		if time.Now().After(deadline) {
			t.Fatal("a lane that heard nothing was never revived")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestMarkSurvives is the contract with WireGuard that bind.go describes: the
// buffers that Read filled are those that Send gets.
func TestMarkSurvives(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 1, options{})
	m.hub.serveEcho(t, netip.AddrPortFrom(m.hub.v4(), 80))
	c := m.spokes[0].dial(t, "tcp", netip.AddrPortFrom(m.hub.v4(), 80))
	echo(t, c, "hello")
	m.settle(m.spokes[0])
	for _, n := range []*node{m.hub, m.spokes[0]} {
		n.queue.mu.Lock()
		for _, l := range n.queue.lanes {
			// The very first packets may have been replaced while the
			// handshake ran; nothing else is lost here.
			if l.out == 0 || l.done+1 < l.out {
				t.Errorf("%d packets were handed to WireGuard, %d are known to have left", l.out, l.done)
			}
		}
		n.queue.mu.Unlock()
	}
}

func TestFence(t *testing.T) {
	var f fence
	f.drained = make(chan struct{}, 1)
	f.wait() // nobody
	outer := f.enter()
	waited := make(chan struct{})
	go func() { f.wait(); close(waited) }()
	// Entering again while somebody waits must not deadlock.
	eventually(t, "the turn changes", func() bool { return f.turn.Load() > outer })
	inner := f.enter()
	f.leave(inner)
	select {
	case <-waited:
		t.Fatal("wait did not wait")
	default:
	}
	f.leave(outer)
	<-waited
}

func TestBucket(t *testing.T) {
	var b bucket
	n := 0
	for range 1000 {
		if b.take(1, answerRate, answerBurst) {
			n++
		}
	}
	if n != answerBurst {
		t.Errorf("%d at once, want %d", n, answerBurst)
	}
	for range 1000 {
		if b.take(1+int64(time.Second), answerRate, answerBurst) {
			n++
		}
	}
	if n != 2*answerBurst {
		t.Errorf("%d after a second, want %d", n, 2*answerBurst)
	}
}

// TestQueueIsFairBetweenSenders: one sender with a thousand flows to a peer
// leaves room for what others send there.
func TestQueueIsFairBetweenSenders(t *testing.T) {
	both(t, func(t *testing.T, addr func(*node) netip.Addr) {
		q := newQueue(limitsFor(false))
		l := newLane(q, 1)
		to := netip.AddrPortFrom(addr(&node{index: 300}), 9)
		send := func(from int, port uint16) bool {
			b := rawUDP(netip.AddrPortFrom(addr(&node{index: from}), port), to, "x")
			var p acl.Packet
			if r := p.Parse(b); r != 0 {
				t.Fatal(r)
			}
			return q.push(l, transitHash(b, &p), newCopy(b))
		}
		for port := range uint16(5000) {
			send(257, 1000+port)
		}
		lost := 0
		for other := range 100 {
			if !send(400+other, 1000) {
				lost++
			}
		}
		// Some share a bucket with the flood.
		if lost > 40 {
			t.Errorf("%d of 100 other senders found no room", lost)
		}
	})
}
