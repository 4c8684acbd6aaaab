package publish

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services"
)

var caller = peer.Peer{ID: "p1", Name: "kitchen", Kind: peer.KindSpoke, PublicKey: peer.PublicKey{9}, Owner: "ann", Household: "home",
	V4: netip.MustParseAddr("127.0.0.1"), V6: netip.MustParseAddr("::1")}

func rosterOf(t testing.TB, peers ...peer.Peer) func() *peer.Roster {
	t.Helper()
	r, err := peer.NewRoster(peers)
	if err != nil {
		t.Fatal(err)
	}
	return func() *peer.Roster { return r }
}

// dialLog is a dialer that writes down every address a socket connects to.
type dialLog struct {
	mu    sync.Mutex
	addrs []string
}

func (d *dialLog) dialer() *net.Dialer {
	return &net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.addrs = append(d.addrs, address)
		return nil
	}}
}

func (d *dialLog) seen() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.addrs)
}

// publish serves c on loopback and returns its address.
func publish(t testing.TB, c Config) string {
	t.Helper()
	if c.Name == "" {
		c.Name = "web"
	}
	if c.Hosts == nil {
		c.Hosts = []string{"web.warren.internal", "10.77.0.10"}
	}
	if c.Roster == nil {
		c.Roster = rosterOf(t, caller)
	}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, services.Listeners{TCP: []net.Listener{l}}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return l.Addr().String()
}

func target(t testing.TB, s string) Target {
	t.Helper()
	tg, err := ParseTarget(s)
	if err != nil {
		t.Fatal(err)
	}
	return tg
}

// raw sends bytes and returns all that comes back until the other side closes.
func raw(t testing.TB, addr, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(c)
	return string(b)
}

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		"http://127.0.0.1:8123": "http://127.0.0.1:8123", "HTTP://localhost": "http://localhost:80", "https://nas.example": "https://nas.example:443",
		"tcp://127.0.0.1:22": "tcp://127.0.0.1:22", "http://[::1]:8080/": "http://[::1]:8080", "tcp://[fd12::5]:1": "tcp://[fd12::5]:1",
		"http://192.168.1.5:65535": "http://192.168.1.5:65535", "http://home_assistant:8123": "http://home_assistant:8123", "http://8.8.8.8.example": "http://8.8.8.8.example:80",
	} {
		got, err := ParseTarget(in)
		if err != nil || got.String() != want {
			t.Errorf("%q: %v %v, want %s", in, got, err, want)
		}
		if again, err := ParseTarget(got.String()); err != nil || again != got {
			t.Errorf("%q does not survive its own text", in)
		}
	}
	for in, want := range map[string]string{
		"": "scheme", "127.0.0.1:8123": "scheme", "ftp://127.0.0.1": "http, https or tcp", "unix:///run/x.sock": "unix sockets", "http+unix://x": "unix sockets",
		"http://": "needs a host", "http://:80": "needs a host", "tcp://127.0.0.1": "needs a port", "http://127.0.0.1:": "port",
		"http://127.0.0.1:0": "1 to 65535", "http://127.0.0.1:65536": "1 to 65535", "http://127.0.0.1:-1": "1 to 65535", "http://127.0.0.1:080": "1 to 65535", "http://127.0.0.1:http": "1 to 65535",
		"http://u:p@127.0.0.1": "user name", "http://127.0.0.1/admin": "path", "tcp://127.0.0.1:22/": "path", "http://127.0.0.1?x": "query", "http://127.0.0.1#x": "query",
		"http://127.0.0.1\r\nX: y": "no place", "http://127.0.0.1\\@evil": "no place", "http://exämple": "xn--", "http://１２７.0.0.1": "xn--",
		"http://::1:80": "brackets", "http://[::1": "brackets", "http://[::1]x:80": "brackets", "http://[127.0.0.1]:80": "no IPv6", "http://[fe80::1%25eth0]": "zone", "http://[fe80::1%eth0]": "zone",
		"http://127.1": "in full", "http://0x7f000001": "in full", "http://2130706433": "in full", "http://0177.0.0.1": "in full", "http://127.0.0.0x1": "in full",
		"http://localhost.": "dot at the end", "http://-x": "no host name", "http://a..b": "no host name", "http://" + strings.Repeat("a", 64): "no host name", "http://a$b": "no host name",
		"http://0.0.0.0:80": "every address", "http://[::]:80": "every address", "http://224.0.0.1": "many machines", "http://255.255.255.255": "many machines", "http://[ff02::1]": "many machines",
		"http://[::ffff:127.0.0.1]": "write the address as 127.0.0.1", "http://[64:ff9b::7f00:1]": "hides", "http://[2002:7f00:1::]": "hides",
		"http://" + strings.Repeat("a.", 1<<19): "bytes long",
	} {
		if got, err := ParseTarget(in); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 500 {
			t.Errorf("%.60q: %v %v, want %q", in, got, err, want)
		}
	}
}

