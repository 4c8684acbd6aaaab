package acl

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// The rules that FuzzGate swaps between.
var fuzzRules = [][]plainRule{
	{
		{nLaptop, nSTT, ProtoTCP, 443, 443}, {nLaptop, nSTT, ProtoUDP, 9000, 9000}, {nLaptop, nSTT, ProtoICMP, 0, 0},
		{nLaptop, nDesk, ProtoTCP, 22, 22}, {nLaptop, nDesk, ProtoUDP, 0, 0}, {nLaptop, nDesk, ProtoICMP, 0, 0},
		{nSTT, nKitchen, ProtoTCP, 22, 9000}, {nSTT, nKitchen, ProtoUDP, 9000, 9000}, {nSTT, nKitchen, ProtoICMP, 0, 0},
		{nKitchen, nLLM, ProtoTCP, 8080, 8080}, {nGuest, nDesk, ProtoTCP, 22, 22}, {nLaptop, nLaptop, ProtoUDP, 0, 0},
		{nLocked, nSTT, ProtoTCP, 443, 443}, {nInvite, nSTT, ProtoTCP, 443, 443}, {nKitchen, nSTT, ProtoUDP, 9000, 9000},
	},
	{
		{nLaptop, nSTT, ProtoTCP, 443, 443}, {nDesk, nLaptop, ProtoTCP, 1, 65535}, {nDesk, nLaptop, ProtoUDP, 22, 22},
		{nSTT, nKitchen, ProtoTCP, 443, 443}, {nLaptop, nDesk, ProtoUDP, 9000, 9000}, {nDesk, nLaptop, ProtoICMP, 0, 0},
		{nLLM, nKitchen, ProtoUDP, 0, 0}, {nSTT, nKitchen, ProtoUDP, 22, 22},
	},
	{},
}

var (
	fuzzNodes = []int{nLaptop, nDesk, nKitchen, nSTT, nLaptop, nDesk, nKitchen, nSTT, nLLM, nHub, nSync, nEnrol, nGuest, nLocked, nInvite, nNobody, 0xffff}
	fuzzPorts = []uint16{22, 443, 9000, 40000, 8080, 80}
	fuzzFlags = []byte{FlagSYN, FlagSYN | FlagACK, FlagACK, FlagACK | FlagPSH, FlagACK | FlagFIN, FlagRST, FlagRST | FlagACK, 0, FlagFIN, FlagSYN | FlagFIN}
	fuzzSteps = []int64{1, 9, 10, 11, 29, 31, 60, 119, 121, 7199, 7201}
)

// script turns fuzz input into choices; past its end every choice is 0.
type script []byte

func (s *script) next() int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b)
}

func (s *script) take(n int) []byte {
	n = min(n, len(*s))
	b := (*s)[:n]
	*s = (*s)[n:]
	return append([]byte(nil), b...)
}

// packet builds the next packet. seen are packets that passed, for errors to
// quote and for answers to answer.
func (s *script) packet(seen [][]byte) []byte {
	c := s.next()
	v6 := c&1 != 0
	pick := s.next()
	var last []byte
	if len(seen) > 0 {
		last = seen[len(seen)-1-pick%min(len(seen), 4)]
	}
	var b []byte
	switch c >> 1 % 8 {
	case 0:
		b = s.wild(v6)
	case 1, 2, 3:
		r := fuzzRules[pick%2][pick/2%len(fuzzRules[pick%2])]
		switch port := max(r.first, 22); r.proto {
		case ProtoTCP:
			b = tcp(v6, r.src, r.dst, 40000, port, FlagSYN, "")
		case ProtoUDP:
			b = udp(v6, r.src, r.dst, 40000, port)
		default:
			b = ping(v6, r.src, r.dst, 7)
		}
	case 4:
		if last == nil {
			return s.take(s.next())
		}
		b = quoting(last, v6, s.next())
	default:
		f := s.next()
		b = answer(last, fuzzFlags[f%16%len(fuzzFlags)], f < 160)
	}
	for n := c >> 6; n > 0 && c&0x30 == 0x30 && len(b) > 0; n-- {
		b[s.next()%len(b)] ^= byte(s.next())
	}
	return b
}

// wild builds a packet between any two nodes.
func (s *script) wild(v6 bool) []byte {
	src, dst := fuzzNodes[s.next()%len(fuzzNodes)], fuzzNodes[s.next()%len(fuzzNodes)]
	ports := s.next()
	sport, dport := fuzzPorts[ports%len(fuzzPorts)], fuzzPorts[ports/16%len(fuzzPorts)]
	f := s.next()
	switch f % 4 {
	case 0:
		return udp(v6, src, dst, sport, dport)
	case 1:
		return ping(v6, src, dst, sport)
	case 2:
		return pong(v6, src, dst, sport)
	}
	return tcp(v6, src, dst, sport, dport, fuzzFlags[f/4%16%len(fuzzFlags)], strings.Repeat("x", f/64%3))
}

// quoting returns an error of kind k about b, sent by where b went.
func quoting(b []byte, v6 bool, k int) []byte {
	var p Packet
	if p.Parse(b) != 0 {
		return unreachable(v6, nDesk, nLaptop, b)
	}
	types := [][2]byte{{3, 3}, {11, 0}, {3, 4}, {5, 0}}
	if p.Is6() {
		types = [][2]byte{{1, 4}, {3, 0}, {2, 0}, {137, 0}}
	}
	typ := types[k%4]
	if len(b) > 64 {
		b = b[:64]
	}
	return ip(p.Dst(), p.Src(), 1, icmpHeader(typ[0], typ[1], 1280, b))
}

