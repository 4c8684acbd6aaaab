package routertest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
	"github.com/warrenmesh/warren/services/router/routertest"
)

// spy notes what a test would have failed with.
type spy struct {
	testing.TB
	failed []string
}

func (s *spy) Helper()                   {}
func (s *spy) Errorf(f string, a ...any) { s.failed = append(s.failed, fmt.Sprintf(f, a...)) }

var laptop = peer.Peer{ID: "p1", Name: "ann-laptop", Kind: peer.KindSpoke, PublicKey: peer.PublicKey{1}, V4: netip.MustParseAddr("10.77.1.1"), V6: netip.MustParseAddr("fd00::1")}

// newRouter has one route about notes, which belong to households 1 and 2; the
// caller is of household 1.
func newRouter(t *testing.T, handler func(id, household string) (string, error)) (*router.Router, routertest.Send) {
	t.Helper()
	roster, err := peer.NewRoster([]peer.Peer{laptop})
	if err != nil {
		t.Fatal(err)
	}
	r := router.New(router.Config{Service: "web", Gate: services.NewGate(services.GateConfig{
		Service: "web", Authority: nobody{}, Limit: services.NewMemoryLimiter(nil), Live: services.NewLive(),
		Roster: func() *peer.Roster { return roster },
		Grants: func(peer.Peer, string) map[string][]json.RawMessage { return nil },
	})})
	need := services.Requirement{Any: []services.Credential{services.AsPeer}}
	router.Handle(r, router.Route{Method: http.MethodGet, Path: "/notes/{id}", Summary: "Read.", Need: need, Tenant: "the handler looks"},
		func(_ context.Context, _ *services.Caller, in *struct {
			ID        string `path:"id"`
			UserID    string `query:"user_id"`
			Household string `header:"X-Household-Id"`
		}) (*struct{ Body string }, error) {
			text, err := handler(in.ID, in.Household)
			if err != nil {
				return nil, err
			}
			return &struct{ Body string }{text}, nil
		})
	return r, func(method, target string, header http.Header, body string) *http.Response {
		req := httptest.NewRequest(method, target, strings.NewReader(body))
		req.Header = header
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req.WithContext(peer.NewContext(req.Context(), laptop)))
		return w.Result()
	}
}

type nobody struct{ services.Authority }

func them() routertest.Foreign {
	return routertest.Foreign{Household: "2", Canaries: []string{"canary"}}
}

func theCase() map[string][]routertest.Case {
	return map[string][]routertest.Case{"GET /notes/{id}": {{Values: map[string]routertest.Value{
		"path.id":       {Own: "one", Foreign: "two"},
		"query.user_id": {Free: "the handler does not look at it"},
	}}}}
}

func TestT02_WalkFindsWhatLeaks(t *testing.T) {
	for name, tc := range map[string]struct {
		handler func(id, household string) (string, error)
		want    string // in the failure, "" for none
	}{
		"sound": {func(id, _ string) (string, error) {
			if id != "one" {
				return "", account.ErrNotFound
			}
			return "mine", nil
		}, ""},
		"gives it all": {func(id, _ string) (string, error) { return "canary", nil }, "of another household is in the answer"},
		"lets it happen": {func(id, _ string) (string, error) {
			return "done", nil
		}, "gets 200, want 404"},
		"tells it apart": {func(id, _ string) (string, error) {
			switch id {
			case "one":
				return "mine", nil
			case "two":
				return "", &services.Refusal{Status: 404, Detail: "Not yours"}
			}
			return "", account.ErrNotFound
		}, "is told from one that nobody has"},
		"says forbidden": {func(id, _ string) (string, error) {
			if id == "one" {
				return "mine", nil
			}
			return "", &services.Refusal{Status: 403, Detail: "No"}
		}, "gets 403, want 404"},
		"repeats the id": {func(id, _ string) (string, error) {
			if id == "one" {
				return "mine", nil
			}
			return "", &services.Refusal{Status: 404, Detail: "No note " + id}
		}, "is told from one that nobody has"},
		"believes a header": {func(id, household string) (string, error) {
			if household == "2" && id == "one" {
				return "a canary", nil
			}
			return "", account.ErrNotFound
		}, "of another household is in the answer"},
		"finds nothing ever": {func(string, string) (string, error) { return "", account.ErrNotFound }, "the case shows nothing"},
	} {
		r, send := newRouter(t, tc.handler)
		s := &spy{TB: t}
		routertest.Walk(s, r, send, them(), theCase())
		if got := strings.Join(s.failed, "\n"); (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestT02_WalkWantsACaseForEachRouteAndID(t *testing.T) {
	sound := func(id, _ string) (string, error) {
		if id != "one" {
			return "", account.ErrNotFound
		}
		return "mine", nil
	}
	for name, tc := range map[string]struct {
		change func(map[string][]routertest.Case)
		want   string
	}{
		"no case":         {func(c map[string][]routertest.Case) { delete(c, "GET /notes/{id}") }, "no case tries"},
		"no value":        {func(c map[string][]routertest.Case) { delete(c["GET /notes/{id}"][0].Values, "path.id") }, "no value for path.id"},
		"no value, query": {func(c map[string][]routertest.Case) { delete(c["GET /notes/{id}"][0].Values, "query.user_id") }, "no value for query.user_id"},
		"the same value": {func(c map[string][]routertest.Case) {
			c["GET /notes/{id}"][0].Values["path.id"] = routertest.Value{Own: "one", Foreign: "one"}
		}, "needs one's own value"},
		"value of nothing": {func(c map[string][]routertest.Case) {
			c["GET /notes/{id}"][0].Values["path.x"] = routertest.Value{Own: "one", Foreign: "two"}
		}, "it takes no path.x"},
		"case of no route":   {func(c map[string][]routertest.Case) { c["GET /gone"] = c["GET /notes/{id}"] }, "a case and no route"},
		"nothing is missing": {func(map[string][]routertest.Case) {}, ""},
	} {
		r, send := newRouter(t, sound)
		cases := theCase()
		tc.change(cases)
		s := &spy{TB: t}
		routertest.Walk(s, r, send, them(), cases)
		if got := strings.Join(s.failed, "\n"); (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}
