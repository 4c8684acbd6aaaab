package udp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmesh/warren/netstack/udp"
	"golang.zx2c4.com/wireguard/conn"
)

// dataMessage is a datagram that passes as data, with a number in it.
func dataMessage(size int, number uint64) []byte {
	m := make([]byte, size)
	m[0] = 4
	binary.LittleEndian.PutUint64(m[8:], number)
	for i := 16; i < size; i++ {
		m[i] = byte(number) + byte(i)
	}
	return m
}

func endpointOf(t testing.TB, b *udp.Bind, at netip.AddrPort) conn.Endpoint {
	t.Helper()
	ep, err := b.ParseEndpoint(at.String())
	if err != nil {
		t.Fatal(err)
	}
	return ep
}

func next(t testing.TB, in chan got) got {
	t.Helper()
	select {
	case g := <-in:
		return g
	case <-time.After(5 * time.Second):
		t.Fatal("nothing arrived")
		panic("unreachable")
	}
}

// kinds are the ways that datagrams can move on this system.
func kinds(at netip.Addr) map[string]udp.Config {
	listen := netip.AddrPortFrom(at, 0)
	plain := func(network string, at netip.AddrPort) (udp.PacketConn, error) {
		return net.ListenUDP(network, net.UDPAddrFromAddrPort(at))
	}
	return map[string]udp.Config{
		"large":       {Listen: listen},
		"large plain": {Listen: listen, NoOffload: true},
		"small":       {Listen: listen, Small: true},
		"small plain": {Listen: listen, Small: true, NoOffload: true},
		"one by one":  {Listen: listen, ListenPacket: plain},
	}
}

// Every size and mixture arrives as it was sent, in order, on every path.
func TestSendAndReceive(t *testing.T) {
	for _, at := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		for name, cfg := range kinds(at) {
			t.Run(fmt.Sprintf("%v/%s", at, name), func(t *testing.T) { sendAndReceive(t, cfg) })
		}
	}
}

func sendAndReceive(t *testing.T, cfg udp.Config) {
	from, to := udp.New(cfg), udp.New(cfg)
	open(t, from)
	in := open(t, to)
	at := to.Stats().V4.Addr
	if !at.IsValid() {
		at = to.Stats().V6.Addr
	}
	ep := endpointOf(t, from, at)
	number := uint64(0)
	var exchange func(sizes ...int)
	exchange = func(sizes ...int) {
		t.Helper()
		if cfg.ListenPacket != nil && len(sizes) > 32 { // its buffer is the system's, small
			exchange(sizes[:32]...)
			exchange(sizes[32:]...)
			return
		}
		var bufs [][]byte
		first := number
		for _, size := range sizes {
			bufs = append(bufs, dataMessage(size, number))
			number++
		}
		if err := from.Send(bufs, ep); err != nil {
			t.Fatal(err)
		}
		for i, want := range bufs {
			g := next(t, in)
			if !bytes.Equal(g.data, want) {
				t.Fatalf("datagram %d of %v: %d bytes, number %d; want %d bytes, number %d", i, sizes,
					len(g.data), binary.LittleEndian.Uint64(g.data[8:]), len(want), first+uint64(i))
			}
			if port := g.ep.(*udp.Endpoint).AddrPort().Port(); port != from.Stats().V4.Addr.Port() && port != from.Stats().V6.Addr.Port() {
				t.Fatalf("it came from port %d", port)
			}
		}
	}
	repeat := func(n, size int) (s []int) {
		for range n {
			s = append(s, size)
		}
		return s
	}
	exchange(32)
	exchange(1312)
	exchange(repeat(128, 1312)...)
	exchange(append(repeat(49, 1312), 100)...)
	exchange(append(append(repeat(20, 1312), 100), repeat(20, 1312)...)...)
	exchange(100, 1312, 100, 1312, 32, 33, 34, 33, 32)
	exchange(repeat(128, 32)...)
	exchange(repeat(300, 64)...) // more than any batch
	exchange(65000, 65000, 1400)
	exchange(repeat(8, 9000)...)
	st := to.Stats()
	if st.RxDatagrams != number || from.Stats().TxDatagrams != number {
		t.Errorf("counted %d out, %d in; want %d", from.Stats().TxDatagrams, st.RxDatagrams, number)
	}
}

