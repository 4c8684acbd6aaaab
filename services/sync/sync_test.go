package sync

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	gosync "sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services"
)

// board is a Source in memory.
type board struct {
	mu      gosync.Mutex
	changed chan struct{}
	epoch   uint64
	offers  map[string]peer.ID
	left    []peer.ID
	fail    error
}

func newBoard() *board { return &board{changed: make(chan struct{}), offers: map[string]peer.ID{}} }

func (b *board) Self(_ context.Context, p peer.Peer) (Self, <-chan struct{}, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return Self{}, nil, b.fail
	}
	s := Self{Peer: p, Domain: "warren.internal", MTU: 1280, Epoch: b.epoch, Slice: json.RawMessage(`{"rules":[]}`),
		Names: map[string][]netip.Addr{"stt": {netip.MustParseAddr("10.77.0.10")}}}
	for name := range maps.Keys(b.offers) {
		s.Serves = append(s.Serves, name)
	}
	return s, b.changed, nil
}

// touch wakes the waiting; real says whether anything is different.
func (b *board) touch(real bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if real {
		b.epoch++
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *board) Serve(_ context.Context, p peer.Peer, r ServeRequest) (ServeReply, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if owner, taken := b.offers[r.Name]; taken && owner != p.ID {
		return ServeReply{}, Conflict("The name " + r.Name + " is another peer's.")
	}
	b.offers[r.Name] = p.ID
	return ServeReply{r.Name, r.Name + ".warren.internal"}, nil
}

func (b *board) Unserve(_ context.Context, p peer.Peer, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.offers[name] != p.ID {
		return NotFound("This peer offers no " + name + ".")
	}
	delete(b.offers, name)
	return nil
}

func (b *board) Certificate(_ context.Context, p peer.Peer, r CertificateRequest) (CertificateReply, error) {
	if len(r.Request) == 0 {
		return CertificateReply{}, &Problem{http.StatusBadRequest, "This is no request."}
	}
	return CertificateReply{Server: "server of " + p.Name, Client: "client of " + p.Name, Roots: "roots"}, nil
}

func (b *board) Leave(_ context.Context, p peer.Peer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = append(b.left, p.ID)
	return nil
}

var kitchen = peer.Peer{ID: "p1", Name: "kitchen", Kind: peer.KindSpoke, PublicKey: peer.PublicKey{9},
	V4: netip.MustParseAddr("127.0.0.1"), V6: netip.MustParseAddr("fd00::1")}

// serve puts the protocol behind the real server on loopback.
func serve(t *testing.T, b *board) *Client {
	t.Helper()
	roster, err := peer.NewRoster([]peer.Peer{kitchen})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := services.NewServer(services.ServerConfig{Handler: Handler(b, nil), Hosts: []string{"127.0.0.1"}, MaxBody: MaxRequest,
		Roster: func() *peer.Roster { return roster }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- services.ServeHTTP(ctx, srv, services.Listeners{TCP: []net.Listener{l}}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &Client{HTTP: &http.Client{Transport: transport}, Base: "http://" + l.Addr().String()}
}

func TestSelfWaitsForAChange(t *testing.T) {
	b := newBoard()
	c := serve(t, b)
	self, tag, changed, err := c.Self(t.Context(), "")
	if err != nil || !changed || self.Peer.Name != "kitchen" || self.Names["stt"][0] != netip.MustParseAddr("10.77.0.10") {
		t.Fatalf("first answer: %+v %v %v", self, changed, err)
	}
	type answer struct {
		self    Self
		changed bool
		err     error
	}
	got := make(chan answer, 1)
	go func() {
		s, _, ch, err := c.Self(t.Context(), tag)
		got <- answer{s, ch, err}
	}()
	// Waking without a change tells nobody anything.
	for range 3 {
		b.touch(false)
	}
	select {
	case a := <-got:
		t.Fatalf("answered without a change: %+v", a)
	default:
	}
	b.touch(true)
	if a := <-got; a.err != nil || !a.changed || a.self.Epoch != 1 {
		t.Fatalf("after the change: %+v", a)
	}
}

func TestSelfHoldsFiftySecondsAndCountsTheWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		h := Handler(b, nil)
		ask := func(tag string) *httptest.ResponseRecorder {
			r := httptest.NewRequest("GET", "/v1/self", nil)
			r.Header.Set("If-None-Match", tag)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r.WithContext(peer.NewContext(t.Context(), kitchen)))
			return w
		}
		tag := ask(`"old"`).Header().Get("ETag")
		start := time.Now()
		codes := make(chan int, MaxHeld+1)
		for range MaxHeld {
			go func() { codes <- ask(tag).Code }()
			synctest.Wait()
		}
		// One more is not shut out by those that may be of no use to anybody:
		// the oldest gives way, and only that one.
		go func() { codes <- ask(tag).Code }()
		synctest.Wait()
		if len(codes) != 1 || time.Since(start) != 0 {
			t.Errorf("one too many waiting: %d gave way after %v", len(codes), time.Since(start))
		}
		for range MaxHeld + 1 {
			if code := <-codes; code != http.StatusNotModified {
				t.Errorf("held request ended with %d", code)
			}
		}
		if took := time.Since(start); took != Hold {
			t.Errorf("held for %v, not %v", took, Hold)
		}
		// Places are given back.
		go func() { codes <- ask(tag).Code }()
		if code := <-codes; code != http.StatusNotModified {
			t.Errorf("after the others ended: %d", code)
		}
	})
}

