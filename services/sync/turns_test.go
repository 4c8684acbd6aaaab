package sync

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	gosync "sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// slow is a board whose answers take a second, and that notes how many were
// being put together at once.
type slow struct {
	*board
	now, most atomic.Int64
}

func (s *slow) Self(ctx context.Context, p peer.Peer) (Self, <-chan struct{}, error) {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	time.Sleep(time.Second)
	return s.board.Self(ctx, p)
}

// TestTurns: however many requests of however many peers come at once, a few
// answers are put together at a time, and one for each peer.
func TestTurns(t *testing.T) {
	for _, c := range []struct{ peers, requests, most int }{{1, 20, 1}, {50, 2, composing}} {
		synctest.Test(t, func(t *testing.T) {
			src := &slow{board: newBoard()}
			h := Handler(src, nil)
			var all gosync.WaitGroup
			for i := range c.peers {
				who := peer.Peer{ID: peer.ID(fmt.Sprint("p", i)), Name: fmt.Sprint("p", i)}
				for range c.requests {
					all.Go(func() {
						w := httptest.NewRecorder()
						h.ServeHTTP(w, httptest.NewRequestWithContext(peer.NewContext(t.Context(), who), http.MethodGet, "/v1/self", nil))
						if w.Code != http.StatusOK {
							t.Errorf("status %d: %s", w.Code, w.Body)
						}
					})
				}
			}
			all.Wait()
			if n := src.most.Load(); n != int64(c.most) {
				t.Errorf("%d peers with %d requests each: %d answers at once, want %d", c.peers, c.requests, n, c.most)
			}
		})
	}
}

// TestTurnsEnd: who no longer waits leaves nothing behind.
func TestTurnsEnd(t *testing.T) {
	turns := newTurns()
	done, err := turns.take(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := turns.take(gone, "p"); err == nil {
		t.Error("two turns at once")
	}
	done()
	if n := len(turns.each) + len(turns.all); n != 0 {
		t.Errorf("%d turns stay behind", n)
	}
}
