package netstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/warrenmesh/warren/acl"
)

var (
	end4a, end4b = netip.AddrPortFrom(addr4(10), 80), netip.AddrPortFrom(addr4(257), 5000)
	end6a, end6b = netip.AddrPortFrom(addr6(10), 80), netip.AddrPortFrom(addr6(257), 5000)
)

// superPacket makes what gVisor hands to its card: headers in one view, payload
// in several.
func superPacket(from, to netip.AddrPort, flags header.TCPFlags, payload []byte, mss int) *stack.PacketBuffer {
	whole := rawTCP(from, to, flags, 1000, 2000, "")
	at := header.IPv4MinimumSize
	kind := stack.GSOTCPv4
	if from.Addr().Is6() {
		at, kind = header.IPv6MinimumSize, stack.GSOTCPv6
	}
	var data buffer.Buffer
	for rest := payload; len(rest) > 0; {
		n := min(len(rest), 1+len(rest)/3)
		_ = data.Append(buffer.NewViewWithData(rest[:n]))
		rest = rest[n:]
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: len(whole), Payload: data})
	copy(pkt.TransportHeader().Push(len(whole)-at), whole[at:])
	copy(pkt.NetworkHeader().Push(at), whole[:at])
	if len(payload) > mss {
		pkt.GSOOptions = stack.GSO{Type: kind, NeedsCsum: true, MSS: uint16(mss)}
	}
	return pkt
}

// cutAll cuts a packet as Read does.
func cutAll(pkt *stack.PacketBuffer, mtu int) [][]byte {
	it := newLocal(pkt, mtu)
	defer it.release()
	var out [][]byte
	for {
		count, _, last := it.cut.reserve(3, 1<<20)
		for range count {
			b := make([]byte, mtu+100)
			out = append(out, b[:it.cut.next(it.pkt, b)])
		}
		if last {
			return out
		}
	}
}

func TestCutting(t *testing.T) {
	for _, ends := range [][2]netip.AddrPort{{end4a, end4b}, {end6a, end6b}} {
		for _, size := range []int{0, 1, 1199, 1200, 1201, 5000, 64000} {
			payload := pattern(size)
			const flags = header.TCPFlagAck | header.TCPFlagPsh | header.TCPFlagFin | header.TCPFlagCwr
			pkt := superPacket(ends[0], ends[1], flags, payload, 1200)
			packets := cutAll(pkt, DefaultMTU)
			pkt.DecRef()
			if want := max((size+1199)/1200, 1); len(packets) != want {
				t.Fatalf("%d bytes became %d packets, want %d", size, len(packets), want)
			}
			var got []byte
			for i, b := range packets {
				var p acl.Packet
				if r := p.Parse(b); r != 0 {
					t.Fatalf("packet %d: %v", i, r)
				}
				if bad := checksums(b); bad != "" {
					t.Errorf("packet %d of %d: the %s checksum is wrong", i, len(packets), bad)
				}
				h := header.TCP(b[p.HeaderLen():])
				if want := uint32(1000 + len(got)); h.SequenceNumber() != want || h.AckNumber() != 2000 {
					t.Errorf("packet %d has sequence number %d, want %d", i, h.SequenceNumber(), want)
				}
				first, last := i == 0, i == len(packets)-1
				if f := h.Flags(); f.Contains(header.TCPFlagFin) != last || f.Contains(header.TCPFlagPsh) != last || f.Contains(header.TCPFlagCwr) != first {
					t.Errorf("packet %d of %d has the flags %v", i, len(packets), f)
				}
				if len(b) > DefaultMTU {
					t.Errorf("packet %d is %d bytes long", i, len(b))
				}
				if b[0]>>4 == 4 && header.IPv4(b).ID() != uint16(i) {
					t.Errorf("packet %d has the id %d", i, header.IPv4(b).ID())
				}
				got = append(got, b[p.PayloadOffset():]...)
			}
			if !bytes.Equal(got, payload) {
				t.Errorf("the payload of %d bytes is not what was cut", size)
			}
		}
	}
}

// TestCuttingRespectsTheMTU: a segment size that does not fit is made to.
func TestCuttingRespectsTheMTU(t *testing.T) {
	pkt := superPacket(end6a, end6b, header.TCPFlagAck, pattern(10000), 1460)
	defer pkt.DecRef()
	for _, b := range cutAll(pkt, DefaultMTU) {
		if len(b) > DefaultMTU {
			t.Errorf("a packet of %d bytes", len(b))
		}
	}
}

