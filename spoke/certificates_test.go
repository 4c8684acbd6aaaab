package spoke

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/warrenmesh/warren/services/sync"
)

// mute is a hub that takes questions and answers none until it is away.
type mute struct {
	asked chan *http.Request
	away  chan struct{}
}

func (m mute) RoundTrip(r *http.Request) (*http.Response, error) {
	m.asked <- r
	select {
	case <-m.away:
		return nil, errors.New("the hub is away")
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// TestK04_SilentHubHoldsUpNobody: while new certificates are due and the hub
// does not answer, connections go on with those that have not ended: one asks,
// for a short while, the others do not wait for it, and nobody asks again soon.
func TestK04_SilentHubHoldsUpNobody(t *testing.T) {
	h := newMiniHub(t)
	cfg := h.config(t, "198.51.100.7")
	if _, err := Join(t.Context(), h.invite("kitchen"), cfg); err != nil {
		t.Fatal(err)
	}
	c, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	hub := mute{make(chan *http.Request, 8), make(chan struct{})}
	c.sync = &sync.Client{HTTP: &http.Client{Transport: hub}, Base: "http://sync.invalid"}
	now := time.Now()
	old := &Certificates{reply: sync.CertificateReply{Now: now, NotAfter: now.Add(time.Hour)}, renew: now.Add(-time.Minute), names: c.ownNames(), since: clocks()}
	c.vouched.now.Store(old)

	get := func(ctx context.Context) <-chan *Certificates {
		out := make(chan *Certificates, 1)
		go func() {
			got, _ := c.Certificates(ctx)
			out <- got
		}()
		return out
	}
	want := func(what string, from <-chan *Certificates) {
		t.Helper()
		select {
		case got := <-from:
			if got != old {
				t.Errorf("%s: got %v", what, got)
			}
		case <-time.After(patience):
			t.Fatalf("%s waits for the hub", what)
		}
	}
	first, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	asking := get(first)
	r := <-hub.asked
	if until, ok := r.Context().Deadline(); !ok || time.Until(until) > renewTime {
		t.Errorf("the hub is asked until %v", until)
	}
	want("the second", get(t.Context()))
	giveUp()
	if r.Context().Err() != nil {
		t.Error("whoever hangs up ends the question for all")
	}
	close(hub.away)
	want("the first", asking)
	want("one after the failure", get(t.Context()))
	select {
	case <-hub.asked:
		t.Error("the hub was asked again at once")
	default:
	}
}

// TestCertificatesGoByNoClockThatIsSet: the hub's time plus what has passed
// since, whatever this machine's own clock said or says now.
func TestCertificatesGoByNoClockThatIsSet(t *testing.T) {
	hub := time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)
	since := clocks()
	since.boot -= 2 * time.Hour
	s := &Certificates{reply: sync.CertificateReply{Now: hub}, since: since}
	if got := s.now().Sub(hub); got < 2*time.Hour || got > 2*time.Hour+patience {
		t.Errorf("%v have passed, want two hours", got)
	}
}
