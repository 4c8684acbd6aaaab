package invite

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/warrenmesh/warren/peer"
)

// book is a hub's Registry in memory, with the one rule that matters here: one
// invite, one key.
type book struct {
	mu     sync.Mutex
	hub    peer.PublicKey
	usedBy map[peer.ID]peer.PublicKey
	known  map[peer.ID]bool
	psk    peer.PresharedKey
	calls  int
}

func (b *book) Enrol(_ context.Context, inv peer.Peer, req Request) (Reply, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	if !b.known[inv.ID] {
		return Reply{}, fmt.Errorf("unknown invite: %w", ErrRefused)
	}
	if used, ok := b.usedBy[inv.ID]; ok && used != req.PublicKey {
		return Reply{}, fmt.Errorf("used by another key: %w", ErrRefused)
	}
	b.usedBy[inv.ID] = req.PublicKey
	return Reply{
		ID: "p1", Name: "kitchen", Kind: peer.KindSpoke, PSK: b.psk, Hub: b.hub, Endpoint: "192.0.2.1:51820",
		V4: netip.MustParseAddr("10.77.1.1"), V6: netip.MustParseAddr("fd00:1:2:3::101"),
		NetV4: netip.MustParsePrefix("10.77.0.0/16"), NetV6: netip.MustParsePrefix("fd00:1:2:3::/64"),
		Domain: "warren.internal", DNS: []netip.Addr{netip.MustParseAddr("10.77.0.53")},
		Sync: netip.MustParseAddrPort("10.77.0.3:80"), MTU: 1280, Owner: "ann",
	}, nil
}

// logBuffer is written by the server and read by the test.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type fixture struct {
	code   Code
	book   *book
	hubKey peer.PrivateKey
	caller atomic.Pointer[peer.Peer]
	log    *logBuffer
	dial   Dialer
	url    string
}

// enrolment serves Handler over real TLS on loopback, in the place of the
// tunnel, and says that every caller is the invite's throw-away peer.
func enrolment(t *testing.T) *fixture {
	t.Helper()
	hubKey := newKey(t)
	ident, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	code := testCode(t, "192.0.2.1:51820")
	code.Hub, code.Pin = hubKey.Public(), ident.Pin()
	f := &fixture{
		code: code, hubKey: hubKey, log: new(logBuffer),
		book: &book{
			hub: hubKey.Public(), usedBy: map[peer.ID]peer.PublicKey{},
			known: map[peer.ID]bool{"inv-1": true}, psk: newPSK(t),
		},
	}
	f.caller.Store(&peer.Peer{ID: "inv-1", Kind: peer.KindInvite, PublicKey: code.Key.Public()})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler:   Handler(hubKey, f.book, slog.New(slog.NewTextHandler(f.log, nil))),
		TLSConfig: ident.TLSConfig(),
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return peer.NewContext(ctx, *f.caller.Load())
		},
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ServeTLS(ln, "", "") }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	f.url = "https://" + ln.Addr().String() + Path
	f.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, ln.Addr().String())
	}
	return f
}

func TestRedeem(t *testing.T) {
	f := enrolment(t)
	key := newKey(t)
	var asked string
	reply, err := Redeem(t.Context(), func(ctx context.Context, network, addr string) (net.Conn, error) {
		asked = addr
		return f.dial(ctx, network, addr)
	}, f.code, key)
	if err != nil {
		t.Fatal(err)
	}
	if asked != "10.77.0.2:443" {
		t.Errorf("dialed %s", asked)
	}
	if reply.Name != "kitchen" || reply.PSK.Reveal() != f.book.psk.Reveal() || reply.Owner != "ann" {
		t.Errorf("reply = %+v", reply)
	}
	if f.book.usedBy["inv-1"] != key.Public() {
		t.Error("the hub holds another key")
	}
	b, err := reply.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseReply(b); err != nil || again.V6 != reply.V6 {
		t.Errorf("reply does not survive: %v", err)
	}
	if _, err := json.Marshal(reply); err == nil {
		t.Error("a reply marshals with its secret")
	}
}

// dropping closes the connection when the hub has done what was asked: the
// answer is lost.
type dropping struct {
	net.Conn
	book *book
}

