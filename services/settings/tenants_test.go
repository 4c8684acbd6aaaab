package settings

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services/router/routertest"
	"github.com/warrenmesh/warren/services/settings/k2"
)

// made are the ids of what waits for one node, and what it is called.
type made struct{ node, request, push, key, command string }

// make puts one of everything there for a node.
func (k *kit) make(who, node string, own k2.NodeKey) made {
	k.t.Helper()
	at := "/api/v0/nodes/" + node
	m := made{node: node}
	k.want(k.call(node, put, at+"/key", map[string]any{"public_key": own.Public().String()}), 200, "")
	m.request = k.want(k.call(who, post, at+"/settings/requests", nil), 201, "").text("request_id")
	body := k.sealed(node, "x", k2.Setting{Value: []byte(`{}`)}, map[string]any{"config_type": "x"})
	m.push = k.want(k.call(who, post, at+"/config/push", body), 201, "").text("id")
	s, err := k2.SealKey(own.Public(), node, k.key(), k2.Key{})
	if err != nil {
		k.t.Fatal(err)
	}
	m.key = k.want(k.call(who, post, at+"/k2", map[string]any{"sealed": s}), 202, "").text("request_id")
	m.command = k.want(k.call(who, post, "/api/v0/admin/nodes/"+node+"/factory-reset", nil), 202, "").text("request_id")
	return m
}

// send is a request with the case's own credentials: a node's from its machine.
func (k *kit) send(method, target string, header http.Header, body string) *http.Response {
	machine, _ := k.roster.ByName("phone")
	if id, _, ok := strings.Cut(header.Get("X-API-Key"), ":"); ok {
		machine, _ = k.roster.ByName(id)
	}
	r := httptest.NewRequestWithContext(k.t.Context(), method, "http://command.warren.internal"+target, strings.NewReader(body))
	r.Header = header
	r.RemoteAddr = netip.AddrPortFrom(machine.V4, 40000).String()
	w := httptest.NewRecorder()
	k.router.ServeHTTP(w, r.WithContext(peer.NewContext(r.Context(), machine)))
	return w.Result()
}

// node is a node's id, of ours and of theirs.
func node() routertest.Value { return routertest.Value{Own: "kitchen", Foreign: "hall"} }

func fixed(v string) routertest.Value {
	return routertest.Value{Own: v, Free: "another id of the same request is tried here"}
}

// one tries a node's id in a path, two the other id as well. A node is
// refused before anything is looked up, a person finds nothing.
func one(as http.Header, query, body string, status int) []routertest.Case {
	c := routertest.Case{Header: as, Values: map[string]routertest.Value{"path.id": node()}, Query: query, Body: body, Status: status}
	if as.Get("X-Api-Key") != "" {
		c.Refused = http.StatusForbidden
	}
	return []routertest.Case{c}
}

// two tries the other id of a path as well.
func two(as http.Header, name string, id routertest.Value, body string, status int) []routertest.Case {
	first := one(as, "", body, status)[0]
	first.Values[name] = fixed(id.Own)
	second := routertest.Case{Header: as, Values: map[string]routertest.Value{"path.id": fixed("kitchen"), name: id}, Body: body, Status: status}
	if status == 201 {
		second.Status = 409 // the first one has done it
	}
	return []routertest.Case{first, second}
}

// TestT02_SettingsRoutes tries bob's ids on every route, as ann and as her
// kitchen.
func TestT02_SettingsRoutes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) { walkSettings(t, newKitOn(t, storetest.Create(t, cfg))) })
}

