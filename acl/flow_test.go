package acl

import (
	"fmt"
	"testing"
)

const second = int64(1e9)

// shake opens a TCP connection between two peers.
func (gt *gateTest) shake(v6 bool, src, dst int, sport, dport uint16) {
	gt.Helper()
	gt.pass("SYN", gt.in(tcp(v6, src, dst, sport, dport, FlagSYN, "")))
	gt.pass("SYN-ACK", gt.in(tcp(v6, dst, src, dport, sport, FlagSYN|FlagACK, "")))
	gt.pass("ACK", gt.in(tcp(v6, src, dst, sport, dport, FlagACK, "")))
}

// A reset that the end point does not accept (it answers with a challenge ACK,
// RFC 5961) must not end the flow here either, and neither does anything that
// a third machine sends.
func TestP10_FlowSurvivesForgedResets(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoTCP, 22, 22}, plainRule{nKitchen, nDesk, ProtoTCP, 22, 22})
		gt.shake(v6, nLaptop, nDesk, 40000, 22)
		gt.drop("a third machine's reset", gt.in(tcp(v6, nKitchen, nDesk, 40000, 22, FlagRST, "")), ReasonNoFlow)
		gt.drop("a third machine's ACK", gt.in(tcp(v6, nKitchen, nLaptop, 22, 40000, FlagACK, "x")), ReasonNoRule)
		gt.pass("a reset outside the window", gt.in(tcp(v6, nLaptop, nDesk, 40000, 22, FlagRST, "")))
		gt.pass("the challenge", gt.in(tcp(v6, nDesk, nLaptop, 22, 40000, FlagACK, "")))
		gt.now += 600 * second
		gt.pass("data, ten minutes later", gt.in(tcp(v6, nLaptop, nDesk, 40000, 22, FlagACK|FlagPSH, "ls")))
		gt.pass("a real reset", gt.in(tcp(v6, nDesk, nLaptop, 22, 40000, FlagRST, "")))
		gt.now += 11 * second
		gt.drop("after it", gt.in(tcp(v6, nLaptop, nDesk, 40000, 22, FlagACK, "")), ReasonNoFlow)
	})
}

func TestTCPTimeouts(t *testing.T) {
	rules := []plainRule{{nLaptop, nDesk, ProtoTCP, 22, 22}}
	ack := tcp(false, nLaptop, nDesk, 40000, 22, FlagACK, "")
	for _, c := range []struct {
		what  string
		begin func(gt *gateTest)
		idle  int64
		next  []byte
	}{
		{"half open", func(gt *gateTest) { gt.in(tcp(false, nLaptop, nDesk, 40000, 22, FlagSYN, "")) }, 30, tcp(false, nDesk, nLaptop, 22, 40000, FlagSYN|FlagACK, "")},
		{"established", func(gt *gateTest) { gt.shake(false, nLaptop, nDesk, 40000, 22) }, 7200, ack},
		{"half closed", func(gt *gateTest) {
			gt.shake(false, nLaptop, nDesk, 40000, 22)
			gt.in(tcp(false, nLaptop, nDesk, 40000, 22, FlagACK|FlagFIN, ""))
		}, 7200, tcp(false, nDesk, nLaptop, 22, 40000, FlagACK, "more")},
		{"closed", func(gt *gateTest) {
			gt.shake(false, nLaptop, nDesk, 40000, 22)
			gt.in(tcp(false, nLaptop, nDesk, 40000, 22, FlagACK|FlagFIN, ""))
			gt.in(tcp(false, nDesk, nLaptop, 22, 40000, FlagACK|FlagFIN, ""))
		}, 10, ack},
		{"reset", func(gt *gateTest) {
			gt.shake(false, nLaptop, nDesk, 40000, 22)
			gt.in(tcp(false, nLaptop, nDesk, 40000, 22, FlagRST|FlagACK, ""))
		}, 10, ack},
	} {
		t.Run(c.what, func(t *testing.T) {
			for _, late := range []int64{0, 1} {
				gt := newGateTest(t, rules...)
				c.begin(gt)
				gt.now += (c.idle + late) * second
				if v := gt.in(c.next); v.Allow != (late == 0) {
					t.Errorf("after %d s: %+v", c.idle+late, v)
				}
			}
		})
	}
	gt := newGateTest(t, rules...)
	gt.shake(false, nLaptop, nDesk, 40000, 22)
	gt.in(tcp(false, nLaptop, nDesk, 40000, 22, FlagRST, ""))
	gt.shake(false, nLaptop, nDesk, 40000, 22) // the ports may be used again
	gt.now += 3600 * second
	gt.pass("the second connection", gt.in(ack))
}

