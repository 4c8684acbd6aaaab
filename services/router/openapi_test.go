package router_test

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// every calls f for each object in a document.
func every(v any, f func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		f(v)
		for _, x := range v {
			every(x, f)
		}
	case []any:
		for _, x := range v {
			every(x, f)
		}
	}
}

func TestOpenAPI(t *testing.T) {
	k := notes(t)
	router.Raw(k.Router, router.Route{Method: http.MethodGet, Path: "/events/{household}", Summary: "Listen.", Group: "events", Tenant: "the gate.",
		Need: services.Requirement{
			Any: []services.Credential{services.AsUser, services.AsNode, services.AsApp, services.AsAdmin}, Role: account.PowerUser,
			Capability: "warren.internal/cap/x", Household: "household", Rate: services.Talk, Stream: true,
		}}, func(http.ResponseWriter, *http.Request, *services.Caller) {})
	if err := k.Check(); err != nil {
		t.Fatal(err)
	}
	status, header, body := k.call("GET", "/openapi.json", "")
	if status != 200 || header.Get("Content-Type") != "application/openapi+json" {
		t.Fatal(status, header)
	}
	var doc struct {
		OpenAPI    string
		Paths      map[string]map[string]map[string]any
		Servers    []struct{ URL string }
		Components struct {
			Schemas, SecuritySchemes map[string]any
		}
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil || doc.OpenAPI != "3.1.0" {
		t.Fatal(err, body)
	}
	if len(doc.Servers) != 1 || doc.Servers[0].URL != "https://notes.warren.internal" {
		t.Errorf("the service is at %v", doc.Servers)
	}
	plain := &table{Router: router.New(router.Config{Service: "web", Title: "Web", Gate: newGate(nil)})}
	if _, _, body := plain.call("GET", "/openapi.json", ""); strings.Contains(body, "X-Jarvis-App-Id") || strings.Contains(body, "servers") {
		t.Errorf("a document with what no route takes: %s", body)
	}
	for _, rt := range k.Routes() {
		op := doc.Paths[rt.Path][strings.ToLower(rt.Method)]
		need, _ := op["x-warren-requirement"].(map[string]any)
		if op["summary"] != rt.Summary || need["any"] == nil || op["security"] == nil || op["responses"].(map[string]any)["default"] == nil {
			t.Errorf("%s: %v", rt.Name(), op)
		}
		for _, way := range op["security"].([]any) {
			for name := range way.(map[string]any) {
				if doc.Components.SecuritySchemes[name] == nil {
					t.Errorf("%s: scheme %s is not defined", rt.Name(), name)
				}
			}
		}
	}
	events := doc.Paths["/events/{household}"]["get"]
	want := map[string]any{
		"any": []any{"user", "node", "app", "admin"}, "role": "power_user", "capability": "warren.internal/cap/x",
		"household": "household", "rate": "chat", "stream": true, "tenant": "the gate.",
	}
	if !reflect.DeepEqual(events["x-warren-requirement"], want) {
		t.Errorf("requirement: %v", events["x-warren-requirement"])
	}
	if n := len(events["security"].([]any)); n != 7 {
		t.Errorf("%d ways of proving oneself", n)
	}
	if d := events["description"].(string); !strings.Contains(d, "user or node or app or admin, a person with the role power_user") || !strings.Contains(d, "Households: the gate.") {
		t.Errorf("description: %s", d)
	}
	var whole any
	if err := json.Unmarshal([]byte(body), &whole); err != nil {
		t.Fatal(err)
	}
	every(whole, func(o map[string]any) {
		ref, ok := o["$ref"].(string)
		if name, local := strings.CutPrefix(ref, "#/components/schemas/"); ok && (!local || doc.Components.Schemas[name] == nil) {
			t.Errorf("%s leads nowhere", ref)
		}
	})
	if strings.Contains(body, "ErrorModel") || !strings.Contains(body, `"additionalProperties":false`) {
		t.Error("the document says more, or less, than is served")
	}
}

func TestIDs(t *testing.T) {
	k := newTable(t)
	rt := router.Route{Method: http.MethodPost, Path: "/x/{name}", Summary: "Add.", Need: anyPeer, Tenant: "none"}
	router.Handle(k.Router, rt, func(context.Context, *services.Caller, *struct {
		Name  string `path:"name"`
		User  int    `query:"user_id"`
		Limit int    `query:"limit"`
		Body  struct {
			NodeID string `json:"node_id"`
			Text   string `json:"text"`
			List   []struct {
				ID string `json:"id"`
			} `json:"list"`
			UserIDs []int `json:"user_ids"`
		}
	}) (*nothing, error) {
		return nil, nil
	})
	want := []string{"body.list.id", "body.node_id", "body.user_ids", "path.name", "query.user_id"}
	if got := k.IDs(rt); !slices.Equal(got, want) || k.Check() != nil {
		t.Errorf("%q, %v", got, k.Check())
	}
}
