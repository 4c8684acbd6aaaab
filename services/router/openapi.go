package router

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// schemes are the credentials in the words of OpenAPI. That the machine is known
// by its tunnel address has none.
func schemes() map[string]*huma.SecurityScheme {
	header := func(name, description string) *huma.SecurityScheme {
		return &huma.SecurityScheme{Type: "apiKey", In: "header", Name: name, Description: description}
	}
	return map[string]*huma.SecurityScheme{
		"user":           {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "An access token that was issued to the calling machine."},
		"node":           header("X-API-Key", "node_id:key, from the node's own machine."),
		"app-id":         header("X-Jarvis-App-Id", "The app's id, from the app's own machine."),
		"app-key":        header("X-Jarvis-App-Key", "The app's key."),
		"certificate":    {Type: "mutualTLS", Description: "A certificate of the hub's CA for the calling machine."},
		"admin":          header("X-API-Key", "An admin key, ID.SECRET."),
		"admin-token":    header("X-Jarvis-Admin-Token", "An admin key, ID.SECRET."),
		"admin-token-xs": header("X-Admin-Token", "An admin key, ID.SECRET."),
	}
}

// credentials are the names of services.Credential in the document.
var credentials = [...]string{
	services.AsPeer: "peer", services.AsUser: "user", services.AsNode: "node", services.AsApp: "app", services.AsAdmin: "admin",
}

// security lists the ways of meeting a requirement; any one will do.
func security(need services.Requirement) []map[string][]string {
	ways := []map[string][]string{}
	add := func(all ...string) {
		way := make(map[string][]string)
		for _, name := range all {
			way[name] = []string{}
		}
		ways = append(ways, way)
	}
	for _, c := range need.Any {
		switch c {
		case services.AsPeer:
			add()
		case services.AsUser:
			add("user")
		case services.AsNode:
			add("node")
		case services.AsApp:
			add("app-id", "app-key")
			add("certificate")
		case services.AsAdmin:
			add("admin")
			add("admin-token")
			add("admin-token-xs")
		}
	}
	return ways
}

// requirement is x-warren-requirement: what OpenAPI has no words for.
type requirement struct {
	Any        []string `json:"any"`
	Capability string   `json:"capability,omitempty"`
	Role       string   `json:"role,omitempty"`
	Superuser  bool     `json:"superuser,omitempty"`
	Household  string   `json:"household,omitempty"`
	Rate       string   `json:"rate"`
	Stream     bool     `json:"stream,omitempty"`
	Tenant     string   `json:"tenant,omitempty"`
}

func describeNeed(rt Route) requirement {
	need := rt.Need
	out := requirement{
		Capability: need.Capability, Superuser: need.Superuser, Household: need.Household,
		Rate: need.Rate, Stream: need.Stream, Tenant: rt.Tenant,
	}
	for _, c := range need.Any {
		out.Any = append(out.Any, credentials[c])
	}
	if need.Role != account.None {
		out.Role = need.Role.String()
	}
	if out.Rate == "" {
		out.Rate = services.Usual
	}
	return out
}

// sentences says the requirement to a person.
func (q requirement) sentences() string {
	var b strings.Builder
	b.WriteString("Who may call: " + strings.Join(q.Any, " or "))
	if q.Role != "" {
		b.WriteString(", a person with the role " + q.Role)
	}
	if q.Superuser {
		b.WriteString(", a superuser")
	}
	if q.Capability != "" {
		b.WriteString(", from a machine that the policy grants " + q.Capability)
	}
	b.WriteString(".")
	if q.Household != "" {
		b.WriteString(" The household {" + q.Household + "} is one of the caller's.")
	}
	if q.Tenant != "" {
		b.WriteString(" Households: " + strings.TrimSuffix(q.Tenant, ".") + ".")
	}
	return b.String()
}

// describe makes the operation, before huma adds parameters, body and answer.
func (r *Router) describe(rt Route) *huma.Operation {
	q := describeNeed(rt)
	op := &huma.Operation{
		Method: rt.Method, Path: rt.Path, DefaultStatus: rt.Status,
		OperationID: operationID(rt), Summary: rt.Summary, Description: q.sentences(),
		Security:   security(rt.Need),
		Extensions: map[string]any{"x-warren-requirement": q},
		// The body has been read and bounded when huma gets it.
		MaxBodyBytes: -1, BodyReadTimeout: -1,
		Responses: map[string]*huma.Response{"default": r.errorResponse(rt.Shape)},
	}
	if rt.Group != "" {
		op.Tags = []string{rt.Group}
	}
	return op
}

// errorResponse documents the errors of a shape.
func (r *Router) errorResponse(shape Shape) *huma.Response {
	schemas := r.api.OpenAPI().Components.Schemas
	if shape == Problem {
		return &huma.Response{Description: "A refusal (RFC 9457).", Content: map[string]*huma.MediaType{
			services.ProblemType: {Schema: schemas.Schema(reflect.TypeFor[services.Problem](), true, "Problem")},
		}}
	}
	list := &huma.Schema{Type: huma.TypeArray, Items: schemas.Schema(reflect.TypeFor[jarvisFault](), true, "JarvisFault")}
	return &huma.Response{Description: "A refusal; with status 422 the list of what is not valid.", Content: map[string]*huma.MediaType{
		"application/json": {Schema: &huma.Schema{
			Type: huma.TypeObject, Required: []string{"detail"},
			Properties: map[string]*huma.Schema{"detail": {OneOf: []*huma.Schema{{Type: huma.TypeString}, list}}},
		}},
	}}
}

// operationID makes get-households-id of GET /households/{id}.
func operationID(rt Route) string {
	words := strings.FieldsFunc(rt.Path, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9')
	})
	return strings.ToLower(strings.Join(append([]string{rt.Method}, words...), "-"))
}

// documented finds the operation that huma has completed.
func documented(doc *huma.OpenAPI, rt Route) *huma.Operation {
	item := doc.Paths[rt.Path]
	switch rt.Method {
	case http.MethodGet:
		return item.Get
	case http.MethodPost:
		return item.Post
	case http.MethodPut:
		return item.Put
	case http.MethodPatch:
		return item.Patch
	}
	return item.Delete
}

// Document is the OpenAPI 3.1 document. It is made when it is first asked for,
// and then stays: add the routes before.
func (r *Router) Document() []byte {
	r.spec.Do(func() {
		doc := r.api.OpenAPI()
		// Huma names its own error model although no route has it.
		delete(doc.Components.Schemas.Map(), "ErrorModel")
		delete(doc.Components.Schemas.Map(), "ErrorDetail")
		if r.cfg.URL != "" {
			doc.Servers = []*huma.Server{{URL: r.cfg.URL}}
		}
		r.dropSchemes(doc.Components.SecuritySchemes)
		b, err := json.Marshal(doc)
		if err != nil {
			r.cfg.Logger.Error("writing OpenAPI document", "service", r.cfg.Service, "error", err)
			return
		}
		r.document = b
	})
	return r.document
}

// dropSchemes removes the ways of proving oneself that no route takes.
func (r *Router) dropSchemes(all map[string]*huma.SecurityScheme) {
	used := make(map[string]bool)
	for _, rt := range r.Routes() {
		for _, way := range security(rt.Need) {
			for name := range way {
				used[name] = true
			}
		}
	}
	maps.DeleteFunc(all, func(name string, _ *huma.SecurityScheme) bool { return !used[name] })
}

func (r *Router) serveDocument(w http.ResponseWriter, _ *http.Request, _ *services.Caller) {
	b := r.Document()
	if b == nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/openapi+json")
	_, _ = w.Write(b)
}
