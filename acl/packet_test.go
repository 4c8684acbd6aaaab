package acl

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
)

// parseReason parses b, which must not have room behind its end.
func parseReason(b []byte) Reason {
	var p Packet
	return p.Parse(b[:len(b):len(b)])
}

func wantReason(t *testing.T, what string, b []byte, want Reason) {
	t.Helper()
	if got := parseReason(b); got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestParseAccepts(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for what, b := range map[string][]byte{
			"syn":     tcp(v6, nLaptop, nSTT, 40000, 443, FlagSYN, ""),
			"ecn syn": tcp(v6, nLaptop, nSTT, 40000, 443, FlagSYN|0xc0, ""),
			"syn-ack": tcp(v6, nSTT, nLaptop, 443, 40000, FlagSYN|FlagACK, ""),
			"ack":     tcp(v6, nLaptop, nSTT, 40000, 443, FlagACK, ""),
			"data":    tcp(v6, nLaptop, nSTT, 40000, 443, FlagACK|FlagPSH, "GET /"),
			"urgent":  tcp(v6, nLaptop, nSTT, 40000, 443, FlagACK|FlagPSH|FlagURG, "!"),
			"fin":     tcp(v6, nLaptop, nSTT, 40000, 443, FlagACK|FlagFIN, ""),
			"rst":     tcp(v6, nLaptop, nSTT, 40000, 443, FlagRST, ""),
			"rst-ack": tcp(v6, nLaptop, nSTT, 40000, 443, FlagRST|FlagACK, ""),
			"udp":     udp(v6, nLaptop, nSTT, 40000, 9000),
			"ping":    ping(v6, nLaptop, nSTT, 7),
			"pong":    pong(v6, nSTT, nLaptop, 7),
			"error":   unreachable(v6, nSTT, nLaptop, udp(v6, nLaptop, nSTT, 40000, 9000)),
			"super":   tcp(v6, nLaptop, nSTT, 40000, 443, FlagACK, strings.Repeat("x", 65535-60)),
		} {
			wantReason(t, what, b, 0)
		}
	})
	var p Packet
	if r := p.Parse(tcp(true, nLaptop, nSTT, 40000, 443, FlagACK|FlagPSH, "GET /")); r != 0 {
		t.Fatal(r)
	}
	if p.Src() != at6(nLaptop) || p.Dst() != at6(nSTT) || p.SrcPort() != 40000 || p.DstPort() != 443 || p.Proto() != ProtoTCP ||
		p.Flags() != FlagACK|FlagPSH || p.HeaderLen() != 40 || p.PayloadOffset() != 60 || p.Len() != 65 || !p.Is6() || !p.Rejectable() {
		t.Errorf("parsed %+v", p)
	}
}

// wireguard-go adds the header length in 16 bits: these payload lengths reach
// us as packets of 0 to 39 bytes.
func TestP01_IPv6LengthWrap(t *testing.T) {
	whole := tcp(true, nLaptop, nSTT, 40000, 443, FlagSYN, strings.Repeat("\x00", 20))
	for length := 65496; length <= 65535; length++ {
		b := append([]byte(nil), whole...)
		binary.BigEndian.PutUint16(b[4:], uint16(length))
		for _, cut := range []int{length + 40 - 65536, len(b)} {
			if r := parseReason(b[:cut]); r == 0 {
				t.Fatalf("payload length %d in %d bytes: accepted", length, cut)
			}
		}
	}
}

