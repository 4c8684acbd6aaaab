package auth

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer/account"
)

func TestAppClients(t *testing.T) {
	k := newStand(t)
	k.want(k.adm("POST", "/admin/app-clients", `{"app_id":"cc","name":"Again"}`), 400, "app_id already exists")
	k.want(k.adm("POST", "/admin/app-clients", `{"app_id":"x","name":"X","households":["none"]}`), 404, "Household not found")
	k.want(k.adm("POST", "/admin/app-clients", `{"app_id":"x","name":"X","peer":"nobody"}`), 404, "Peer not found")
	made := k.want(k.adm("POST", "/admin/app-clients", `{"app_id":"tts","name":"Speech"}`), 201, `"last_rotated_at":null`).json(t)
	key := made["key"].(string)
	ping := func(key string) answer {
		return k.from("kitchen", "GET", "/internal/app-ping", "", "X-Jarvis-App-Id: tts", "X-Jarvis-App-Key: "+key)
	}
	k.want(ping(key), 200, `{"app_id":"tts","name":"Speech"}`)
	list := k.want(k.adm("GET", "/admin/app-clients", ""), 200, `"app_id":"tts","name":"Speech","is_active":true`)
	if strings.Contains(list.text, key) || strings.Contains(list.text, k.app) {
		t.Error("the list has a key")
	}
	second := k.want(k.adm("POST", "/admin/app-clients/tts/rotate", ""), 200, `"last_rotated_at":"`).json(t)["key"].(string)
	k.want(ping(key), 200, "")
	k.want(ping(second), 200, "")
	k.want(k.adm("POST", "/admin/app-clients/tts/revoke", ""), 200, `{"app_id":"tts","is_active":false}`)
	k.want(ping(key), 401, "Invalid app credentials")
	k.want(ping(second), 401, "Invalid app credentials")
	// Rotating brings a revoked app back, with the new key alone.
	third := k.want(k.adm("POST", "/admin/app-clients/tts/rotate", ""), 200, "").json(t)["key"].(string)
	k.want(ping(third), 200, "")
	k.want(ping(second), 401, "")
	k.want(k.adm("POST", "/admin/app-clients/none/rotate", ""), 404, "App client not found")
	k.want(k.adm("POST", "/admin/app-clients/none/revoke", ""), 404, "App client not found")
	// The admin's own key can be ended with itself.
	k.want(k.adm("POST", "/admin/app-clients/console/revoke", ""), 200, "")
	k.want(k.adm("GET", "/admin/app-clients", ""), 401, "")
}

// A service can ask about an app that calls it: its key, what it may call, and
// whether it called from its own machine.
func TestValidateOtherApp(t *testing.T) {
	k := newStand(t)
	k.ok(k.s.ScopeApp(t.Context(), "local:0", "small", []string{"tts"}, []account.HouseholdID{k.h1}))
	ask := func(id, key, service, address string) answer {
		return k.cc("POST", "/internal/validate-app", k.url(`{"app_id":%q,"app_key":%q,"service_id":%q,"address":%q}`, id, key, service, address))
	}
	k.want(ask("small", k.limited, "tts", "10.77.1.5"), 200, `{"valid":true,"app_id":"small","name":"Small","addresses":["10.77.1.5"`)
	k.want(ask("small", k.limited, "auth", "10.77.1.5"), 200, `"reason":"App is not authorized to access service 'auth'"`)
	k.want(ask("small", k.limited, "tts", "10.77.1.8"), 200, `"reason":"App is not at its own address"`)
	k.want(ask("small", k.limited, "tts", ""), 200, `"reason":"App is not at its own address"`)
	for _, bad := range []string{k.app, "", k.limited + "x"} {
		k.want(ask("small", bad, "tts", "10.77.1.5"), 200, `{"valid":false,"reason":"Invalid app credentials"}`)
	}
	k.want(ask("none", k.app, "tts", "10.77.1.5"), 200, `{"valid":false,"reason":"Invalid app credentials"}`)
}