// UDP answers come from where the question went, within the time.
func TestP16_MeshD20_UDPAnswers(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoUDP, 9000, 9000})
		gt.drop("an answer before the question", gt.in(udp(v6, nDesk, nLaptop, 9000, 40000)), ReasonNoRule)
		gt.pass("question", gt.in(udp(v6, nLaptop, nDesk, 40000, 9000)))
		gt.pass("answer", gt.in(udp(v6, nDesk, nLaptop, 9000, 40000)))
		gt.drop("from another port", gt.in(udp(v6, nDesk, nLaptop, 9001, 40000)), ReasonNoRule)
		gt.drop("to another port", gt.in(udp(v6, nDesk, nLaptop, 9000, 40001)), ReasonNoRule)
		gt.drop("by another peer", gt.in(udp(v6, nKitchen, nLaptop, 9000, 40000)), ReasonNoRule)
		gt.drop("in the other family", gt.in(udp(!v6, nDesk, nLaptop, 9000, 40000)), ReasonNoRule)
		gt.now += 119 * second
		gt.pass("in time", gt.in(udp(v6, nDesk, nLaptop, 9000, 40000)))
		gt.now += 121 * second
		gt.drop("too late", gt.in(udp(v6, nDesk, nLaptop, 9000, 40000)), ReasonNoRule)
		gt.drop("the same ports, the other way", gt.in(udp(v6, nDesk, nLaptop, 9000, 40000)), ReasonNoRule)
	})
}

// What this node sends itself gets its answer.
func TestMeshD21_OwnFlows(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		gt := newGateTest(t, plainRule{nSTT, nKitchen, ProtoUDP, 53, 53}, plainRule{nSTT, nKitchen, ProtoTCP, 80, 80}, plainRule{nSTT, nKitchen, ProtoICMP, 0, 0})
		gt.drop("unasked", gt.in(udp(v6, nKitchen, nSTT, 53, 40000)), ReasonNoRule, ReasonNotOffered)
		gt.pass("UDP question", gt.out(udp(v6, nSTT, nKitchen, 40000, 53)))
		v := gt.in(udp(v6, nKitchen, nSTT, 53, 40000))
		gt.pass("UDP answer", v)
		if !v.Local {
			t.Error("the answer is for this node and does not say so")
		}
		gt.drop("from another port", gt.in(udp(v6, nKitchen, nSTT, 54, 40000)))
		gt.drop("by another peer", gt.in(udp(v6, nDesk, nSTT, 53, 40000)))
		gt.drop("to another service", gt.in(udp(v6, nKitchen, nHub, 53, 40000)))
		gt.pass("SYN", gt.out(tcp(v6, nSTT, nKitchen, 40000, 80, FlagSYN, "")))
		gt.drop("ACK before the SYN-ACK", gt.out(tcp(v6, nSTT, nKitchen, 40000, 80, FlagACK, "")))
		gt.pass("SYN-ACK", gt.in(tcp(v6, nKitchen, nSTT, 80, 40000, FlagSYN|FlagACK, "")))
		gt.pass("ACK", gt.out(tcp(v6, nSTT, nKitchen, 40000, 80, FlagACK, "")))
		gt.pass("data", gt.in(tcp(v6, nKitchen, nSTT, 80, 40000, FlagACK|FlagPSH, "200 OK")))
		gt.drop("a SYN back", gt.in(tcp(v6, nKitchen, nSTT, 80, 40000, FlagSYN, "")))
		gt.pass("ping", gt.out(ping(v6, nSTT, nKitchen, 7)))
		gt.pass("pong", gt.in(pong(v6, nKitchen, nSTT, 7)))
		gt.drop("another pong", gt.in(pong(v6, nKitchen, nSTT, 8)), ReasonNoRule, ReasonNoFlow)
		gt.drop("a ping back", gt.in(ping(v6, nKitchen, nSTT, 7)), ReasonNoRule)
		gt.drop("a port no rule allows", gt.out(tcp(v6, nSTT, nKitchen, 40000, 81, FlagSYN, "")), ReasonNoRule)
	})
}

