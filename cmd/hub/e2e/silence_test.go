package e2e_test

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asked is what people and scanners send to a UDP port to find out what it is.
var asked = map[string]string{
	"DNS":       "123401000001000000000000076578616d706c6503636f6d0000010001",
	"DNS chaos": "00060100000100000000000007766572736f6e0462696e640000100003",
	"STUN":      "000100002112a442b7e7a701bc34d686fa87dfae",
	"DTLS":      "16feff000000000000000000360100002a000000000000002afefd000000007c77401e8ac822a0a018ff9308caac0a642fc92264bc08a81689193000000002002f0100",
	"QUIC":      "c00000000108c1c2c3c4c5c6c7c808d1d2d3d4d5d6d7d800449e" + "00",
	"NTP":       "e30004fa000100000001000000000000000000000000000000000000000000000000000000000000c54f234b71b152f3",
	"SNMP":      "302902010004067075626c6963a01c0204565adc5d020100020100300e300c06082b060102010101000500",
	"SIP":       "4f5054494f4e53207369703a6e6d205349502f322e300d0a0d0a",
	"IKE":       "5b5e64c03e99b5110000000000000000011002000000000000000150",
	"OpenVPN":   "380000000000000000000000000000",
	"SSDP":      "4d2d534541524348202a20485454502f312e310d0a0d0a",
	"empty":     "",
}

// datagrams makes n of them: random bytes of every length and every first byte,
// WireGuard's and the knock's types with right and wrong sizes, and what
// scanners ask.
func datagrams(t testing.TB, n int) [][]byte {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	random := func(size int) []byte {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	var out [][]byte
	for _, text := range asked {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b, append(b, random(1200)...))
	}
	for kind := range 256 {
		b := random(1 + r.IntN(1400))
		b[0] = byte(kind)
		out = append(out, b)
	}
	sizes := []int{4, 16, 31, 32, 33, 48, 52, 63, 64, 65, 68, 91, 92, 93, 112, 147, 148, 149, 164, 1280}
	for len(out) < n {
		b := random(sizes[r.IntN(len(sizes))])
		copy(b, []byte{[]byte{1, 2, 3, 4, 0x51, 0x52, 0x53, 0x54}[r.IntN(8)], 0, 0, 0})
		out = append(out, b)
		if len(out)%3 == 0 {
			out = append(out, random(r.IntN(1472)))
		}
	}
	return out[:n]
}

// pour sends datagrams to the hub from somewhere, at a rate that no queue minds.
func pour(t testing.TB, from *machine, src, dst string, all [][]byte) {
	t.Helper()
	var conn *net.UDPConn
	err := from.inside(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(src), 0)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	to := netip.AddrPortFrom(netip.MustParseAddr(dst), 51820)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i, b := range all {
		if i%50 == 0 {
			<-tick.C
		}
		if _, err := conn.WriteToUDPAddrPort(b, to); err != nil {
			t.Fatal(err)
		}
	}
}

// arrived waits until the machine has been given n datagrams for the hub.
func arrived(t testing.TB, wire *tap, n int) {
	t.Helper()
	until(t, "the datagrams arrive", func() bool {
		return len(wire.find(func(s *seen) bool { return !s.sent && s.dst.Port() == 51820 })) >= n
	})
}

// TestW01_Silence sends ten thousand datagrams of every kind to the hub's port,
// from somebody who has nothing. The cable shows that nothing comes back.
func TestW01_Silence(t *testing.T) {
	m := newMesh(t)
	stranger := newMachine(t, place(), "st")
	wire := listenOn(t, m.machine)
	before, err := os.Stat(m.dir + "/hub.log")
	if err != nil {
		t.Fatal(err)
	}
	const n = 5000
	pour(t, stranger, stranger.v4, m.v4, datagrams(t, n))
	pour(t, stranger, stranger.v6, m.v6, datagrams(t, n))
	arrived(t, wire, 2*n*99/100)
	// Somebody who has the hub's public key as well, but is no peer (W-05).
	key := publicKeyOf(t, m.publicKey())
	var signed [][]byte
	for range 20 {
		b := make([]byte, 148)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		copy(b, []byte{1, 0, 0, 0})
		signed = append(signed, addMAC1(key, b))
	}
	pour(t, stranger, stranger.v4, m.v4, signed)
	arrived(t, wire, 2*n*99/100+20)
	// The hub has worked off its queue when it answers a peer that came later;
	// that the tap sees the answer shows that it would have seen others.
	p := m.phone("ann-phone", "--owner", "ann")
	if r := p.curl("http://page.warren.internal/"); r.code != 0 {
		t.Fatalf("a phone afterwards: exit code %d %s", r.code, r.errs)
	}
	toPhone := 0
	for _, s := range wire.spoken() {
		if s.dst.Addr().String() == p.machine.v4 {
			toPhone++
		} else {
			t.Errorf("the hub's machine answered: protocol %d, %v to %v, %d bytes", s.proto, s.src, s.dst, len(s.payload))
		}
	}
	if toPhone == 0 {
		t.Error("the tap has not even seen what the hub sent to the phone")
	}
	after, err := os.Stat(m.dir + "/hub.log")
	if err != nil {
		t.Fatal(err)
	}
	if grown := after.Size() - before.Size(); grown > 64<<10 {
		t.Errorf("the log grew by %d bytes", grown)
	}
}