func TestInternalNodes(t *testing.T) {
	k := newStand(t)
	body := k.url(`{"node_id":"pi","household_id":%q,"name":"Pi"}`, k.h1)
	made := k.want(k.cc("POST", "/internal/nodes/register", body), 201, `"node_id":"pi","node_key":"`)
	if m := made.json(t); len(m) != 2 {
		t.Errorf("%v", m)
	}
	k.want(k.cc("POST", "/internal/nodes/register", body), 400, "node_id already exists")
	k.want(k.cc("POST", "/internal/nodes/register", `{"node_id":"p2","household_id":"none","name":"Pi"}`), 404, "Household not found")
	k.want(k.cc("POST", "/internal/nodes/register", k.url(`{"node_id":"p2","household_id":%q,"name":"Pi","registered_by_user_id":%d}`, k.h1, k.users["bob"])), 404, "User not found")
	k.want(k.cc("POST", "/internal/nodes/register", k.url(`{"node_id":"p2","household_id":%q,"name":"Pi","services":["whisper"]}`, k.h1)), 403, "")
	// Who registers a node may be called by it.
	k.want(k.adm("GET", "/admin/nodes/pi", ""), 200, `"service_id":"cc"`)
	k.want(k.cc("POST", "/internal/nodes/pi/services", `{"service_id":"auth"}`), 201, `"service_id":"auth"`)
	k.want(k.cc("POST", "/internal/nodes/pi/services", `{"service_id":"auth"}`), 400, "Node already has access to this service")
	k.want(k.cc("DELETE", "/internal/nodes/pi/services/auth", ""), 204, "")
	k.want(k.cc("DELETE", "/internal/nodes/pi/services/auth", ""), 404, "Service access not found")
	k.want(k.cc("DELETE", "/internal/nodes/pi", ""), 200, `{"node_id":"pi","is_active":false}`)
}

func TestValidateHouseholdAccess(t *testing.T) {
	k := newStand(t)
	ask := func(name string, h account.HouseholdID, role string) answer {
		return k.cc("POST", "/internal/validate-household-access", k.url(`{"user_id":%d,"household_id":%q,"required_role":%q}`, k.users[name], h, role))
	}
	k.want(ask("amy", k.h1, "power_user"), 200, k.url(`{"valid":true,"user_id":%d,"household_id":"%s","role":"power_user","reason":null}`, k.users["amy"], k.h1))
	k.want(ask("amy", k.h1, "member"), 200, `"role":"power_user"`)
	k.want(ask("amy", k.h1, "admin"), 200, `{"valid":false,"user_id":null,"household_id":null,"role":null,"reason":"User has power_user role, requires admin or higher"}`)
	k.want(ask("amy", k.h2, "member"), 200, `"reason":"User is not a member of this household"`)
	k.want(ask("nobody", k.h1, "member"), 200, `"reason":"User is not a member of this household"`)
	k.want(ask("amy", k.h1, "owner"), 422, "")
	k.ok(k.store.Do(t.Context(), account.Event{Actor: "hub", Action: "test", Target: "user"}, func(tx account.Tx) error {
		u := must(tx.User(k.users["amy"]))(t)
		u.Disabled = true
		return tx.UpdateUser(u)
	}))
	k.want(ask("amy", k.h1, "member"), 200, `"valid":false`)

	node := func(id string, h account.HouseholdID) answer {
		return k.cc("POST", "/internal/validate-node-household", k.url(`{"node_id":%q,"household_id":%q}`, id, h))
	}
	k.want(node("kitchen", k.h1), 200, k.url(`{"valid":true,"node_id":"kitchen","household_id":"%s","reason":null}`, k.h1))
	k.want(node("kitchen", k.h2), 200, `{"valid":false,"node_id":null,"household_id":null,"reason":"Node does not belong to this household"}`)
	k.want(node("none", k.h1), 200, `"reason":"Node not found"`)
}

