package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// sum is the Internet checksum of b before it is complemented (RFC 1071).
func sum(b []byte) uint16 { return checksum.Checksum(b, 0) }

// hopsLeft reports whether a packet may be sent on: a router drops it when its
// TTL would become zero, or two hubs that route to each other would pass it to
// and fro for ever.
func hopsLeft(b []byte) bool {
	if b[0]>>4 == 4 {
		return b[8] > 1
	}
	return b[7] > 1
}

// decrementHops takes one from the TTL and adapts the header checksum of IPv4
// (RFC 1624).
func decrementHops(b []byte) {
	if b[0]>>4 != 4 {
		b[7]--
		return
	}
	old := binary.BigEndian.Uint16(b[8:])
	b[8]--
	adjust(b[10:12], old, binary.BigEndian.Uint16(b[8:]))
}

// adjust changes the checksum in field for a 16-bit word that went from old to
// new (RFC 1624, equation 3).
func adjust(field []byte, old, new uint16) {
	s := uint32(^binary.BigEndian.Uint16(field)) + uint32(^old) + uint32(new)
	s = s&0xffff + s>>16
	s = s&0xffff + s>>16
	binary.BigEndian.PutUint16(field, ^uint16(s))
}

// clampMSS lowers the maximum segment size that a SYN announces to what fits
// the MTU: the peers' own interfaces may be larger than the path between them,
// and the error that would say so is easily lost. at is where TCP begins. A
// malformed option list is left alone; its reader will ignore it too.
func clampMSS(b []byte, at, mtu int) {
	most := uint16(mtu - at - header.TCPMinimumSize)
	end := at + int(b[at+12]>>4)*4
	if end > len(b) {
		return
	}
	options := b[at+header.TCPMinimumSize : end]
	for i := 0; i < len(options); {
		switch options[i] {
		case header.TCPOptionEOL:
			return
		case header.TCPOptionNOP:
			i++
			continue
		}
		if i+1 >= len(options) || options[i+1] < 2 || i+int(options[i+1]) > len(options) {
			return
		}
		if options[i] == header.TCPOptionMSS && options[i+1] == header.TCPOptionMSSLength {
			setWord(options[i+2:i+4], b[at+header.TCPChecksumOffset:], most, i%2 != 0)
			return
		}
		i += int(options[i+1])
	}
}

// setWord lowers the 16-bit word in field to most, and the checksum with it.
// odd says that field lies at an odd offset, where its bytes count in the other
// order.
func setWord(field, check []byte, most uint16, odd bool) {
	old := binary.BigEndian.Uint16(field)
	if old <= most {
		return
	}
	binary.BigEndian.PutUint16(field, most)
	new := most
	if odd {
		old, new = old<<8|old>>8, new<<8|new>>8
	}
	adjust(check[:2], old, new)
}
