package udp_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/netstack/udp/udptest"
	"github.com/warrenmesh/warren/peer"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
)

// counter counts the bytes that a log would grow by.
type counter struct{ n atomic.Int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return len(b), nil
}

// lookAlikes are what scanners send to see what lives on a port.
func lookAlikes() [][]byte {
	pad := func(s string, n int) []byte { return append([]byte(s), make([]byte, max(0, n-len(s)))...) }
	return [][]byte{
		pad("\x16\xfe\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x54\x01", 103),  // DTLS 1.0 ClientHello
		pad("\x16\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x54\x01", 103),  // DTLS 1.2
		pad("\xc0\x00\x00\x00\x01\x08\x01\x02\x03\x04\x05\x06\x07\x08", 1200), // QUIC v1 Initial
		pad("\x40", 50),                       // QUIC short header
		pad("\xc0\x1a\x2a\x3a\x4a\x08", 1200), // QUIC version negotiation probe
		[]byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07version\x04bind\x00\x00\x10\x00\x03"),
		pad("\x00\x01\x00\x00\x21\x12\xa4\x42", 20), // STUN binding request
		pad("\xe3", 48), // NTP
		pad("\x17\x00\x03\x2a\x00\x00\x00\x00", 8),                          // NTP monlist
		[]byte("\x30\x26\x02\x01\x01\x04\x06public\xa0\x19"),                // SNMP
		pad("\x38\x01\x02\x03\x04\x05\x06\x07\x08\x00\x00\x00\x00\x00", 14), // OpenVPN hard reset
		pad("\x00\x00\x00\x00\x00\x00\x00\x00\x01\x10\x02\x02", 96),         // IKEv2 after a non-ESP marker
		[]byte("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\n\r\n"),
		[]byte("OPTIONS sip:nm SIP/2.0\r\nVia: SIP/2.0/UDP nm;branch=foo\r\n\r\n"),
		[]byte("\xff\xff\xff\xffTSource Engine Query\x00"),
		pad("TS3INIT1", 34),
	}
}

// probe returns datagram i of a scan.
func probe(rng *rand.Rand, i int) []byte {
	looks := lookAlikes()
	if i%16 == 0 {
		return looks[i/16%len(looks)]
	}
	size := rng.IntN(1501)
	switch i % 16 { // now and then exactly the size of a message
	case 1:
		size = [...]int{148, 92, 64, 32, udp.SizeKnock, udp.SizeReply, udp.SizeProof, udp.SizeDone}[rng.IntN(8)]
	case 2:
		size = i / 16 % 1501
	case 3, 4, 5, 6: // a perfect message but for the keys
		forms := [...]struct {
			kind byte
			size int
		}{{1, 148}, {1, 148}, {2, 92}, {3, 64}, {4, 80}, {udp.TypeKnock, udp.SizeKnock}, {udp.TypeProof, udp.SizeProof},
			{udp.TypeReply, udp.SizeReply}, {udp.TypeDone, udp.SizeDone}}
		form := forms[rng.IntN(len(forms))]
		b := make([]byte, form.size)
		for j := range b[4:] {
			b[4+j] = byte(rng.Uint32())
		}
		b[0] = form.kind
		return b
	}
	b := make([]byte, size)
	for j := range b {
		b[j] = byte(rng.Uint32())
	}
	if size > 0 {
		b[0] = byte(i / 3) // every first byte
	}
	if i%3 == 0 && size >= 4 {
		b[1], b[2], b[3] = 0, 0, 0 // a well-formed header
		if i%2 == 0 {
			b[0] = [...]byte{1, 2, 3, 4, udp.TypeKnock, udp.TypeReply, udp.TypeProof, udp.TypeDone}[rng.IntN(8)]
		}
	}
	return b
}

// TestW01_SilentToStrangers sends what a scanner sends to a real device on a
// real socket that answers knocks and has a peer.
func TestW01_SilentToStrangers(t *testing.T) {
	const datagrams = 100_000
	for _, offload := range []bool{true, false} {
		t.Run(fmt.Sprintf("offload=%v", offload), func(t *testing.T) {
			hub, logged := silentHub(t, udp.Config{Listen: loopback(0), NoOffload: !offload})
			sock, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(hub.at))
			if err != nil {
				t.Fatal(err)
			}
			defer sock.Close()
			heap := heapInUse()
			rng := rand.New(rand.NewPCG(3, 4))
			data := uint64(0) // all that the device is to see
			for i := range datagrams {
				b := probe(rng, i)
				if _, err := sock.Write(b); err != nil {
					t.Fatal(err)
				}
				if len(b) >= 32 && bytes.Equal(b[:4], []byte{4, 0, 0, 0}) {
					data++
				}
				if i%128 == 127 || i == datagrams-1 { // all of them arrive, or the test shows nothing
					wait(t, "the hub to read", func() bool { return hub.bind.Stats().RxDatagrams >= uint64(i+1) })
				}
			}
			checkSilence(t, hub, sock)
			s := hub.bind.Stats()
			d := s.Dropped
			if seen := s.RxDatagrams - d.Size - d.Type - d.MAC - d.Flood - d.Unasked - d.Knock - d.Truncated; seen != data || d.Flood != 0 {
				t.Errorf("the device saw %d datagrams, want %d: %+v", seen, data, d)
			}
			if n := logged.n.Load(); n > 64<<10 {
				t.Errorf("the log grew by %d bytes", n)
			}
			if grown := int64(heapInUse()) - int64(heap); grown > 8<<20 {
				t.Errorf("the heap grew by %d bytes", grown)
			}
		})
	}
}

