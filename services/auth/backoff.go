package auth

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// How guessing is slowed down. After so many failures under a key the next
// attempt has to wait, twice as long each time, up to longestWait. A count
// starts anew when nothing failed for failuresCount.
const (
	firstWait     = 30 * time.Second
	longestWait   = 15 * time.Minute
	failuresCount = time.Hour

	// clockSkew is how far the clocks of two hubs may be apart. A time further in
	// the future than that was written while a clock was wrong.
	clockSkew = time.Minute

	freeOwn     = 5  // of a person on a machine they are known on
	freeMachine = 10 // of everybody else on one machine
	freePerson  = 20 // of one person on machines they are not known on
)

// limit is a count of failures, and how many are free. kind is what the audit
// log calls it: the key may say who is meant.
type limit struct {
	kind, key string
	free      int
}

// wait is how long after the n-th failure the next attempt is let through.
func (l limit) wait(n int) time.Duration {
	if n < l.free {
		return 0
	}
	if over := n - l.free; over < 5 { // 30 s … 8 min
		return firstWait << over
	}
	return longestWait
}

// machineLimit counts what fails on one machine, of one kind.
func machineLimit(kind string, p peer.Peer) limit {
	return limit{kind, kind + "@" + string(p.ID), freeMachine}
}

// ownLimit counts the mistakes of a person on one machine of theirs.
func ownLimit(u account.UserID, p peer.Peer) limit {
	return limit{"own", "person:" + u.String() + "@" + string(p.ID), freeOwn}
}

// personLimit counts guesses at one person by strangers' machines. Somebody who
// does not exist is counted alike, so that the count tells nothing.
func personLimit(tx account.Tx, email string) limit {
	// Both ways: what the store takes for one address is counted as one, such as
	// a long s for an s, or each spelling would be worth guesses of its own.
	sum := tx.Digest("failures", []byte(strings.ToLower(strings.ToUpper(email))))
	return limit{"person", "person:" + hex.EncodeToString(sum[:16]), freePerson}
}

// limitsFor are the counts that an attempt to sign in as somebody is under. u
// is 0 if there is no such person.
func limitsFor(tx account.Tx, p peer.Peer, email string, u account.User) ([]limit, error) {
	if u.ID != 0 {
		known := u.Username != "" && p.Owner == u.Username
		if !known {
			var err error
			if known, err = tx.Knows(u.ID, p.ID); err != nil {
				return nil, fmt.Errorf("looking for a known machine: %w", err)
			}
		}
		if known {
			return []limit{ownLimit(u.ID, p)}, nil
		}
	}
	return []limit{machineLimit("signin", p), personLimit(tx, email)}, nil
}

// attempt counts an attempt as failed under each of limits, before it is judged
// and in the same transaction as it is let through: many at once cannot all
// pass on the count that one of them found. Whoever succeeds is forgiven with
// forgive. It is a 429 refusal, and nothing is counted, while one of the limits
// has to wait.
func attempt(tx account.Tx, p peer.Peer, limits []limit) error {
	for _, l := range limits {
		n, last, err := tx.Failures(l.key)
		if err != nil && !errors.Is(err, account.ErrNotFound) {
			return fmt.Errorf("counting failures: %w", err)
		}
		age := tx.Now().Sub(last)
		if n > 0 && age >= failuresCount {
			if err := tx.Forgive(l.key); err != nil {
				return fmt.Errorf("forgiving old failures: %w", err)
			}
			n = 0
		}
		// A failure in the future was counted by a clock that has been set back
		// since: nobody is to wait until then. The attempt is counted at the time
		// that is right.
		if wait := l.wait(n) - max(age, 0); n > 0 && wait > 0 && age > -clockSkew {
			return tooMany(wait)
		}
		if err := tx.Fail(l.key); err != nil {
			return fmt.Errorf("counting a failure: %w", err)
		}
		// Recorded once as it begins, not with each attempt: the audit log is
		// not to be filled by a stranger.
		if n+1 == l.free {
			ev := account.Event{Actor: "peer:" + p.Name, Action: "signin.backoff", Target: "peer:" + p.Name, Detail: map[string]string{"limit": l.kind}}
			if err := tx.Record(ev); err != nil {
				return fmt.Errorf("recording back-off: %w", err)
			}
		}
	}
	return nil
}

func forgive(tx account.Tx, limits []limit) error {
	for _, l := range limits {
		if err := tx.Forgive(l.key); err != nil {
			return fmt.Errorf("forgiving failures: %w", err)
		}
	}
	return nil
}

// tooMany is the refusal of who has to wait.
func tooMany(wait time.Duration) error {
	return &services.Refusal{Status: http.StatusTooManyRequests, Detail: "Too many failed attempts; try again later.", Retry: wait}
}

// attemptAlone is attempt in a transaction of its own.
func (s *Service) attemptAlone(ctx context.Context, p peer.Peer, limits ...limit) error {
	return s.cfg.Store.Keep(ctx, func(tx account.Tx) error { return attempt(tx, p, limits) })
}

// forgiveAlone is forgive in a transaction of its own.
func (s *Service) forgiveAlone(ctx context.Context, limits ...limit) error {
	return s.cfg.Store.Keep(ctx, func(tx account.Tx) error { return forgive(tx, limits) })
}

// foldEmail is the form in which addresses are compared and stored.
func foldEmail(email string) string { return strings.ToLower(strings.TrimSpace(email)) }
