package settings

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services/settings/k2"
)

const kitchen = "/api/v0/nodes/kitchen"

// list is a field that holds a list of objects.
func (r reply) list(name string) []map[string]any {
	var out []map[string]any
	all, _ := r.fields[name].([]any)
	for _, one := range all {
		m, _ := one.(map[string]any)
		out = append(out, m)
	}
	return out
}

// TestPush is the way of a setting, in both forms.
func TestPush(t *testing.T) {
	k := newKit(t)
	value := k2.Setting{Version: 3, Issued: time.Now(), Value: []byte(`{"wake":"hey"}`)}
	body := k.sealed("kitchen", "auth:x", value, map[string]any{"config_type": "auth:x", "version": 3})
	plain := k.sealed("kitchen", "node_config", k2.Setting{Value: []byte(`{}`)}, map[string]any{"config_type": "node_config"})
	k.want(k.call("bob", post, kitchen+"/config/push", body), 404, "Node not found")
	sent := k.want(k.call("amy", post, kitchen+"/config/push", body), 201, "")
	k.want(k.call("amy", post, kitchen+"/config/push", plain), 201, "")
	k.want(k.call("amy", post, kitchen+"/config/push", plain), 201, "")
	k.want(k.call("ann", post, kitchen+"/config/push", body), 409, "The node has been sent version 3 of this setting; send a higher one.")
	old := k.sealed("kitchen", "auth:x", k2.Setting{Value: []byte(`{}`)}, map[string]any{"config_type": "auth:x"})
	k.want(k.call("ann", post, kitchen+"/config/push", old), 409, "")
	if r := k.want(k.call("ann", get, kitchen+"/config/version?config_type=auth:x", nil), 200, ""); r.fields["version"] != 3.0 {
		t.Errorf("%s", r.body)
	}
	k.want(k.call("bob", get, kitchen+"/config/version?config_type=auth:x", nil), 404, "Node not found")

	k.want(k.call("bedroom", get, kitchen+"/config/pending", nil), 403, "Cannot access other node's config")
	pending := k.want(k.call("kitchen", get, kitchen+"/config/pending", nil), 200, "").list("pending")
	if len(pending) != 3 || pending[0]["id"] != sent.text("id") || pending[0]["ciphertext"] != body["ciphertext"] || pending[1]["config_type"] != "node_config" {
		t.Fatalf("%v", pending)
	}
	ack := kitchen + "/config/" + sent.text("id") + "/ack"
	k.want(k.call("bedroom", post, ack, nil), 403, "Cannot access other node's config")
	k.want(k.call("bedroom", post, strings.Replace(ack, "kitchen", "bedroom", 1), nil), 404, "Push not found")
	if r := k.want(k.call("kitchen", post, ack, map[string]any{"success": false, "error": "rollback"}), 200, ""); r.text("status") != "refused" {
		t.Errorf("%s", r.body)
	}
	// What was said first stays.
	if r := k.want(k.call("kitchen", post, ack, nil), 200, ""); r.text("status") != "refused" {
		t.Errorf("%s", r.body)
	}
	if r := k.want(k.call("ann", get, kitchen+"/config/pushes/"+sent.text("id"), nil), 200, ""); r.text("status") != "refused" || r.text("why") != "rollback" {
		t.Errorf("%s", r.body)
	}
	if left := k.call("kitchen", get, kitchen+"/config/pending", nil).list("pending"); len(left) != 2 {
		t.Errorf("%v", left)
	}
	for what, bad := range map[string]map[string]any{
		"a snapshot":       k.sealed("kitchen", k2.Snapshot, value, map[string]any{"config_type": k2.Snapshot, "version": 4}),
		"no version":       k.sealed("kitchen", "x", value, map[string]any{"config_type": "x"}),
		"a version of its": k.sealed("kitchen", "x", k2.Setting{}, map[string]any{"config_type": "x", "version": 1}),
		"a type of blanks": k.sealed("kitchen", "x", value, map[string]any{"config_type": "a b", "version": 1}),
		"clear text":       {"config_type": "x", "value": "secret", "ciphertext": "", "nonce": "", "tag": ""},
		"a short nonce":    {"config_type": "x", "ciphertext": "", "nonce": "AAAA", "tag": ""},
	} {
		if r := k.call("ann", post, kitchen+"/config/push", bad); r.status != 422 {
			t.Errorf("%s: %d %s", what, r.status, r.body)
		}
	}
}

