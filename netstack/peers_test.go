package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/warrenmesh/warren/acl"
)

// TestA09_RemovalUnderFlood removes a peer that floods. The others must not
// notice, and the call must return.
func TestA09_RemovalUnderFlood(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 3, options{loopback: true})
	flooder, victim := m.spokes[0], m.spokes[1]
	m.hub.serveEcho(t, netip.AddrPortFrom(m.hub.v4(), 80))
	pc, err := m.hub.ListenPacket(netip.AddrPortFrom(m.hub.v4(), 53)) // nobody reads
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, dst := range []netip.Addr{m.hub.v4(), victim.v4()} {
		wg.Go(func() {
			b := rawUDP(netip.AddrPortFrom(flooder.v4(), 5000), netip.AddrPortFrom(dst, 53), strings.Repeat("x", 1100))
			for {
				select {
				case <-stop:
					return
				default:
					flooder.inject(m.hub, b)
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	received := newTap(m.hub)
	eventually(t, "the flood arrives", func() bool { return len(received.all()) > 2000 })
	m.hub.path.probe.Store(nil)
	start := time.Now()
	if err := m.hub.SetPeers(context.Background(), []PeerConfig{m.peerOf(victim), m.peerOf(m.spokes[2])}); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	t.Logf("removed in %v", took)
	if took > 5*time.Second {
		t.Errorf("removing a flooding peer took %v", took)
	}
	// A handshake that has not happened yet still does.
	echo(t, m.spokes[2].dial(t, "tcp", netip.AddrPortFrom(m.hub.v4(), 80)), "still here")
}

// TestWriteNeverBlocks fills everything behind Write and writes on.
func TestWriteNeverBlocks(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 2, options{})
	to := m.hub.path.table.Load().byKey[m.spokes[1].key.Public()]
	if err := m.spokes[1].Close(); err != nil {
		t.Fatal(err)
	}
	b := rawUDP(netip.AddrPortFrom(m.spokes[0].v4(), 5000), netip.AddrPortFrom(m.spokes[1].v4(), 53), strings.Repeat("x", 1100))
	vector := make([][]byte, 128)
	for i := range vector {
		vector[i] = b
	}
	start := time.Now()
	for range 200 {
		if n, err := m.hub.path.Write(vector, 0); n != len(vector) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("25600 packets to a peer that is gone took %v", d)
	}
	m.hub.queue.mu.Lock()
	defer m.hub.queue.mu.Unlock()
	if limit := m.hub.queue.limits.packets; to.packets > limit+limit/4 {
		t.Errorf("%d packets wait for a peer that is gone; the limit is %d", to.packets, limit)
	}
}

// TestA10_AddressReuse gives the address of a removed peer to another machine,
// which then speaks the old connection's ports.
func TestA10_AddressReuse(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 2, options{})
	old, heir := m.spokes[0], m.spokes[1]
	at := netip.AddrPortFrom(m.hub.v4(), 80)
	l := m.hub.listen(t, at)
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	c := old.dial(t, "tcp", at)
	server := <-accepted
	_, _ = io.WriteString(server, "for the old owner")
	if _, err := io.ReadFull(c, make([]byte, 17)); err != nil {
		t.Fatal(err)
	}
	from := c.LocalAddr().(*net.TCPAddr).AddrPort()
	outgoing := m.hub.dial(t, "udp", netip.AddrPortFrom(old.v4(), 9))
	_, _ = outgoing.Write([]byte("x"))

	if err := m.hub.SetPeers(context.Background(), []PeerConfig{m.peerOf(heir)}); err != nil {
		t.Fatal(err)
	}
	if server.(*tcpConn).ended.Load() == nil {
		t.Error("the old connection was not ended when SetPeers returned")
	}
	if _, err := server.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the old connection reads %v, want a reset", err)
	}
	// The heir takes the address over.
	moved := m.peerOf(heir)
	moved.Addresses = []netip.Addr{old.v4(), old.v6()}
	if err := m.hub.SetPeers(context.Background(), []PeerConfig{moved}); err != nil {
		t.Fatal(err)
	}
	received := newTap(heir)
	for _, flags := range []header.TCPFlags{header.TCPFlagAck, header.TCPFlagAck | header.TCPFlagPsh} {
		heir.inject(m.hub, rawTCP(from, at, flags, 1, 1, ""))
	}
	eventually(t, "the heir is answered", func() bool { return len(received.all()) > 0 })
	m.settle(heir)
	for _, b := range received.all() {
		var p acl.Packet
		if p.Parse(b) == 0 && (p.Flags()&acl.FlagRST == 0 || len(b) > p.PayloadOffset()) {
			t.Errorf("the heir was sent a part of the old connection: flags %#x, %d bytes", p.Flags(), len(b)-p.PayloadOffset())
		}
	}
}

// TestW11_SpoofedSources has a peer speak as everybody but itself.
func TestW11_SpoofedSources(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 2, options{})
	a, b := m.spokes[0], m.spokes[1]
	echoAt := netip.AddrPortFrom(m.hub.v4(), 80)
	m.hub.serveEcho(t, echoAt)
	echo(t, a.dial(t, "tcp", echoAt), "hello")
	received, atB := newTap(m.hub), newTap(b)
	sources := []netip.Addr{
		b.v4(), b.v6(), m.hub.v4(), m.hub.v6(), addr4(999), addr6(999),
		netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("255.255.255.255"),
		netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("::1"), netip.MustParseAddr("ff02::1"),
		netip.MustParseAddr("::ffff:10.77.1.1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("169.254.169.254"),
	}
	for _, src := range sources {
		dst := m.hub.v4()
		if src.Is6() {
			dst = m.hub.v6()
		}
		a.inject(m.hub, rawUDP(netip.AddrPortFrom(src, 5000), netip.AddrPortFrom(dst, 53), "spoofed"))
		a.inject(m.hub, rawTCP(netip.AddrPortFrom(src, 5000), netip.AddrPortFrom(dst, 80), header.TCPFlagSyn, 1, 0, ""))
	}
	status := func(n *node) PeerStatus {
		for _, p := range m.hub.Peers() {
			if p.Key == n.key.Public() {
				return p
			}
		}
		t.Fatal("no such peer")
		return PeerStatus{}
	}
	eventually(t, "each spoofed packet is counted", func() bool {
		return status(a).Spoofed == uint64(2*len(sources))
	})
	if n := status(b).Spoofed; n != 0 {
		t.Errorf("%d packets are blamed on the peer whose address was used", n)
	}
	isSpoof := func(_ []byte, p *acl.Packet) bool { return p.SrcPort() == 5000 }
	if n := received.count(isSpoof); n != 0 {
		t.Errorf("%d spoofed packets reached the filter", n)
	}
	if n := len(atB.all()); n != 0 {
		t.Errorf("the peer whose address was used was sent %d packets", n)
	}
}

// TestMeshC13_NowhereElse sends from a peer to places that are not on the mesh.
func TestMeshC13_NowhereElse(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 2, options{policy: policyOf(allow("*", "svc:self:80"))})
	a, b := m.spokes[0], m.spokes[1]
	everywhere := m.hubFor(a)
	everywhere.Routes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	if err := a.SetPeers(context.Background(), []PeerConfig{everywhere}); err != nil {
		t.Fatal(err)
	}
	atB := newTap(b)
	before := m.hub.Stats()
	n := 0
	for _, dst := range []string{
		b.v4().String(), b.v6().String(), "10.77.255.255", "10.77.0.0", "255.255.255.255", "169.254.169.254", "127.0.0.1", "0.0.0.0",
		"192.168.1.1", "8.8.8.8", "::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "::", "2001:db8::1", addr4(300).String(), addr6(300).String(),
	} {
		d := netip.MustParseAddr(dst)
		src := a.v4()
		if d.Is6() {
			src = a.v6()
		}
		a.inject(m.hub, rawTCP(netip.AddrPortFrom(src, 5000), netip.AddrPortFrom(d, 80), header.TCPFlagSyn, 1, 0, ""))
		a.inject(m.hub, rawUDP(netip.AddrPortFrom(src, 5000), netip.AddrPortFrom(d, 80), "x"))
		a.inject(m.hub, rawPing(src, d, 1))
		n += 3
	}
	eventually(t, "each is refused", func() bool { return m.hub.Stats().RefusedIn-before.RefusedIn == uint64(n) })
	if got := len(atB.all()); got != 0 {
		t.Errorf("%d packets were passed on", got)
	}
}

