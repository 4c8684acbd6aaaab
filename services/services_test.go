package services

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmesh/warren/peer"
)

func peerAt(id byte, addr string) peer.Peer {
	return peer.Peer{ID: peer.ID(fmt.Sprint("p", id)), Name: fmt.Sprint("peer", id), Kind: peer.KindSpoke, PublicKey: peer.PublicKey{id},
		V4: netip.MustParseAddr(addr), V6: netip.AddrFrom16([16]byte{0xfd, 15: id})}
}

// people is a roster that changes.
type people struct{ p atomic.Pointer[peer.Roster] }

func (p *people) set(t testing.TB, peers ...peer.Peer) {
	t.Helper()
	r, err := peer.NewRoster(peers)
	if err != nil {
		t.Fatal(err)
	}
	p.p.Store(r)
}

func (p *people) roster() *peer.Roster { return p.p.Load() }

// wire is a listener whose connections are pipes with made-up addresses: the
// whole of net/http runs on it in a bubble with a clock of its own.
type wire struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newWire() *wire { return &wire{conns: make(chan net.Conn), done: make(chan struct{})} }

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}
func (w *wire) Close() error   { w.once.Do(func() { close(w.done) }); return nil }
func (w *wire) Addr() net.Addr { return tcpAddr("10.77.0.4:80") }

type wireConn struct {
	net.Conn
	remote net.Addr
}

func (c wireConn) RemoteAddr() net.Addr { return c.remote }
func (c wireConn) LocalAddr() net.Addr  { return tcpAddr("10.77.0.4:80") }

func tcpAddr(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

func (w *wire) dial(from string) net.Conn {
	near, far := net.Pipe()
	w.conns <- wireConn{far, tcpAddr(from)}
	return near
}

// serveWire runs h behind the real server and stops it at the end of the test.
func serveWire(t *testing.T, c ServerConfig) *wire {
	t.Helper()
	w := newWire()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ServeHTTP(ctx, NewServer(c), Listeners{TCP: []net.Listener{w}}) }()
	t.Cleanup(func() {
		cancel()
		_ = w.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

// get sends one request and returns status and body.
func get(t *testing.T, c net.Conn, request string) (int, string) {
	t.Helper()
	go func() { _, _ = io.WriteString(c, request) }()
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	// What net/http itself cannot read it refuses in its own words.
	unread := strings.HasPrefix(string(b), fmt.Sprint(res.StatusCode)) || res.StatusCode == http.StatusNotImplemented
	if res.StatusCode != http.StatusOK && !unread && res.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("status %d without the security headers", res.StatusCode)
	}
	return res.StatusCode, string(b)
}

var whoami = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	p, _ := peer.FromContext(r.Context())
	_, _ = io.WriteString(w, p.Name)
})

const plain = "GET / HTTP/1.1\r\nHost: web\r\n\r\n"

func TestIdentifyAsksForEveryRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var who people
		a, b := peerAt(1, "10.77.1.1"), peerAt(2, "10.77.1.1")
		who.set(t, a)
		w := serveWire(t, ServerConfig{Handler: whoami, Roster: who.roster, Hosts: []string{"web"}})
		c := w.dial("10.77.1.1:5000")
		defer c.Close()
		if code, body := get(t, c, plain); code != 200 || body != "peer1" {
			t.Fatal(code, body)
		}
		for name, change := range map[string]func(){
			"removed":                   func() { who.set(t) },
			"quarantined":               func() { q := a; q.Quarantined = true; who.set(t, q) },
			"address given to another":  func() { who.set(t, b) },
			"turned into an invite":     func() { i := a; i.Kind = peer.KindInvite; who.set(t, i) },
			"of a kind nobody has seen": func() { i := a; i.Kind = "x"; who.set(t, i) },
			"no roster at all":          func() { who.p.Store(nil) },
		} {
			who.set(t, a)
			c := w.dial("10.77.1.1:5000")
			if code, body := get(t, c, plain); code != 200 {
				t.Fatal(code, body)
			}
			change()
			// The connection is open already: keep-alive must not keep trust alive.
			if code, body := get(t, c, plain); code != http.StatusForbidden {
				t.Errorf("%s: %d %s", name, code, body)
			}
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s: the connection stays open", name)
			}
			c.Close()
		}
		who.set(t, b)
		c2 := w.dial("10.77.1.1:5001")
		defer c2.Close()
		if code, body := get(t, c2, plain); code != 200 || body != "peer2" {
			t.Errorf("the new owner of the address: %d %s", code, body)
		}
		for _, stranger := range []string{"10.77.9.9:1", "[fd00::1%eth0]:1"} {
			c := w.dial(stranger)
			if code, _ := get(t, c, plain); code != http.StatusForbidden {
				t.Errorf("%s: %d", stranger, code)
			}
			c.Close()
		}
	})
}

func TestNothingSetServesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var who people
		who.set(t, peerAt(1, "10.77.1.1"))
		for name, tt := range map[string]struct {
			c    ServerConfig
			code int
		}{
			"nothing":    {ServerConfig{}, 421},
			"no roster":  {ServerConfig{Handler: whoami, Hosts: []string{"web"}}, 403},
			"no hosts":   {ServerConfig{Handler: whoami, Roster: who.roster}, 421},
			"no handler": {ServerConfig{Roster: who.roster, Hosts: []string{"web"}}, 404},
		} {
			w := serveWire(t, tt.c)
			c := w.dial("10.77.1.1:1")
			res := func() int {
				go func() { _, _ = io.WriteString(c, plain) }()
				res, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					return 0
				}
				return res.StatusCode
			}()
			c.Close()
			if res != tt.code {
				t.Errorf("%s: %d, want %d", name, res, tt.code)
			}
		}
	})
}

func TestH01_Hosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var who people
		who.set(t, peerAt(1, "10.77.1.1"))
		var served atomic.Int64
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { served.Add(1) })
		w := serveWire(t, ServerConfig{Handler: h, Roster: who.roster, Hosts: []string{"console.warren.internal", "10.77.0.4", "[fd77::4]"}})
		for _, tt := range []struct {
			request string
			code    int
		}{
			{"GET / HTTP/1.1\r\nHost: console.warren.internal\r\n\r\n", 200},
			{"GET / HTTP/1.1\r\nHost: CONSOLE.warren.internal:80\r\n\r\n", 200},
			{"GET / HTTP/1.1\r\nHost: 10.77.0.4\r\n\r\n", 200},
			{"GET / HTTP/1.1\r\nHost: [fd77::4]:80\r\n\r\n", 200},
			{"GET / HTTP/1.1\r\nHost: 127.0.0.1:9000\r\n\r\n", 200}, // a forward on the peer's own machine
			{"GET / HTTP/1.1\r\nHost: localhost:9000\r\n\r\n", 200},
			{"GET / HTTP/1.1\r\nHost: [::1]:9000\r\n\r\n", 200},
			{"GET / HTTP/1.1\r\nHost: evil.com\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\nHost: 203.0.113.7\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\nHost: 10.77.0.5\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\nHost: console.warren.internal.\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\nHost: console.warren.internal:8080\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\nHost: console.warren.internal:\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\nHost: console.warren.internal.evil.com\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\nHost: evil.com#console.warren.internal\r\n\r\n", 400},
			{"GET / HTTP/1.1\r\nHost: console.warren.internal@evil.com\r\n\r\n", 400},
			{"GET / HTTP/1.1\r\nHost: 127.1\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\nHost: 127.0.0.2\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\nHost: [::ffff:127.0.0.1]\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\nHost: localhost.evil.com\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\nHost: fd77::4\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\nHost:\r\n\r\n", 421},
			{"GET / HTTP/1.0\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\n\r\n", 400},
			{"GET / HTTP/1.1\r\nHost: console.warren.internal\r\nHost: evil.com\r\n\r\n", 400},
			{"GET http://evil.com/ HTTP/1.1\r\nHost: console.warren.internal\r\n\r\n", 421},
			{"GET http://console.warren.internal/ HTTP/1.1\r\nHost: evil.com\r\n\r\n", 421},
			{"GET / HTTP/1.1\r\nHost: console.warren.internal\r\nX-Forwarded-Host: evil.com\r\n\r\n", 200},
		} {
			before := served.Load()
			c := w.dial("10.77.1.1:1")
			code, body := get(t, c, tt.request)
			c.Close()
			if code != tt.code {
				t.Errorf("%q: %d %.60q, want %d", tt.request, code, body, tt.code)
			}
			if (served.Load() != before) != (code == 200) {
				t.Errorf("%q: routed with status %d", tt.request, code)
			}
		}
	})
}

