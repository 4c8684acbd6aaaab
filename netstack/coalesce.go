package netstack

import (
	"bytes"
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/warrenmesh/warren/acl"
)

// A coalescer hands the packets of one Write to our own stack. TCP segments
// that follow each other become one, so that the stack does its work once for
// sixty packets (generic receive offload). It copies each byte once, into one
// piece of memory of the right size; gVisor's own engine makes a buffer per
// packet and strings them together.
//
// A coalescer is used by one goroutine, for one Write.
type coalescer struct {
	packets []inbound
	runs    []run
	open    [openRuns]int16 // indexes into runs, -1 for none
	next    int             // of open, to be overwritten
}

// openRuns is how many flows of one peer are gathered at the same time.
const openRuns = 8

// inbound is one allowed packet; b stays valid until Write returns.
type inbound struct {
	b    []byte
	skip int32 // headers that are left out: 0 for the first of a run
	next int32 // the next packet of the run, -1 for none
}

// run is a row of packets that are delivered as one.
type run struct {
	first, last int32
	size        int    // bytes of the delivered packet
	nextSeq     uint32 // the sequence number that would continue it
	segment     int    // payload of the first packet
}

func (c *coalescer) reset() {
	clear(c.packets)
	c.packets, c.runs = c.packets[:0], c.runs[:0]
	for i := range c.open {
		c.open[i] = -1
	}
}

// add takes one packet that was parsed and allowed.
func (c *coalescer) add(b []byte, p *acl.Packet) {
	i := int32(len(c.packets))
	c.packets = append(c.packets, inbound{b: b, next: -1})
	if p.Proto() != acl.ProtoTCP {
		c.runs = append(c.runs, run{first: i, last: i, size: len(b)})
		return
	}
	at, data := p.HeaderLen(), p.PayloadOffset()
	payload := len(b) - data
	const mergeable = acl.FlagACK | acl.FlagPSH | acl.FlagFIN
	plain := payload > 0 && b[at+13]&^mergeable == 0
	for j, k := range c.open {
		if k < 0 || !sameFlow(c.head(k), b, at) {
			continue
		}
		if plain && c.extend(k, i, b, at, data) {
			return
		}
		// Whatever this is, it comes after the run and ends it.
		c.open[j] = -1
		break
	}
	c.runs = append(c.runs, run{
		first: i, last: i, size: len(b),
		nextSeq: binary.BigEndian.Uint32(b[at+4:]) + uint32(payload), segment: payload,
	})
	if plain && b[at+13]&acl.FlagFIN == 0 {
		c.open[c.next] = int16(len(c.runs) - 1)
		c.next = (c.next + 1) % openRuns
	}
}

func (c *coalescer) head(k int16) []byte { return c.packets[c.runs[k].first].b }

// extend appends packet i to run k if nothing but the payload, the sequence
// number, PSH and FIN tells them apart. Acknowledgement, window and options
// (timestamps) must be the same, or the stack would miss a change.
func (c *coalescer) extend(k int16, i int32, b []byte, at, data int) bool {
	r, head := &c.runs[k], c.head(k)
	payload := len(b) - data
	const soft = acl.FlagPSH | acl.FlagFIN
	switch {
	case len(head) < data,
		binary.BigEndian.Uint32(b[at+4:]) != r.nextSeq,
		payload > r.segment,
		r.size+payload > 0xffff,
		(head[at+13]^b[at+13])&^soft != 0,
		head[at+12] != b[at+12],
		!bytes.Equal(head[at+8:at+12], b[at+8:at+12]),
		!bytes.Equal(head[at+14:at+16], b[at+14:at+16]),
		!bytes.Equal(head[at+20:data], b[at+20:data]),
		!sameTraffic(head, b):
		return false
	}
	c.packets[i].skip = int32(data)
	c.packets[r.last].next = i
	r.last = i
	r.size += payload
	r.nextSeq += uint32(payload)
	if payload < r.segment || b[at+13]&acl.FlagFIN != 0 {
		r.segment = 0 // a short segment ends a burst; nothing fits after it
	}
	return true
}

// sameFlow compares addresses and ports. at is where b's transport begins.
func sameFlow(a, b []byte, at int) bool {
	if a[0]>>4 != b[0]>>4 || len(a) < at+4 || !bytes.Equal(a[at:at+4], b[at:at+4]) {
		return false
	}
	if at == header.IPv4MinimumSize {
		return a[9] == b[9] && bytes.Equal(a[12:20], b[12:20])
	}
	return a[6] == b[6] && bytes.Equal(a[8:40], b[8:40])
}

// sameTraffic compares TTL, traffic class (with ECN) and flow label.
func sameTraffic(a, b []byte) bool {
	if a[0]>>4 == 4 {
		return a[1] == b[1] && a[8] == b[8]
	}
	return bytes.Equal(a[0:4], b[0:4]) && a[7] == b[7]
}

// deliver hands run k to the stack. The poly1305 tag has already proven that
// the bytes are the peer's own, so no checksum is looked at again; the kernel's
// WireGuard does the same. What we merged has none that would fit.
func (c *coalescer) deliver(k int, d stack.NetworkDispatcher) {
	r := &c.runs[k]
	view := buffer.NewView(r.size)
	for i := r.first; i >= 0; i = c.packets[i].next {
		p := &c.packets[i]
		_, _ = view.Write(p.b[p.skip:])
	}
	b := view.AsSlice()
	var proto tcpip.NetworkProtocolNumber = header.IPv4ProtocolNumber
	if b[0]>>4 == 6 {
		proto = header.IPv6ProtocolNumber
	}
	if r.first != r.last {
		at := header.IPv4MinimumSize
		if proto == header.IPv6ProtocolNumber {
			at = header.IPv6MinimumSize
			binary.BigEndian.PutUint16(b[4:], uint16(r.size-at))
		} else {
			binary.BigEndian.PutUint16(b[2:], uint16(r.size))
		}
		for i := r.first; i >= 0; i = c.packets[i].next {
			b[at+13] |= c.packets[i].b[at+13] & (acl.FlagPSH | acl.FlagFIN)
		}
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(view)})
	defer pkt.DecRef()
	d.DeliverNetworkPacket(proto, pkt)
}
