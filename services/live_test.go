package services

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// start starts one request and gives its context.
func (k *gated) start(t *testing.T, r *http.Request, need Requirement) (context.Context, func()) {
	t.Helper()
	_, ctx, _, done, err := k.Admit(r, "GET /", need, func(string) string { return string(home) })
	if err != nil {
		t.Fatal(err)
	}
	return ctx, func() { done(200) }
}

// runLive runs the registry as the hub does.
func runLive(t *testing.T, l *Live) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// loss is one way of losing what let a request in.
type loss struct {
	header string
	as     Credential
	change func(k *gated)
	status int
}

func losses(t *testing.T) map[string]loss {
	const user, node, app, admin = "Authorization: Bearer ann-token", "X-API-Key: kitchen:nk", "X-Jarvis-App-Id: cc", "X-Admin-Token: root.admin"
	one, two := peerAt(1, "10.77.1.1"), peerAt(2, "10.77.1.2")
	bad, rekeyed, moved := one, one, one
	bad.Quarantined, rekeyed.PublicKey, moved.Household = true, peer.PublicKey{9}, "guests"
	return map[string]loss{
		"key revoked": {node, AsNode, func(k *gated) { delete(k.desk.nodes, "kitchen:nk") }, 401},
		"node inactive": {node, AsNode, func(k *gated) {
			k.desk.nodes["kitchen:nk"] = account.Node{ID: "kitchen", Peer: "p1", Services: []string{"web"}}
		}, 401},
		"app key revoked": {app, AsApp, func(k *gated) { delete(k.desk.apps, "cc:ak") }, 401},
		"app's list": {app, AsApp, func(k *gated) {
			a := k.desk.apps["cc:ak"]
			a.Households = []account.HouseholdID{other}
			k.desk.apps["cc:ak"] = a
		}, 404},
		"admin key revoked": {admin, AsAdmin, func(k *gated) { delete(k.desk.apps, "root.admin") }, 401},
		"session revoked": {user, AsUser, func(k *gated) {
			s := k.desk.sessions["ann-token"]
			s.Revoked = time.Now()
			k.desk.sessions["ann-token"] = s
		}, 401},
		"person disabled":     {user, AsUser, func(k *gated) { k.desk.users["ann-token"] = account.User{ID: 1, Disabled: true} }, 401},
		"left the household":  {user, AsUser, func(k *gated) { delete(k.desk.roles[1], home) }, 404},
		"role too low":        {user, AsUser, func(k *gated) { k.desk.roles[1][home] = account.Member }, 403},
		"role lower":          {user, AsUser, func(k *gated) { k.desk.roles[1][home] = account.PowerUser }, 401},
		"household gone":      {user, AsUser, func(k *gated) { delete(k.desk.homes, home) }, 404},
		"household relabeled": {user, AsUser, func(k *gated) { k.who.set(t, moved, two) }, 404},
		"machine removed":     {user, AsUser, func(k *gated) { k.who.set(t, two) }, 403},
		"machine quarantined": {node, AsNode, func(k *gated) { k.who.set(t, bad, two) }, 403},
		"machine's key":       {app, AsApp, func(k *gated) { k.who.set(t, rekeyed, two) }, 403},
		"grant taken back":    {user, AsUser, func(k *gated) { k.grants = nil }, 403},
		"grant changed":       {user, AsUser, func(k *gated) { k.grants = map[string][]json.RawMessage{"cap": {[]byte(`2`)}} }, 401},
		"the check panics":    {node, AsNode, func(k *gated) { k.desk.nodes["kitchen:nk"] = account.Node{} }, 503},
		"nobody can tell":     {user, AsUser, func(k *gated) { k.desk.broken = errors.New("away") }, 503},
	}
}

// Whatever takes the right away, and whoever does it, a second later the stream
// is over, without anybody having said that something changed.
func TestK02_RevokedMidStream(t *testing.T) {
	for name, tc := range losses(t) {
		synctest.Test(t, func(t *testing.T) {
			k := newGated(t)
			k.grants["cap"] = []json.RawMessage{[]byte(`1`)}
			runLive(t, k.cfg.Live)
			need := Requirement{Any: []Credential{tc.as}, Role: account.PowerUser, Household: "h", Capability: "cap", Stream: true}
			r := k.from(peerAt(1, "10.77.1.1"), "/", tc.header)
			r.Header.Set("X-Jarvis-App-Key", "ak")
			ctx, done := k.start(t, r, need)
			defer done()
			time.Sleep(time.Hour + 123*time.Millisecond)
			if ctx.Err() != nil {
				t.Fatalf("%s: ended before: %v", name, context.Cause(ctx))
			}
			k.desk.set(func() { tc.change(k) })
			changed := time.Now()
			<-ctx.Done()
			var why *Refusal
			if took := time.Since(changed); took > time.Second || !errors.As(context.Cause(ctx), &why) || why.Status != tc.status {
				t.Errorf("%s: ended after %v: %v", name, took, context.Cause(ctx))
			}
		})
	}
}

