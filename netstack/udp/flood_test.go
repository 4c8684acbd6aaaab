package udp_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/netstack/udp/udptest"
)

// star is a hub with spokes, real devices on a network in memory.
type star struct {
	net    *udptest.Network
	wire   *wire
	hub    *node
	spokes []*node
}

func newStar(t *testing.T, at func(i int) netip.AddrPort, spokes int) *star {
	t.Helper()
	s := &star{net: udptest.New(t)}
	s.wire = tap(s.net)
	s.hub = newNode(t, s.net.Config(hubAt), newKey(t), "10.77.0.1")
	for i := range spokes {
		cfg := s.net.Config(at(i))
		cfg.Remote = s.hub.key.Public()
		spoke := newNode(t, cfg, newKey(t), fmt.Sprintf("10.77.1.%d", i+1))
		psk := newPSK(t)
		spoke.add(s.hub, psk, hubAt)
		s.hub.add(spoke, psk, netip.AddrPort{})
		s.spokes = append(s.spokes, spoke)
	}
	return s
}

// join has all spokes send their first packet at once and reports how long
// until the last one arrived.
func (s *star) join(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	arrived := make(chan netip.Addr, len(s.spokes))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for {
			select {
			case p := <-s.hub.tun.Inbound:
				arrived <- netip.AddrFrom4([4]byte(p[12:16]))
			case <-stop:
				return
			}
		}
	})
	for _, spoke := range s.spokes {
		go spoke.send(s.hub)
	}
	deadline := time.After(limit)
	for range s.spokes {
		select {
		case <-arrived:
		case <-deadline:
			t.Fatalf("not all spokes were there after %v", limit)
		}
	}
	return time.Since(start)
}

// TestMeshG36_TwentySpokesBehindOneNAT: a home's power comes back.
func TestMeshG36_TwentySpokesBehindOneNAT(t *testing.T) {
	nat := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), uint16(40000+i))
	}
	s := newStar(t, nat, 20)
	took := s.join(t, patience*2*time.Second)
	t.Logf("20 spokes behind one address were in after %v", took)
	if s.hub.bind.Stats().Dropped.Flood != 0 {
		t.Error("the limiter slowed a home")
	}
}

// TestW06_ReplayedInitiation: captured handshakes get no response, move no
// endpoint, and never more bytes out than in.
func TestW06_ReplayedInitiation(t *testing.T) {
	s := newStar(t, func(int) netip.AddrPort { return spokeAt }, 1)
	s.join(t, 5*time.Second)
	captured := s.wire.first(t, spokeAt, 1).Data
	s.wire.take(hubAt)
	before := s.endpoint(t)

	replay := func(what string, n int, from func(i int) netip.AddrPort) {
		in, rx := 0, s.hub.bind.Stats().RxDatagrams
		for i := range n {
			if s.net.Inject(udptest.Datagram{From: from(i), To: hubAt, Data: captured}) {
				in += len(captured)
			}
			if i%512 == 511 {
				wait(t, "the hub to read", func() bool { return s.hub.bind.Stats().RxDatagrams >= rx+uint64(i+1) })
			}
		}
		wait(t, "the hub to read", func() bool { return s.hub.bind.Stats().RxDatagrams >= rx+uint64(n) })
		settle(t, s.hub.bind)
		out := 0
		for _, d := range s.wire.take(hubAt) {
			if d.Data[0] != 4 && len(d.Data) != 64 {
				t.Errorf("%s: an answer of type %d, %d bytes", what, d.Data[0], len(d.Data))
			}
			if d.Data[0] != 4 {
				out += len(d.Data)
			}
		}
		if out > in {
			t.Errorf("%s: %d bytes out for %d in", what, out, in)
		}
		if got := s.endpoint(t); got != before {
			t.Errorf("%s moved the endpoint from %s to %s", what, before, got)
		}
	}
	replay("once", 1, func(int) netip.AddrPort { return evilAt })
	replay("a thousand times", 1000, func(int) netip.AddrPort { return evilAt })
	replay("from everywhere", 5000, randomV4)
	if s.hub.bind.Stats().Dropped.Flood < 800 {
		t.Error("the limiter did nothing against one source")
	}
}

