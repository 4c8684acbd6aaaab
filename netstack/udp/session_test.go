package udp_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/netstack/udp/udptest"
	"github.com/warrenmesh/warren/peer"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/replay"
)

// TestW08_ReplayFilter puts wireguard-go's filter through the idea of the
// kernel's counter self test: each counter once, none behind the window, none
// at the limit; and against an obvious reference.
func TestW08_ReplayFilter(t *testing.T) {
	const (
		limit  = math.MaxUint64 - (1 << 13)
		window = 8128 // of 8192 bits, one word is always being cleared
	)
	var f replay.Filter
	check := func(counter uint64, want bool) {
		t.Helper()
		if got := f.ValidateCounter(counter, limit); got != want {
			t.Fatalf("counter %d: %v, want %v", counter, got, want)
		}
	}
	for _, step := range []struct {
		counter uint64
		want    bool
	}{
		{0, true}, {0, false}, {1, true}, {1, false}, {9, true}, {8, true}, {7, true}, {7, false},
		{window, true}, {window - 1, true}, {window - 1, false}, {window - 2, true},
		{2, true}, {2, false},
		{window + 16, true}, {3, false}, {window + 16, false}, {window*4 + 1, true},
		{window*4 - (window - 1), true}, {10, false}, {window*4 - window, false}, {window*4 - (window + 1), false},
		{window*4 - (window - 2), true}, {window*4 + 1 - window, false}, {0, false},
		{limit, false}, {limit - 1, true}, {limit, false}, {limit - 1, false}, {limit - 2, true},
		{limit + 1, false}, {limit + 2, false}, {math.MaxUint64, false}, {limit - 2, false}, {limit - 3, true}, {0, false},
	} {
		check(step.counter, step.want)
	}
	for _, order := range []string{"up", "down", "random"} {
		f.Reset()
		counters := make([]uint64, window+1)
		for i := range counters {
			counters[i] = uint64(i)
		}
		switch order {
		case "down":
			slices.Reverse(counters)
		case "random":
			rand.Shuffle(len(counters), func(i, j int) { counters[i], counters[j] = counters[j], counters[i] })
		}
		for _, first := range []bool{true, false} {
			for _, c := range counters {
				check(c, first)
			}
		}
	}
	f.Reset()
	seen, newest := map[uint64]bool{}, uint64(0)
	for range 200_000 {
		c := newest + uint64(rand.IntN(3*window))
		c -= min(c, uint64(rand.IntN(5*window/2)))
		want := !seen[c] && (c > newest || newest-c <= window)
		check(c, want)
		seen[c], newest = true, max(newest, c)
	}
}

// inBubbleStar is a hub and one spoke that talk, in a bubble of fake time.
func inBubbleStar(t *testing.T, f func(t *testing.T, s *star)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newStar(t, func(int) netip.AddrPort { return spokeAt }, 1)
		s.join(t, 5*time.Second)
		f(t, s)
	})
}

// inbox collects what a device delivers.
func inbox(t *testing.T, n *node) func() [][]byte {
	var mu sync.Mutex
	var in [][]byte
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		for {
			select {
			case p := <-n.tun.Inbound:
				mu.Lock()
				in = append(in, p)
				mu.Unlock()
			case <-done:
				return
			}
		}
	}()
	return func() [][]byte {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		defer func() { in = nil }()
		return in
	}
}

// TestW09_TransportPackets: each data message is accepted at most once, in any
// order within the window, and never when a bit of it was changed.
func TestW09_TransportPackets(t *testing.T) {
	inBubbleStar(t, func(t *testing.T, s *star) {
		const packets = 9000
		spoke := s.spokes[0]
		var held []udptest.Datagram
		s.net.Filter(func(d udptest.Datagram) bool {
			if d.From == spokeAt && d.Data[0] == 4 {
				d.Data = bytes.Clone(d.Data)
				held = append(held, d)
				return false
			}
			return true
		})
		for range packets {
			spoke.send(s.hub)
		}
		synctest.Wait()
		s.net.Filter(nil)
		delivered := inbox(t, s.hub)
		if len(held) < packets {
			t.Fatalf("only %d datagrams to work with", len(held))
		}
		one := held[0]
		for bit := range 8 * len(one.Data) {
			d := one
			d.Data = bytes.Clone(one.Data)
			d.Data[bit/8] ^= 1 << (bit % 8)
			s.net.Inject(d)
		}
		for _, jump := range []uint64{1 << 20, 1 << 63, math.MaxUint64 - 1<<13, math.MaxUint64} {
			d := one
			d.Data = bytes.Clone(one.Data)
			for i := range 8 {
				d.Data[8+i] = byte(jump >> (8 * i))
			}
			s.net.Inject(d)
		}
		if n := len(delivered()); n != 0 {
			t.Fatalf("%d forged packets were delivered", n)
		}
		// The newest first: what lies more than the window behind it is late.
		newest := len(held) - 1
		for _, i := range append([]int{newest}, rand.Perm(newest)...) {
			s.net.Inject(held[i])
			s.net.Inject(held[i])
			if rand.IntN(64) == 0 {
				synctest.Wait() // the host's queue is finite
			}
		}
		if n := len(delivered()); n != 8128+1 {
			t.Errorf("%d of %d datagrams, each sent twice, were delivered; want %d", n, len(held), 8128+1)
		}
		for _, d := range held {
			s.net.Inject(d)
			if rand.IntN(64) == 0 {
				synctest.Wait()
			}
		}
		if n := len(delivered()); n != 0 {
			t.Errorf("%d replayed packets were delivered", n)
		}
	})
}

