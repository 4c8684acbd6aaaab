package acl

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

func TestNewGateDeniesEverything(t *testing.T) {
	g := NewGate(GateConfig{})
	var p Packet
	if v := g.In(&p, 0); v.Allow {
		t.Error("a packet that was never parsed passed")
	}
	p.Parse(tcp(false, nLaptop, nSync, 40000, 80, FlagSYN, ""))
	if v := g.In(&p, 0); v.Allow || v.Reason != ReasonNoPolicy {
		t.Errorf("without a policy: %+v", v)
	}
	if v := g.Out(&p, 0); v.Allow {
		t.Errorf("out without a policy: %+v", v)
	}
	if g.Epoch() != 0 || g.Filter() != nil || g.Standing(&p) {
		t.Error("a new gate has a policy")
	}
	if e := g.Swap(compileRules(t, gateWorld())); e != 1 {
		t.Errorf("first epoch %d", e)
	}
	if v := g.In(&p, 0); !v.Allow || !v.Local {
		t.Errorf("sync: %+v", v)
	}
	g.Swap(nil)
	if v := g.In(&p, 0); v.Allow {
		t.Error("passed after the policy was taken away")
	}
	var zero Packet
	if v := g.In(&zero, 0); v.Allow {
		t.Error("the zero packet passed")
	}
}

// Source addresses that nobody on the mesh has, or that the sender cannot have.
func TestMeshC12_Sources(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nSTT, ProtoTCP, 443, 443}, plainRule{nSTT, nKitchen, ProtoTCP, 443, 443})
	for _, src := range []string{
		"10.77.0.10", "10.77.0.1", "fd77:1:2:3::1", "fd77:1:2:3::a", // this node's own
		"10.77.5.220", "fd77:1:2:3::5dc", // nobody's
		"10.77.0.0", "10.77.255.255", "255.255.255.255", "0.0.0.0", "224.0.0.1", "239.1.1.1", "127.0.0.1", "169.254.1.1", "192.168.1.5", "8.8.8.8",
		"::", "::1", "ff02::1", "fe80::1", "fd77:1:2:4::3e8", "fd77:1:2:3:0:0:1:3e8", "::ffff:10.77.3.232", "64:ff9b::a4d:3e8", "2002:a4d:3e8::1", "::10.77.3.232",
	} {
		a := netip.MustParseAddr(src)
		for _, dst := range []netip.Addr{at(a.Is6(), nSTT), at(a.Is6(), nKitchen)} {
			gt.drop(src+" to "+dst.String(), gt.in(ip(a, dst, 6, tcpHeader(40000, 443, FlagSYN, ""))), ReasonSpoofed, ReasonUnknownSource)
		}
	}
	gt.drop("quarantined", gt.in(tcp(false, nLocked, nSTT, 40000, 443, FlagSYN, "")), ReasonQuarantined)
	s := gt.Stats()
	if len(s.Peers) == 0 || s.Reasons[ReasonUnknownSource] == 0 || s.Reasons[ReasonSpoofed] == 0 {
		t.Errorf("refusals were not counted: %+v", s)
	}
}

// The LAND attack: a packet from a machine to itself.
func TestGateRefusesLAND(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nLaptop, ProtoTCP, 1, 65535})
	gt.drop("from itself to itself", gt.in(tcp(false, nLaptop, nLaptop, 80, 80, FlagSYN, "")), ReasonSpoofed)
}

// Where a packet may not go whatever its source: only places on the overlay.
func TestP15_MeshC13_MeshA6_Destinations(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nSTT, ProtoTCP, 443, 443})
	for _, dst := range []string{
		"10.77.0.1", "10.77.3.234", "fd77:1:2:3::3ea", // the hub, a peer without a rule
		"10.77.0.0", "10.77.255.255", "255.255.255.255", "0.0.0.0", "224.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.0.1", "172.17.0.1", "100.100.100.200", "8.8.8.8",
		"::", "::1", "fe80::1", "ff02::1", "fd00:ec2::254", "::ffff:10.77.0.10", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::1",
		"fd7a:115c:a1e0:b1a:0:1:7f00:1", "fd77:1:2:3::7f00:1", "fd77:1:2:3::a4d:a", "fd77:1:2:3:1::a", "::10.77.0.10",
	} {
		a := netip.MustParseAddr(dst)
		for _, port := range []uint16{443, 80, 22} {
			gt.drop(dst, gt.in(ip(at(a.Is6(), nLaptop), a, 6, tcpHeader(40000, port, FlagSYN, ""))))
			gt.drop(dst, gt.in(ip(at(a.Is6(), nLaptop), a, 17, udpHeader(40000, port, ""))))
		}
		gt.drop(dst, gt.in(ip(at(a.Is6(), nLaptop), a, 1, icmpHeader(map[bool]byte{false: 8, true: 128}[a.Is6()], 0, 1, nil))))
	}
}