// capture is a dispatcher that keeps what it is given.
type capture struct{ got [][]byte }

func (c *capture) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	c.got = append(c.got, pkt.ToView().ToSlice())
}
func (c *capture) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *stack.PacketBuffer) {}

// merged runs packets through a coalescer.
func merged(t testing.TB, packets [][]byte) [][]byte {
	t.Helper()
	var c coalescer
	var d capture
	c.reset()
	for _, b := range packets {
		var p acl.Packet
		if r := p.Parse(b); r != 0 {
			t.Fatal(r)
		}
		c.add(b, &p)
	}
	for k := range c.runs {
		c.deliver(k, &d)
	}
	return d.got
}

func TestMerging(t *testing.T) {
	for _, ends := range [][2]netip.AddrPort{{end4a, end4b}, {end6a, end6b}} {
		payload := pattern(40000)
		pkt := superPacket(ends[0], ends[1], header.TCPFlagAck|header.TCPFlagPsh, payload, 1200)
		packets := cutAll(pkt, DefaultMTU)
		pkt.DecRef()
		got := merged(t, packets)
		if len(got) != 1 {
			t.Fatalf("%d packets became %d, want 1", len(packets), len(got))
		}
		var p acl.Packet
		if r := p.Parse(got[0]); r != 0 {
			t.Fatal(r)
		}
		if !bytes.Equal(got[0][p.PayloadOffset():], payload) {
			t.Error("the payload is not what was sent")
		}
		if f := p.Flags(); f != acl.FlagACK|acl.FlagPSH {
			t.Errorf("the flags are %#x", f)
		}
	}
}

// TestMergingKeepsApart lists what must not be merged.
func TestMergingKeepsApart(t *testing.T) {
	seg := func(seq, ack uint32, flags header.TCPFlags, data string) []byte {
		return rawTCP(end4a, end4b, flags, seq, ack, data)
	}
	change := func(b []byte, at int, v byte) []byte { b[at] = v; return b }
	base := seg(100, 1, header.TCPFlagAck, "aaaa")
	for name, next := range map[string][]byte{
		"a gap":                    seg(105, 1, header.TCPFlagAck, "bbbb"),
		"a repetition":             seg(100, 1, header.TCPFlagAck, "aaaa"),
		"another acknowledgement":  seg(104, 2, header.TCPFlagAck, "bbbb"),
		"a longer segment":         seg(104, 1, header.TCPFlagAck, "bbbbb"),
		"no data":                  seg(104, 1, header.TCPFlagAck, ""),
		"a reset":                  seg(104, 0, header.TCPFlagRst, ""),
		"urgent data":              seg(104, 1, header.TCPFlagAck|header.TCPFlagUrg, "bbbb"),
		"another window":           change(seg(104, 1, header.TCPFlagAck, "bbbb"), 34, 1),
		"a mark of congestion":     change(seg(104, 1, header.TCPFlagAck, "bbbb"), 1, 3),
		"another hop count":        change(seg(104, 1, header.TCPFlagAck, "bbbb"), 8, 63),
		"the other way round":      rawTCP(end4b, end4a, header.TCPFlagAck, 104, 1, "bbbb"),
		"a datagram in its place":  rawUDP(end4a, end4b, "bbbb"),
		"another source":           rawTCP(netip.AddrPortFrom(addr4(11), 80), end4b, header.TCPFlagAck, 104, 1, "bbbb"),
		"the same ports over IPv6": rawTCP(end6a, end6b, header.TCPFlagAck, 104, 1, "bbbb"),
	} {
		if got := merged(t, [][]byte{bytes.Clone(base), next}); len(got) != 2 {
			t.Errorf("%s was merged", name)
		} else if !bytes.Equal(got[0], base) || !bytes.Equal(got[1], next) {
			t.Errorf("%s: what was not merged was changed", name)
		}
	}
	after := [][]byte{bytes.Clone(base), seg(104, 1, header.TCPFlagAck, "bb"), seg(106, 1, header.TCPFlagAck, "cccc")}
	if got := merged(t, after); len(got) != 2 {
		t.Errorf("a short segment did not end the run: %d packets", len(got))
	}
}