// Echoes need a rule, replies need a request, and neither leaves a trace
// where it was refused.
func TestP12_MeshD22_Echo(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoICMP, 0, 0}, plainRule{nLaptop, nSTT, ProtoICMP, 0, 0}, plainRule{nKitchen, nDesk, ProtoTCP, 22, 22})
		for id := range uint16(2000) {
			gt.drop("ping without a rule", gt.in(ping(v6, nKitchen, nDesk, id)), ReasonNoRule)
			gt.drop("pong without a ping", gt.in(pong(v6, nDesk, nLaptop, id)))
			gt.drop("pong without a ping to this node", gt.in(pong(v6, nLaptop, nSTT, id)), ReasonNoFlow)
		}
		if n := gt.Stats().Flows; n != 0 {
			t.Errorf("%d flows", n)
		}
		gt.pass("ping", gt.in(ping(v6, nLaptop, nDesk, 7)))
		gt.pass("pong", gt.in(pong(v6, nDesk, nLaptop, 7)))
		gt.drop("another identifier", gt.in(pong(v6, nDesk, nLaptop, 8)))
		gt.drop("a ping back", gt.in(ping(v6, nDesk, nLaptop, 7)), ReasonNoRule)
		gt.now += 31 * second
		gt.drop("too late", gt.in(pong(v6, nDesk, nLaptop, 7)))
		gt.pass("ping to this node", gt.in(ping(v6, nLaptop, nSTT, 7)))
		gt.pass("its pong", gt.out(pong(v6, nSTT, nLaptop, 7)))
		gt.drop("a pong for somebody without the rule", gt.out(pong(v6, nSTT, nKitchen, 7)))
	})
}

// Errors pass if they are about a living flow between the two, in either
// direction; nothing else does.
func TestP11_MeshD22_Errors(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoUDP, 9000, 9000}, plainRule{nLaptop, nSTT, ProtoUDP, 9000, 9000}, plainRule{nSTT, nKitchen, ProtoTCP, 80, 80})
		question, reply := udp(v6, nLaptop, nDesk, 40000, 9000), udp(v6, nDesk, nLaptop, 9000, 40000)
		gt.drop("before the flow", gt.in(unreachable(v6, nDesk, nLaptop, question)), ReasonICMPQuote)
		gt.pass("question", gt.in(question))
		gt.pass("about the question", gt.in(unreachable(v6, nDesk, nLaptop, question)))
		gt.pass("about an answer", gt.in(unreachable(v6, nLaptop, nDesk, reply)))
		gt.drop("about another port", gt.in(unreachable(v6, nDesk, nLaptop, udp(v6, nLaptop, nDesk, 40001, 9000))), ReasonICMPQuote)
		gt.drop("about a flow of somebody else", gt.in(unreachable(v6, nKitchen, nLaptop, question)), ReasonICMPQuote)
		gt.drop("to somebody else", gt.in(unreachable(v6, nDesk, nKitchen, question)), ReasonICMPQuote)
		big := ip(at(v6, nDesk), at(v6, nLaptop), 1, icmpHeader(map[bool]byte{false: 3, true: 2}[v6], map[bool]byte{false: 4, true: 0}[v6], 1280, question))
		gt.pass("packet too big", gt.in(big))
		gt.now += 121 * second
		gt.drop("about a flow that is over", gt.in(unreachable(v6, nDesk, nLaptop, question)), ReasonICMPQuote)
		gt.pass("again", gt.in(question))
		gt.Swap(compileRules(t, gateWorld()))
		gt.drop("about a flow that was revoked", gt.in(unreachable(v6, nDesk, nLaptop, question)), ReasonICMPQuote)
	})
}

