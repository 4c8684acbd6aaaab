package settings

import (
	"net/http"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/services/settings/k2"
)

const (
	get  = http.MethodGet
	post = http.MethodPost
	put  = http.MethodPut
)

const missingID = "00000000-0000-4000-8000-000000000000"

// TestCase227_OtherNodesRequest: whose request it is is checked before whether
// there is one.
func TestCase227_OtherNodesRequest(t *testing.T) {
	k := newKit(t)
	rid := k.want(k.call("ann", post, "/api/v0/nodes/kitchen/settings/requests", nil), 201, "").text("request_id")
	for _, id := range []string{rid, missingID, "x"} {
		a := k.want(k.call("bedroom", get, "/api/v0/nodes/kitchen/settings/requests/"+id, nil), 403, "Cannot access other node's requests")
		b := k.want(k.call("hall", get, "/api/v0/nodes/nowhere/settings/requests/"+id, nil), 403, "Cannot access other node's requests")
		if a.body != b.body {
			t.Errorf("%q differs from %q", a.body, b.body)
		}
	}
	k.want(k.call("kitchen", get, "/api/v0/nodes/kitchen/settings/requests/"+rid, nil), 200, "")
}

func TestCase228_OwnMissingRequest(t *testing.T) {
	k := newKit(t)
	k.want(k.call("kitchen", get, "/api/v0/nodes/kitchen/settings/requests/"+missingID, nil), 404, "Request not found")
	// The request of a node in the same household is missing under one's own name.
	rid := k.call("ann", post, "/api/v0/nodes/bedroom/settings/requests", nil).text("request_id")
	k.want(k.call("kitchen", get, "/api/v0/nodes/kitchen/settings/requests/"+rid, nil), 404, "Request not found")
}

func TestCase229_OtherNodesSnapshot(t *testing.T) {
	k := newKit(t)
	rid := k.call("ann", post, "/api/v0/nodes/kitchen/settings/requests", nil).text("request_id")
	body := k.sealed("kitchen", k2.Snapshot, k2.Setting{Value: []byte("{}")}, map[string]any{"aad_schema_version": 1})
	for _, id := range []string{rid, missingID} {
		k.want(k.call("bedroom", put, "/api/v0/nodes/kitchen/settings/requests/"+id+"/snapshot", body), 403, "Cannot upload to other node's requests")
	}
	k.want(k.call("ann", get, "/api/v0/nodes/kitchen/settings/requests/"+rid+"/result", nil), 202, "")
}

func TestCase216_BogusNode(t *testing.T) {
	k := newKit(t)
	for _, header := range []string{"X-API-Key: nowhere:nokey", "X-API-Key: kitchen:wrong", "X-API-Key: kitchen:the-key-of-kitchen"} {
		// The last one is right, and comes from another machine.
		k.want(k.call(header, get, "/api/v0/nodes/kitchen/config/pending", nil), 401, "Invalid API Key")
	}
	k.want(k.call("nobody", get, "/api/v0/nodes/kitchen/config/pending", nil), 401, "")
}

func TestCase217_KeyWithoutColon(t *testing.T) {
	k := newKit(t)
	for _, header := range []string{"X-API-Key: the-key-of-kitchen", "X-API-Key: kitchen", "X-API-Key: root.admin-secret"} {
		k.want(k.call(header, get, "/api/v0/nodes/kitchen/config/pending", nil), 401, "Invalid API Key")
	}
}

func TestCase218_WrongAdminKey(t *testing.T) {
	k := newKit(t)
	k.want(k.call("X-API-Key: wrong", get, "/api/v0/admin/nodes", nil), 401, "Invalid Admin API Key")
	k.want(k.call("admin", get, "/api/v0/admin/nodes", nil), 200, "")
}

func TestCase221_NoAuthorization(t *testing.T) {
	k := newKit(t)
	k.want(k.call("nobody", post, "/api/v0/nodes/kitchen/settings/requests", nil), 401, "Missing or invalid Authorization header")
}

func TestCase222_UndecodableBearer(t *testing.T) {
	k := newKit(t)
	for _, token := range []string{"not.a.token", "%%%"} {
		k.want(k.call("Authorization: Bearer "+token, post, "/api/v0/nodes/kitchen/settings/requests", nil), 401, "Invalid token")
	}
}

