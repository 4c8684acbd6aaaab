package netstack

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/peer"
)

// TestOpenClose1000 opens and closes a node a thousand times, alone and with
// peers, and leaves nothing behind.
func TestOpenClose1000(t *testing.T) {
	noLeak(t)
	key, err := peer.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := peer.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		s, err := Open(Config{
			Key: key, V4: net4, V6: net6, Addresses: []netip.Addr{addr4(1), addr6(1)}, Small: true,
			Gate: acl.NewGate(acl.GateConfig{Small: true}), Listen: netip.MustParseAddrPort("127.0.0.1:0"),
		})
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			err := s.SetPeers(context.Background(), []PeerConfig{{
				Key: other.Public(), Addresses: []netip.Addr{addr4(2)}, Endpoint: netip.MustParseAddrPort("127.0.0.1:9"),
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMeshG40_CloseUnderneath closes nodes under blocked dials, accepts, reads
// and writes, from several goroutines.
func TestMeshG40_CloseUnderneath(t *testing.T) {
	noLeak(t)
	rounds := 30
	for range rounds {
		m := newMesh(t, 1, options{small: true})
		at := netip.AddrPortFrom(m.hub.v4(), 80)
		m.hub.stream(t, at)
		quiet := m.hub.listen(t, netip.AddrPortFrom(m.hub.v4(), 81))
		pc, err := m.hub.ListenPacket(netip.AddrPortFrom(m.hub.v4(), 53))
		if err != nil {
			t.Fatal(err)
		}
		c := m.spokes[0].dial(t, "tcp", at)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = quiet.Accept() })
		wg.Go(func() { _, _, _ = pc.ReadFrom(make([]byte, 10)) })
		wg.Go(func() {
			for b := make([]byte, 1000); ; {
				if _, err := c.Read(b); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			_, _ = m.hub.Dial(context.Background(), "tcp", netip.Addr{}, netip.AddrPortFrom(m.spokes[0].v4(), 9))
		})
		wg.Go(func() { _, _ = m.hub.Ping(context.Background(), m.spokes[0].v4()) })
		for range 3 {
			wg.Go(func() { _ = m.hub.Close() })
		}
		wg.Go(func() { m.hub.SetFilter(nil) })
		wg.Go(func() { _ = m.hub.SetPeers(context.Background(), nil) })
		_ = m.hub.Close()
		_ = m.spokes[0].Close()
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatalf("something is still blocked after Close:\n%s", ours())
		}
	}
}

// TestCloseTellsTheOtherSide: a program that ends at once after its work leaves
// no connection behind at the hub, whether it closed it or not.
func TestCloseTellsTheOtherSide(t *testing.T) {
	noLeak(t)
	for round := range 20 {
		m := newMesh(t, 1, options{small: true})
		at := netip.AddrPortFrom(m.hub.v4(), 80)
		l := m.hub.listen(t, at)
		dialled := m.spokes[0].dial(t, "tcp", at)
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if round%2 == 0 {
			_ = dialled.Close()
		}
		_ = m.spokes[0].Close()
		_ = accepted.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := accepted.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("round %d: the hub still holds the connection", round)
		}
		_ = accepted.Close()
		_ = m.hub.Close()
	}
}

func TestAfterClose(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 1, options{})
	s := m.hub
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ctx := context.Background()
	at := netip.AddrPortFrom(s.v4(), 80)
	_, listen := s.Listen(at)
	_, packet := s.ListenPacket(at)
	_, dial := s.Dial(ctx, "tcp", netip.Addr{}, netip.AddrPortFrom(m.spokes[0].v4(), 80))
	_, ping := s.Ping(ctx, m.spokes[0].v4())
	for name, err := range map[string]error{
		"Listen": listen, "ListenPacket": packet, "Dial": dial, "Ping": ping, "SetPeers": s.SetPeers(ctx, nil),
		"SetAddresses": s.SetAddresses(nil), "Rebind": s.Rebind(),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	s.SetFilter(nil)
	_ = s.Peers()
	_ = s.Stats()
}

func TestOpenRefusesNonsense(t *testing.T) {
	noLeak(t)
	key, err := peer.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	gate := acl.NewGate(acl.GateConfig{})
	good := Config{Key: key, V4: net4, V6: net6, Addresses: []netip.Addr{addr4(1)}, Gate: gate, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Logger: slog.New(slog.DiscardHandler)}
	for name, change := range map[string]func(*Config){
		"no key": func(c *Config) { c.Key = peer.PrivateKey{} }, "no gate": func(c *Config) { c.Gate = nil },
		"a tiny MTU": func(c *Config) { c.MTU = 576 }, "a huge MTU": func(c *Config) { c.MTU = 9000 },
		"a foreign address": func(c *Config) { c.Addresses = []netip.Addr{netip.MustParseAddr("192.168.1.1")} },
		"an address twice":  func(c *Config) { c.Addresses = []netip.Addr{addr4(1), addr4(1)} },
		"a foreign host":    func(c *Config) { c.Listen = netip.MustParseAddrPort("192.0.2.1:0") },
	} {
		c := good
		change(&c)
		if s, err := Open(c); err == nil {
			_ = s.Close()
			t.Errorf("%s was accepted", name)
		}
	}
	s, err := Open(good)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

// TestNoFilterNoPacket is the zero value: a gate that has no policy.
func TestNoFilterNoPacket(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 1, options{})
	m.hub.serveEcho(t, netip.AddrPortFrom(m.hub.v4(), 80))
	m.hub.SetFilter(nil)
	received := newTap(m.spokes[0])
	from := netip.AddrPortFrom(m.spokes[0].v4(), 5000)
	m.spokes[0].inject(m.hub, rawUDP(from, netip.AddrPortFrom(m.hub.v4(), 80), "x"))
	m.spokes[0].inject(m.hub, rawPing(m.spokes[0].v4(), m.hub.v4(), 7))
	eventually(t, "they are refused", func() bool { return m.hub.Stats().RefusedIn == 2 })
	if n := received.count(func(_ []byte, p *acl.Packet) bool { return p.Proto() == acl.ProtoTCP }); n != 0 {
		t.Errorf("%d TCP packets came back", n)
	}
}

func TestSetAddresses(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 1, options{})
	old := netip.AddrPortFrom(m.hub.v4(), 80)
	m.hub.serveEcho(t, old)
	c := m.spokes[0].dial(t, "tcp", old)
	echo(t, c, "hello")
	if err := m.hub.SetAddresses([]netip.Addr{m.spokes[0].v4()}); err == nil {
		t.Error("a peer's address was accepted")
	}
	echo(t, c, "nothing has changed")
	if err := m.hub.SetAddresses([]netip.Addr{addr4(11), addr6(11), m.hub.v6()}); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection to an address that is gone is still open")
	}
	if _, err := m.hub.Listen(netip.AddrPortFrom(m.hub.v4(), 81)); err == nil {
		t.Error("listening on an address that is gone")
	}
	m.hub.listen(t, netip.AddrPortFrom(addr4(11), 81))
	m.hub.serveEcho(t, netip.AddrPortFrom(m.hub.v6(), 81))
	echo(t, m.spokes[0].dial(t, "tcp", netip.AddrPortFrom(m.hub.v6(), 81)), "the address that stayed")
}

