package netstack

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/warrenmesh/warren/acl"
)

// rawIP puts an IP header before a transport segment and completes checksums.
func rawIP(src, dst netip.Addr, proto uint8, segment []byte) []byte {
	at := header.IPv4MinimumSize
	if src.Is6() {
		at = header.IPv6MinimumSize
	}
	b := append(make([]byte, at), segment...)
	if src.Is6() {
		b[0], b[6], b[7] = 6<<4, proto, 64
		binary.BigEndian.PutUint16(b[4:], uint16(len(segment)))
		s, d := src.As16(), dst.As16()
		copy(b[8:], s[:])
		copy(b[24:], d[:])
	} else {
		b[0], b[8], b[9] = 4<<4|5, 64, proto
		s, d := src.As4(), dst.As4()
		copy(b[12:], s[:])
		copy(b[16:], d[:])
		fixIPv4(b, at)
	}
	fixTransport(b, at)
	if proto == uint8(header.ICMPv6ProtocolNumber) {
		b[at+2], b[at+3] = 0, 0
		binary.BigEndian.PutUint16(b[at+2:], ^transportSum(b, at, proto))
	}
	if proto == uint8(header.ICMPv4ProtocolNumber) {
		b[at+2], b[at+3] = 0, 0
		binary.BigEndian.PutUint16(b[at+2:], ^checksum.Checksum(b[at:], 0))
	}
	return b
}

// rawTCP makes a TCP segment.
func rawTCP(src, dst netip.AddrPort, flags header.TCPFlags, seq, ack uint32, data string) []byte {
	b := make([]byte, header.TCPMinimumSize, header.TCPMinimumSize+len(data))
	header.TCP(b).Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: seq, AckNum: ack,
		DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 65535,
	})
	return rawIP(src.Addr(), dst.Addr(), 6, append(b, data...))
}

// rawUDP makes a datagram.
func rawUDP(src, dst netip.AddrPort, data string) []byte {
	b := make([]byte, header.UDPMinimumSize, header.UDPMinimumSize+len(data))
	binary.BigEndian.PutUint16(b[0:], src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(cap(b)))
	return rawIP(src.Addr(), dst.Addr(), 17, append(b, data...))
}

// rawPing makes an ICMP echo request.
func rawPing(src, dst netip.Addr, id uint16) []byte {
	b := make([]byte, 8)
	b[0] = 8
	proto := uint8(1)
	if src.Is6() {
		b[0], proto = 128, 58
	}
	binary.BigEndian.PutUint16(b[4:], id)
	return rawIP(src, dst, proto, b)
}

// inject sends a packet to the hub as it is: no gate of the spoke's own, as an
// attacker's spoke has none.
func (n *node) inject(hub *node, b []byte) {
	it := newCopy(b)
	it.own = true
	n.queue.push(n.path.table.Load().byKey[hub.key.Public()], 0, it)
}

// tap records every packet that reaches a node from the wire.
type tap struct {
	mu      sync.Mutex
	packets [][]byte
}

func newTap(n *node) *tap {
	t := new(tap)
	see := func(b []byte) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.packets = append(t.packets, append([]byte(nil), b...))
	}
	n.path.probe.Store(&see)
	return t
}

func (t *tap) all() [][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.packets[:len(t.packets):len(t.packets)]
}

// count returns how many packets match.
func (t *tap) count(match func(b []byte, p *acl.Packet) bool) int {
	n := 0
	for _, b := range t.all() {
		var p acl.Packet
		_ = p.Parse(b)
		if match(b, &p) {
			n++
		}
	}
	return n
}

// settle sends a ping from spoke to hub and waits for its answer, so that what
// was sent before has arrived and been answered: packets of one peer are
// handled in order, and so is one flow; the answers to raw packets are of one
// flow per peer.
func (m *mesh) settle(from *node) {
	m.t.Helper()
	var before uint64
	read := func() uint64 {
		for _, p := range m.hub.Peers() {
			if p.Key == from.key.Public() {
				return p.RxBytes
			}
		}
		return 0
	}
	eventually(m.t, "the hub has taken what was sent", func() bool {
		from.queue.mu.Lock()
		waiting := 0
		for _, l := range from.queue.lanes {
			waiting += l.items + l.inside()
		}
		from.queue.mu.Unlock()
		now := read()
		still := now == before && waiting == 0 && now > 0
		before = now
		return still
	})
	m.hub.path.fence.wait()
}
