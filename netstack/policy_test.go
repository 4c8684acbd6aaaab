package netstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmesh/warren/acl"
)

func allow(src, dst string) string {
	return fmt.Sprintf(`{"action":"accept","src":[%q],"dst":[%q]}`, src, dst)
}

func policyOf(rules ...string) string {
	out := `{"acls":[`
	for i, r := range rules {
		if i > 0 {
			out += ","
		}
		out += r
	}
	return out + `]}`
}

// stream serves endless data on at.
func (n *node) stream(t testing.TB, at netip.AddrPort) {
	l := n.listen(t, at)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 32<<10)
				for {
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// drain reads c until it fails and counts bytes. The error arrives on the
// channel.
func drain(c net.Conn, n *atomic.Int64) <-chan error {
	done := make(chan error, 1)
	go func() {
		b := make([]byte, 64<<10)
		for {
			k, err := c.Read(b)
			n.Add(int64(k))
			if err != nil {
				done <- err
				return
			}
		}
	}()
	return done
}

func TestA07_RevokedStreamsEnd(t *testing.T) {
	noLeak(t)
	both(t, func(t *testing.T, addr func(*node) netip.Addr) {
		m := newMesh(t, 2, options{})
		m.hub.stream(t, netip.AddrPortFrom(addr(m.hub), 80))
		m.spokes[1].stream(t, netip.AddrPortFrom(addr(m.spokes[1]), 80))
		flows := []struct {
			name string
			c    net.Conn
		}{
			{"spoke downloads from the hub", m.spokes[0].dial(t, "tcp", netip.AddrPortFrom(addr(m.hub), 80))},
			{"hub downloads from a spoke", m.hub.dial(t, "tcp", netip.AddrPortFrom(addr(m.spokes[1]), 80))},
			{"spoke downloads from a spoke", m.spokes[0].dial(t, "tcp", netip.AddrPortFrom(addr(m.spokes[1]), 80))},
		}
		counts := make([]atomic.Int64, len(flows))
		ends := make([]<-chan error, len(flows))
		for i, f := range flows {
			ends[i] = drain(f.c, &counts[i])
			eventually(t, f.name, func() bool { return counts[i].Load() > 1<<20 })
		}
		tapHub := newTap(m.hub)
		_ = tapHub
		cut := m.setPolicy(`{}`)
		start := time.Now()
		// The hub's own side: not one byte more, from now on.
		after := counts[1].Load()
		t.Logf("cut %d connections in %v", cut.Connections, cut.Took)
		if cut.Connections < 2 {
			t.Errorf("cut %d connections, want the two that end at the hub", cut.Connections)
		}
		for i, f := range flows {
			select {
			case err := <-ends[i]:
				if err == io.EOF || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, ErrRevoked) {
					t.Errorf("%s: ended with %v, want a reset", f.name, err)
				}
			case <-time.After(10 * time.Second):
				t.Errorf("%s: not ended after %v", f.name, time.Since(start))
			}
		}
		if n := counts[1].Load(); n != after {
			t.Errorf("%d bytes were delivered at the hub after SetFilter returned", n-after)
		}
	})
}

// TestA07_NothingLeavesAfterSetFilter looks at the wire: when SetFilter has
// returned, no packet with data of the revoked flow arrives any more, but for
// what was already under way in the network.
func TestA07_NothingLeavesAfterSetFilter(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 2, options{})
	at := netip.AddrPortFrom(m.hub.v4(), 80)
	m.hub.stream(t, at)
	var n atomic.Int64
	c := m.spokes[0].dial(t, "tcp", at)
	end := drain(c, &n)
	eventually(t, "data flows", func() bool { return n.Load() > 1<<20 })
	m.setPolicy(`{}`)
	sent := m.hub.Peers()[0].TxBytes + m.hub.Peers()[1].TxBytes
	<-end
	m.settle(m.spokes[0])
	// Resets and answers to what was still in the air: no data.
	if more := m.hub.Peers()[0].TxBytes + m.hub.Peers()[1].TxBytes - sent; more > 64<<10 {
		t.Errorf("the hub sent %d bytes after SetFilter returned", more)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a dead connection gave data")
	}
}

