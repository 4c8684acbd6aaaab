package acl

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/warrenmesh/warren/peer"
)

type selectorKind uint8

// The order is from broad to narrow; compiling relies on nothing but its being
// fixed.
const (
	selAll selectorKind = iota + 1
	selMember
	selAdmin
	selSelf
	selSameHousehold
	selHousehold
	selGroup
	selUser
	selTag
	selService // name "" is every service
	selPeer    // written peer:x
	selWord    // a host alias or a peer's name
	selPrefix
	selPeers // every peer: no text says it, the built-in rules do
)

const adminGroup = "group:admin"

// selector names a set of machines and services. Two selectors that mean the
// same text are the same but for at.
type selector struct {
	kind   selectorKind
	name   string // group and tag keep their prefix, as World has them
	prefix netip.Prefix
	at     position
}

// key tells selectors apart.
type selectorKey struct {
	kind   selectorKind
	name   string
	prefix netip.Prefix
}

func (s selector) key() selectorKey { return selectorKey{s.kind, s.name, s.prefix} }

// String returns the selector as a policy writes it.
func (s selector) String() string {
	switch s.kind {
	case selAll:
		return "*"
	case selMember:
		return "autogroup:member"
	case selAdmin:
		return "autogroup:admin"
	case selSelf:
		return "autogroup:self"
	case selSameHousehold:
		return "autogroup:same-household"
	case selHousehold:
		return "household:" + s.name
	case selUser:
		if strings.Contains(s.name, "@") {
			return s.name
		}
		return s.name + "@"
	case selService:
		if s.name == "" {
			return "svc:*"
		}
		return "svc:" + s.name
	case selPeer:
		return "peer:" + s.name
	case selPrefix:
		if s.prefix.IsSingleIP() {
			return s.prefix.Addr().String()
		}
		return s.prefix.String()
	}
	return s.name
}

// parseSelector reads one selector. The error is half a sentence that says
// what to write instead.
func parseSelector(s string) (selector, error) {
	if s == "*" {
		return selector{kind: selAll}, nil
	}
	if s == "" {
		return selector{}, fmt.Errorf("the name is empty; name a user, group, tag, machine or service, as in \"ann@\" or \"svc:stt\"")
	}
	if len(s) > 320 {
		return selector{}, fmt.Errorf("a name of %d bytes is too long; the most is %d", len(s), 320)
	}
	if addressLike(s) {
		return parsePrefix(s)
	}
	if prefix, name, ok := strings.Cut(s, ":"); ok {
		return parsePrefixed(s, prefix, name)
	}
	if strings.Contains(s, "@") {
		return parseUser(s, strings.TrimSuffix(s, "@"))
	}
	if err := peer.ValidName(s); err != nil {
		return selector{}, nameError(s, err)
	}
	switch s {
	case "user", "group", "tag", "household", "svc", "peer", "autogroup":
		return selector{}, fmt.Errorf("%q needs a name behind it, as in \"%s:NAME\"", s, s)
	}
	return selector{kind: selWord, name: s}, nil
}

func parsePrefixed(s, prefix, name string) (selector, error) {
	if prefix == "autogroup" {
		switch name {
		case "self":
			return selector{kind: selSelf}, nil
		case "admin":
			return selector{kind: selAdmin}, nil
		case "member":
			return selector{kind: selMember}, nil
		case "same-household":
			return selector{kind: selSameHousehold}, nil
		}
		return selector{}, fmt.Errorf("%.80q is unknown; the autogroups are self, admin, member and same-household", s)
	}
	if prefix == "user" {
		return parseUser(s, name)
	}
	if prefix == "svc" && name == "*" {
		return selector{kind: selService}, nil
	}
	kinds := map[string]selectorKind{
		"group": selGroup, "tag": selTag, "household": selHousehold, "svc": selService, "peer": selPeer,
	}
	kind, ok := kinds[prefix]
	if !ok {
		return selector{}, fmt.Errorf("%.80q begins with an unknown word; user:, group:, tag:, household:, svc:, peer: and autogroup: are known", s)
	}
	if err := peer.ValidName(name); err != nil {
		return selector{}, nameError(s, err)
	}
	if kind == selGroup || kind == selTag {
		name = s
	}
	return selector{kind: kind, name: name}, nil
}

func parseUser(s, name string) (selector, error) {
	if err := peer.ValidUser(name); err != nil {
		return selector{}, nameError(s, err)
	}
	return selector{kind: selUser, name: name}, nil
}

// nameError adds a hint to the commonest slip and keeps a long name short.
func nameError(s string, err error) error {
	if low := strings.ToLower(s); low != s && isASCII(s) {
		return fmt.Errorf("%.80q has upper-case letters; names are lower case: %.80q", s, low)
	}
	if !isASCII(s) {
		return fmt.Errorf("%.80q has letters outside ASCII, which can look like others; use a to z, digits and hyphens", s)
	}
	return fmt.Errorf("%.80q: %w", s, err)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// addressLike reports whether s can only have been meant as an address: no
// name has a slash, two colons or nothing but digits and dots.
func addressLike(s string) bool {
	if strings.ContainsAny(s, "/[]") || strings.Count(s, ":") > 1 && !strings.Contains(s, "*") {
		return true
	}
	return strings.Trim(s, "0123456789.") == "" && strings.Contains(s, ".")
}

func parsePrefix(s string) (selector, error) {
	bare := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	var p netip.Prefix
	if !strings.Contains(bare, "/") {
		a, err := netip.ParseAddr(bare)
		if err != nil || a.Zone() != "" {
			return selector{}, fmt.Errorf("%.80q is no IP address; write it as in \"10.77.1.9\" or \"fd77::9\"", s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	} else {
		var err error
		if p, err = netip.ParsePrefix(bare); err != nil {
			return selector{}, fmt.Errorf("%.80q is no network; write it as in \"10.77.1.0/24\"", s)
		}
	}
	if p.Addr().Is4In6() {
		return selector{}, fmt.Errorf("%.80q is an IPv4 address written as IPv6; write %q", s, plain4(p))
	}
	if m := p.Masked(); m != p {
		return selector{}, fmt.Errorf("%.80q has bits set behind its mask; write %q for the network or %q for the one address", s, m, p.Addr())
	}
	return selector{kind: selPrefix, prefix: p}, nil
}

func plain4(p netip.Prefix) string {
	a := p.Addr().Unmap()
	if p.Bits() >= 96 && p.Bits() < 128 {
		return netip.PrefixFrom(a, p.Bits()-96).Masked().String()
	}
	return a.String()
}