// TestW06_Replay records a phone's genuine handshake on the cable and sends it
// again, from elsewhere and often, and once more after a restart of the hub.
func TestW06_Replay(t *testing.T) {
	m := newMesh(t)
	thief := newMachine(t, place(), "th")
	wire := listenOn(t, m.machine)
	p := m.phone("ann-phone", "--owner", "ann")
	if r := p.curl("http://page.warren.internal/"); r.code != 0 {
		t.Fatalf("exit code %d %s", r.code, r.errs)
	}
	genuine := wire.find(func(s *seen) bool {
		return !s.sent && s.dst.Port() == 51820 && len(s.payload) == 148 && s.payload[0] == 1
	})
	if len(genuine) == 0 {
		t.Fatal("no handshake initiation passed the cable")
	}
	initiation := genuine[0].payload
	toThief := func() (all []seen) {
		for _, s := range wire.spoken() {
			if a := s.dst.Addr().String(); a == thief.v4 || a == thief.v6 {
				all = append(all, s)
			}
		}
		return all
	}
	was, _ := m.peer("ann-phone")
	wire.forget()
	pour(t, thief, thief.v4, m.v4, repeat(initiation, 500))
	pour(t, thief, thief.v6, m.v6, repeat(initiation, 500))
	arrived(t, wire, 990)
	if r := p.curl("http://page.warren.internal/"); r.code != 0 {
		t.Fatalf("the phone during a replay: exit code %d %s", r.code, r.errs)
	}
	for _, s := range toThief() {
		// Under load a hub may say "prove your address first".
		if s.proto != unix.IPPROTO_UDP || len(s.payload) != 64 || s.payload[0] != 3 {
			t.Errorf("the hub answered a replay: protocol %d, %d bytes to %v", s.proto, len(s.payload), s.dst)
		}
	}
	if now, _ := m.peer("ann-phone"); now.Endpoint != was.Endpoint {
		t.Errorf("the replay moved the phone from %s to %s", was.Endpoint, now.Endpoint)
	}

	// WireGuard notes an initiation's time a moment after it has looked whether
	// it was noted: copies that arrive together are each answered, by as many
	// processors as there are. Of those that come one after another one is.
	t.Run("W10_AfterRestart", func(t *testing.T) {
		replayToNewHub(t, m, p, wire, initiation, toThief, 1, func() {
			for range 10 {
				pour(t, thief, thief.v4, m.v4, repeat(initiation, 1)) // a millisecond each
			}
		})
	})
	t.Run("W10_AfterRestartAtOnce", func(t *testing.T) {
		replayToNewHub(t, m, p, wire, initiation, toThief, runtime.NumCPU(), func() {
			pour(t, thief, thief.v4, m.v4, repeat(initiation, 10))
		})
	})
}

// replayToNewHub has a recorded initiation sent ten times to a hub that has
// just started and remembers nothing of it, and expects at most some responses,
// fewer bytes out than in, and the phone back.
func replayToNewHub(t *testing.T, m *mesh, p *phone, wire *tap, initiation []byte, toThief func() []seen, most int, send func()) {
	t.Helper()
	m.settled("ann-phone")
	m.killHub()
	m.startHub()
	began := time.Now()
	wire.forget()
	send()
	arrived(t, wire, 10)
	until(t, "the phone reads again", func() bool { return p.curl("--max-time", "2", "http://page.warren.internal/").code == 0 })
	took := time.Since(began)
	answers, in, out := toThief(), 10*len(initiation), 0
	responses := 0
	for _, s := range answers {
		out += len(s.payload)
		if len(s.payload) != 92 && len(s.payload) != 64 && len(s.payload) != 148 {
			t.Errorf("the thief got %d bytes: % x", len(s.payload), s.payload[:min(32, len(s.payload))])
		}
		if bytes.HasPrefix(s.payload, []byte{2, 0, 0, 0}) {
			responses++
		}
	}
	if responses > most || out > in {
		t.Errorf("%d responses, the most is %d; %d bytes for %d", responses, most, out, in)
	}
	t.Logf("a recorded initiation, sent 10 times to a new hub, got %d answers, %d of them handshake responses; the phone was back after %v",
		len(answers), responses, took.Round(time.Millisecond))
}

func repeat(b []byte, n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = b
	}
	return all
}