// What hands out a machine's credentials is never published, however written.
func TestS01_MetadataTargets(t *testing.T) {
	for _, host := range []string{"169.254.169.254", "[::ffff:169.254.169.254]", "[::169.254.169.254]", "[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]",
		"[2001:db8::5efe:a9fe:a9fe]", "100.100.100.200", "192.0.0.192", "168.63.129.16", "[fd20:ce::254]", "[fe80::a9fe:a9fe]", "metadata.google.internal", "METADATA", "169.254.170.2",
		"0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "169.254.43518", "169.254.169.254."} {
		if got, err := ParseTarget("http://" + host); err == nil {
			t.Errorf("%s was accepted as %v", host, got)
		}
	}
}

// A name is judged by what it resolves to, on the socket that is about to connect.
func TestS02_NameThatLeadsElsewhereIsNotDialled(t *testing.T) {
	var connected atomic.Int64
	p, err := New(Config{Name: "web", Target: target(t, "http://localhost:9"), Hosts: []string{"x"}, Roster: rosterOf(t, caller),
		Overlay: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		Dialer:  &net.Dialer{Control: func(string, string, syscall.RawConn) error { connected.Add(1); return nil }}})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := p.dial(t.Context()); err == nil || !strings.Contains(err.Error(), "inside the mesh") {
		t.Errorf("%v %v", c, err)
	}
	if connected.Load() != 0 {
		t.Error("a socket went on to connect")
	}
}

func TestNewRefuses(t *testing.T) {
	ok := Config{Name: "web", Target: target(t, "http://127.0.0.1:1"), Hosts: []string{"x"}, Roster: rosterOf(t)}
	for name, change := range map[string]func(*Config){
		"no name":   func(c *Config) { c.Name = "" },
		"no target": func(c *Config) { c.Target = Target{} },
		"no roster": func(c *Config) { c.Roster = nil },
		"no hosts":  func(c *Config) { c.Hosts = nil },
		"overlay":   func(c *Config) { c.Overlay = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} },
	} {
		c := ok
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(ok); err != nil {
		t.Error(err)
	}
}

// mesh-peers.md, F 31, and S-05 at the level of the target: whatever a request
// says, the one socket that is opened goes to the one published host and port.
func TestMeshF31_OnlyThePublishedTargetIsDialled(t *testing.T) {
	forbidden, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer forbidden.Close()
	var reached atomic.Int64
	go func() {
		for {
			c, err := forbidden.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			c.Close()
		}
	}()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/redirect" {
			http.Redirect(w, r, "http://"+forbidden.Addr().String()+"/", http.StatusFound)
		}
	}))
	defer web.Close()
	var log dialLog
	addr := publish(t, Config{Target: target(t, web.URL), Dialer: log.dialer()})
	other := forbidden.Addr().String()
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: " + other + "\r\nConnection: close\r\n\r\n", // a loopback host names the caller's own machine
		"GET http://" + other + "/ HTTP/1.1\r\nHost: web.warren.internal\r\nConnection: close\r\n\r\n",
		"GET http://" + other + "/ HTTP/1.1\r\nHost: " + other + "\r\nConnection: close\r\n\r\n",
		"CONNECT " + other + " HTTP/1.1\r\nHost: " + other + "\r\n\r\n",
		"GET //" + other + "/ HTTP/1.1\r\nHost: web.warren.internal\r\nConnection: close\r\n\r\n",
		"GET /@" + other + "/ HTTP/1.1\r\nHost: web.warren.internal\r\nX-Forwarded-Host: " + other + "\r\nConnection: close\r\n\r\n",
		"GET /redirect HTTP/1.1\r\nHost: web.warren.internal\r\nConnection: close\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: [::ffff:127.0.0.1]:5432\r\nConnection: close\r\n\r\n",
	} {
		if answer := raw(t, addr, request); !strings.HasPrefix(answer, "HTTP/1.1 ") {
			t.Errorf("%.40q: %.80q", request, answer)
		}
	}
	want := strings.TrimPrefix(web.URL, "http://")
	for _, a := range log.seen() {
		if a != want {
			t.Errorf("dialled %s", a)
		}
	}
	if len(log.seen()) == 0 || reached.Load() != 0 {
		t.Errorf("dialled %q; the unpublished port was reached %d times", log.seen(), reached.Load())
	}
}