// TestPushesAreBounded: what waits for a node that is off is limited, and what
// is done with makes room.
func TestPushesAreBounded(t *testing.T) {
	k := newKit(t)
	body := k.sealed("kitchen", "x", k2.Setting{Value: []byte(`{}`)}, map[string]any{"config_type": "x"})
	for i := range maxPending / maxPendingOne {
		who := fmt.Sprint("member", i)
		k.member(who)
		for range maxPendingOne {
			k.want(k.call(who, post, kitchen+"/config/push", body), 201, "")
		}
		k.want(k.call(who, post, kitchen+"/config/push", body), 409, "")
	}
	k.want(k.call("ann", post, kitchen+"/config/push", body), 409, "")
	for _, p := range k.call("kitchen", get, kitchen+"/config/pending", nil).list("pending") {
		k.want(k.call("kitchen", post, fmt.Sprintf("%s/config/%v/ack", kitchen, p["id"]), nil), 200, "")
	}
	k.want(k.call("ann", post, kitchen+"/config/push", body), 201, "")
	err := k.store.Data().View(t.Context(), account.NewScope(k.home, 0), func(sc account.Scoped) error {
		all, err := sc.Blobs(account.BlobPush, "kitchen")
		if len(all) > maxKept+1 {
			t.Errorf("%d are kept", len(all))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// member adds somebody to ann's household.
func (k *kit) member(name string) {
	k.t.Helper()
	err := k.store.Accounts().Keep(k.t.Context(), func(tx account.Tx) error {
		u, err := tx.CreateUser(account.User{Email: name + "@example.org"}, "$2a$12$none")
		if err != nil {
			return err
		}
		k.users[name] = u.ID
		return tx.PutMembership(account.Membership{Household: k.home, User: u.ID, Role: account.Member})
	})
	if err != nil {
		k.t.Fatal(err)
	}
}

// TestKeyThroughHub: K2 goes through the hub sealed to the node's key, or not at
// all, and another node key waits for a person.
func TestKeyThroughHub(t *testing.T) {
	k := newKit(t)
	own, err := k2.NewNodeKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := k2.NewNodeKey()
	if err != nil {
		t.Fatal(err)
	}
	pub := func(n k2.NodeKey) map[string]any { return map[string]any{"public_key": n.Public().String()} }
	state := func(want string) {
		t.Helper()
		if r := k.want(k.call("amy", get, kitchen+"/key", nil), 200, ""); r.text("state") != want {
			t.Fatalf("%s, not %s", r.body, want)
		}
	}
	send := func(to k2.NodeKey) reply {
		t.Helper()
		s, err := k2.SealKey(to.Public(), "kitchen", k.key(), k2.Key{})
		if err != nil {
			t.Fatal(err)
		}
		return k.call("ann", post, kitchen+"/k2", map[string]any{"sealed": s, "kid": k.key().ID()})
	}
	state("none")
	k.want(send(own), 409, "")
	k.want(k.call("bedroom", put, kitchen+"/key", pub(own)), 403, "Cannot publish other node's key")
	k.want(k.call("kitchen", put, kitchen+"/key", map[string]any{"public_key": base64.RawURLEncoding.EncodeToString(make([]byte, 32))}), 422, "")
	if r := k.want(k.call("kitchen", put, kitchen+"/key", pub(own)), 200, ""); r.text("fingerprint") != own.Public().Fingerprint() {
		t.Errorf("%s", r.body)
	}
	state("first")
	k.want(k.call("amy", post, kitchen+"/key/approve", pub(own)), 403, "")
	k.want(k.call("ann", post, kitchen+"/key/approve", pub(other)), 409, "")
	k.want(k.call("ann", post, kitchen+"/key/approve", pub(own)), 200, "")
	state("pinned")
	k.want(k.call("bob", get, kitchen+"/key", nil), 404, "Node not found")
	k.want(k.call("bedroom", get, kitchen+"/key", nil), 403, "Cannot access other node's key")

	// The node, or who has its node key, shows up with another key.
	k.want(k.call("kitchen", put, kitchen+"/key", pub(other)), 200, "")
	state("changed")
	k.want(send(other), 409, "")
	sent := k.want(send(own), 202, "")
	k.want(k.call("ann", post, kitchen+"/key/approve", pub(other)), 200, "")
	state("pinned")
	k.want(send(own), 409, "")

	if got := k.want(k.call("kitchen", get, kitchen+"/k2/pending", nil), 200, "").list("pending"); len(got) != 1 || got[0]["request_id"] != sent.text("request_id") {
		t.Fatalf("%v", got)
	}
	k.want(k.call("bedroom", get, kitchen+"/k2/pending", nil), 403, "Cannot access other node's keys")
	k.want(k.call("kitchen", post, kitchen+"/k2/ack/"+sent.text("request_id"), map[string]any{"success": true}), 200, "")
	if r := k.want(k.call("ann", get, kitchen+"/k2/sent/"+sent.text("request_id"), nil), 200, ""); r.text("status") != "acknowledged" {
		t.Errorf("%s", r.body)
	}
}

// TestClearKeyIsRefused: the hub takes no K2 that it could read, says why, and
// keeps nothing of it.
func TestClearKeyIsRefused(t *testing.T) {
	cfg := storetest.Config(t)
	k := newKitOn(t, storetest.Create(t, cfg))
	clear := base64.RawURLEncoding.EncodeToString(k.key().Reveal())
	for _, body := range []map[string]any{
		{"k2": clear, "kid": "k2-202611-abcdef", "created_at": "2026-11-01T00:00:00Z"},
		{"k2": map[string]any{"key": clear}}, {"k2": "", "kid": "k2-202611-abcdef"},
	} {
		r := k.want(k.call("ann", post, kitchen+"/k2", body), 422, "")
		if !strings.Contains(r.text("detail"), "seal it to the node's public key") || strings.Contains(r.body, clear) {
			t.Errorf("%s", r.body)
		}
	}
	k.want(k.call("ann", post, kitchen+"/k2", map[string]any{"kid": "k2-202611-abcdef"}), 422, "")
	if strings.Contains(k.log.String(), clear) {
		t.Error("the log has K2")
	}
}

// TestEvents: a held poll ends when something waits, says it once for each
// cursor, and says again what was not dealt with.
func TestEvents(t *testing.T) {
	k := newKit(t)
	first := k.want(k.call("kitchen", get, kitchen+"/events?wait=0", nil), 200, "")
	if len(first.list("events")) != 0 || first.text("cursor") == "" {
		t.Fatalf("%s", first.body)
	}
	k.want(k.call("bedroom", get, kitchen+"/events", nil), 403, "Cannot access other node's events")
	held := make(chan reply, 1)
	go func() {
		held <- k.call("kitchen", get, kitchen+"/events?wait=50&after="+first.text("cursor"), nil)
	}()
	rid := k.want(k.call("ann", post, kitchen+"/settings/requests?include_values=true", nil), 201, "").text("request_id")
	r := k.want(<-held, 200, "")
	e := r.list("events")
	if len(e) != 1 || e[0]["type"] != "settings_request" || e[0]["id"] != rid || e[0]["include_values"] != true {
		t.Fatalf("%s", r.body)
	}
	// Another node's and another household's work is not this node's.
	k.want(k.call("ann", post, "/api/v0/nodes/bedroom/settings/requests", nil), 201, "")
	if again := k.call("kitchen", get, kitchen+"/events?wait=0&after="+r.text("cursor"), nil); again.text("cursor") != r.text("cursor") {
		t.Errorf("%s", again.body)
	}
	k.want(k.call("ann", post, "/api/v0/admin/nodes/kitchen/factory-reset", nil), 202, "")
	e = k.call("kitchen", get, kitchen+"/events?wait=50&after="+r.text("cursor"), nil).list("events")
	if len(e) != 2 || e[0]["command"] != "factory-reset" {
		t.Fatalf("%v", e)
	}
	k.want(k.call("kitchen", post, fmt.Sprintf("%s/commands/%v/ack", kitchen, e[0]["id"]), nil), 200, "")
	ctx, cancel := context.WithCancel(t.Context())
	cursor := k.call("kitchen", get, kitchen+"/events?wait=0", nil).text("cursor")
	go func() { held <- k.callCtx(ctx, "kitchen", get, kitchen+"/events?wait=50&after="+cursor, nil) }()
	cancel()
	<-held
}

// TestProvisioning registers a machine with a token, once.
func TestProvisioning(t *testing.T) {
	k := newKit(t)
	want := map[string]any{"household_id": k.home, "room": "Attic", "name": "Attic", "node_id": "attic"}
	k.want(k.call("amy", post, "/api/v0/provisioning/token", want), 403, "")
	k.want(k.call("bob", post, "/api/v0/provisioning/token", want), 404, "Household not found")
	k.want(k.call("ann", post, "/api/v0/provisioning/token", map[string]any{"node_id": "kitchen"}), 400, "Node already registered")
	k.want(k.call("admin", post, "/api/v0/provisioning/token", map[string]any{}), 422, "")
	k.want(k.call("admin", post, "/api/v0/provisioning/token", map[string]any{"household_id": missingID}), 404, "Household not found")
	made := k.want(k.call("ann", post, "/api/v0/provisioning/token", want), 201, "")
	token := made.text("token")
	if !strings.HasPrefix(token, "prov_") || made.text("node_id") != "attic" || made.fields["expires_in"] != 600.0 {
		t.Errorf("%s", made.body)
	}
	const at = "/api/v0/nodes/register"
	// The attic has no node key yet: "Accept" is no credential at all.
	for _, bad := range []map[string]any{{"node_id": "attic", "provisioning_token": "prov_x"}, {"node_id": "hall", "provisioning_token": token}, {"node_id": "attic", "provisioning_token": ""}} {
		k.want(k.call("nobody", post, at, bad), 401, "Invalid or expired provisioning token")
	}
	good := map[string]any{"node_id": "attic", "provisioning_token": token}
	r := k.want(k.call("nobody", post, at, good), 201, "")
	if r.text("node_id") != "attic" || r.text("room") != "Attic" || r.text("node_key") == "" || r.text("user") == "" || r.text("voice_mode") == "" {
		t.Errorf("%s", r.body)
	}
	k.want(k.call("nobody", post, at, good), 401, "Invalid or expired provisioning token")
	err := k.store.Accounts().View(t.Context(), func(tx account.Tx) error {
		n, err := tx.Node("attic")
		if n.Household != k.home || n.Peer != "peer-phone" { // the machine that called
			t.Errorf("%+v", n)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if strings.Contains(k.log.String(), token) {
		t.Error("the log has a token")
	}
}

func TestProvisioningExpires(t *testing.T) {
	cfg := storetest.Config(t)
	now := time.Now()
	cfg.Now = func() time.Time { return now }
	k := newKitOn(t, storetest.Create(t, cfg))
	token := k.want(k.call("ann", post, "/api/v0/provisioning/token", map[string]any{"node_id": "attic"}), 201, "").text("token")
	now = now.Add(EnrolmentLife)
	k.want(k.call("nobody", post, "/api/v0/nodes/register", map[string]any{"node_id": "attic", "provisioning_token": token}), 401, "Invalid or expired provisioning token")
}

// TestAdminNodes lists, registers and hears of nodes.
func TestAdminNodes(t *testing.T) {
	k := newKit(t)
	if n := len(k.want(k.call("admin", get, "/api/v0/admin/nodes", nil), 200, "").list("nodes")); n != 3 {
		t.Errorf("an admin key sees %d nodes", n)
	}
	list := k.want(k.call("bob", get, "/api/v0/admin/nodes", nil), 200, "").list("nodes")
	if len(list) != 1 || list[0]["node_id"] != "hall" || list[0]["online"] != false || list[0]["last_seen"] != nil {
		t.Errorf("%v", list)
	}
	const beat = "/api/v0/admin/nodes/heartbeat"
	k.want(k.call("hall", post, beat, map[string]any{"node_id": "kitchen"}), 403, "Cannot speak for other nodes")
	k.want(k.call("nobody", post, beat, nil), 401, "")
	k.want(k.call("hall", post, beat, map[string]any{"node_id": "hall", "firmware_version": "1", "load": []int{1}}), 200, "")
	k.want(k.call("hall", post, beat, nil), 200, "")
	if list = k.call("bob", get, "/api/v0/admin/nodes", nil).list("nodes"); list[0]["online"] != true || list[0]["last_seen"] == nil {
		t.Errorf("%v", list)
	}
	k.want(k.call("bob", post, "/api/v0/admin/nodes", map[string]any{"node_id": "attic", "household_id": k.home}), 404, "Household not found")
	k.want(k.call("amy", post, "/api/v0/admin/nodes", map[string]any{"node_id": "attic"}), 403, "")
	if r := k.want(k.call("ann", post, "/api/v0/admin/nodes", map[string]any{"node_id": "attic"}), 201, ""); r.text("node_key") == "" || r.text("household_id") != string(k.home) {
		t.Errorf("%s", r.body)
	}
	if r := k.want(k.call("nobody", get, "/api/v0/ping", nil), 200, ""); r.text("message") != "pong" {
		t.Errorf("%s", r.body)
	}
	if r := k.want(k.call("nobody", get, "/health", nil), 200, ""); r.text("status") != "healthy" || r.text("service") != "command" || r.text("timestamp") == "" {
		t.Errorf("%s", r.body)
	}
}

// TestHubKeepsCiphertext reads everything that the store has of a household's
// settings, for what was sealed.
func TestHubKeepsCiphertext(t *testing.T) {
	k := newKit(t)
	const canary = "canary-in-the-kitchen"
	body := k.sealed("kitchen", "x", k2.Setting{Version: 1, Value: []byte(`"` + canary + `"`)}, map[string]any{"config_type": "x", "version": 1})
	k.want(k.call("ann", post, kitchen+"/config/push", body), 201, "")
	err := k.store.Data().View(t.Context(), account.NewScope(k.home, 0), func(sc account.Scoped) error {
		all, err := sc.Blobs(account.BlobPush, "kitchen")
		for _, b := range all {
			var p push
			if err := json.Unmarshal(b.Payload, &p); err != nil {
				return err
			}
			raw, err := base64.RawURLEncoding.DecodeString(p.Sealed.Ciphertext)
			if err != nil {
				return err
			}
			if strings.Contains(string(b.Payload)+string(raw), canary) {
				t.Error("the hub can read a setting")
			}
		}
		return err
	})
	if err != nil || strings.Contains(k.log.String(), canary) {
		t.Error(err, "or the log has a setting")
	}
}