func (s *star) endpoint(t *testing.T) string {
	t.Helper()
	return s.hub.field(t, "endpoint")
}

func randomV4(i int) netip.AddrPort {
	b := [4]byte{11}
	b[1], b[2], b[3] = byte(i>>16), byte(i>>8), byte(i)
	return netip.AddrPortFrom(netip.AddrFrom4(b), uint16(1024+i%60000))
}

// settle waits until b has sent nothing for a while: the device works on
// handshakes in goroutines of its own.
func settle(t *testing.T, b *udp.Bind) {
	t.Helper()
	last, since := b.Stats().TxDatagrams, time.Now()
	wait(t, "silence", func() bool {
		if now := b.Stats().TxDatagrams; now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 50*time.Millisecond
	})
}

// TestW07_HandshakeFlood: floods of initiations with a valid mac1, which take
// the hub's public key, while spokes join and talk.
func TestW07_HandshakeFlood(t *testing.T) {
	prefix := netip.MustParseAddr("2001:db8:66:66::").As16()
	for _, c := range []struct {
		name  string
		from  func(i int) netip.AddrPort
		limit time.Duration
		held  bool // few of the flood may reach the device
	}{
		{"one v4 source", func(int) netip.AddrPort { return evilAt }, 2 * time.Second, true},
		{"one v6 network", func(i int) netip.AddrPort {
			b := prefix
			binary.BigEndian.PutUint32(b[12:], rand.Uint32())
			return netip.AddrPortFrom(netip.AddrFrom16(b), uint16(i)|1)
		}, 2 * time.Second, true},
		// With forged sources the flood is WireGuard's own cookies to fight:
		// the first try gets one and is repeated with it.
		{"forged sources", randomV4, 2 * time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStar(t, func(i int) netip.AddrPort {
				return netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7").Next(), uint16(40000+i))
			}, 4)
			late := s.spokes[1:]
			s.spokes = s.spokes[:1]
			s.join(t, 5*time.Second)

			start, stop := time.Now(), s.flood(c.from)
			time.Sleep(200 * time.Millisecond) // the flood is to be under way, no more
			talker := s.spokes[0]
			lost := s.stream(talker, 100)
			s.spokes = late
			took := s.join(t, patience*c.limit)
			lost += s.stream(talker, 100)
			n := stop()

			if lost > 2 {
				t.Errorf("an existing session lost %d of 200 packets", lost)
			}
			st := s.hub.bind.Stats()
			reached := n - int(st.Dropped.Flood)
			if most := udp.LimitBurst + int(time.Since(start)/udp.LimitEvery) + 1; c.held && reached > most {
				t.Errorf("%d of the flood reached the device, %d are in the budget", reached, most)
			}
			if st.Sources > st.SourcesMax || st.SourcesMax > 1<<14 {
				t.Errorf("the limiter keeps %d of %d sources", st.Sources, st.SourcesMax)
			}
			t.Logf("%d datagrams, %d reached the device; 3 spokes joined in %v; %d of 200 packets lost", n, reached, took, lost)
		})
	}
}

