package services

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// Limits of what runs at once, and of how it is judged.
const (
	// JudgeEvery is how often all running requests are judged again.
	JudgeEvery = 500 * time.Millisecond
	// MaxRunning is how many requests one peer may have running, in all the
	// services that share a Live; MaxRunningAll is the same for all peers.
	MaxRunning    = 256
	MaxRunningAll = 16 << 10
	// patience is how long a judgement is tried, from the beginning of its
	// round: with JudgeEvery it stays within a second.
	patience = 400 * time.Millisecond
	// lastTry is what a judgement gets that comes so late in its round.
	lastTry = 20 * time.Millisecond
	// judges is how many judgements run at once.
	judges = 8
	// settle is how old a request that is no stream must be before it is ended:
	// one that takes its own caller's right away, a sign-out, may say that it
	// has. It is judged again with the next tick.
	settle = 400 * time.Millisecond
)

// Live are the requests that are running now, so that one that loses what let
// it in can be ended: its context is cancelled with the *Refusal as the cause.
//
// All are judged again twice a second, and whenever somebody calls Judge. A
// judgement that cannot run, because the store does not answer, is tried for
// less than half a second; then the request is ended as well, since nobody could
// say any more that it may go on.
//
// So a request lives no longer than the token or the certificate that it began
// with. A stream also ends when its caller's role, household or grants become
// less than they were, even if it would be let in again: it began with more.
type Live struct {
	mu      sync.Mutex
	running map[*running]struct{}
	each    map[peer.ID]int
	begun   uint64 // rounds

	round    sync.Mutex
	finished uint64 // the newest round that is over
}

// running is one request.
type running struct {
	peer   peer.ID
	about  question
	caller *Caller // as it was let in
	stream bool
	began  time.Time
	judge  func(context.Context) (*Caller, error)
	cancel context.CancelCauseFunc
}

// NewLive returns a registry with nothing in it.
func NewLive() *Live {
	return &Live{running: make(map[*running]struct{}), each: make(map[peer.ID]int)}
}

// Run judges all running requests every JudgeEvery until ctx ends.
func (l *Live) Run(ctx context.Context) error {
	t := time.NewTicker(JudgeEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			l.Judge()
		}
	}
}

// Count is how many requests are running.
func (l *Live) Count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.running)
}

// Judge judges all running requests now and ends those that lost their right.
// When it returns, every stream has been judged by what was stored when it was
// called. Call it after a change, at the end of what made it.
func (l *Live) Judge() {
	want := l.mark() + 1
	l.round.Lock()
	defer l.round.Unlock()
	if l.finished >= want {
		return // while we waited, a whole round began and ended
	}
	l.mu.Lock()
	l.begun++
	this := l.begun
	groups := make(map[question][]*running)
	for r := range l.running {
		groups[r.about] = append(groups[r.about], r)
	}
	l.mu.Unlock()
	judgeAll(groups)
	l.finished = this
}

// judgeAll judges each question once, for all the requests that ask it.
func judgeAll(groups map[question][]*running) {
	start := time.Now()
	work := make(chan []*running)
	var wg sync.WaitGroup
	for range min(judges, len(groups)) {
		wg.Go(func() {
			for group := range work {
				judgeGroup(group, start)
			}
		})
	}
	for _, group := range groups {
		work <- group
	}
	close(work)
	wg.Wait()
}

func judgeGroup(group []*running, start time.Time) {
	until := start.Add(patience)
	if late := time.Now().Add(lastTry); late.After(until) {
		until = late
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	c, err := try(ctx, group[0].judge)
	for _, r := range group {
		why := refuseCheck
		switch {
		case err == nil && (!r.stream || !less(c, r.caller)):
			continue
		case err == nil:
			why = refuseLess
		default:
			_ = errors.As(err, &why)
		}
		if r.stream || time.Since(r.began) >= settle {
			r.cancel(why)
		}
	}
}

var refuseLess = refusal(Refusal{Status: http.StatusUnauthorized, Detail: "What you may do has changed; connect again."})

// try judges until there is an answer or no time left.
func try(ctx context.Context, judge func(context.Context) (*Caller, error)) (*Caller, error) {
	for {
		c, err := safely(ctx, judge)
		var why *Refusal
		if err == nil || errors.As(err, &why) {
			return c, err
		}
		t := time.NewTimer(patience / 8)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, err
		case <-t.C:
		}
	}
}

// safely keeps a judgement that panics from ending the hub: it could not run.
func safely(ctx context.Context, judge func(context.Context) (*Caller, error)) (c *Caller, err error) {
	defer func() {
		if p := recover(); p != nil {
			c, err = nil, fmt.Errorf("judging a request: panic of type %T", p)
		}
	}()
	return judge(ctx)
}

// less reports whether a caller may do less than before.
func less(now, before *Caller) bool {
	if now.scope != before.scope || now.Role < before.Role || before.User.Superuser && !now.User.Superuser {
		return true
	}
	for capability, values := range before.grants {
		for _, v := range values {
			if !slices.ContainsFunc(now.grants[capability], func(n json.RawMessage) bool { return bytes.Equal(n, v) }) {
				return true
			}
		}
		if _, granted := now.grants[capability]; !granted {
			return true
		}
	}
	return false
}

// mark is the number of the newest round.
func (l *Live) mark() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.begun
}

// enter counts a request in. missed says that a round has begun since mark, which
// this request was not part of.
func (l *Live) enter(r *running, mark uint64) (missed bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.each[r.peer] >= MaxRunning {
		return false, &Refusal{Status: http.StatusTooManyRequests, Detail: "This machine has too many requests running; end some.", Retry: time.Second}
	}
	if len(l.running) >= MaxRunningAll {
		return false, &Refusal{Status: http.StatusServiceUnavailable, Detail: "Too many requests are running; try again.", Retry: time.Second}
	}
	l.running[r] = struct{}{}
	l.each[r.peer]++
	return l.begun != mark, nil
}

// leave counts it out; again it changes nothing.
func (l *Live) leave(r *running) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, in := l.running[r]; !in {
		return
	}
	delete(l.running, r)
	if l.each[r.peer]--; l.each[r.peer] <= 0 {
		delete(l.each, r.peer)
	}
}
