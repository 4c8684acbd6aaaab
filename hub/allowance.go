package hub

import (
	"sync"
	"time"
)

// allowance lets everybody do something a few times at once, and from then on
// now and again. It goes by the time that passes, not by the clock on the
// wall, which may jump. It is safe for concurrent use.
type allowance struct {
	atOnce int
	every  time.Duration
	start  time.Time

	mu sync.Mutex
	// spent is, for each, when it will have everything back: the generic cell
	// rate algorithm (ITU-T I.371), one number for each.
	spent map[string]time.Duration
}

// maxSpent is how many an allowance remembers before it forgets those that
// have everything back.
const maxSpent = 4096

func newAllowance(atOnce int, every time.Duration) *allowance {
	return &allowance{atOnce: atOnce, every: every, start: time.Now(), spent: make(map[string]time.Duration)}
}

// take reports whether who may do it once more, and counts it.
func (a *allowance) take(who string) bool {
	now := time.Since(a.start)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.spent) >= maxSpent {
		for w, until := range a.spent {
			if until <= now {
				delete(a.spent, w)
			}
		}
	}
	until := max(a.spent[who], now) + a.every
	if until-now > time.Duration(a.atOnce)*a.every {
		return false
	}
	a.spent[who] = until
	return true
}
