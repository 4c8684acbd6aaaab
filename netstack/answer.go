package netstack

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/warrenmesh/warren/acl"
)

// A refusal is said out loud: a person who waits for a timeout learns nothing.
// TCP gets a reset, everything else an ICMP error, each made from the refused
// packet and from nothing else, so that a refusal looks the same whether the
// destination exists or not. Answers are limited per peer; past the limit a
// scanner meets silence.
const (
	answerRate  = 200 // a second
	answerBurst = 100
	// quoted is how much of the refused packet's transport an ICMP error gives
	// back: the eight bytes of RFC 792, no payload of anybody's.
	quoted = 8
)

// Attack: each connection that a peer opens to this node's own stack, and each
// that it only begins or has just dropped, is 8 KiB of ours for up to minutes,
// and a listener has room for thousands. So a peer may open so many, whatever it
// does with them; a SYN beyond is lost, and an honest sender repeats it after a
// second.
const (
	openRate  = 50 // a second
	openBurst = 500
)

// bucket is a token bucket. The zero value is full.
type bucket struct {
	mu    sync.Mutex
	spent float64 // tokens gone
	last  int64   // ns
}

// take reports whether one more is within the limit of rate a second and burst
// at once, at now (ns).
func (b *bucket) take(now int64, rate, burst float64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spent = max(0, b.spent-max(0, float64(now-b.last))/1e9*rate)
	b.last = max(b.last, now)
	if b.spent+1 > burst {
		return false
	}
	b.spent++
	return true
}

// refuseIncoming counts a refused packet of a peer and answers it.
func (p *path) refuseIncoming(s *scratch, b []byte, pkt *acl.Packet, v acl.Verdict) {
	p.counts.refusedIn.Add(1)
	now := p.now()
	if v.Reason == acl.ReasonRevoked && pkt.Proto() == acl.ProtoTCP {
		p.dying.add(netip.AddrPortFrom(pkt.Src(), pkt.SrcPort()), netip.AddrPortFrom(pkt.Dst(), pkt.DstPort()), now)
	}
	ending := p.dying.has(pkt, now)
	if ending && !v.Local {
		p.passReset(b, pkt)
	}
	l := p.table.Load().lookup(pkt.Src())
	if l == nil {
		return
	}
	l.refused.Add(1)
	if pkt.Rejectable() && answerable(pkt.Src(), pkt.Dst()) && (ending || l.answers.take(now, answerRate, answerBurst)) {
		p.answer(l, appendRefusal(s.header[:0], b, pkt, prohibited))
	}
}

// refuseOutgoing answers our own stack, so that a Dial to somewhere the policy
// does not allow fails at once.
func (p *path) refuseOutgoing(b []byte, pkt *acl.Packet) {
	p.counts.refusedOut.Add(1)
	if !pkt.Rejectable() || !answerable(pkt.Src(), pkt.Dst()) {
		return
	}
	// Not from here: the stack may hold the lock of the very endpoint that the
	// answer is for.
	select {
	case p.inject <- appendRefusal(nil, b, pkt, closedPort):
	default:
	}
}

// tooBig tells a peer that its packet does not fit through the tunnel of the
// peer that it is for.
func (p *path) tooBig(b []byte, pkt *acl.Packet) {
	p.counts.tooBig.Add(1)
	l := p.table.Load().lookup(pkt.Src())
	if l != nil && pkt.Rejectable() && answerable(pkt.Src(), pkt.Dst()) && l.answers.take(p.now(), answerRate, answerBurst) {
		p.answer(l, appendICMP(nil, b, pkt, mtuError(pkt, p.mtu)))
	}
}

func (p *path) answer(l *lane, b []byte) {
	if len(b) == 0 {
		return
	}
	it := newCopy(b)
	it.own = true
	p.queue.push(l, uint32(l.id), it)
}

// injectAnswers gives our own stack the answers to its refused packets, until
// the queue is closed.
func (p *path) injectAnswers() {
	for {
		select {
		case b := <-p.inject:
			p.injectOne(b)
		case <-p.queue.closed:
			return
		}
	}
}

func (p *path) injectOne(b []byte) {
	defer p.recovered("answer")
	// Not while SetFilter ends connections: it tells both sides, this only one.
	p.cutting.RLock()
	defer p.cutting.RUnlock()
	if p.kernel != nil {
		room := make([]byte, kernelOffset, kernelOffset+len(b))
		_, _ = p.kernel.Write([][]byte{append(room, b...)}, kernelOffset)
		return
	}
	d := p.link.deliverer()
	if d == nil || len(b) == 0 {
		return
	}
	var proto tcpip.NetworkProtocolNumber = header.IPv4ProtocolNumber
	if b[0]>>4 == 6 {
		proto = header.IPv6ProtocolNumber
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	defer pkt.DecRef()
	d.DeliverNetworkPacket(proto, pkt)
}

// answerable reports whether an answer may go from dst to src: both are single
// machines. Broadcast and multicast are never answered (RFC 1122, 3.2.2).
func answerable(src, dst netip.Addr) bool {
	for _, a := range [2]netip.Addr{src, dst} {
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() ||
			a.IsLinkLocalUnicast() || a.Is4In6() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return false
		}
	}
	return true
}

