package hub_test

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
	"github.com/warrenmesh/warren/spoke"
)

// canary marks everything of the household next door.
const canary = "canary"

// street is two households in one hub, and a clock that can be turned on, so
// that a walk over all routes is not slowed down by the rate limit.
type street struct {
	*home
	ahead *atomic.Int64
	asked int
	// there are the ids of what belongs next door; missing are ids of the same
	// form that nobody has.
	there, missing map[string]string
	// as are the header lines of a caller from this side, by credential.
	as map[services.Credential][]string
}

func newStreet(t *testing.T) *street {
	t.Helper()
	ahead := new(atomic.Int64)
	s := &street{ahead: ahead, home: newHome(t, func(_ *hub.InitConfig, c *hub.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})}
	// Without a label: a machine that the policy keeps out would never get as
	// far as what this is about.
	next := s.Household("Next "+canary, "")
	eve := s.Person("eve"+canary, next, "admin")
	var key control.KeyReply
	s.Command("node/add", control.NodeSpec{ID: canary + "-node", Household: next}, &key)
	s.Command("webhook/add", control.WebhookSpec{Name: canary + "-bell", Household: next}, nil)
	s.there = map[string]string{"household": next, "node": canary + "-node", "user": eve.ID.String(), "hook": canary + "-bell"}
	s.missing = map[string]string{"household": "00000000-0000-4000-8000-000000000000", "node": "nobody-there", "user": "4242", "hook": "nobody-bell"}
	s.Command("app/add", control.AppSpec{ID: "narrow", Peer: "kitchen", Services: []string{"*"}}, &key)
	s.narrow(t, "narrow")
	s.as = map[services.Credential][]string{
		services.AsUser: {hubtest.SignIn(t, s.kitchen, "ann").Bearer()}, services.AsNode: {s.node()}, services.AsPeer: nil,
		services.AsApp: {"X-Jarvis-App-Id: narrow", "X-Jarvis-App-Key: " + key.Key},
	}
	return s
}

// narrow confines an app to this side.
func (s *street) narrow(t *testing.T, id string) {
	t.Helper()
	if err := s.Hub.Narrow(t.Context(), id, s.id); err != nil {
		t.Fatal(err)
	}
}

// ask sends a request, a minute later whenever there have been many.
func (s *street) ask(t *testing.T, r hubtest.Request) hubtest.Answer {
	t.Helper()
	if s.asked++; s.asked%150 == 0 {
		s.ahead.Add(int64(time.Minute + time.Second))
	}
	if s.asked%1500 == 0 { // the access token ends, and so does the hour's allowance
		s.ahead.Add(int64(time.Hour))
		s.as[services.AsUser] = []string{hubtest.SignIn(t, s.kitchen, "ann").Bearer()}
	}
	return hubtest.Call(t, s.kitchen, r)
}

var param = regexp.MustCompile(`\{([a-z_]+)\}`)

// url is where a route is, with one id in each of its parameters.
func url(service string, rt router.Route, id string) string {
	at := map[string]string{"auth": hubtest.AuthURL, "command": hubtest.CommandURL, "hooks": "http://hooks.warren.internal"}[service]
	return at + param.ReplaceAllString(rt.Path, id)
}

// TestT02_EveryRoute walks the tables of all services: each route asks for
// something, says what keeps households apart, and answers whoever asks with an
// id from next door exactly as with one that nobody has.
func TestT02_EveryRoute(t *testing.T) {
	s := newStreet(t)
	tables := s.Hub.Tables()
	walked := 0
	for _, service := range slices.Sorted(maps.Keys(tables)) {
		for _, rt := range tables[service] {
			if len(rt.Need.Any) == 0 {
				t.Errorf("%s %s lets in nobody, or asks for nothing", service, rt.Name())
			}
			apart := param.MatchString(rt.Path) || slices.ContainsFunc(rt.Need.Any, func(c services.Credential) bool { return c != services.AsPeer })
			if apart && rt.Tenant == "" && !strings.HasPrefix(rt.Path, "/oauth/") {
				t.Errorf("%s %s does not say what keeps households apart", service, rt.Name())
			}
			for _, as := range rt.Need.Any {
				if as != services.AsAdmin { // who is for all households
					s.walk(t, service, rt, as)
					walked++
				}
			}
		}
	}
	if walked < 40 {
		t.Errorf("only %d routes were walked", walked)
	}
	t.Logf("%d routes, %d requests", walked, s.asked)
}