func TestP01_EveryShortLength(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for what, whole := range map[string][]byte{
			"tcp":   tcp(v6, nLaptop, nSTT, 40000, 443, FlagSYN, ""),
			"udp":   udp(v6, nLaptop, nSTT, 40000, 9000),
			"ping":  ping(v6, nLaptop, nSTT, 7),
			"error": unreachable(v6, nSTT, nLaptop, tcp(v6, nLaptop, nSTT, 40000, 443, FlagSYN, "")),
		} {
			for n := range whole {
				wantOneOf(t, fmt.Sprintf("%s cut to %d", what, n), whole[:n], ReasonShort, ReasonLength)
			}
			for n := 1; n <= 20; n++ {
				wantReason(t, fmt.Sprintf("%s with %d more", what, n), append(whole[:len(whole):len(whole)], make([]byte, n)...), ReasonLength)
			}
		}
		// The same lengths when the header agrees: only whole ones pass.
		for n := 0; n < 20; n++ {
			wantReason(t, "tcp of too few bytes", ip(at(v6, nLaptop), at(v6, nSTT), 6, make([]byte, n)), ReasonLength)
		}
		for n := 0; n < 8; n++ {
			wantReason(t, "udp of too few bytes", ip(at(v6, nLaptop), at(v6, nSTT), 17, make([]byte, n)), ReasonLength)
			wantReason(t, "icmp of too few bytes", ip(at(v6, nLaptop), at(v6, nSTT), 1, make([]byte, n)), ReasonLength)
		}
	})
}

func wantOneOf(t *testing.T, what string, b []byte, want ...Reason) {
	t.Helper()
	got := parseReason(b)
	for _, w := range want {
		if got == w {
			return
		}
	}
	t.Errorf("%s: %q, want one of %v", what, got, want)
}

func TestMeshA1_PayloadLengthBeyondPacket(t *testing.T) {
	for _, length := range []uint16{0xffd8, 0xffd9, 0xffe0, 0xffff} {
		b := tcp(true, nLaptop, nSTT, 40000, 443, FlagSYN, strings.Repeat("x", 20))
		binary.BigEndian.PutUint16(b[4:], length)
		wantReason(t, fmt.Sprintf("%#x in 80 bytes", length), b, ReasonLength)
		wantReason(t, fmt.Sprintf("%#x as wireguard-go cuts it", length), b[:uint16(length+40)], ReasonShort)
	}
}

func TestMeshA2_IPv4Lengths(t *testing.T) {
	set := func(at int, v byte) []byte {
		b := tcp(false, nLaptop, nSTT, 40000, 443, FlagSYN, "")
		b[at] = v
		return b
	}
	for ihl := byte(0); ihl < 5; ihl++ {
		wantReason(t, "IHL below 5", set(0, 0x40|ihl), ReasonLength)
	}
	wantReason(t, "IHL beyond the packet", set(0, 0x4f), ReasonOptions)
	wantReason(t, "total length below the buffer", set(3, 39), ReasonLength)
	wantReason(t, "total length beyond the buffer", set(3, 41), ReasonLength)
	wantReason(t, "total length below the header", set(3, 19), ReasonLength)
	wantReason(t, "total length 0", set(3, 0), ReasonLength)
	wantReason(t, "20 bytes that say TCP", ip(at4(nLaptop), at4(nSTT), 6, nil), ReasonLength)
}

func TestMeshA3_Version(t *testing.T) {
	for v := byte(0); v < 16; v++ {
		if v == 4 || v == 6 {
			continue
		}
		b := tcp(v%2 == 0, nLaptop, nSTT, 40000, 443, FlagSYN, "")
		b[0] = v<<4 | b[0]&0x0f
		wantReason(t, fmt.Sprintf("version %d", v), b, ReasonVersion)
	}
	wantReason(t, "empty", nil, ReasonShort)
	// A packet that failed leaves nothing behind for the next one in a vector.
	var p Packet
	for range 2 {
		if r := p.Parse(tcp(true, nLaptop, nSTT, 40000, 443, FlagSYN, "")); r != 0 || p.DstPort() != 443 {
			t.Fatalf("%v, %+v", r, p)
		}
		if r := p.Parse([]byte{0x60, 1, 2}); r != ReasonShort || p.DstPort() != 0 || p.Src().IsValid() {
			t.Fatalf("%v, %+v", r, p)
		}
	}
}

// chain builds a packet with the extension headers, the last of which names
// proto.
func chain(headers []byte, ext []byte, proto byte, transport []byte) []byte {
	var body []byte
	for i := range headers {
		next := proto
		if i+1 < len(headers) {
			next = headers[i+1]
		}
		body = append(body, next, ext[i], 0, 0, 0, 0, 0, 0)
	}
	b := ip(at6(nLaptop), at6(nSTT), headers[0], append(body, transport...))
	b[6] = headers[0]
	return b
}

