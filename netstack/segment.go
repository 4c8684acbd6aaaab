package netstack

import (
	"encoding/binary"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// slotSize is the largest packet that is copied into the queue. It leaves room
// above every MTU we configure; larger packets are refused before.
const slotSize = 2048

// maxHeader is the most an outgoing TCP packet's headers take: IPv6 and a TCP
// header with all its options.
const maxHeader = header.IPv6MinimumSize + header.TCPHeaderMaximumSize

var itemPool = sync.Pool{New: func() any { return new(item) }}
var slotPool = sync.Pool{New: func() any { return new([slotSize]byte) }}

// newCopy returns an item that holds a copy of b, which must not be longer
// than slotSize.
func newCopy(b []byte) *item {
	it := itemPool.Get().(*item)
	it.buf = slotPool.Get().(*[slotSize]byte)[:len(b)]
	copy(it.buf, b)
	it.size = len(b)
	return it
}

// newLocal returns an item for a packet of our own stack, of which it takes a
// reference, to be cut for mtu.
func newLocal(pkt *stack.PacketBuffer, mtu int) *item {
	it := itemPool.Get().(*item)
	it.pkt = pkt.IncRef()
	it.cut.init(pkt, mtu)
	it.size = it.cut.total()
	return it
}

func putItem(it *item) {
	if it.buf != nil {
		slotPool.Put((*[slotSize]byte)(it.buf[:slotSize]))
	}
	*it = item{}
	itemPool.Put(it)
}

// cutter turns one packet of our own stack into packets that fit the MTU. TCP
// is handed over in pieces of up to 64 KiB (host GSO, as a network card is
// given them), everything else fits already.
//
// The fields above the line belong to the queue's lock, those below to the one
// reader.
type cutter struct {
	busy    bool // the reader is copying
	planned int  // payload bytes that picks have reserved
	// ---
	header  int // bytes of IP and transport header
	payload int // bytes after them
	mss     int // payload bytes per packet
	tcp     bool
	copied  int          // payload bytes that have been copied
	view    *buffer.View // where the next payload byte is
	offset  int
}

func (c *cutter) init(pkt *stack.PacketBuffer, mtu int) {
	c.header = len(pkt.NetworkHeader().Slice()) + len(pkt.TransportHeader().Slice())
	c.payload = pkt.Size() - c.header
	c.mss = max(c.payload, 1)
	if gso := pkt.GSOOptions; gso.Type != stack.GSONone && gso.MSS > 0 {
		c.tcp = true
		c.mss = max(min(int(gso.MSS), mtu-c.header), 1)
	}
}

// total returns how many bytes the packets will have together.
func (c *cutter) total() int {
	n := max((c.payload+c.mss-1)/c.mss, 1)
	return c.payload + n*c.header
}

// reserve plans up to most packets and about budget bytes, at least one packet.
func (c *cutter) reserve(most, budget int) (count, bytes int, last bool) {
	for {
		n := min(c.mss, c.payload-c.planned)
		c.planned += n
		bytes += n + c.header
		count++
		if c.planned >= c.payload {
			return count, bytes, true
		}
		if count >= most || bytes >= budget {
			return count, bytes, false
		}
	}
}

// next writes the next packet into b and returns its length, 0 if b is too
// short. Checksums are complete and of each packet's own; of TCP flags, FIN and
// PSH stay for the last packet and CWR for the first, as RFC 9293 and RFC 3168
// want it of a sender.
func (c *cutter) next(pkt *stack.PacketBuffer, b []byte) int {
	n := min(c.mss, c.payload-c.copied)
	size := c.header + n
	if size > len(b) {
		return 0
	}
	b = b[:size]
	at := copy(b, pkt.NetworkHeader().Slice())
	copy(b[at:], pkt.TransportHeader().Slice())
	c.copyPayload(pkt, b[c.header:])
	first, last := c.copied == 0, c.copied+n >= c.payload
	if c.tcp {
		fixTCP(b, at, c.copied, c.copied/c.mss, first, last)
	}
	c.copied += n
	if b[0]>>4 == 4 {
		fixIPv4(b, at)
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(size-header.IPv6MinimumSize))
	}
	fixTransport(b, at)
	return size
}

// copyPayload fills b with the next bytes after the headers.
func (c *cutter) copyPayload(pkt *stack.PacketBuffer, b []byte) {
	if c.view == nil {
		views, skip := pkt.AsViewList()
		c.view, c.offset = views.Front(), skip+c.header
	}
	for len(b) > 0 && c.view != nil {
		s := c.view.AsSlice()
		if c.offset >= len(s) {
			c.offset -= len(s)
			c.view = c.view.Next()
			continue
		}
		n := copy(b, s[c.offset:])
		b = b[n:]
		c.offset += n
	}
}

