package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// kit is the service on a real store, behind a real gate. ann is a member of the
// household that the hook "door" belongs to, bob of another. Its clock stands.
type kit struct {
	t      testing.TB
	store  *store.Store
	router *router.Router
	sender peer.Peer
	users  map[string]account.UserID
	homes  map[string]account.HouseholdID
	now    time.Time
	log    bytes.Buffer
}

const secret = "a-secret-of-the-door-0123456789"

func newKit(t testing.TB, st *store.Store) *kit {
	t.Helper()
	k := &kit{t: t, now: time.Unix(1_800_000_000, 0), users: map[string]account.UserID{}, homes: map[string]account.HouseholdID{}}
	key, err := peer.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	k.sender = peer.Peer{ID: "p1", Name: "doorbell", PublicKey: key.Public(), Kind: peer.KindSpoke,
		V4: netip.MustParseAddr("10.77.1.1"), V6: netip.MustParseAddr("fd77:7777:7777:7777::1:1")}
	k.serve(st)
	for user, hook := range map[string]string{"ann": "door", "bob": "gate"} {
		k.add(user, hook)
	}
	return k
}

// serve starts the service on a store, as after a restart.
func (k *kit) serve(st *store.Store) {
	k.t.Helper()
	k.store = st
	roster, err := peer.NewRoster([]peer.Peer{k.sender})
	if err != nil {
		k.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(&k.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	gate := services.NewGate(services.GateConfig{Service: "hooks", Authority: k, Roster: func() *peer.Roster { return roster }, Live: services.NewLive(), Logger: log,
		Grants: func(peer.Peer, string) map[string][]json.RawMessage { return nil }, Limit: unlimited{}, Domain: "warren.internal"})
	k.router = router.New(router.Config{Service: "hooks", Title: "Webhooks", Version: "1", Gate: gate, Logger: log})
	New(Config{Store: st.Accounts(), Data: st.Data(), Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return k.now }}).Register(k.router)
	if err := k.router.Check(); err != nil {
		k.t.Fatal(err)
	}
}

type unlimited struct{}

func (unlimited) Take(context.Context, string, ...services.Rate) (services.Allowance, error) {
	return services.Allowance{Allowed: true}, nil
}

func (k *kit) add(user, hook string) {
	k.t.Helper()
	ev := account.Event{Actor: "local:0", Action: "test", Target: "all"}
	err := k.store.Accounts().Do(k.t.Context(), ev, func(tx account.Tx) error {
		h, err := tx.CreateHousehold(account.Household{Name: user + "s"})
		if err != nil {
			return err
		}
		u, err := tx.CreateUser(account.User{Email: user + "@example.org"}, "$2a$12$none")
		k.users[user], k.homes[user] = u.ID, h.ID
		if err != nil {
			return err
		}
		return tx.PutMembership(account.Membership{Household: h.ID, User: u.ID, Role: account.Member, Joined: tx.Now()})
	})
	if err != nil {
		k.t.Fatal(err)
	}
	err = k.store.Data().Do(k.t.Context(), account.NewScope(k.homes[user], 0), ev, func(sc account.Scoped) error {
		return sc.PutHook(account.Hook{Name: hook, Secret: []byte(secret + hook)})
	})
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k *kit) User(_ context.Context, p peer.Peer, token string) (account.User, account.Session, error) {
	name := strings.TrimSuffix(token, "-token")
	id := k.users[name]
	if id == 0 {
		return account.User{}, account.Session{}, &services.Refusal{Status: 401, Detail: "Invalid token"}
	}
	return account.User{ID: id}, account.Session{ID: name, User: id, Peer: p.ID, Key: p.PublicKey, Household: k.homes[name]}, nil
}

func (k *kit) Node(context.Context, peer.Peer, string, string, string) (account.Node, error) {
	return account.Node{}, &services.Refusal{Status: 401}
}

func (k *kit) App(context.Context, peer.Peer, string, string, string) (account.App, error) {
	return account.App{}, &services.Refusal{Status: 401}
}

func (k *kit) AppByPeer(context.Context, peer.Peer, string) (account.App, error) {
	return account.App{}, &services.Refusal{Status: 401}
}

func (k *kit) Admin(context.Context, peer.Peer, string) (account.App, error) {
	return account.App{}, &services.Refusal{Status: 401}
}

func (k *kit) Role(_ context.Context, u account.UserID, h account.HouseholdID) (account.Role, error) {
	for name, id := range k.users {
		if id == u && k.homes[name] == h {
			return account.Member, nil
		}
	}
	return account.None, nil
}

func (k *kit) Household(_ context.Context, h account.HouseholdID) (account.Household, error) {
	return account.Household{ID: h}, nil
}

// event is a delivery to be sent.
type event struct {
	hook, body string
	target     string // "" is the hook's own
	headers    http.Header
}

// signed is a right delivery.
func (k *kit) signed(hook, id, body string) event {
	k.t.Helper()
	sig, err := Sign([]byte(secret+hook), id, k.now, []byte(body))
	if err != nil {
		k.t.Fatal(err)
	}
	e := event{hook: hook, body: body, headers: http.Header{HeaderTimestamp: {strconv.FormatInt(k.now.Unix(), 10)}, HeaderSignature: {sig}}}
	if id != "" {
		e.headers.Set(HeaderID, id)
	}
	return e
}

// send delivers and returns the status and what the answer says.
func (k *kit) send(e event) (int, string) {
	target := e.target
	if target == "" {
		target = "/hooks/" + e.hook
	}
	r := httptest.NewRequestWithContext(k.t.Context(), http.MethodPost, "http://hooks.warren.internal"+target, strings.NewReader(e.body))
	for name, values := range e.headers {
		r.Header[name] = values
	}
	return k.answer(r)
}

func (k *kit) answer(r *http.Request) (int, string) {
	r.RemoteAddr = netip.AddrPortFrom(k.sender.V4, 40000).String()
	w := httptest.NewRecorder()
	k.router.ServeHTTP(w, r.WithContext(peer.NewContext(r.Context(), k.sender)))
	var detail struct{ Detail string }
	if json.Unmarshal(w.Body.Bytes(), &detail) == nil && detail.Detail != "" {
		return w.Code, detail.Detail
	}
	return w.Code, w.Body.String()
}

// read asks for a hook's deliveries.
func (k *kit) read(user, hook, query string) (int, string) {
	r := httptest.NewRequestWithContext(k.t.Context(), http.MethodGet, "http://hooks.warren.internal/hooks/"+hook+"/deliveries"+query, nil)
	r.Header.Set("Authorization", "Bearer "+user+"-token")
	return k.answer(r)
}
