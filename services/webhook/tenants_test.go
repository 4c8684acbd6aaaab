package webhook

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services/router/routertest"
)

// TestT02_WebhookRoutes tries bob's hook, as ann and with a signature of her
// hook.
func TestT02_WebhookRoutes(t *testing.T) {
	k := newKit(t, storetest.Open(t))
	const canary = "bob-was-at-the-gate"
	if status, detail := k.send(k.signed("gate", "", canary)); status != 202 {
		t.Fatal(status, detail)
	}
	send := func(method, target string, header http.Header, body string) *http.Response {
		r := httptest.NewRequestWithContext(t.Context(), method, "http://hooks.warren.internal"+target, strings.NewReader(body))
		r.Header = header
		r.RemoteAddr = netip.AddrPortFrom(k.sender.V4, 40000).String()
		w := httptest.NewRecorder()
		k.router.ServeHTTP(w, r.WithContext(peer.NewContext(r.Context(), k.sender)))
		return w.Result()
	}
	name := map[string]routertest.Value{"path.name": {Own: "door", Foreign: "gate"}}
	routertest.Walk(t, k.router, send, routertest.Foreign{Household: string(k.homes["bob"]), Canaries: []string{canary}}, map[string][]routertest.Case{
		"POST /hooks/{name}":           {{Header: k.signed("door", "", "{}").headers, Values: name, Body: "{}", Refused: 401, Status: 202}},
		"GET /hooks/{name}/deliveries": {{Header: http.Header{"Authorization": {"Bearer ann-token"}}, Values: name, Status: 200}},
	})
}
