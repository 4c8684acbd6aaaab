package auth

import (
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer/account"
)

func TestCase104_Health(t *testing.T) {
	k := newStand(t)
	if a := k.from("thief", "GET", "/health", ""); a.code != 200 || a.json(t)["status"] != "ok" {
		t.Errorf("%d %s", a.code, a.text)
	}
}

// A node that nobody knows is no error: the answer is 200, and no.
func TestCase201_ValidateUnknownNode(t *testing.T) {
	k := newStand(t)
	k.want(k.cc("POST", "/internal/validate-node", `{"node_id":"bogus","node_key":"bogus","service_id":"cc"}`), 200,
		`{"valid":false,"node_id":null,"household_id":null,"household_member_ids":null,"addresses":null,"reason":"Node not found"}`)
	// Both names of the check of an app, and no body is needed.
	k.want(k.cc("GET", "/internal/app-ping", ""), 200, `{"app_id":"cc","name":"Command centre"}`)
	k.want(k.cc("POST", "/internal/validate-app", ""), 200, `{"valid":true,"app_id":"cc","name":"Command centre"}`)
}

func TestCase202_ValidateNode(t *testing.T) {
	k := newStand(t)
	body := func(id, key, service, address string) string {
		return k.url(`{"node_id":%q,"node_key":%q,"service_id":%q%s}`, id, key, service, address)
	}
	a := k.want(k.cc("POST", "/internal/validate-node", body("kitchen", k.node, "cc", "")), 200, `"valid":true`).json(t)
	if a["node_id"] != "kitchen" || a["household_id"] != string(k.h1) || len(a["household_member_ids"].([]any)) != 3 || a["reason"] != nil {
		t.Errorf("%v", a)
	}
	if at := a["addresses"].([]any); len(at) != 2 || at[0] != k.peer("kitchen").V4.String() || at[1] != k.peer("kitchen").V6.String() {
		t.Errorf("addresses %v", at)
	}
	for _, tt := range []struct{ id, key, service, address, reason string }{
		{"kitchen", k.node, "whisper", "", "Node is not authorized to access service 'whisper'"},
		{"kitchen", k.node, "", "", "Node is not authorized to access service ''"},
		{"kitchen", k.other, "cc", "", "Invalid node credentials"},
		{"kitchen", "", "cc", "", "Invalid node credentials"},
		{"", k.node, "cc", "", "Node not found"},
		{"kitchen", k.node, "cc", `,"address":"10.77.1.8"`, "Node is not at its own address"},
		{"kitchen", k.node, "cc", `,"address":"::ffff:10.77.1.6"`, "Node is not at its own address"},
		{"kitchen", k.node, "cc", `,"address":"10.77.1.200"`, "Node is not at its own address"},
		{"kitchen", k.node, "cc", `,"address":"kitchen"`, "Node is not at its own address"},
		{"kitchen", k.node, "cc", `,"address":""`, "Node is not at its own address"},
	} {
		k.want(k.cc("POST", "/internal/validate-node", body(tt.id, tt.key, tt.service, tt.address)), 200, k.url(`"reason":%q`, tt.reason))
	}
	k.want(k.cc("POST", "/internal/validate-node", body("kitchen", k.node, "cc", `,"address":"10.77.1.6"`)), 200, `"valid":true`)
	k.want(k.cc("POST", "/internal/validate-node", body("kitchen", k.node, "cc", k.url(`,"address":%q`, k.peer("kitchen").V6))), 200, `"valid":true`)

	k.want(k.adm("DELETE", "/admin/nodes/kitchen", ""), 200, `{"node_id":"kitchen","is_active":false}`)
	k.want(k.cc("POST", "/internal/validate-node", body("kitchen", k.node, "cc", "")), 200, `"reason":"Node is inactive"`)
}

// A node that has no machine yet becomes the first from which its key is
// proved, and no other after that.
func TestValidateNodeBinds(t *testing.T) {
	k := newStand(t)
	_, key, err := k.s.CreateNode(t.Context(), "hub", NewNode{ID: "new-pi", Name: "New", Household: k.h1, Services: []string{"cc"}})
	k.ok(err)
	ask := func(address string) answer {
		return k.cc("POST", "/internal/validate-node", k.url(`{"node_id":"new-pi","node_key":%q,"service_id":"cc"%s}`, key, address))
	}
	k.want(ask(""), 200, `"addresses":[]`)
	k.want(ask(`,"address":"10.77.1.5"`), 200, `"valid":true`)
	k.want(ask(`,"address":"10.77.1.8"`), 200, `"reason":"Node is not at its own address"`)
	k.want(ask(""), 200, `"10.77.1.5"`)
	// A machine that was removed takes its nodes' rights along.
	peers := append(k.roster.Load().All()[:0:0], k.roster.Load().All()...)
	for i := range peers {
		peers[i].Quarantined = peers[i].Name == "box"
	}
	k.setPeers(peers...)
	if v := must(k.s.validateNode(t.Context(), k.asApp(account.App{ID: "cc"}), proof{"new-pi", key, "cc", nil}))(t); v.reason != "Node is inactive" {
		t.Errorf("%+v", v)
	}
}

