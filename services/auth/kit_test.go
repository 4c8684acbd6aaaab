package auth

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
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
	"github.com/warrenmesh/warren/services/router"
)

// clock is a clock that stands still until it is moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// kit is the account service on a real store, behind a real gate and router,
// with machines that call it from their own addresses and a clock of its own.
// ann has a laptop and a tablet, bob a phone; the others are nobody's.
type kit struct {
	*testing.T
	clock  *clock
	path   string // of the store
	store  *store.Store
	cfg    Config
	s      *Service
	live   *services.Live
	roster atomic.Pointer[peer.Roster]
	http   http.Handler
}

// secretWord is the password of everybody here.
const secretWord = "correct horse battery"

func cheap() PasswordParams { return PasswordParams{Memory: 64, Passes: 1, Lanes: 1} }

// newKit returns one with the service as change, if it is not nil, wants it.
func newKit(t *testing.T, change func(*Config)) *kit {
	t.Helper()
	return newKitOn(t, storetest.Config(t), change)
}

// newKitOn is newKit on a store of a test's choosing.
func newKitOn(t *testing.T, cfg store.Config, change func(*Config)) *kit {
	t.Helper()
	k := &kit{T: t, path: cfg.Path, clock: &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}, live: services.NewLive()}
	cfg.Now = k.clock.now
	k.store = storetest.Create(t, cfg)
	k.machines("ann-laptop", "ann-tablet", "bob-phone", "thief", "box")
	k.cfg = Config{
		Store: k.store.Accounts(), Data: k.store.Data(), Roster: k.roster.Load, Issuer: "https://auth.warren.internal", Live: k.live,
		Admin: func(p peer.Peer) bool { return p.Name == "ann-laptop" }, Passwords: cheap(), Now: k.clock.now,
	}
	if change != nil {
		change(&k.cfg)
	}
	k.s, k.http = k.open(k.cfg)
	return k
}

// machines makes the roster: one machine for each name, owned by whom the part
// before the dash names if that is ann or bob.
func (k *kit) machines(names ...string) {
	k.Helper()
	var peers []peer.Peer
	for i, name := range names {
		owner, _, _ := strings.Cut(name, "-")
		if owner != "ann" && owner != "bob" {
			owner = ""
		}
		peers = append(peers, peer.Peer{
			ID: peer.ID("id-" + name), Name: name, Kind: peer.KindSpoke, Owner: owner, PublicKey: peer.PublicKey{byte(i + 1), byte((i + 1) >> 8), 9},
			V4: netip.AddrFrom4([4]byte{10, 77, byte(i>>8) + 1, byte(i)}), V6: netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}),
		})
	}
	k.setRoster(peers...)
}

func (k *kit) setRoster(peers ...peer.Peer) {
	k.Helper()
	r, err := peer.NewRoster(peers)
	k.ok(err)
	k.roster.Store(r)
}

// open starts a service on the kit's store, as another hub or after a restart.
func (k *kit) open(cfg Config) (*Service, http.Handler) {
	k.Helper()
	s, err := New(k.Context(), cfg)
	k.ok(err)
	gate := services.NewGate(services.GateConfig{
		Service: Self, Authority: s.Authority(), Roster: k.roster.Load, Limit: noLimit{}, Live: k.live, Access: s.Access,
		Grants: func(peer.Peer, string) map[string][]json.RawMessage { return nil },
	})
	r := router.New(router.Config{Service: Self, Title: "accounts", Version: "1", Gate: gate})
	s.Register(r)
	k.ok(r.Check())
	return s, services.Identify(k.roster.Load, r)
}

func (k *kit) ok(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

func (k *kit) peer(name string) peer.Peer {
	k.Helper()
	p, ok := k.roster.Load().ByName(name)
	if !ok {
		k.Fatalf("no machine %s", name)
	}
	return p
}

// reply is what came back.
type reply struct {
	code   int
	header http.Header
	text   string
}

// get decodes a reply with the wanted status into a T.
func get[T any](k *kit, r reply, code int) (v T) {
	k.Helper()
	if r.code != code {
		k.Fatalf("%d %.300s, want %d", r.code, r.text, code)
	}
	if err := json.Unmarshal([]byte(r.text), &v); err != nil {
		k.Fatalf("%d %.300s: %v", r.code, r.text, err)
	}
	return v
}

// want compares status and, unless it is "", a part of the reply.
func (k *kit) want(r reply, code int, part string) reply {
	k.Helper()
	if r.code != code || !strings.Contains(r.text, part) {
		k.Errorf("%d %.300s, want %d with %q", r.code, r.text, code, part)
	}
	return r
}

// call sends a request from a machine's address. bearer may be ""; body is
// marshalled unless it is nil.
func (k *kit) call(machine, method, path, bearer string, body any) reply {
	k.Helper()
	return k.callOn(k.http, machine, method, path, bearer, body)
}

func (k *kit) callOn(h http.Handler, machine, method, path, bearer string, body any) reply {
	k.Helper()
	var r io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		k.ok(err)
		r = strings.NewReader(string(text))
	}
	req := httptest.NewRequestWithContext(k.Context(), method, path, r)
	req.RemoteAddr = netip.AddrPortFrom(k.peer(machine).V4, 40000).String()
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return reply{w.Code, w.Header(), strings.TrimSpace(w.Body.String())}
}

// fields is a JSON object.
type fields map[string]any

// setUp makes ann, the superuser, with the household Home, and bob, who lives
// alone in Bobs. It returns ann's first tokens, on her laptop.
func (k *kit) setUp() registerOut {
	k.Helper()
	first := get[registerOut](k, k.call("ann-laptop", "POST", "/auth/setup", "", fields{"email": "ann@example.org", "username": "ann", "password": secretWord}), 201)
	bob, err := k.s.CreateUser(k.Context(), "hub", NewUser{Email: "bob@example.org", Username: "bob", Password: secretWord})
	k.ok(err)
	_, err = k.s.CreateHousehold(k.Context(), "hub", "Bobs", "", bob.ID)
	k.ok(err)
	return first
}

// signIn signs somebody in with everybody's password.
func (k *kit) signIn(name, machine string) loginOut {
	k.Helper()
	return get[loginOut](k, k.login(machine, name, secretWord), 200)
}

func (k *kit) login(machine, name, password string) reply {
	k.Helper()
	return k.call(machine, "POST", "/auth/login", "", fields{"email": name + "@example.org", "password": password})
}

func (k *kit) view(fn func(account.Tx) error) {
	k.Helper()
	k.ok(k.cfg.Store.View(k.Context(), fn))
}

// audited counts the entries of the audit log with an action.
func (k *kit) audited(action string) (n int) {
	k.Helper()
	k.ok(k.store.View(k.Context(), func(tx *store.Tx) error {
		all, err := tx.AuditEntries(0, 10_000)
		for _, e := range all {
			if e.Action == action {
				n++
			}
		}
		return err
	}))
	return n
}
