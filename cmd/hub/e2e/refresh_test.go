package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// errRefused says that the hub took a refresh token for a bad one.
var errRefused = errors.New("refused")

// renewer is a program on a phone that lives on its refresh token.
type renewer struct {
	http  *http.Client
	done  atomic.Int32 // how many pairs it has got
	token string       // the one that it holds
}

// renewer returns one whose connections are the phone's.
func (p *phone) renewer(t *testing.T, token string) *renewer {
	t.Helper()
	at := p.must(t, "", "dig", "+short", "+time=5", "auth.warren.internal", "A")
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (c net.Conn, err error) {
		err = p.inside(func() (err error) {
			c, err = new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(at, "7701"))
			return err
		})
		return c, err
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &renewer{http: &http.Client{Transport: transport, Timeout: 500 * time.Millisecond}, token: token}
}

// present shows a token and returns its successor.
func (r *renewer) present(token string) (string, error) {
	res, err := r.http.Post(authURL+"/auth/refresh", "application/json", bytes.NewReader([]byte(object("refresh_token", token))))
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var out struct {
		Token string `json:"refresh_token"`
	}
	switch res.StatusCode {
	case http.StatusOK:
		if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
			return "", err
		}
		return out.Token, nil
	case http.StatusUnauthorized:
		return "", errRefused
	}
	return "", fmt.Errorf("the hub answered %s", res.Status)
}

// renew refreshes until that fails, and returns why.
func (r *renewer) renew() error {
	for {
		next, err := r.present(r.token)
		if err != nil {
			return err
		}
		r.token = next
		r.done.Add(1)
	}
}

// TestR01_KilledWhileRefreshing kills the hub in the middle of a refresh, again
// and again, each time a little later. Afterwards the token that the client
// holds has one successor: never none, never two.
func TestR01_KilledWhileRefreshing(t *testing.T) {
	for _, store := range []string{"SQLCipher", "PostgreSQL"} {
		t.Run(store, func(t *testing.T) {
			dsn := ""
			if store == "PostgreSQL" {
				dsn = postgres(t)
			}
			m := newMeshOn(t, dsn)
			m.settle()
			p := m.phone("ann-phone", "--owner", "ann")
			_, refresh := p.signIn(t, "ann")
			m.known(p)
			r := p.renewer(t, refresh)
			const rounds = 4
			for n := range rounds {
				killedRefreshing(t, m, r, time.Duration(n)*700*time.Microsecond)
			}
			// Its tokens before the last are used up, and show a theft.
			stolen := r.token
			for range 2 {
				next, err := r.present(r.token)
				if err != nil {
					t.Fatal(err)
				}
				r.token = next
			}
			if _, err := r.present(stolen); !errors.Is(err, errRefused) {
				t.Errorf("a token whose successor was used: %v, want refused", err)
			}
			if _, err := r.present(r.token); !errors.Is(err, errRefused) {
				t.Errorf("the newest token after an old one was used again: %v, want refused", err)
			}
		})
	}
}

// killedRefreshing is one round: the hub dies a while after some refreshes.
func killedRefreshing(t *testing.T, m *mesh, r *renewer, late time.Duration) {
	t.Helper()
	from := r.done.Load()
	ended := make(chan error, 1)
	go func() { ended <- r.renew() }()
	until(t, "the program refreshes", func() bool { return r.done.Load() > from+3 })
	<-time.After(late)
	m.killHub()
	killed := time.Now()
	if err := <-ended; errors.Is(err, errRefused) {
		t.Fatalf("the hub refused a token before it was killed, after %d refreshes", r.done.Load()-from)
	}
	r.http.CloseIdleConnections()
	m.startHub()
	var next string
	until(t, "the hub answers to a token", func() bool {
		var err error
		next, err = r.present(r.token)
		if errors.Is(err, errRefused) {
			t.Fatalf("the hub was killed after %d refreshes; the token has no successor, %v later", r.done.Load()-from, time.Since(killed))
		}
		return err == nil
	})
	t.Logf("killed after %d refreshes; the token works %v later", r.done.Load()-from, time.Since(killed).Round(time.Millisecond))
	again, err := r.present(r.token)
	if err != nil || again != next {
		t.Fatalf("the token has another successor the second time, or none: %v", err)
	}
	r.token = next
}
