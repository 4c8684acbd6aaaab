package services

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// desk is an Authority in memory. It judges a credential by its key alone and
// leaves what the gate must see for itself to the gate.
type desk struct {
	mu       sync.Mutex
	users    map[string]account.User // by token
	sessions map[string]account.Session
	nodes    map[string]account.Node // by "id:key"
	apps     map[string]account.App  // by "id:key", admins by their key
	roles    map[account.UserID]map[account.HouseholdID]account.Role
	homes    map[account.HouseholdID]account.Household
	broken   error
	asked    int
}

const (
	home   = account.HouseholdID("11111111-1111-4111-8111-111111111111")
	other  = account.HouseholdID("22222222-2222-4222-8222-222222222222")
	nobody = account.HouseholdID("99999999-9999-4999-8999-999999999999")
)

// newDesk knows ann, admin of home, with a token for peer1; bob, superuser, in
// no household, with one for peer2; a node and an app of peer1, an admin key.
func newDesk() *desk {
	one, two := peerAt(1, "10.77.1.1"), peerAt(2, "10.77.1.2")
	return &desk{
		users: map[string]account.User{"ann-token": {ID: 1, Email: "ann@example.org"}, "bob-token": {ID: 2, Superuser: true}},
		sessions: map[string]account.Session{
			"ann-token": {ID: "s1", User: 1, Peer: one.ID, Key: one.PublicKey, Household: home},
			"bob-token": {ID: "s2", User: 2, Peer: two.ID, Key: two.PublicKey},
		},
		nodes: map[string]account.Node{"kitchen:nk": {ID: "kitchen", Household: home, Peer: one.ID, Active: true, Services: []string{"web"}}},
		apps: map[string]account.App{
			"cc:ak":      {ID: "cc", Peer: one.ID, Active: true, Services: []string{"web"}, Households: []account.HouseholdID{home}},
			"root.admin": {ID: "root", Active: true, Admin: true},
		},
		roles: map[account.UserID]map[account.HouseholdID]account.Role{1: {home: account.Admin}},
		homes: map[account.HouseholdID]account.Household{home: {ID: home, Label: "home"}, other: {ID: other, Label: "guests"}},
	}
}

// set changes something while requests run.
func (d *desk) set(f func()) { d.mu.Lock(); defer d.mu.Unlock(); f() }

func (d *desk) ask(ctx context.Context) (func(), error) {
	d.mu.Lock()
	d.asked++
	if err := errors.Join(ctx.Err(), d.broken); err != nil {
		d.mu.Unlock()
		return nil, err
	}
	return d.mu.Unlock, nil
}

func no(detail string) error { return &Refusal{Status: http.StatusUnauthorized, Detail: detail} }

func (d *desk) User(ctx context.Context, _ peer.Peer, token string) (account.User, account.Session, error) {
	done, err := d.ask(ctx)
	if err != nil {
		return account.User{}, account.Session{}, err
	}
	defer done()
	if token == "old-token" {
		return account.User{}, account.Session{}, no("Token has expired")
	}
	if _, ok := d.users[token]; !ok {
		return account.User{}, account.Session{}, no("Invalid token")
	}
	return d.users[token], d.sessions[token], nil
}

func (d *desk) Node(ctx context.Context, _ peer.Peer, id, key, service string) (account.Node, error) {
	done, err := d.ask(ctx)
	if err != nil {
		return account.Node{}, err
	}
	defer done()
	n, ok := d.nodes[id+":"+key]
	if !ok || n.Services[0] != service {
		return account.Node{}, no("Invalid API Key")
	}
	return n, nil
}

func (d *desk) App(ctx context.Context, _ peer.Peer, id, key, service string) (account.App, error) {
	done, err := d.ask(ctx)
	if err != nil {
		return account.App{}, err
	}
	defer done()
	a, ok := d.apps[id+":"+key]
	if !ok || a.Services[0] != service {
		return account.App{}, no("Invalid app credentials")
	}
	return a, nil
}

func (d *desk) AppByPeer(ctx context.Context, p peer.Peer, _ string) (account.App, error) {
	done, err := d.ask(ctx)
	if err != nil {
		return account.App{}, err
	}
	defer done()
	for _, a := range d.apps {
		if a.Peer == p.ID {
			return a, nil
		}
	}
	return account.App{}, no("Invalid app credentials")
}

func (d *desk) Admin(ctx context.Context, _ peer.Peer, key string) (account.App, error) {
	done, err := d.ask(ctx)
	if err != nil {
		return account.App{}, err
	}
	defer done()
	a, ok := d.apps[key]
	if !ok {
		return account.App{}, no("no such admin")
	}
	return a, nil
}

func (d *desk) Role(ctx context.Context, u account.UserID, h account.HouseholdID) (account.Role, error) {
	done, err := d.ask(ctx)
	if err != nil {
		return account.None, err
	}
	defer done()
	return d.roles[u][h], nil
}

func (d *desk) Household(ctx context.Context, h account.HouseholdID) (account.Household, error) {
	done, err := d.ask(ctx)
	if err != nil {
		return account.Household{}, err
	}
	defer done()
	home, ok := d.homes[h]
	if !ok {
		return account.Household{}, account.ErrNotFound
	}
	return home, nil
}

// gated is a gate with everything around it.
type gated struct {
	*Gate
	desk   *desk
	who    people
	grants map[string][]json.RawMessage
	log    bytes.Buffer
}

func newGated(t testing.TB, change ...func(*GateConfig)) *gated {
	t.Helper()
	k := &gated{desk: newDesk(), grants: map[string][]json.RawMessage{}}
	k.who.set(t, peerAt(1, "10.77.1.1"), peerAt(2, "10.77.1.2"))
	cfg := GateConfig{
		Service: "web", Authority: k.desk, Roster: k.who.roster, Domain: "warren.internal",
		Grants: func(peer.Peer, string) map[string][]json.RawMessage {
			k.desk.mu.Lock()
			defer k.desk.mu.Unlock()
			return k.grants
		},
		Limit: NewMemoryLimiter(nil), Live: NewLive(), Logger: slog.New(slog.NewTextHandler(&k.log, nil)),
	}
	for _, f := range change {
		f(&cfg)
	}
	k.Gate = NewGate(cfg)
	return k
}

// from makes a request of a peer; headers are "Name: value".
func (k *gated) from(p peer.Peer, target string, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r.WithContext(peer.NewContext(r.Context(), p))
}

// try admits and lets go again. The path parameter "h" is value.
func (k *gated) try(r *http.Request, need Requirement, value account.HouseholdID) (*Caller, *Refusal) {
	c, _, _, done, err := k.Admit(r, "GET /", need, func(name string) string {
		if name == "h" {
			return string(value)
		}
		return ""
	})
	var why *Refusal
	if err != nil && !errors.As(err, &why) {
		return nil, &Refusal{Status: -1, Detail: err.Error()}
	}
	if err == nil {
		done(200)
	}
	return c, why
}

func any1(cs ...Credential) Requirement { return Requirement{Any: cs} }