// TestMeshC15_AmbiguousPeers offers lists in which an address or key would not
// say who is speaking.
func TestMeshC15_AmbiguousPeers(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 2, options{})
	m.hub.serveEcho(t, netip.AddrPortFrom(m.hub.v4(), 80))
	c := m.spokes[0].dial(t, "tcp", netip.AddrPortFrom(m.hub.v4(), 80))
	echo(t, c, "hello")
	a, b := m.peerOf(m.spokes[0]), m.peerOf(m.spokes[1])
	shared, own, self, mapped := b, b, b, b
	shared.Addresses = a.Addresses
	own.Addresses = []netip.Addr{m.hub.v4()}
	self.Key = m.hub.key.Public()
	mapped.Addresses = []netip.Addr{netip.MustParseAddr("::ffff:10.77.1.2")}
	for name, list := range map[string][]PeerConfig{
		"the same key twice": {a, a}, "a shared address": {a, shared}, "the hub's address": {a, own},
		"the hub's key": {a, self}, "no key": {{}}, "a mapped address": {a, mapped},
	} {
		if err := m.hub.SetPeers(context.Background(), list); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	echo(t, c, "nothing has changed")
}

// TestUnchangedPeersKeepTheirSession adds and removes others.
func TestUnchangedPeersKeepTheirSession(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 2, options{})
	at := netip.AddrPortFrom(m.hub.v4(), 80)
	m.hub.serveEcho(t, at)
	c := m.spokes[0].dial(t, "tcp", at)
	echo(t, c, "hello")
	shook := m.hub.Peers()
	for range 5 {
		for _, list := range [][]PeerConfig{{m.peerOf(m.spokes[0])}, {m.peerOf(m.spokes[0]), m.peerOf(m.spokes[1])}} {
			if err := m.hub.SetPeers(context.Background(), list); err != nil {
				t.Fatal(err)
			}
			echo(t, c, "still here")
		}
	}
	for _, p := range m.hub.Peers() {
		for _, q := range shook {
			if p.Key == q.Key && p.Key == m.spokes[0].key.Public() && !p.LastHandshake.Equal(q.LastHandshake) {
				t.Error("there was another handshake")
			}
		}
	}
}