func TestCase216_BogusNode(t *testing.T) {
	k := newStand(t)
	h := k.asNode()
	k.want(k.serve(h, "kitchen", "GET", "/node", "", "X-API-Key: bogus:key"), 401, "Invalid API Key")
	k.want(k.serve(h, "kitchen", "GET", "/node", ""), 401, "Invalid API Key")
	k.want(k.serve(h, "kitchen", "GET", "/node", "", "X-API-Key: kitchen:"+k.node), 200, "kitchen")
}

func TestCase217_KeyWithoutColon(t *testing.T) {
	k := newStand(t)
	h := k.asNode()
	for _, key := range []string{k.node, "kitchen", ":", "kitchen:", ":" + k.node} {
		k.want(k.serve(h, "kitchen", "GET", "/node", "", "X-API-Key: "+key), 401, "Invalid API Key")
	}
}

func TestCase218_WrongAdminKey(t *testing.T) {
	k := newStand(t)
	k.want(k.adm("GET", "/admin/app-clients", ""), 200, `"app_id":"cc"`)
	k.want(k.from("ann-laptop", "GET", "/admin/app-clients", ""), 401, "Unauthorized")
	for _, key := range []string{"x", "console.x", k.admin + "x", k.admin[:len(k.admin)-1], "cc." + k.app, "console." + k.app} {
		a := k.from("ann-laptop", "GET", "/admin/app-clients", "", "X-Jarvis-Admin-Token: "+key)
		k.want(a, 401, "")
	}
	// The right key from another machine.
	k.want(k.from("thief", "GET", "/admin/app-clients", "", "X-Jarvis-Admin-Token: "+k.admin), 401, "")
	// A person without the right, and one with it.
	k.want(k.as("bob", "GET", "/admin/nodes", ""), 403, "")
	k.want(k.as("ann", "GET", "/admin/nodes", ""), 200, `"node_id":"attic"`)
}

func TestCase219_WrongAppKey(t *testing.T) {
	k := newStand(t)
	for _, key := range []string{"x", k.limited, k.app + "x"} {
		k.want(k.from("box", "GET", "/internal/app-ping", "", "X-Jarvis-App-Id: cc", "X-Jarvis-App-Key: "+key), 401, "Invalid app credentials")
		k.want(k.from("box", "POST", "/internal/validate-node", `{"node_id":"kitchen","node_key":"k","service_id":"cc"}`, "X-Jarvis-App-Id: cc", "X-Jarvis-App-Key: "+key), 401, "Invalid app credentials")
	}
	k.want(k.from("thief", "GET", "/internal/app-ping", "", "X-Jarvis-App-Id: cc", "X-Jarvis-App-Key: "+k.app), 401, "Invalid app credentials")
}

func TestCase220_NoAppHeaders(t *testing.T) {
	k := newStand(t)
	for _, path := range []string{"/internal/validate-node", "/internal/validate-app", "/internal/nodes/register"} {
		k.want(k.from("box", "POST", path, `{}`), 401, "Missing app credentials")
	}
	k.want(k.from("box", "GET", "/internal/app-ping", ""), 401, "Missing app credentials")
}

func TestCase221_NoAuthorization(t *testing.T) {
	k := newStand(t)
	k.want(k.from("ann-laptop", "GET", "/households", ""), 401, "Missing or invalid Authorization header")
	k.want(k.from("ann-laptop", "GET", "/superuser/users", ""), 401, "Missing or invalid Authorization header")
}

func TestCase222_UndecodableBearer(t *testing.T) {
	k := newStand(t)
	for _, token := range []string{"nonsense", "a.b.c", k.tokens["ann"] + "x"} {
		k.want(k.from("ann-laptop", "GET", "/households", "", "Authorization: Bearer "+token), 401, "Invalid token")
	}
	k.want(k.from("amy-phone", "GET", "/households", "", "Authorization: Bearer "+k.tokens["ann"]), 401, "Invalid token")
}

