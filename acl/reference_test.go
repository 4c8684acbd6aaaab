package acl

import (
	"encoding/binary"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// The reference: slow, obvious, and sharing nothing with the gate but the
// types. It decodes with gopacket, evaluates plain rules one by one and keeps
// its flows in one map, by the five-tuple as it was opened.

type refPacket struct {
	src, dst         netip.Addr
	proto            Proto
	srcPort, dstPort uint16 // ICMP: the identifier, twice
	syn, ack, fin    bool
	rst              bool
	data             bool
	request, reply   bool       // ICMP echo
	quote            *refPacket // ICMP error
}

// refDecode decodes b, or reports that it must be dropped.
func refDecode(b []byte) (*refPacket, bool) {
	if len(b) < 20 {
		return nil, false
	}
	switch b[0] >> 4 {
	case 4:
		var ip layers.IPv4
		if ip.DecodeFromBytes(b, gopacket.NilDecodeFeedback) != nil || ip.IHL != 5 ||
			int(binary.BigEndian.Uint16(b[2:])) != len(b) || ip.FragOffset != 0 || ip.Flags&^layers.IPv4DontFragment != 0 {
			return nil, false
		}
		src, _ := netip.AddrFromSlice(ip.SrcIP)
		dst, _ := netip.AddrFromSlice(ip.DstIP)
		return refTransport(&refPacket{src: src, dst: dst}, ip.Protocol, b[20:])
	case 6:
		var ip layers.IPv6
		if len(b) < 40 || int(binary.BigEndian.Uint16(b[4:]))+40 != len(b) {
			return nil, false
		}
		if ip.DecodeFromBytes(b, gopacket.NilDecodeFeedback) != nil || ip.HopByHop != nil {
			return nil, false
		}
		src, _ := netip.AddrFromSlice(ip.SrcIP)
		dst, _ := netip.AddrFromSlice(ip.DstIP)
		return refTransport(&refPacket{src: src, dst: dst}, ip.NextHeader, b[40:])
	}
	return nil, false
}

func refTransport(p *refPacket, proto layers.IPProtocol, b []byte) (*refPacket, bool) {
	switch {
	case proto == layers.IPProtocolTCP:
		return refTCP(p, b)
	case proto == layers.IPProtocolUDP:
		var udp layers.UDP
		if len(b) < 8 || udp.DecodeFromBytes(b, gopacket.NilDecodeFeedback) != nil || int(binary.BigEndian.Uint16(b[4:])) != len(b) {
			return nil, false
		}
		p.proto, p.srcPort, p.dstPort = ProtoUDP, uint16(udp.SrcPort), uint16(udp.DstPort)
		return p, p.srcPort != 0 && p.dstPort != 0
	case proto == layers.IPProtocolICMPv4 && p.src.Is4():
		return refICMP4(p, b)
	case proto == layers.IPProtocolICMPv6 && p.src.Is6():
		return refICMP6(p, b)
	}
	return nil, false
}

func refTCP(p *refPacket, b []byte) (*refPacket, bool) {
	if len(b) < 20 {
		return nil, false
	}
	offset := int(b[12] >> 4)
	if offset < 5 || offset*4 > len(b) {
		return nil, false
	}
	// gopacket also judges the options, which is not a packet filter's part.
	header := append([]byte(nil), b[:20]...)
	header[12] = 0x50
	var tcp layers.TCP
	if tcp.DecodeFromBytes(header, gopacket.NilDecodeFeedback) != nil {
		return nil, false
	}
	p.proto, p.srcPort, p.dstPort = ProtoTCP, uint16(tcp.SrcPort), uint16(tcp.DstPort)
	p.syn, p.ack, p.fin, p.rst = tcp.SYN, tcp.ACK, tcp.FIN, tcp.RST
	p.data = offset*4 < len(b)
	if p.srcPort == 0 || p.dstPort == 0 {
		return nil, false
	}
	switch {
	case tcp.SYN:
		return p, !tcp.FIN && !tcp.RST && !tcp.URG && !tcp.PSH && !p.data
	case tcp.RST:
		return p, !tcp.FIN && !tcp.URG
	}
	return p, tcp.ACK
}

func refICMP4(p *refPacket, b []byte) (*refPacket, bool) {
	var icmp layers.ICMPv4
	if len(b) < 8 || icmp.DecodeFromBytes(b, gopacket.NilDecodeFeedback) != nil {
		return nil, false
	}
	p.proto, p.srcPort, p.dstPort = ProtoICMP, icmp.Id, icmp.Id
	switch icmp.TypeCode.Type() {
	case layers.ICMPv4TypeEchoRequest:
		p.request = true
		return p, icmp.TypeCode.Code() == 0
	case layers.ICMPv4TypeEchoReply:
		p.reply = true
		return p, icmp.TypeCode.Code() == 0
	case layers.ICMPv4TypeDestinationUnreachable:
		// The low half of the second word is the next hop's MTU.
		if icmp.TypeCode.Code() == layers.ICMPv4CodeFragmentationNeeded && icmp.Seq < 576 {
			return nil, false
		}
	case layers.ICMPv4TypeTimeExceeded, layers.ICMPv4TypeParameterProblem:
	default:
		return nil, false
	}
	if icmp.TypeCode.Code() > 15 {
		return nil, false
	}
	q := b[8:]
	var ip layers.IPv4
	if len(q) < 28 || q[0]>>4 != 4 || binary.BigEndian.Uint16(q[2:]) < 28 ||
		ip.DecodeFromBytes(q, gopacket.NilDecodeFeedback) != nil || ip.IHL != 5 || ip.FragOffset != 0 || ip.Flags&^layers.IPv4DontFragment != 0 {
		return nil, false
	}
	src, _ := netip.AddrFromSlice(ip.SrcIP)
	dst, _ := netip.AddrFromSlice(ip.DstIP)
	return refQuote(p, &refPacket{src: src, dst: dst}, ip.Protocol, q[20:])
}

func refICMP6(p *refPacket, b []byte) (*refPacket, bool) {
	var icmp layers.ICMPv6
	if len(b) < 8 || icmp.DecodeFromBytes(b, gopacket.NilDecodeFeedback) != nil {
		return nil, false
	}
	id := binary.BigEndian.Uint16(icmp.Payload)
	p.proto, p.srcPort, p.dstPort = ProtoICMP, id, id
	switch icmp.TypeCode.Type() {
	case layers.ICMPv6TypeEchoRequest:
		p.request = true
		return p, icmp.TypeCode.Code() == 0
	case layers.ICMPv6TypeEchoReply:
		p.reply = true
		return p, icmp.TypeCode.Code() == 0
	case layers.ICMPv6TypePacketTooBig:
		if icmp.TypeCode.Code() != 0 || binary.BigEndian.Uint32(icmp.Payload) < 1280 {
			return nil, false
		}
	case layers.ICMPv6TypeDestinationUnreachable, layers.ICMPv6TypeTimeExceeded, layers.ICMPv6TypeParameterProblem:
	default:
		return nil, false
	}
	q := b[8:]
	if icmp.TypeCode.Code() > 15 || len(q) < 48 || q[0]>>4 != 6 || binary.BigEndian.Uint16(q[4:]) < 8 {
		return nil, false
	}
	src, _ := netip.AddrFromSlice(q[8:24])
	dst, _ := netip.AddrFromSlice(q[24:40])
	return refQuote(p, &refPacket{src: src, dst: dst}, layers.IPProtocol(q[6]), q[40:])
}

// refQuote decodes the eight bytes that an error must quote.
func refQuote(p, q *refPacket, proto layers.IPProtocol, b []byte) (*refPacket, bool) {
	first, second, third := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint16(b[4:])
	p.quote = q
	if q.src != p.dst || q.dst != p.src {
		return nil, false
	}
	echo, reply := layers.IPProtocolICMPv4, layers.IPProtocolICMPv6
	switch proto {
	case layers.IPProtocolTCP, layers.IPProtocolUDP:
		q.proto, q.srcPort, q.dstPort = Proto(proto), first, second
		return p, first != 0 && second != 0
	case echo:
		q.request, q.reply = b[0] == 8, b[0] == 0
	case reply:
		q.request, q.reply = b[0] == 128, b[0] == 129
	}
	if (proto == echo) != q.src.Is4() {
		return nil, false
	}
	q.proto, q.srcPort, q.dstPort = ProtoICMP, third, third
	return p, (q.request || q.reply) && b[1] == 0
}

// refPolicy is a world and rules, evaluated one by one.
type refPolicy struct {
	world *World
	rules []plainRule
}

// machine finds whose address a is: a node number, and whether it is a service.
func (r *refPolicy) find(a netip.Addr) (n int, service *Service, ok bool) {
	for n := range gateNames {
		if at4(n) == a || at6(n) == a {
			for i := range r.world.Services {
				if s := &r.world.Services[i]; s.V4 == a || s.V6 == a {
					return n, s, true
				}
			}
			return n, nil, true
		}
	}
	return 0, nil, false
}

func (r *refPolicy) local(a netip.Addr) bool {
	_, s, ok := r.find(a)
	return ok && s != nil && s.Host == ""
}

// allowed is the policy for one packet that opens something.
func (r *refPolicy) allowed(src, dst netip.Addr, proto Proto, port uint16) bool {
	if proto == ProtoICMP {
		port = 0
	}
	from, asService, ok := r.find(src)
	to, service, ok2 := r.find(dst)
	switch {
	case !ok || !ok2 || from == nLocked || to == nLocked || to == nInvite:
		return false
	case from == nInvite:
		return to == nEnrol && proto == ProtoTCP && port == 443
	case to == nEnrol || from == nEnrol:
		return false
	case to == nSync && proto == ProtoTCP && port == 80 && asService == nil:
		return true
	}
	// Household guests has one machine; services of the hub belong to nobody,
	// and llm lives on desk, at home.
	home := func(n int) bool { return n == nLaptop || n == nKitchen || n == nDesk || n == nLLM }
	if from == nGuest && home(to) || to == nGuest && home(from) {
		return false
	}
	if service != nil && !covers(service.Ports, proto, port) {
		return false
	}
	for _, rule := range r.rules {
		if rule.src == from && rule.dst == to && rule.proto == proto &&
			(proto == ProtoICMP || rule.first == 0 || rule.first <= port && port <= rule.last) {
			return true
		}
	}
	return false
}

func covers(ports []Port, proto Proto, port uint16) bool {
	for _, p := range ports {
		if p.Proto == proto && p.First <= port && port <= p.Last {
			return true
		}
	}
	return false
}
