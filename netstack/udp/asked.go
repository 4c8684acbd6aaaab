package udp

import (
	"sync"
	"time"
)

// askedFor is how long an answer to a handshake message may take. WireGuard
// itself gives up on an initiation after 5 s and on a peer after 90.
const askedFor = 90 * time.Second

// asked remembers the sender indexes of the handshake messages that we sent.
// The device draws them at random, so their low bits choose the set; nobody
// else can add one. A full set forgets its oldest: that handshake is repeated.
type asked struct {
	mu   sync.Mutex
	sets [][4]question
}

type question struct {
	index uint32
	at    int64 // monotonic nanoseconds; 0 is an empty place
}

func (a *asked) init(small bool) {
	sets := 4096 // a hub that restarts asks all its peers at once
	if small {
		sets = 16
	}
	a.sets = make([][4]question, sets)
}

func (a *asked) add(index uint32, now int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	set := &a.sets[index%uint32(len(a.sets))]
	oldest := 0
	for i := range set {
		if set[i].at < set[oldest].at {
			oldest = i
		}
	}
	set[oldest] = question{index, max(now, 1)}
}

func (a *asked) has(index uint32, now int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, q := range a.sets[index%uint32(len(a.sets))] {
		if q.at != 0 && q.index == index && now-q.at < int64(askedFor) {
			return true
		}
	}
	return false
}
