package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	xproxy "golang.org/x/net/proxy"
)

const patience = 10 * time.Second

// mesh is a make-believe mesh of names, behind each of which is something on
// loopback. It notes what was asked for.
type mesh struct {
	mu    sync.Mutex
	names map[string]string // network/host:port to a real address
	asked []string
}

func (m *mesh) dial(ctx context.Context, network, address string) (net.Conn, error) {
	m.mu.Lock()
	m.asked = append(m.asked, network+"/"+address)
	to, ok := m.names[network+"/"+address]
	m.mu.Unlock()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	switch {
	case ok:
		var d net.Dialer
		return d.DialContext(ctx, network, to)
	case !isMesh(host):
		return nil, fmt.Errorf("%s is %w", host, ErrNotMesh)
	case host == "secret.warren.internal":
		return nil, fmt.Errorf("%w: no rule allows it", ErrPolicy)
	case host == "closed.warren.internal":
		return nil, syscall.ECONNREFUSED
	}
	return nil, fmt.Errorf("%w: %s", ErrNoName, host)
}

func (m *mesh) seen(what string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.asked, what)
}

func isMesh(host string) bool {
	return strings.HasSuffix(host, ".warren.internal") || strings.HasPrefix(host, "10.77.")
}

// start serves on loopback until the test ends, and fails it if serve does not
// end then. It returns the address.
func start(t *testing.T, serve func(context.Context, net.Listener) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serving: %v", err)
			}
		case <-time.After(patience):
			t.Error("still serving after its context ended")
		}
	})
	return ln.Addr().String()
}

// newMesh has a web server as stt.warren.internal:80 and 10.77.0.10:80, and a
// UDP echo as stt.warren.internal:7.
func newMesh(t *testing.T) *mesh {
	t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Seen", r.Host+" "+r.Header.Get("Proxy-Authorization")+r.Header.Get("Proxy-Connection"))
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
	}))
	t.Cleanup(web.Close)
	echo, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = echo.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(append([]byte("echo "), buf[:n]...), from)
		}
	}()
	at := web.Listener.Addr().String()
	return &mesh{names: map[string]string{
		"tcp/stt.warren.internal:80": at, "tcp/10.77.0.10:80": at, "udp/stt.warren.internal:7": echo.LocalAddr().String(),
	}}
}

