package spoke

import "time"

// The tunnel to the hub is a WireGuard session, and WireGuard by itself is
// patient: it asks for a new one when its own clock says so, which can be
// minutes after the hub forgot the old one (it restarted), after the machine
// slept, or after it moved to another network. A link is the judge of that. It
// looks at what a client can see (clocks, addresses, counters) a few times a
// second and says what to do. It does nothing itself, so all of it can be
// tested with invented clocks.

// The times a link works with.
const (
	tick = 200 * time.Millisecond
	// answerTime is how long the hub may be silent after we sent it data. It
	// and a handshake fit into the two seconds that a hub's restart may cost;
	// the far side of the earth is 0.3 s away.
	answerTime = 800 * time.Millisecond
	// maxPatience bounds how far answerTime is stretched for traffic that needs
	// no answer. WireGuard itself answers such with a keep-alive after 10 s.
	maxPatience = 12 * time.Second
	// retryEvery is the time between handshakes to a hub that does not answer,
	// slowRetry that after retryFast of it. Asking again makes an answer to the
	// last question worthless, so now and then a question gets farRetry, for a
	// hub that is very far away.
	retryEvery = time.Second
	retryFast  = 5 * time.Minute
	slowRetry  = 2 * time.Second
	farRetry   = 6 * time.Second
	farEach    = 20
	// wireguardRetry is WireGuard's Rekey-Timeout: it asks one peer no more
	// often.
	wireguardRetry = 5 * time.Second
	// resolveEvery is the time between questions for the endpoint's name while
	// the hub does not answer.
	resolveEvery = 10 * time.Second
	// sleepGap is how far the clock that counts sleep may run ahead of the one
	// that does not before that is a sleep.
	sleepGap = 2 * time.Second
	// sessionLife is WireGuard's Reject-After-Time: no session is older.
	sessionLife = 180 * time.Second
	// keepaliveBytes is what WireGuard counts for a keep-alive, which asks for
	// no answer.
	keepaliveBytes = 32
)

// instant is one reading of the clocks.
type instant struct {
	mono time.Duration // does not count sleep, is never set
	boot time.Duration // counts sleep, is never set; or the wall clock where there is no such clock
}

// seen is what a link is told at an instant.
type seen struct {
	handshakes uint64 // a number that changes with each completed one; 0 is none
	age        time.Duration
	rx, tx     uint64 // bytes of the outer datagrams
	coming     bool   // the hub has just said that it calls back
	addresses  string // the machine's, in any form that changes when they do
}

// orders is what to do now.
type orders struct {
	rebind    bool // open the outer sockets anew
	handshake bool // ask the hub for a new session
	renew     bool // forget the last question and the session first
	next      bool // try the endpoint's next address first
	resolve   bool // ask for the endpoint's addresses again
	news      bool // there is a new session: it may be with a hub that has restarted
	knock     bool // ask the hub to call back: it may find our clock in the past
	why       string
}

// link remembers what it saw. The zero value is ready for the first look.
type link struct {
	started bool
	last    seen
	at      instant

	up       bool          // the hub answered what we last asked
	waiting  bool          // something was sent that wants an answer
	since    time.Duration // when waiting began
	patience time.Duration // how long it may go on

	asked     time.Duration // when we last asked for a handshake; 0 never
	downSince time.Duration
	tries     int // handshakes without an answer
	resolved  time.Duration
}

// look takes the state of things at now and returns what to do about it.
func (l *link) look(now instant, s seen) (o orders) {
	if !l.started {
		l.started, l.last, l.at, l.patience = true, s, now, answerTime
		// Without a session the client has just asked for one itself. To ask
		// again within 50 ms is worse than useless: the hub refuses it as a
		// flood, and it makes the answer to the first question worthless.
		l.up = s.handshakes > 0 && s.age < sessionLife
		l.asked, l.downSince, l.tries = now.mono, now.mono, 1
		return o
	}
	slept := (now.boot - l.at.boot) - (now.mono - l.at.mono)
	switch {
	case slept > sleepGap || slept < -sleepGap:
		// A session from before is dead on the hub's side, while our own
		// WireGuard did not see the time pass.
		o.rebind, o.resolve = true, true
		l.lost(now, &o, "the machine slept")
	case s.addresses != l.last.addresses:
		o.rebind, o.resolve = true, true
		l.lost(now, &o, "the network changed")
	case s.handshakes != l.last.handshakes && s.handshakes != 0:
		l.up, l.waiting, l.tries = true, false, 0
		o.news = true
	default:
		l.traffic(now, s)
	}
	if l.up && (l.waiting && now.mono-l.since >= l.patience || s.age >= sessionLife) {
		l.patience = min(2*l.patience, maxPatience)
		l.lost(now, &o, "nothing comes back through the tunnel")
	}
	if !l.up && !o.handshake {
		l.retry(now, s.coming, &o)
	}
	if o.resolve {
		l.resolved = now.mono
	}
	l.last, l.at = s, now
	return o
}

// traffic keeps the account of what was sent and what came back.
func (l *link) traffic(now instant, s seen) {
	if s.rx > l.last.rx {
		// Anything that the tunnel accepts came from the hub.
		l.waiting = false
		if l.up && now.mono-l.asked > 2*maxPatience {
			l.patience = answerTime
		}
		return
	}
	// A lone keep-alive wants no answer.
	if s.tx > l.last.tx+keepaliveBytes && !l.waiting {
		l.waiting, l.since = true, now.mono
	}
}

// lost notes that there is none, and asks for one.
func (l *link) lost(now instant, o *orders, why string) {
	if l.up || l.downSince == 0 {
		l.downSince = now.mono
	}
	l.up, l.waiting, l.tries = false, false, 0
	l.ask(now, o)
	o.why = why
}

// ask leaves the session as it is if it can: it may be that only an answer got
// lost.
func (l *link) ask(now instant, o *orders) {
	o.handshake, o.renew = true, now.mono-l.asked < wireguardRetry
	l.asked = now.mono
	l.tries++
}

// retry asks again for what was not answered. From the second time on it
// suspects a clock that runs behind what the hub has already seen from this
// machine (WireGuard then refuses for good; a board without a battery starts in
// 1970) and knocks, and it tries the endpoint's other addresses.
func (l *link) retry(now instant, coming bool, o *orders) {
	every := retryEvery
	if now.mono-l.downSince > retryFast {
		every = slowRetry
	}
	if l.tries%farEach == 0 {
		every = farRetry
	}
	// To renew our question would be to turn the hub's away.
	if now.mono-l.asked < every || coming {
		return
	}
	l.ask(now, o)
	o.knock = true
	o.next = l.tries%3 == 0
	o.resolve = now.mono-l.resolved >= resolveEvery
}
