package acl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer"
)

// The mesh that the gate's tests run on. Addresses are 10.77.0.0+n and
// fd77:1:2:3::n.
const (
	nHub     = 1
	nEnrol   = 2
	nSync    = 3
	nConsole = 4
	nSTT     = 10 // the hub's, tcp/443, udp/9000-9010 and icmp
	nLLM     = 11 // hosted by desk, tcp/8080
	nLaptop  = 1000
	nKitchen = 1001
	nDesk    = 1002
	nGuest   = 1003 // another household
	nLocked  = 1004 // quarantined
	nInvite  = 65100
	nNobody  = 1500
)

var (
	gateNet4 = netip.MustParsePrefix("10.77.0.0/16")
	gateNet6 = netip.MustParsePrefix("fd77:1:2:3::/64")
)

func at4(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, byte(n >> 8), byte(n)})
}

func at6(n int) netip.Addr {
	b := gateNet6.Addr().As16()
	binary.BigEndian.PutUint16(b[14:], uint16(n))
	return netip.AddrFrom16(b)
}

// at returns the address of node n in the family.
func at(v6 bool, n int) netip.Addr {
	if v6 {
		return at6(n)
	}
	return at4(n)
}

func testKey(n int) peer.PublicKey {
	var k peer.PublicKey
	binary.BigEndian.PutUint32(k[:], uint32(n))
	k[31] = 1
	return k
}

func gatePeer(n int, name, owner, household string) peer.Peer {
	return peer.Peer{
		ID: peer.ID(fmt.Sprintf("id-%d", n)), Name: name, PublicKey: testKey(n), V4: at4(n), V6: at6(n),
		Kind: peer.KindSpoke, Owner: owner, Household: household,
	}
}

func gateService(n int, name string, host peer.ID, ports ...Port) Service {
	return Service{Name: name, V4: at4(n), V6: at6(n), Host: host, Ports: ports}
}

// gateWorld returns that mesh.
func gateWorld() *World {
	locked := gatePeer(nLocked, "locked", "ann", "home")
	locked.Quarantined = true
	invite := gatePeer(nInvite, "invited", "", "")
	invite.Kind = peer.KindInvite
	return &World{
		V4: gateNet4, V6: gateNet6, Admin: "ann",
		Peers: []peer.Peer{
			gatePeer(nLaptop, "laptop", "ann", "home"),
			gatePeer(nKitchen, "kitchen", "ann", "home"),
			gatePeer(nDesk, "desk", "bob", "home"),
			gatePeer(nGuest, "guest", "bob", "guests"),
			locked, invite,
		},
		Services: []Service{
			gateService(nHub, "hub", "", Port{ProtoICMP, 0, 0}),
			gateService(nEnrol, "enrol", "", Port{ProtoTCP, 443, 443}),
			gateService(nSync, "sync", "", Port{ProtoTCP, 80, 80}),
			gateService(nConsole, "console", "", Port{ProtoTCP, 80, 80}),
			gateService(nSTT, "stt", "", Port{ProtoTCP, 443, 443}, Port{ProtoUDP, 9000, 9010}, Port{ProtoICMP, 0, 0}),
			gateService(nLLM, "llm", "id-1002", Port{ProtoTCP, 8080, 8080}),
		},
	}
}

// plainRule is a rule between two single nodes, in a form so plain that a test
// can evaluate it on its own.
type plainRule struct {
	src, dst    int
	proto       Proto
	first, last uint16
}

var gateNames = map[int]string{
	nHub: "svc:hub", nEnrol: "svc:enrol", nSync: "svc:sync", nConsole: "svc:console", nSTT: "svc:stt", nLLM: "svc:llm",
	nLaptop: "peer:laptop", nKitchen: "peer:kitchen", nDesk: "peer:desk", nGuest: "peer:guest", nLocked: "peer:locked", nInvite: "10.77.254.76",
}

// text writes the rules as a policy.
func policyText(rules []plainRule) []byte {
	var b strings.Builder
	b.WriteString(`{"households": {"home": ["ann@", "bob@"], "guests": []}, "acls": [` + "\n")
	for _, r := range rules {
		ports := fmt.Sprintf("%d-%d", r.first, r.last)
		if r.first == 0 || r.proto == ProtoICMP {
			ports = "*"
		}
		fmt.Fprintf(&b, `{"action":"accept","src":[%q],"proto":%q,"dst":["%s:%s"]},`+"\n", gateNames[r.src], r.proto, gateNames[r.dst], ports)
	}
	b.WriteString("]}")
	return []byte(b.String())
}