// The same between a peer and this node's own stack.
func TestP11_MeshD22_ErrorsHere(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		gt := newGateTest(t, plainRule{nLaptop, nSTT, ProtoUDP, 9000, 9000}, plainRule{nSTT, nKitchen, ProtoTCP, 80, 80}, plainRule{nLaptop, nSTT, ProtoICMP, 0, 0}, plainRule{nSTT, nKitchen, ProtoICMP, 0, 0})
		gt.pass("port unreachable for what a rule allows", gt.out(unreachable(v6, nSTT, nLaptop, udp(v6, nLaptop, nSTT, 40000, 9000))))
		gt.drop("for what no rule allows", gt.out(unreachable(v6, nSTT, nLaptop, udp(v6, nLaptop, nSTT, 40000, 53))), ReasonICMPQuote)
		gt.pass("about our answer", gt.in(unreachable(v6, nLaptop, nSTT, udp(v6, nSTT, nLaptop, 9000, 40000))))
		gt.drop("about an answer we may not give", gt.in(unreachable(v6, nLaptop, nSTT, udp(v6, nSTT, nLaptop, 53, 40000))), ReasonICMPQuote)
		gt.pass("about our pong", gt.in(unreachable(v6, nLaptop, nSTT, pong(v6, nSTT, nLaptop, 7))))
		gt.drop("about a ping we did not send", gt.in(unreachable(v6, nLaptop, nSTT, ping(v6, nSTT, nLaptop, 7))), ReasonICMPQuote)
		syn := tcp(v6, nSTT, nKitchen, 40000, 80, FlagSYN, "")
		gt.drop("about a call we did not make", gt.in(unreachable(v6, nKitchen, nSTT, syn)), ReasonICMPQuote)
		gt.pass("the call", gt.out(syn))
		gt.pass("about our call", gt.in(unreachable(v6, nKitchen, nSTT, syn)))
		gt.drop("about our call, by another", gt.in(unreachable(v6, nDesk, nSTT, syn)), ReasonICMPQuote)
		gt.pass("about their answer to it", gt.out(unreachable(v6, nSTT, nKitchen, tcp(v6, nKitchen, nSTT, 80, 40000, FlagACK, ""))))
		gt.pass("ping", gt.out(ping(v6, nSTT, nKitchen, 9)))
		gt.pass("about our ping", gt.in(unreachable(v6, nKitchen, nSTT, ping(v6, nSTT, nKitchen, 9))))
	})
}

// What is answered on a refusal: never an error, a reply or a reset.
func TestMeshD23_Rejectable(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for what, c := range map[string]struct {
			b    []byte
			want bool
		}{
			"SYN":   {tcp(v6, nLaptop, nSTT, 40000, 22, FlagSYN, ""), true},
			"ACK":   {tcp(v6, nLaptop, nSTT, 40000, 22, FlagACK, ""), true},
			"RST":   {tcp(v6, nLaptop, nSTT, 40000, 22, FlagRST, ""), false},
			"UDP":   {udp(v6, nLaptop, nSTT, 40000, 22), true},
			"ping":  {ping(v6, nLaptop, nSTT, 1), true},
			"pong":  {pong(v6, nLaptop, nSTT, 1), false},
			"error": {unreachable(v6, nLaptop, nSTT, udp(v6, nSTT, nLaptop, 1, 2)), false},
			"null":  {tcp(v6, nLaptop, nSTT, 40000, 22, 0, ""), false},
			"short": {[]byte{0x45}, false},
		} {
			var p Packet
			if p.Parse(c.b); p.Rejectable() != c.want {
				t.Errorf("%s: %v", what, !c.want)
			}
		}
	})
}

