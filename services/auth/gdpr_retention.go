package auth

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// Retention is how long records are kept, by kind. Zero fields are the
// defaults: chat 90 days, behaviour 30 days, the access log 12 months.
type Retention struct {
	Chat, Behaviour, Access time.Duration
}

const day = 24 * time.Hour

func (r Retention) orDefault() Retention {
	if r.Chat <= 0 {
		r.Chat = 90 * day
	}
	if r.Behaviour <= 0 {
		r.Behaviour = 30 * day
	}
	if r.Access <= 0 {
		r.Access = 365 * day
	}
	return r
}

// What retention deletes is gone, so a clock that has just been set, or has
// just started, is not believed at once: the next server of time may set it
// right.
const (
	retainAfter = time.Hour   // without a jump
	clockJump   = time.Minute // between two looks
)

// steadyClock notices that the clock on the wall was set. The zero value has
// not looked at it yet.
type steadyClock struct {
	wall        time.Time
	last, since time.Duration
}

// steady is how long the clock on the wall has gone without being set, by one
// that nobody sets.
func (c *steadyClock) steady(wall time.Time, running time.Duration) time.Duration {
	jump := wall.Round(0).Sub(c.wall) - (running - c.last)
	if c.wall.IsZero() || jump.Abs() > clockJump {
		c.since = running
	}
	c.wall, c.last = wall.Round(0), running
	return running - c.since
}

// retain removes the records that have been kept long enough.
func (s *Service) retain(ctx context.Context) error {
	r := s.cfg.Retention
	for _, k := range []struct {
		kind account.Kind
		keep time.Duration
	}{{account.Chat, r.Chat}, {account.Behaviour, r.Behaviour}, {account.Access, r.Access}} {
		before := s.cfg.Now().Add(-k.keep)
		for {
			n := 0
			err := s.cfg.Store.Keep(ctx, func(tx account.Tx) (err error) {
				n, err = tx.Expire(k.kind, before, eraseStep)
				return err
			})
			if err != nil {
				return fmt.Errorf("removing old records of kind %s: %w", k.kind, err)
			}
			if n == 0 {
				break
			}
			s.scrub.Store(true)
		}
	}
	return nil
}

// The access log is written in batches, behind the requests it is about.
const (
	accessQueue = 1024
	accessBatch = 100
	accessFlush = 5 * time.Second
)

// accessLine is one line of a person's access log: a request, or an event.
type accessLine struct {
	Event     string              `json:"event,omitempty"`
	Method    string              `json:"method,omitempty"`
	Route     string              `json:"route,omitempty"`
	Status    int                 `json:"status,omitempty"`
	Machine   string              `json:"machine"`
	Household account.HouseholdID `json:"household_id,omitempty"`
}

// Access notes a request of a person in their access log. It is for the gate
// and never blocks: when more comes than can be written, lines are lost, and
// the log says how many.
func (s *Service) Access(c *services.Caller, method, route string, status int) {
	if c == nil || c.As != services.AsUser || c.User.ID == 0 {
		return
	}
	body, err := json.Marshal(accessLine{"", method, route, status, c.Peer.Name, c.Scope().Household()})
	if err != nil {
		return
	}
	line := account.Record{Kind: account.Access, ID: rand.Text(), User: c.User.ID, At: s.cfg.Now(), Body: body}
	select {
	case s.access <- line:
	default:
		s.lost.Add(1)
	}
}

// writeAccess writes the access log until ctx ends, and what is left then.
func (s *Service) writeAccess(ctx context.Context) {
	var batch []account.Record
	for {
		select {
		case line := <-s.access:
			batch = append(batch, line)
			for more := true; more && len(batch) < accessBatch; {
				select {
				case line := <-s.access:
					batch = append(batch, line)
				default:
					more = false
				}
			}
		case <-ctx.Done():
			if len(s.access) == 0 {
				return
			}
			batch = append(batch, <-s.access)
		}
		s.flushAccess(ctx, batch)
		batch = batch[:0]
	}
}

// flushAccess writes lines, in a transaction of its own that the end of the
// service does not cut short.
func (s *Service) flushAccess(ctx context.Context, batch []account.Record) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), accessFlush)
	defer cancel()
	err := s.cfg.Store.Keep(ctx, func(tx account.Tx) error {
		for _, line := range batch {
			u, err := tx.User(line.User)
			if errors.Is(err, account.ErrNotFound) || err == nil && u.Disabled {
				continue // erased meanwhile: nothing is written about them
			} else if err != nil {
				return err
			}
			if err := tx.PutAccess(line); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.lost.Add(int64(len(batch)))
		s.log.Error("cannot write the access log", "error", err)
	}
	if n := s.lost.Swap(0); n > 0 {
		s.log.Warn("lines of the access log were lost", "lines", n)
	}
}
