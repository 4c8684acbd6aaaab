package store

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Plan is the address arithmetic of one overlay: an index, a small number,
// gives both addresses of a peer or service. The IPv4 address is the network's
// plus the index; the IPv6 address is the /64 with the index as interface id.
//
// The indexes of a network with N addresses are divided into
//
//	services  1 to N/256-1, but at least 1 to 63
//	peers     everything between
//	invites   the top max(32, N/128) below N-1, the throw-away peers of invites
//
// Index 0 and N-1 (IPv4's network and broadcast addresses) are never used.
type Plan struct {
	// V4 is a private prefix (RFC 1918, RFC 6598) from /16 to /24, masked.
	V4 netip.Prefix
	// V6 is a unique local /64 (RFC 4193), masked.
	V6 netip.Prefix
}

// Index is a peer's or service's number in its plan; 0 is none.
type Index uint32

// The hub's own services. What is published begins at FirstPublished.
const (
	IndexHub       Index = 1  // answers ping, nothing listens
	IndexEnrol     Index = 2  // tcp/443
	IndexSync      Index = 3  // tcp/80
	IndexConsole   Index = 4  // tcp/80
	IndexAuth      Index = 5  // tcp/80, 443 and 7701
	IndexCommand   Index = 6  // tcp/80, 443 and 7703
	IndexHooks     Index = 7  // tcp/80 and 443
	IndexDNS       Index = 53 // udp and tcp/53
	FirstPublished Index = 10
)

// keptForHub are indexes that are never given to what is published: they are
// for services of the hub's own, IndexDNS among them.
var keptForHub = Range{40, 63}

// reservedNames belong to the hub's own services, in DNS and in policies.
var reservedNames = [...]string{"hub", "enrol", "sync", "console", "dns", "auth", "command", "hooks"}

// Range is the indexes from First to Last, both included.
type Range struct{ First, Last Index }

// Has reports whether i is in the range.
func (r Range) Has(i Index) bool { return r.First <= i && i <= r.Last }

// NewPlan checks v4 and adds a random unique local /64, as RFC 4193, section
// 3.2.2, wants it: two meshes that meet one day do not overlap.
func NewPlan(v4 netip.Prefix) (Plan, error) {
	var a [16]byte
	if _, err := rand.Read(a[1:8]); err != nil {
		return Plan{}, fmt.Errorf("choosing network: %w", err)
	}
	a[0] = 0xfd
	p := Plan{V4: v4, V6: netip.PrefixFrom(netip.AddrFrom16(a), 64)}
	return p, p.Validate()
}

// Validate says what is wrong with the plan.
func (p Plan) Validate() error {
	switch {
	case !p.V4.IsValid() || !p.V4.Addr().Is4():
		return fmt.Errorf("%w: the network must be an IPv4 prefix, as in 10.77.0.0/16", ErrInvalid)
	case p.V4.Bits() < 16 || p.V4.Bits() > 24:
		return fmt.Errorf("%w: the network %v must be from /16 to /24", ErrInvalid, p.V4)
	case p.V4 != p.V4.Masked():
		return fmt.Errorf("%w: the network %v has bits set behind the prefix; write %v", ErrInvalid, p.V4, p.V4.Masked())
	case !p.V4.Addr().IsPrivate() && !sharedSpace.Contains(p.V4.Addr()):
		return fmt.Errorf("%w: the network %v is not private (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10)", ErrInvalid, p.V4)
	case !p.V6.IsValid() || p.V6.Bits() != 64 || p.V6 != p.V6.Masked() || !uniqueLocal.Contains(p.V6.Addr()):
		return fmt.Errorf("%w: the IPv6 network %v must be a /64 in fd00::/8", ErrInvalid, p.V6)
	}
	return nil
}

var (
	sharedSpace = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10)
	uniqueLocal = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd}), 8)
)

// size is how many addresses the IPv4 network has; the plan must be valid.
func (p Plan) size() Index { return 1 << (32 - p.V4.Bits()) }

// Services, Peers and Invites are the three ranges.
func (p Plan) Services() Range { return Range{1, max(p.size()/256-1, 63)} }
func (p Plan) Invites() Range {
	last := p.size() - 2
	return Range{last - max(32, p.size()/128) + 1, last}
}
func (p Plan) Peers() Range {
	return Range{p.Services().Last + 1, p.Invites().First - 1}
}

// Addrs returns the two addresses of an index, zero addresses for one that is
// outside the network.
func (p Plan) Addrs(i Index) (v4, v6 netip.Addr) {
	if p.Validate() != nil || i == 0 || i > p.size()-2 {
		return netip.Addr{}, netip.Addr{}
	}
	a4 := p.V4.Addr().As4()
	binary.BigEndian.PutUint32(a4[:], binary.BigEndian.Uint32(a4[:])+uint32(i))
	a6 := p.V6.Addr().As16()
	binary.BigEndian.PutUint32(a6[12:], uint32(i))
	return netip.AddrFrom4(a4), netip.AddrFrom16(a6)
}

// Index is the inverse of Addrs, 0 for an address that is not in the plan.
func (p Plan) Index(a netip.Addr) Index {
	if p.Validate() != nil {
		return 0
	}
	var i Index
	switch {
	case a.Is4() && p.V4.Contains(a):
		base, b := p.V4.Addr().As4(), a.As4()
		i = Index(binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(base[:]))
	case a.Is6() && p.V6.Contains(a):
		b := a.As16()
		i = Index(binary.BigEndian.Uint32(b[12:]))
	}
	if v4, v6 := p.Addrs(i); a != v4 && a != v6 {
		return 0
	}
	return i
}