func TestHouseholdNodes(t *testing.T) {
	k := newStand(t)
	h := k.url("/households/%s/nodes", k.h1)
	body := func(id string, home account.HouseholdID) string {
		return k.url(`{"node_id":%q,"household_id":%q,"name":"Pi","services":["cc","auth","cc"]}`, id, home)
	}
	k.want(k.as("al", "POST", h, body("pi", k.h1)), 403, "")
	k.want(k.as("amy", "POST", h, body("pi", k.h2)), 400, "Household ID in payload must match URL")
	k.want(k.as("amy", "POST", h, body("kitchen", k.h1)), 400, "node_id already exists")
	a := k.want(k.as("amy", "POST", h, body("pi", k.h1)), 201, `"services":["auth","cc"]`).json(t)
	if a["registered_by_user_id"] != float64(k.users["amy"]) || len(a["node_key"].(string)) < 22 {
		t.Errorf("%v", a)
	}
	list := k.want(k.as("al", "GET", h, ""), 200, `"node_id":"pi"`)
	k.want(list, 200, `"last_rotated_at":null`)
	for _, word := range []string{"attic", k.node, a["node_key"].(string)} {
		if strings.Contains(list.text, word) {
			t.Errorf("the list has %q", word)
		}
	}
	// A machine of another household cannot be named.
	k.want(k.as("amy", "POST", h, k.url(`{"node_id":"pi2","household_id":%q,"name":"Pi","peer":"nobody"}`, k.h1)), 404, "Peer not found")
}

func TestAdminNodes(t *testing.T) {
	k := newStand(t)
	k.want(k.adm("POST", "/admin/nodes", k.url(`{"node_id":"pi","household_id":"x","name":"Pi"}`)), 404, "Household not found")
	k.want(k.adm("POST", "/admin/nodes", k.url(`{"node_id":"pi","household_id":%q,"name":"Pi","registered_by_user_id":99}`, k.h1)), 404, "User not found")
	k.want(k.adm("POST", "/admin/nodes", k.url(`{"node_id":"pi","household_id":%q,"name":"Pi","registered_by_user_id":null,"services":null}`, k.h1)), 201, `"registered_by_user_id":null`)
	k.want(k.adm("POST", "/admin/nodes", k.url(`{"node_id":"pi","household_id":%q,"name":"Pi"}`, k.h1)), 400, "node_id already exists")
	k.want(k.adm("POST", "/admin/nodes/pi/services", `{"service_id":"cc"}`), 201, `{"node_id":"pi","service_id":"cc","granted_at":`)
	k.want(k.adm("POST", "/admin/nodes/pi/services", `{"service_id":"cc"}`), 400, "Node already has access to this service")
	k.want(k.adm("POST", "/admin/nodes/none/services", `{"service_id":"cc"}`), 404, "Node not found")
	k.want(k.adm("GET", "/admin/nodes/pi", ""), 200, `"services":[{"service_id":"cc","granted_at":`)
	k.want(k.adm("DELETE", "/admin/nodes/pi/services/cc", ""), 204, "")
	k.want(k.adm("DELETE", "/admin/nodes/pi/services/cc", ""), 404, "Service access not found")
	k.want(k.adm("DELETE", "/admin/nodes/none/services/cc", ""), 404, "Service access not found")
	k.want(k.adm("POST", "/admin/nodes/pi/rotate-key", ""), 200, `"last_rotated_at":"`)
	k.want(k.adm("DELETE", "/admin/nodes/pi", ""), 200, `"is_active":false`)
	k.want(k.adm("GET", "/admin/nodes/pi", ""), 200, `"is_active":false`)
	k.want(k.adm("POST", "/admin/nodes/pi/rotate-key", ""), 409, "inactive")
	// Its own household can set it up anew; another cannot take its name.
	k.want(k.adm("POST", "/admin/nodes", k.url(`{"node_id":"pi","household_id":%q,"name":"Pi"}`, k.h2)), 400, "node_id already exists")
	k.want(k.adm("POST", "/admin/nodes", k.url(`{"node_id":"pi","household_id":%q,"name":"Pi"}`, k.h1)), 201, "")
	k.ok(k.s.RemoveNode(t.Context(), "local:0", "pi"))
	k.want(k.adm("GET", "/admin/nodes/pi", ""), 404, "Node not found")
}