func silentHub(t *testing.T, cfg udp.Config) (*node, *counter) {
	t.Helper()
	logged := &counter{}
	cfg.Logger = slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	key, psk := newKey(t), newPSK(t)
	n := &node{t: t, key: key, ip: netip.MustParseAddr("10.77.0.1"), tun: tuntest.NewChannelTUN()}
	cfg.Key = key.Public()
	cfg.Knocks = &udp.Knocks{Hub: key,
		Lookup:  func(k peer.PublicKey) (peer.PresharedKey, bool) { return psk, true },
		OnKnock: func(k peer.PublicKey, _ conn.Endpoint) { t.Errorf("knock of %v accepted", k) }}
	n.bind = udp.New(cfg)
	log := &device.Logger{
		Verbosef: func(f string, a ...any) { fmt.Fprintf(logged, f+"\n", a...) },
		Errorf:   func(f string, a ...any) { fmt.Fprintf(logged, f+"\n", a...) },
	}
	n.dev = device.NewDevice(n.tun.TUN(), n.bind, log)
	t.Cleanup(n.dev.Close)
	secret := key.Reveal()
	n.set("private_key=" + hex.EncodeToString(secret[:]))
	if err := n.dev.Up(); err != nil {
		t.Fatal(err)
	}
	n.at = n.bind.Stats().V4.Addr
	other := &node{t: t, key: newKey(t), ip: netip.MustParseAddr("10.77.0.2")}
	n.add(other, psk, netip.AddrPort{})
	return n, logged
}

func checkSilence(t *testing.T, hub *node, sock *net.UDPConn) {
	t.Helper()
	if s := hub.bind.Stats(); s.TxDatagrams != 0 || s.TxErrors != 0 {
		t.Errorf("the hub sent %d datagrams (%d failed)", s.TxDatagrams, s.TxErrors)
	}
	if err := sock.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := sock.Read(make([]byte, 2000)); err == nil {
		t.Errorf("%d bytes came back", n)
	}
	conf, err := hub.dev.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(conf, "endpoint=") || !strings.Contains(conf, "rx_bytes=0") {
		t.Error("the peer table changed")
	}
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the first one only retires pools
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestW05_UnknownPeer: an initiation that is perfect but for the peer.
func TestW05_UnknownPeer(t *testing.T) {
	hub, _ := silentHub(t, udp.Config{Listen: loopback(0)})
	sock, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(hub.at))
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	for i := range 50 {
		if _, err := sock.Write(initiation(t, newKey(t), hub.key.Public(), stampOf(time.Now()))); err != nil {
			t.Fatal(err)
		}
		wait(t, "the hub to read", func() bool { return hub.bind.Stats().RxDatagrams > uint64(i) })
	}
	checkSilence(t, hub, sock)
}

// TestW05_WrongPresharedKey: in WireGuard the pre-shared key enters with the
// response, so a peer's private key alone gets one, smaller than what it sent.
// No session comes of it and no packet passes.
func TestW05_WrongPresharedKey(t *testing.T) {
	wires := udptest.New(t)
	w := tap(wires)
	hub := newNode(t, wires.Config(hubAt), newKey(t), "10.77.0.1")
	spoke := newNode(t, wires.Config(spokeAt), newKey(t), "10.77.0.2")
	hub.add(spoke, newPSK(t), netip.AddrPort{})
	spoke.add(hub, newPSK(t), hubAt)
	go spoke.ping(hub, 500*time.Millisecond)
	in := w.first(t, spokeAt, 1)
	out := w.first(t, hubAt, 2)
	if len(out.Data) > len(in.Data) {
		t.Errorf("%d bytes out for %d in", len(out.Data), len(in.Data))
	}
	select {
	case <-hub.tun.Inbound:
		t.Error("a packet passed")
	case <-time.After(300 * time.Millisecond):
	}
	for _, d := range append(w.take(hubAt), w.take(spokeAt)...) {
		if d.Data[0] == 4 {
			t.Error("there is a session")
		}
	}
}
