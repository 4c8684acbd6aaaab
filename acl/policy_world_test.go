package acl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/warrenmesh/warren/peer"
)

var (
	testV4 = netip.MustParsePrefix("10.77.0.0/16")
	testV6 = netip.MustParsePrefix("fd77:1:2:3::/64")
)

func testAddr4(n uint16) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, byte(n >> 8), byte(n)})
}

func testAddr6(n uint16) netip.Addr {
	b := testV6.Addr().As16()
	binary.BigEndian.PutUint16(b[14:], n)
	return netip.AddrFrom16(b)
}

func testPeer(n uint16, name, owner, household string, tags ...string) peer.Peer {
	return peer.Peer{
		ID: peer.ID("id-" + name), Name: name, V4: testAddr4(n), V6: testAddr6(n),
		Kind: peer.KindSpoke, Owner: owner, Household: household, Tags: tags,
	}
}

func testService(n uint16, name string, ports ...Port) Service {
	return Service{Name: name, V4: testAddr4(n), V6: testAddr6(n), Ports: ports}
}

func tcpPort(port uint16) Port { return Port{ProtoTCP, port, port} }
func udpPort(port uint16) Port { return Port{ProtoUDP, port, port} }

// builtinServices are those that every hub has.
func builtinServices() []Service {
	return []Service{
		testService(1, "hub"), testService(2, "enrol", tcpPort(443)), testService(3, "sync", tcpPort(80)),
		testService(4, "console", tcpPort(80)), testService(53, "dns", tcpPort(53), udpPort(53)),
		testService(5, "auth", tcpPort(80), tcpPort(443), tcpPort(7701)),
		testService(6, "command", tcpPort(80), tcpPort(443), tcpPort(7703)),
		testService(7, "hooks", tcpPort(80), tcpPort(443)),
	}
}

// homeWorld is a small mesh with a bit of everything.
func homeWorld() *World {
	invite := testPeer(65023, "invite-1", "ann", "home", "tag:speaker")
	invite.Kind = peer.KindInvite
	gone := testPeer(305, "lost-phone", "ann", "")
	gone.Quarantined = true
	llm := testService(12, "llm", tcpPort(8080))
	llm.Host = "id-gpu"
	return &World{
		V4: testV4, V6: testV6, Admin: "ann",
		Peers: []peer.Peer{
			testPeer(300, "ann-laptop", "ann", "home"), testPeer(301, "ann-phone", "ann", ""),
			testPeer(302, "bob-phone", "bob", "home"), testPeer(303, "guest-phone", "eve", "guests"),
			testPeer(304, "kitchen", "", "home", "tag:speaker"), gone, invite,
			testPeer(306, "gpu", "ann", "", "tag:gpu"), testPeer(307, "guest-pi", "", "guests", "tag:speaker"),
		},
		Services: append(builtinServices(), testService(10, "stt", tcpPort(443), Port{ProtoUDP, 6000, 6010}), testService(11, "notes", tcpPort(80)), llm),
	}
}

const homePolicy = `{
  // who lives where
  "households": { "home": ["ann@", "bob@"], "guests": ["eve@"] },
  "groups":     { "group:admin": ["ann@"] },
  "tagOwners":  { "tag:speaker": ["group:admin"], "tag:gpu": ["autogroup:admin"] },
  "hosts":      { "printer-pi": "10.77.1.48" },
  "acls": [
    {"action": "accept", "src": ["autogroup:member"], "proto": "tcp", "dst": ["svc:stt:443", "tag:speaker:10700-10710,22"]},
    {"action": "accept", "src": ["group:admin"], "dst": ["svc:*", "autogroup:self:*"]},
    {"action": "accept", "src": ["tag:speaker"], "dst": ["svc:stt", "svc:llm:8080"]},
    {"action": "accept", "src": ["*"], "dst": ["svc:dns", "autogroup:same-household:5353"]},
  ],
  "grants": [
    {"src": ["group:admin"], "dst": ["svc:notes"], "ip": ["tcp:80"], "app": {"warren.internal/cap/notes": [{"write": true}]}},
  ],
  "tests": [
    {"src": "ann@", "proto": "tcp", "accept": ["svc:stt:443", "svc:console:80"], "deny": ["guest-pi:22"]},
    {"src": "bob@", "deny": ["svc:console:80"]},
  ],
  "never": [ {"src": ["household:guests"], "dst": ["svc:console:*"]} ],
}
`

func mustParse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("parsing: %v\n%s", err, text)
	}
	return p
}

func mustCompile(t testing.TB, text string, w *World) *Filter {
	t.Helper()
	f, err := Compile(mustParse(t, text), w)
	if err != nil {
		t.Fatalf("compiling: %v", err)
	}
	return f
}

