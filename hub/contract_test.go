package hub_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/spoke"
)

// home is a mesh with a household, its people, two nodes and an app, and what
// each proves itself with. Clients of Jarvis are plain HTTP clients behind a
// spoke.
type home struct {
	*hubtest.Mesh
	id string // of the household
	// kitchen is the machine of the node and the app "centre".
	kitchen          *spoke.Client
	nodeKey, denKey  string
	appKey, adminKey string
}

func newHome(t *testing.T, options ...hubtest.Option) *home {
	t.Helper()
	h := &home{Mesh: hubtest.New(t, options...)}
	h.Apply(open)
	h.id = h.Household("Home", "home")
	h.Person("ann", h.id, "admin")
	h.kitchen = h.Join("kitchen", control.PeerSpec{Owner: "ann"})
	var key control.KeyReply
	h.Command("node/add", control.NodeSpec{ID: "kitchen", Household: h.id, Services: []string{"command", "auth"}}, &key)
	h.nodeKey = key.Key
	h.Command("node/add", control.NodeSpec{ID: "den", Household: h.id}, &key)
	h.denKey = key.Key
	h.Command("app/add", control.AppSpec{ID: "centre", Peer: "kitchen", Services: []string{"*"}}, &key)
	h.appKey = key.Key
	h.Command("app/add", control.AppSpec{ID: "tools", Peer: "kitchen", Admin: true, Services: []string{"*"}}, &key)
	h.adminKey = key.Key
	return h
}

func (h *home) app() []string {
	return []string{"X-Jarvis-App-Id: centre", "X-Jarvis-App-Key: " + h.appKey}
}

func (h *home) node() string { return "X-API-Key: kitchen:" + h.nodeKey }

// refuses expects one refusal, word by word.
func refuses(t *testing.T, c hubtest.Machine, r hubtest.Request, status int, detail string) {
	t.Helper()
	if a := hubtest.Call(t, c, r); a.Status != status || a.Detail() != detail {
		t.Errorf("%s %s with %q: %d %s; want %d %q", r.Method, r.URL, r.Header, a.Status, a.Text, status, detail)
	}
}

func TestCase104_Health(t *testing.T) {
	h := newHome(t)
	for url, want := range map[string]string{
		hubtest.AuthURL + "/health": "ok", hubtest.CommandURL + "/health": "healthy",
		"http://auth.warren.internal/health": "ok", "http://hooks.warren.internal/health": "ok",
	} {
		if a := hubtest.Call(t, h.kitchen, hubtest.Request{Method: http.MethodGet, URL: url}); a.Status != 200 || a.String("status") != want {
			t.Errorf("%s: %d %s", url, a.Status, a.Text)
		}
	}
}

// validate asks whether a node may call a service, as a command centre does.
func (h *home) validate(t *testing.T, node, key string) hubtest.Answer {
	t.Helper()
	return hubtest.Call(t, h.kitchen, hubtest.Request{Method: http.MethodPost, URL: hubtest.AuthURL + "/internal/validate-node", Header: h.app(),
		Body: map[string]string{"node_id": node, "node_key": key, "service_id": "command"}})
}

func TestCase201_BogusNode(t *testing.T) {
	h := newHome(t)
	for _, try := range []struct{ node, key, reason string }{
		{"bogus", "bogus", "Node not found"},
		{"kitchen", "bogus", "Invalid node credentials"},
		{"kitchen", h.denKey, "Invalid node credentials"},
	} {
		if a := h.validate(t, try.node, try.key); a.Status != 200 || a.JSON["valid"] != false || a.String("reason") != try.reason {
			t.Errorf("%s: %d %s; want %q", try.node, a.Status, a.Text, try.reason)
		}
	}
}

func TestCase202_SeededNode(t *testing.T) {
	h := newHome(t)
	a := h.validate(t, "kitchen", h.nodeKey)
	if a.Status != 200 || a.JSON["valid"] != true || a.String("node_id") != "kitchen" || a.String("household_id") != h.id {
		t.Errorf("%d %s", a.Status, a.Text)
	}
}

// TestCase216: a node that is not there, and TestCase217: a key without colon.
func TestCase216_217_NodeKeys(t *testing.T) {
	h := newHome(t)
	url := hubtest.CommandURL + "/api/v0/nodes/kitchen/config/pending"
	for _, key := range []string{"bogus:bogus", "kitchen:" + h.denKey, "kitchen:", "nocolonhere", h.nodeKey, ":"} {
		refuses(t, h.kitchen, hubtest.Request{Method: http.MethodGet, URL: url, Header: []string{"X-API-Key: " + key}}, 401, "Invalid API Key")
	}
	refuses(t, h.kitchen, hubtest.Request{Method: http.MethodGet, URL: url}, 401, "Invalid API Key")
	if a := hubtest.Call(t, h.kitchen, hubtest.Request{Method: http.MethodGet, URL: url, Header: []string{h.node()}}); a.Status != 200 {
		t.Errorf("the node itself: %d %s", a.Status, a.Text)
	}
}