func TestA07_BufferedDataIsGone(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 1, options{})
	at := netip.AddrPortFrom(m.hub.v4(), 80)
	l := m.hub.listen(t, at)
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	pc, err := m.hub.ListenPacket(netip.AddrPortFrom(m.hub.v4(), 53))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c := m.spokes[0].dial(t, "tcp", at)
	_, _ = io.WriteString(c, "secret of the old policy")
	u := m.spokes[0].dial(t, "udp", netip.AddrPortFrom(m.hub.v4(), 53))
	_, _ = io.WriteString(u, "old datagram")
	server := <-accepted
	m.settle(m.spokes[0])
	m.setPolicy(policyOf(allow("m257", "svc:self:99")))
	_ = server.SetDeadline(time.Now().Add(time.Second))
	if n, err := server.Read(make([]byte, 100)); err == nil || n != 0 || !errors.Is(err, ErrRevoked) {
		t.Errorf("reading a revoked connection gave %d bytes and %v", n, err)
	}
	_ = pc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	b := make([]byte, 100)
	if n, _, err := pc.ReadFrom(b); err == nil {
		t.Errorf("a datagram of the old policy was read: %q", b[:n])
	}
}

func TestA07_IdleConnectionsHearOfIt(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 2, options{})
	at := netip.AddrPortFrom(m.hub.v4(), 80)
	m.hub.serveEcho(t, at)
	idle, other := m.spokes[0].dial(t, "tcp", at), m.spokes[1].dial(t, "tcp", at)
	echo(t, idle, "hello")
	echo(t, other, "hello")
	cut := m.setPolicy(policyOf(allow("m258", "svc:self:80")))
	if cut.Connections != 1 {
		t.Errorf("cut %d connections, want 1", cut.Connections)
	}
	_ = idle.SetDeadline(time.Now().Add(5 * time.Second))
	start := time.Now()
	_, err := idle.Read(make([]byte, 1))
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the other side of a revoked connection read %v, want a reset", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %v to hear of it", d)
	}
	echo(t, other, "unharmed")
}

func TestA08_OnlyWhatNoLongerMatchesDies(t *testing.T) {
	noLeak(t)
	both(t, func(t *testing.T, addr func(*node) netip.Addr) {
		m := newMesh(t, 2, options{policy: policyOf(allow("*", "svc:self:8000-8010"), allow("m257", "m258:8000-8010"), allow("svc:self", "m258:8000-8010"))})
		var dead, alive []net.Conn
		for _, port := range []uint16{8001, 8002} {
			m.hub.serveEcho(t, netip.AddrPortFrom(addr(m.hub), port))
			m.spokes[1].serveEcho(t, netip.AddrPortFrom(addr(m.spokes[1]), port))
			conns := []net.Conn{
				m.spokes[0].dial(t, "tcp", netip.AddrPortFrom(addr(m.hub), port)),
				m.spokes[0].dial(t, "tcp", netip.AddrPortFrom(addr(m.spokes[1]), port)),
				m.hub.dial(t, "tcp", netip.AddrPortFrom(addr(m.spokes[1]), port)),
			}
			for _, c := range conns {
				echo(t, c, "hello")
			}
			if port == 8001 {
				dead = conns
			} else {
				alive = conns
			}
		}
		cut := m.setPolicy(policyOf(allow("*", "svc:self:8002"), allow("m257", "m258:8002"), allow("svc:self", "m258:8002")))
		if cut.Connections != 2 {
			t.Errorf("cut %d connections, want 2", cut.Connections)
		}
		for _, c := range dead {
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = io.WriteString(c, "x")
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%v -> %v: %v, want a reset", c.LocalAddr(), c.RemoteAddr(), err)
			}
		}
		for _, c := range alive {
			echo(t, c, "still here")
		}
	})
}

// TestA05_EachPacketOnePolicy alternates two policies under traffic. Ports 1001
// and 1002 are each allowed by one of them; 1003 by both; 1004 by neither.
func TestA05_EachPacketOnePolicy(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 1, options{})
	p1 := filter(t, policyOf(allow("m257", "svc:self:1001,1003")), hubIndex, 257)
	p2 := filter(t, policyOf(allow("m257", "svc:self:1002,1003")), hubIndex, 257)
	var got [4]atomic.Int64
	for i := range got {
		pc, err := m.hub.ListenPacket(netip.AddrPortFrom(m.hub.v4(), uint16(1001+i)))
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		go func() {
			b := make([]byte, 100)
			for {
				if _, _, err := pc.ReadFrom(b); err != nil {
					return
				}
				got[i].Add(1)
			}
		}()
	}
	m.hub.SetFilter(p1)
	stop := make(chan struct{})
	var sent atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		src := netip.AddrPortFrom(m.spokes[0].v4(), 5000)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for i := range got {
				m.spokes[0].inject(m.hub, rawUDP(src, netip.AddrPortFrom(m.hub.v4(), uint16(1001+i)), "x"))
			}
			sent.Add(1)
			time.Sleep(200 * time.Microsecond)
		}
	})
	for i := range 400 {
		f := p1
		if i%2 == 0 {
			f = p2
		}
		m.hub.SetFilter(f)
		time.Sleep(4 * time.Millisecond)
	}
	close(stop)
	wg.Wait()
	m.settle(m.spokes[0])
	eventually(t, "all that was allowed is read", func() bool { return got[2].Load() > sent.Load()/2 })
	a, b, both, none := got[0].Load(), got[1].Load(), got[2].Load(), got[3].Load()
	t.Logf("%d rounds: %d under the first policy, %d under the second, %d under both", sent.Load(), a, b, both)
	if none != 0 {
		t.Errorf("%d packets that no policy allowed were delivered", none)
	}
	if a == 0 || b == 0 {
		t.Error("a policy was never in force")
	}
}