func TestD02_Bodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var who people
		who.set(t, peerAt(1, "10.77.1.1"))
		var read atomic.Int64
		failed := make(chan error, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			read.Store(n)
			if err != nil {
				failed <- err
				Refuse(w, http.StatusRequestEntityTooLarge, "Too large.")
			}
		})
		const limit = 1000
		w := serveWire(t, ServerConfig{Handler: h, Roster: who.roster, Hosts: []string{"web"}, MaxBody: limit})
		post := func(header string, body func(io.Writer)) (int, string) {
			read.Store(0)
			c := w.dial("10.77.1.1:1")
			defer c.Close()
			go func() {
				if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: web\r\n"+header+"\r\n\r\n"); err == nil && body != nil {
					body(c)
				}
			}()
			return get(t, c, "")
		}
		if code, _ := post("Content-Length: 1000", func(c io.Writer) { _, _ = c.Write(make([]byte, 1000)) }); code != 200 || read.Load() != 1000 {
			t.Errorf("what fits: %d, %d bytes", code, read.Load())
		}
		start := time.Now()
		for header, want := range map[string]int{
			"Content-Length: 4294967296\r\nX: y":                   413, // refused before a byte of it is read
			"Content-Length: 1001":                                 413,
			"Content-Length: -1":                                   400,
			"Content-Length: 99999999999999999999":                 400,
			"Content-Length: 5\r\nContent-Length: 6":               400,
			"Content-Length: 5\r\nTransfer-Encoding: chunked, x":   501,
			"Transfer-Encoding: gzip":                              501,
			"X: " + strings.Repeat("a", MaxHeader+8192):            431,
			strings.Repeat("X: y\r\n", MaxHeader/4) + "Last: last": 431,
		} {
			if code, body := post(header, func(c io.Writer) { _, _ = c.Write([]byte("x")) }); code != want {
				t.Errorf("%.50q: %d %.80q, want %d", header, code, body, want)
			}
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("refusing took %v", took)
		}
		// Chunks without end: cut off at the limit.
		code, _ := post("Transfer-Encoding: chunked", func(c io.Writer) {
			for {
				if _, err := io.WriteString(c, "100\r\n"+strings.Repeat("a", 256)+"\r\n"); err != nil {
					return
				}
			}
		})
		if code != 413 || read.Load() > limit {
			t.Errorf("endless chunks: %d after %d bytes", code, read.Load())
		}
		if err := <-failed; !isMaxBytes(err) {
			t.Error(err)
		}
	})
}

func isMaxBytes(err error) bool { _, ok := errors.AsType[*http.MaxBytesError](err); return ok }

// drip sends one byte a second until the other side closes, and returns how
// long that took.
func drip(c net.Conn, text string) time.Duration {
	start := time.Now()
	go func() { _, _ = io.Copy(io.Discard, c) }()
	for i := 0; ; i++ {
		b := byte('a')
		if i < len(text) {
			b = text[i]
		}
		if _, err := c.Write([]byte{b}); err != nil {
			return time.Since(start)
		}
		time.Sleep(time.Second)
	}
}

func TestD03_Slowloris(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var who people
		who.set(t, peerAt(1, "10.77.1.1"), peerAt(2, "10.77.1.2"))
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
		w := serveWire(t, ServerConfig{Handler: h, Roster: who.roster, Hosts: []string{"web"}, MaxBody: 1 << 20})
		took := make(chan time.Duration, 500)
		for range 500 {
			c := w.dial("10.77.1.1:1")
			go func() { took <- drip(c, "GET / HTTP/1.1\r\nHost: web\r\nX-Slow: ") }()
		}
		synctest.Wait()
		// The others are served at once all the while.
		start := time.Now()
		c := w.dial("10.77.1.2:1")
		if code, _ := get(t, c, plain); code != 200 || time.Since(start) > time.Second {
			t.Errorf("another peer: %d after %v", code, time.Since(start))
		}
		c.Close()
		atOnce := 0
		for range 500 {
			d := <-took
			if d < time.Second {
				atOnce++
			}
			if d > HeaderTimeout+2*time.Second {
				t.Errorf("a slow header held a connection for %v", d)
			}
		}
		if atOnce != 500-MaxConns {
			t.Errorf("%d of 500 were turned away at once, not %d", atOnce, 500-MaxConns)
		}
		// A body that trickles, whether the handler reads it or not.
		for _, text := range []string{"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 100000\r\n\r\n", "POST / HTTP/1.1\r\nHost: nobody\r\nContent-Length: 100000\r\n\r\n"} {
			c := w.dial("10.77.1.1:1")
			_, _ = io.WriteString(c, text)
			if d := drip(c, ""); d > StallTimeout+HeaderTimeout+2*time.Second {
				t.Errorf("%.20q: a slow body held a connection for %v", text, d)
			}
		}
	})
}