// walk asks one route with each id of next door, and with its like that nobody
// has.
func (s *street) walk(t *testing.T, service string, rt router.Route, as services.Credential) {
	t.Helper()
	send := func(id string, more ...string) hubtest.Answer {
		r := hubtest.Request{Method: rt.Method, URL: url(service, rt, id), Header: append(slices.Clone(s.as[as]), more...)}
		if rt.Method == http.MethodPost || rt.Method == http.MethodPut || rt.Method == http.MethodPatch {
			r.Body = map[string]string{}
		}
		return s.ask(t, r)
	}
	if !param.MatchString(rt.Path) {
		if rt.Method != http.MethodGet {
			return
		}
		s.sameWith(t, rt, as, send("", "X-Household-Id: "+s.there["household"], "X-Context-Household-Id: "+s.there["household"]), send(""))
		return
	}
	without := func(text, id string) string {
		if len(id) < 4 {
			return text // a number, which is everywhere
		}
		return strings.ReplaceAll(text, id, "ID")
	}
	for what, id := range s.there {
		there, none := send(id), send(s.missing[what])
		if there.Status != none.Status || without(there.Text, id) != without(none.Text, s.missing[what]) {
			t.Errorf("%s as %d: the %s of next door gives %d %q, one that nobody has %d %q", rt.Name(), as, what, there.Status, there.Text, none.Status, none.Text)
		}
		if there.Status < 300 && as != services.AsPeer || strings.Contains(without(there.Text, id), canary) {
			t.Errorf("%s as %d: the %s of next door gives %d %q", rt.Name(), as, what, there.Status, there.Text)
		}
	}
}

// sameWith expects that headers naming another household change nothing.
func (s *street) sameWith(t *testing.T, rt router.Route, as services.Credential, with, without hubtest.Answer) {
	t.Helper()
	if with.Status != without.Status || strings.Contains(with.Text, canary) {
		t.Errorf("%s as %d: with another household in the header %d %q, without %d", rt.Name(), as, with.Status, with.Text, without.Status)
	}
}

// TestT02_HouseholdInTheBody: a body that names the household next door gets
// nothing of it, whoever asks.
func TestT02_HouseholdInTheBody(t *testing.T) {
	s := newStreet(t)
	next := s.there["household"]
	for _, try := range []struct {
		as   services.Credential
		path string
		body map[string]any
	}{
		{services.AsUser, hubtest.AuthURL + "/auth/switch-household", map[string]any{"household_id": next}},
		{services.AsUser, hubtest.CommandURL + "/api/v0/provisioning/token", map[string]any{"household_id": next, "node_id": "mine"}},
		{services.AsUser, hubtest.CommandURL + "/api/v0/admin/nodes", map[string]any{"household_id": next, "node_id": "mine", "name": "mine"}},
		{services.AsApp, hubtest.AuthURL + "/internal/nodes/register", map[string]any{"household_id": next, "node_id": "mine", "name": "mine"}},
	} {
		a := s.ask(t, hubtest.Request{Method: http.MethodPost, URL: try.path, Header: s.as[try.as], Body: try.body})
		if a.Status < 400 || a.Status >= 500 || strings.Contains(a.Text, canary) {
			t.Errorf("%s: %d %s", try.path, a.Status, a.Text)
		}
	}
	for path, body := range map[string]map[string]any{
		"/internal/validate-household-access": {"user_id": 2, "household_id": next, "required_role": "member"},
		"/internal/validate-node-household":   {"node_id": s.there["node"], "household_id": next},
	} {
		a := s.ask(t, hubtest.Request{Method: http.MethodPost, URL: hubtest.AuthURL + path, Header: s.as[services.AsApp], Body: body})
		if a.Status != 200 || a.JSON["valid"] != false {
			t.Errorf("%s: %d %s", path, a.Status, a.Text)
		}
	}
}

// TestT01_MachineOfAnotherHousehold: at a machine that the policy puts next
// door, one's own household is not there.
func TestT01_MachineOfAnotherHousehold(t *testing.T) {
	h := newHome(t)
	visiting := h.Join("visiting", control.PeerSpec{Owner: "eve"})
	ann := hubtest.SignIn(t, visiting, "ann")
	get := func(c *spoke.Client, k hubtest.Tokens, id string) hubtest.Answer {
		return hubtest.Call(t, c, hubtest.Request{Method: http.MethodGet, URL: hubtest.AuthURL + "/households/" + id, Header: []string{k.Bearer()}})
	}
	there, none := get(visiting, ann, h.id), get(visiting, ann, "00000000-0000-4000-8000-000000000000")
	if there.Status != 404 || there.Text != none.Text {
		t.Errorf("visiting: %d %s; one that is not there: %s", there.Status, there.Text, none.Text)
	}
	if a := get(h.kitchen, hubtest.SignIn(t, h.kitchen, "ann"), h.id); a.Status != 200 {
		t.Errorf("at home: %d %s", a.Status, a.Text)
	}
}
