package spoke

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/services/settings/k2"
	"github.com/warrenmesh/warren/spoke/vault"
)

const nodeKeyText = "0123456789abcdef0123456789abcdef"

// carrier is a hub of which nothing is to be trusted: it serves what the test
// puts there, and writes down what it is told.
type carrier struct {
	mu     gosync.Mutex
	turn   int
	events []settingsEvent
	keys   map[string]k2.SealedKey
	pushes []map[string]any
	acks   map[string]string // by path
	snaps  []k2.Sealed
	pub    string
	told   chan struct{}
}

func (c *carrier) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/api/v0/nodes/kitchen")
	if r.Header.Get("X-API-Key") != "kitchen:"+nodeKeyText || path == r.URL.Path {
		http.Error(w, `{"detail":"Invalid API Key"}`, http.StatusUnauthorized)
		return
	}
	body, _ := io.ReadAll(r.Body)
	if path == "/events" {
		c.wait(w, r)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var out any = struct{}{}
	switch {
	case path == "/key":
		var in struct {
			Key string `json:"public_key"`
		}
		_ = json.Unmarshal(body, &in)
		c.pub = in.Key
	case path == "/k2/pending":
		list := []any{}
		for id, s := range c.keys {
			list = append(list, map[string]any{"request_id": id, "sealed": s})
		}
		out = map[string]any{"pending": list}
	case path == "/config/pending":
		out = map[string]any{"pending": c.pushes}
	case strings.HasSuffix(path, "/snapshot"):
		var s k2.Sealed
		_ = json.Unmarshal(body, &s)
		c.snaps = append(c.snaps, s)
		c.acks[path] = "snapshot"
	case r.Method == http.MethodPost:
		var v struct {
			Success bool
			Error   string
		}
		_ = json.Unmarshal(body, &v)
		c.acks[path] = fmt.Sprint(v.Success, " ", v.Error)
	}
	_ = json.NewEncoder(w).Encode(out)
	select {
	case c.told <- struct{}{}:
	default:
	}
}

