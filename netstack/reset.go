package netstack

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/warrenmesh/warren/acl"
)

// passReset tells the far end of a flow between two peers that the policy has
// just ended it: in the place of a packet that is refused goes a reset with the
// same sequence number. Without it, whoever only listens would wait for
// ever. The far end had the flow open a moment ago, so it learns nothing new.
//
// A reset goes on as one: a spoke that hears of the new policy at the same
// moment ends its own connections, and then its reset may be the only packet of
// the flow that still comes.
func (p *path) passReset(b []byte, pkt *acl.Packet) {
	if !p.forward || pkt.Proto() != acl.ProtoTCP || !pkt.Rejectable() && pkt.Flags()&acl.FlagRST == 0 {
		return
	}
	var reset [maxHeader]byte
	l, n := p.table.Load().lookup(pkt.Dst()), makeReset(reset[:], b, pkt, 0)
	if l != nil && n > 0 {
		p.answer(l, reset[:n])
	}
}

// resetInstead puts a reset in the place of a TCP packet that was revoked while
// it waited to leave, and returns how many packets that makes. Of a flow that
// is cut in the middle, the first such packet has exactly the sequence number
// that the receiver expects, so the receiver believes it at once; resets with
// any other number it may only answer twice a second (RFC 5961).
func (p *path) resetInstead(k *pick, buf []byte, sizes []int, offset int) int {
	pkt := &p.seen.packet
	b := k.it.judged(p.seen.header[:])
	if pkt.Parse(b) != 0 || pkt.Proto() != acl.ProtoTCP || !pkt.Rejectable() || pkt.Flags()&acl.FlagSYN != 0 {
		return 0
	}
	sizes[0] = makeReset(buf[offset:], b, pkt, uint32(k.it.cut.copied))
	if sizes[0] == 0 {
		return 0
	}
	mark(buf, k.lane.id, p.gate.Epoch())
	k.failed = k.count - 1
	return 1
}

// makeReset writes into dst the reset that goes the way of the packet b, with
// the sequence number of the byte at offset after in it. It returns its length,
// 0 if b is too short.
func makeReset(dst, b []byte, pkt *acl.Packet, after uint32) int {
	at := pkt.HeaderLen()
	size := at + header.TCPMinimumSize
	if len(b) < size || len(dst) < size {
		return 0
	}
	in := header.TCP(b[at:])
	out := dst[:size]
	copy(out, b[:at])
	header.TCP(out[at:]).Encode(&header.TCPFields{
		SrcPort: in.SourcePort(), DstPort: in.DestinationPort(),
		SeqNum: in.SequenceNumber() + after, AckNum: in.AckNumber(),
		DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagRst | header.TCPFlagAck,
	})
	if pkt.Is6() {
		binary.BigEndian.PutUint16(out[4:], header.TCPMinimumSize)
	} else {
		fixIPv4(out, at)
	}
	fixTransport(out, at)
	return size
}

// aborts are the connections that SetFilter is resetting right now: their
// reset leaves although the policy no longer allows them. It carries no data.
type aborts struct {
	mu    sync.Mutex
	flows map[tuple]struct{}
}

// tuple names a connection of our own stack.
type tuple struct{ local, remote netip.AddrPort }

func (a *aborts) add(t tuple) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.flows == nil {
		a.flows = make(map[tuple]struct{})
	}
	a.flows[t] = struct{}{}
}

func (a *aborts) remove(t tuple) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.flows, t)
}

// has reports whether pkt is the reset of such a connection.
func (a *aborts) has(pkt *acl.Packet) bool {
	if pkt.Proto() != acl.ProtoTCP || pkt.Flags()&acl.FlagRST == 0 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.flows[tuple{
		netip.AddrPortFrom(pkt.Src(), pkt.SrcPort()), netip.AddrPortFrom(pkt.Dst(), pkt.DstPort()),
	}]
	return ok
}