// restart replaces the hub's device by a new one with the same keys, as a
// restart of the process does: no session and no timestamp survives.
func (s *star) restart(t *testing.T, psk peer.PresharedKey) {
	t.Helper()
	old := s.hub
	old.dev.Close()
	s.hub = newNode(t, s.net.Config(hubAt), old.key, old.ip.String())
	for _, spoke := range s.spokes {
		s.hub.add(spoke, psk, netip.AddrPort{})
	}
}

// TestW10_HubRestart: a captured initiation gets at most one response from a
// restarted hub and nothing comes of it; the real peer is back within 15 s by
// itself and within 1 s if the hub remembers its endpoint and calls.
func TestW10_HubRestart(t *testing.T) {
	for _, calls := range []bool{false, true} {
		t.Run(fmt.Sprintf("hub calls=%v", calls), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStar(t, func(int) netip.AddrPort { return spokeAt }, 0)
				psk := newPSK(t)
				spoke := newNode(t, s.net.Config(spokeAt), newKey(t), "10.77.1.1")
				spoke.add(s.hub, psk, hubAt)
				s.hub.add(spoke, psk, netip.AddrPort{})
				s.spokes = []*node{spoke}
				s.join(t, 5*time.Second)
				time.Sleep(10 * time.Second)
				captured := s.wire.first(t, spokeAt, 1).Data
				s.restart(t, psk)
				s.wire.take(hubAt)
				within := 16 * time.Second // 10 s + 5 s + jitter of a third
				if calls {
					within = time.Second
					s.hub.call(t, spoke.key.Public(), spokeAt)
					s.back(t, within)
				}
				s.wire.take(hubAt)
				delivered := inbox(t, s.hub)
				for range 20 {
					s.net.Inject(udptest.Datagram{From: evilAt, To: hubAt, Data: captured})
					time.Sleep(100 * time.Millisecond)
				}
				responses := 0
				for _, d := range s.wire.take(hubAt) {
					if d.Data[0] != 2 {
						t.Errorf("the hub sent a message of type %d", d.Data[0])
					}
					responses++
				}
				if responses > 1 || len(delivered()) > 0 {
					t.Errorf("%d responses to one captured initiation", responses)
				}
				s.back(t, within)
			})
		})
	}
}

// back waits until a packet of the spoke reaches the hub.
func (s *star) back(t *testing.T, within time.Duration) {
	t.Helper()
	start := time.Now()
	before := s.hub.field(t, "rx_bytes")
	for time.Since(start) < within {
		s.spokes[0].send(s.hub)
		time.Sleep(100 * time.Millisecond)
		if s.hub.field(t, "last_handshake_time_sec") != "0" && s.hub.field(t, "rx_bytes") != before {
			t.Logf("back after %v", time.Since(start))
			return
		}
	}
	t.Errorf("the peer was not back after %v", within)
}

// call does what a hub does on a knock: set the endpoint and initiate.
func (n *node) call(t testing.TB, key peer.PublicKey, at netip.AddrPort) {
	t.Helper()
	n.set(fmt.Sprintf("public_key=%s\nupdate_only=true\nendpoint=%v", hex.EncodeToString(key[:]), at))
	if err := n.dev.LookupPeer(device.NoisePublicKey(key)).SendHandshakeInitiation(false); err != nil {
		t.Error(err)
	}
}