// No target is dialled for somebody who is no active peer.
func TestS05_StrangersDialNothing(t *testing.T) {
	away := caller
	away.Quarantined = true
	for _, scheme := range []string{"http", "tcp"} {
		for name, roster := range map[string]func() *peer.Roster{"unknown": rosterOf(t), "quarantined": rosterOf(t, away), "nobody": func() *peer.Roster { return nil }} {
			var log dialLog
			addr := publish(t, Config{Target: target(t, scheme+"://127.0.0.1:5432"), Dialer: log.dialer(), Roster: roster})
			answer := raw(t, addr, "GET / HTTP/1.1\r\nHost: web.warren.internal\r\nConnection: close\r\n\r\n")
			if scheme == "http" && !strings.HasPrefix(answer, "HTTP/1.1 403 ") || scheme == "tcp" && answer != "" {
				t.Errorf("%s, %s: %.80q", scheme, name, answer)
			}
			if len(log.seen()) != 0 {
				t.Errorf("%s, %s: dialled %q", scheme, name, log.seen())
			}
		}
	}
}

// echoHeaders answers with what the target saw, trailers included.
func echoHeaders(t testing.TB) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "Host=%s\n", r.Host)
		for _, h := range []http.Header{r.Header, r.Trailer} {
			for k, v := range h {
				fmt.Fprintf(w, "%s=%s\n", k, strings.Join(v, "|"))
			}
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}

// mesh-peers.md, F 35: who calls is the hub's word alone.
func TestMeshF35_IdentityHeadersOfClientsAreStripped(t *testing.T) {
	web := echoHeaders(t)
	addr := publish(t, Config{Target: target(t, web.URL)})
	spoofed := []string{
		"X-Warren-Peer", "x-warren-peer", "X-WARREN-PEER", "X_Warren_Peer", "X-Warren_Peer", "x_warren_user", "X.Warren.User", "X-Warren-User", "X-Warren-Tags", "X-Warren-Household", "X-Warren-Anything",
		"X-Warren", "XWarren-Peer", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X_Forwarded_For", "X-Forwarded-Proto", "X-Forwarded-User", "X-Real-Ip", "X_Real_IP", "Remote-User", "X-Remote-User",
		"True-Client-Ip", "Cf-Connecting-Ip", "X-Original-Url", "X-Rewrite-Url", "Proxy", "Tailscale-User-Login", "X-Authentik-Username", "X-Webauth-User",
	}
	request := "POST / HTTP/1.1\r\nHost: web.warren.internal\r\nConnection: close, X-Warren-Peer\r\nTransfer-Encoding: chunked\r\nTrailer: X-Warren-Peer, X-Warren-Admin, X-Fine\r\n"
	for _, name := range spoofed {
		request += name + ": evil\r\n"
	}
	request += "X-Fine: yes\r\n\r\n2\r\nhi\r\n0\r\nX-Warren-Peer: evil\r\nX-Warren-Admin: evil\r\nX_Warren_Peer: evil\r\n\r\n"
	answer := raw(t, addr, request)
	if n := strings.Count(answer, "evil"); n != 1 { // XWarren-Peer resembles nothing
		t.Errorf("%d spoofed values got through:\n%s", n, answer)
	}
	for _, want := range []string{"Host=web.warren.internal\n", "X-Warren-Peer=kitchen\n", "X-Warren-User=ann\n", "X-Warren-Household=home\n", "X-Fine=yes\n", "X-Forwarded-Host=web.warren.internal\n"} {
		if !strings.Contains(answer, want) {
			t.Errorf("missing %q in\n%s", want, answer)
		}
	}
	for _, not := range []string{"X-Warren-Tags", "X-Forwarded-For", "Trailer"} {
		if strings.Contains(answer, not) {
			t.Errorf("%s in\n%s", not, answer)
		}
	}
}