// When Judge returns, what it had to end has ended, and nothing else.
func TestJudgeEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newGated(t)
		stream := Requirement{Any: []Credential{AsNode, AsUser}, Stream: true}
		var ends []context.Context
		for range 50 {
			ctx, done := k.start(t, k.from(peerAt(1, "10.77.1.1"), "/", "X-API-Key: kitchen:nk"), stream)
			defer done()
			ends = append(ends, ctx)
		}
		stays, done := k.start(t, k.from(peerAt(1, "10.77.1.1"), "/", "Authorization: Bearer ann-token"), stream)
		defer done()
		short, done2 := k.start(t, k.from(peerAt(1, "10.77.1.1"), "/", "X-API-Key: kitchen:nk"), any1(AsNode))
		defer done2()
		k.desk.set(func() { delete(k.desk.nodes, "kitchen:nk"); k.desk.asked = 0 })
		k.cfg.Live.Judge()
		for _, ctx := range ends {
			if ctx.Err() == nil {
				t.Fatal("a stream goes on")
			}
		}
		if stays.Err() != nil {
			t.Error("the person's stream ended too")
		}
		if k.desk.asked > 6 {
			t.Errorf("%d look-ups for three questions", k.desk.asked)
		}
		// A request that is no stream may still say what it did.
		if short.Err() != nil {
			t.Error("a fresh request was cut off")
		}
		time.Sleep(settle)
		k.cfg.Live.Judge()
		if short.Err() == nil {
			t.Error("a request goes on without its right")
		}
	})
}

// A store that is away for a moment ends nothing.
func TestLiveWaitsForTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newGated(t)
		runLive(t, k.cfg.Live)
		ctx, done := k.start(t, k.from(peerAt(1, "10.77.1.1"), "/", "Authorization: Bearer ann-token"), Requirement{Any: []Credential{AsUser}, Stream: true})
		defer done()
		for range 50 {
			k.desk.set(func() { k.desk.broken = errors.New("away") })
			time.Sleep(patience * 3 / 4)
			k.desk.set(func() { k.desk.broken = nil })
			time.Sleep(JudgeEvery)
		}
		if ctx.Err() != nil {
			t.Errorf("ended: %v", context.Cause(ctx))
		}
	})
}

// What is taken away between looking and entering is missed by the round, and
// caught by the gate.
func TestNothingSlipsInBesideARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newGated(t)
		k.Gate.cfg.Grants = func(peer.Peer, string) map[string][]json.RawMessage { return nil }
		slow := &slowDesk{desk: k.desk, asked: make(chan struct{}), go_: make(chan struct{})}
		k.Gate.cfg.Authority = slow
		result := make(chan *Refusal)
		go func() {
			_, why := k.try(k.from(peerAt(1, "10.77.1.1"), "/", "X-API-Key: kitchen:nk"), Requirement{Any: []Credential{AsNode}, Stream: true}, "")
			result <- why
		}()
		<-slow.asked // the answer was yes
		k.desk.set(func() { delete(k.desk.nodes, "kitchen:nk") })
		k.cfg.Live.Judge()
		close(slow.go_)
		if why := <-result; why == nil || why.Status != 401 {
			t.Errorf("let in after Judge had returned: %+v", why)
		}
	})
}

// slowDesk lets the first answer about a node wait after it was found.
type slowDesk struct {
	*desk
	asked, go_ chan struct{}
	once       bool
}

func (d *slowDesk) Node(ctx context.Context, p peer.Peer, id, key, service string) (account.Node, error) {
	n, err := d.desk.Node(ctx, p, id, key, service)
	if !d.once {
		d.once = true
		close(d.asked)
		<-d.go_
	}
	return n, err
}

func TestLiveIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newGated(t, func(c *GateConfig) { c.Limit = freely{} })
		a := k.from(peerAt(1, "10.77.1.1"), "/")
		var all []func()
		for range MaxRunning {
			_, done := k.start(t, a, any1(AsPeer))
			all = append(all, done)
		}
		if _, why := k.try(a, any1(AsPeer), ""); why == nil || why.Status != 429 {
			t.Errorf("one more: %+v", why)
		}
		if _, why := k.try(k.from(peerAt(2, "10.77.1.2"), "/"), any1(AsPeer), ""); why != nil {
			t.Errorf("the other machine pays for it: %v", why)
		}
		for _, done := range all {
			done()
			done() // counts out once
		}
		if n := k.cfg.Live.Count(); n != 0 || len(k.cfg.Live.each) != 0 {
			t.Errorf("%d left", n)
		}
	})
}

type freely struct{}

func (freely) Take(_ context.Context, _ string, rates ...Rate) (Allowance, error) {
	return Allowance{Allowed: true, Limit: rates[0]}, nil
}

