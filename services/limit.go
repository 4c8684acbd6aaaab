package services

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// The classes of rate limits.
const (
	Usual = "usual" // 200 a minute and 2,000 an hour
	Talk  = "chat"  // 30 a minute, besides
)

// ratesOf gives the rates of a class. An unknown one has none.
func ratesOf(class string) ([]Rate, bool) {
	usual := []Rate{{200, time.Minute}, {2000, time.Hour}}
	switch class {
	case "", Usual:
		return usual, true
	case Talk:
		return append(usual, Rate{30, time.Minute}), true
	}
	return nil, false
}

// Rate is so many events in so much time.
type Rate struct {
	Events int
	Per    time.Duration
}

// Slots is how finely the time of a rate is divided. Events are counted in slots
// of a sixtieth, and a slot counts until all of it is older than Per: there are
// never more than Events in any stretch of Per, and what is used up comes back a
// sixtieth later than it might.
const Slots = 60

// Check refuses a rate that cannot be counted.
func (r Rate) Check() error {
	if r.Events < 1 || r.Events > 1<<16-1 || r.Per < time.Second || r.Per > 366*24*time.Hour {
		return errors.New("a rate is 1 to 65535 events in a second to a year")
	}
	return nil
}

// Slot is how long a slot is.
func (r Rate) Slot() time.Duration { return (r.Per + Slots - 1) / Slots }

// Allowance is what a Limiter says about one event.
type Allowance struct {
	Allowed   bool
	Limit     Rate          // the rate that is nearest to its end
	Remaining int           // of Limit
	Reset     time.Duration // until Limit is whole again
	Retry     time.Duration // until the next event is allowed, 0 if it is now
}

// Limiter counts events against rates. Take counts one event for key and says
// whether it is allowed; all rates are judged, and a refused event counts
// against none. It may be called by any number of goroutines. An error means
// that nothing was counted; the gate then refuses.
type Limiter interface {
	Take(ctx context.Context, key string, rates ...Rate) (Allowance, error)
}

// setLimits writes the headers; of several allowances the tightest stays.
func setLimits(h http.Header, a Allowance) {
	if was, err := strconv.Atoi(h.Get("RateLimit-Remaining")); err == nil && a.Allowed && was < a.Remaining {
		return
	}
	h.Set("RateLimit-Limit", strconv.Itoa(a.Limit.Events))
	h.Set("RateLimit-Remaining", strconv.Itoa(a.Remaining))
	h.Set("RateLimit-Reset", seconds(a.Reset))
}

// Limits of a MemoryLimiter.
const (
	// MaxLimitKeys is how many counters there are at once. Keys are peers and
	// people who signed in, so nobody can make them up; should they run out, new
	// ones are refused and not old ones forgotten.
	MaxLimitKeys = 1 << 16
	maxLimitKey  = 128 // bytes
	sweepEvery   = time.Minute
)

// MemoryLimiter is a Limiter for one hub. It is safe for concurrent use.
type MemoryLimiter struct {
	now   func() time.Time
	start time.Time

	mu      sync.Mutex
	windows map[limitKey]*window
	at      time.Duration // since start; it never goes back
	swept   time.Duration
}

type limitKey struct {
	key  string
	rate Rate
}

// window counts the events of one key against one rate.
type window struct {
	slot   int64 // the newest that is counted in
	total  int
	counts [Slots + 1]uint16
}

// NewMemoryLimiter returns a limiter that goes by a clock, time.Now if it is nil.
func NewMemoryLimiter(now func() time.Time) *MemoryLimiter {
	if now == nil {
		now = time.Now
	}
	return &MemoryLimiter{now: now, start: now(), windows: make(map[limitKey]*window)}
}

// Take implements Limiter.
func (m *MemoryLimiter) Take(_ context.Context, key string, rates ...Rate) (Allowance, error) {
	if key == "" || len(key) > maxLimitKey || len(rates) == 0 {
		return Allowance{}, errors.New("counting an event: it needs a key of at most 128 bytes, and a rate")
	}
	for _, r := range rates {
		if err := r.Check(); err != nil {
			return Allowance{}, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// A clock that is set back would give everybody's events back.
	m.at = max(m.at, m.now().Sub(m.start))
	m.sweep()
	refused := Allowance{Retry: -1}
	missing := 0
	for _, r := range rates {
		w := m.windows[limitKey{key, r}]
		if w == nil {
			missing++
			continue
		}
		w.advance(int64(m.at / r.Slot()))
		if w.total >= r.Events {
			if retry := w.until(w.oldest(), r, m.at); retry > refused.Retry {
				refused = Allowance{Limit: r, Reset: w.until(w.newest(), r, m.at), Retry: retry}
			}
		}
	}
	if refused.Retry >= 0 {
		return refused, nil
	}
	if len(m.windows)+missing > MaxLimitKeys {
		return Allowance{}, errors.New("counting an event: more keys than fit into memory")
	}
	return m.add(key, rates), nil
}

// add counts an event that is allowed.
func (m *MemoryLimiter) add(key string, rates []Rate) Allowance {
	best := Allowance{Remaining: -1}
	for _, r := range rates {
		k := limitKey{key, r}
		w := m.windows[k]
		if w == nil {
			w = &window{slot: int64(m.at / r.Slot())}
			m.windows[k] = w
		}
		w.counts[w.slot%(Slots+1)]++
		w.total++
		if left := r.Events - w.total; best.Remaining < 0 || left < best.Remaining {
			best = Allowance{Allowed: true, Limit: r, Remaining: left, Reset: w.until(w.slot, r, m.at)}
			if left == 0 {
				best.Retry = w.until(w.oldest(), r, m.at)
			}
		}
	}
	return best
}

// sweep forgets windows in which nothing is left.
func (m *MemoryLimiter) sweep() {
	if m.at-m.swept < sweepEvery {
		return
	}
	m.swept = m.at
	for k, w := range m.windows {
		w.advance(int64(m.at / k.rate.Slot()))
		if w.total == 0 {
			delete(m.windows, k)
		}
	}
}

// advance drops the slots that are too old at slot.
func (w *window) advance(slot int64) {
	if slot-w.slot > Slots {
		*w = window{slot: slot}
		return
	}
	for w.slot < slot {
		w.slot++
		i := w.slot % (Slots + 1)
		w.total -= int(w.counts[i])
		w.counts[i] = 0
	}
}

// oldest is the first slot with an event, newest the last one.
func (w *window) oldest() int64 {
	for s := w.slot - Slots; s < w.slot; s++ {
		if s >= 0 && w.counts[s%(Slots+1)] > 0 {
			return s
		}
	}
	return w.slot
}

func (w *window) newest() int64 {
	for s := w.slot; s > w.slot-Slots && s > 0; s-- {
		if w.counts[s%(Slots+1)] > 0 {
			return s
		}
	}
	return w.slot
}

// until is how long a slot goes on to count.
func (w *window) until(slot int64, r Rate, at time.Duration) time.Duration {
	return time.Duration(slot+Slots+1)*r.Slot() - at
}