// flood injects junk initiations until stop is called, which returns how many.
// It waits when the hub cannot keep up, so that what is measured is the gate
// and not how many processors the test has.
func (s *star) flood(from func(i int) netip.AddrPort) (stop func() int) {
	junk := make([][]byte, 64)
	for i := range junk {
		junk[i] = junkInitiation(s.hub.key.Public())
	}
	done, n := make(chan struct{}), 0
	rx := func() uint64 { return s.hub.bind.Stats().RxDatagrams }
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			for range 300 { // 30,000 a second
				if n > 1024 && uint64(n-1024) > rx() {
					break
				}
				if s.net.Inject(udptest.Datagram{From: from(n), To: hubAt, Data: junk[n%len(junk)]}) {
					n++
				}
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	return func() int {
		close(done)
		wg.Wait()
		for seen := rx(); ; seen = rx() { // what is queued has been delivered too
			time.Sleep(20 * time.Millisecond)
			if rx() == seen {
				return n
			}
		}
	}
}

// stream sends n packets from spoke to the hub and returns how many were lost.
func (s *star) stream(spoke *node, n int) (lost int) {
	for range n {
		if spoke.ping(s.hub, time.Second) != nil {
			lost++
		}
	}
	return lost
}

func TestLimiter(t *testing.T) {
	const second = int64(time.Second)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	spendAll := func(l udp.Limiter, from netip.Addr, now int64) (n int) {
		for n < 10*udp.LimitBurst && l.Allow(from, now) {
			n++
		}
		return n
	}
	t.Run("burst and rate", func(t *testing.T) {
		l := udp.NewLimiter(false)
		if n := spendAll(l, a, 0); n != udp.LimitBurst {
			t.Errorf("a full bucket gave %d", n)
		}
		if n := spendAll(l, b, 0); n != udp.LimitBurst {
			t.Errorf("a neighbour's bucket gave %d", n)
		}
		if n := spendAll(l, a, second); n != int(second/int64(udp.LimitEvery)) {
			t.Errorf("a second later it gave %d", n)
		}
		if n := spendAll(l, a, 100*second); n != udp.LimitBurst {
			t.Errorf("much later it gave %d", n)
		}
	})
	t.Run("a /64 is one", func(t *testing.T) {
		l := udp.NewLimiter(false)
		n := 0
		for i := range 100_000 {
			ip := [16]byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, 1}
			binary.BigEndian.PutUint64(ip[8:], rand.Uint64())
			if l.Allow(netip.AddrFrom16(ip), int64(i)) {
				n++
			}
		}
		if n != udp.LimitBurst {
			t.Errorf("100,000 addresses of a /64 got %d", n)
		}
		if _, held := l.Size(100_000); held != 1 {
			t.Errorf("they hold %d places", held)
		}
	})
	for _, small := range []bool{false, true} {
		t.Run(fmt.Sprintf("full table resets nobody, small=%v", small), func(t *testing.T) {
			l := udp.NewLimiter(small)
			spendAll(l, a, 0)
			size, _ := l.Size(0)
			for i := range 100 * size { // at one instant: the worst there is
				l.Allow(randomV4(i).Addr(), 1)
			}
			if l.Allow(a, 2) {
				t.Error("a flood gave an empty bucket new tokens")
			}
			if got, held := l.Size(2); held > got || got != size {
				t.Errorf("%d places of %d, then %d", held, size, got)
			}
			if !l.Allow(b, 3*second) {
				t.Error("the table never empties")
			}
		})
	}
}

// Answers to what was never asked stay out, without a key to judge them by.
func TestUnaskedAnswersStayOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wires := udptest.New(t)
		b := wires.Bind(hubAt)
		in := open(t, b)
		to, err := b.ParseEndpoint(evilAt.String())
		if err != nil {
			t.Fatal(err)
		}
		msg := func(kind byte, size int, index uint32, at int) []byte {
			m := make([]byte, size)
			m[0] = kind
			binary.LittleEndian.PutUint32(m[at:], index)
			return m
		}
		passes := func(m []byte) bool {
			wires.Inject(udptest.Datagram{From: evilAt, To: hubAt, Data: m})
			synctest.Wait()
			select {
			case <-in:
				return true
			default:
				return false
			}
		}
		for range 1000 {
			if i := rand.Uint32(); passes(msg(2, 92, i, 8)) || passes(msg(3, 64, i, 4)) {
				t.Fatal("an unasked answer passed")
			}
		}
		if err := b.Send([][]byte{msg(1, 148, 77, 4)}, to); err != nil {
			t.Fatal(err)
		}
		if !passes(msg(2, 92, 77, 8)) || !passes(msg(3, 64, 77, 4)) {
			t.Error("the answer to a question stayed out")
		}
		if passes(msg(2, 91, 77, 8)) || passes(msg(2, 93, 77, 8)) || passes(msg(3, 65, 77, 4)) {
			t.Error("an answer of the wrong size passed")
		}
		time.Sleep(udp.AskedFor + time.Second)
		if passes(msg(2, 92, 77, 8)) {
			t.Error("an answer that is much too late passed")
		}
	})
}
