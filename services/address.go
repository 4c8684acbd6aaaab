package services

import "net/netip"

// special lists what is no public unicast address, by the IANA special-purpose
// registries (RFC 6890 and its updates). The Is* methods of net/netip know a
// part of it only: neither carrier NAT, nor 6to4, NAT64, site-local or the
// documentation networks.
func special(a netip.Addr) string {
	b := a.As16()
	if a.Is4() {
		return special4(a.As4())
	}
	switch {
	case within(b, 96): // ::/96: unspecified, loopback, the old IPv4-compatible form
		switch [4]byte(b[12:]) {
		case [4]byte{}:
			return "unspecified"
		case [4]byte{0, 0, 0, 1}:
			return "loopback"
		}
		return "IPv4-compatible"
	case within(b, 96, 0, 0x64, 0xff, 0x9b): // 64:ff9b::/96, NAT64 (RFC 6052)
		if why := special4([4]byte(b[12:])); why != "" {
			return "NAT64 of " + why
		}
		return ""
	case within(b, 48, 0, 0x64, 0xff, 0x9b, 0, 1):
		return "local NAT64"
	case b[0] == 0xff:
		return "multicast"
	case b[0] == 0xfe && b[1]&0xc0 == 0x80:
		return "link-local"
	case b[0] == 0xfe && b[1]&0xc0 == 0xc0:
		return "site-local"
	case b[0]&0xfe == 0xfc:
		return "unique local"
	case b[0]&0xe0 != 0x20: // only 2000::/3 is given out
		return "reserved"
	case within(b, 16, 0x20, 0x02): // 6to4
		if why := special4([4]byte(b[2:6])); why != "" {
			return "6to4 of " + why
		}
	case within(b, 32, 0x20, 0x01, 0, 0):
		return "Teredo"
	case within(b, 23, 0x20, 0x01):
		return "reserved"
	case within(b, 32, 0x20, 0x01, 0x0d, 0xb8), within(b, 20, 0x3f, 0xff):
		return "documentation"
	}
	// ISATAP hides an IPv4 address behind any prefix (RFC 5214).
	if b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		return "ISATAP"
	}
	return ""
}

func special4(b [4]byte) string {
	switch {
	case b[0] == 0:
		return "this network"
	case b[0] == 127:
		return "loopback"
	case b[0] == 10, b[0] == 172 && b[1]&0xf0 == 16, b[0] == 192 && b[1] == 168:
		return "private"
	case b[0] == 100 && b[1]&0xc0 == 64:
		return "carrier NAT"
	case b[0] == 169 && b[1] == 254:
		return "link-local"
	case b[0] == 192 && b[1] == 0 && b[2] == 0:
		return "reserved"
	case b[0] == 192 && b[1] == 88 && b[2] == 99:
		return "6to4 relay"
	case b[0] == 198 && b[1]&0xfe == 18:
		return "benchmarking"
	case b[0] == 192 && b[1] == 0 && b[2] == 2, b[0] == 198 && b[1] == 51 && b[2] == 100, b[0] == 203 && b[1] == 0 && b[2] == 113:
		return "documentation"
	case b[0]&0xf0 == 224:
		return "multicast"
	case b == [4]byte{255, 255, 255, 255}:
		return "broadcast"
	case b[0]&0xf0 == 240:
		return "reserved"
	case b == [4]byte{168, 63, 129, 16}:
		// A cloud's host answers on it, on every machine of theirs.
		return "cloud metadata"
	}
	return ""
}

// within reports whether the first bits bits of b are those of prefix, which
// is filled up with zeros.
func within(b [16]byte, bits int, prefix ...byte) bool {
	var p [16]byte
	copy(p[:], prefix)
	return netip.PrefixFrom(netip.AddrFrom16(p), bits).Contains(netip.AddrFrom16(b))
}

// Special says in a word or two why a is not a public unicast address, and ""
// if it is one. IPv4 addresses inside IPv6 ones are judged as what they are.
// No address at all, or one with a zone, is special.
func Special(a netip.Addr) string {
	if !a.IsValid() {
		return "not an address"
	}
	if a.Zone() != "" {
		return "scoped"
	}
	return special(a.Unmap())
}

// Inside returns the IPv4 address that an IPv6 address stands for: v4-mapped,
// v4-compatible, NAT64, 6to4 or ISATAP. Every other address is returned as it
// is.
func Inside(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if !a.Is6() {
		return a
	}
	b := a.As16()
	switch {
	case [12]byte(b[:12]) == [12]byte{} && a != netip.IPv6Unspecified() && a != netip.IPv6Loopback(),
		within(b, 96, 0, 0x64, 0xff, 0x9b),
		b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe:
		return netip.AddrFrom4([4]byte(b[12:]))
	case within(b, 16, 0x20, 0x02):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return a
}

// Metadata reports whether a is where a cloud hands out a machine's
// credentials to whoever asks from the machine.
func Metadata(a netip.Addr) bool {
	if !a.IsValid() {
		return false
	}
	a = Inside(a.WithZone(""))
	if a.Is4() {
		b := a.As4()
		return b[0] == 169 && b[1] == 254 ||
			b == [4]byte{100, 100, 100, 200} || b == [4]byte{192, 0, 0, 192} || b == [4]byte{168, 63, 129, 16}
	}
	b := a.As16()
	// fd00:ec2::/32, and the link-local form of 169.254.169.254.
	return within(b, 32, 0xfd, 0, 0x0e, 0xc2) || within(b, 128, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa9, 0xfe, 0xa9, 0xfe) ||
		within(b, 64, 0xfd, 0x20, 0, 0xce)
}
