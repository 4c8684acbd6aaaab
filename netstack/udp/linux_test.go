//go:build linux && !android

package udp_test

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/warrenmesh/warren/netstack/udp"
	"golang.zx2c4.com/wireguard/conn"
)

// The kernel here has both offloads; if it had not, the paths that use them
// would not be tested and this says so.
func TestOffloadsProbed(t *testing.T) {
	on, off := udp.New(udp.Config{}), udp.New(udp.Config{NoOffload: true})
	open(t, on)
	open(t, off)
	if s := on.Stats(); !s.V4.GSO || !s.V4.GRO || !s.V6.GSO || !s.V6.GRO {
		t.Errorf("offloads: %+v %+v", s.V4, s.V6)
	}
	if s := off.Stats(); s.V4.GSO || s.V4.GRO || s.V6.GSO || s.V6.GRO {
		t.Errorf("offloads though told not to: %+v %+v", s.V4, s.V6)
	}
}

func bulk(n, size int) (bufs [][]byte) {
	for i := range n {
		bufs = append(bufs, dataMessage(size, uint64(i)))
	}
	return bufs
}

func expect(t *testing.T, in chan got, bufs [][]byte) {
	t.Helper()
	for i, want := range bufs {
		if g := next(t, in); !bytes.Equal(g.data, want) {
			t.Fatalf("datagram %d is not the one that was sent", i)
		}
	}
}

// A card that cannot checksum fails a super-datagram with EIO: the datagrams
// still arrive, and GSO stays off. EMSGSIZE and EINVAL are about one path, so
// it stays on. Half of the batch may have gone out before.
func TestGSOFaults(t *testing.T) {
	for _, c := range []struct {
		errno  syscall.Errno
		after  int
		stayOn bool
	}{{syscall.EIO, 0, false}, {syscall.EIO, 1, false}, {syscall.EMSGSIZE, 0, true}, {syscall.EINVAL, 1, true}} {
		from, to := udp.New(udp.Config{Listen: loopback(0)}), udp.New(udp.Config{Listen: loopback(0)})
		open(t, from)
		in := open(t, to)
		udp.FailGSO(from, c.errno, c.after)
		bufs := bulk(120, 1312)
		if err := from.Send(slices.Clone(bufs), endpointOf(t, from, to.Stats().V4.Addr)); err != nil {
			t.Fatalf("%v: %v", c.errno, err)
		}
		expect(t, in, bufs)
		if on := from.Stats().V4.GSO; on != c.stayOn {
			t.Errorf("after %v GSO is on: %v", c.errno, on)
		}
	}
}

func TestGROFault(t *testing.T) {
	from, to := udp.New(udp.Config{Listen: loopback(0)}), udp.New(udp.Config{Listen: loopback(0)})
	open(t, from)
	fns, _, err := to.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	udp.FailGRO(to, syscall.EIO)
	in := serve(t, to, fns)
	wait(t, "GRO to go off", func() bool { return !to.Stats().V4.GRO })
	bufs := bulk(100, 1312)
	if err := from.Send(bufs, endpointOf(t, from, to.Stats().V4.Addr)); err != nil {
		t.Fatal(err)
	}
	expect(t, in, bufs)
}

// The address to answer from is gone: the kernel chooses another one, rather
// than the peer being lost.
func TestSourceFault(t *testing.T) {
	b := udp.New(udp.Config{Listen: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)})
	open(t, b)
	to := udp.New(udp.Config{Listen: loopback(0)})
	in := open(t, to)
	ep := udp.WithSource(b, to.Stats().V4.Addr, netip.MustParseAddr("192.0.2.77"))
	bufs := bulk(50, 100)
	if err := b.Send(bufs, ep); err != nil {
		t.Fatal(err)
	}
	expect(t, in, bufs)
	if ep.SrcIP().IsValid() {
		t.Error("the source that failed was not cleared")
	}
}

func TestSendErrorsAreReported(t *testing.T) {
	b := udp.New(udp.Config{Listen: loopback(0)})
	open(t, b)
	if err := b.Send([][]byte{make([]byte, 1<<16)}, endpointOf(t, b, loopback(9))); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("a datagram of 64 KiB: %v", err)
	}
	if err := b.Send(bulk(1, 32), endpointOf(t, b, netip.MustParseAddrPort("[::1]:9"))); !errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Errorf("a family that is not bound: %v", err)
	}
	if b.Stats().TxErrors != 1 {
		t.Errorf("%d errors counted", b.Stats().TxErrors)
	}
}

