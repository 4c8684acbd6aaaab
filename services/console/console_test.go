package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func machine(id int, name, owner string) peer.Peer {
	return peer.Peer{ID: peer.ID(fmt.Sprint("p", id)), Name: name, Owner: owner, Household: "home", Kind: peer.KindSpoke, PublicKey: peer.PublicKey{byte(id + 8)},
		V4: netip.AddrFrom4([4]byte{10, 77, 1, byte(id)}), V6: netip.AddrFrom16([16]byte{0xfd, 0x3a, 0x91, 0x0c, 0x52, 0xee, 0x7b, 0x04, 14: 1, 15: byte(id)})}
}

func sample() Page {
	laptop, kitchen, phone, gpu, old, visitor := machine(1, "laptop", "ann"), machine(2, "kitchen-pi", "ann"), machine(3, "bobs-phone", "bob"), machine(4, "gpu-box", "ann"), machine(5, "old-tablet", "bob"), machine(6, "visitor", "")
	kitchen.Tags = []string{"tag:speaker"}
	phone.Kind = peer.KindPhone
	old.Quarantined = true
	visitor.Kind = peer.KindInvite
	return Page{
		You: laptop, Now: now, Started: now.Add(-50 * time.Hour), Endpoint: "hub.example.org:51820", Domain: "warren.internal", Generation: 7,
		Peers: []Peer{
			{Peer: old, Handshake: now.Add(-72 * time.Hour), RxBytes: 12, TxBytes: 999_499},
			{Peer: phone, Handshake: now.Add(-40 * time.Minute), RxBytes: 5_400_000, TxBytes: 88_000_000, Refused: 14},
			{Peer: kitchen, Handshake: now.Add(-80 * time.Second), RxBytes: 712_000_000, TxBytes: 41_000_000},
			{Peer: laptop, Handshake: now.Add(-3 * time.Second), RxBytes: 1_230_000, TxBytes: 9_870_000_000},
			{Peer: gpu, Handshake: now.Add(-100 * time.Second), RxBytes: 45_000_000_000, TxBytes: 2_100_000_000},
			{Peer: visitor},
		},
		Services: []Service{
			{Name: "console", FQDN: "console.warren.internal", Addrs: []netip.Addr{netip.MustParseAddr("10.77.0.4")}, Ports: []string{"tcp:80"}, Host: "hub"},
			{Name: "dns", FQDN: "dns.warren.internal", Addrs: []netip.Addr{netip.MustParseAddr("10.77.0.53")}, Ports: []string{"udp:53", "tcp:53"}, Host: "hub"},
			{Name: "ha", FQDN: "ha.warren.internal", Addrs: []netip.Addr{netip.MustParseAddr("10.77.0.10")}, Ports: []string{"tcp:80"}, Host: "hub", Note: "not running; the hub's log says why"},
			{Name: "llm", FQDN: "llm.warren.internal", Addrs: []netip.Addr{netip.MustParseAddr("10.77.1.4")}, Ports: []string{"tcp:8080"}, Host: "gpu-box"},
		},
		Refused: []Refusal{
			{"bobs-phone", "console:80/tcp", "no rule allows it", 13, now.Add(-2 * time.Minute)},
			{"bobs-phone", "kitchen-pi:22/tcp", "no rule allows it", 1, now.Add(-26 * time.Hour)},
		},
	}
}

func showing(p Page) http.Handler {
	return Handler(Config{Status: func(context.Context, peer.Peer) (Page, error) { return p, nil }})
}

func do(h http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, nil)
	h.ServeHTTP(w, r.WithContext(peer.NewContext(r.Context(), machine(1, "laptop", "ann"))))
	return w
}