func TestCase218_AdminKey(t *testing.T) {
	h := newHome(t)
	list := hubtest.Request{Method: http.MethodGet, URL: hubtest.CommandURL + "/api/v0/admin/nodes"}
	list.Header = []string{"X-API-Key: wrong"}
	refuses(t, h.kitchen, list, 401, "Invalid Admin API Key")
	list.Header = []string{"X-API-Key: " + h.adminKey}
	if a := hubtest.Call(t, h.kitchen, list); a.Status != 200 || !strings.Contains(a.Text, "kitchen") {
		t.Errorf("the right one: %d %s", a.Status, a.Text)
	}
	apps := hubtest.Request{Method: http.MethodGet, URL: hubtest.AuthURL + "/admin/app-clients"}
	apps.Header = []string{"X-Jarvis-Admin-Token: wrong"}
	refuses(t, h.kitchen, apps, 401, "Unauthorized")
	apps.Header = []string{"X-Jarvis-Admin-Token: " + h.adminKey}
	if a := hubtest.Call(t, h.kitchen, apps); a.Status != 200 || !strings.Contains(a.Text, "centre") {
		t.Errorf("the right one: %d %s", a.Status, a.Text)
	}
}

// TestCase219: a wrong app key, and TestCase220: none.
func TestCase219_220_AppKeys(t *testing.T) {
	h := newHome(t)
	for _, route := range []struct{ method, path string }{{"GET", "/internal/app-ping"}, {"POST", "/internal/validate-app"}} {
		r := hubtest.Request{Method: route.method, URL: hubtest.AuthURL + route.path}
		refuses(t, h.kitchen, r, 401, "Missing app credentials")
		r.Header = []string{"X-Jarvis-App-Id: centre", "X-Jarvis-App-Key: wrong"}
		refuses(t, h.kitchen, r, 401, "Invalid app credentials")
		r.Header = []string{"X-Jarvis-App-Id: bogus", "X-Jarvis-App-Key: " + h.appKey}
		refuses(t, h.kitchen, r, 401, "Invalid app credentials")
		r.Header = h.app()
		if a := hubtest.Call(t, h.kitchen, r); a.Status != 200 || a.String("app_id") != "centre" {
			t.Errorf("%s: %d %s", route.path, a.Status, a.Text)
		}
	}
}

// TestCase221: no Authorization; TestCase222: a Bearer that is none; and
// TestCase223: a factory reset by nobody.
func TestCase221_222_223_People(t *testing.T) {
	h := newHome(t)
	for _, r := range []hubtest.Request{
		{Method: http.MethodPost, URL: hubtest.CommandURL + "/api/v0/nodes/kitchen/settings/requests"},
		{Method: http.MethodGet, URL: hubtest.AuthURL + "/auth/me"},
	} {
		refuses(t, h.kitchen, r, 401, "Missing or invalid Authorization header")
		for _, word := range []string{"garbage", "a.b.c", "e30.e30.e30"} {
			r.Header = []string{"Authorization: Bearer " + word}
			refuses(t, h.kitchen, r, 401, "Invalid token")
		}
		r.Header = []string{"Authorization: Basic YW5uOmFubg=="}
		refuses(t, h.kitchen, r, 401, "Missing or invalid Authorization header")
	}
	reset := hubtest.Request{Method: http.MethodPost, URL: hubtest.CommandURL + "/api/v0/admin/nodes/kitchen/factory-reset"}
	if a := hubtest.Call(t, h.kitchen, reset); a.Status != 401 {
		t.Errorf("a factory reset by nobody: %d %s", a.Status, a.Text)
	}
}

// TestCase227: another node's request; TestCase228: one's own that is not
// there; TestCase229: another node's snapshot.
func TestCase227_228_229_OtherNodes(t *testing.T) {
	h := newHome(t)
	at := hubtest.CommandURL + "/api/v0/nodes/"
	refuses(t, h.kitchen, hubtest.Request{Method: http.MethodGet, URL: at + "den/settings/requests/bogus", Header: []string{h.node()}},
		403, "Cannot access other node's requests")
	refuses(t, h.kitchen, hubtest.Request{Method: http.MethodGet, URL: at + "kitchen/settings/requests/bogus", Header: []string{h.node()}},
		404, "Request not found")
	refuses(t, h.kitchen, hubtest.Request{Method: http.MethodPut, URL: at + "den/settings/requests/bogus/snapshot", Header: []string{h.node()},
		Body: map[string]any{"ciphertext": "AAAA", "nonce": "AAAAAAAAAAAAAAAA", "tag": "AAAAAAAAAAAAAAAAAAAAAA",
			"aad_schema_version": 1, "aad_commands_schema_version": 1, "aad_revision": 1}},
		403, "Cannot upload to other node's requests")
	ann := hubtest.SignIn(t, h.kitchen, "ann")
	a := hubtest.Call(t, h.kitchen, hubtest.Request{Method: http.MethodPost, URL: at + "kitchen/settings/requests", Header: []string{ann.Bearer()}})
	if a.Status != 201 || a.String("request_id") == "" {
		t.Fatalf("asking: %d %s", a.Status, a.Text)
	}
	got := hubtest.Call(t, h.kitchen, hubtest.Request{Method: http.MethodGet, URL: at + "kitchen/settings/requests/" + a.String("request_id"), Header: []string{h.node()}})
	if got.Status != 200 || got.String("request_id") != a.String("request_id") {
		t.Errorf("one's own: %d %s", got.Status, got.Text)
	}
}
