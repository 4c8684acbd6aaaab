package netstack

import "time"

const (
	// stallTime is how long a lane waits for news of its packets before it
	// takes them for lost (no session yet, no endpoint, a peer just removed).
	// Attack: WireGuard keeps each packet for a peer that does not answer in a
	// buffer of 64 KiB, and up to 16,000 of them, so a flood at a peer that is
	// away would cost a gigabyte. So a lane that has not proven that its packets
	// leave gets windowFirst to begin with, then one each stallTime, which
	// doubles up to stallMost; the first news gives it all back.
	stallTime   = 10 * time.Millisecond
	stallMost   = 160 * time.Millisecond
	windowFirst = 4
	windowStall = 1
)

// left notes that n packets of a lane are no longer inside WireGuard.
func (q *queue) left(id uint32, n int) {
	q.mu.Lock()
	woken := false
	if l := q.lanes[id]; l != nil {
		// What was taken for lost and leaves after all is no credit for more.
		l.done, l.left = min(l.done+uint64(n), l.out), min(l.left+uint64(n), l.out)
		l.window, l.stall = q.limits.window, stallTime
		if !l.parked.IsZero() && l.inside() < q.limits.window*3/4 {
			woken = q.unpark(l)
		}
	}
	if q.moved != nil {
		close(q.moved)
		q.moved = nil
	}
	q.mu.Unlock()
	if woken {
		q.signal()
	}
}

func (q *queue) unpark(l *lane) bool {
	l.parked = time.Time{}
	for i, p := range q.parked {
		if p == l {
			q.parked = append(q.parked[:i], q.parked[i+1:]...)
			break
		}
	}
	return q.ready(l)
}

// revive gives new credit, a little, to lanes that have heard nothing for their
// stall time. It returns how long the reader may sleep, 0 for until it is woken.
func (q *queue) revive(now time.Time) time.Duration {
	sleep := stallMost
	for i := 0; i < len(q.parked); {
		l := q.parked[i]
		if wait := l.stall - now.Sub(l.parked); wait > 0 && !l.gone {
			sleep = min(sleep, wait)
			i++
			continue
		}
		l.done = l.out
		l.window, l.stall = windowStall, min(2*l.stall, stallMost)
		q.unpark(l)
	}
	if len(q.turn) > 0 || len(q.parked) == 0 {
		return 0
	}
	return sleep
}

// drained waits until everything that was handed to WireGuard before the call
// has left it, or patience is over. Packets without a session never leave, so
// lanes that have long been silent are not waited for, and what did not leave
// in time is not waited for again.
func (q *queue) drained(patience time.Duration) {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	q.mu.Lock()
	want := make(map[*lane]uint64, len(q.lanes))
	for _, l := range q.lanes {
		if l.left < l.out && l.stall <= 4*stallTime {
			want[l] = l.out
		}
	}
	for {
		for l, out := range want {
			if l.left >= out || l.gone {
				delete(want, l)
			}
		}
		if len(want) == 0 {
			q.mu.Unlock()
			return
		}
		if q.moved == nil {
			q.moved = make(chan struct{})
		}
		moved := q.moved
		q.mu.Unlock()
		select {
		case <-moved:
		case <-deadline.C:
			q.mu.Lock()
			for l, out := range want {
				l.left = max(l.left, out)
			}
			q.mu.Unlock()
			return
		case <-q.closed:
			return
		}
		q.mu.Lock()
	}
}

// emptied waits until the queue has nothing more to hand to WireGuard, and all
// of it has left, or patience is over. It is for the end: while others still
// send, there is no such moment.
func (q *queue) emptied(patience time.Duration) {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		q.mu.Lock()
		waits := false
		for _, l := range q.lanes {
			waits = waits || !l.gone && l.stall <= 4*stallTime && (l.items > 0 || l.left < l.out)
		}
		if waits && q.moved == nil {
			q.moved = make(chan struct{})
		}
		moved := q.moved
		q.mu.Unlock()
		if !waits {
			return
		}
		select {
		case <-moved:
		case <-deadline.C:
			return
		case <-q.closed:
			return
		}
	}
}
