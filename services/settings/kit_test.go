package settings

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
	"github.com/warrenmesh/warren/services/settings/k2"
)

// kit is the service on a real store, behind a real gate, with peers that call
// it. What proves a caller here is a name: the account service has tests of its
// own for the rest. ann is an admin, amy a member of one household, bob an admin
// of another; kitchen and bedroom are nodes of ann's, hall of bob's.
type kit struct {
	t       testing.TB
	store   *store.Store
	service *Service
	router  *router.Router
	roster  *peer.Roster
	home    account.HouseholdID
	guests  account.HouseholdID
	users   map[string]account.UserID
	log     bytes.Buffer
}

func newKit(t testing.TB) *kit { return newKitOn(t, storetest.Open(t)) }

func newKitOn(t testing.TB, st *store.Store) *kit {
	t.Helper()
	k := &kit{t: t, store: st, users: map[string]account.UserID{}}
	var list []peer.Peer
	for i, name := range []string{"phone", "laptop", "kitchen", "bedroom", "hall", "attic"} {
		key, err := peer.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, peer.Peer{ID: peer.ID(fmt.Sprint("peer-", name)), Name: name, PublicKey: key.Public(), Kind: peer.KindSpoke,
			V4: netip.AddrFrom4([4]byte{10, 77, 1, byte(i + 1)}), V6: netip.MustParseAddr(fmt.Sprintf("fd77:7777:7777:7777::1:%d", i+1))})
	}
	var err error
	if k.roster, err = peer.NewRoster(list); err != nil {
		t.Fatal(err)
	}
	k.fill()
	log := slog.New(slog.NewTextHandler(&k.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	roster := func() *peer.Roster { return k.roster }
	gate := services.NewGate(services.GateConfig{Service: "command", Authority: k, Roster: roster, Live: services.NewLive(), Logger: log, Domain: "warren.internal",
		Grants: func(peer.Peer, string) map[string][]json.RawMessage { return nil }, Limit: unlimited{}})
	k.service = New(Config{Store: st.Accounts(), Data: st.Data(), CreateNode: k.createNode, Logger: log})
	k.router = router.New(router.Config{Service: "command", Title: "Command", Version: "1", Gate: gate, Logger: log, Health: "healthy"})
	k.service.Register(k.router)
	if err := k.router.Check(); err != nil {
		t.Fatal(err)
	}
	return k
}

type unlimited struct{}

func (unlimited) Take(context.Context, string, ...services.Rate) (services.Allowance, error) {
	return services.Allowance{Allowed: true}, nil
}

func (k *kit) fill() {
	err := k.store.Accounts().Do(k.t.Context(), account.Event{Actor: "local:0", Action: "test", Target: "all"}, func(tx account.Tx) error {
		for _, h := range []struct {
			id     *account.HouseholdID
			name   string
			people map[string]account.Role
			nodes  []string
		}{
			{&k.home, "Home", map[string]account.Role{"ann": account.Admin, "amy": account.Member}, []string{"kitchen", "bedroom"}},
			{&k.guests, "Guests", map[string]account.Role{"bob": account.Admin}, []string{"hall"}},
		} {
			made, err := tx.CreateHousehold(account.Household{Name: h.name})
			if err != nil {
				return err
			}
			*h.id = made.ID
			for name, role := range h.people {
				u, err := tx.CreateUser(account.User{Email: name + "@example.org"}, "$2a$12$none")
				if err != nil {
					return err
				}
				k.users[name] = u.ID
				if err := tx.PutMembership(account.Membership{Household: made.ID, User: u.ID, Role: role, Joined: tx.Now()}); err != nil {
					return err
				}
			}
			for _, n := range h.nodes {
				if err := tx.CreateNode(account.Node{ID: n, Name: n, Household: made.ID, Peer: peer.ID("peer-" + n), Active: true, Services: []string{"command"}}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		k.t.Fatal(err)
	}
}

// createNode stands for the account service's.
func (k *kit) createNode(ctx context.Context, actor string, n NewNode) (node account.Node, key string, err error) {
	node = account.Node{ID: n.ID, Name: n.Name, Household: n.Household, Room: n.Room, RegisteredBy: n.RegisteredBy, Services: n.Services, Active: true, Peer: peer.ID("peer-" + n.Peer)}
	err = k.store.Accounts().Do(ctx, account.Event{Actor: actor, Action: "node.create", Target: "node:" + n.ID}, func(tx account.Tx) error {
		if _, err := tx.Household(n.Household); err != nil {
			return missing(err, "Household not found")
		}
		return tx.CreateNode(node)
	})
	return node, "the-key-of-" + n.ID, err
}

func refuse(detail string) error {
	return &services.Refusal{Status: http.StatusUnauthorized, Detail: detail}
}

func (k *kit) User(ctx context.Context, p peer.Peer, token string) (u account.User, s account.Session, err error) {
	id, ok := k.users[strings.TrimSuffix(token, "-token")]
	if !ok {
		return u, s, refuse("Invalid token")
	}
	err = k.store.Accounts().View(ctx, func(tx account.Tx) error {
		if u, err = tx.User(id); err != nil {
			return err
		}
		all, err := tx.Memberships(id)
		if err == nil {
			s = account.Session{ID: "s" + id.String(), User: id, Household: all[0].Household, Peer: p.ID, Key: p.PublicKey}
		}
		return err
	})
	return u, s, err
}

func (k *kit) Node(ctx context.Context, p peer.Peer, id, key, _ string) (n account.Node, err error) {
	err = k.store.Accounts().View(ctx, func(tx account.Tx) (err error) {
		n, err = tx.Node(id)
		return err
	})
	if errors.Is(err, account.ErrNotFound) || err == nil && (n.Peer != p.ID || key != "the-key-of-"+id) {
		err = refuse("Invalid API Key")
	}
	return n, err
}

func (k *kit) App(context.Context, peer.Peer, string, string, string) (account.App, error) {
	return account.App{}, refuse("Invalid app credentials")
}

func (k *kit) AppByPeer(context.Context, peer.Peer, string) (account.App, error) {
	return account.App{}, refuse("Invalid app credentials")
}

func (k *kit) Admin(_ context.Context, _ peer.Peer, key string) (account.App, error) {
	if key != "root.admin-secret" {
		return account.App{}, refuse("Invalid Admin API Key")
	}
	return account.App{ID: "root", Admin: true, Active: true}, nil
}

func (k *kit) Role(ctx context.Context, u account.UserID, h account.HouseholdID) (role account.Role, err error) {
	err = k.store.Accounts().View(ctx, func(tx account.Tx) error {
		m, err := tx.Membership(h, u)
		role = m.Role
		return err
	})
	if errors.Is(err, account.ErrNotFound) {
		return account.None, nil
	}
	return role, err
}

func (k *kit) Household(ctx context.Context, id account.HouseholdID) (h account.Household, err error) {
	err = k.store.Accounts().View(ctx, func(tx account.Tx) (err error) {
		h, err = tx.Household(id)
		return err
	})
	return h, err
}

// reply is an answer.
type reply struct {
	status int
	body   string
	fields map[string]any
}

// call makes a request. Who is "ann" (a token), "kitchen" (a node's key from its
// own machine), "admin" (a key), "nobody", or "Header: value" from ann's phone.
func (k *kit) call(who, method, path string, body any) reply {
	k.t.Helper()
	return k.callCtx(k.t.Context(), who, method, path, body)
}

func (k *kit) callCtx(ctx context.Context, who, method, path string, body any) reply {
	k.t.Helper()
	var in io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(body)
	default:
		text, err := json.Marshal(body)
		if err != nil {
			k.t.Fatal(err)
		}
		in = bytes.NewReader(text)
	}
	r := httptest.NewRequestWithContext(ctx, method, "http://command.warren.internal"+path, in)
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	machine, ok := k.roster.ByName(who)
	switch {
	case ok:
		r.Header.Set("X-API-Key", who+":the-key-of-"+who)
	case who == "admin":
		r.Header.Set("X-API-Key", "root.admin-secret")
	case strings.Contains(who, ": "):
		name, value, _ := strings.Cut(who, ": ")
		r.Header.Set(name, value)
	case who != "nobody":
		r.Header.Set("Authorization", "Bearer "+who+"-token")
	}
	if !ok {
		machine, _ = k.roster.ByName("phone")
	}
	r.RemoteAddr = netip.AddrPortFrom(machine.V4, 40000).String()
	w := httptest.NewRecorder()
	k.router.ServeHTTP(w, r.WithContext(peer.NewContext(r.Context(), machine)))
	out := reply{status: w.Code, body: w.Body.String(), fields: map[string]any{}}
	_ = json.Unmarshal(w.Body.Bytes(), &out.fields)
	return out
}

// want fails unless the answer has a status and, where it is not "", a detail.
func (k *kit) want(r reply, status int, detail string) reply {
	k.t.Helper()
	if r.status != status || detail != "" && r.fields["detail"] != detail {
		k.t.Fatalf("%d %s, not %d %q\n%s", r.status, r.body, status, detail, k.log.String())
	}
	return r
}

func (r reply) text(name string) string { s, _ := r.fields[name].(string); return s }

// key is a K2 for tests.
func (k *kit) key() k2.Key {
	k.t.Helper()
	key, err := k2.KeyFrom("k2-202611-abcdef", bytes.Repeat([]byte{1}, 32), k.service.cfg.Now())
	if err != nil {
		k.t.Fatal(err)
	}
	return key
}

// sealed is a setting in JSON's terms, with more fields.
func (k *kit) sealed(node, configType string, s k2.Setting, more map[string]any) map[string]any {
	k.t.Helper()
	b, err := k.key().Seal(node, configType, s)
	if err != nil {
		k.t.Fatal(err)
	}
	out := map[string]any{"ciphertext": b.Ciphertext, "nonce": b.Nonce, "tag": b.Tag}
	for name, v := range more {
		out[name] = v
	}
	return out
}