func TestOpenCloseReopen(t *testing.T) {
	for name, cfg := range kinds(netip.Addr{}) {
		if cfg.ListenPacket != nil {
			cfg.Listen = loopback(0)
		}
		t.Run(name, func(t *testing.T) {
			b := udp.New(cfg)
			if err := b.Close(); err != nil {
				t.Fatalf("closing what was never open: %v", err)
			}
			if err := b.Rebind(); !errors.Is(err, net.ErrClosed) {
				t.Fatalf("rebinding what is closed: %v", err)
			}
			port := uint16(0)
			for range 20 {
				fns, p, err := b.Open(port)
				if err != nil {
					t.Fatal(err)
				}
				if p == 0 || port != 0 && p != port {
					t.Fatalf("asked for port %d, got %d", port, p)
				}
				port = p
				if _, _, err := b.Open(0); !errors.Is(err, conn.ErrBindAlreadyOpen) {
					t.Fatalf("opening twice: %v", err)
				}
				var wg sync.WaitGroup
				errs := make(chan error, len(fns))
				for _, fn := range fns {
					wg.Go(func() {
						_, err := fn(batch(b.BatchSize()))
						errs <- err
					})
				}
				if err := b.Rebind(); err != nil {
					t.Fatal(err)
				}
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
				wg.Wait()
				for range fns {
					if err := <-errs; err != net.ErrClosed {
						t.Fatalf("the receiver returned %v", err)
					}
				}
				if err := b.Send([][]byte{{4}}, endpointOf(t, b, loopback(9))); !errors.Is(err, net.ErrClosed) {
					t.Fatalf("sending when closed: %v", err)
				}
			}
		})
	}
}

// Both families get the same port, also when any will do.
func TestSamePort(t *testing.T) {
	b := udp.New(udp.Config{})
	open(t, b)
	if s := b.Stats(); s.V4.Addr.Port() == 0 || s.V4.Addr.Port() != s.V6.Addr.Port() {
		t.Errorf("bound %v and %v", s.V4.Addr, s.V6.Addr)
	}
}

func TestOnlyTheNamedAddress(t *testing.T) {
	for _, c := range []struct {
		listen string
		v4, v6 string
	}{
		{"127.0.0.1:0", "127.0.0.1", ""},
		{"127.0.0.5:0", "127.0.0.5", ""},
		{"[::1]:0", "", "::1"},
		{"0.0.0.0:0", "0.0.0.0", ""},
		{"[::]:0", "0.0.0.0", "::"},
		{"[::ffff:127.0.0.1]:0", "127.0.0.1", ""},
	} {
		b := udp.New(udp.Config{Listen: netip.MustParseAddrPort(c.listen)})
		open(t, b)
		show := func(a netip.AddrPort) string {
			if !a.IsValid() {
				return ""
			}
			return a.Addr().String()
		}
		if s := b.Stats(); show(s.V4.Addr) != c.v4 || show(s.V6.Addr) != c.v6 {
			t.Errorf("%s bound %v and %v", c.listen, s.V4.Addr, s.V6.Addr)
		}
	}
	taken := udp.New(udp.Config{Listen: loopback(0)})
	open(t, taken)
	if _, _, err := udp.New(udp.Config{Listen: taken.Stats().V4.Addr}).Open(0); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("binding a port that is taken: %v", err)
	}
	if _, _, err := udp.New(udp.Config{Listen: netip.MustParseAddrPort("192.0.2.1:0")}).Open(0); err == nil {
		t.Error("binding an address that is not ours: no error")
	}
}

func TestParseEndpoint(t *testing.T) {
	b := udp.New(udp.Config{})
	for _, s := range []string{"192.0.2.1:1", "[2001:db8::1]:65535"} {
		ep, err := b.ParseEndpoint(s)
		if err != nil || ep.DstToString() != s || ep.SrcToString() != "" || ep.SrcIP().IsValid() {
			t.Errorf("%s: %v, %v", s, ep, err)
		}
	}
	if ep, err := b.ParseEndpoint("[::ffff:192.0.2.1]:7"); err != nil || ep.DstToString() != "192.0.2.1:7" || len(ep.DstToBytes()) != 6 {
		t.Errorf("mapped: %v, %v", ep, err)
	}
	for _, s := range []string{"", "192.0.2.1", "192.0.2.1:0", "0.0.0.0:1", "[::]:1", "224.0.0.1:1", "[ff02::1]:1", "hub:51820", "192.0.2.1:65536", "192.0.2.1:1\n"} {
		if ep, err := b.ParseEndpoint(s); err == nil {
			t.Errorf("%q became %v", s, ep.DstToString())
		}
	}
	if err := b.Send(nil, otherEndpoint{}); !errors.Is(err, conn.ErrWrongEndpointType) {
		t.Errorf("another Bind's endpoint: %v", err)
	}
}