// stubborn are handlers that do not look at their context.
func stubborn(t *testing.T) map[string]func(w http.ResponseWriter, r *http.Request, c *Caller) {
	return map[string]func(w http.ResponseWriter, r *http.Request, c *Caller){
		"writes on and on": func(w http.ResponseWriter, _ *http.Request, _ *Caller) {
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		},
		"writes now and then": func(w http.ResponseWriter, _ *http.Request, _ *Caller) {
			for {
				if _, err := io.WriteString(w, "data: x\n\n"); err != nil {
					return
				}
				if err := http.NewResponseController(w).Flush(); err != nil {
					return
				}
				time.Sleep(300 * time.Millisecond)
			}
		},
		"waits": func(w http.ResponseWriter, r *http.Request, _ *Caller) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"takes over, and goes on after each timeout": func(w http.ResponseWriter, _ *http.Request, _ *Caller) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			for err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				_ = conn.SetReadDeadline(time.Now().Add(time.Hour))
				_, err = conn.Read(make([]byte, 1))
			}
		},
	}
}

// The whole way, on the real server: a caller who has stopped reading, one who
// reads on, and a connection that was taken over end as well.
func TestStreamsEndOnTheWire(t *testing.T) {
	for name, h := range stubborn(t) {
		synctest.Test(t, func(t *testing.T) {
			k := newGated(t)
			runLive(t, k.cfg.Live)
			need := Requirement{Any: []Credential{AsNode}, Stream: true}
			ended := make(chan struct{})
			w := serveWire(t, ServerConfig{Roster: k.who.roster, Hosts: []string{"web"}, Handler: Require(k.Gate, "GET /", need, WriteDetail, func(w http.ResponseWriter, r *http.Request, c *Caller) {
				defer close(ended)
				h(w, r, c)
			})})
			c := w.dial("10.77.1.1:5000")
			defer c.Close()
			go func() { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: web\r\nX-API-Key: kitchen:nk\r\n\r\n") }()
			in := bufio.NewReaderSize(c, 16)
			line, err := in.ReadString('\n')
			if err != nil || !strings.HasPrefix(line, "HTTP/1.1 ") {
				t.Fatal(name, line, err)
			}
			if name == "writes now and then" {
				go func() { _, _ = io.Copy(io.Discard, in) }()
			}
			time.Sleep(10 * time.Second)
			k.desk.set(func() { delete(k.desk.nodes, "kitchen:nk") })
			changed := time.Now()
			<-ended
			if took := time.Since(changed); took > time.Second {
				t.Errorf("%s: ended after %v", name, took)
			}
		})
	}
}

func TestRequireAnswersForAHandlerThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newGated(t)
		w := serveWire(t, ServerConfig{Roster: k.who.roster, Hosts: []string{"web"}, Handler: Require(k.Gate, "GET /", any1(AsPeer), WriteProblem, func(w http.ResponseWriter, r *http.Request, _ *Caller) {
			if r.URL.Path == "/late" {
				_, _ = io.WriteString(w, "half an answer")
				_ = http.NewResponseController(w).Flush()
			}
			panic("the secret is ann-token")
		})})
		c := w.dial("10.77.1.1:5000")
		defer c.Close()
		code, body := get(t, c, plain)
		if code != 500 || !strings.Contains(body, `"detail":"Something went wrong here`) || strings.Contains(body, "secret") {
			t.Error(code, body)
		}
		go func() { _, _ = io.WriteString(c, "GET /late HTTP/1.1\r\nHost: web\r\n\r\n") }()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(res.Body); err == nil {
			t.Error("half an answer looks like a whole one")
		}
		if log := k.log.String(); strings.Count(log, "handler panicked") != 2 || strings.Contains(log, "ann-token") {
			t.Error(log)
		}
		if n := k.cfg.Live.Count(); n != 0 {
			t.Errorf("%d left", n)
		}
	})
}

func TestRefusalsInBothShapes(t *testing.T) {
	why := &Refusal{Status: 429, Detail: "Too many requests; try again in 2 s.", Challenge: "Bearer", Retry: 1100 * time.Millisecond}
	for want, write := range map[string]Refuser{
		`application/problem+json {"type":"about:blank","title":"Too Many Requests","status":429,"detail":"Too many requests; try again in 2 s."}`: WriteProblem,
		`application/json {"detail":"Too many requests; try again in 2 s."}`:                                                                       WriteDetail,
	} {
		w := httptest.NewRecorder()
		write(w, nil, why)
		got := w.Header().Get("Content-Type") + " " + strings.TrimSpace(w.Body.String())
		if got != want || w.Code != 429 || w.Header().Get("Retry-After") != "2" || w.Header().Get("WWW-Authenticate") != "Bearer" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %v", got, w.Header())
		}
	}
}
