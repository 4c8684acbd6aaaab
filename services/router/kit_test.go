package router_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// desk knows ann, a member of home, and the household next door. Everything
// else it refuses.
type desk struct{}

const (
	home = account.HouseholdID("11111111-1111-4111-8111-111111111111")
	next = account.HouseholdID("22222222-2222-4222-8222-222222222222")
)

var invalid = &services.Refusal{Status: http.StatusUnauthorized, Detail: "Invalid token"}

func (desk) User(_ context.Context, p peer.Peer, token string) (account.User, account.Session, error) {
	if token != "ann-token" {
		return account.User{}, account.Session{}, invalid
	}
	return account.User{ID: 1}, account.Session{ID: "s1", User: 1, Peer: p.ID, Key: p.PublicKey, Household: home}, nil
}

func (desk) Node(context.Context, peer.Peer, string, string, string) (account.Node, error) {
	return account.Node{}, invalid
}

func (desk) App(context.Context, peer.Peer, string, string, string) (account.App, error) {
	return account.App{}, invalid
}

func (desk) AppByPeer(context.Context, peer.Peer, string) (account.App, error) {
	return account.App{}, invalid
}

func (desk) Admin(context.Context, peer.Peer, string) (account.App, error) {
	return account.App{}, invalid
}

func (desk) Role(_ context.Context, u account.UserID, h account.HouseholdID) (account.Role, error) {
	if u == 1 && h == home {
		return account.Member, nil
	}
	return account.None, nil
}

func (desk) Household(_ context.Context, h account.HouseholdID) (account.Household, error) {
	if h == home || h == next {
		return account.Household{ID: h}, nil
	}
	return account.Household{}, account.ErrNotFound
}

var laptop = peer.Peer{
	ID: "p1", Name: "ann-laptop", Kind: peer.KindSpoke, PublicKey: peer.PublicKey{1},
	V4: netip.MustParseAddr("10.77.1.1"), V6: netip.MustParseAddr("fd00::1"),
}

func newGate(log *slog.Logger) *services.Gate {
	return services.NewGate(services.GateConfig{
		Service: "web", Authority: desk{}, Limit: services.NewMemoryLimiter(nil), Live: services.NewLive(), Logger: log,
		Roster: func() *peer.Roster {
			r, err := peer.NewRoster([]peer.Peer{laptop})
			if err != nil {
				panic(err)
			}
			return r
		},
		Grants: func(peer.Peer, string) map[string][]json.RawMessage { return nil },
	})
}

var (
	anyPeer = services.Requirement{Any: []services.Credential{services.AsPeer}}
	aUser   = services.Requirement{Any: []services.Credential{services.AsUser}}
)

// table is a router under test and its log.
type table struct {
	*router.Router
	log *bytes.Buffer
}

func newTable(t testing.TB) *table {
	t.Helper()
	log := new(bytes.Buffer)
	logger := slog.New(slog.NewTextHandler(log, nil))
	return &table{router.New(router.Config{URL: "https://notes.warren.internal", Service: "web", Title: "Web", Version: "1", Gate: newGate(logger), Logger: logger}), log}
}

// call sends one request of ann's laptop; headers are "Name: value".
func (k *table) call(method, target, body string, headers ...string) (int, http.Header, string) {
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, target, in)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header[http.CanonicalHeaderKey(name)] = nil
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	w := httptest.NewRecorder()
	k.ServeHTTP(w, r.WithContext(peer.NewContext(r.Context(), laptop)))
	return w.Code, w.Header(), strings.TrimSpace(w.Body.String())
}