// D-04: a caller that never reads ends the handler, however much it has to say.
func TestD04_ClientNeverReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var who people
		who.set(t, peerAt(1, "10.77.1.1"))
		failed := make(chan error, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := w.Write(make([]byte, 10<<20))
			failed <- err
		})
		w := serveWire(t, ServerConfig{Handler: h, Roster: who.roster, Hosts: []string{"web"}})
		start := time.Now()
		c := w.dial("10.77.1.1:1")
		defer c.Close()
		_, _ = io.WriteString(c, plain)
		if err := <-failed; err == nil || time.Since(start) > StallTimeout+time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// A handler that takes its time is not a caller that wastes it.
func TestSlowHandlersAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var who people
		who.set(t, peerAt(1, "10.77.1.1"))
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			select {
			case <-time.After(10 * time.Minute):
			case <-r.Context().Done():
				t.Errorf("cancelled: %v", context.Cause(r.Context()))
			}
			_, _ = w.Write(b)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Minute) // an event stream between two events
			_, _ = w.Write(b)
		})
		w := serveWire(t, ServerConfig{Handler: h, Roster: who.roster, Hosts: []string{"web"}, MaxBody: 10})
		c := w.dial("10.77.1.1:1")
		defer c.Close()
		r := bufio.NewReader(c)
		for range 2 { // and the connection is good for another
			_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
			if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusContinue {
				t.Fatal(res, err)
			}
			_, _ = io.WriteString(c, "hi")
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(res.Body); err != nil || string(b) != "hihi" {
				t.Fatalf("%q %v", b, err)
			}
			time.Sleep(IdleTimeout - time.Second)
		}
	})
}

// Ending a service waits for its handlers, but not for ever: one that hangs
// must not hang whoever ends it.
func TestServeHTTPWaitsForHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var who people
		who.set(t, peerAt(1, "10.77.1.1"))
		for name, deaf := range map[string]bool{"heeds its context": false, "does not": true} {
			entered, release, left := make(chan struct{}), make(chan struct{}), new(atomic.Bool)
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(entered)
				if !deaf {
					<-r.Context().Done()
					time.Sleep(time.Second)
				} else {
					<-release
				}
				left.Store(true)
			})
			w := newWire()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			srv := NewServer(ServerConfig{Handler: h, Roster: who.roster, Hosts: []string{"web"}})
			go func() { done <- ServeHTTP(ctx, srv, Listeners{TCP: []net.Listener{w}}) }()
			c := w.dial("10.77.1.1:1")
			go func() { _, _ = io.WriteString(c, plain) }()
			<-entered
			start := time.Now()
			cancel()
			err := <-done
			if (err != nil) != deaf || left.Load() == deaf || time.Since(start) > endTimeout {
				t.Errorf("%s: %v after %v", name, err, time.Since(start))
			}
			close(release)
			c.Close()
			_ = w.Close()
		}
	})
}

func TestStartOpensAllOrNothing(t *testing.T) {
	opened := make(map[string]net.Listener)
	n := Network{
		Listen: func(ap netip.AddrPort) (net.Listener, error) {
			if ap.Port() == 443 {
				return nil, errors.New("taken")
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				opened[ap.String()] = l
			}
			return l, err
		},
		ListenPacket: func(netip.AddrPort) (net.PacketConn, error) { return net.ListenPacket("udp", "127.0.0.1:0") },
	}
	serve := func(ctx context.Context, l Listeners) error { <-ctx.Done(); return nil }
	_, err := Start(t.Context(), n, Service{Name: "x", TCP: []uint16{80, 443}, Serve: serve}, netip.MustParseAddr("10.77.0.9"))
	if err == nil || !strings.Contains(err.Error(), "10.77.0.9 tcp/443") {
		t.Error(err)
	}
	if _, err := opened["10.77.0.9:80"].Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the other port stays open: %v", err)
	}
	boom := errors.New("boom")
	r, err := Start(t.Context(), n, Service{Name: "x", TCP: []uint16{80}, UDP: []uint16{53}, Serve: func(context.Context, Listeners) error { return boom }}, netip.MustParseAddr("10.77.0.9"))
	if err != nil {
		t.Fatal(err)
	}
	<-r.Done()
	if err := r.Stop(); !errors.Is(err, boom) || r.Stop() != err {
		t.Error(err)
	}
}