// TestD05_VanishedMachinesAreNoticed: both ends of a connection are set to give
// up on a machine that is gone within about 4 minutes.
func TestD05_VanishedMachinesAreNoticed(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 1, options{})
	l := m.hub.listen(t, netip.AddrPortFrom(m.hub.v4(), 80))
	dialled := m.spokes[0].dial(t, "tcp", netip.AddrPortFrom(m.hub.v4(), 80))
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	for name, c := range map[string]net.Conn{"dialled": dialled, "accepted": accepted} {
		ep := c.(*tcpConn).ep
		var idle tcpip.KeepaliveIdleOption
		var interval tcpip.KeepaliveIntervalOption
		if err := ep.GetSockOpt(&idle); err != nil {
			t.Fatal(err)
		}
		if err := ep.GetSockOpt(&interval); err != nil {
			t.Fatal(err)
		}
		count, terr := ep.GetSockOptInt(tcpip.KeepaliveCountOption)
		if terr != nil {
			t.Fatal(terr)
		}
		gives := time.Duration(idle) + time.Duration(count)*time.Duration(interval)
		if !ep.SocketOptions().GetKeepAlive() || gives > 5*time.Minute {
			t.Errorf("%s: keep-alive is %v and gives up after %v", name, ep.SocketOptions().GetKeepAlive(), gives)
		}
	}
}
