package router_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

type nothing = struct{}

func nop(context.Context, *services.Caller, *nothing) (*nothing, error) { return nil, nil }

func TestHandlerErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		err    error
		status int
		detail string
	}{
		"refusal":   {fmt.Errorf("inviting: %w", &services.Refusal{Status: 400, Detail: "Invite expired", Retry: time.Second, Challenge: "Bearer"}), 400, "Invite expired"},
		"not found": {fmt.Errorf("reading node cellar: %w", account.ErrNotFound), 404, "Not found"},
		"exists":    {account.ErrExists, 409, "It exists already; choose another name."},
		"conflict":  {account.ErrConflict, 409, "It was changed in the meantime; read it again."},
		"invalid":   {fmt.Errorf("a role is member, power_user or admin: %w", account.ErrInvalid), 422, "a role is member, power_user or admin: not acceptable"},
		"other":     {errors.New("dialling 10.0.0.1 with password hunter2"), 500, "Something went wrong here; the admin finds it in the log."},
	} {
		for shape, contentType := range map[router.Shape]string{router.Problem: "application/problem+json", router.Jarvis: "application/json"} {
			k := newTable(t)
			router.Handle(k.Router, router.Route{Method: http.MethodGet, Path: "/x", Summary: "Fail.", Need: anyPeer, Shape: shape},
				func(context.Context, *services.Caller, *nothing) (*nothing, error) { return nil, tc.err })
			status, header, body := k.call("GET", "/x", "", "Accept: application/cbor")
			var got struct{ Detail string }
			if err := json.Unmarshal([]byte(body), &got); err != nil || status != tc.status || got.Detail != tc.detail || header.Get("Content-Type") != contentType {
				t.Errorf("%s: %d %s %v", name, status, body, header)
			}
			if shape == router.Jarvis && strings.Contains(body, "title") {
				t.Errorf("%s: %s", name, body)
			}
			if name == "refusal" && (header.Get("Retry-After") != "1" || header.Get("WWW-Authenticate") != "Bearer") {
				t.Errorf("%s: %v", name, header)
			}
			if logged := strings.Contains(k.log.String(), "handler failed"); logged != (tc.status == 500) {
				t.Errorf("%s: log %s", name, k.log)
			}
		}
	}
}

// Where there is no route the answer has the same form, the same headers and the
// same price as anywhere else.
func TestNoRoute(t *testing.T) {
	k := newTable(t)
	router.Handle(k.Router, router.Route{Method: http.MethodGet, Path: "/x/{id}", Summary: "Look.", Need: anyPeer, Tenant: "none"},
		func(context.Context, *services.Caller, *struct {
			ID string `path:"id"`
		}) (*nothing, error) {
			return nil, nil
		})
	for _, tc := range []struct {
		method, target string
		status         int
		detail, allow  string
	}{
		{"GET", "/y", 404, "Not Found", ""},
		{"GET", "/", 404, "Not Found", ""},
		{"GET", "/x", 404, "Not Found", ""},
		{"GET", "/x/1/", 404, "Not Found", ""},
		{"POST", "/x/1", 405, "Method Not Allowed", "GET, HEAD"},
		{"OPTIONS", "/x/1", 405, "Method Not Allowed", "GET, HEAD"},
		{"OPTIONS", "/y", 404, "Not Found", ""},
		{"BREW", "/x/1", 405, "Method Not Allowed", "GET, HEAD"},
		{"CONNECT", "/x/1", 404, "Not Found", ""},
		{"GET", "//x/1", 404, "Not Found", ""},
		{"GET", "/x/../health", 404, "Not Found", ""},
		{"GET", "/x/%2e%2e/health", 404, "Not Found", ""},
		{"GET", "/health?verbose=1", 422, "The request is not valid.", ""},
		{"GET", "/y?access_token=x", 400, "", ""},
	} {
		status, header, body := k.call(tc.method, tc.target, "")
		var got services.Problem
		err := json.Unmarshal([]byte(body), &got)
		if status != tc.status || err != nil || got.Status != status || tc.detail != "" && got.Detail != tc.detail || header.Get("Allow") != tc.allow {
			t.Errorf("%s %s: %d %s %v", tc.method, tc.target, status, body, header)
		}
		if header.Get("Content-Type") != "application/problem+json" || header.Get("X-Frame-Options") != "DENY" || header.Get("RateLimit-Limit") == "" || header.Get("Location") != "" {
			t.Errorf("%s %s: %v", tc.method, tc.target, header)
		}
	}
	// net/http drops the body of the answer to HEAD; the rest is that of GET.
	if status, header, _ := k.call("HEAD", "/health", ""); status != 200 || header.Get("Content-Type") != "application/json" {
		t.Errorf("HEAD: %d %v", status, header)
	}
	r := httptest.NewRequest("GET", "/y", nil)
	w := httptest.NewRecorder()
	k.ServeHTTP(w, r)
	if w.Code != 403 {
		t.Errorf("nobody gets %d", w.Code)
	}
}

func TestCase104_Health(t *testing.T) {
	k := newTable(t)
	if status, _, body := k.call("GET", "/health", ""); status != 200 || body != `{"status":"ok"}` {
		t.Error(status, body)
	}
	r := router.New(router.Config{Service: "web", Health: "healthy", Gate: newGate(nil)})
	if status, _, body := (&table{Router: r}).call("GET", "/health", ""); status != 200 || !strings.HasPrefix(body, `{"status":"healthy","service":"web","timestamp":"2`) {
		t.Error(status, body)
	}
}