func TestP06_MeshA4_ExtensionHeaders(t *testing.T) {
	syn := tcpHeader(40000, 443, FlagSYN, "")
	for _, h := range []byte{0, 43, 50, 51, 59, 60, 135, 139, 140, 253, 254} {
		wantReason(t, fmt.Sprintf("header %d before TCP", h), chain([]byte{h}, []byte{0}, 6, syn), ReasonExtension)
		wantReason(t, fmt.Sprintf("header %d with length 255", h), chain([]byte{h}, []byte{255}, 6, syn), ReasonExtension)
		wantReason(t, fmt.Sprintf("header %d cut short", h), chain([]byte{h}, []byte{0}, 6, nil)[:44], ReasonLength)
	}
	for n := 2; n <= 20; n++ {
		headers, ext := make([]byte, n), make([]byte, n)
		for i := range headers {
			headers[i] = []byte{0, 60, 43}[i%3]
		}
		wantReason(t, fmt.Sprintf("%d headers", n), chain(headers, ext, 6, syn), ReasonExtension)
	}
	wantReason(t, "fragment after hop-by-hop", chain([]byte{0, 44}, []byte{0, 0}, 6, syn), ReasonExtension)
	wantReason(t, "fragment twice", chain([]byte{44, 44}, []byte{0, 0}, 6, syn), ReasonFragment)
	wantReason(t, "ICMP of the other family", chain([]byte{1}, []byte{0}, 6, syn), ReasonProtocol)
}

func TestP07_IPv4Options(t *testing.T) {
	for what, option := range map[string][]byte{
		"loose source route":  {131, 7, 4, 10, 77, 0, 1, 0},
		"strict source route": {137, 7, 4, 10, 77, 0, 1, 0},
		"record route":        {7, 7, 4, 0, 0, 0, 0, 0},
		"timestamp":           {68, 8, 5, 0, 0, 0, 0, 0},
		"router alert":        {148, 4, 0, 0},
		"nothing, 40 times":   []byte(strings.Repeat("\x01", 40)),
		"end":                 {0, 0, 0, 0},
	} {
		b := ip(at4(nLaptop), at4(nSTT), 6, append(append([]byte(nil), option...), tcpHeader(40000, 443, FlagSYN, "")...))
		b[0] = 0x45 + byte(len(option)/4)
		wantReason(t, what, b, ReasonOptions)
	}
	for ihl := byte(6); ihl < 16; ihl++ {
		b := ip(at4(nLaptop), at4(nSTT), 17, make([]byte, 100))
		b[0] = 0x40 | ihl
		wantReason(t, fmt.Sprintf("IHL %d", ihl), b, ReasonOptions)
	}
}

func TestP08_UnknownProtocols(t *testing.T) {
	// The payload looks like TCP to port 443, for whoever would read it so.
	for proto := range 256 {
		b4 := ip(at4(nLaptop), at4(nSTT), byte(proto), tcpHeader(40000, 443, FlagSYN, ""))
		if proto != 6 && proto != 17 && proto != 1 {
			wantReason(t, fmt.Sprintf("IPv4 protocol %d", proto), b4, ReasonProtocol)
		}
		b6 := ip(at6(nLaptop), at6(nSTT), 6, tcpHeader(40000, 443, FlagSYN, ""))
		b6[6] = byte(proto)
		if proto != 6 && proto != 17 && proto != 58 {
			wantOneOf(t, fmt.Sprintf("IPv6 next header %d", proto), b6, ReasonProtocol, ReasonExtension, ReasonFragment)
		}
	}
}

