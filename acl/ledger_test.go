package acl

import (
	"net/netip"
	"testing"
	"time"
)

// line finds the line of the ledger about src, dst and port.
func (gt *gateTest) line(src, dst netip.Addr, proto Proto, port uint16, allowed bool) Flow {
	gt.Helper()
	var found Flow
	for _, f := range gt.Flows() {
		if f.Src == src && f.Dst == dst && f.Proto == proto && f.Port == port && f.Allowed == allowed {
			if found.Count != 0 {
				gt.Errorf("two lines for %v > %v:%d", src, dst, port)
			}
			found = f
		}
	}
	return found
}

func TestLedger(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		gt := newGateTest(t, plainRule{nLaptop, nSTT, ProtoTCP, 443, 443}, plainRule{nLaptop, nSTT, ProtoUDP, 9000, 9000}, plainRule{nLaptop, nDesk, ProtoUDP, 9000, 9000}, plainRule{nSTT, nKitchen, ProtoTCP, 80, 80})
		for i := range uint16(3) {
			gt.in(tcp(v6, nLaptop, nSTT, 40000+i, 443, FlagSYN, ""))
			for range 5 {
				gt.in(tcp(v6, nLaptop, nSTT, 40000+i, 443, FlagACK, "data"))
				gt.in(udp(v6, nLaptop, nSTT, 40000+i, 9000))
				gt.in(udp(v6, nLaptop, nDesk, 40000+i, 9000))
				gt.in(udp(v6, nDesk, nLaptop, 9000, 40000+i))
				gt.in(tcp(v6, nLaptop, nSTT, 40000+i, 444, FlagSYN, ""))
			}
		}
		gt.out(tcp(v6, nSTT, nKitchen, 40000, 80, FlagSYN, ""))
		gt.out(tcp(v6, nSTT, nKitchen, 40000, 81, FlagSYN, ""))
		laptop, stt, desk, kitchen := at(v6, nLaptop), at(v6, nSTT), at(v6, nDesk), at(v6, nKitchen)
		for what, c := range map[string]struct {
			f      Flow
			count  uint64
			reason Reason
		}{
			"TCP by SYN":        {gt.line(laptop, stt, ProtoTCP, 443, true), 3, 0},
			"UDP by flow":       {gt.line(laptop, stt, ProtoUDP, 9000, true), 3, 0},
			"transit by flow":   {gt.line(laptop, desk, ProtoUDP, 9000, true), 3, 0},
			"refusal by packet": {gt.line(laptop, stt, ProtoTCP, 444, false), 15, ReasonNotOffered},
			"own call":          {gt.line(stt, kitchen, ProtoTCP, 80, true), 1, 0},
			"own refusal":       {gt.line(stt, kitchen, ProtoTCP, 81, false), 1, ReasonNoRule},
			"answers":           {gt.line(desk, laptop, ProtoUDP, 40000, true), 0, 0},
		} {
			if c.f.Count != c.count || c.f.Reason != c.reason {
				t.Errorf("%s: %d times (%v), want %d (%v)", what, c.f.Count, c.f.Reason, c.count, c.reason)
			}
			if c.count > 0 && (c.f.First.After(c.f.Last) || time.Since(c.f.Last).Abs() > time.Minute) {
				t.Errorf("%s: first %v, last %v", what, c.f.First, c.f.Last)
			}
		}
		gt.now += 121 * second
		gt.in(udp(v6, nLaptop, nSTT, 40002, 9000))
		if f := gt.line(laptop, stt, ProtoUDP, 9000, true); f.Count != 4 || f.Last.Sub(f.First) != 121*time.Second {
			t.Errorf("the same UDP ports after the idle time: %+v", f)
		}
	})
}

// A scan wears out the scanner's own lines, and not those that say something.
func TestLedgerIsBounded(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nSTT, ProtoTCP, 443, 443}, plainRule{nKitchen, nSTT, ProtoTCP, 443, 443})
	gt.in(tcp(false, nKitchen, nSTT, 40000, 443, FlagSYN, ""))
	gt.in(tcp(false, nKitchen, nSTT, 40000, 444, FlagSYN, ""))
	gt.in(tcp(false, nLaptop, nSTT, 40000, 443, FlagSYN, ""))
	for port := uint16(1); port < 60000; port++ {
		gt.in(udp(false, nLaptop, nSTT, 40000, port))
	}
	if f := gt.line(at4(nKitchen), at4(nSTT), ProtoTCP, 443, true); f.Count != 1 {
		t.Errorf("the scan cost another peer its line: %+v", f)
	}
	if f := gt.line(at4(nKitchen), at4(nSTT), ProtoTCP, 444, false); f.Count != 1 {
		t.Errorf("the scan cost another peer its refusal: %+v", f)
	}
	if f := gt.line(at4(nLaptop), at4(nSTT), ProtoTCP, 443, true); f.Count != 1 {
		t.Errorf("the scan cost the line that says something: %+v", f)
	}
	if n := len(gt.Flows()); n > maxRecords+2 {
		t.Errorf("%d lines", n)
	}
	if c := gt.Stats().Reasons[ReasonNotOffered]; c != 59999-11+1 { // 9000 to 9010 are offered
		t.Errorf("counted %d refusals", c)
	}
}

// When all room is used up, peers that come later still get some.
func TestLedgerTotal(t *testing.T) {
	gt := newGateTest(t)
	gt.maxRecordsTotal = 4 * firstRecords
	for _, n := range []int{nLaptop, nKitchen, nDesk, nGuest} {
		for port := uint16(1); port < 1000; port++ {
			gt.in(udp(false, n, nSTT, 40000, port))
		}
	}
	if got := gt.records.Load(); got > 8*firstRecords {
		t.Errorf("%d lines reserved", got)
	}
	if f := gt.find(nGuest).ledger.records.Load(); f == nil || len(*f) < firstRecords {
		t.Error("the last peer got no line")
	}
	gt.Forget(at4(nLaptop))
	gt.Forget(at6(nKitchen))
	gt.Forget(at4(nDesk))
	gt.Forget(at4(nGuest))
	if got := gt.records.Load(); got != 0 {
		t.Errorf("%d lines still reserved", got)
	}
	if s := gt.Stats(); s.Reasons[ReasonNotOffered] < 3000 || len(s.Peers) != 0 {
		t.Errorf("forgetting peers lost the sums: %+v", s)
	}
}

// Another address plan is another mesh: nothing carries over.
func TestSwapToAnotherPlan(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoUDP, 9000, 9000})
	gt.pass("opens", gt.in(udp(false, nLaptop, nDesk, 40000, 9000)))
	w := gateWorld()
	w.V6 = netip.MustParsePrefix("fd77:9:9:9::/64")
	move := func(a *netip.Addr) {
		b := a.As16()
		copy(b[:8], w.V6.Addr().AsSlice())
		*a = netip.AddrFrom16(b)
	}
	for i := range w.Peers {
		move(&w.Peers[i].V6)
	}
	for i := range w.Services {
		move(&w.Services[i].V6)
	}
	gt.Swap(compileRules(t, w))
	if n := len(gt.Flows()); n != 0 || gt.Stats().Flows != 0 {
		t.Errorf("%d lines carried over", n)
	}
}