func TestTaggedPeerIsNoLongerItsOwners(t *testing.T) {
	web := echoHeaders(t)
	tagged := caller
	tagged.Tags = []string{"tag:a", "tag:speaker"}
	answer := raw(t, publish(t, Config{Target: target(t, web.URL), Roster: rosterOf(t, tagged)}), "GET / HTTP/1.1\r\nHost: web.warren.internal\r\nConnection: close\r\n\r\n")
	if !strings.Contains(answer, "X-Warren-Tags=tag:a,tag:speaker\n") || strings.Contains(answer, "X-Warren-User") {
		t.Error(answer)
	}
}

func TestTargetDownSaysSo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	answer := raw(t, publish(t, Config{Target: target(t, url)}), "GET / HTTP/1.1\r\nHost: web.warren.internal\r\nConnection: close\r\n\r\n")
	for _, want := range []string{"HTTP/1.1 502 ", `"web" is published`, "connection refused", "Start it there", "nosniff"} {
		if !strings.Contains(answer, want) {
			t.Errorf("missing %q in %q", want, answer)
		}
	}
	if strings.Contains(answer, strings.TrimPrefix(url, "http://")) {
		t.Error("the target's address is told to callers")
	}
}

func TestStreamsFlushAtOnce(t *testing.T) {
	more := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			<-more
		}
	}))
	defer web.Close()
	res, err := http.Get("http://" + publish(t, Config{Target: target(t, web.URL)}))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	for i := range 3 {
		// The next piece is not made before this one has arrived here.
		if line, err := r.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("%q %v", line, err)
		}
		_, _ = r.ReadString('\n')
		more <- struct{}{}
	}
}

func TestWebSocketUpgrade(t *testing.T) {
	ended := make(chan struct{})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("X-Warren-Peer") != "kitchen" {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer close(ended)
		defer c.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(c, rw)
	}))
	defer web.Close()
	c, err := net.Dial("tcp", publish(t, Config{Target: target(t, web.URL)}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: web.warren.internal\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res, err)
	}
	for _, word := range []string{"hello", "again"} {
		_, _ = io.WriteString(c, word)
		got := make([]byte, len(word))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != word {
			t.Fatalf("%q %v", got, err)
		}
	}
	c.Close()
	<-ended // the target notices
}

// F 35 again: an upgrade to anything but WebSocket would let the caller speak
// to the target unheard, and say who it is.
func TestMeshF35_NoOtherUpgrades(t *testing.T) {
	web := echoHeaders(t)
	addr := publish(t, Config{Target: target(t, web.URL)})
	for _, upgrade := range []string{"Upgrade: h2c", "Upgrade: h2c\r\nUpgrade: websocket", "Upgrade: websocket, h2c", "Upgrade: TLS/1.0", "Upgrade: websocket\r\nUpgrade: h2c", "upgrade: H2C"} {
		answer := raw(t, addr, "GET / HTTP/1.1\r\nHost: web.warren.internal\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"+upgrade+"\r\n\r\n"+
			"GET /end HTTP/1.1\r\nHost: web.warren.internal\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(answer, "HTTP/1.1 200 ") || strings.Contains(answer, "\nUpgrade=") || strings.Contains(answer, "Settings=") {
			t.Errorf("%q: %s", upgrade, answer)
		}
	}
}

