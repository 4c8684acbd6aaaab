package acl

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Two policies alternate 200 times a second while eight peers send. Each
// packet is judged by exactly one of them: by the one in force, if none was
// swapped meanwhile; never by a mixture; and a flow that only the old one
// allows gets no packet through under the new one.
func TestA05_MeshE25_EveryPacketHasOnePolicy(t *testing.T) {
	const swaps = 400
	odd := compileRules(t, gateWorld(), plainRule{nLaptop, nSTT, ProtoTCP, 443, 443}, plainRule{nLaptop, nDesk, ProtoUDP, 22, 22}, plainRule{nKitchen, nDesk, ProtoUDP, 1, 65535})
	even := compileRules(t, gateWorld(), plainRule{nLaptop, nSTT, ProtoUDP, 9000, 9000}, plainRule{nDesk, nLaptop, ProtoUDP, 23, 23}, plainRule{nKitchen, nDesk, ProtoUDP, 1, 65535})
	g := NewGate(GateConfig{})
	g.Swap(odd)
	type probe struct {
		b         []byte
		odd, even bool
	}
	probes := []probe{
		{tcp(false, nLaptop, nSTT, 40000, 443, FlagACK, "x"), true, false},
		{udp(true, nLaptop, nSTT, 40000, 9000), false, true},
		{udp(false, nLaptop, nDesk, 40000, 22), true, false},
		{udp(false, nDesk, nLaptop, 40000, 23), false, true},
		{udp(true, nKitchen, nDesk, 40000, 9000), true, true},
		{udp(true, nDesk, nKitchen, 9000, 40000), true, true}, // its answer
		{udp(false, nGuest, nDesk, 40000, 22), false, false},
		{udp(false, nLocked, nSTT, 40000, 9000), false, false},
	}
	var first Packet
	first.Parse(probes[4].b)
	g.In(&first, g.Now())
	done := make(chan struct{})
	var judged, pinned atomic.Int64
	var wg sync.WaitGroup
	for _, p := range probes {
		wg.Go(func() {
			var packet Packet
			packet.Parse(p.b)
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				if n%16 == 0 {
					runtime.Gosched() // so that swaps keep their rate on two cores
				}
				before := g.Epoch()
				v := g.In(&packet, g.Now())
				after := g.Epoch()
				judged.Add(1)
				switch {
				case v.Allow && !p.odd && !p.even, !v.Allow && p.odd && p.even:
					t.Errorf("%x: %+v under neither policy", p.b, v)
				case before != after:
					continue
				case v.Allow != (before%2 == 1 && p.odd || before%2 == 0 && p.even):
					t.Errorf("epoch %d, %x: %+v", before, p.b, v)
				case v.Allow && !g.Standing(&packet) && g.Epoch() == before:
					t.Errorf("epoch %d, %x: allowed and not standing", before, p.b)
				}
				pinned.Add(1)
			}
		})
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := range swaps {
		<-tick.C
		f := even
		if i%2 == 1 {
			f = odd
		}
		if e := g.Swap(f); e != uint64(i+2) {
			t.Errorf("epoch %d, want %d", e, i+2)
		}
		g.Flows()
		g.Stats()
	}
	close(done)
	wg.Wait()
	t.Logf("%d packets judged, %d of them within one epoch", judged.Load(), pinned.Load())
	if pinned.Load() < swaps {
		t.Errorf("only %d packets were judged within one epoch", pinned.Load())
	}
}

// Peers come and go, tables grow, shrink and overflow, while packets of other
// flows are judged: none of those is lost, none let in.
func TestTablesUnderConcurrentUse(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoUDP, 0, 0}, plainRule{nKitchen, nDesk, ProtoUDP, 9000, 9000}, plainRule{nKitchen, nLaptop, ProtoUDP, 9000, 9000})
	g := NewGate(GateConfig{Small: true})
	g.Swap(gt.Filter())
	var wg sync.WaitGroup
	done := make(chan struct{})
	for worker := range 2 {
		wg.Go(func() { // laptop floods: its table grows and evicts
			var p Packet
			for i := uint32(worker); ; i += 2 {
				select {
				case <-done:
					return
				default:
				}
				p.Parse(udp(false, nLaptop, nDesk, uint16(i)|1, uint16(i>>16)|1))
				if v := g.In(&p, g.Now()); !v.Allow {
					t.Errorf("laptop: %+v", v)
				}
			}
		})
	}
	wg.Go(func() { // laptop is forgotten again and again
		for {
			select {
			case <-done:
				return
			default:
				g.Forget(at4(nLaptop))
				g.Stats()
			}
		}
	})
	var question, answer, never Packet
	question.Parse(udp(true, nKitchen, nDesk, 40000, 9000))
	answer.Parse(udp(true, nDesk, nKitchen, 9000, 40000))
	never.Parse(udp(false, nDesk, nLaptop, 2, 7)) // the flood asks odd ports only
	for range 50000 {
		if v := g.In(&question, g.Now()); !v.Allow {
			t.Fatalf("question: %+v", v)
		}
		if v := g.In(&answer, g.Now()); !v.Allow {
			t.Fatalf("answer: %+v", v)
		}
		if v := g.In(&never, g.Now()); v.Allow {
			t.Fatalf("an answer to what was never asked: %+v", v)
		}
	}
	close(done)
	wg.Wait()
}

