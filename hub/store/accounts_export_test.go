package store

import (
	"context"
	"fmt"
	"time"

	"github.com/warrenmesh/warren/peer/account"
)

// The bounds that tests go to.
const (
	MaxFailures = maxFailures
	MaxKnown    = maxKnown
	MaxRequests = maxRequests
)

// FillFailures counts one failure under each of n keys, all at one moment.
func FillFailures(ctx context.Context, a account.Store, n int, at time.Time) error {
	return a.Keep(ctx, func(at2 account.Tx) error {
		tx := at2.(*accountTx)
		for i := range n {
			if err := tx.exec("filling", `INSERT INTO failures (key_idx, count, last_at) VALUES ($1, 1, $2)`,
				tx.failureIndex(fmt.Sprint("fill", i)), nanos(at)); err != nil {
				return err
			}
		}
		return nil
	})
}