// answer returns b turned around. A polite one goes on with the handshake.
func answer(b []byte, flags byte, polite bool) []byte {
	var p Packet
	if p.Parse(b) != 0 {
		return b
	}
	switch p.Proto() {
	case ProtoTCP:
		if polite {
			flags = FlagACK
			if p.Flags() == FlagSYN {
				flags |= FlagSYN
			}
		}
		return ip(p.Dst(), p.Src(), 6, tcpHeader(p.DstPort(), p.SrcPort(), flags, ""))
	case ProtoUDP:
		return ip(p.Dst(), p.Src(), 17, udpHeader(p.DstPort(), p.SrcPort(), "back"))
	}
	typ := byte(icmp4EchoReply)
	if p.Is6() {
		typ = icmp6EchoReply
	}
	return ip(p.Dst(), p.Src(), 1, icmpHeader(typ, 0, uint32(p.SrcPort())<<16, nil))
}

// trace is what happened, put in words only when somebody asks.
type trace []func() string

func (tr trace) String() string {
	var b strings.Builder
	for _, line := range tr {
		b.WriteString(line() + "\n")
	}
	return b.String()
}

// fuzzGate runs one script through the gate and the reference.
// It returns how many packets passed.
func fuzzGate(t *testing.T, filters []*Filter, in []byte) int {
	now := int64(1e9)
	g := NewGate(GateConfig{Clock: func() int64 { return now }})
	ref := newRefGate(gateWorld())
	g.Swap(filters[0])
	ref.swap(fuzzRules[0])
	ref.now = now
	s := script(in)
	allowed := 0
	var seen [][]byte
	var trace trace
	for len(s) > 0 && len(trace) < 400 {
		op := s.next()
		switch op % 16 {
		case 0:
			step := fuzzSteps[s.next()%len(fuzzSteps)]
			now += step * 1e9
			ref.now = now
			trace = append(trace, func() string { return fmt.Sprintf("wait %ds", step) })
			continue
		case 1:
			i := s.next() % len(filters)
			g.Swap(filters[i])
			ref.swap(fuzzRules[i])
			trace = append(trace, func() string { return fmt.Sprintf("swap %d", i) })
			var p Packet
			for _, b := range seen {
				p.Parse(b)
				if g.Standing(&p) != ref.standing(b) {
					t.Fatalf("standing %v for %x:\n%s", g.Standing(&p), b, trace)
				}
			}
			continue
		}
		var b []byte
		if op%16 == 2 {
			b = s.take(s.next())
		} else {
			b = s.packet(seen)
		}
		var p Packet
		reason := p.Parse(b[:len(b):len(b)])
		var v Verdict
		var want bool
		out := op >= 128
		if op%16 > 3 {
			out = ref.local(p.Src())
		}
		if out {
			v, want = g.Out(&p, now), ref.out(b)
		} else {
			v, want = g.In(&p, now), ref.in(b)
		}
		trace = append(trace, func() string {
			return fmt.Sprintf("out=%v %v:%d > %v:%d %v flags %06b kind %d: %v (%v), %x", out, p.Src(), p.SrcPort(), p.Dst(), p.DstPort(), p.Proto(), p.Flags(), p.kind, v.Allow, v.Reason, b)
		})
		switch {
		case v.Allow != want:
			t.Fatalf("gate %v (%v), reference %v:\n%s", v.Allow, v.Reason, want, trace)
		case reason != 0 && v.Allow:
			t.Fatalf("allowed what does not parse (%v): %x", reason, b)
		case v.Allow == (v.Reason != ReasonNone):
			t.Fatalf("%+v: a refusal has a reason, nothing else does", v)
		case v.Allow && v.Local != (!out && ref.local(p.Dst())):
			t.Fatalf("%+v: wrong destination\n%s", v, trace)
		case v.Allow && !g.Standing(&p):
			t.Fatalf("not standing right after it was allowed:\n%s", trace)
		}
		if v.Allow {
			seen = append(seen, b)
			seen = seen[max(0, len(seen)-20):]
			allowed++
		}
	}
	return allowed
}

func fuzzFilters(t testing.TB) []*Filter {
	var filters []*Filter
	for _, rules := range fuzzRules {
		filters = append(filters, compileRules(t, gateWorld(), rules...))
	}
	return filters
}

// FuzzGate holds the gate against the reference, on raw bytes.
func FuzzGate(f *testing.F) {
	for _, raw := range fuzzSeeds() {
		f.Add(append([]byte{2, byte(len(raw))}, raw...))
		f.Add(append([]byte{130, byte(len(raw))}, raw...))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		b := make([]byte, 400)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	filters := fuzzFilters(f)
	f.Fuzz(func(t *testing.T, in []byte) { fuzzGate(t, filters, in) })
}

// TestP02_GateAgreesWithReference is FuzzGate for every run of the tests: random
// conversations, most of them between machines that may talk.
func TestP02_GateAgreesWithReference(t *testing.T) {
	filters := fuzzFilters(t)
	r := rand.New(rand.NewPCG(3, 4))
	allowed := 0
	for range 1500 {
		b := make([]byte, 1200)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		allowed += fuzzGate(t, filters, b)
	}
	t.Logf("%d packets passed", allowed)
	if allowed < 10000 {
		t.Errorf("only %d packets passed: these conversations prove nothing", allowed)
	}
}