// The moment that a lock-free reader must not get wrong: it has found its flow
// in a slot, and before it reads the admission there, the slot is given to
// another flow, which the policy in force did admit.
func TestReaderNoticesThatASlotChangedHands(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoUDP, 0, 0})
	gt.maxFlows = firstFlows
	gt.pass("opens", gt.in(udp(false, nLaptop, nDesk, 40000, 9000)))
	table := &gt.find(nLaptop).flows
	k := newFlowKey(false, ProtoUDP, nDesk, 40000, 9000)
	seq, tab := table.seq.Load(), table.slots.Load()
	i := tab.find(k, gt.seed)
	if _, ok := table.glance(tab, i, seq); !ok {
		t.Fatal("nothing has changed yet")
	}
	for port := uint16(1); tab.keys[i].Load() == uint64(k); port++ {
		gt.now += second
		gt.pass("another flow", gt.in(udp(false, nLaptop, nDesk, port, 53)))
	}
	if e, ok := table.glance(tab, i, seq); ok {
		t.Errorf("the reader believes %+v of a flow that is gone", e)
	}
	table.seq.Add(1) // a writer at work
	if _, ok := table.glance(tab, i, table.seq.Load()); ok {
		t.Error("the reader believes what is being written")
	}
}

// A packet that began under the old policy and meets a flow that the new one
// has judged is not judged by half of each: it begins again under the new one.
func TestPacketOvertakenBySwapBeginsAgain(t *testing.T) {
	gt := newGateTest(t, plainRule{nLaptop, nDesk, ProtoUDP, 0, 0}, plainRule{nSTT, nKitchen, ProtoUDP, 0, 0})
	old := gt.state.Load()
	gt.Swap(compileRules(t, gateWorld(), plainRule{nLaptop, nDesk, ProtoUDP, 9000, 9000}, plainRule{nSTT, nKitchen, ProtoUDP, 9000, 9000}))
	gt.pass("opens", gt.in(udp(false, nLaptop, nDesk, 40000, 9000)))
	gt.pass("dials", gt.out(udp(false, nSTT, nKitchen, 40000, 9000)))
	for what, c := range map[string]struct {
		b   []byte
		out bool
	}{
		"forward":    {udp(false, nLaptop, nDesk, 40000, 9000), false},
		"answer":     {udp(false, nDesk, nLaptop, 9000, 40000), false},
		"error":      {unreachable(false, nDesk, nLaptop, udp(false, nLaptop, nDesk, 40000, 9000)), false},
		"dialled":    {udp(false, nSTT, nKitchen, 40000, 9000), true},
		"its answer": {udp(false, nKitchen, nSTT, 9000, 40000), false},
		"about it":   {unreachable(false, nKitchen, nSTT, udp(false, nSTT, nKitchen, 40000, 9000)), false},
		"about that": {unreachable(false, nSTT, nKitchen, udp(false, nKitchen, nSTT, 9000, 40000)), true},
	} {
		var p Packet
		p.Parse(c.b)
		j := judgement{g: gt.Gate, s: old, now: gt.now}
		judge := j.in
		if c.out {
			judge = j.out
		}
		if v, ok := judge(&p); ok {
			t.Errorf("%s: %+v by the old policy", what, v)
		}
	}
	var tab flows
	k := newFlowKey(false, ProtoUDP, nDesk, 1, 2)
	tab.add(gt.Gate, gt.state.Load(), k, 1, gt.now)
	if o := tab.add(gt.Gate, old, k, 1, gt.now); o != stale {
		t.Errorf("the old policy admitted over the new one: %v", o)
	}
}