func TestCase223_ResetWithoutAuth(t *testing.T) {
	k := newKit(t)
	k.want(k.call("nobody", post, "/api/v0/admin/nodes/kitchen/factory-reset", nil), 401, "")
	k.want(k.call("amy", post, "/api/v0/admin/nodes/kitchen/factory-reset", nil), 403, "")
	k.want(k.call("bob", post, "/api/v0/admin/nodes/kitchen/factory-reset", nil), 404, "Node not found")
	k.want(k.call("ann", post, "/api/v0/admin/nodes/kitchen/factory-reset", nil), 202, "")
	k.want(k.call("admin", post, "/api/v0/admin/nodes/hall/factory-reset", nil), 202, "")
	k.want(k.call("admin", post, "/api/v0/admin/nodes/nowhere/factory-reset", nil), 404, "Node not found")
}

// TestSnapshot is the whole way of a settings request.
func TestSnapshot(t *testing.T) {
	k := newKit(t)
	const at = "/api/v0/nodes/kitchen/settings/requests"
	k.want(k.call("amy", post, at, nil), 403, "")
	k.want(k.call("bob", post, at, nil), 404, "Node not found")
	asked := k.want(k.call("ann", post, at+"?include_values=true", nil), 201, "")
	rid := asked.text("request_id")
	if asked.text("status") != "pending" || asked.text("node_id") != "kitchen" {
		t.Errorf("%s", asked.body)
	}
	made, err := time.Parse(time.RFC3339, asked.text("created_at"))
	if ends, err2 := time.Parse(time.RFC3339, asked.text("expires_at")); err != nil || err2 != nil || ends.Sub(made) != RequestLife {
		t.Errorf("%s", asked.body)
	}
	if r := k.want(k.call("kitchen", get, at+"/"+rid, nil), 200, ""); r.fields["include_values"] != true {
		t.Errorf("%s", r.body)
	}
	more := map[string]any{"aad_schema_version": 3, "aad_commands_schema_version": "7", "aad_revision": "abc"}
	body := k.sealed("kitchen", k2.Snapshot, k2.Setting{Value: []byte(`{"settings":[]}`)}, more)
	if r := k.want(k.call("ann", get, at+"/"+rid+"/result", nil), 202, ""); r.text("status") != "pending" || r.text("message") == "" || r.text("request_id") != rid {
		t.Errorf("%s", r.body)
	}
	bad := map[string]any{"ciphertext": body["ciphertext"], "nonce": "", "tag": body["tag"]}
	k.want(k.call("kitchen", put, at+"/"+rid+"/snapshot", bad), 422, "")
	done := k.want(k.call("kitchen", put, at+"/"+rid+"/snapshot", body), 201, "")
	k.want(k.call("kitchen", put, at+"/"+rid+"/snapshot", body), 409, "Request is not pending")
	r := k.want(k.call("amy", get, at+"/"+rid+"/result", nil), 200, "")
	snap, _ := r.fields["snapshot"].(map[string]any)
	aad, _ := snap["aad"].(map[string]any)
	if r.text("status") != "fulfilled" || snap["snapshot_id"] != done.text("snapshot_id") || snap["ciphertext"] != body["ciphertext"] ||
		aad["node_id"] != "kitchen" || aad["request_id"] != rid || aad["schema_version"] != 3.0 || aad["commands_schema_version"] != "7" || aad["revision"] != "abc" {
		t.Errorf("%s", r.body)
	}
	k.want(k.call("bob", get, at+"/"+rid+"/result", nil), 404, "Request not found")
	k.want(k.call("ann", get, "/api/v0/nodes/bedroom/settings/requests/"+rid+"/result", nil), 404, "Request not found")
}

// TestRequestExpires winds the store's clock on: 410 comes after 403 and 404.
func TestRequestExpires(t *testing.T) {
	cfg := storetest.Config(t)
	now := time.Now()
	cfg.Now = func() time.Time { return now }
	k := newKitOn(t, storetest.Create(t, cfg))
	const at = "/api/v0/nodes/kitchen/settings/requests"
	rid := k.want(k.call("ann", post, at, nil), 201, "").text("request_id")
	now = now.Add(RequestLife - time.Second)
	k.want(k.call("kitchen", get, at+"/"+rid, nil), 200, "")
	now = now.Add(time.Second)
	k.want(k.call("kitchen", get, at+"/"+rid, nil), 410, "Request expired")
	body := k.sealed("kitchen", k2.Snapshot, k2.Setting{Value: []byte(`{}`)}, nil)
	k.want(k.call("kitchen", put, at+"/"+rid+"/snapshot", body), 410, "Request expired")
	k.want(k.call("ann", get, at+"/"+rid+"/result", nil), 410, "Request expired")
	k.want(k.call("bedroom", get, at+"/"+rid, nil), 403, "Cannot access other node's requests")
	// Another request does not clear it away yet.
	k.want(k.call("ann", post, at, nil), 201, "")
	k.want(k.call("kitchen", get, at+"/"+rid, nil), 410, "Request expired")
}
