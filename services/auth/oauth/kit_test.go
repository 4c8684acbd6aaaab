package oauth_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/auth"
	"github.com/warrenmesh/warren/services/auth/oauth"
	"github.com/warrenmesh/warren/services/router"
)

const (
	issuer   = "https://auth.warren.internal"
	password = "correct horse battery"
	// verifier is a PKCE verifier of the least length.
	verifier = "0123456789-abcdefghijklmnopqrstuvwxyz.ABC~_"
)

func TestMain(m *testing.M) {
	// The library writes to the default logger.
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// kit is the authorization server on a real store and the real account service,
// behind a real gate, over HTTPS. Which machine calls says a header that only
// the test's clients send, where the tunnel's address would say it.
type kit struct {
	*testing.T
	mu    sync.Mutex
	at    time.Time
	log   logText
	store *store.Store
	// accounts are what the authorization server sees of it.
	accounts account.Store
	auth     *auth.Service
	table    *router.Router
	roster   atomic.Pointer[peer.Roster]
	server   *httptest.Server
	ann      account.User
	home     account.Household

	public, other, own account.Client // public; another public; first-party
	secret             account.Client // confidential, with
	secretText         string
	device             account.Client
}

const callback = "http://127.0.0.1/done"

func newKit(t *testing.T) *kit { return newKitOn(t, storetest.Config(t)) }

func newKitOn(t *testing.T, cfg store.Config) *kit {
	t.Helper()
	k := &kit{T: t, at: time.Now()}
	cfg.Now = k.now
	k.store = storetest.Create(t, cfg)
	k.accounts = k.store.Accounts()
	var peers []peer.Peer
	for i, name := range []string{"ann-laptop", "bob-phone", "kitchen", "stt"} {
		peers = append(peers, peer.Peer{
			ID: peer.ID("id-" + name), Name: name, Kind: peer.KindSpoke, PublicKey: peer.PublicKey{byte(i + 1), 7},
			V4: netip.AddrFrom4([4]byte{10, 77, 1, byte(i + 1)}), V6: netip.AddrFrom16([16]byte{0xfd, 15: byte(i + 1)}),
		})
	}
	k.setRoster(peers)
	k.open()
	var err error
	k.ann, err = k.auth.CreateUser(t.Context(), "hub", auth.NewUser{Email: "ann@example.org", Username: "ann", Password: password})
	k.ok(err)
	k.home, err = k.auth.CreateHousehold(t.Context(), "hub", "Home", "", k.ann.ID)
	k.ok(err)
	client := func(n auth.NewClient) (account.Client, string) {
		c, secret, err := k.auth.CreateClient(t.Context(), "hub", n)
		k.ok(err)
		return c, secret
	}
	k.public, _ = client(auth.NewClient{Name: "Lamps <3", Redirects: []string{callback, "http://[::1]:8080/cb", "https://app.example.org/cb?a=b", "org.example.lamps:/done"}})
	k.other, _ = client(auth.NewClient{Name: "Other", Redirects: []string{callback}})
	k.own, _ = client(auth.NewClient{Name: "Console", Redirects: []string{"https://console.warren.internal/cb"}, FirstParty: true})
	k.secret, k.secretText = client(auth.NewClient{Name: "Notes", Redirects: []string{"https://notes.example.org/cb"}, Confidential: true})
	k.device, _ = client(auth.NewClient{Name: "Speaker", Device: true})
	return k
}

func (k *kit) setRoster(peers []peer.Peer) {
	r, err := peer.NewRoster(peers)
	k.ok(err)
	k.roster.Store(r)
}

// open starts the services on the store, as a hub does.
func (k *kit) open() {
	k.Helper()
	live := services.NewLive()
	var err error
	k.auth, err = auth.New(k.Context(), auth.Config{
		Store: k.store.Accounts(), Data: k.store.Data(), Roster: k.roster.Load, Issuer: issuer, Live: live, Now: k.now,
		Passwords: auth.PasswordParams{Memory: 64, Passes: 1, Lanes: 1},
	})
	k.ok(err)
	s, err := oauth.New(oauth.Config{Store: k.accounts, Accounts: k.auth, Roster: k.roster.Load, Issuer: issuer, Now: k.now, Logger: slog.New(slog.NewTextHandler(&k.log, nil))})
	k.ok(err)
	k.Cleanup(func() {
		if k.Failed() {
			k.Logf("the server's log:\n%s", k.log.String())
		}
	})
	gate := services.NewGate(services.GateConfig{
		Service: "auth", Authority: k.auth.Authority(), Roster: k.roster.Load, Limit: unlimited{}, Live: live,
		Grants: func(peer.Peer, string) map[string][]json.RawMessage { return nil },
	})
	k.table = router.New(router.Config{Service: "auth", Title: "accounts", Version: "1", Gate: gate})
	s.Register(k.table)
	router.Raw(k.table, router.Route{
		Method: http.MethodGet, Path: "/opened", Summary: "A route for people.", Need: services.Requirement{Any: []services.Credential{services.AsUser}}, Tenant: "has no data",
	}, func(w http.ResponseWriter, _ *http.Request, c *services.Caller) {
		_, _ = w.Write([]byte(`{"sub":"` + c.User.ID.String() + `"}`))
	})
	k.ok(k.table.Check())
	k.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p, ok := k.roster.Load().ByName(r.Header.Get("Test-Peer")); ok {
			r = r.WithContext(peer.NewContext(r.Context(), p))
		}
		k.table.ServeHTTP(w, r)
	}))
	k.Cleanup(k.server.Close)
}