// One port is allowed; a scan of all of them, everywhere, finds that one.
func TestP15_PortScan(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nSTT, ProtoTCP, 443, 443})
	var p Packet
	for _, v6 := range []bool{false, true} {
		for _, dst := range []int{nHub, nEnrol, nConsole, nSTT, nLLM, nKitchen, nDesk, nGuest, nLocked, nInvite, nNobody} {
			overTCP, overUDP := tcp(v6, nLaptop, dst, 40000, 1, FlagSYN, ""), udp(v6, nLaptop, dst, 40000, 1)
			at := len(overTCP) - 18 // the destination port
			for port := 1; port < 65536; port++ {
				binary.BigEndian.PutUint16(overTCP[at:], uint16(port))
				binary.BigEndian.PutUint16(overUDP[at:], uint16(port))
				p.Parse(overTCP)
				if v := gt.In(&p, gt.now); v.Allow != (dst == nSTT && port == 443) {
					t.Fatalf("tcp %d:%d: %+v", dst, port, v)
				}
				p.Parse(overUDP)
				if v := gt.In(&p, gt.now); v.Allow {
					t.Fatalf("udp %d:%d: %+v", dst, port, v)
				}
			}
		}
	}
}

// A flow is found only after it is established who is speaking: what the
// address's last owner opened is not there for the next.
func TestMeshC14_MeshC15_IdentityBeforeFlows(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoUDP, 9000, 9000}, plainRule{nDesk, nLaptop, ProtoUDP, 53, 53})
		gt.pass("laptop opens", gt.in(udp(v6, nLaptop, nDesk, 40000, 9000)))
		gt.pass("desk answers", gt.in(udp(v6, nDesk, nLaptop, 9000, 40000)))
		gt.pass("desk opens", gt.in(udp(v6, nDesk, nLaptop, 40000, 53)))
		// laptop is removed, and its address given to another machine with
		// another owner.
		w := gateWorld()
		w.Peers[0] = gatePeer(nLaptop, "tablet", "bob", "home")
		w.Peers[0].ID, w.Peers[0].PublicKey = "id-tablet", testKey(77)
		p, err := Parse([]byte(`{"households": {"home": ["ann@", "bob@"], "guests": []}, "acls": [{"action":"accept","src":["peer:desk"],"proto":"udp","dst":["peer:tablet:53"]}]}`))
		if err != nil {
			t.Fatal(err)
		}
		f, err := Compile(p, w)
		if err != nil {
			t.Fatal(err)
		}
		gt.Swap(f)
		gt.drop("the tablet replays", gt.in(udp(v6, nLaptop, nDesk, 40000, 9000)), ReasonRevoked)
		gt.drop("an answer to the laptop", gt.in(udp(v6, nDesk, nLaptop, 9000, 40000)))
		gt.Forget(at(v6, nLaptop))
		gt.drop("an answer to desk's own flow, now forgotten", gt.in(udp(v6, nLaptop, nDesk, 53, 40000)), ReasonNoRule)
		for _, flow := range gt.Flows() {
			if a := at(v6, nLaptop); flow.Dst == a && flow.Src != at(v6, nDesk) || flow.Src == a && flow.Allowed {
				t.Errorf("the ledger still knows the laptop: %+v", flow)
			}
		}
	})
}