// icmpKind is an ICMP error in both families' numbers.
type icmpKind struct {
	type4, code4 uint8
	type6, code6 uint8
	rest         uint32 // the second word of the ICMP header
}

var (
	// prohibited is "communication administratively prohibited": RFC 1812
	// section 5.2.7.1, RFC 4443 section 3.1.
	prohibited = icmpKind{type4: 3, code4: 13, type6: 1, code6: 1}
	// closedPort is what our own stack is told: sockets understand it.
	closedPort = icmpKind{type4: 3, code4: 3, type6: 1, code6: 4}
)

// mtuError is "packet too big": RFC 1191, RFC 4443 section 3.2.
func mtuError(pkt *acl.Packet, mtu int) icmpKind {
	return icmpKind{type4: 3, code4: 4, type6: 2, code6: 0, rest: uint32(mtu)}
}

// appendRefusal appends the answer to the refused packet b.
func appendRefusal(dst, b []byte, pkt *acl.Packet, kind icmpKind) []byte {
	if pkt.Proto() == acl.ProtoTCP {
		return appendReset(dst, b, pkt)
	}
	return appendICMP(dst, b, pkt, kind)
}

// appendReset appends the reset that a closed port would send (RFC 9293 section
// 3.10.7.1): it carries the sequence number that the sender expects next, or
// acknowledges all that the sender has sent, and so is the one reset that a
// strict receiver accepts (RFC 5961).
func appendReset(dst, b []byte, pkt *acl.Packet) []byte {
	at := pkt.HeaderLen()
	if len(b) < at+header.TCPMinimumSize {
		return dst
	}
	in := header.TCP(b[at:])
	out := appendIP(dst, b, pkt, header.TCPMinimumSize, uint8(header.TCPProtocolNumber))
	reset := out[len(dst):]
	f := header.TCPFields{
		SrcPort: in.DestinationPort(), DstPort: in.SourcePort(),
		DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagRst,
	}
	if in.Flags().Contains(header.TCPFlagAck) {
		f.SeqNum = in.AckNumber()
	} else {
		f.Flags |= header.TCPFlagAck
		f.AckNum = in.SequenceNumber() + uint32(pkt.Len()-pkt.PayloadOffset())
		if in.Flags()&(header.TCPFlagSyn|header.TCPFlagFin) != 0 {
			f.AckNum++
		}
	}
	header.TCP(reset[at:]).Encode(&f)
	fixTransport(reset, at)
	return out
}

// appendICMP appends an ICMP error about b. Its source is the address that b
// was for: whoever checks that an error comes from where it claims can.
func appendICMP(dst, b []byte, pkt *acl.Packet, kind icmpKind) []byte {
	at := pkt.HeaderLen()
	if len(b) < at+quoted {
		return dst
	}
	quote := b[:at+quoted]
	size := header.ICMPv4MinimumSize + len(quote)
	proto := uint8(header.ICMPv4ProtocolNumber)
	if pkt.Is6() {
		proto = uint8(header.ICMPv6ProtocolNumber)
	}
	out := appendIP(dst, b, pkt, size, proto)
	packet := out[len(dst):]
	m := packet[at:]
	clear(m[:header.ICMPv4MinimumSize])
	m[0], m[1] = kind.type4, kind.code4
	if pkt.Is6() {
		m[0], m[1] = kind.type6, kind.code6
	}
	binary.BigEndian.PutUint32(m[4:], kind.rest)
	copy(m[header.ICMPv4MinimumSize:], quote)
	if pkt.Is6() {
		binary.BigEndian.PutUint16(m[2:], ^transportSum(packet, at, proto))
	} else {
		binary.BigEndian.PutUint16(m[2:], ^sum(m))
	}
	return out
}

// appendIP appends an IP header that goes back to where b came from, and size
// bytes that are not yet written.
func appendIP(dst, b []byte, pkt *acl.Packet, size int, proto uint8) []byte {
	at := pkt.HeaderLen()
	start := len(dst)
	for range at + size {
		dst = append(dst, 0)
	}
	h := dst[start:]
	if pkt.Is6() {
		h[0] = 6 << 4
		binary.BigEndian.PutUint16(h[4:], uint16(size))
		h[6], h[7] = proto, 64
		copy(h[8:24], b[24:40])
		copy(h[24:40], b[8:24])
		return dst
	}
	h[0] = 4<<4 | 5
	h[6] = 0x40 // do not fragment
	h[8], h[9] = 64, proto
	copy(h[12:16], b[16:20])
	copy(h[16:20], b[12:16])
	fixIPv4(h, at)
	return dst
}