func compileRules(t testing.TB, w *World, rules ...plainRule) *Filter {
	t.Helper()
	p, err := Parse(policyText(rules))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(p, w)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// bench is a gate with a clock that stands still until told otherwise.
type gateTest struct {
	*testing.T
	*Gate
	now int64
}

func newGateTest(t *testing.T, rules ...plainRule) *gateTest {
	t.Helper()
	gt := &gateTest{T: t, now: 1e9}
	gt.Gate = NewGate(GateConfig{Clock: func() int64 { return gt.now }})
	gt.Swap(compileRules(t, gateWorld(), rules...))
	return gt
}

func (gt *gateTest) in(b []byte) Verdict {
	var p Packet
	p.Parse(b)
	return gt.In(&p, gt.now)
}

func (gt *gateTest) out(b []byte) Verdict {
	var p Packet
	p.Parse(b)
	return gt.Out(&p, gt.now)
}

func (gt *gateTest) pass(what string, v Verdict) {
	gt.Helper()
	if !v.Allow {
		gt.Errorf("%s: refused (%v), want allowed", what, v.Reason)
	}
}

func (gt *gateTest) drop(what string, v Verdict, want ...Reason) {
	gt.Helper()
	if v.Allow {
		gt.Errorf("%s: allowed, want refused", what)
		return
	}
	for _, r := range want {
		if v.Reason == r {
			return
		}
	}
	if len(want) > 0 {
		gt.Errorf("%s: refused because %q, want %q", what, v.Reason, want[0])
	}
}

// ip builds a packet around a transport header and payload. proto is the one
// of IPv4: ICMP becomes ICMPv6 where it has to.
func ip(src, dst netip.Addr, proto byte, transport []byte) []byte {
	if src.Is4() {
		b := make([]byte, 20, 20+len(transport))
		b[0], b[8], b[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(transport)))
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		return append(b, transport...)
	}
	if proto == 1 {
		proto = 58
	}
	b := make([]byte, 40, 40+len(transport))
	b[0], b[6], b[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(transport)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, transport...)
}

func tcpHeader(sport, dport uint16, flags byte, payload string) []byte {
	b := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	b[12], b[13] = 0x50, flags
	return append(b, payload...)
}

func udpHeader(sport, dport uint16, payload string) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return append(b, payload...)
}

// icmpHeader builds a message whose second word is rest.
func icmpHeader(typ, code byte, rest uint32, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	b[0], b[1] = typ, code
	binary.BigEndian.PutUint32(b[4:], rest)
	return append(b, payload...)
}

func tcp(v6 bool, src, dst int, sport, dport uint16, flags byte, payload string) []byte {
	return ip(at(v6, src), at(v6, dst), 6, tcpHeader(sport, dport, flags, payload))
}

func udp(v6 bool, src, dst int, sport, dport uint16) []byte {
	return ip(at(v6, src), at(v6, dst), 17, udpHeader(sport, dport, "hello"))
}

func ping(v6 bool, src, dst int, id uint16) []byte {
	typ := byte(icmp4Echo)
	if v6 {
		typ = icmp6Echo
	}
	return ip(at(v6, src), at(v6, dst), 1, icmpHeader(typ, 0, uint32(id)<<16|1, []byte("ping")))
}

func pong(v6 bool, src, dst int, id uint16) []byte {
	typ := byte(icmp4EchoReply)
	if v6 {
		typ = icmp6EchoReply
	}
	return ip(at(v6, src), at(v6, dst), 1, icmpHeader(typ, 0, uint32(id)<<16|1, []byte("ping")))
}

// unreachable builds "port unreachable" from src to dst that quotes a packet.
func unreachable(v6 bool, src, dst int, quoted []byte) []byte {
	typ, code := byte(icmp4Unreachable), byte(3)
	if v6 {
		typ, code = icmp6Unreachable, 4
	}
	if len(quoted) > 128 {
		quoted = quoted[:128]
	}
	return ip(at(v6, src), at(v6, dst), 1, icmpHeader(typ, code, 0, quoted))
}

// families runs a test for IPv4 and IPv6.
func families(t *testing.T, fn func(t *testing.T, v6 bool)) {
	t.Run("4", func(t *testing.T) { fn(t, false) })
	t.Run("6", func(t *testing.T) { fn(t, true) })
}