// TestMeshE25_EditsNeverLeak edits the policy a thousand times while eight
// peers send what is denied all the time.
func TestMeshE25_EditsNeverLeak(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 8, options{})
	pc, err := m.hub.ListenPacket(netip.AddrPortFrom(m.hub.v4(), 666))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	var leaked atomic.Int64
	go func() {
		b := make([]byte, 100)
		for {
			if _, _, err := pc.ReadFrom(b); err != nil {
				return
			}
			leaked.Add(1)
		}
	}()
	indexes := []int{257, 258, 259, 260, 261, 262, 263, 264}
	edits := []*acl.Filter{
		filter(t, policyOf(allow("*", "svc:self:80")), hubIndex, indexes...),
		filter(t, policyOf(allow("m257", "svc:self:81")), hubIndex, indexes...),
		filter(t, `{}`, hubIndex, indexes...),
		nil,
	}
	m.hub.SetFilter(edits[0])
	received := newTap(m.hub)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, s := range m.spokes {
		wg.Go(func() {
			b := rawUDP(netip.AddrPortFrom(s.v4(), 5000), netip.AddrPortFrom(m.hub.v4(), 666), "x")
			for {
				select {
				case <-stop:
					return
				default:
				}
				s.inject(m.hub, b)
				time.Sleep(500 * time.Microsecond)
			}
		})
	}
	for i := range 1000 {
		m.hub.SetFilter(edits[i%len(edits)])
	}
	eventually(t, "denied packets arrive", func() bool { return len(received.all()) > 1000 })
	close(stop)
	wg.Wait()
	for _, s := range m.spokes {
		m.settle(s) // what is still on its way would be allowed in a moment
	}
	// Now the socket may be read: what it holds comes before this one packet.
	m.setPolicy(policyOf(allow("*", "svc:self:666")))
	last := m.spokes[0]
	last.inject(m.hub, rawUDP(netip.AddrPortFrom(last.v4(), 5000), netip.AddrPortFrom(m.hub.v4(), 666), "last"))
	eventually(t, "the last packet is read", func() bool { return leaked.Load() > 0 })
	if n := leaked.Load() - 1; n != 0 {
		t.Errorf("%d denied packets were delivered", n)
	}
}

func TestMeshF31_UnlistedPortIsResetAtOnce(t *testing.T) {
	noLeak(t)
	both(t, func(t *testing.T, addr func(*node) netip.Addr) {
		m := newMesh(t, 2, options{policy: policyOf(allow("*", "svc:self:443"))})
		for _, to := range []netip.AddrPort{
			netip.AddrPortFrom(addr(m.hub), 22), netip.AddrPortFrom(addr(m.hub), 443), // allowed, nobody listens
			netip.AddrPortFrom(addr(m.spokes[1]), 22),
		} {
			start := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			_, err := m.spokes[0].Dial(ctx, "tcp", netip.Addr{}, to)
			cancel()
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("dialling %v: %v, want connection refused", to, err)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("being refused took %v", d)
			}
		}
	})
}

func TestLocalDialIsRefusedAtOnce(t *testing.T) {
	noLeak(t)
	both(t, func(t *testing.T, addr func(*node) netip.Addr) {
		m := newMesh(t, 1, options{policy: `{}`})
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		to := netip.AddrPortFrom(addr(m.spokes[0]), 22)
		if _, err := m.hub.Dial(ctx, "tcp", netip.Addr{}, to); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialling: %v, want connection refused", err)
		}
		u := m.hub.dial(t, "udp", to)
		_ = u.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = u.Write([]byte("x"))
		if _, err := u.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("reading from a refused datagram socket: %v, want connection refused", err)
		}
		if _, err := m.hub.Ping(ctx, addr(m.spokes[0])); err == nil || ctx.Err() != nil {
			t.Errorf("pinging: %v, want a refusal at once", err)
		}
	})
}
