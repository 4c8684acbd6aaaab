package acl

import (
	"encoding/binary"
	"net/netip"
)

// Packet is what the policy needs to know about one IP packet. It holds no
// pointer into the bytes it was parsed from, so those may be reused at once;
// it has a fixed size and is meant to be reused as well. The zero value, and a
// Packet whose Parse failed, is refused by every method of Gate.
//
// A Packet is not safe for use by several goroutines at once.
type Packet struct {
	src, dst         address
	length           int // the whole packet, bytes
	payload          int // where the transport payload begins, bytes
	srcPort, dstPort uint16
	reason           Reason // why Parse refused, 0 = it did not
	proto            Proto
	kind             kind
	flags            uint8
	v6               bool
	quote            quote
}

// address is an IP address in host integers. An IPv4 address has hi 0 and is
// told apart by Packet.v6, never by its value: ::10.77.0.2 is not 10.77.0.2.
type address struct{ hi, lo uint64 }

// quote is the beginning of the packet that an ICMP error is about. Its
// addresses are not stored: Parse insists that they are those of the error
// itself, swapped.
type quote struct {
	srcPort, dstPort uint16
	proto            Proto
	kind             kind
}

// kind is what a packet means for the flow table.
type kind uint8

const (
	kindNone  kind = iota // not parsed
	kindOpen              // TCP: a clean SYN
	kindMid               // TCP: anything else
	kindUDP               // UDP
	kindPing              // ICMP echo request
	kindPong              // ICMP echo reply
	kindError             // ICMP error with a well-formed quote
)

// TCP flag bits, RFC 9293 section 3.1.
const (
	FlagFIN = 0x01
	FlagSYN = 0x02
	FlagRST = 0x04
	FlagPSH = 0x08
	FlagACK = 0x10
	FlagURG = 0x20
)

const (
	headerLen4   = 20
	headerLen6   = 40
	headerLenTCP = 20
	headerLenUDP = 8
	protoICMPv6  = 58
)

// Parse reads the packet in b, once, and returns 0 or the reason why it must
// be dropped. It accepts exactly one shape: an IPv4 header without options or
// an IPv6 header without extensions, directly followed by TCP, UDP, ICMP or
// ICMPv6, whole, with every length field agreeing with len(b). Everything else
// is refused: at the tunnel's MTU no honest sender needs it, and every parser
// that follows (our own stack, the other peer's kernel) is spared it.
//
// Parse does not check checksums; who delivers the payload does. It does not
// allocate and does not keep b.
func (p *Packet) Parse(b []byte) Reason {
	*p = Packet{length: len(b)}
	p.reason = p.parse(b)
	if p.reason != 0 {
		p.kind = kindNone
	}
	return p.reason
}

func (p *Packet) parse(b []byte) Reason {
	// The length comes first. wireguard-go computes the length of an inner
	// IPv6 packet in 16 bits, so a payload length of 65496 to 65535 wraps and
	// an authenticated peer can make it hand over an "IPv6 packet" of 0 to 39
	// bytes.
	if len(b) < headerLen4 {
		return ReasonShort
	}
	switch b[0] >> 4 {
	case 4:
		return p.parse4(b)
	case 6:
		return p.parse6(b)
	}
	return ReasonVersion
}

func (p *Packet) parse4(b []byte) Reason {
	p.src.lo = uint64(binary.BigEndian.Uint32(b[12:16]))
	p.dst.lo = uint64(binary.BigEndian.Uint32(b[16:20]))
	// Source routing, record route and timestamp travel as options; none is
	// legitimate here, and stacks have crashed on quoting them.
	switch ihl := int(b[0]&0x0f) * 4; {
	case ihl < headerLen4:
		return ReasonLength
	case ihl > headerLen4:
		return ReasonOptions
	}
	// Equal, not at least: trailing bytes are a second packet for somebody.
	if int(binary.BigEndian.Uint16(b[2:4])) != len(b) {
		return ReasonLength
	}
	// The first fragment may hide the ports in the second (RFC 1858), later
	// ones may overwrite them (RFC 3128). Only Don't Fragment may be set.
	if binary.BigEndian.Uint16(b[6:8])&^0x4000 != 0 {
		return ReasonFragment
	}
	return p.parseTransport(b, headerLen4, b[9])
}

func (p *Packet) parse6(b []byte) Reason {
	if len(b) < headerLen6 {
		return ReasonShort
	}
	p.v6 = true
	p.src = address{binary.BigEndian.Uint64(b[8:16]), binary.BigEndian.Uint64(b[16:24])}
	p.dst = address{binary.BigEndian.Uint64(b[24:32]), binary.BigEndian.Uint64(b[32:40])}
	// In int, never in uint16: see parse.
	if headerLen6+int(binary.BigEndian.Uint16(b[4:6])) != len(b) {
		return ReasonLength
	}
	return p.parseTransport(b, headerLen6, b[6])
}

// parseTransport reads the header at b[at:]. at <= len(b).
func (p *Packet) parseTransport(b []byte, at int, proto byte) Reason {
	switch {
	case proto == byte(ProtoTCP):
		return p.parseTCP(b, at)
	case proto == byte(ProtoUDP):
		return p.parseUDP(b, at)
	case proto == byte(ProtoICMP) && !p.v6, proto == protoICMPv6 && p.v6:
		return p.parseICMP(b, at)
	case proto == 44 && p.v6:
		// An atomic fragment too: it says nothing that its absence does not.
		return ReasonFragment
	case p.v6 && isExtension(proto):
		return ReasonExtension
	}
	return ReasonProtocol
}

