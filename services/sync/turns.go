package sync

import (
	"context"
	"fmt"
	gosync "sync"

	"github.com/warrenmesh/warren/peer"
)

// composing is how many answers are put together at once. In a mesh of 10,000
// machines one takes 20 ms and 430 kB, and a change wakes all of them.
const composing = 4

// turns lets one answer for each peer, and composing of them in all, be put
// together at a time. Whoever asks on many connections waits for himself.
type turns struct {
	all chan struct{}

	mu   gosync.Mutex
	each map[peer.ID]*turn
}

type turn struct {
	users int // who has it or waits for it
	slot  chan struct{}
}

func newTurns() *turns {
	return &turns{all: make(chan struct{}, composing), each: make(map[peer.ID]*turn)}
}

// take waits for id's turn, at most until ctx ends. done ends it.
func (t *turns) take(ctx context.Context, id peer.ID) (done func(), err error) {
	own := t.enter(id)
	select {
	case own.slot <- struct{}{}:
	case <-ctx.Done():
		t.leave(id, own)
		return nil, fmt.Errorf("waiting for a turn: %w", ctx.Err())
	}
	select {
	case t.all <- struct{}{}:
	case <-ctx.Done():
		<-own.slot
		t.leave(id, own)
		return nil, fmt.Errorf("waiting for a turn: %w", ctx.Err())
	}
	return func() {
		<-t.all
		<-own.slot
		t.leave(id, own)
	}, nil
}

func (t *turns) enter(id peer.ID) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.each[id]
	if own == nil {
		own = &turn{slot: make(chan struct{}, 1)}
		t.each[id] = own
	}
	own.users++
	return own
}

func (t *turns) leave(id peer.ID, own *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if own.users--; own.users == 0 {
		delete(t.each, id)
	}
}