func TestP09_MeshD16_TCPFlags(t *testing.T) {
	valid := map[byte]bool{}
	for _, f := range []byte{FlagSYN, FlagSYN | FlagACK} {
		valid[f] = true
	}
	for _, f := range []byte{FlagRST, FlagRST | FlagACK, FlagACK, FlagACK | FlagURG, FlagFIN | FlagACK, FlagFIN | FlagACK | FlagURG} {
		valid[f], valid[f|FlagPSH] = true, true
	}
	for flags := byte(0); flags < 64; flags++ {
		want := ReasonFlags
		if valid[flags] {
			want = 0
		}
		wantReason(t, fmt.Sprintf("flags %06b", flags), tcp(false, nLaptop, nSTT, 40000, 443, flags, ""), want)
	}
	for what, flags := range map[string]byte{"null": 0, "Xmas": FlagFIN | FlagPSH | FlagURG, "SYN+FIN": FlagSYN | FlagFIN, "SYN+RST": FlagSYN | FlagRST, "FIN": FlagFIN} {
		wantReason(t, what, tcp(true, nLaptop, nSTT, 40000, 443, flags, ""), ReasonFlags)
	}
	wantReason(t, "SYN with data", tcp(false, nLaptop, nSTT, 40000, 443, FlagSYN, "x"), ReasonSYNData)
	wantReason(t, "SYN-ACK with data", tcp(false, nLaptop, nSTT, 40000, 443, FlagSYN|FlagACK, "x"), ReasonSYNData)
	for offset := range byte(16) {
		b := tcp(false, nLaptop, nSTT, 40000, 443, FlagACK, "01234567890123456789")
		b[20+12] = offset << 4
		want := Reason(0)
		if offset < 5 || offset > 10 {
			want = ReasonTransport
		}
		wantReason(t, fmt.Sprintf("data offset %d", offset), b, want)
	}
	wantReason(t, "port 0", tcp(false, nLaptop, nSTT, 0, 443, FlagSYN, ""), ReasonPort)
	wantReason(t, "to port 0", tcp(false, nLaptop, nSTT, 40000, 0, FlagSYN, ""), ReasonPort)
}

func TestUDPLength(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for length := range 40 {
			h := udpHeader(40000, 9000, "hello")
			binary.BigEndian.PutUint16(h[4:], uint16(length))
			want := ReasonTransport
			if length == len(h) {
				want = 0
			}
			wantReason(t, fmt.Sprintf("length %d", length), ip(at(v6, nLaptop), at(v6, nSTT), 17, h), want)
		}
		wantReason(t, "port 0", udp(v6, nLaptop, nSTT, 0, 9000), ReasonPort)
	})
}

func TestP11_ICMPTypes(t *testing.T) {
	quoted := map[bool][]byte{
		false: udp(false, nLaptop, nSTT, 40000, 9000),
		true:  udp(true, nLaptop, nSTT, 40000, 9000),
	}
	families(t, func(t *testing.T, v6 bool) {
		pass := map[int]bool{0: true, 3: true, 8: true, 11: true, 12: true}
		if v6 {
			pass = map[int]bool{1: true, 2: true, 3: true, 4: true, 128: true, 129: true}
		}
		for typ := range 256 {
			want := ReasonICMPKind
			if pass[typ] {
				want = 0
			}
			b := ip(at(v6, nSTT), at(v6, nLaptop), 1, icmpHeader(byte(typ), 0, 1400, quoted[v6]))
			wantReason(t, fmt.Sprintf("type %d", typ), b, want)
		}
	})
	for what, typ := range map[string]byte{"redirect": 137, "router advertisement": 134, "router solicitation": 133, "neighbour solicitation": 135, "neighbour advertisement": 136, "MLD": 143} {
		wantReason(t, what, ip(at6(nSTT), at6(nLaptop), 1, icmpHeader(typ, 0, 0, make([]byte, 32))), ReasonICMPKind)
	}
	wantReason(t, "IPv4 redirect", ip(at4(nSTT), at4(nLaptop), 1, icmpHeader(5, 1, 0x0a4d0001, quoted[false])), ReasonICMPKind)
	wantReason(t, "echo with a code", ip(at4(nSTT), at4(nLaptop), 1, icmpHeader(8, 1, 0, nil)), ReasonICMPKind)
}