// TestNoAllocations: a datagram costs none, out or in, with and without
// offloads, large and small.
func TestNoAllocations(t *testing.T) {
	for name, cfg := range kinds(netip.MustParseAddr("127.0.0.1")) {
		t.Run(name, func(t *testing.T) {
			from, to := udp.New(cfg), udp.New(cfg)
			if _, _, err := from.Open(0); err != nil {
				t.Fatal(err)
			}
			defer from.Close()
			fns, _, err := to.Open(0)
			if err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			ep := endpointOf(t, from, to.Stats().V4.Addr)
			out := bulk(8, 1312)
			bufs, sizes, eps := batch(to.BatchSize())
			n := testing.AllocsPerRun(200, func() {
				if err := from.Send(out, ep); err != nil {
					t.Fatal(err)
				}
				for in := 0; in < len(out); {
					n, err := fns[0](bufs, sizes, eps)
					if err != nil {
						t.Fatal(err)
					}
					in += n
				}
			})
			if n != 0 {
				t.Errorf("%v allocations for %d datagrams", n, len(out))
			}
		})
	}
}

// contender is one end of a benchmark.
type contender struct {
	name string
	make func() conn.Bind
}

func contenders() []contender {
	return []contender{
		{"ours", func() conn.Bind { return udp.New(udp.Config{Listen: loopback(0)}) }},
		{"ours/no-offload", func() conn.Bind { return udp.New(udp.Config{Listen: loopback(0), NoOffload: true}) }},
		{"ours/small", func() conn.Bind { return udp.New(udp.Config{Listen: loopback(0), Small: true}) }},
		{"stock", func() conn.Bind { return conn.NewDefaultBind() }},
	}
}

// BenchmarkSend is the cost of a datagram of 1312 bytes, sent in batches of
// 64 to a socket that nobody reads.
func BenchmarkSend(b *testing.B) {
	for _, c := range contenders() {
		b.Run(c.name, func(b *testing.B) {
			from, _, ep, _ := rig(b, c)
			bufs := make([][]byte, 64)
			for i := range bufs {
				bufs[i] = append(make([]byte, 0, 65535), dataMessage(1312, 1)...)
			}
			b.SetBytes(1312)
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += len(bufs) {
				if err := from.Send(bufs, ep); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReceive is the cost of a datagram of 1312 bytes, sent by us in
// batches of batch and received; only receiving is timed.
func BenchmarkReceive(b *testing.B) {
	for _, c := range contenders() {
		for _, run := range []int{1, 32} {
			b.Run(c.name+map[int]string{1: "/single", 32: "/run"}[run], func(b *testing.B) {
				_, receiver, ep, fn := rig(b, c)
				sender := udp.New(udp.Config{Listen: loopback(0)})
				if _, _, err := sender.Open(0); err != nil {
					b.Fatal(err)
				}
				defer sender.Close()
				to := endpointOf(b, sender, netip.MustParseAddrPort(ep.DstToString()))
				out := bulk(run, 1312)
				bufs, sizes, eps := batch(receiver.BatchSize())
				b.SetBytes(1312)
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; {
					b.StopTimer()
					queued := 0
					for range 64 / run {
						if err := sender.Send(out, to); err != nil {
							b.Fatal(err)
						}
						queued += run
					}
					b.StartTimer()
					for queued > 0 {
						got, err := fn(bufs, sizes, eps)
						if err != nil {
							b.Fatal(err)
						}
						for _, size := range sizes[:got] {
							if size > 0 {
								queued--
								n++
							}
						}
					}
				}
			})
		}
	}
}

// rig opens a sender and a receiver; fn is the receiver's IPv4 function.
func rig(b *testing.B, c contender) (from, to conn.Bind, ep conn.Endpoint, fn conn.ReceiveFunc) {
	b.Helper()
	from, to = c.make(), c.make()
	if _, _, err := from.Open(0); err != nil {
		b.Fatal(err)
	}
	fns, port, err := to.Open(0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { from.Close(); to.Close() })
	if ep, err = from.ParseEndpoint(loopback(port).String()); err != nil {
		b.Fatal(err)
	}
	return from, to, ep, fns[0]
}