func TestUsersBatch(t *testing.T) {
	k := newStand(t)
	ann, bob := k.users["ann"], k.users["bob"]
	want := k.url(`{"users":{"%d":"ann","%d":"bob"}}`, ann, bob)
	for _, query := range []string{"user_ids=%d&user_ids=%d", "user_ids=%d,%d", "user_ids=%d,%d,9999"} {
		if a := k.cc("GET", "/internal/users/batch?"+fmt.Sprintf(query, ann, bob), ""); a.code != 200 || a.text != want {
			t.Errorf("%s: %d %s", query, a.code, a.text)
		}
	}
	k.want(k.small("GET", k.url("/internal/users/batch?user_ids=%d,%d", ann, bob), ""), 200, k.url(`{"users":{"%d":"ann"}}`, ann))
	var many []string
	for i := range 101 {
		many = append(many, fmt.Sprint(i+1))
	}
	k.want(k.cc("GET", "/internal/users/batch?user_ids="+strings.Join(many, ","), ""), 400, "At most 100")
	k.want(k.cc("GET", "/internal/users/batch?user_ids="+strings.Join(many[:100], ","), ""), 200, "")
	for _, bad := range []string{"user_ids=x", "user_ids=-1", "user_ids=01", "user_ids=1;2", "ids=1"} {
		if a := k.cc("GET", "/internal/users/batch?"+bad, ""); a.code < 400 || a.code >= 500 {
			t.Errorf("%s: %d %s", bad, a.code, a.text)
		}
	}
}

func TestSuperuser(t *testing.T) {
	k := newStand(t)
	for _, path := range []string{"/superuser/households", "/superuser/nodes", "/superuser/users"} {
		k.want(k.as("bob", "GET", path, ""), 403, "")
		k.want(k.as("ann", "GET", path, ""), 200, "")
	}
	k.want(k.as("ann", "GET", "/superuser/users", ""), 200, k.url(`"email":"bob@example.org","username":"bob","is_active":true,"is_superuser":false,"must_change_password":false`))
	k.want(k.as("ann", "GET", "/superuser/users", ""), 200, `"household_name":"Second","role":"admin"`)
	path := k.url("/superuser/users/%d/temp-password", k.users["bob"])
	k.want(k.as("bob", "POST", path, ""), 403, "")
	k.want(k.as("ann", "POST", "/superuser/users/9999/temp-password", ""), 404, "User not found")
	for _, bad := range []string{`{"temp_password":"short"}`, `{"expires_in_hours":0}`, `{"expires_in_hours":169}`} {
		k.want(k.as("ann", "POST", path, bad), 422, "")
	}
	k.want(k.as("bob", "GET", "/households", ""), 200, "")
	got := k.want(k.as("ann", "POST", path, ""), 200, `"must_change_password":true`).json(t)
	if len(got["temp_password"].(string)) < 20 {
		t.Errorf("%v", got)
	}
	k.want(k.as("bob", "GET", "/households", ""), 401, "")
	k.ok(k.store.View(t.Context(), func(tx account.Tx) error {
		u := must(tx.User(k.users["bob"]))(t)
		if left := u.TempUntil.Sub(tx.Now()); !u.MustChange || left < 23*time.Hour || left > 24*time.Hour {
			t.Errorf("%+v", u)
		}
		return nil
	}))
	k.want(k.as("ann", "POST", path, `{"temp_password":"a password of mine","expires_in_hours":2}`), 200, `"temp_password":"a password of mine"`)
	k.ok(k.store.Do(t.Context(), account.Event{Actor: "hub", Action: "test", Target: "user"}, func(tx account.Tx) error {
		u := must(tx.User(k.users["bob"]))(t)
		u.Disabled = true
		return tx.UpdateUser(u)
	}))
	k.want(k.as("ann", "POST", path, ""), 409, "deactivated")
}