func TestP11_PacketTooBig(t *testing.T) {
	for mtu, want := range map[uint32]Reason{0: ReasonICMPSize, 68: ReasonICMPSize, 575: ReasonICMPSize, 576: 0, 1280: 0, 1500: 0} {
		b := ip(at4(nSTT), at4(nLaptop), 1, icmpHeader(3, 4, mtu, tcp(false, nLaptop, nSTT, 40000, 443, FlagACK, "data")))
		wantReason(t, fmt.Sprintf("fragmentation needed, MTU %d", mtu), b, want)
	}
	for mtu, want := range map[uint32]Reason{0: ReasonICMPSize, 1279: ReasonICMPSize, 1280: 0, 65576: 0} {
		b := ip(at6(nSTT), at6(nLaptop), 1, icmpHeader(2, 0, mtu, tcp(true, nLaptop, nSTT, 40000, 443, FlagACK, "data")))
		wantReason(t, fmt.Sprintf("packet too big, MTU %d", mtu), b, want)
	}
}

func TestP11_Quotes(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		head := 20
		if v6 {
			head = 40
		}
		quote := func(change func(q []byte) []byte) []byte {
			return unreachable(v6, nSTT, nLaptop, change(tcp(v6, nLaptop, nSTT, 40000, 443, FlagACK, "data")))
		}
		wantReason(t, "whole", quote(func(q []byte) []byte { return q }), 0)
		wantReason(t, "eight transport bytes", quote(func(q []byte) []byte { return q[:head+8] }), 0)
		for n := range head + 8 {
			wantReason(t, fmt.Sprintf("cut to %d", n), quote(func(q []byte) []byte { return q[:n] }), ReasonICMPQuote)
		}
		wantReason(t, "somebody else's packet", unreachable(v6, nSTT, nLaptop, tcp(v6, nDesk, nSTT, 40000, 443, FlagACK, "")), ReasonICMPQuote)
		wantReason(t, "a packet to somebody else", unreachable(v6, nSTT, nLaptop, tcp(v6, nLaptop, nDesk, 40000, 443, FlagACK, "")), ReasonICMPQuote)
		wantReason(t, "not swapped", unreachable(v6, nSTT, nLaptop, tcp(v6, nSTT, nLaptop, 443, 40000, FlagACK, "")), ReasonICMPQuote)
		wantReason(t, "an error about an error", unreachable(v6, nSTT, nLaptop, unreachable(v6, nLaptop, nSTT, udp(v6, nSTT, nLaptop, 1, 2))), ReasonICMPQuote)
		wantReason(t, "the other family", quote(func([]byte) []byte { return tcp(!v6, nLaptop, nSTT, 40000, 443, FlagACK, strings.Repeat("x", 40)) }), ReasonICMPQuote)
		wantReason(t, "another protocol", quote(func(q []byte) []byte {
			if v6 {
				q[6] = 47
			} else {
				q[9] = 47
			}
			return q
		}), ReasonICMPQuote)
		wantReason(t, "port 0", quote(func(q []byte) []byte { q[head], q[head+1] = 0, 0; return q }), ReasonICMPQuote)
		wantReason(t, "an impossible length", quote(func(q []byte) []byte {
			if v6 {
				q[4], q[5] = 0, 7
			} else {
				q[2], q[3] = 0, 27
			}
			return q
		}), ReasonICMPQuote)
	})
	options := tcp(false, nLaptop, nSTT, 40000, 443, FlagACK, "data")
	options[0] = 0x46
	wantReason(t, "quoted options", unreachable(false, nSTT, nLaptop, options), ReasonICMPQuote)
	fragment := udp(false, nLaptop, nSTT, 40000, 443)
	fragment[6] = 0x20
	wantReason(t, "quoted fragment", unreachable(false, nSTT, nLaptop, fragment), ReasonICMPQuote)
	wantReason(t, "quoted extension header", unreachable(true, nSTT, nLaptop, chain([]byte{0}, []byte{0}, 6, tcpHeader(40000, 443, FlagSYN, ""))), ReasonICMPQuote)
}
