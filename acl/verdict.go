package acl

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// MaxPolicy is the largest policy text, in bytes. Parse looks at the size
// before it looks at anything else.
const MaxPolicy = 1 << 20

// Proto is an IP protocol number (IANA). The zero value matches nothing.
type Proto uint8

// The protocols a packet can be judged under. ICMPv6 (58) is normalised to
// ProtoICMP when a packet is parsed, so that one rule speaks for both families.
const (
	ProtoICMP Proto = 1
	ProtoTCP  Proto = 6
	ProtoUDP  Proto = 17
)

// String returns the word that policies use.
func (p Proto) String() string {
	switch p {
	case ProtoICMP:
		return "icmp"
	case ProtoTCP:
		return "tcp"
	case ProtoUDP:
		return "udp"
	}
	return fmt.Sprintf("proto-%d", uint8(p))
}

// Port is a range of ports of one protocol, both ends included. For ProtoICMP
// both ends are 0.
type Port struct {
	Proto Proto  `json:"proto"`
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// String returns the range as a grant writes it: "tcp:443", "udp:6000-6010".
func (p Port) String() string {
	switch {
	case p.Proto == ProtoICMP:
		return "icmp"
	case p.First == p.Last:
		return fmt.Sprintf("%v:%d", p.Proto, p.First)
	case p.First <= 1 && p.Last == 65535:
		return p.Proto.String() + ":*"
	}
	return fmt.Sprintf("%v:%d-%d", p.Proto, p.First, p.Last)
}

// Service is something with a name and an address of its own inside the tunnel.
type Service struct {
	Name string
	V4   netip.Addr
	V6   netip.Addr
	// Host is the peer that offers the service; "" is the hub itself. A hosted
	// service shares its host's household and its host's quarantine.
	Host peer.ID
	// Ports are what it answers on. Nothing else ever reaches it, whatever a
	// rule says.
	Ports []Port
}

// World is what a policy is compiled against: everything that has an address.
type World struct {
	V4 netip.Prefix // the overlay, /16 to /24
	V6 netip.Prefix // the overlay, /64
	// Peers are all of them: invites and quarantined ones too. Absent means
	// revoked.
	Peers    []peer.Peer
	Services []Service
	// Admin is the owner whose machines Recovery lets in, "" for nobody.
	Admin string
}

// Verdict is what was decided about one packet. The zero value denies.
type Verdict struct {
	Allow bool
	// Local says that the destination is this node's own stack.
	Local  bool
	Reason Reason
	// Rule is the rule that allowed it, counted from 1 in the order of the
	// text, acls before grants. Below 0 are the built-in rules; 0 is no rule.
	// Filter.RuleText puts it in words.
	Rule int32
}

// Reason says why a packet was refused. The zero value is no refusal.
type Reason uint8

// The reasons. First those of the policy, then those of the packet itself,
// then those of flows and of ICMP.
const (
	ReasonNone Reason = iota
	ReasonNoPolicy
	ReasonNoRule
	ReasonUnknownSource
	ReasonUnknownDestination
	ReasonCrossHousehold
	ReasonQuarantined
	ReasonInvite
	ReasonEnrol
	ReasonNotOffered
	ReasonNever
	ReasonWrongDestination

	ReasonShort
	ReasonVersion
	ReasonLength
	ReasonOptions
	ReasonExtension
	ReasonFragment
	ReasonProtocol
	ReasonTransport
	ReasonAddress
	ReasonPort
	ReasonFlags
	ReasonSYNData
	ReasonSpoofed

	ReasonNoFlow
	ReasonTableFull
	ReasonRevoked

	ReasonICMPKind
	ReasonICMPQuote
	ReasonICMPSize

	// NumReasons is how many there are, for tables of counters.
	NumReasons
)

// String says the reason as the status page and Explain print it.
func (r Reason) String() string {
	switch r {
	case ReasonNone:
		return "none"
	case ReasonNoPolicy:
		return "no policy is loaded"
	case ReasonNoRule:
		return "no rule allows it"
	case ReasonUnknownSource:
		return "the source is no machine of this mesh"
	case ReasonUnknownDestination:
		return "the destination is no machine or service of this mesh"
	case ReasonCrossHousehold:
		return "the two belong to different households"
	case ReasonQuarantined:
		return "one of the two is quarantined"
	case ReasonInvite:
		return "an invite reaches the enrol service and nothing else"
	case ReasonEnrol:
		return "the enrol service answers invites only"
	case ReasonNotOffered:
		return "the service does not offer that port"
	case ReasonNever:
		return "a never rule forbids it"
	case ReasonWrongDestination:
		return "the packet is not for this node"
	case ReasonShort:
		return "shorter than its header"
	case ReasonVersion:
		return "neither IPv4 nor IPv6"
	case ReasonLength:
		return "its length fields do not fit"
	case ReasonOptions:
		return "IP options"
	case ReasonExtension:
		return "an IPv6 extension header"
	case ReasonFragment:
		return "a fragment"
	case ReasonProtocol:
		return "a protocol other than TCP, UDP and ICMP"
	case ReasonTransport:
		return "a broken transport header"
	case ReasonAddress:
		return "an address that cannot be on the mesh"
	case ReasonPort:
		return "port 0"
	case ReasonFlags:
		return "an impossible set of TCP flags"
	case ReasonSYNData:
		return "a SYN that carries data"
	case ReasonSpoofed:
		return "a source that is not the sender's"
	case ReasonNoFlow:
		return "it belongs to no known flow"
	case ReasonTableFull:
		return "the peer's flow table is full"
	case ReasonRevoked:
		return "its flow is no longer allowed"
	case ReasonICMPKind:
		return "a kind of ICMP that nobody needs"
	case ReasonICMPQuote:
		return "an ICMP error about no known flow"
	case ReasonICMPSize:
		return "an ICMP packet size below the smallest MTU"
	}
	return fmt.Sprintf("reason-%d", uint8(r))
}

// Flow is one line of the ledger: who tried to reach what, and what came of
// it. Repeats of the same line are counted, not listed.
type Flow struct {
	Src     netip.Addr `json:"src"`
	Dst     netip.Addr `json:"dst"`
	Proto   Proto      `json:"proto"`
	Port    uint16     `json:"port"` // the destination's; 0 for ICMP
	Allowed bool       `json:"allowed"`
	Reason  Reason     `json:"reason"`
	Count   uint64     `json:"count"`
	First   time.Time  `json:"first"`
	Last    time.Time  `json:"last"`
}