func TestServeUnserveLeave(t *testing.T) {
	b := newBoard()
	b.offers["taken"] = "p2"
	c := serve(t, b)
	reply, err := c.Serve(t.Context(), ServeRequest{"llm", "tcp", 8080})
	if err != nil || reply.FQDN != "llm.warren.internal" {
		t.Fatal(reply, err)
	}
	var p *Problem
	if _, err := c.Serve(t.Context(), ServeRequest{"taken", "tcp", 8080}); !errors.As(err, &p) || p.Status != 409 || !strings.Contains(err.Error(), "another peer's") {
		t.Errorf("a taken name: %v", err)
	}
	for _, bad := range []ServeRequest{{"", "tcp", 1}, {"A", "tcp", 1}, {"a", "sctp", 1}, {"a", "tcp", 0}, {strings.Repeat("a", 64), "tcp", 1}} {
		if _, err := c.Serve(t.Context(), bad); !errors.As(err, &p) || p.Status != 400 {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if err := c.Unserve(t.Context(), "llm"); err != nil {
		t.Error(err)
	}
	if err := c.Unserve(t.Context(), "llm"); !errors.As(err, &p) || p.Status != 404 {
		t.Errorf("twice: %v", err)
	}
	if err := c.Leave(t.Context()); err != nil || len(b.left) != 1 || b.left[0] != "p1" {
		t.Error(err, b.left)
	}
}

// A page in a browser on the peer's machine must not make the peer leave.
func TestBrowsersAndBadBodiesAreRefused(t *testing.T) {
	b := newBoard()
	c := serve(t, b)
	for _, tt := range []struct {
		name, method, path, body string
		header                   map[string]string
		status                   int
	}{
		{"form post", "POST", "/v1/leave", "{}", map[string]string{"Content-Type": "text/plain"}, 415},
		{"no type", "POST", "/v1/leave", "{}", nil, 415},
		{"origin", "POST", "/v1/leave", "{}", map[string]string{"Content-Type": "application/json", "Origin": "http://evil.example"}, 403},
		{"null origin", "POST", "/v1/leave", "{}", map[string]string{"Content-Type": "application/json", "Origin": "null"}, 403},
		{"fetch site", "GET", "/v1/self", "", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"preflight", "OPTIONS", "/v1/leave", "", nil, 404},
		{"get leave", "GET", "/v1/leave", "", nil, 404},
		{"host", "GET", "/v1/self", "", map[string]string{"Host": "evil.example"}, 421},
		{"unknown field", "POST", "/v1/serve", `{"name":"a","proto":"tcp","port":1,"x":1}`, map[string]string{"Content-Type": "application/json"}, 400},
		{"two objects", "POST", "/v1/leave", `{}{}`, map[string]string{"Content-Type": "application/json"}, 400},
		{"port range", "POST", "/v1/serve", `{"name":"a","proto":"tcp","port":65536}`, map[string]string{"Content-Type": "application/json"}, 400},
		{"large", "POST", "/v1/serve", `{"name":"` + strings.Repeat("a", MaxRequest) + `"}`, map[string]string{"Content-Type": "application/json"}, 413},
		{"nothing", "GET", "/v2/self", "", nil, 404},
		{"traversal", "DELETE", "/v1/serve/..%2fleave", "", nil, 400},
	} {
		req, _ := http.NewRequest(tt.method, c.Base+tt.path, strings.NewReader(tt.body))
		for k, v := range tt.header {
			req.Header.Set(k, v)
		}
		req.Host = tt.header["Host"]
		res, err := c.HTTP.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != tt.status {
			t.Errorf("%s: %d %s, want %d", tt.name, res.StatusCode, text, tt.status)
		}
		if res.Header.Get("X-Content-Type-Options") != "nosniff" || res.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: headers %v", tt.name, res.Header)
		}
	}
	if len(b.left) != 0 || len(b.offers) != 0 {
		t.Errorf("something got through: %v %v", b.left, b.offers)
	}
}

func TestInnerErrorsAreNotTold(t *testing.T) {
	b := newBoard()
	b.fail = errors.New("secret detail of the store")
	c := serve(t, b)
	_, _, _, err := c.Self(t.Context(), "")
	if err == nil || strings.Contains(err.Error(), "secret detail") || !strings.Contains(err.Error(), "log") {
		t.Errorf("%v", err)
	}
}

func TestNobodyIsServedWithoutAPeer(t *testing.T) {
	w := httptest.NewRecorder()
	Handler(newBoard(), nil).ServeHTTP(w, httptest.NewRequest("GET", "/v1/self", nil))
	if w.Code != http.StatusForbidden {
		t.Error(w.Code)
	}
}

func TestClientRefusesAGiantAnswerAndRedirects(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/leave" {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusTemporaryRedirect)
			return
		}
		chunk := make([]byte, 1<<16)
		for range MaxSelf>>16 + 2 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer srv.Close()
	c := &Client{HTTP: srv.Client(), Base: srv.URL}
	if _, _, _, err := c.Self(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Error(err)
	}
	var p *Problem
	if err := c.Leave(t.Context()); !errors.As(err, &p) || p.Status != http.StatusTemporaryRedirect {
		t.Error(err)
	}
}
