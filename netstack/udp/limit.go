package udp

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
	"time"
)

// What one source may spend. A home of 20 machines that boots behind one
// address needs 20 handshakes at once, a few more for lost ones, and knocks;
// a stranger who spends all of it costs the hub about 1 % of one core.
const (
	limitBurst = 100
	limitEvery = 20 * time.Millisecond // one more each: 50 a second
)

// limiter is a token bucket per source in a table of fixed size.
//
// Attack: forget a bucket early and whoever filled it starts afresh. So a
// bucket leaves the table only when it is full again, which is when it says no
// more than its absence does. Attack: fill the table so that strangers get no
// bucket. A bucket is in the table for as long as it has been drawn on, 20 ms
// a datagram, so a flood of P datagrams a second holds P/50 places, whatever
// its sources. Where that still fills a set, those who find no place share
// one bucket of that set: they are slowed, nobody is reset, nothing grows.
type limiter struct {
	mu   sync.Mutex
	seed maphash.Seed // a stranger must not be able to aim at a set
	sets []limitSet
}

const limitWays = 8

// limitSet holds buckets as the time at which they will be full again (the
// "theoretical arrival time" of GCRA, ITU-T I.371).
type limitSet struct {
	key    [limitWays]uint64
	full   [limitWays]int64
	others int64
}

func newLimiter(small bool) *limiter {
	sets := 1024
	if small {
		sets = 32
	}
	return &limiter{seed: maphash.MakeSeed(), sets: make([]limitSet, sets)}
}

// source is what is counted as one: an IPv4 address, or the /64 that an IPv6
// host has to itself (kernel WireGuard does the same). No host sends from
// ffff::/16, so the two cannot meet.
func source(p *path) uint64 {
	if !p.v6 {
		return 0xffff<<48 | uint64(binary.BigEndian.Uint32(p.dst[12:]))
	}
	return binary.BigEndian.Uint64(p.dst[:8])
}

// allow spends one token of key's bucket at time now (monotonic nanoseconds).
func (l *limiter) allow(key uint64, now int64) bool {
	set := &l.sets[maphash.Comparable(l.seed, key)%uint64(len(l.sets))]
	l.mu.Lock()
	defer l.mu.Unlock()
	free := -1
	for i := range set.key {
		if set.key[i] == key && set.full[i] > now {
			return spend(&set.full[i], now, limitBurst, limitEvery)
		}
		if set.full[i] <= now {
			free = i
		}
	}
	if free < 0 {
		return spend(&set.others, now, limitBurst, limitEvery)
	}
	set.key[free], set.full[free] = key, 0
	return spend(&set.full[free], now, limitBurst, limitEvery)
}

// spend takes a token from the bucket that is full at *full, holds burst and
// gets one more each every.
func spend(full *int64, now int64, burst int64, every time.Duration) bool {
	at := max(*full, now) + int64(every)
	if at-now > burst*int64(every) {
		return false
	}
	*full = at
	return true
}

// size is the most buckets there can be, held how many are drawn on.
func (l *limiter) size(now int64) (size, held int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.sets {
		for _, full := range l.sets[i].full {
			if full > now {
				held++
			}
		}
	}
	return len(l.sets) * limitWays, held
}