// isExtension reports whether proto is an IPv6 extension header other than the
// fragment header: hop-by-hop, routing, ESP, AH, no next header, destination
// options, mobility, HIP, shim6 and the two experimental numbers (the IANA
// registry of IPv6 extension header types).
func isExtension(proto byte) bool {
	switch proto {
	case 0, 43, 50, 51, 59, 60, 135, 139, 140, 253, 254:
		return true
	}
	return false
}

func (p *Packet) parseTCP(b []byte, at int) Reason {
	if len(b) < at+headerLenTCP {
		return ReasonLength
	}
	p.proto = ProtoTCP
	p.srcPort = binary.BigEndian.Uint16(b[at : at+2])
	p.dstPort = binary.BigEndian.Uint16(b[at+2 : at+4])
	p.flags = b[at+13] & 0x3f
	offset := int(b[at+12]>>4) * 4
	if offset < headerLenTCP || at+offset > len(b) {
		return ReasonTransport
	}
	p.payload = at + offset
	if p.srcPort == 0 || p.dstPort == 0 {
		return ReasonPort
	}
	// Scanners and filter evasion live on combinations that no stack sends
	// (null, Xmas, SYN+FIN); stacks disagree on what they mean.
	switch p.flags &^ FlagPSH {
	case FlagSYN, FlagSYN | FlagACK:
		// Data in a SYN is delivered before the handshake has proven that the
		// sender can hear us, and PSH on a SYN promises just that.
		if p.flags&FlagPSH != 0 {
			return ReasonFlags
		}
		if p.payload != len(b) {
			return ReasonSYNData
		}
	case FlagRST, FlagRST | FlagACK, FlagACK, FlagACK | FlagURG, FlagFIN | FlagACK, FlagFIN | FlagACK | FlagURG:
	default:
		return ReasonFlags
	}
	p.kind = kindMid
	if p.flags == FlagSYN {
		p.kind = kindOpen
	}
	return 0
}

func (p *Packet) parseUDP(b []byte, at int) Reason {
	if len(b) < at+headerLenUDP {
		return ReasonLength
	}
	p.proto = ProtoUDP
	p.srcPort = binary.BigEndian.Uint16(b[at : at+2])
	p.dstPort = binary.BigEndian.Uint16(b[at+2 : at+4])
	p.payload = at + headerLenUDP
	// Zero (a jumbogram) and a surplus area after the datagram are refused
	// like any other disagreement.
	if int(binary.BigEndian.Uint16(b[at+4:at+6])) != len(b)-at {
		return ReasonTransport
	}
	if p.srcPort == 0 || p.dstPort == 0 {
		return ReasonPort
	}
	p.kind = kindUDP
	return 0
}

// Src returns where the packet claims to come from, the zero Addr when Parse
// did not get that far.
func (p *Packet) Src() netip.Addr { return p.addr(p.src) }

// Dst returns where the packet is going, the zero Addr when Parse did not get
// that far.
func (p *Packet) Dst() netip.Addr { return p.addr(p.dst) }

func (p *Packet) addr(a address) netip.Addr {
	switch {
	case a == address{}:
		return netip.Addr{}
	case !p.v6:
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(a.lo))
		return netip.AddrFrom4(b)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	return netip.AddrFrom16(b)
}

// Reason returns what Parse returned.
func (p *Packet) Reason() Reason {
	if p.kind == kindNone && p.reason == 0 {
		return ReasonShort
	}
	return p.reason
}

// Proto returns the protocol, with ICMPv6 given as ProtoICMP.
func (p *Packet) Proto() Proto { return p.proto }

// SrcPort returns the source port; for an ICMP echo its identifier.
func (p *Packet) SrcPort() uint16 { return p.srcPort }

// DstPort returns the destination port, 0 for ICMP.
func (p *Packet) DstPort() uint16 { return p.dstPort }

// Flags returns the six classic TCP flags, 0 for other protocols.
func (p *Packet) Flags() uint8 { return p.flags }

// Is6 reports whether this is an IPv6 packet.
func (p *Packet) Is6() bool { return p.v6 }

// Len returns the length of the whole packet, bytes.
func (p *Packet) Len() int { return p.length }

// HeaderLen returns the offset of the transport header, bytes: 20 or 40.
func (p *Packet) HeaderLen() int {
	if p.v6 {
		return headerLen6
	}
	return headerLen4
}

// PayloadOffset returns where the transport payload begins, bytes from the
// start of the packet.
func (p *Packet) PayloadOffset() int { return p.payload }

// Rejectable reports whether a refusal of this packet may be answered (with a
// reset or an ICMP error): it parsed, and it is neither an ICMP error, nor an
// echo reply, nor a TCP reset, so that no answer ever answers an answer (RFC
// 1122 section 3.2.2).
func (p *Packet) Rejectable() bool {
	switch p.kind {
	case kindOpen, kindUDP, kindPing:
		return true
	case kindMid:
		return p.flags&FlagRST == 0
	}
	return false
}
