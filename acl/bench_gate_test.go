package acl

import (
	"fmt"
	"testing"

	"github.com/warrenmesh/warren/peer"
)

// bigWorld returns a mesh of n peers and a policy of the given number of rules.
func bigWorld(n, rules int) (*World, []byte) {
	w := gateWorld()
	for i := range n {
		p := gatePeer(2000+i, fmt.Sprintf("peer-%d", i), "ann", "home")
		p.ID = peer.ID(fmt.Sprintf("big-%d", i))
		if i%3 == 0 {
			p.Owner = "bob"
		}
		w.Peers = append(w.Peers, p)
	}
	text := []plainRule{
		{nLaptop, nSTT, ProtoTCP, 443, 443},
		{nLaptop, nSTT, ProtoUDP, 9000, 9000},
		{nLaptop, nDesk, ProtoUDP, 0, 0},
		{nLaptop, nDesk, ProtoTCP, 22, 22},
	}
	for i := len(text); i < rules; i++ {
		port := uint16(1000 + i)
		text = append(text, plainRule{nLaptop + i%3, nLaptop + (i+1)%3, ProtoTCP, port, port})
	}
	return w, policyText(text)
}

func bigFilter(b *testing.B, peers, rules int) *Filter {
	b.Helper()
	w, text := bigWorld(peers, rules)
	p, err := Parse(text)
	if err != nil {
		b.Fatal(err)
	}
	f, err := Compile(p, w)
	if err != nil {
		b.Fatal(err)
	}
	return f
}

func benchPacket(b *testing.B, raw []byte) *Packet {
	b.Helper()
	p := new(Packet)
	if r := p.Parse(raw); r != 0 {
		b.Fatal(r)
	}
	return p
}

// BenchmarkGate is the cost of a verdict: for a packet of a known flow, for
// one that opens a flow, for one that is refused; to this node and in transit.
func BenchmarkGate(b *testing.B) {
	for _, peers := range []int{10, 1000, 10000} {
		g := NewGate(GateConfig{})
		g.Swap(bigFilter(b, peers, 1000))
		now := g.Now()
		run := func(name string, allow bool, p *Packet, out bool) {
			b.Run(fmt.Sprintf("%s/peers=%d", name, peers), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					var v Verdict
					if out {
						v = g.Out(p, now)
					} else {
						v = g.In(p, now)
					}
					if v.Allow != allow {
						b.Fatal(v)
					}
				}
			})
		}
		syn := benchPacket(b, tcp(false, nLaptop, nDesk, 40000, 22, FlagSYN, ""))
		synAck := benchPacket(b, tcp(false, nDesk, nLaptop, 22, 40000, FlagSYN|FlagACK, ""))
		ack := benchPacket(b, tcp(false, nLaptop, nDesk, 40000, 22, FlagACK, ""))
		for _, p := range []*Packet{syn, synAck, ack} {
			if v := g.In(p, now); !v.Allow {
				b.Fatal(v)
			}
		}
		run("known-local-tcp", true, benchPacket(b, tcp(false, nLaptop, nSTT, 40000, 443, FlagACK, "data")), false)
		run("known-local-udp", true, benchPacket(b, udp(true, nLaptop, nSTT, 40000, 9000)), false)
		run("known-local-answer", true, benchPacket(b, tcp(false, nSTT, nLaptop, 443, 40000, FlagACK, "data")), true)
		run("known-transit", true, benchPacket(b, tcp(false, nLaptop, nDesk, 40000, 22, FlagACK, "data")), false)
		run("known-transit-answer", true, benchPacket(b, tcp(false, nDesk, nLaptop, 22, 40000, FlagACK, "data")), false)
		run("refused-local", false, benchPacket(b, tcp(false, nLaptop, nSTT, 40000, 444, FlagSYN, "")), false)
		run("refused-transit", false, benchPacket(b, tcp(false, nDesk, nLaptop, 40000, 22, FlagSYN, "")), false)
		run("new-local", true, benchPacket(b, tcp(false, nLaptop, nSTT, 40000, 443, FlagSYN, "")), false)
		p := benchPacket(b, udp(false, nLaptop, nDesk, 40000, 9000))
		b.Run(fmt.Sprintf("new-transit/peers=%d", peers), func(b *testing.B) {
			b.ReportAllocs()
			n := uint32(0)
			for b.Loop() {
				n++
				p.srcPort, p.dstPort = uint16(n), uint16(n>>16|1)
				if v := g.In(p, now); !v.Allow {
					b.Fatal(v)
				}
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for _, v6 := range []bool{false, true} {
		raw := tcp(v6, nLaptop, nSTT, 40000, 443, FlagACK, "data")
		b.Run(fmt.Sprintf("v6=%v", v6), func(b *testing.B) {
			b.ReportAllocs()
			var p Packet
			for b.Loop() {
				if r := p.Parse(raw); r != 0 {
					b.Fatal(r)
				}
			}
		})
	}
}

// BenchmarkSwap is the time until a compiled filter is in force.
func BenchmarkSwap(b *testing.B) {
	for _, peers := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("peers=%d", peers), func(b *testing.B) {
			f := [2]*Filter{bigFilter(b, peers, 1000), bigFilter(b, peers, 1000)}
			g := NewGate(GateConfig{})
			i := 0
			for b.Loop() {
				i++
				g.Swap(f[i&1])
			}
		})
	}
}