// Whatever flags a packet carries, a denied port gives the answer it gives to
// a SYN, and nothing of it is remembered.
func TestMeshD16_ScansOfADeniedPort(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		gt := newGateTest(t, plainRule{nLaptop, nSTT, ProtoTCP, 443, 443}, plainRule{nLaptop, nDesk, ProtoTCP, 22, 22})
		for _, dst := range []int{nSTT, nDesk} {
			syn := gt.in(tcp(v6, nLaptop, dst, 40000, 80, FlagSYN, ""))
			gt.drop("SYN", syn)
			for _, flags := range []byte{FlagACK, FlagRST, FlagACK | FlagFIN, FlagACK | FlagPSH, FlagSYN | FlagACK} {
				gt.drop("another flag", gt.in(tcp(v6, nLaptop, dst, 40000, 80, flags, "")), syn.Reason)
			}
			for _, flags := range []byte{FlagFIN, FlagSYN | FlagFIN, FlagSYN | FlagRST, 0, FlagFIN | FlagPSH | FlagURG} {
				gt.drop("an impossible set", gt.in(tcp(v6, nLaptop, dst, 40000, 80, flags, "")), ReasonFlags)
			}
			gt.drop("SYN with data", gt.in(tcp(v6, nLaptop, dst, 40000, 80, FlagSYN, "GET /")), ReasonSYNData)
		}
		if n := gt.Stats().Flows; n != 0 {
			t.Errorf("%d flows were opened", n)
		}
	})
}

// To an allowed port, what does not begin a connection has no flow and opens
// none. To this node's own stack bare segments reach the stack, which knows
// its connections itself; a SYN-ACK nobody asked for does not.
func TestP09_MeshD17_NonSYNOpensNothing(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoTCP, 22, 22}, plainRule{nLaptop, nSTT, ProtoTCP, 443, 443})
		for _, flags := range []byte{FlagACK, FlagRST, FlagRST | FlagACK, FlagACK | FlagFIN, FlagACK | FlagPSH, FlagSYN | FlagACK} {
			gt.drop("in transit", gt.in(tcp(v6, nLaptop, nDesk, 40000, 22, flags, "")), ReasonNoFlow)
		}
		gt.drop("SYN-ACK to this node", gt.in(tcp(v6, nLaptop, nSTT, 40000, 443, FlagSYN|FlagACK, "")), ReasonNoFlow)
		if n := gt.Stats().Flows; n != 0 {
			t.Errorf("%d flows were opened", n)
		}
		gt.pass("a clean SYN", gt.in(tcp(v6, nLaptop, nDesk, 40000, 22, FlagSYN, "")))
		gt.drop("data before the answer", gt.in(tcp(v6, nLaptop, nDesk, 40000, 22, FlagACK, "x")), ReasonNoFlow)
		gt.drop("data in the answer", gt.in(tcp(v6, nDesk, nLaptop, 22, 40000, FlagACK, "x")))
		gt.pass("SYN-ACK", gt.in(tcp(v6, nDesk, nLaptop, 22, 40000, FlagSYN|FlagACK, "")))
		gt.pass("ACK", gt.in(tcp(v6, nLaptop, nDesk, 40000, 22, FlagACK, "")))
		gt.drop("SYN-ACK by the opener", gt.in(tcp(v6, nLaptop, nDesk, 40000, 22, FlagSYN|FlagACK, "")))
		gt.pass("data", gt.in(tcp(v6, nDesk, nLaptop, 22, 40000, FlagACK|FlagPSH, "SSH-2.0")))
	})
}

