package services

import (
	"context"
	"time"
)

// The classes of rate limits.
const (
	Usual = "usual" // 200 a minute and 2,000 an hour
	Talk  = "chat"  // 30 a minute, besides
)

// Rate is so many events in so much time.
type Rate struct {
	Events int
	Per    time.Duration
}

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