// A route without a stated requirement is not served, and Check says so; so does
// it for whatever else is forgotten.
func TestT02_RouteThatForgetsSomething(t *testing.T) {
	good := router.Route{Method: http.MethodGet, Path: "/x/{h}", Summary: "Look.", Need: aUser, Tenant: "the gate"}
	for name, tc := range map[string]struct {
		change func(*router.Route)
		want   string
	}{
		"who may call":   {func(rt *router.Route) { rt.Need = services.Requirement{} }, "zero Requirement"},
		"only the role":  {func(rt *router.Route) { rt.Need = services.Requirement{Role: account.Admin} }, "zero Requirement"},
		"tenant":         {func(rt *router.Route) { rt.Tenant = "" }, "Tenant"},
		"tenant, path":   {func(rt *router.Route) { rt.Tenant, rt.Need = "", anyPeer }, "Tenant"},
		"tenant, caller": {func(rt *router.Route) { rt.Tenant, rt.Path = "", "/x" }, "Tenant"},
		"summary":        {func(rt *router.Route) { rt.Summary = "" }, "summary"},
		"method":         {func(rt *router.Route) { rt.Method = "" }, "method"},
		"lower case":     {func(rt *router.Route) { rt.Method = "get" }, "method"},
		"path":           {func(rt *router.Route) { rt.Path = "" }, "path"},
		"unclean path":   {func(rt *router.Route) { rt.Path = "/x//{h}" }, "path"},
		"bad pattern":    {func(rt *router.Route) { rt.Path = "/x/{h" }, "registering"},
		"household":      {func(rt *router.Route) { rt.Need.Household = "household" }, "path parameter"},
		"rate":           {func(rt *router.Route) { rt.Need.Rate = "often" }, "rate"},
		"credential":     {func(rt *router.Route) { rt.Need.Any = []services.Credential{0} }, "credential"},
		"twice":          {func(rt *router.Route) { rt.Path = "/health" }, "is there already"},
		"twice, renamed": {func(rt *router.Route) { rt.Path = "/taken/{other}" }, "is there already"},
	} {
		for kind, add := range map[string]func(*router.Router, router.Route){
			"Handle": func(r *router.Router, rt router.Route) { router.Handle(r, rt, nop) },
			"Raw": func(r *router.Router, rt router.Route) {
				router.Raw(r, rt, func(http.ResponseWriter, *http.Request, *services.Caller) {})
			},
		} {
			k := newTable(t)
			add(k.Router, router.Route{Method: http.MethodGet, Path: "/taken/{h}", Summary: "Be there.", Need: aUser, Tenant: "the gate"})
			if err := k.Check(); err != nil || len(k.Routes()) != 3 {
				t.Fatal(err, k.Routes())
			}
			rt := good
			tc.change(&rt)
			add(k.Router, rt)
			if err := k.Check(); err == nil || !strings.Contains(err.Error(), tc.want) || len(k.Routes()) != 3 {
				t.Errorf("%s without %s: %v", kind, name, err)
			}
		}
	}
	if router.New(router.Config{Service: "web"}).Check() == nil {
		t.Error("a router without a gate")
	}
}

// A struct that huma cannot read is an error of Check too, not a crash.
func TestStructThatCannotBeRead(t *testing.T) {
	k := newTable(t)
	rt := router.Route{Method: http.MethodGet, Path: "/x", Summary: "Look.", Need: anyPeer}
	router.Handle(k.Router, rt, func(context.Context, *services.Caller, *int) (*nothing, error) { return nil, nil })
	if err := k.Check(); err == nil {
		t.Error("an int is no input")
	}
	if status, _, _ := k.call("GET", "/x", ""); status != 404 {
		t.Error("it is served:", status)
	}
}

func TestRaw(t *testing.T) {
	k := newTable(t)
	router.Raw(k.Router, router.Route{Method: http.MethodPut, Path: "/raw/{id}", Summary: "Put.", Need: aUser, Shape: router.Jarvis, MaxBody: 4, Tenant: "none"},
		func(w http.ResponseWriter, r *http.Request, c *services.Caller) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return
			}
			fmt.Fprint(w, r.PathValue("id"), string(b), c.Actor(), c.Scope().Household() == home)
		})
	const token = "Authorization: Bearer ann-token"
	for _, tc := range []struct {
		body, header string
		status       int
		want         string
	}{
		{"abcd", token, 200, "7abcduser:1true"},
		{"abcde", token, 413, ""},
		{"abcd", "X: y", 401, `{"detail":"Missing or invalid Authorization header"}`},
		{"abcd", "Authorization: Bearer x", 401, `{"detail":"Invalid token"}`},
	} {
		if status, header, body := k.call("PUT", "/raw/7", tc.body, tc.header); status != tc.status || body != tc.want || header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%q %s: %d %s", tc.body, tc.header, status, body)
		}
	}
}

func TestPanicIsOneCallersFault(t *testing.T) {
	k := newTable(t)
	router.Handle(k.Router, router.Route{Method: http.MethodGet, Path: "/x", Summary: "Fail.", Need: anyPeer, Shape: router.Jarvis},
		func(context.Context, *services.Caller, *nothing) (*nothing, error) { panic("hunter2") })
	status, header, body := k.call("GET", "/x", "")
	if status != 500 || body != `{"detail":"Something went wrong here; the admin finds it in the log."}` || header.Get("Content-Type") != "application/json" {
		t.Error(status, body, header)
	}
	if log := k.log.String(); !strings.Contains(log, `route="GET /x"`) || strings.Contains(log, "hunter2") {
		t.Error(log)
	}
}