// fixTCP makes the headers those of segment number i, whose payload begins
// after bytes of the whole.
func fixTCP(b []byte, at, after, i int, first, last bool) {
	t := header.TCP(b[at:])
	t.SetSequenceNumber(t.SequenceNumber() + uint32(after))
	flags := t.Flags()
	if !first {
		flags &^= header.TCPFlagCwr
	}
	if !last {
		flags &^= header.TCPFlagFin | header.TCPFlagPsh
	}
	t.SetFlags(uint8(flags))
	if b[0]>>4 == 4 {
		h := header.IPv4(b)
		h.SetID(h.ID() + uint16(i))
	}
}

// fixIPv4 sets length and header checksum.
func fixIPv4(b []byte, at int) {
	h := header.IPv4(b[:at])
	h.SetTotalLength(uint16(len(b)))
	h.SetChecksum(0)
	h.SetChecksum(^checksum.Checksum(h, 0))
}

// fixTransport completes the TCP or UDP checksum, which the stack leaves to
// its link. ICMP comes with its own.
func fixTransport(b []byte, at int) {
	proto, offset := b[9], header.TCPChecksumOffset
	if b[0]>>4 == 6 {
		proto = b[6]
	}
	switch proto {
	case uint8(header.TCPProtocolNumber):
	case uint8(header.UDPProtocolNumber):
		offset = header.UDPMinimumSize - 2
	default:
		return
	}
	if len(b) < at+offset+2 {
		return
	}
	field := b[at+offset : at+offset+2]
	field[0], field[1] = 0, 0
	sum := ^transportSum(b, at, proto)
	if sum == 0 && proto == uint8(header.UDPProtocolNumber) {
		sum = 0xffff // RFC 768: zero says that there is none
	}
	binary.BigEndian.PutUint16(field, sum)
}

// transportSum adds up the pseudo-header and everything from at on. For IPv4
// the addresses end where the header does, as they do for IPv6.
func transportSum(b []byte, at int, proto uint8) uint16 {
	addresses := b[at-2*4 : at]
	if b[0]>>4 == 6 {
		addresses = b[8:40]
	}
	var tail [4]byte
	binary.BigEndian.PutUint16(tail[:], uint16(len(b)-at))
	tail[3] = proto
	sum := checksum.Checksum(addresses, 0)
	sum = checksum.Checksum(tail[:], sum)
	return checksum.Checksum(b[at:], sum)
}

// outgoingHeader writes into scratch what the policy has to see of a packet of
// our own stack: its headers, with lengths that say nothing follows. ICMP is
// copied whole, for its errors quote what they are about. The result is never
// parsed by anybody else.
func outgoingHeader(pkt *stack.PacketBuffer, scratch []byte) []byte {
	at := copy(scratch, pkt.NetworkHeader().Slice())
	n := at + copy(scratch[at:], pkt.TransportHeader().Slice())
	if at == 0 || pkt.GSOOptions.Type == stack.GSONone && !carriesPorts(scratch[:at]) {
		return flatten(pkt, scratch)
	}
	b := scratch[:n]
	if b[0]>>4 == 4 {
		if n < header.IPv4MinimumSize {
			return nil
		}
		binary.BigEndian.PutUint16(b[2:], uint16(n))
		if b[9] == uint8(header.UDPProtocolNumber) && n == at+header.UDPMinimumSize {
			binary.BigEndian.PutUint16(b[at+4:], header.UDPMinimumSize)
		}
		return b
	}
	if n < header.IPv6MinimumSize {
		return nil
	}
	binary.BigEndian.PutUint16(b[4:], uint16(n-header.IPv6MinimumSize))
	if b[6] == uint8(header.UDPProtocolNumber) && n == at+header.UDPMinimumSize {
		binary.BigEndian.PutUint16(b[at+4:], header.UDPMinimumSize)
	}
	return b
}

// carriesPorts reports whether the IP header announces TCP or UDP.
func carriesPorts(ip []byte) bool {
	var proto byte
	switch {
	case len(ip) >= header.IPv4MinimumSize && ip[0]>>4 == 4:
		proto = ip[9]
	case len(ip) >= header.IPv6MinimumSize && ip[0]>>4 == 6:
		proto = ip[6]
	}
	return proto == uint8(header.TCPProtocolNumber) || proto == uint8(header.UDPProtocolNumber)
}

// flatten copies a whole packet, nil if it does not fit.
func flatten(pkt *stack.PacketBuffer, scratch []byte) []byte {
	if pkt.Size() > len(scratch) {
		return nil
	}
	views, skip := pkt.AsViewList()
	n := 0
	for v := views.Front(); v != nil; v = v.Next() {
		s := v.AsSlice()
		if skip >= len(s) {
			skip -= len(s)
			continue
		}
		n += copy(scratch[n:], s[skip:])
		skip = 0
	}
	return scratch[:n]
}
