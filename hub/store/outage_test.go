package store_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
)

// relay stands between a store and its PostgreSQL server, and can stall or cut.
type relay struct {
	mu      sync.Mutex
	stalled chan struct{} // nil, or closed when the stall is over
	conns   map[net.Conn]bool
}

// newRelay returns a relay and dsn, led through it.
func newRelay(t testing.TB, dsn string) (*relay, string) {
	t.Helper()
	address, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	query := address.Query()
	target := filepath.Join(query.Get("host"), ".s.PGSQL.5432")
	dir, err := os.MkdirTemp("/tmp", "relay")
	if err != nil {
		t.Fatal(err)
	}
	query.Set("host", dir)
	address.RawQuery = query.Encode()
	listener, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{conns: make(map[net.Conn]bool)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			r.mu.Lock()
			r.conns[in], r.conns[out] = true, true
			r.mu.Unlock()
			wg.Go(func() { r.pump(in, out) })
			wg.Go(func() { r.pump(out, in) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		r.stall(false)
		r.cut()
		wg.Wait()
		_ = os.RemoveAll(dir)
	})
	return r, address.String()
}

func (r *relay) pump(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		wait := r.stalled
		r.mu.Unlock()
		if wait != nil {
			<-wait
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (r *relay) stall(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if on && r.stalled == nil {
		r.stalled = make(chan struct{})
	} else if !on && r.stalled != nil {
		close(r.stalled)
		r.stalled = nil
	}
}

func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		_ = c.Close()
	}
	clear(r.conns)
}

// failsFast runs fn, which must say within two seconds that the database does
// not answer.
func failsFast(t testing.TB, what string, fn func() error) {
	t.Helper()
	began := time.Now()
	err := fn()
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%s: %v", what, err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("%s took %v", what, took)
	}
}

// TestR06_ServerRestart crashes and restarts the server below an open store:
// errors at once while it is away, the same store afterwards, nothing half.
func TestR06_ServerRestart(t *testing.T) {
	t.Parallel()
	server := storetest.NewServer(t)
	cfg := storetest.Config(t)
	cfg.Path, cfg.DSN = "", server.DSN(t)
	s := storetest.Create(t, cfg)
	addPeer(t, s, "before")
	count := func() (n int) {
		t.Helper()
		if err := s.View(t.Context(), func(tx *store.Tx) error {
			peers, err := tx.Peers()
			n = len(peers)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for round := range 3 {
		key, _ := newKeys(t)
		failsFast(t, "the action in whose middle it crashed", func() error {
			return s.Do(t.Context(), someEvent, func(tx *store.Tx) error {
				if _, err := tx.AddPeer(store.NewPeer{Name: "middle", PublicKey: key, Kind: peer.KindSpoke}); err != nil {
					return err
				}
				server.Halt()
				return nil
			})
		})
		failsFast(t, "an action while it is away", func() error {
			return s.Do(t.Context(), someEvent, func(tx *store.Tx) error { return tx.SetMeta("a", "b") })
		})
		failsFast(t, "a look while it is away", func() error {
			return s.View(t.Context(), func(tx *store.Tx) error { _, err := tx.Peers(); return err })
		})
		failsFast(t, "opening while it is away", func() error { _, err := store.Open(t.Context(), cfg); return err })
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		if n := count(); n != 1+round {
			t.Errorf("%d peers after round %d", n, round)
		}
		addPeer(t, s, fmt.Sprint("after", round))
	}
	if n, err := s.VerifyAudit(t.Context()); n != 4 || err != nil {
		t.Errorf("%d entries, %v", n, err)
	}
}

// TestR06_StallsAndResets: a server that stops answering costs a caller no more
// than its deadline, and a connection that breaks anywhere in an action leaves
// all of it or nothing, so that trying again is safe.
func TestR06_StallsAndResets(t *testing.T) {
	t.Parallel()
	cfg := storetest.PostgresConfig(t)
	relay, through := newRelay(t, cfg.DSN)
	direct := storetest.Create(t, cfg)
	cfg.DSN = through
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	relay.stall(true)
	failsFast(t, "an action during a stall", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return s.Do(ctx, someEvent, func(tx *store.Tx) error { return tx.SetMeta("stall", "1") })
	})
	relay.stall(false)
	if err := s.Keep(t.Context(), func(tx *store.Tx) error { return tx.SetMeta("stall", "2") }); err != nil {
		t.Errorf("after the stall: %v", err)
	}

	// Somebody else holds the writers' turn: readers go on, writers give up.
	failsFast(t, "an action while another hub writes", func() error {
		return direct.Keep(t.Context(), func(*store.Tx) error {
			if err := s.View(t.Context(), func(tx *store.Tx) error { _, err := tx.Peers(); return err }); err != nil {
				t.Errorf("a reader waits for a writer: %v", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			return s.Keep(ctx, func(tx *store.Tx) error { return tx.SetMeta("turn", "1") })
		})
	})

	// Cut the connection after each step of an enrolment, the last one after
	// the reply was made but before it arrived.
	enrol := func(name string, key peer.PublicKey, at func(step int)) (p store.Peer, err error) {
		err = s.Do(t.Context(), someEvent, func(tx *store.Tx) error {
			at(0)
			v, fresh, err := tx.ConsumeInvite(name, key)
			if err != nil {
				return err
			}
			at(1)
			if !fresh {
				p, err = tx.Peer(v.PeerID)
				return err
			}
			p, err = tx.AddPeer(store.NewPeer{Name: name, PublicKey: key, Kind: peer.KindSpoke, Invite: v.ID})
			at(2)
			return err
		})
		at(3)
		return p, err
	}
	for cut := range 4 {
		name := fmt.Sprint("cut", cut)
		invite(t, direct, name)
		key, _ := newKeys(t)
		_, err := enrol(name, key, func(step int) {
			if step == cut {
				relay.cut()
			}
		})
		if (err == nil) != (cut == 3) || (err != nil && !errors.Is(err, store.ErrUnavailable)) {
			t.Errorf("cut after step %d: %v", cut, err)
		}
		for range 2 { // a lost reply is asked for again
			if p, err := enrol(name, key, func(int) {}); err != nil || p.Name != name {
				t.Errorf("trying again after a cut after step %d: %v", cut, err)
			}
		}
	}
	if err := s.View(t.Context(), func(tx *store.Tx) error {
		peers, err := tx.Peers()
		if len(peers) != 4 {
			t.Errorf("%d peers", len(peers))
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if _, err := s.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
}
