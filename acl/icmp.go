package acl

import "encoding/binary"

// ICMP and ICMPv6 types that may pass: RFC 792, RFC 4443.
const (
	icmp4EchoReply    = 0
	icmp4Unreachable  = 3
	icmp4Echo         = 8
	icmp4TimeExceeded = 11
	icmp4Parameter    = 12

	icmp6Unreachable  = 1
	icmp6TooBig       = 2
	icmp6TimeExceeded = 3
	icmp6Parameter    = 4
	icmp6Echo         = 128
	icmp6EchoReply    = 129

	icmp4CodeTooBig = 4 // of icmp4Unreachable

	// The smallest link either family must support. An error that claims less
	// is an attempt to make a victim send tiny packets (RFC 8201 section 4,
	// RFC 791).
	minMTU4 = 576
	minMTU6 = 1280

	headerLenICMP = 8
	maxCode       = 15
)

// parseICMP accepts echoes and the errors a path can send. Redirects, router
// and neighbour discovery, multicast listener messages, timestamps and every
// other type are refused: inside the tunnel there is no link to configure, so
// only an attacker sends them.
func (p *Packet) parseICMP(b []byte, at int) Reason {
	if len(b) < at+headerLenICMP {
		return ReasonLength
	}
	p.proto = ProtoICMP
	p.payload = at + headerLenICMP
	typ, code := b[at], b[at+1]
	switch {
	case p.echo(typ):
		if code != 0 {
			return ReasonICMPKind
		}
		p.srcPort = binary.BigEndian.Uint16(b[at+4 : at+6])
		p.kind = kindPing
		if typ == icmp4EchoReply || typ == icmp6EchoReply {
			p.kind = kindPong
		}
		return 0
	case !p.pathError(typ) || code > maxCode:
		return ReasonICMPKind
	}
	if r := p.checkMTU(b, at); r != 0 {
		return r
	}
	if !p.parseQuote(b[at+headerLenICMP:]) {
		return ReasonICMPQuote
	}
	p.kind = kindError
	return 0
}

// echo reports whether typ is an echo request or reply of p's family. The
// numbers of one family mean other things in the other.
func (p *Packet) echo(typ byte) bool {
	if p.v6 {
		return typ == icmp6Echo || typ == icmp6EchoReply
	}
	return typ == icmp4Echo || typ == icmp4EchoReply
}

// pathError reports whether typ is an error about a packet on its way.
func (p *Packet) pathError(typ byte) bool {
	if p.v6 {
		return typ >= icmp6Unreachable && typ <= icmp6Parameter
	}
	return typ == icmp4Unreachable || typ == icmp4TimeExceeded || typ == icmp4Parameter
}

// checkMTU refuses a packet-too-big that names a size no link may have.
func (p *Packet) checkMTU(b []byte, at int) Reason {
	switch typ := b[at]; {
	case p.v6 && typ == icmp6TooBig:
		if b[at+1] != 0 {
			return ReasonICMPKind
		}
		if binary.BigEndian.Uint32(b[at+4:at+8]) < minMTU6 {
			return ReasonICMPSize
		}
	case !p.v6 && typ == icmp4Unreachable && b[at+1] == icmp4CodeTooBig:
		if binary.BigEndian.Uint16(b[at+6:at+8]) < minMTU4 {
			return ReasonICMPSize
		}
	}
	return 0
}

// parseQuote reads the packet that an ICMP error quotes and reports whether it
// is one that could have gone the other way: same addresses swapped, no
// options, no extension headers, no fragment, TCP, UDP or echo, and at least
// the eight transport bytes that every error must quote. The quote may be cut
// short (that is normal), so its total length is only checked to be possible.
func (p *Packet) parseQuote(q []byte) bool {
	var at int
	var proto byte
	if p.v6 {
		if len(q) < headerLen6+8 || q[0]>>4 != 6 || binary.BigEndian.Uint16(q[4:6]) < 8 {
			return false
		}
		src := address{binary.BigEndian.Uint64(q[8:16]), binary.BigEndian.Uint64(q[16:24])}
		dst := address{binary.BigEndian.Uint64(q[24:32]), binary.BigEndian.Uint64(q[32:40])}
		if src != p.dst || dst != p.src {
			return false
		}
		at, proto = headerLen6, q[6]
	} else {
		// 0x45: a header with options has crashed stacks that forward the
		// error, so it is not forwarded.
		if len(q) < headerLen4+8 || q[0] != 0x45 || binary.BigEndian.Uint16(q[2:4]) < headerLen4+8 {
			return false
		}
		if binary.BigEndian.Uint16(q[6:8])&^0x4000 != 0 {
			return false
		}
		src := address{0, uint64(binary.BigEndian.Uint32(q[12:16]))}
		dst := address{0, uint64(binary.BigEndian.Uint32(q[16:20]))}
		if src != p.dst || dst != p.src {
			return false
		}
		at, proto = headerLen4, q[9]
	}
	return p.parseQuotedTransport(q[at:], proto)
}

// parseQuotedTransport reads the first eight transport bytes of a quote.
func (p *Packet) parseQuotedTransport(t []byte, proto byte) bool {
	first := binary.BigEndian.Uint16(t[0:2])
	second := binary.BigEndian.Uint16(t[2:4])
	switch {
	case proto == byte(ProtoTCP) && first != 0 && second != 0:
		p.quote = quote{first, second, ProtoTCP, kindMid}
	case proto == byte(ProtoUDP) && first != 0 && second != 0:
		p.quote = quote{first, second, ProtoUDP, kindUDP}
	case (proto == byte(ProtoICMP) && !p.v6 || proto == protoICMPv6 && p.v6) && p.echo(t[0]) && t[1] == 0:
		k := kindPing
		if t[0] == icmp4EchoReply || t[0] == icmp6EchoReply {
			k = kindPong
		}
		p.quote = quote{binary.BigEndian.Uint16(t[4:6]), 0, ProtoICMP, k}
	default:
		return false
	}
	return true
}