func TestPageSaysWhoIsHere(t *testing.T) {
	body := do(showing(sample()), "GET", "/").Body.String()
	for _, want := range []string{"You are <strong>laptop</strong>", "generation 7", "2 days", "hub.example.org:51820", "3 <span class=\"dim\">of 5</span>",
		"kitchen-pi", "tag:speaker", "1 min ago", "40 min ago", "3 days ago", "quarantined", "invited", "9.9 GB", "712 MB", "999 kB", "no rule allows it", "13 times, last 2 min ago", "once, last 26 h ago",
		`<a href="http://ha.warren.internal/">`, "not running", "on gpu-box"} {
		if !strings.Contains(body, want) {
			t.Errorf("missing %q", want)
		}
	}
	if strings.Contains(body, "http://llm.") || strings.Contains(body, "<script") {
		t.Error("a link to what is no page, or a script")
	}
	if me, other := strings.Index(body, "<strong>laptop</strong> "), strings.Index(body, "<strong>bobs-phone</strong>"); me > other {
		t.Error("the caller does not come first")
	}
	empty := do(showing(Page{You: machine(1, "laptop", ""), Now: now, Recovery: "the policy cannot be read"}), "GET", "/").Body.String()
	for _, want := range []string{"Nobody has joined yet", "Nothing is published", "Nothing was refused", "the policy cannot be read"} {
		if !strings.Contains(empty, want) {
			t.Errorf("empty page: missing %q", want)
		}
	}
}

func TestStatusAsJSON(t *testing.T) {
	w := do(showing(sample()), "GET", "/api/status")
	var got Page
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.You.Name != "laptop" || len(got.Peers) != 6 || got.Peers[3].TxBytes != 9_870_000_000 || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%v %+v", err, got)
	}
}

// H-05: every answer, errors included, carries the headers; names are inert.
func TestH05_Headers(t *testing.T) {
	fail := Handler(Config{Status: func(context.Context, peer.Peer) (Page, error) { return Page{}, errors.New("secret cause") }})
	nobody := httptest.NewRecorder()
	showing(sample()).ServeHTTP(nobody, httptest.NewRequest("GET", "/", nil))
	foreign := httptest.NewRecorder()
	services.AllowHosts([]string{"console.warren.internal"}, showing(sample())).ServeHTTP(foreign, httptest.NewRequest("GET", "/", nil))
	for name, tt := range map[string]struct {
		w      *httptest.ResponseRecorder
		status int
	}{
		"page": {do(showing(sample()), "GET", "/"), 200}, "json": {do(showing(sample()), "GET", "/api/status"), 200}, "style": {do(showing(sample()), "GET", "/style.css"), 200},
		"icon": {do(showing(sample()), "GET", "/icon.svg"), 200}, "head": {do(showing(sample()), "HEAD", "/"), 200},
		"nothing": {do(showing(sample()), "GET", "/nothing"), 404}, "traversal": {do(showing(sample()), "GET", "/../console.go"), 404}, "source": {do(showing(sample()), "GET", "/page.html"), 404},
		"post": {do(showing(sample()), "POST", "/"), 405}, "delete": {do(showing(sample()), "DELETE", "/api/status"), 405}, "options": {do(showing(sample()), "OPTIONS", "/"), 405},
		"failing": {do(fail, "GET", "/"), 500}, "failing json": {do(fail, "GET", "/api/status"), 500}, "no status": {do(Handler(Config{}), "GET", "/"), 500},
		"nobody": {nobody, 403}, "foreign host": {foreign, 421},
	} {
		if tt.w.Code != tt.status {
			t.Errorf("%s: %d, want %d", name, tt.w.Code, tt.status)
		}
		h := tt.w.Header()
		for k, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin"} {
			if h.Get(k) != want {
				t.Errorf("%s: %s is %q", name, k, h.Get(k))
			}
		}
		csp := h.Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none'; ") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "script-src") {
			t.Errorf("%s: CSP %q", name, csp)
		}
		if h.Get("Access-Control-Allow-Origin") != "" || h.Get("Cache-Control") == "" || h.Get("Content-Type") == "" {
			t.Errorf("%s: %v", name, h)
		}
		if strings.Contains(tt.w.Body.String(), "secret cause") {
			t.Errorf("%s: the cause is told", name)
		}
	}
}