// One peer opens a million flows. Its table stays bounded, and neither the
// flows of others nor what this node itself has dialled to it are lost.
func TestP14_MeshD20_FlowQuota(t *testing.T) {
	for _, small := range []bool{false, true} {
		t.Run(fmt.Sprintf("small=%v", small), func(t *testing.T) {
			gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoUDP, 0, 0}, plainRule{nLaptop, nDesk, ProtoTCP, 22, 22}, plainRule{nKitchen, nDesk, ProtoUDP, 0, 0}, plainRule{nSTT, nLaptop, ProtoUDP, 53, 53})
			quota := maxFlows
			if small {
				f := gt.Filter()
				gt.Gate = NewGate(GateConfig{Small: true, Clock: func() int64 { return gt.now }})
				gt.Swap(f)
				quota = maxFlowsSmall
			}
			gt.pass("kitchen", gt.in(udp(false, nKitchen, nDesk, 40000, 9000)))
			gt.pass("own", gt.out(udp(false, nSTT, nLaptop, 40000, 53)))
			gt.shake(true, nLaptop, nDesk, 40000, 22)
			var p Packet
			raw := udp(false, nLaptop, nDesk, 1, 1)
			p.Parse(raw)
			for i := range uint32(1 << 20) {
				p.srcPort, p.dstPort = uint16(i)|1, uint16(i>>8)|1
				if v := gt.In(&p, gt.now); !v.Allow {
					t.Fatal(v)
				}
			}
			if n := len(gt.find(nLaptop).flows.slots.Load().keys); n != quota {
				t.Errorf("room for %d flows, want %d", n, quota)
			}
			if n := gt.Stats().Flows; n > quota+1 {
				t.Errorf("%d flows", n)
			}
			gt.pass("kitchen's flow", gt.in(udp(false, nDesk, nKitchen, 9000, 40000)))
			gt.pass("what this node dialled", gt.in(udp(false, nLaptop, nSTT, 53, 40000)))
			gt.pass("laptop's own connection", gt.in(tcp(true, nDesk, nLaptop, 22, 40000, FlagACK, "")))
			gt.now += 121 * second
			if gt.Stats(); gt.find(nKitchen).flows.slots.Load() != nil {
				t.Error("the memory of an empty table was not given back")
			}
		})
	}
}

// A million SYNs: half-open connections go before established ones.
func TestP14_SYNFloodKeepsConnections(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoTCP, 0, 0})
	for port := range uint16(200) {
		gt.shake(false, nLaptop, nDesk, 30000+port, 22)
	}
	var p Packet
	raw := tcp(false, nLaptop, nDesk, 1, 1, FlagSYN, "")
	p.Parse(raw)
	for i := range uint32(1 << 20) {
		p.srcPort, p.dstPort = uint16(i)|1, uint16(i>>8)|0x8000
		gt.In(&p, gt.now)
	}
	for port := range uint16(200) {
		gt.pass("connection", gt.in(tcp(false, nDesk, nLaptop, 22, 30000+port, FlagACK, "")))
	}
}

// A newer policy judges a flow again, at its next packet.
func TestFlowsAreRejudged(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoTCP, 20, 30}, plainRule{nSTT, nKitchen, ProtoUDP, 50, 60})
		gt.shake(v6, nLaptop, nDesk, 40000, 22)
		gt.shake(v6, nLaptop, nDesk, 40001, 25)
		gt.pass("own", gt.out(udp(v6, nSTT, nKitchen, 40000, 53)))
		gt.pass("own", gt.out(udp(v6, nSTT, nKitchen, 40001, 60)))
		var kept, lost Packet
		kept.Parse(tcp(v6, nDesk, nLaptop, 22, 40000, FlagACK, "x"))
		lost.Parse(tcp(v6, nDesk, nLaptop, 25, 40001, FlagACK, "x"))
		if !gt.Standing(&kept) || !gt.Standing(&lost) {
			t.Error("what is allowed does not stand")
		}
		gt.Swap(compileRules(t, gateWorld(), plainRule{nLaptop, nDesk, ProtoTCP, 22, 22}, plainRule{nSTT, nKitchen, ProtoUDP, 53, 53}))
		if !gt.Standing(&kept) || gt.Standing(&lost) {
			t.Error("what waits in a queue was not judged again")
		}
		gt.pass("still allowed", gt.in(tcp(v6, nDesk, nLaptop, 22, 40000, FlagACK, "x")))
		gt.pass("still allowed", gt.in(udp(v6, nKitchen, nSTT, 53, 40000)))
		gt.drop("revoked, sent by the answerer", gt.in(tcp(v6, nDesk, nLaptop, 25, 40001, FlagACK, "x")), ReasonRevoked, ReasonNoRule)
		gt.drop("revoked, sent by the opener", gt.in(tcp(v6, nLaptop, nDesk, 40001, 25, FlagACK, "x")))
		gt.drop("revoked", gt.in(udp(v6, nKitchen, nSTT, 60, 40001)), ReasonRevoked)
		gt.drop("revoked", gt.out(udp(v6, nSTT, nKitchen, 40001, 60)))
		gt.Swap(nil)
		gt.drop("no policy", gt.in(tcp(v6, nDesk, nLaptop, 22, 40000, FlagACK, "x")), ReasonNoPolicy)
	})
}
