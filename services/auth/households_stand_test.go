package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// stand is two households on a real store, behind real gates: ann is the admin
// of the first and a superuser, amy a power user and al a member there; bob is
// the admin of the second. Each has a machine of their own.
type stand struct {
	*testing.T
	s       *Service
	store   account.Store
	live    *services.Live
	gate    *services.Gate
	router  *router.Router
	roster  atomic.Pointer[peer.Roster]
	later   atomic.Int64 // how far the clock is ahead, ns
	h1, h2  account.HouseholdID
	users   map[string]account.UserID
	tokens  map[string]string // by person
	admin   string            // an admin key, bound to ann-laptop
	app     string            // key of the app "cc" of all households, on the machine "box"
	limited string            // key of the app "small" of the first household only, on "box"
	node    string            // key of the node "kitchen" of the first household
	other   string            // key of the node "attic" of the second household
}

type noLimit struct{}

func (noLimit) Take(context.Context, string, ...services.Rate) (services.Allowance, error) {
	return services.Allowance{Allowed: true, Limit: services.Rate{Events: 1, Per: time.Second}}, nil
}

func newStand(t *testing.T) *stand {
	t.Helper()
	k := &stand{T: t, live: services.NewLive(), users: map[string]account.UserID{}, tokens: map[string]string{}}
	cfg := storetest.Config(t)
	cfg.Now = k.now
	st := storetest.Create(t, cfg)
	k.store = st.Accounts()
	var peers []peer.Peer
	for i, name := range []string{"ann-laptop", "amy-phone", "al-phone", "bob-phone", "box", "kitchen", "attic", "thief"} {
		p := peer.Peer{ID: peer.ID("id-" + name), Name: name, Kind: peer.KindSpoke, PublicKey: peer.PublicKey{byte(i + 1)},
			V4: netip.AddrFrom4([4]byte{10, 77, 1, byte(i + 1)}), V6: netip.AddrFrom16([16]byte{0xfd, 15: byte(i + 1)})}
		peers = append(peers, p)
	}
	k.setPeers(peers...)
	s, err := New(t.Context(), Config{
		Store: st.Accounts(), Data: st.Data(), Roster: k.roster.Load, Issuer: "https://auth.warren.internal", Live: k.live, Now: k.now,
		Passwords: PasswordParams{Memory: 64, Passes: 1, Lanes: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	k.s = s
	k.gate = services.NewGate(services.GateConfig{
		Service: Self, Authority: s.Authority(), Roster: k.roster.Load, Limit: noLimit{}, Live: k.live,
		Grants: func(peer.Peer, string) map[string][]json.RawMessage { return nil },
	})
	k.router = router.New(router.Config{Service: Self, Title: "accounts", Version: "1", Gate: k.gate})
	s.registerHouseholds(k.router)
	s.registerMachines(k.router)
	s.registerInternal(k.router)
	if err := k.router.Check(); err != nil {
		t.Fatal(err)
	}
	k.people()
	k.machines()
	return k
}

func (k *stand) now() time.Time { return time.Now().Add(time.Duration(k.later.Load())) }

func (k *stand) setPeers(peers ...peer.Peer) {
	k.Helper()
	r, err := peer.NewRoster(peers)
	if err != nil {
		k.Fatal(err)
	}
	k.roster.Store(r)
}

func (k *stand) peer(name string) peer.Peer {
	p, ok := k.roster.Load().ByName(name)
	if !ok {
		k.Fatalf("no machine %s", name)
	}
	return p
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (k *stand) people() {
	k.Helper()
	for _, name := range []string{"ann", "amy", "al", "bob"} {
		err := k.store.Do(k.Context(), account.Event{Actor: "hub", Action: "test", Target: "user"}, func(tx account.Tx) error {
			u, err := tx.CreateUser(account.User{Email: name + "@example.org", Username: name, Superuser: name == "ann", Created: tx.Now()}, "")
			k.users[name] = u.ID
			return err
		})
		if err != nil {
			k.Fatal(err)
		}
	}
	k.h1 = must(k.s.CreateHousehold(k.Context(), "hub", "First", "", k.users["ann"]))(k).ID
	k.h2 = must(k.s.CreateHousehold(k.Context(), "hub", "Second", "", k.users["bob"]))(k).ID
	k.ok(k.s.SetMember(k.Context(), "hub", k.h1, k.users["amy"], account.PowerUser))
	k.ok(k.s.SetMember(k.Context(), "hub", k.h1, k.users["al"], account.Member))
	k.signIn("ann", "ann-laptop")
	k.signIn("amy", "amy-phone")
	k.signIn("al", "al-phone")
	k.signIn("bob", "bob-phone")
}

func (k *stand) ok(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

func (k *stand) signIn(name, machine string) {
	k.Helper()
	p := k.peer(machine)
	err := k.store.Do(k.Context(), account.Event{Actor: "hub", Action: "test", Target: "session"}, func(tx account.Tx) error {
		tokens, err := k.s.Start(k.Context(), tx, account.Session{User: k.users[name], Peer: p.ID, Key: p.PublicKey, Methods: []string{"pwd"}})
		k.tokens[name] = tokens.Access
		return err
	})
	k.ok(err)
}

func (k *stand) machines() {
	k.Helper()
	ctx := k.Context()
	app := func(n NewApp) string {
		k.Helper()
		_, key, err := k.s.CreateApp(ctx, "hub", n)
		k.ok(err)
		return key
	}
	k.admin = app(NewApp{ID: "console", Name: "Console", Peer: "ann-laptop", Admin: true})
	k.app = app(NewApp{ID: "cc", Name: "Command centre", Peer: "box"})
	k.limited = app(NewApp{ID: "small", Name: "Small", Peer: "box", Households: []account.HouseholdID{k.h1}})
	var err error
	_, k.node, err = k.s.CreateNode(ctx, "hub", NewNode{ID: "kitchen", Name: "Kitchen", Household: k.h1, Services: []string{"cc", "auth"}})
	k.ok(err)
	_, k.other, err = k.s.CreateNode(ctx, "hub", NewNode{ID: "attic", Name: "Attic", Household: k.h2, Services: []string{"cc"}})
	k.ok(err)
}

// answer is what came back.
type answer struct {
	code int
	text string
}

func (a answer) json(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(a.text), &m); err != nil {
		t.Fatalf("%d %q: %v", a.code, a.text, err)
	}
	return m
}

// from sends a request as a machine, with headers "Name: value".
func (k *stand) from(machine, method, path, body string, headers ...string) answer {
	k.Helper()
	return k.serve(k.router, machine, method, path, body, headers...)
}

func (k *stand) serve(h http.Handler, machine, method, path, body string, headers ...string) answer {
	k.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequest(method, path, r)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req.WithContext(peer.NewContext(k.Context(), k.peer(machine))))
	return answer{w.Code, string(bytes.TrimSpace(w.Body.Bytes()))}
}

// as sends a request as a person from their own machine.
func (k *stand) as(name, method, path, body string) answer {
	k.Helper()
	machine := map[string]string{"ann": "ann-laptop", "amy": "amy-phone", "al": "al-phone", "bob": "bob-phone"}[name]
	return k.from(machine, method, path, body, "Authorization: Bearer "+k.tokens[name])
}

// adm sends a request with the admin's key.
func (k *stand) adm(method, path, body string) answer {
	k.Helper()
	return k.from("ann-laptop", method, path, body, "X-Jarvis-Admin-Token: "+k.admin)
}

// cc sends a request as the app of all households, small as that of one.
func (k *stand) cc(method, path, body string) answer {
	k.Helper()
	return k.from("box", method, path, body, "X-Jarvis-App-Id: cc", "X-Jarvis-App-Key: "+k.app)
}

func (k *stand) small(method, path, body string) answer {
	k.Helper()
	return k.from("box", method, path, body, "X-Jarvis-App-Id: small", "X-Jarvis-App-Key: "+k.limited)
}

// want compares status and, unless it is "", a part of the answer.
func (k *stand) want(a answer, code int, part string) answer {
	k.Helper()
	if a.code != code || !strings.Contains(a.text, part) {
		k.Errorf("%d %.300s, want %d with %q", a.code, a.text, code, part)
	}
	return a
}

func (k *stand) url(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// caller is a person as a gate lets them in to their own household.
func (k *stand) caller(name string) *services.Caller {
	k.Helper()
	var u account.User
	k.ok(k.store.View(k.Context(), func(tx account.Tx) (err error) {
		u, err = tx.User(k.users[name])
		return err
	}))
	return &services.Caller{As: services.AsUser, User: u}
}

// crowd makes n people who all sit at the machine "box" and returns their
// tokens.
func (k *stand) crowd(n int) []string {
	k.Helper()
	p := k.peer("box")
	tokens := make([]string, n)
	for i := range tokens {
		k.ok(k.store.Do(k.Context(), account.Event{Actor: "hub", Action: "test", Target: "user"}, func(tx account.Tx) error {
			u, err := tx.CreateUser(account.User{Email: fmt.Sprintf("p%d@example.org", i), Created: tx.Now()}, "")
			if err != nil {
				return err
			}
			got, err := k.s.Start(k.Context(), tx, account.Session{User: u.ID, Peer: p.ID, Key: p.PublicKey})
			tokens[i] = got.Access
			return err
		}))
	}
	return tokens
}

// asApp is an app as a gate lets it in.
func (k *stand) asApp(a account.App) *services.Caller {
	return &services.Caller{As: services.AsApp, App: a}
}

// asNode is a service with a route for nodes, apps and people, /node, one about
// a household, /homes/{id}, and one that streams until it is ended, /stream.
func (k *stand) asNode() http.Handler { return k.service(Self) }

// service is such a service under a name.
func (k *stand) service(name string) http.Handler {
	k.Helper()
	gate := services.NewGate(services.GateConfig{
		Service: name, Authority: k.s.Authority(), Roster: k.roster.Load, Limit: noLimit{}, Live: k.live,
		Grants: func(peer.Peer, string) map[string][]json.RawMessage { return nil },
	})
	r := router.New(router.Config{Service: name, Title: name, Version: "1", Gate: gate})
	need := services.Requirement{Any: []services.Credential{services.AsNode, services.AsApp, services.AsUser}}
	rt := router.Route{Method: "GET", Path: "/node", Summary: "Say who calls.", Need: need, Shape: router.Jarvis, Tenant: "its own"}
	router.Raw(r, rt, func(w http.ResponseWriter, _ *http.Request, c *services.Caller) { fmt.Fprint(w, c.Actor()) })
	need.Household = "id"
	rt.Path, rt.Need = "/homes/{id}", need
	router.Raw(r, rt, func(w http.ResponseWriter, _ *http.Request, c *services.Caller) { fmt.Fprint(w, c.Scope().Household()) })
	need.Household, need.Stream = "", true
	rt.Path, rt.Need = "/stream", need
	router.Raw(r, rt, func(w http.ResponseWriter, req *http.Request, c *services.Caller) {
		fmt.Fprint(w, c.Actor())
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
	})
	if err := r.Check(); err != nil {
		k.Fatal(err)
	}
	return r
}