// TestMergingLaw: whatever the packets are, each flow's bytes come out in the
// order in which they went in, none lost, none added.
func TestMergingLaw(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var packets [][]byte
		want := make(map[string]string)
		seq := make([]uint32, 12)
		for range rng.IntN(128) {
			flow := rng.IntN(len(seq))
			from := netip.AddrPortFrom(addr4(257), uint16(1000+flow))
			to := end4a
			if flow%2 == 0 {
				from, to = netip.AddrPortFrom(addr6(257), uint16(1000+flow)), end6a
			}
			flags := header.TCPFlagAck
			if rng.IntN(10) == 0 {
				flags |= header.TCPFlagPsh
			}
			if rng.IntN(30) == 0 {
				flags |= header.TCPFlagFin
			}
			data := string(pattern(rng.IntN(3) * 500))
			if rng.IntN(20) == 0 {
				seq[flow] += uint32(rng.IntN(100))
			}
			packets = append(packets, rawTCP(from, to, flags, seq[flow], uint32(rng.IntN(20)/19), data))
			want[from.String()] += fmt.Sprint(seq[flow], ":", len(data), ";")
			seq[flow] += uint32(len(data))
		}
		total := 0
		for _, b := range packets {
			total += payloadOf(t, b)
		}
		last := make(map[string]uint32)
		out := 0
		for _, b := range merged(t, packets) {
			var p acl.Packet
			if r := p.Parse(b); r != 0 {
				t.Fatalf("a merged packet does not parse: %v", r)
			}
			from := netip.AddrPortFrom(p.Src(), p.SrcPort()).String()
			s := binary.BigEndian.Uint32(b[p.HeaderLen()+4:])
			if s < last[from] {
				t.Fatalf("the segments of %s are out of order", from)
			}
			last[from] = s + uint32(payloadOf(t, b))
			out += payloadOf(t, b)
		}
		if out != total {
			t.Fatalf("%d bytes became %d", total, out)
		}
	}
}

func payloadOf(t testing.TB, b []byte) int {
	t.Helper()
	var p acl.Packet
	if r := p.Parse(b); r != 0 {
		t.Fatal(r)
	}
	return len(b) - p.PayloadOffset()
}

func TestForwarding(t *testing.T) {
	for _, ends := range [][2]netip.AddrPort{{end4a, end4b}, {end6a, end6b}} {
		for _, lead := range [][]byte{nil, {1}, {1, 1}, {1, 1, 1}} { // NOPs before the MSS
			options := append(bytes.Clone(lead), 2, 4, 0x05, 0xb4) // 1460
			for len(options)%4 != 0 {
				options = append(options, 0)
			}
			at := header.IPv4MinimumSize
			if ends[0].Addr().Is6() {
				at = header.IPv6MinimumSize
			}
			seg := rawTCP(ends[0], ends[1], header.TCPFlagSyn, 1, 0, "")[at:]
			seg = append(seg, options...)
			seg[12] = byte(len(seg)/4) << 4
			b := rawIP(ends[0].Addr(), ends[1].Addr(), 6, seg)
			if !hopsLeft(b) {
				t.Fatal("64 hops are none")
			}
			decrementHops(b)
			clampMSS(b, at, DefaultMTU)
			if bad := checksums(b); bad != "" {
				t.Errorf("%d NOPs: the %s checksum is wrong", len(lead), bad)
			}
			got := binary.BigEndian.Uint16(b[at+20+len(lead)+2:])
			if want := uint16(DefaultMTU - at - 20); got != want {
				t.Errorf("the segment size is %d, want %d", got, want)
			}
			for hops := 62; hops > 0; hops-- {
				decrementHops(b)
			}
			if hopsLeft(b) {
				t.Error("the last hop is not the last")
			}
			if bad := checksums(b); bad != "" {
				t.Errorf("after 63 hops the %s checksum is wrong", bad)
			}
		}
	}
}

func FuzzClampMSS(f *testing.F) {
	f.Add([]byte{2, 4, 5, 0xb4})
	f.Add([]byte{1, 1, 2, 4, 0xff, 0xff, 0, 0})
	f.Add([]byte{2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, options []byte) {
		options = options[:min(len(options), 40)&^3]
		seg := append(rawTCP(end4a, end4b, header.TCPFlagSyn, 1, 0, "")[20:], options...)
		seg[12] = byte(len(seg)/4) << 4
		b := rawIP(end4a.Addr(), end4b.Addr(), 6, seg)
		clampMSS(b, 20, DefaultMTU)
		if bad := checksums(b); bad != "" {
			t.Errorf("the %s checksum is wrong", bad)
		}
	})
}