// laptop may open to desk; desk may not open to laptop, from any port.
func TestMeshD19_ReverseDirection(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoTCP, 22, 22}, plainRule{nLaptop, nSTT, ProtoTCP, 443, 443})
		gt.drop("before", gt.in(tcp(v6, nDesk, nLaptop, 22, 40000, FlagSYN, "")), ReasonNoRule)
		gt.pass("laptop opens", gt.in(tcp(v6, nLaptop, nDesk, 40000, 22, FlagSYN, "")))
		gt.drop("half open", gt.in(tcp(v6, nDesk, nLaptop, 22, 40000, FlagSYN, "")), ReasonNoRule)
		gt.pass("SYN-ACK", gt.in(tcp(v6, nDesk, nLaptop, 22, 40000, FlagSYN|FlagACK, "")))
		gt.pass("ACK", gt.in(tcp(v6, nLaptop, nDesk, 40000, 22, FlagACK, "")))
		gt.drop("established", gt.in(tcp(v6, nDesk, nLaptop, 22, 40000, FlagSYN, "")), ReasonNoRule)
		gt.drop("to another port", gt.in(tcp(v6, nDesk, nLaptop, 22, 40001, FlagACK, "")), ReasonNoRule)
		// The same for this node: it may answer laptop, not call it.
		gt.pass("answer", gt.out(tcp(v6, nSTT, nLaptop, 443, 40000, FlagSYN|FlagACK, "")))
		gt.drop("call", gt.out(tcp(v6, nSTT, nLaptop, 443, 40000, FlagSYN, "")), ReasonNoRule)
		gt.drop("answer to a stranger", gt.out(tcp(v6, nSTT, nDesk, 443, 40000, FlagSYN|FlagACK, "")))
		gt.drop("answer from a closed port", gt.out(tcp(v6, nSTT, nLaptop, 444, 40000, FlagSYN|FlagACK, "")))
	})
}

// A spoke cannot rely on WireGuard for what comes through the hub.
func TestOutIsForPeers(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nSTT, ProtoUDP, 9000, 9000})
	gt.pass("an answer", gt.out(udp(false, nSTT, nLaptop, 9000, 40000)))
	for _, dst := range []string{"10.77.5.220", "10.77.255.255", "255.255.255.255", "224.0.0.251", "127.0.0.1", "169.254.169.254", "192.168.1.1", "1.1.1.1"} {
		gt.drop(dst, gt.out(ip(at4(nSTT), netip.MustParseAddr(dst), 17, udpHeader(9000, 53, ""))), ReasonUnknownDestination)
	}
	gt.drop("to itself", gt.out(udp(false, nSTT, nHub, 9000, 9000)), ReasonWrongDestination)
	gt.drop("from an address that is not ours", gt.out(udp(false, nDesk, nLaptop, 9000, 40000)), ReasonSpoofed)
	gt.drop("from no overlay address", gt.out(ip(netip.MustParseAddr("192.168.1.5"), at4(nLaptop), 17, udpHeader(9000, 53, ""))), ReasonSpoofed)
}

func TestNoAllocs(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nSTT, ProtoTCP, 443, 443}, plainRule{nLaptop, nDesk, ProtoUDP, 0, 0}, plainRule{nSTT, nLaptop, ProtoUDP, 0, 0})
	raw := map[string][]byte{
		"local":         tcp(true, nLaptop, nSTT, 40000, 443, FlagACK, "data"),
		"transit":       udp(false, nLaptop, nDesk, 40000, 9000),
		"answer":        udp(false, nDesk, nLaptop, 9000, 40000),
		"refusal":       tcp(false, nLaptop, nDesk, 40000, 22, FlagSYN, ""),
		"stranger":      udp(true, nNobody, nSTT, 1, 2),
		"short":         {0x60},
		"error":         unreachable(false, nDesk, nLaptop, udp(false, nLaptop, nDesk, 40000, 9000)),
		"quarantined":   udp(false, nLocked, nSTT, 1, 2),
		"invite":        udp(false, nInvite, nSTT, 1, 2),
		"neighbourhood": udp(false, nGuest, nDesk, 1, 2),
	}
	for what, b := range raw {
		run := func() {
			var p Packet
			p.Parse(b)
			gt.In(&p, gt.now)
			gt.Standing(&p)
		}
		run() // a peer's first packet makes its tables
		if n := testing.AllocsPerRun(100, run); n != 0 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
	b := udp(false, nSTT, nLaptop, 9000, 40000)
	run := func() {
		var p Packet
		p.Parse(b)
		gt.Out(&p, gt.now)
	}
	run()
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("out: %v allocations", n)
	}
	// A full table, and every packet opens another flow.
	var p Packet
	port := uint32(0)
	open := func() {
		port++
		p.Parse(raw["transit"])
		p.srcPort, p.dstPort = uint16(port)|1, uint16(port>>8)|1
		gt.In(&p, gt.now)
	}
	for range 100000 {
		open()
	}
	if n := testing.AllocsPerRun(1000, open); n != 0 {
		t.Errorf("new flows: %v allocations", n)
	}
}