func walkSettings(t *testing.T, k *kit) {
	own, err := k2.NewNodeKey()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := k.make("ann", "kitchen", own), k.make("bob", "hall", own)
	ann := http.Header{"Authorization": {"Bearer ann-token"}}
	kitchen := http.Header{"X-Api-Key": {"kitchen:the-key-of-kitchen"}}
	mine := func(of func(made) string) routertest.Value {
		return routertest.Value{Own: of(ours), Foreign: of(theirs)}
	}
	request, push := mine(func(m made) string { return m.request }), mine(func(m made) string { return m.push })
	key, command := mine(func(m made) string { return m.key }), mine(func(m made) string { return m.command })

	text := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	setting := text(k.sealed("kitchen", "y", k2.Setting{Value: []byte(`{}`)}, map[string]any{"config_type": "y"}))
	snapshot := text(k.sealed("kitchen", k2.Snapshot, k2.Setting{Value: []byte(`{}`)}, nil))
	sealed, err := k2.SealKey(own.Public(), "kitchen", k.key(), k2.Key{})
	if err != nil {
		t.Fatal(err)
	}
	public := text(map[string]any{"public_key": own.Public().String()})
	house := routertest.Value{Own: string(k.home), Foreign: string(k.guests)}
	const at = "/api/v0/nodes/{id}"
	routertest.Walk(t, k.router, k.send, routertest.Foreign{
		Household: string(k.guests), Canaries: []string{string(k.guests), "\"hall\"", theirs.request, theirs.push, theirs.key, theirs.command},
	}, map[string][]routertest.Case{
		"POST " + at + "/settings/requests":               one(ann, "", "", 201),
		"GET " + at + "/settings/requests/{rid}":          two(kitchen, "path.rid", request, "", 200),
		"GET " + at + "/settings/requests/{rid}/result":   two(ann, "path.rid", request, "", 200),
		"PUT " + at + "/settings/requests/{rid}/snapshot": two(kitchen, "path.rid", request, snapshot, 201),
		"POST " + at + "/config/push":                     one(ann, "", setting, 201),
		"GET " + at + "/config/pending":                   one(kitchen, "", "", 200),
		"GET " + at + "/config/version":                   one(ann, "config_type=x", "", 200),
		"GET " + at + "/config/pushes/{push_id}":          two(ann, "path.push_id", push, "", 200),
		"POST " + at + "/config/{push_id}/ack":            two(kitchen, "path.push_id", push, "{}", 200),
		"GET " + at + "/key":                              append(one(ann, "", "", 200), one(kitchen, "", "", 200)...),
		"PUT " + at + "/key":                              one(kitchen, "", public, 200),
		"POST " + at + "/key/approve":                     one(ann, "", public, 200),
		"POST " + at + "/k2":                              one(ann, "", text(map[string]any{"sealed": sealed}), 202),
		"GET " + at + "/k2/pending":                       one(kitchen, "", "", 200),
		"POST " + at + "/k2/ack/{push_id}":                two(kitchen, "path.push_id", key, "{}", 200),
		"GET " + at + "/k2/sent/{push_id}":                two(ann, "path.push_id", key, "", 200),
		"GET " + at + "/events":                           one(kitchen, "wait=0", "", 200),
		"POST " + at + "/commands/{push_id}/ack":          two(kitchen, "path.push_id", command, "{}", 200),
		"POST /api/v0/admin/nodes/{id}/factory-reset":     one(ann, "", "", 202),
		"GET /api/v0/admin/nodes":                         {{Header: ann, Status: 200}},
		"POST /api/v0/admin/nodes/heartbeat":              {{Header: kitchen, Values: map[string]routertest.Value{"body.node_id": node()}, Body: `{"node_id":"{body.node_id}"}`, Refused: 403}},
		"POST /api/v0/admin/nodes":                        {{Header: ann, Values: map[string]routertest.Value{"body.household_id": house, "body.node_id": fixed("attic")}, Body: `{"household_id":"{body.household_id}","node_id":"{body.node_id}"}`, Status: 201}},
		"POST /api/v0/provisioning/token":                 {{Header: ann, Values: map[string]routertest.Value{"body.household_id": house, "body.node_id": fixed("porch")}, Body: `{"household_id":"{body.household_id}","node_id":"{body.node_id}"}`, Status: 201}},
		"POST /api/v0/nodes/register":                     {{Header: http.Header{}, Values: map[string]routertest.Value{"body.node_id": node()}, Body: `{"node_id":"{body.node_id}","provisioning_token":"prov_none"}`, Refused: 401, Status: 401}},
	})
}