func TestRedirectToTheTargetIsMended(t *testing.T) {
	var web *httptest.Server
	web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", web.URL+"/login?x=1")
		w.WriteHeader(http.StatusFound)
	}))
	defer web.Close()
	answer := raw(t, publish(t, Config{Target: target(t, web.URL)}), "GET / HTTP/1.1\r\nHost: web.warren.internal\r\nConnection: close\r\n\r\n")
	if !strings.Contains(answer, "Location: http://web.warren.internal/login?x=1\r\n") {
		t.Error(answer)
	}
}

func TestHTTPSTarget(t *testing.T) {
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "secret") }))
	defer web.Close()
	answer := raw(t, publish(t, Config{Target: target(t, web.URL)}), "GET / HTTP/1.1\r\nHost: web.warren.internal\r\nConnection: close\r\n\r\n")
	if !strings.Contains(answer, "secret") {
		t.Error(answer)
	}
	// A name needs a certificate that is good for it.
	named := strings.Replace(web.URL, "127.0.0.1", "localhost", 1)
	answer = raw(t, publish(t, Config{Target: target(t, named)}), "GET / HTTP/1.1\r\nHost: web.warren.internal\r\nConnection: close\r\n\r\n")
	if !strings.Contains(answer, "HTTP/1.1 502 ") || strings.Contains(answer, "secret") {
		t.Error(answer)
	}
}

func TestTCPHalfClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		question, _ := io.ReadAll(c) // needs the end of the question to come through
		_, _ = c.Write(bytes.ToUpper(question))
	}()
	c, err := net.Dial("tcp", publish(t, Config{Target: target(t, "tcp://"+l.Addr().String())}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	big := strings.Repeat("half-close ", 100_000)
	go func() {
		_, _ = io.WriteString(c, big)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	answer, err := io.ReadAll(c)
	if err != nil || string(answer) != strings.ToUpper(big) {
		t.Errorf("%d bytes, %v", len(answer), err)
	}
}

func TestTCPPerPeerLimit(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	second := peer.Peer{ID: "p2", Name: "porch", Kind: peer.KindSpoke, PublicKey: peer.PublicKey{8}, V4: netip.MustParseAddr("127.0.0.2"), V6: netip.MustParseAddr("::2")}
	addr := publish(t, Config{Target: target(t, "tcp://"+l.Addr().String()), Roster: rosterOf(t, caller, second)})
	echo := func(c net.Conn) error {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range services.MaxConns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		if err := echo(c); err != nil {
			t.Fatal(err)
		}
	}
	over, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	if err := echo(over); err == nil {
		t.Error("one connection too many was served")
	}
	// Another peer is not affected, and a place that becomes free is given again.
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	other, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := echo(other); err != nil {
		t.Errorf("another peer: %v", err)
	}
	open[0].Close()
	for {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		err = echo(c)
		c.Close()
		if err == nil {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("a place was not given back")
		}
	}
}

func TestServeEndsWhileConnectionsAreOpen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			accepted <- c
		}
	}()
	p, err := New(Config{Name: "x", Target: target(t, "tcp://"+l.Addr().String()), Roster: rosterOf(t, caller)})
	if err != nil {
		t.Fatal(err)
	}
	n := services.Network{Listen: func(netip.AddrPort) (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }}
	var addr string
	inner := n.Listen
	n.Listen = func(ap netip.AddrPort) (net.Listener, error) {
		l, err := inner(ap)
		if err == nil {
			addr = l.Addr().String()
		}
		return l, err
	}
	r, err := services.Start(t.Context(), n, p.Service(), netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	behind := <-accepted
	defer behind.Close()
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
	for _, end := range []net.Conn{c, behind} {
		_ = end.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := end.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("still open: %v", err)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"http://127.0.0.1:8123", "tcp://[::1]:22", "https://nas.example", "http://[::ffff:1.2.3.4]:1", "http://0x7f.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTarget(s)
		if err != nil {
			if got != (Target{}) {
				t.Errorf("%q: a target beside an error", s)
			}
			return
		}
		again, err := ParseTarget(got.String())
		if err != nil || again != got {
			t.Errorf("%q reads as %v, and that as %v, %v", s, got, again, err)
		}
		if a, err := netip.ParseAddr(got.Host); err == nil && services.Metadata(a) {
			t.Errorf("%q leads to %v", s, a)
		}
	})
}