func TestH05_NamesAreInert(t *testing.T) {
	evil := []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `{{.Peers}}`, `{{template "x"}}`, `javascript:alert(1)`, `</title><script>x`, `</style><script>x`, `--><script>`,
		"\u202egnp.exe", "\u2066abc\u2069", "zero\u200bwidth", "nul\x00", "line\nbreak", "bad\xff\xfeutf8", "Z\u0351\u036b\u0343algo", strings.Repeat("A", 1<<20), "`${x}`", "&lt;b&gt;",
	}
	allowed := map[string]bool{}
	clean := do(showing(sample()), "GET", "/").Body.String()
	tags(t, clean, func(tag, attr, _ string) { allowed[tag+" "+attr] = true })
	for _, name := range evil {
		p := sample()
		m := machine(9, name, name)
		m.Household, m.Tags = name, []string{name}
		p.You, p.Endpoint, p.Domain, p.Recovery, p.Problems = m, name, name, name, []string{name}
		p.Peers = append(p.Peers, Peer{Peer: m})
		p.Services = append(p.Services, Service{Name: name, FQDN: name, Ports: []string{"tcp:80", name}, Host: name, Note: name})
		p.Refused = append(p.Refused, Refusal{Src: name, Dst: name, Why: name, Last: now})
		w := do(showing(p), "GET", "/")
		body := w.Body.String()
		if w.Code != 200 || len(body) > 100_000+len(clean) && name[0] != 'A' || len(body) > 1<<20+100_000 {
			t.Errorf("%.40q: %d, %d bytes", name, w.Code, len(body))
		}
		tags(t, body, func(tag, attr, value string) {
			if !allowed[tag+" "+attr] && tag != "section" && attr != "role" {
				t.Errorf("%.40q made <%s %s>", name, tag, attr)
			}
			if attr == "href" && !strings.HasPrefix(value, "http://") && !strings.HasPrefix(value, "/") {
				t.Errorf("%.40q made a link to %.60q", name, value)
			}
		})
		for _, r := range "\u202e\u2066\u2069\u200b\x00\u0351" {
			if strings.ContainsRune(body, r) {
				t.Errorf("%.40q: %U is in the page", name, r)
			}
		}
	}
}

// tags calls f for each attribute of each element of the page.
func tags(t *testing.T, page string, f func(tag, attr, value string)) {
	t.Helper()
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			return
		case html.StartTagToken, html.SelfClosingTagToken:
			token := z.Token()
			f(token.Data, "", "")
			for _, a := range token.Attr {
				f(token.Data, a.Key, a.Val)
			}
		}
	}
}

func TestManyPeersAreCutDown(t *testing.T) {
	p := sample()
	for i := range 3 * maxRows {
		m := machine(7, fmt.Sprint("m", i), "bob")
		m.ID = peer.ID(m.Name)
		p.Peers = append(p.Peers, Peer{Peer: m})
	}
	body := do(showing(p), "GET", "/").Body.String()
	if n := strings.Count(body, "<tr class="); n != maxRows || !strings.Contains(body, "and 1006 more") {
		t.Errorf("%d rows", n)
	}
}

func TestD06_AFewPagesAtATime(t *testing.T) {
	enter, leave := make(chan struct{}, 100), make(chan struct{})
	h := Handler(Config{Status: func(context.Context, peer.Peer) (Page, error) {
		enter <- struct{}{}
		<-leave
		return sample(), nil
	}})
	done := make(chan int, 3*maxAsking)
	for range 3 * maxAsking {
		go func() { done <- do(h, "GET", "/").Code }()
	}
	for range maxAsking {
		<-enter
	}
	select {
	case <-enter:
		t.Error("one more was put together")
	case <-time.After(20 * time.Millisecond): // a wrong one more would have come at once
	}
	close(leave)
	for range 3 * maxAsking {
		if code := <-done; code != 200 {
			t.Error(code)
		}
	}
}

// The page through the real server: identity from the address, host checked.
func TestThroughTheServer(t *testing.T) {
	me := machine(1, "laptop", "ann")
	me.V4 = netip.MustParseAddr("127.0.0.1")
	roster, err := peer.NewRoster([]peer.Peer{me})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	h := Handler(Config{Status: func(_ context.Context, p peer.Peer) (Page, error) { return Page{You: p, Now: now}, nil }})
	srv := services.NewServer(services.ServerConfig{Handler: h, Roster: func() *peer.Roster { return roster }, Hosts: []string{"console.warren.internal"}})
	go func() { done <- services.ServeHTTP(ctx, srv, services.Listeners{TCP: []net.Listener{l}}) }()
	res, err := http.Get("http://" + l.Addr().String() + "/api/status")
	if err != nil {
		t.Fatal(err)
	}
	var got Page
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil || got.You.Name != "laptop" {
		t.Error(err, got.You)
	}
	res.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