type otherEndpoint struct{ conn.Endpoint }

// A reply leaves from the address that was spoken to. Without that, a host
// with several addresses answers from another one and no NAT lets it through.
func TestStickySource(t *testing.T) {
	b := udp.New(udp.Config{Listen: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)})
	in := open(t, b)
	port := b.Stats().V4.Addr.Port()
	client, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback(0)))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ask := func(to string) conn.Endpoint {
		t.Helper()
		at := netip.AddrPortFrom(netip.MustParseAddr(to), port)
		if _, err := client.WriteToUDPAddrPort(dataMessage(32, 1), at); err != nil {
			t.Fatal(err)
		}
		return next(t, in).ep
	}
	reply := func(ep conn.Endpoint) string {
		t.Helper()
		if err := b.Send([][]byte{dataMessage(32, 2), dataMessage(32, 3)}, ep); err != nil {
			t.Fatal(err)
		}
		_, from, err := client.ReadFromUDPAddrPort(make([]byte, 100))
		if err != nil {
			t.Fatal(err)
		}
		_, _, _ = client.ReadFromUDPAddrPort(make([]byte, 100))
		return from.Addr().String()
	}
	ep := ask("127.0.0.7")
	if ep.SrcToString() != "127.0.0.7" || reply(ep) != "127.0.0.7" {
		t.Errorf("spoken to at 127.0.0.7, answering from %q", ep.SrcToString())
	}
	other := ask("127.0.0.8")
	if reply(other) != "127.0.0.8" || reply(ep) != "127.0.0.7" {
		t.Error("two addresses got mixed up")
	}
	if again := ask("127.0.0.7"); again != ep {
		t.Error("the same path got a second endpoint")
	}
	ep.ClearSrc()
	if ep.SrcIP().IsValid() || reply(ep) != "127.0.0.1" {
		t.Error("a cleared source is still used")
	}
	if fresh := ask("127.0.0.7"); fresh == ep || reply(fresh) != "127.0.0.7" {
		t.Error("a source that was cleared is never learned again")
	}
	// After a change of network, what was learned before means nothing.
	if err := b.Rebind(); err != nil {
		t.Fatal(err)
	}
	if reply(other) != "127.0.0.1" {
		t.Error("a source from before the change of network is still used")
	}
	if reply(ask("127.0.0.8")) != "127.0.0.8" {
		t.Error("no source is learned after the change of network")
	}
}

func TestRebindUnderTraffic(t *testing.T) {
	a, b := pair(t, udp.Config{Listen: loopback(0)}, udp.Config{Listen: loopback(0), Small: true})
	mustPing(t, a, b)
	port := a.bind.Stats().V4.Addr.Port()
	for range 10 {
		if err := a.bind.Rebind(); err != nil {
			t.Fatal(err)
		}
		if err := b.bind.Rebind(); err != nil {
			t.Fatal(err)
		}
		mustPing(t, a, b)
		mustPing(t, b, a)
	}
	if got := a.bind.Stats().V4.Addr.Port(); got != port {
		t.Errorf("the port changed from %d to %d", port, got)
	}
}

func TestSetMark(t *testing.T) {
	b := udp.New(udp.Config{Listen: loopback(0)})
	open(t, b)
	err := b.SetMark(51820)
	if os.Geteuid() != 0 {
		if !errors.Is(err, syscall.EPERM) {
			t.Errorf("marking without privileges: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Rebind(); err != nil {
		t.Fatalf("the mark does not survive a change of network: %v", err)
	}
}

func TestBufferSizes(t *testing.T) {
	large, small := udp.New(udp.Config{Listen: loopback(0)}), udp.New(udp.Config{Listen: loopback(0), Small: true})
	open(t, large)
	open(t, small)
	l, s := large.Stats().V4, small.Stats().V4
	t.Logf("large: %+v, small: %+v", l, s)
	if s.ReadBuffer == 0 || s.WriteBuffer == 0 || l.ReadBuffer < s.ReadBuffer || s.ReadBuffer > 256<<10 {
		t.Error("the buffers are not sized")
	}
	if large.BatchSize() < small.BatchSize() {
		t.Error("the batches are not sized")
	}
}