func TestForward(t *testing.T) {
	m := newMesh(t)
	at := start(t, func(ctx context.Context, ln net.Listener) error {
		return Forward{Target: "stt.warren.internal:80"}.Serve(ctx, ln, m.dial, nil)
	})
	resp, err := http.Get("http://" + at + "/x")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "GET /x " {
		t.Errorf("%q", body)
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestForwardRefused: the client sees a reset and not an empty answer.
func TestForwardRefused(t *testing.T) {
	m := newMesh(t)
	at := start(t, func(ctx context.Context, ln net.Listener) error {
		return Forward{Target: "secret.warren.internal:80"}.Serve(ctx, ln, m.dial, nil)
	})
	conn, err := net.Dial("tcp", at)
	if err == nil {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}

func TestParseForward(t *testing.T) {
	for text, want := range map[string]Forward{
		"127.0.0.1:9000=stt.warren.internal:443": {"127.0.0.1:9000", "stt.warren.internal:443"},
		"9000=stt:443":                           {"127.0.0.1:9000", "stt:443"},
		"[::1]:9000=[fd77::1]:443":               {"[::1]:9000", "[fd77::1]:443"},
		"0=stt:1":                                {"127.0.0.1:0", "stt:1"},
	} {
		if got, err := ParseForward(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "9000", "9000=", "=stt:1", "9000=stt", "9000=stt:0", "9000=stt:65536", "9000=:80", ":9000=stt:80", "x=stt:1", "70000=stt:1", "9000=stt:http"} {
		if got, err := ParseForward(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
	for at, want := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "127.9.9.9:1": true,
		"0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "nonsense": false} {
		if IsLoopback(at) != want {
			t.Errorf("IsLoopback(%s) = %v", at, !want)
		}
	}
}

func startSOCKS(t *testing.T, m *mesh) string {
	return start(t, (&SOCKS{Dial: m.dial}).Serve)
}

// TestSOCKSConnect uses another project's client.
func TestSOCKSConnect(t *testing.T) {
	m := newMesh(t)
	d, err := xproxy.SOCKS5("tcp", startSOCKS(t, m), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	hc := &http.Client{Transport: &http.Transport{Dial: d.Dial}}
	defer hc.CloseIdleConnections()
	for _, u := range []string{"http://stt.warren.internal/a", "http://10.77.0.10/a"} {
		resp, err := hc.Get(u)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(body) != "GET /a " {
			t.Errorf("%s: %q", u, body)
		}
	}
	if !m.seen("tcp/stt.warren.internal:80") {
		t.Error("the name was not left to the mesh")
	}
}

// socksHello opens a connection and agrees on no authentication.
func socksHello(t *testing.T, at string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte{5, 1, 0}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, c, 2); !bytes.Equal(got, []byte{5, 0}) {
		t.Fatalf("greeted with %v", got)
	}
	return c
}

func read(t *testing.T, r io.Reader, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func nameRequest(cmd byte, name string, port uint16) []byte {
	b := append([]byte{5, cmd, 0, atypName, byte(len(name))}, name...)
	return binary.BigEndian.AppendUint16(b, port)
}

func TestSOCKSReplies(t *testing.T) {
	m := newMesh(t)
	at := startSOCKS(t, m)
	for name, tc := range map[string]struct {
		request []byte
		want    byte
	}{
		"outside the mesh":   {nameRequest(1, "example.org", 80), repNotAllowed},
		"loopback":           {[]byte{5, 1, 0, 1, 127, 0, 0, 1, 0, 22}, repNotAllowed},
		"metadata":           {[]byte{5, 1, 0, 1, 169, 254, 169, 254, 0, 80}, repNotAllowed},
		"policy":             {nameRequest(1, "secret.warren.internal", 80), repNotAllowed},
		"no such name":       {nameRequest(1, "x.warren.internal", 80), repHostUnreachable},
		"connection refused": {nameRequest(1, "closed.warren.internal", 80), repRefused},
		"BIND":               {nameRequest(2, "stt.warren.internal", 80), repBadCommand},
		"command 9":          {nameRequest(9, "stt.warren.internal", 80), repBadCommand},
		"address type 7":     {[]byte{5, 1, 0, 7, 1, 2, 3, 4, 0, 80}, repBadAddress},
		"control characters": {nameRequest(1, "a\x1b[2J.warren.internal", 80), repFailure},
		"empty name":         {nameRequest(1, "", 80), repFailure},
	} {
		c := socksHello(t, at)
		if _, err := c.Write(tc.request); err != nil {
			t.Fatal(err)
		}
		got := read(t, c, 10)
		if got[0] != 5 || got[1] != tc.want {
			t.Errorf("%s: reply %d, want %d", name, got[1], tc.want)
		}
		_ = c.Close()
	}
}

// TestSOCKSNoPage: a web page's request to the port gets no byte back.
func TestSOCKSNoPage(t *testing.T) {
	at := startSOCKS(t, newMesh(t))
	for _, hello := range []string{"POST / HTTP/1.1\r\nHost: x\r\n\r\n", "\x04\x01\x00\x50\x0a\x4d\x00\x0a\x00", "\x16\x03\x01\x00"} {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(c, hello); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); len(b) != 0 || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q was answered with %q, %v", hello, b, err)
		}
		_ = c.Close()
	}
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte{5, 1, 2}); err != nil { // a password or nothing
		t.Fatal(err)
	}
	if got := read(t, c, 2); got[1] != methodNoneUsable {
		t.Errorf("method %d", got[1])
	}
}

func TestSOCKSAssociate(t *testing.T) {
	m := newMesh(t)
	c := socksHello(t, startSOCKS(t, m))
	if _, err := c.Write([]byte{5, 3, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	got := read(t, c, 10)
	if got[1] != repOK || got[3] != atypV4 {
		t.Fatalf("reply %v", got)
	}
	relay := netip.AddrPortFrom(netip.AddrFrom4([4]byte(got[4:8])), binary.BigEndian.Uint16(got[8:]))
	if !relay.Addr().IsLoopback() {
		t.Errorf("the relay is at %v", relay)
	}
	u, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	_ = u.SetDeadline(time.Now().Add(patience))
	name := nameRequest(0, "stt.warren.internal", 7)[3:]
	send := func(frag byte, payload string) {
		t.Helper()
		if _, err := u.Write(append(append([]byte{0, 0, frag}, name...), payload...)); err != nil {
			t.Fatal(err)
		}
	}
	send(1, "a fragment") // dropped
	send(0, "hello")
	buf := make([]byte, 2048)
	n, err := u.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(buf[:4], []byte{0, 0, 0, atypV4}) || string(buf[10:n]) != "echo hello" {
		t.Errorf("datagram %q", buf[:n])
	}
	// Another program of this machine may not use the association.
	thief, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(relay))
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	if _, err := thief.Write(append(append([]byte{0, 0, 0}, name...), "thief"...)); err != nil {
		t.Fatal(err)
	}
	send(0, "again")
	if n, err = u.Read(buf); err != nil || string(buf[10:n]) != "echo again" {
		t.Errorf("datagram %q, %v", buf[:n], err)
	}
	// More destinations than there are places, none of them reachable.
	for i := range 3 * maxTargets {
		if _, err := u.Write(append([]byte{0, 0, 0}, nameRequest(0, fmt.Sprintf("h%d.warren.internal", i), 7)[3:]...)); err != nil {
			t.Fatal(err)
		}
	}
	send(0, "still there")
	for string(buf[10:n]) != "echo still there" {
		if n, err = u.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	// The end of the connection is the end of the relay.
	_ = c.Close()
	for deadline := time.Now().Add(patience); ; {
		if _, err := u.Write([]byte("x")); errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the relay is still open")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func FuzzSOCKSDatagram(f *testing.F) {
	f.Add(append([]byte{0, 0, 0}, nameRequest(0, "stt", 7)[3:]...))
	f.Add([]byte{0, 0, 0, 4, 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		to, payload, ok := parseDatagram(b)
		if !ok {
			return
		}
		host, port, err := net.SplitHostPort(to)
		if err != nil || host == "" || port == "" {
			t.Errorf("accepted a datagram for %q", to)
		}
		if !bytes.HasSuffix(b, payload) || len(payload) >= len(b) {
			t.Error("the payload is not the end of the datagram")
		}
	})
}

func startHTTP(t *testing.T, m *mesh) string {
	return start(t, (&HTTP{Dial: m.dial, Mesh: isMesh}).Serve)
}

func throughProxy(at string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: at, User: url.UserPassword("a", "b")}),
	}}
}

func TestHTTPProxyPlain(t *testing.T) {
	m := newMesh(t)
	hc := throughProxy(startHTTP(t, m))
	defer hc.CloseIdleConnections()
	resp, err := hc.Post("http://stt.warren.internal/a", "text/plain", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if string(body) != "POST /a body" {
		t.Errorf("%q", body)
	}
	if seen := resp.Header.Get("X-Seen"); seen != "stt.warren.internal" {
		t.Errorf("the service saw %q; want the host and nothing of the proxy's", seen)
	}
	for u, want := range map[string]int{
		"http://example.org/":            http.StatusForbidden,
		"http://127.0.0.1:22/":           http.StatusForbidden,
		"http://169.254.169.254/":        http.StatusForbidden,
		"http://secret.warren.internal/": http.StatusForbidden,
		"http://x.warren.internal/":      http.StatusBadGateway,
		"http://closed.warren.internal/": http.StatusBadGateway,
	} {
		resp, err := hc.Get(u)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != want || len(body) < 20 {
			t.Errorf("%s: HTTP %d, %q", u, resp.StatusCode, body)
		}
	}
}

// raw sends a request as it is and returns the status and what follows.
func raw(t *testing.T, at, request string) (int, *bufio.Reader, net.Conn) {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, &http.Request{Method: strings.Fields(request)[0]})
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, r, c
}

func TestHTTPProxyConnect(t *testing.T) {
	m := newMesh(t)
	at := startHTTP(t, m)
	// The first bytes of the tunnel come in one piece with the request.
	status, r, c := raw(t, at, "CONNECT stt.warren.internal:80 HTTP/1.1\r\nHost: stt.warren.internal:80\r\n\r\nGET /early HTTP/1.0\r\n\r\n")
	if status != 200 {
		t.Fatalf("HTTP %d", status)
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); string(body) != "GET /early " {
		t.Errorf("%q", body)
	}
	_ = c.Close()
	for target, want := range map[string]int{
		"example.org:443":           http.StatusForbidden,
		"127.0.0.1:22":              http.StatusForbidden,
		"secret.warren.internal:80": http.StatusForbidden,
		"closed.warren.internal:80": http.StatusBadGateway,
		"stt.warren.internal":       http.StatusBadRequest,
		"stt.warren.internal:0":     http.StatusBadRequest,
		":80":                       http.StatusBadRequest,
	} {
		if status, _, _ := raw(t, at, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n"); status != want {
			t.Errorf("CONNECT %s: HTTP %d, want %d", target, status, want)
		}
	}
}

// TestMeshF33_ProxyNoPage: what a web page can make a browser send is refused
// before anything is dialed: requests to the proxy as if it were a server (DNS
// rebinding), and requests into the mesh from a page that is not of the mesh.
func TestMeshF33_ProxyNoPage(t *testing.T) {
	m := newMesh(t)
	at := startHTTP(t, m)
	for name, request := range map[string]string{
		"rebinding":            "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
		"rebinding to a name":  "GET / HTTP/1.1\r\nHost: stt.warren.internal\r\n\r\n",
		"foreign page":         "POST http://stt.warren.internal/a HTTP/1.1\r\nHost: stt.warren.internal\r\nOrigin: http://evil.example\r\nContent-Length: 0\r\n\r\n",
		"page without origin":  "POST http://stt.warren.internal/a HTTP/1.1\r\nHost: stt.warren.internal\r\nOrigin: null\r\nContent-Length: 0\r\n\r\n",
		"look-alike origin":    "POST http://stt.warren.internal/a HTTP/1.1\r\nHost: stt.warren.internal\r\nOrigin: http://warren.internal.evil.example\r\nContent-Length: 0\r\n\r\n",
		"two origins":          "GET http://stt.warren.internal/a HTTP/1.1\r\nHost: stt.warren.internal\r\nOrigin: http://stt.warren.internal\r\nOrigin: http://evil.example\r\n\r\n",
		"cross-site":           "GET http://stt.warren.internal/a HTTP/1.1\r\nHost: stt.warren.internal\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n\r\n",
		"CONNECT by a page":    "CONNECT stt.warren.internal:80 HTTP/1.1\r\nHost: stt.warren.internal:80\r\nOrigin: http://evil.example\r\n\r\n",
		"CONNECT with cookies": "CONNECT stt.warren.internal:80 HTTP/1.1\r\nHost: stt.warren.internal:80\r\nCookie: a=b\r\n\r\n",
		"other schemes":        "GET ftp://stt.warren.internal/a HTTP/1.1\r\nHost: stt.warren.internal\r\n\r\n",
	} {
		if status, _, _ := raw(t, at, request); status != http.StatusForbidden && status != http.StatusBadRequest {
			t.Errorf("%s: HTTP %d", name, status)
		}
	}
	if m.asked != nil {
		t.Errorf("dialed %v", m.asked)
	}
	if status, _, _ := raw(t, at, "POST http://stt.warren.internal/a HTTP/1.1\r\nHost: stt.warren.internal\r\nOrigin: http://console.warren.internal\r\nContent-Length: 0\r\n\r\n"); status != 200 {
		t.Errorf("a page of the mesh: HTTP %d", status)
	}
}

// TestServeEnds: with connections open in every state, the end of the context
// ends them all. The clean-up of start fails the test if it does not.
func TestServeEnds(t *testing.T) {
	m := newMesh(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	m.names["tcp/silent.warren.internal:80"] = silent.Addr().String()
	socks := startSOCKS(t, m)
	socksHello(t, socks) // waits for a request
	c := socksHello(t, socks)
	if _, err := c.Write(nameRequest(1, "silent.warren.internal", 80)); err != nil {
		t.Fatal(err)
	}
	read(t, c, 10)
	web := startHTTP(t, m)
	raw(t, web, "CONNECT silent.warren.internal:80 HTTP/1.1\r\nHost: silent.warren.internal:80\r\n\r\n")
}