// TestR07_PanicDropsThePacket makes the path panic for one in three packets.
func TestR07_PanicDropsThePacket(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 1, options{})
	pc, err := m.hub.ListenPacket(netip.AddrPortFrom(m.hub.v4(), 53))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	bad := func(b []byte) {
		if len(b) > 28 && b[28] == 'P' {
			panic("a bug")
		}
	}
	m.hub.path.probe.Store(&bad)
	var good atomic.Int64
	go func() {
		b := make([]byte, 100)
		for {
			_, _, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if b[0] == 'P' {
				t.Error("a packet that made the path panic was delivered")
			}
			good.Add(1)
		}
	}()
	from, to := netip.AddrPortFrom(m.spokes[0].v4(), 5000), netip.AddrPortFrom(m.hub.v4(), 53)
	for range 100 {
		m.spokes[0].inject(m.hub, rawUDP(from, to, "ok"))
		m.spokes[0].inject(m.hub, rawUDP(from, to, "P"))
		m.spokes[0].inject(m.hub, rawUDP(from, to, "ok"))
	}
	eventually(t, "all others are delivered", func() bool { return good.Load() == 200 })
	if n := m.hub.Stats().Panics; n != 100 {
		t.Errorf("%d panics were counted, want 100", n)
	}
}

// TestR07_PanicOnTheWayOut does the same for what leaves.
func TestR07_PanicOnTheWayOut(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 1, options{})
	l := m.hub.path.table.Load().byKey[m.spokes[0].key.Public()]
	for range 10 {
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData([]byte("x"))})
		it := newLocal(pkt, DefaultMTU)
		pkt.DecRef()
		it.own, it.cut.header = true, -1 // a bug in the arithmetic of segments
		m.hub.queue.push(l, 0, it)
	}
	eventually(t, "the panics are counted", func() bool { return m.hub.Stats().Panics == 10 })
	m.hub.serveEcho(t, netip.AddrPortFrom(m.hub.v4(), 80))
	echo(t, m.spokes[0].dial(t, "tcp", netip.AddrPortFrom(m.hub.v4(), 80)), "still alive")
}

func TestRebindKeepsSessions(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 1, options{loopback: true})
	at := netip.AddrPortFrom(m.hub.v4(), 80)
	m.hub.serveEcho(t, at)
	c := m.spokes[0].dial(t, "tcp", at)
	echo(t, c, "hello")
	port := m.hub.Port()
	for _, n := range []*node{m.spokes[0], m.hub} {
		if err := n.Rebind(); err != nil {
			t.Fatal(err)
		}
		echo(t, c, "rebound")
	}
	if m.hub.Port() != port || port == 0 {
		t.Errorf("the port was %d and is %d", port, m.hub.Port())
	}
	if err := m.spokes[0].Handshake(m.hub.key.Public()); err != nil {
		t.Error(err)
	}
	if err := m.spokes[0].Handshake(m.spokes[0].key.Public()); err == nil {
		t.Error("a handshake with a stranger was begun")
	}
}