// where finds a machine's IPv4 address by its name.
func where(t testing.TB, w *World, name string) netip.Addr {
	t.Helper()
	for i := range w.Peers {
		if w.Peers[i].Name == name {
			return w.Peers[i].V4
		}
	}
	for i := range w.Services {
		if "svc:"+w.Services[i].Name == name {
			return w.Services[i].V4
		}
	}
	t.Fatalf("no %s in this world", name)
	return netip.Addr{}
}

// judge is lookup by addresses.
func judge(f *Filter, src, dst netip.Addr, proto Proto, port uint16) Verdict {
	return f.lookup(f.node(src), f.node(dst), proto, port)
}

func TestVerdict(t *testing.T) {
	w := homeWorld()
	f := mustCompile(t, homePolicy, w)
	for _, tt := range []struct {
		src, dst string
		proto    Proto
		port     uint16
		reason   Reason // ReasonNone: allowed
	}{
		{"ann-laptop", "svc:stt", ProtoTCP, 443, ReasonNone},
		{"ann-phone", "svc:stt", ProtoTCP, 443, ReasonNone},
		{"bob-phone", "svc:stt", ProtoTCP, 443, ReasonNone},
		{"bob-phone", "svc:stt", ProtoTCP, 80, ReasonNotOffered},
		{"bob-phone", "svc:stt", ProtoUDP, 6000, ReasonNoRule},
		{"ann-phone", "svc:stt", ProtoUDP, 6010, ReasonNone},
		{"ann-phone", "svc:stt", ProtoUDP, 6011, ReasonNotOffered},
		{"ann-phone", "svc:stt", ProtoICMP, 0, ReasonNone},
		{"bob-phone", "svc:console", ProtoTCP, 80, ReasonNoRule},
		{"ann-phone", "svc:console", ProtoTCP, 80, ReasonNone},
		{"guest-phone", "svc:console", ProtoTCP, 80, ReasonNever},
		{"ann-phone", "ann-laptop", ProtoTCP, 22, ReasonNone},
		{"ann-phone", "ann-laptop", ProtoICMP, 0, ReasonNone},
		{"ann-phone", "gpu", ProtoTCP, 9, ReasonNoRule}, // tagged: no longer ann's
		{"ann-phone", "bob-phone", ProtoTCP, 22, ReasonNoRule},
		{"ann-phone", "bob-phone", ProtoUDP, 5353, ReasonNone},
		{"ann-phone", "kitchen", ProtoTCP, 22, ReasonNone},
		{"ann-phone", "kitchen", ProtoTCP, 10711, ReasonNoRule},
		{"ann-phone", "guest-pi", ProtoTCP, 22, ReasonCrossHousehold},
		{"guest-phone", "guest-pi", ProtoTCP, 22, ReasonNone},
		{"guest-phone", "kitchen", ProtoTCP, 22, ReasonCrossHousehold},
		{"kitchen", "svc:llm", ProtoTCP, 8080, ReasonNone},
		{"kitchen", "ann-phone", ProtoTCP, 80, ReasonNoRule},
		{"guest-pi", "svc:sync", ProtoTCP, 80, ReasonNone},
		{"guest-pi", "svc:sync", ProtoTCP, 81, ReasonNotOffered},
		{"guest-pi", "svc:dns", ProtoUDP, 53, ReasonNone},
		{"invite-1", "svc:enrol", ProtoTCP, 443, ReasonNone},
		{"invite-1", "svc:enrol", ProtoUDP, 443, ReasonInvite},
		{"invite-1", "svc:dns", ProtoUDP, 53, ReasonInvite},
		{"ann-phone", "invite-1", ProtoTCP, 22, ReasonInvite},
		{"ann-phone", "svc:enrol", ProtoTCP, 443, ReasonEnrol},
		{"lost-phone", "svc:sync", ProtoTCP, 80, ReasonQuarantined},
		{"ann-phone", "lost-phone", ProtoTCP, 22, ReasonQuarantined},
	} {
		name := fmt.Sprintf("%s to %s %v/%d", tt.src, tt.dst, tt.proto, tt.port)
		v := judge(f, where(t, w, tt.src), where(t, w, tt.dst), tt.proto, tt.port)
		if v.Reason != tt.reason || v.Allow != (tt.reason == ReasonNone) || v.Allow != (v.Rule != 0) {
			t.Errorf("%s: %+v (%v), want %v", name, v, v.Reason, tt.reason)
		}
		six := f.lookup(f.node(testAddr6(f.node(where(t, w, tt.src)))), f.node(testAddr6(f.node(where(t, w, tt.dst)))), tt.proto, tt.port)
		if six != v {
			t.Errorf("%s: IPv6 says %+v, IPv4 %+v", name, six, v)
		}
	}
}
