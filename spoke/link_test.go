package spoke

import (
	"testing"
	"time"
)

// bench is a link with invented clocks and counters.
type bench struct {
	link
	now instant
	s   seen
}

// pass lets d go by, tick after tick, and adds up what the link asked for.
func (b *bench) pass(d time.Duration, each func()) (sum orders, handshakes int) {
	for end := b.now.mono + d; b.now.mono < end; {
		b.now.mono += tick
		b.now.boot += tick
		b.s.age += tick
		if each != nil {
			each()
		}
		o := b.look(b.now, b.s)
		if o.handshake {
			handshakes++
		}
		sum.rebind = sum.rebind || o.rebind
		sum.knock = sum.knock || o.knock
		sum.news = sum.news || o.news
		sum.renew = sum.renew || o.renew
		sum.next = sum.next || o.next
		sum.resolve = sum.resolve || o.resolve
		if o.why != "" {
			sum.why = o.why
		}
	}
	return sum, handshakes
}

// newBench has a session and has been quiet for a while.
func newBench(t *testing.T) *bench {
	b := &bench{now: instant{time.Hour, time.Hour}, s: seen{handshakes: 1, age: time.Second, addresses: "a"}}
	if o := b.look(b.now, b.s); o != (orders{}) {
		t.Fatalf("a working link asks for %+v", o)
	}
	return b
}

func TestLinkLeavesAWorkingTunnelAlone(t *testing.T) {
	b := newBench(t)
	o, n := b.pass(10*time.Minute, func() {
		b.s.tx += 1200
		b.s.rx += 90
		if b.s.age > 120*time.Second {
			b.s.age, b.s.handshakes = 0, b.s.handshakes+1
		}
	})
	if n != 0 || o != (orders{news: true}) {
		t.Errorf("%d handshakes, %+v; want nothing but news of the sessions that WireGuard made", n, o)
	}
}

func TestLinkIgnoresKeepalives(t *testing.T) {
	b := newBench(t)
	i := 0
	if o, n := b.pass(100*time.Second, func() {
		if i++; i%100 == 0 {
			b.s.tx += keepaliveBytes
		}
	}); n != 0 {
		t.Errorf("%d handshakes for keep-alives: %s", n, o.why)
	}
}

// TestMeshG39_HubRestart: the hub forgets the session while we talk. Within two
// seconds of that there was a handshake, and one more each second until it
// answers.
func TestMeshG39_HubRestart(t *testing.T) {
	b := newBench(t)
	b.pass(10*time.Second, func() { b.s.tx += 500; b.s.rx += 500 })
	o, n := b.pass(1500*time.Millisecond, func() { b.s.tx += 500 })
	if n != 1 || o.knock || o.renew {
		t.Errorf("%d handshakes in the first 1.5 s of silence (knock %v), want 1 without a knock", n, o.knock)
	}
	o, n = b.pass(10*time.Second, func() { b.s.tx += 500 })
	if n < 9 || n > 11 || !o.knock || !o.resolve || !o.next || !o.renew {
		t.Errorf("%d handshakes in 10 s, %+v; want one each second, renewed, knocks, another address and a fresh look-up", n, o)
	}
	b.s.handshakes, b.s.age = 2, 0
	if _, n = b.pass(30*time.Second, func() { b.s.tx += 500; b.s.rx += 500 }); n != 0 {
		t.Errorf("%d handshakes after the hub is back", n)
	}
}

// TestLinkOneWayTraffic: a stream that nobody answers is not a dead hub; the
// link asks less and less often.
func TestLinkOneWayTraffic(t *testing.T) {
	b := newBench(t)
	answer := time.Duration(-1)
	_, n := b.pass(2*time.Minute, func() {
		b.s.tx += 500
		if b.asked == b.now.mono-tick && answer != b.asked {
			answer = b.asked
			b.s.handshakes, b.s.age = b.s.handshakes+1, 0
		}
	})
	if n > 14 {
		t.Errorf("%d handshakes in two minutes of one-way traffic", n)
	}
}

func TestMeshG39_Sleep(t *testing.T) {
	b := newBench(t)
	b.now.mono += tick
	b.now.boot += 10 * time.Minute
	o := b.look(b.now, b.s)
	if !o.handshake || !o.rebind || !o.resolve || o.why != "the machine slept" {
		t.Errorf("after ten minutes of sleep: %+v; want everything at once", o)
	}
}

func TestMeshG39_NetworkChange(t *testing.T) {
	b := newBench(t)
	b.s.addresses = "b"
	b.now.mono += tick
	b.now.boot += tick
	o := b.look(b.now, b.s)
	if !o.handshake || !o.rebind || o.why != "the network changed" {
		t.Errorf("after a change of network: %+v", o)
	}
	// Still silent after a second: the next handshake does not wait for more.
	if _, n := b.pass(1250*time.Millisecond, nil); n != 1 {
		t.Errorf("%d handshakes in the second after, want 1", n)
	}
}

// TestW14_ClockBehind: the hub drops every handshake of a machine whose clock is
// behind; a knock goes out about a second later.
func TestW14_ClockBehind(t *testing.T) {
	var b bench
	b.now = instant{time.Second, time.Second}
	if o := b.look(b.now, b.s); o != (orders{}) {
		t.Fatalf("at the start: %+v, want nothing: Open has just asked", o)
	}
	if o, n := b.pass(1250*time.Millisecond, nil); !o.knock || n != 1 {
		t.Errorf("after a second without an answer: %+v, %d handshakes; want a knock", o, n)
	}
}

func TestLinkSlowsDown(t *testing.T) {
	b := newBench(t)
	b.s.tx += 500
	b.pass(6*time.Minute, func() { b.s.tx += 148 })
	if _, n := b.pass(time.Minute, nil); n < 24 || n > 31 {
		t.Errorf("%d handshakes a minute after six minutes of silence, want 30", n)
	}
}

func TestLinkExpiredSession(t *testing.T) {
	b := newBench(t)
	if o, n := b.pass(3*time.Minute+time.Second, nil); n == 0 || o.why == "" {
		t.Error("a session of more than 180 seconds was taken for alive")
	}
}