// wait answers a poll once there is another turn than the one that is known.
func (c *carrier) wait(w http.ResponseWriter, r *http.Request) {
	for {
		c.mu.Lock()
		turn, events := fmt.Sprint(c.turn), c.events
		c.mu.Unlock()
		if turn != r.URL.Query().Get("after") {
			_ = json.NewEncoder(w).Encode(map[string]any{"events": events, "cursor": turn})
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// serve puts something there for the next turn and returns what the node says.
func (c *carrier) serve(t *testing.T, path string, change func()) string {
	t.Helper()
	c.mu.Lock()
	change()
	c.turn++
	c.mu.Unlock()
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		said := c.acks[path]
		c.mu.Unlock()
		if said != "" {
			return said
		}
		select {
		case <-c.told:
		case <-deadline:
			t.Fatalf("the node says nothing about %s", path)
		}
	}
}

// newNode is a node whose settings come from a carrier.
func newNode(t *testing.T) (*Settings, *carrier) {
	t.Helper()
	v, err := vault.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := &carrier{acks: map[string]string{}, keys: map[string]k2.SealedKey{}, told: make(chan struct{}, 1)}
	srv := httptest.NewServer(c)
	s := newSettings(v, srv.Client(), func() string { return srv.URL }, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		srv.CloseClientConnections()
		if err := errors.Join(<-done, v.Close()); err != nil {
			t.Error(err)
		}
		srv.Close()
	})
	return s, c
}

func someK2(t *testing.T, kid string, fill byte) k2.Key {
	t.Helper()
	k, err := k2.KeyFrom(kid, bytes.Repeat([]byte{fill}, 32), time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// push serves one setting and returns the verdict.
func (c *carrier) push(t *testing.T, k k2.Key, id, node, configType string, v uint64, value string) string {
	t.Helper()
	s, err := k.Seal(node, configType, k2.Setting{Version: v, Issued: time.Unix(1_800_000_000+int64(v), 0), Value: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	return c.serve(t, "/config/"+id+"/ack", func() {
		c.pushes = []map[string]any{{"id": id, "config_type": configType, "ciphertext": s.Ciphertext, "nonce": s.Nonce, "tag": s.Tag}}
		c.events = []settingsEvent{{Type: "config_push", ID: id}}
	})
}

// begin makes the node a node and gives it a K2 by hand.
func begin(t *testing.T, s *Settings, k k2.Key) {
	t.Helper()
	if err := s.SetNode("kitchen", "kitchen:"+nodeKeyText+"\n"); err != nil {
		t.Fatal(err)
	}
	text, err := k2.Backup("kitchen", k, "")
	if err != nil {
		t.Fatal(err)
	}
	if kid, err := s.ImportKey(text+"\n", ""); err != nil || kid != k.ID() {
		t.Fatal(kid, err)
	}
}

// TestC03_HubServesOldSettings: what a hub has carried before, it cannot bring
// back, nor after the key was replaced, nor after a restart.
func TestC03_HubServesOldSettings(t *testing.T) {
	s, c := newNode(t)
	k := someK2(t, "k2-202611-aaaaaa", 1)
	begin(t, s, k)
	for _, step := range []struct {
		id, value string
		version   uint64
		want      string
	}{
		{"1", `"one"`, 1, "true "}, {"2", `"two"`, 2, "true "}, {"3", `"two"`, 2, "true "},
		{"4", `"one"`, 1, "false rollback"}, {"5", `"other"`, 2, "false conflict"}, {"6", `"plain"`, 0, "false rollback"},
	} {
		if got := c.push(t, k, step.id, "kitchen", "auth:x", step.version, step.value); got != step.want {
			t.Errorf("push %s: %q, not %q", step.id, got, step.want)
		}
	}
	if got := c.push(t, k, "7", "bedroom", "auth:x", 9, `"b"`); got != "false forged" {
		t.Errorf("another node's: %q", got)
	}
	if got := c.push(t, k, "8", "kitchen", k2.Snapshot, 9, `"b"`); got != "false malformed" {
		t.Errorf("a snapshot: %q", got)
	}
	if v, err := s.Get("auth:x"); err != nil || string(v) != `"two"` {
		t.Errorf("%s, %v", v, err)
	}
	if err := s.ForgetKey(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("auth:x"); !errors.Is(err, ErrNoSetting) {
		t.Error(err)
	}
	begin(t, s, k)
	again := newSettings(s.vault, s.http, s.base, s.log)
	old, err := k.Seal("kitchen", "auth:x", k2.Setting{Version: 1, Value: []byte(`"one"`)})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.take("kitchen", "auth:x", old); !errors.Is(err, k2.ErrRollback) {
		t.Errorf("after key and process were replaced: %v", err)
	}
}

// TestC06_HubServesOtherKeys: a K2 that comes through the hub is for this node,
// and proven once there is one.
func TestC06_HubServesOtherKeys(t *testing.T) {
	s, c := newNode(t)
	if err := s.SetNode("kitchen", nodeKeyText); err != nil {
		t.Fatal(err)
	}
	c.serve(t, "/commands/x/ack", func() { c.events = []settingsEvent{{Type: "command", ID: "x", Command: "dance"}} })
	pub, err := k2.ParsePublicKey(c.pub)
	if err != nil {
		t.Fatal(err)
	}
	first, second, hubs := someK2(t, "k2-202611-aaaaaa", 1), someK2(t, "k2-202612-bbbbbb", 2), someK2(t, "k2-202612-cccccc", 3)
	foreign, err := k2.NewNodeKey()
	if err != nil {
		t.Fatal(err)
	}
	send := func(id string, to k2.PublicKey, node string, k, before k2.Key) string {
		t.Helper()
		sealed, err := k2.SealKey(to, node, k, before)
		if err != nil {
			t.Fatal(err)
		}
		return c.serve(t, "/k2/ack/"+id, func() {
			c.keys = map[string]k2.SealedKey{id: sealed}
			c.events = []settingsEvent{{Type: "k2", ID: id}}
		})
	}
	for _, step := range []struct {
		id        string
		to        k2.PublicKey
		node      string
		k, before k2.Key
		want, kid string
	}{
		{"1", foreign.Public(), "kitchen", hubs, k2.Key{}, "false forged", ""},
		{"2", pub, "bedroom", hubs, k2.Key{}, "false forged", ""},
		{"3", pub, "kitchen", first, k2.Key{}, "true ", first.ID()},
		{"4", pub, "kitchen", hubs, k2.Key{}, "false unproven", first.ID()},
		{"5", pub, "kitchen", hubs, hubs, "false unproven", first.ID()},
		{"6", pub, "kitchen", second, first, "true ", second.ID()},
		{"7", pub, "kitchen", first, k2.Key{}, "false unproven", second.ID()},
	} {
		if got := send(step.id, step.to, step.node, step.k, step.before); got != step.want {
			t.Errorf("key %s: %q, not %q", step.id, got, step.want)
		}
		if st, err := s.Status(); err != nil || st.KID != step.kid || st.Compared || st.KID != "" && st.Check == "" || st.Fingerprint != pub.Fingerprint() {
			t.Errorf("key %s: %+v, %v", step.id, st, err)
		}
	}
	// A reset through the hub leaves the key, so that the hub cannot begin anew.
	c.serve(t, "/commands/y/ack", func() { c.events = []settingsEvent{{Type: "command", ID: "y", Command: "factory-reset"}} })
	if got := send("8", pub, "kitchen", hubs, k2.Key{}); got != "false unproven" {
		t.Errorf("after a reset: %q", got)
	}
}

// TestC06_StaleSince: what is held back shows, with the time.
func TestC06_StaleSince(t *testing.T) {
	s, c := newNode(t)
	k := someK2(t, "k2-202611-aaaaaa", 1)
	begin(t, s, k)
	c.push(t, k, "1", "kitchen", "auth:x", 1, `"one"`)
	c.push(t, k, "2", "kitchen", k2.ManifestType, 1, `{"versions":{"auth:x":2},"every":3600}`)
	issued := time.Unix(1_800_000_001, 0).UTC()
	late := issued.Add(time.Hour + time.Minute)
	other := newSettings(s.vault, s.http, s.base, s.log)
	other.now = func() time.Time { return late }
	if err := other.store(map[string]any{keyHeard: issued}); err != nil {
		t.Fatal(err)
	}
	st, err := other.Status()
	if err != nil || len(st.Stale) != 3 {
		t.Fatalf("%+v, %v", st.Stale, err)
	}
	for i, want := range []k2.Stale{{Since: issued}, {Since: issued.Add(time.Hour)}, {Type: "auth:x", Since: issued, Want: 2}} {
		if st.Stale[i] != want {
			t.Errorf("%+v, not %+v", st.Stale[i], want)
		}
	}
	if got := c.push(t, k, "3", "kitchen", k2.ManifestType, 2, `[]`); got != "false malformed" {
		t.Errorf("a manifest that is none: %q", got)
	}
}

// TestSettingsSnapshot answers a phone.
func TestSettingsSnapshot(t *testing.T) {
	s, c := newNode(t)
	k := someK2(t, "k2-202611-aaaaaa", 1)
	begin(t, s, k)
	c.push(t, k, "1", "kitchen", "auth:x", 4, `"one"`)
	c.serve(t, "/settings/requests/r1/snapshot", func() { c.events = []settingsEvent{{Type: "settings_request", ID: "r1", IncludeValues: true}} })
	opened, err := k.Open("kitchen", k2.Snapshot, c.snaps[0])
	if err != nil || !strings.Contains(string(opened.Value), `"version":4`) || !strings.Contains(string(opened.Value), "Im9uZSI=") {
		t.Errorf("%s, %v", opened.Value, err)
	}
}

func TestSettingsOrders(t *testing.T) {
	s, _ := newNode(t)
	k := someK2(t, "k2-202611-aaaaaa", 1)
	for _, bad := range [][2]string{{"", nodeKeyText}, {"a:b", nodeKeyText}, {"kitchen", ""}, {"kitchen", "short"}, {"kitchen", "with blanks in it, and long"}} {
		if s.SetNode(bad[0], bad[1]) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	begin(t, s, k)
	text, err := k2.Backup("bedroom", k, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ImportKey(text, ""); err == nil {
		t.Error("another node's backup is taken")
	}
	if s.SetNode("bedroom", nodeKeyText) == nil {
		t.Error("a node takes another node's name with its key")
	}
	if err := s.forgetAll(map[string][]byte{}); err != nil {
		t.Fatal(err)
	}
	names, err := s.vault.Names(settingsPrefix)
	if err != nil || len(names) > 0 {
		t.Errorf("left behind: %q, %v", names, err)
	}
}