func (d *dropping) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	d.book.mu.Lock()
	defer d.book.mu.Unlock()
	if d.book.calls > 0 {
		_ = d.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

func TestE03_LostReplyIsRetriedBySameKeyOnly(t *testing.T) {
	f := enrolment(t)
	key := newKey(t)
	tries := 0
	reply, err := Redeem(t.Context(), func(ctx context.Context, network, addr string) (net.Conn, error) {
		tries++
		c, err := f.dial(ctx, network, addr)
		if tries == 1 && err == nil {
			return &dropping{c, f.book}, nil
		}
		return c, err
	}, f.code, key)
	if err != nil {
		t.Fatal(err)
	}
	if f.book.calls != 2 || tries != 2 || reply.Name != "kitchen" {
		t.Errorf("%d calls in %d tries, reply %q; want the first one lost and the second one heard", f.book.calls, tries, reply.Name)
	}
	if _, err := Redeem(t.Context(), f.dial, f.code, key); err != nil {
		t.Errorf("same key again: %v", err)
	}
	if _, err := Redeem(t.Context(), f.dial, f.code, newKey(t)); !errors.Is(err, ErrRefused) {
		t.Errorf("another key: %v, want ErrRefused", err)
	}
}

func TestE02_UniformRefusal(t *testing.T) {
	f := enrolment(t)
	if _, err := Redeem(t.Context(), f.dial, f.code, newKey(t)); err != nil {
		t.Fatal(err)
	}
	texts := map[string]bool{}
	try := func(key peer.PrivateKey) {
		t.Helper()
		_, err := Redeem(t.Context(), f.dial, f.code, key)
		if !errors.Is(err, ErrRefused) {
			t.Errorf("%v, want ErrRefused", err)
			return
		}
		texts[err.Error()] = true
	}
	try(newKey(t)) // used
	f.caller.Store(&peer.Peer{ID: "inv-2", Kind: peer.KindInvite, PublicKey: f.code.Key.Public()})
	try(newKey(t)) // unknown
	f.caller.Store(&peer.Peer{ID: "p9", Kind: peer.KindSpoke, PublicKey: f.code.Key.Public()})
	try(newKey(t)) // an ordinary peer
	f.caller.Store(&peer.Peer{})
	try(newKey(t)) // nobody
	f.caller.Store(&peer.Peer{ID: "inv-1", Kind: peer.KindInvite, PublicKey: newKey(t).Public()})
	try(newKey(t)) // a proof made for another invite
	if len(texts) != 1 {
		t.Errorf("the refusals can be told apart: %v", texts)
	}
	for _, why := range []string{"used by another key", "unknown invite", "not an invite", "proof"} {
		if !strings.Contains(f.log.String(), why) {
			t.Errorf("the hub's log does not say %q", why)
		}
	}
	if strings.Contains(f.log.String(), f.code.Key.RevealText()) {
		t.Error("the log holds a key")
	}
}

// TestE04_ParallelRedeem: 64 machines with one code; one becomes a peer.
func TestE04_ParallelRedeem(t *testing.T) {
	f := enrolment(t)
	var wg sync.WaitGroup
	errs := make([]error, 64)
	for i := range errs {
		key := newKey(t)
		wg.Go(func() { _, errs[i] = Redeem(t.Context(), f.dial, f.code, key) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, ErrRefused):
			t.Errorf("%v, want ErrRefused", err)
		}
	}
	if won != 1 {
		t.Errorf("%d machines joined with one code", won)
	}
}

// TestE05_OtherServerIsNotBelieved: whoever holds the code as well and answers
// in the hub's place has not the pinned key, so the machine sends nothing.
func TestE05_OtherServerIsNotBelieved(t *testing.T) {
	f, thief := enrolment(t), enrolment(t)
	tries := 0
	_, err := Redeem(t.Context(), func(ctx context.Context, network, addr string) (net.Conn, error) {
		tries++
		return thief.dial(ctx, network, addr)
	}, f.code, newKey(t))
	if !errors.Is(err, ErrPin) || tries != 1 {
		t.Errorf("%v after %d tries, want ErrPin at once", err, tries)
	}
	if thief.book.calls != 0 {
		t.Error("a request was sent to a server with another key")
	}
}

// TestE05_ProofIsBoundToTheConnection: a request that somebody overheard, or
// that was made without the private key, does not enrol.
func TestE05_ProofIsBoundToTheConnection(t *testing.T) {
	f := enrolment(t)
	key, other := newKey(t), newKey(t)
	post := func(c *http.Client, r Request) int {
		t.Helper()
		body, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Post(f.url, "application/json", strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	first, err := tls.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(f.url, "https://"), Path), ClientTLS(f.code.Pin))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	cs := first.ConnectionState()
	shared, err := key.Shared(f.hubKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	mac, err := proof(&cs, shared, key.Public(), f.code.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	second := &http.Client{Transport: &http.Transport{TLSClientConfig: ClientTLS(f.code.Pin)}}
	defer second.CloseIdleConnections()
	for name, r := range map[string]Request{
		"proof of another connection": {PublicKey: key.Public(), Proof: mac},
		"proof for another key":       {PublicKey: other.Public(), Proof: mac},
		"no proof":                    {PublicKey: key.Public()},
		"hub's own key":               {PublicKey: f.hubKey.Public(), Proof: mac},
		"the invite's own key":        {PublicKey: f.code.Key.Public(), Proof: mac},
	} {
		if got := post(second, r); got != http.StatusForbidden {
			t.Errorf("%s: HTTP %d, want 403", name, got)
		}
	}
	if f.book.calls != 0 {
		t.Error("the registry saw an unproven request")
	}
}

func TestHandlerRefusesBadBodies(t *testing.T) {
	f := enrolment(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: ClientTLS(f.code.Pin)}}
	defer client.CloseIdleConnections()
	good := newKey(t).Public().String()
	for name, body := range map[string]string{
		"empty":            "",
		"not JSON":         "hello",
		"zero key":         `{"public_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`,
		"no key":           `{}`,
		"short key":        `{"public_key":"AAAA"}`,
		"unknown field":    `{"public_key":"` + good + `","admin":true}`,
		"two documents":    `{"public_key":"` + good + `"}{"public_key":"` + good + `"}`,
		"long platform":    `{"public_key":"` + good + `","platform":"` + strings.Repeat("x", 65) + `"}`,
		"control platform": `{"public_key":"` + good + `","platform":"a\u001b[2J"}`,
		"a megabyte":       `{"public_key":"` + good + `","platform":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		resp, err := client.Post(f.url, "application/json", strings.NewReader(body))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: HTTP %d, want 400", name, resp.StatusCode)
		}
	}
	if f.book.calls != 0 {
		t.Error("the registry saw a bad request")
	}
}

func TestIdentitySurvivesTheStore(t *testing.T) {
	a, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	der, err := a.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseIdentity(der)
	if err != nil {
		t.Fatal(err)
	}
	if a.Pin() != b.Pin() {
		t.Error("the pin changed")
	}
	for _, bad := range [][]byte{nil, {1, 2, 3}, der[:len(der)-1]} {
		if _, err := ParseIdentity(bad); err == nil {
			t.Errorf("accepted %d bytes", len(bad))
		}
	}
}