// logText is what was logged.
type logText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

type unlimited struct{}

func (unlimited) Take(context.Context, string, ...services.Rate) (services.Allowance, error) {
	return services.Allowance{Allowed: true, Limit: services.Rate{Events: 1, Per: time.Second}}, nil
}

func (k *kit) now() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.at
}

func (k *kit) pass(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at = k.at.Add(d)
}

func (k *kit) ok(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

// from sends every request as one machine, whatever the host's name resolves to.
type from struct {
	peer string
	next http.RoundTripper
}

func (f from) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Test-Peer", f.peer)
	return f.next.RoundTrip(r)
}

// client is an HTTP client on a machine, with cookies. It follows redirects
// within the server and stops at those that lead to a client.
func (k *kit) client(machine string) *http.Client {
	jar, err := cookiejar.New(nil)
	k.ok(err)
	roots := k.server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	next := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com"}, // the test certificate's name
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, k.server.Listener.Addr().String())
		},
	}
	k.Cleanup(next.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: from{machine, next}, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Host != strings.TrimPrefix(issuer, "https://") {
			return http.ErrUseLastResponse
		}
		return nil
	}}
}

// page is what a browser shows: where it is and what it got.
type page struct {
	k      *kit
	http   *http.Client
	code   int
	header http.Header
	text   string
	at     *url.URL
}

func (k *kit) browse(machine, path string) *page {
	k.Helper()
	p := &page{k: k, http: k.client(machine)}
	return p.get(issuer + path)
}

func (p *page) get(address string) *page {
	p.k.Helper()
	resp, err := p.http.Get(address)
	return p.shows(resp, err)
}

func (p *page) shows(resp *http.Response, err error) *page {
	p.k.Helper()
	p.k.ok(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	p.k.ok(err)
	return &page{p.k, p.http, resp.StatusCode, resp.Header, string(text), resp.Request.URL}
}

var (
	formAt = regexp.MustCompile(`<form method="post" action="([^"]+)">`)
	hidden = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)">`)
)

// fields are what the page's form sends by itself.
func (p *page) fields() url.Values {
	v := url.Values{}
	for _, m := range hidden.FindAllStringSubmatch(p.text, -1) {
		v.Set(m[1], html.UnescapeString(m[2]))
	}
	return v
}

// submit fills in the page's form and sends it.
func (p *page) submit(pairs ...string) *page {
	p.k.Helper()
	m := formAt.FindStringSubmatch(p.text)
	if m == nil {
		p.k.Fatalf("%d without a form: %s", p.code, p.text)
	}
	v := p.fields()
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return p.post(m[1], v)
}

func (p *page) post(path string, v url.Values) *page {
	p.k.Helper()
	resp, err := p.http.PostForm(issuer+path, v)
	return p.shows(resp, err)
}

// answer is what a redirect tells the client.
func (p *page) answer() url.Values {
	p.k.Helper()
	u, err := url.Parse(p.header.Get("Location"))
	if err != nil || p.code != http.StatusSeeOther {
		p.k.Fatalf("%d is no redirect to a client: %s", p.code, p.text)
	}
	return u.Query()
}

// signIn goes through the pages as ann.
func (p *page) signIn() *page {
	p.k.Helper()
	return p.submit("email", "ann@example.org", "password", password)
}

func s256(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// request is a good authorization request of a client; pairs change it, an
// empty value takes the parameter away.
func request(c account.Client, redirect string, pairs ...string) string {
	v := url.Values{
		"response_type": {"code"}, "client_id": {c.ID}, "redirect_uri": {redirect}, "scope": {"openid warren"}, "state": {"s1"},
		"code_challenge": {s256(verifier)}, "code_challenge_method": {"S256"},
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
		if pairs[i+1] == "" {
			v.Del(pairs[i])
		}
	}
	return "/oauth/authorize?" + v.Encode()
}

// code gets a code for ann on a machine.
func (k *kit) code(machine string, c account.Client, redirect string) string {
	k.Helper()
	p := k.browse(machine, request(c, redirect)).signIn()
	if !c.FirstParty {
		p = p.submit("decision", "allow")
	}
	code := p.answer().Get("code")
	if code == "" {
		k.Fatalf("no code: %v", p.answer())
	}
	return code
}
