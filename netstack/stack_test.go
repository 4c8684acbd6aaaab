package netstack

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/warrenmesh/warren/netstack/udp"
)

func udpNew(c udp.Config) *udp.Bind { return udp.New(c) }

// both runs a test over IPv4 and over IPv6.
func both(t *testing.T, run func(t *testing.T, addr func(*node) netip.Addr)) {
	t.Run("v4", func(t *testing.T) { run(t, (*node).v4) })
	t.Run("v6", func(t *testing.T) { run(t, (*node).v6) })
}

func TestTCP(t *testing.T) {
	noLeak(t)
	both(t, func(t *testing.T, addr func(*node) netip.Addr) {
		m := newMesh(t, 2, options{})
		m.hub.serveEcho(t, netip.AddrPortFrom(addr(m.hub), 80))
		m.spokes[1].serveEcho(t, netip.AddrPortFrom(addr(m.spokes[1]), 80))
		echo(t, m.spokes[0].dial(t, "tcp", netip.AddrPortFrom(addr(m.hub), 80)), "spoke to hub")
		echo(t, m.hub.dial(t, "tcp", netip.AddrPortFrom(addr(m.spokes[1]), 80)), "hub to spoke")
		echo(t, m.spokes[0].dial(t, "tcp", netip.AddrPortFrom(addr(m.spokes[1]), 80)), "spoke to spoke")
	})
}

func TestTCPBulkIsIntact(t *testing.T) {
	noLeak(t)
	both(t, func(t *testing.T, addr func(*node) netip.Addr) {
		m := newMesh(t, 2, options{loopback: true})
		l := m.spokes[1].listen(t, netip.AddrPortFrom(addr(m.spokes[1]), 80))
		const size = 8 << 20
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = c.Write(pattern(size))
		}()
		c := m.spokes[0].dial(t, "tcp", netip.AddrPortFrom(addr(m.spokes[1]), 80))
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(pattern(size)) {
			t.Fatalf("%d bytes arrived, and not those that were sent", len(got))
		}
	})
}

func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func TestUDP(t *testing.T) {
	noLeak(t)
	both(t, func(t *testing.T, addr func(*node) netip.Addr) {
		m := newMesh(t, 2, options{})
		for _, server := range []*node{m.hub, m.spokes[1]} {
			pc, err := server.ListenPacket(netip.AddrPortFrom(addr(server), 53))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = pc.Close() })
			go func() {
				b := make([]byte, 2000)
				for {
					n, from, err := pc.ReadFrom(b)
					if err != nil {
						return
					}
					_, _ = pc.WriteTo(b[:n], from)
				}
			}()
		}
		echo(t, m.spokes[0].dial(t, "udp", netip.AddrPortFrom(addr(m.hub), 53)), "spoke to hub")
		echo(t, m.spokes[0].dial(t, "udp", netip.AddrPortFrom(addr(m.spokes[1]), 53)), "spoke to spoke")
		// Mesh D21: what the hub itself sends gets its answer.
		echo(t, m.hub.dial(t, "udp", netip.AddrPortFrom(addr(m.spokes[1]), 53)), "hub to spoke")
	})
}

func TestPing(t *testing.T) {
	noLeak(t)
	both(t, func(t *testing.T, addr func(*node) netip.Addr) {
		m := newMesh(t, 2, options{})
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		for _, to := range []*node{m.hub, m.spokes[1]} {
			d, err := m.spokes[0].Ping(ctx, addr(to))
			if err != nil || d <= 0 {
				t.Fatalf("pinging m%d: %v, %v", to.index, d, err)
			}
		}
	})
}

// TestSmall moves data between two nodes of the small class.
func TestSmall(t *testing.T) {
	noLeak(t)
	for _, loopback := range []bool{false, true} {
		m := newMesh(t, 2, options{small: true, loopback: loopback})
		at := netip.AddrPortFrom(m.spokes[1].v4(), 80)
		m.spokes[1].serveEcho(t, at)
		c := m.spokes[0].dial(t, "tcp", at)
		for range 20 {
			echo(t, c, string(pattern(50_000)))
		}
	}
}

func TestDialOwnAddress(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 1, options{})
	at := netip.AddrPortFrom(m.hub.v4(), 80)
	m.hub.serveEcho(t, at)
	c := m.hub.dial(t, "tcp", at)
	echo(t, c, "to myself")
	m.setPolicy(`{}`)
	echo(t, c, "still")
}

func benchmarkTCP(b *testing.B, from, to int, streams int) {
	m := newMesh(b, 2, options{loopback: true})
	all := []*node{m.hub, m.spokes[0], m.spokes[1]}
	src, dst := all[from], all[to]
	at := netip.AddrPortFrom(dst.v4(), 80)
	l := dst.listen(b, at)
	done := make(chan struct{}, streams)
	per := b.N/streams + 1
	const chunk = 64 << 10
	for range streams {
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = io.CopyN(io.Discard, struct{ io.Reader }{c}, int64(per*chunk))
			done <- struct{}{}
		}()
	}
	conns := make([]net.Conn, streams)
	for i := range conns {
		conns[i] = src.dial(b, "tcp", at)
	}
	b.SetBytes(chunk)
	b.ResetTimer()
	for _, c := range conns {
		go func() {
			buf := make([]byte, chunk)
			for range per {
				if _, err := c.Write(buf); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	for range streams {
		<-done
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)*chunk*8/b.Elapsed().Seconds()/1e9, "Gbit/s")
}

func BenchmarkSpokeToHub(b *testing.B)   { benchmarkTCP(b, 1, 0, 1) }
func BenchmarkHubToSpoke(b *testing.B)   { benchmarkTCP(b, 0, 1, 1) }
func BenchmarkSpokeToHub16(b *testing.B) { benchmarkTCP(b, 1, 0, 16) }
func BenchmarkHubToSpoke16(b *testing.B) { benchmarkTCP(b, 0, 1, 16) }
func BenchmarkSpokeToSpoke(b *testing.B) { benchmarkTCP(b, 1, 2, 1) }