// TestW13_Roaming: 200 ms round trip, 5 % loss, changes of address and of
// family under way. Only authenticated packets move the endpoint.
func TestW13_Roaming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := udptest.New(t)
		hub6, spoke6 := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:7::7")
		hub := newNode(t, net.DualConfig(hubAt.Addr(), hub6, hubAt.Port()), newKey(t), "10.77.0.1")
		spoke := newNode(t, net.DualConfig(spokeAt.Addr(), spoke6, spokeAt.Port()), newKey(t), "10.77.0.2")
		psk := newPSK(t)
		hub.add(spoke, psk, netip.AddrPort{})
		spoke.add(hub, psk, hubAt)
		net.Delay(100 * time.Millisecond)
		net.Loss(0.05)
		stream := func(where string, from netip.AddrPort) {
			t.Helper()
			lost := 0
			for range 100 {
				if spoke.ping(hub, time.Second) != nil {
					lost++
				}
			}
			if lost > 15 {
				t.Errorf("%s: %d of 100 packets lost", where, lost)
			}
			if got := hub.field(t, "endpoint"); got != from.String() {
				t.Errorf("%s: the hub has the spoke at %s, not at %v", where, got, from)
			}
		}
		if err := spoke.ping(hub, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		handshake := hub.field(t, "last_handshake_time_nsec")
		stream("at home", spokeAt)

		moved := netip.MustParseAddrPort("198.51.100.9:1025")
		if err := net.Move(spokeAt, moved); err != nil {
			t.Fatal(err)
		}
		stream("behind a NAT that forgot", moved)

		key := hub.key.Public()
		spoke.set(fmt.Sprintf("public_key=%x\nupdate_only=true\nendpoint=%v", key[:], netip.AddrPortFrom(hub6, hubAt.Port())))
		at6 := netip.AddrPortFrom(spoke6, spokeAt.Port())
		stream("over IPv6", at6)

		// A forged packet of the same session does not move it.
		forged := make([]byte, 128)
		forged[0] = 4
		for range 100 {
			for i := 4; i < len(forged); i++ {
				forged[i] = byte(rand.Uint32())
			}
			net.Inject(udptest.Datagram{From: evilAt, To: hubAt, Data: forged})
		}
		stream("after forged packets", at6)
		if hub.field(t, "last_handshake_time_nsec") != handshake {
			t.Error("roaming cost a handshake")
		}
	})
}

// TestW14_Clocks: a spoke whose clock was ahead once is refused when it is
// right again, until the hub calls it, which is what the knock is for.
func TestW14_Clocks(t *testing.T) {
	for name, ahead := range map[string]stamp{"ten years": stampOf(time.Now().AddDate(10, 0, 0)), "for ever": stampMax()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { wrongClock(t, ahead) })
		})
	}
	t.Run("behind, then right", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newStar(t, func(int) netip.AddrPort { return spokeAt }, 1)
			old := initiation(t, s.spokes[0].key, s.hub.key.Public(), stampOf(time.Unix(0, 0)))
			s.net.Inject(udptest.Datagram{From: spokeAt, To: hubAt, Data: old})
			synctest.Wait()
			if len(s.wire.take(hubAt)) != 1 {
				t.Error("an initiation of 1970 is the newest there is and gets a response")
			}
			time.Sleep(time.Second)
			s.join(t, time.Second)
		})
	})
}

func wrongClock(t *testing.T, ahead stamp) {
	wires := udptest.New(t)
	w := tap(wires)
	hubKey, psk := newKey(t), newPSK(t)
	var hub, spoke *node
	cfg := wires.Config(hubAt)
	cfg.Knocks = &udp.Knocks{
		Hub:    hubKey,
		Lookup: func(key peer.PublicKey) (peer.PresharedKey, bool) { return psk, key == spoke.key.Public() },
		OnKnock: func(key peer.PublicKey, ep conn.Endpoint) {
			hub.call(t, key, netip.MustParseAddrPort(ep.DstToString()))
		},
	}
	spoke = newNode(t, wires.Config(spokeAt), newKey(t), "10.77.0.2")
	hub = newNode(t, cfg, hubKey, "10.77.0.1")
	hub.add(spoke, psk, netip.AddrPort{})

	wires.Inject(udptest.Datagram{From: spokeAt, To: hubAt, Data: initiation(t, spoke.key, hubKey.Public(), ahead)})
	synctest.Wait()
	if sent := w.take(hubAt); len(sent) != 1 || sent[0].Data[0] != 2 {
		t.Fatalf("the initiation with the far timestamp got %d answers, want a response", len(sent))
	}
	time.Sleep(time.Minute)
	spoke.add(hub, psk, hubAt)
	if spoke.ping(hub, time.Minute) == nil {
		t.Fatal("the hub accepted an older timestamp")
	}
	// The knock costs two round trips and then works at once.
	start := time.Now()
	if err := spoke.bind.Knock(t.Context(), hubAt, hubKey.Public(), spoke.key.Public(), psk); err != nil {
		t.Fatal(err)
	}
	if err := spoke.ping(hub, time.Second); err != nil {
		t.Errorf("after the knock: %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the knock took %v", took)
	}
}
