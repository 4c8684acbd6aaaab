package netstack

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/netstack/udp/udptest"
)

// silence lets nothing pass between the hub and spoke n until the function that
// it returns is called.
func (m *mesh) silence(n *node) (end func()) {
	at := m.outer(n.index)
	m.net.Filter(func(d udptest.Datagram) bool { return d.From != at && d.To != at })
	return func() { m.net.Filter(nil) }
}

// handedOver returns how many packets for a spoke WireGuard was given.
func (m *mesh) handedOver(to *node) uint64 {
	m.hub.queue.mu.Lock()
	defer m.hub.queue.mu.Unlock()
	return m.hub.path.table.Load().byKey[to.key.Public()].out
}

// TestA07_NothingWaitsOutThePolicy: WireGuard keeps packets for a peer that it
// has no session with, for a minute and a half. When the session comes, those
// that only an older policy allowed must not follow.
func TestA07_NothingWaitsOutThePolicy(t *testing.T) {
	noLeak(t)
	both(t, func(t *testing.T, addr func(*node) netip.Addr) {
		m := newMesh(t, 2, options{})
		late := m.spokes[1]
		heard := m.silence(late)
		to := netip.AddrPortFrom(addr(late), 9)
		passing, ours := m.spokes[0].dial(t, "udp", to), m.hub.dial(t, "udp", to)
		for _, c := range []interface{ Write([]byte) (int, error) }{passing, ours} {
			if _, err := c.Write([]byte("of the old policy")); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "WireGuard has a packet", func() bool { return m.handedOver(late) > 0 })
		m.hub.SetFilter(filter(t, policyOf(allow("m257", "svc:self:*")), hubIndex, 257, 258))
		tap := newTap(late)
		heard()
		if err := late.Handshake(m.hub.key.Public()); err != nil {
			t.Fatal(err)
		}
		m.settle(late)
		eventually(t, "a session", func() bool { return !late.Peers()[0].LastHandshake.IsZero() })
		// What the hub sends now comes after what it had kept.
		m.hub.SetFilter(filter(t, allowAll, hubIndex, 257, 258))
		if _, err := ours.Write([]byte("of the new policy")); err == nil {
			t.Error("the socket survived the change")
		}
		last := m.hub.dial(t, "udp", netip.AddrPortFrom(addr(late), 10))
		eventually(t, "the new packet arrives", func() bool {
			_, _ = last.Write([]byte("of the new policy"))
			time.Sleep(time.Millisecond)
			return tap.count(func(_ []byte, p *acl.Packet) bool { return p.DstPort() == 10 }) > 0
		})
		if n := tap.count(func(_ []byte, p *acl.Packet) bool { return p.DstPort() == 9 }); n != 0 {
			t.Errorf("%d packets of the old policy were delivered under the new one", n)
		}
	})
}

// TestD05_SilentPeersPinLittle: each packet that WireGuard keeps for a peer that
// does not answer is a buffer of 64 KiB, so a flood at peers that are away must
// not be passed on to it.
func TestD05_SilentPeersPinLittle(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 2, options{})
	m.silence(m.spokes[1])
	c := m.spokes[0].dial(t, "udp", netip.AddrPortFrom(m.spokes[1].v4(), 9))
	start := time.Now()
	for time.Since(start) < 500*time.Millisecond {
		for range 64 {
			if _, err := c.Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Millisecond)
	}
	if n := m.handedOver(m.spokes[1]); n > 32 {
		t.Errorf("WireGuard was given %d packets in half a second for a peer that is away", n)
	}
}

// TestQueueCreditIsBounded: packets that were taken for lost and leave after all
// are not credit for more.
func TestQueueCreditIsBounded(t *testing.T) {
	lim := limitsFor(false)
	q := newQueue(lim)
	l := newLane(q, 1)
	q.left(l.id, 5*lim.window)
	for i := range 2 * lim.packets {
		pushTest(q, l, uint32(i), 100, 's')
	}
	n := 0
	for {
		picks, _ := q.take(nil, 128)
		if len(picks) == 0 {
			break
		}
		n += len(picks)
		q.finish(picks)
	}
	if n > lim.window {
		t.Errorf("%d packets were handed over, the window is %d", n, lim.window)
	}
}

// TestD05_HalfOpen: what one peer begins and never finishes is bounded, however
// many services there are, and another peer gets through meanwhile.
func TestD05_HalfOpen(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 2, options{})
	for port := range uint16(4) {
		m.hub.serveEcho(t, netip.AddrPortFrom(m.hub.v4(), 80+port))
	}
	s := m.spokes[0]
	echo(t, s.dial(t, "tcp", netip.AddrPortFrom(m.hub.v4(), 80)), "hello")
	for i := range 4 * openBurst {
		syn := rawTCP(netip.AddrPortFrom(s.v4(), uint16(1024+i)), netip.AddrPortFrom(m.hub.v4(), uint16(80+i%4)), header.TCPFlagSyn, 1, 0, "")
		eventually(t, "the queue takes a SYN", func() bool { return s.tryInject(m.hub, syn) })
	}
	m.settle(s)
	if n := len(m.hub.net.RegisteredEndpoints()); n > 2*openBurst {
		t.Errorf("one peer has %d connections half open", n)
	}
	if m.hub.Stats().Openings == 0 {
		t.Error("no SYN was counted as one too many")
	}
	echo(t, m.spokes[1].dial(t, "tcp", netip.AddrPortFrom(m.hub.v4(), 80)), "hello")
}

// tryInject is inject, and reports whether the packet was queued.
func (n *node) tryInject(hub *node, b []byte) bool {
	it := newCopy(b)
	it.own = true
	return n.queue.push(n.path.table.Load().byKey[hub.key.Public()], 0, it)
}
