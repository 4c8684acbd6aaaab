package netstack

import (
	"context"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/warrenmesh/warren/acl"
)

// TestMeshD23_AnswersAreWellFormed decodes what a refusal sends with somebody
// else's decoder: addresses, ports, sequence numbers, checksums, length.
func TestMeshD23_AnswersAreWellFormed(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		src, dst := netip.AddrPortFrom(addr4(257), 5000), netip.AddrPortFrom(addr4(10), 22)
		if v6 {
			src, dst = netip.AddrPortFrom(addr6(257), 5000), netip.AddrPortFrom(addr6(10), 22)
		}
		refuse := func(b []byte) gopacket.Packet {
			var p acl.Packet
			if r := p.Parse(b); r != 0 {
				t.Fatal(r)
			}
			out := appendRefusal(nil, b, &p, prohibited)
			if bad := checksums(out); bad != "" {
				t.Errorf("the answer's %s checksum is wrong: %x", bad, out)
			}
			first := layers.LayerTypeIPv4
			if v6 {
				first = layers.LayerTypeIPv6
			}
			return gopacket.NewPacket(out, first, gopacket.Default)
		}
		for _, c := range []struct {
			flags    header.TCPFlags
			data     string
			seq, ack uint32
			want     header.TCPFlags
		}{
			{header.TCPFlagSyn, "", 0, 101, header.TCPFlagRst | header.TCPFlagAck},
			{header.TCPFlagAck, "", 200, 0, header.TCPFlagRst},
			{header.TCPFlagAck | header.TCPFlagPsh, "data", 200, 0, header.TCPFlagRst},
			{header.TCPFlagAck | header.TCPFlagFin, "", 200, 0, header.TCPFlagRst},
		} {
			got := refuse(rawTCP(src, dst, c.flags, 100, 200, c.data))
			tcp, ok := got.Layer(layers.LayerTypeTCP).(*layers.TCP)
			if !ok {
				t.Fatalf("no TCP in %v", got)
			}
			if tcp.Seq != c.seq || tcp.Ack != c.ack || !tcp.RST || tcp.ACK != c.want.Contains(header.TCPFlagAck) ||
				uint16(tcp.SrcPort) != dst.Port() || uint16(tcp.DstPort) != src.Port() || len(tcp.Payload) != 0 {
				t.Errorf("%v was answered with %+v", c.flags, tcp)
			}
		}
		got := refuse(rawUDP(src, dst, "a long and secret payload"))
		data := got.Data()
		if want := map[bool]int{false: 20 + 8 + 28, true: 40 + 8 + 48}[v6]; len(data) != want {
			t.Errorf("an ICMP error of %d bytes, want %d: no payload goes back", len(data), want)
		}
		if v6 {
			m, ok := got.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
			if !ok || m.TypeCode != layers.CreateICMPv6TypeCode(1, 1) {
				t.Errorf("not an ICMPv6 prohibition: %v", got)
			}
		} else if m, ok := got.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); !ok || m.TypeCode != layers.CreateICMPv4TypeCode(3, 13) {
			t.Errorf("not an ICMP prohibition: %v", got)
		}
	}
}

// checksums verifies what a receiver would, and names the one that is wrong.
func checksums(b []byte) string {
	at, proto := 20, b[9]
	if b[0]>>4 == 6 {
		at, proto = 40, b[6]
	} else if sum(b[:20]) != 0xffff {
		return "IPv4"
	}
	if proto == uint8(header.ICMPv4ProtocolNumber) {
		if sum(b[at:]) != 0xffff {
			return "ICMP"
		}
		return ""
	}
	if transportSum(b, at, proto) != 0xffff {
		return "transport"
	}
	return ""
}

// TestMeshD23_NeverAnswered lists what a refusal must not answer.
func TestMeshD23_NeverAnswered(t *testing.T) {
	noLeak(t)
	m := newMesh(t, 1, options{policy: `{}`})
	a := m.spokes[0]
	everywhere := m.hubFor(a)
	everywhere.Routes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	if err := a.SetPeers(context.Background(), []PeerConfig{everywhere}); err != nil {
		t.Fatal(err)
	}
	from := netip.AddrPortFrom(a.v4(), 5000)
	hub := netip.AddrPortFrom(m.hub.v4(), 22)
	quote := rawUDP(hub, from, "x")
	var q acl.Packet
	if r := q.Parse(quote); r != 0 {
		t.Fatal(r)
	}
	icmp := appendICMP(nil, quote, &q, prohibited)
	fragment := rawUDP(from, hub, "x")
	fragment[6] = 0x20
	fixIPv4(fragment[:20], 20)
	pong := rawPing(a.v4(), m.hub.v4(), 1)
	pong[20] = 0
	packets := [][]byte{
		icmp, fragment, pong,
		rawTCP(from, hub, header.TCPFlagRst, 1, 0, ""),
		rawUDP(from, netip.MustParseAddrPort("224.0.0.251:5353"), "x"),
		rawUDP(from, netip.MustParseAddrPort("255.255.255.255:67"), "x"),
		rawUDP(from, netip.MustParseAddrPort("127.0.0.1:53"), "x"),
		rawUDP(netip.AddrPortFrom(a.v6(), 5000), netip.MustParseAddrPort("[ff02::fb]:5353"), "x"),
	}
	got := newTap(a)
	for _, b := range packets {
		a.inject(m.hub, b)
	}
	eventually(t, "each is refused", func() bool { return m.hub.Stats().RefusedIn == uint64(len(packets)) })
	m.flushed(m.hub)
	m.settle(a)
	if n := len(got.all()); n != 0 {
		t.Errorf("%d of them were answered: %x", n, got.all())
	}
	// And what may be answered is, up to the limit.
	for range 3 * answerBurst {
		a.inject(m.hub, rawUDP(from, hub, "x"))
	}
	eventually(t, "some are answered", func() bool { return len(got.all()) >= answerBurst/2 })
	m.settle(a)
	if n := len(got.all()); n > 2*answerBurst {
		t.Errorf("%d answers to %d refused packets", n, 3*answerBurst)
	}
}
