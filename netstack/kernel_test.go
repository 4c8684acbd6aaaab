package netstack

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/warrenmesh/warren/acl"
)

// fakeTUN is an interface whose kernel is the test.
type fakeTUN struct {
	out    chan []byte // what "the kernel" sends
	in     chan []byte // what it is given
	closed chan struct{}
	once   sync.Once
}

func newFakeTUN() *fakeTUN {
	return &fakeTUN{out: make(chan []byte, 16), in: make(chan []byte, 16), closed: make(chan struct{})}
}

func (f *fakeTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case b := <-f.out:
		sizes[0] = copy(bufs[0][offset:], b)
		return 1, nil
	case <-f.closed:
		return 0, os.ErrClosed
	}
}

func (f *fakeTUN) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		if offset < 10 {
			return 0, errors.New("no room for the interface's own header")
		}
		f.in <- append([]byte(nil), b[offset:]...)
	}
	return len(bufs), nil
}

func (f *fakeTUN) File() *os.File           { return nil }
func (f *fakeTUN) MTU() (int, error)        { return DefaultMTU, nil }
func (f *fakeTUN) Name() (string, error)    { return "fake", nil }
func (f *fakeTUN) Events() <-chan tun.Event { return nil }
func (f *fakeTUN) BatchSize() int           { return 1 }
func (f *fakeTUN) Close() error             { f.once.Do(func() { close(f.closed) }); return nil }

// TestKernelMode puts a kernel in the place of a spoke's own stack. The same
// filter judges both directions.
func TestKernelMode(t *testing.T) {
	noLeak(t)
	both(t, func(t *testing.T, addr func(*node) netip.Addr) {
		m := newMesh(t, 0, options{})
		f := newFakeTUN()
		s := m.open(257, false, options{change: func(c *Config) { c.TUN = f }})
		m.spokes = append(m.spokes, s)
		ctx := context.Background()
		if err := s.SetPeers(ctx, []PeerConfig{m.hubFor(s)}); err != nil {
			t.Fatal(err)
		}
		if err := m.hub.SetPeers(ctx, []PeerConfig{m.peerOf(s)}); err != nil {
			t.Fatal(err)
		}
		m.setPolicy(allowAll)
		s.SetFilter(filter(t, policyOf(`{"action":"accept","src":["m10"],"proto":"tcp","dst":["svc:self:22"]}`, allow("svc:self", "m10:53")), 257, hubIndex))
		pc, err := m.hub.ListenPacket(netip.AddrPortFrom(addr(m.hub), 53))
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()

		// Out: allowed, and refused with an answer to the kernel.
		kernel := netip.AddrPortFrom(addr(s), 4000)
		f.out <- rawUDP(kernel, netip.AddrPortFrom(addr(m.hub), 53), "question")
		b := make([]byte, 100)
		n, from, err := pc.ReadFrom(b)
		if err != nil || string(b[:n]) != "question" {
			t.Fatalf("%q, %v", b[:n], err)
		}
		_, _ = pc.WriteTo([]byte("answer"), from)
		var p acl.Packet
		if r := p.Parse(<-f.in); r != 0 || p.DstPort() != 4000 {
			t.Fatalf("not the answer: %v", r)
		}
		f.out <- rawTCP(kernel, netip.AddrPortFrom(addr(m.hub), 99), header.TCPFlagSyn, 1, 0, "")
		if r := p.Parse(<-f.in); r != 0 || p.Flags() != acl.FlagRST|acl.FlagACK {
			t.Fatalf("the kernel's refused SYN was answered with flags %#x, %v", p.Flags(), r)
		}

		// In: refused at the filter, and passed to the kernel.
		if _, err := m.hub.Dial(ctx, "tcp", netip.Addr{}, netip.AddrPortFrom(addr(s), 23)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialling a refused port: %v", err)
		}
		go func() { _, _ = m.hub.Dial(ctx, "tcp", netip.Addr{}, netip.AddrPortFrom(addr(s), 22)) }()
		if r := p.Parse(<-f.in); r != 0 || p.DstPort() != 22 || p.Flags() != acl.FlagSYN {
			t.Fatalf("not the SYN: %v", r)
		}
		if _, err := s.Listen(netip.AddrPortFrom(addr(s), 80)); err == nil {
			t.Error("our own stack listens although the kernel has the addresses")
		}
		s.SetFilter(nil)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
