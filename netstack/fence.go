package netstack

import "sync/atomic"

// A fence tells when everybody who was on the packet path at one moment has
// left it. Entering costs two atomic operations and never waits, so a goroutine
// that is inside may enter again, as Write does when our own stack answers from
// within it; a read lock would deadlock there.
type fence struct {
	turn    atomic.Uint64
	inside  [2]atomic.Int64
	drained chan struct{} // capacity 1
}

// enter returns what leave wants.
func (f *fence) enter() uint64 {
	for {
		t := f.turn.Load()
		f.inside[t&1].Add(1)
		if f.turn.Load() == t {
			return t
		}
		f.leave(t) // the turn changed in between: count under the new one
	}
}

func (f *fence) leave(t uint64) {
	if f.inside[t&1].Add(-1) == 0 && f.turn.Load() != t {
		select {
		case f.drained <- struct{}{}:
		default:
		}
	}
}

// wait returns when all who were inside have left. It has one caller at a time,
// who is not inside.
func (f *fence) wait() {
	t := f.turn.Add(1) - 1
	for f.inside[t&1].Load() != 0 {
		<-f.drained
	}
}
