package hub_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/services/settings/k2"
)

// TestSettingsEndToEnd sends K2 and a setting from a phone to a node that runs
// what spokes run, and asks for a snapshot: the hub in between has the real
// routes, and no key.
func TestSettingsEndToEnd(t *testing.T) {
	h := newHome(t)
	phone := h.Join("phone", control.PeerSpec{Owner: "ann"})
	ann := hubtest.SignIn(t, phone, "ann")
	call := func(method, path string, body any, status int) hubtest.Answer {
		t.Helper()
		a := hubtest.Call(t, phone, hubtest.Request{Method: method, URL: hubtest.CommandURL + "/api/v0/nodes/kitchen" + path, Header: []string{ann.Bearer()}, Body: body})
		if status != 0 && a.Status != status {
			t.Fatalf("%s %s: %d %s", method, path, a.Status, a.Text)
		}
		return a
	}
	node := h.kitchen.Settings()
	if err := node.SetNode("kitchen", h.nodeKey); err != nil {
		t.Fatal(err)
	}
	hubtest.Until(t, "the node has published its key", slowly(func() bool { return call(http.MethodGet, "/key", nil, 200).String("state") == "first" }))
	st, err := node.Status()
	shown := call(http.MethodGet, "/key", nil, 200)
	if err != nil || st.Fingerprint != shown.String("fingerprint") {
		t.Fatalf("%+v, %v, %s", st, err, shown.Text)
	}
	to, err := k2.ParsePublicKey(shown.String("public_key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := k2.NewKey(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := k2.SealKey(to, "kitchen", key, k2.Key{})
	if err != nil {
		t.Fatal(err)
	}
	clear := map[string]any{"k2": base64.RawURLEncoding.EncodeToString(key.Reveal()), "kid": key.ID()}
	call(http.MethodPost, "/k2", clear, 422)
	sent := call(http.MethodPost, "/k2", map[string]any{"sealed": sealed}, 202)
	hubtest.Until(t, "the node has the key", slowly(func() bool {
		return call(http.MethodGet, "/k2/sent/"+sent.String("request_id"), nil, 200).String("status") == "acknowledged"
	}))
	if st, err := node.Status(); err != nil || st.KID != key.ID() || st.Check != key.Check() || st.Compared {
		t.Errorf("%+v, %v", st, err)
	}

	if got := pushTo(t, key, call, 2, `{"token":"abc"}`); got != "acknowledged" {
		t.Errorf("a setting is %s", got)
	}
	if v, err := node.Get("auth:x"); err != nil || string(v) != `{"token":"abc"}` {
		t.Errorf("%s, %v", v, err)
	}
	snapshotOf(t, key, call)
}

// slowly asks a question that costs a request no more often than the rate limit
// lets it be asked.
func slowly(ask func() bool) func() bool {
	var last time.Time
	return func() bool {
		if time.Since(last) < 50*time.Millisecond {
			return false
		}
		last = time.Now()
		return ask()
	}
}

// caller makes a request about the kitchen, as ann.
type caller func(method, path string, body any, status int) hubtest.Answer

// pushTo sends a setting and waits for what the node says.
func pushTo(t *testing.T, key k2.Key, call caller, version uint64, value string) string {
	t.Helper()
	s, err := key.Seal("kitchen", "auth:x", k2.Setting{Version: version, Issued: time.Now(), Value: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	a := call(http.MethodPost, "/config/push", map[string]any{"config_type": "auth:x", "version": version, "ciphertext": s.Ciphertext, "nonce": s.Nonce, "tag": s.Tag}, 201)
	var state hubtest.Answer
	hubtest.Until(t, "the node says what it thinks of a setting", slowly(func() bool {
		state = call(http.MethodGet, "/config/pushes/"+a.String("id"), nil, 200)
		return state.String("status") != "pending"
	}))
	return state.String("status")
}

// snapshotOf asks a node for its settings and opens what it answers.
func snapshotOf(t *testing.T, key k2.Key, call caller) {
	t.Helper()
	asked := call(http.MethodPost, "/settings/requests?include_values=true", nil, 201)
	var a hubtest.Answer
	hubtest.Until(t, "the node has answered", slowly(func() bool {
		a = call(http.MethodGet, "/settings/requests/"+asked.String("request_id")+"/result", nil, 0)
		return a.Status == http.StatusOK
	}))
	var result struct{ Snapshot k2.Sealed }
	if err := json.Unmarshal([]byte(a.Text), &result); err != nil {
		t.Fatal(err)
	}
	s, err := key.Open("kitchen", k2.Snapshot, result.Snapshot)
	if err != nil {
		t.Fatal(err)
	}
	var snap struct {
		Settings []struct {
			Type    string
			Version uint64
			Value   []byte
		}
	}
	if err := json.Unmarshal(s.Value, &snap); err != nil || len(snap.Settings) != 1 || snap.Settings[0].Version != 2 || string(snap.Settings[0].Value) != `{"token":"abc"}` {
		t.Errorf("%s, %v", s.Value, err)
	}
}
