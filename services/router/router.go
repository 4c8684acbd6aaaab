package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/warrenmesh/warren/services"
)

// Shape is the form of a route's errors.
type Shape uint8

// The shapes.
const (
	// Problem is application/problem+json (RFC 9457).
	Problem Shape = iota
	// Jarvis is {"detail": "…"}; where the input is not valid, status 422 and
	// {"detail": [{"loc": […], "msg": …, "type": …}]}.
	Jarvis
)

// MaxBody is the size of a request's body unless a route says otherwise, bytes.
const MaxBody = 64 << 10

// Config says whose routes they are. Service and Gate are needed: without a
// gate nobody is let in.
type Config struct {
	// Service is the service's name, one DNS label.
	Service string
	// Title and Version are those of the OpenAPI document.
	Title, Version string
	// URL is where clients find the service, for the document; "" says nothing.
	URL  string
	Gate *services.Gate
	// Health is the status that /health answers, "ok" if it is "". With another
	// word the answer has the service's name and the time as well.
	Health string
	// Logger; nil discards.
	Logger *slog.Logger
}

// Route is one line of the table.
type Route struct {
	Method string
	// Path is a pattern of http.ServeMux without method and host, such as
	// /households/{id}.
	Path string
	// Summary is one sentence for the OpenAPI document, Group its heading there.
	Summary, Group string
	// Need is who may call; the zero Requirement lets nobody in.
	Need services.Requirement
	// Shape is the form of its errors.
	Shape Shape
	// Status of success, 200 if 0.
	Status int
	// MaxBody is the size of the body in bytes, MaxBody if 0; negative means any
	// size, for Raw handlers that stream it.
	MaxBody int64
	// Tenant says in one line what keeps one household's caller from another
	// one's data here. It may be "" only where there is no such data.
	Tenant string
}

// Name is how the route is called in tests, logs and the access log:
// "GET /households/{id}".
func (rt Route) Name() string { return rt.Method + " " + rt.Path }

// Router is a service's table of routes and the handler that serves it. Routes
// are added first, by one goroutine; serving may then be concurrent.
type Router struct {
	cfg    Config
	mux    *http.ServeMux
	api    huma.API
	wires  wires
	routes []Route
	ops    map[string]*huma.Operation // by Route.Name
	errs   []error

	spec     sync.Once
	document []byte
}

// New returns a router with two routes, /health and /openapi.json, both for
// any peer that the policy lets reach the service.
func New(cfg Config) *Router {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Health == "" {
		cfg.Health = plainHealth
	}
	r := &Router{cfg: cfg, mux: http.NewServeMux(), wires: wires{}, ops: make(map[string]*huma.Operation)}
	if cfg.Gate == nil {
		r.errs = append(r.errs, fmt.Errorf("router of %s has no gate", cfg.Service))
		r.cfg.Gate = services.NewGate(services.GateConfig{Service: cfg.Service})
	}
	r.api = r.newAPI()
	anyPeer := services.Requirement{Any: []services.Credential{services.AsPeer}}
	Handle(r, Route{Method: http.MethodGet, Path: "/health", Summary: "Say that the service answers.", Group: "service", Need: anyPeer}, r.health)
	Raw(r, Route{Method: http.MethodGet, Path: "/openapi.json", Summary: "This document.", Group: "service", Need: anyPeer}, r.serveDocument)
	return r
}

// plainHealth is the status that stands alone.
const plainHealth = "ok"

type healthOut struct {
	Body struct {
		Status string `json:"status" doc:"How the service is."`
		// With a word of its own, as Jarvis' command centre answers.
		Service   string     `json:"service,omitempty" doc:"Which service it is."`
		Timestamp *time.Time `json:"timestamp,omitempty" doc:"When it said so."`
	}
}

func (r *Router) health(context.Context, *services.Caller, *struct{}) (*healthOut, error) {
	out := new(healthOut)
	if out.Body.Status = r.cfg.Health; r.cfg.Health != plainHealth {
		now := time.Now().UTC().Truncate(time.Second)
		out.Body.Service, out.Body.Timestamp = r.cfg.Service, &now
	}
	return out, nil
}

// Routes are the routes that are served, in the order they were added.
func (r *Router) Routes() []Route { return slices.Clone(r.routes) }

// Check reports what is wrong with the table, nil if nothing is. A route that is
// reported is not served.
func (r *Router) Check() error { return errors.Join(r.errs...) }

// ServeHTTP implements http.Handler. The calling peer must be in the request's
// context (services.Identify).
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	h, pattern := r.mux.Handler(req)
	if pattern != "" && clean(req.URL.Path) && req.Method != http.MethodConnect {
		// Not h: the mux sets the path parameters only on its own way.
		r.mux.ServeHTTP(w, req)
		return
	}
	r.nothing(h, pattern).ServeHTTP(w, req)
}

// clean reports whether a path is its own shortest form; the mux would answer
// others with a redirect, to a place of the caller's choosing.
func clean(p string) bool {
	want := path.Clean(p)
	return p == want || p == want+"/"
}

// nothing answers where there is no route. It goes through the gate like any
// other: who tries paths one by one is counted.
func (r *Router) nothing(h http.Handler, pattern string) http.Handler {
	anyPeer := services.Requirement{Any: []services.Credential{services.AsPeer}}
	return services.Require(r.cfg.Gate, "(none)", anyPeer, services.WriteProblem, func(w http.ResponseWriter, req *http.Request, _ *services.Caller) {
		why := &services.Refusal{Status: http.StatusNotFound, Detail: "Not Found"}
		if pattern == "" && req.Method != http.MethodConnect {
			// The mux knows whether it is the method, and which there are.
			asked := &asked{header: make(http.Header)}
			h.ServeHTTP(asked, req)
			if asked.status == http.StatusMethodNotAllowed {
				w.Header().Set("Allow", asked.header.Get("Allow"))
				why = &services.Refusal{Status: http.StatusMethodNotAllowed, Detail: "Method Not Allowed"}
			}
		}
		services.WriteProblem(w, req, why)
	})
}

// asked takes an answer that is not sent.
type asked struct {
	header http.Header
	status int
}

func (a *asked) Header() http.Header         { return a.header }
func (a *asked) Write(p []byte) (int, error) { return len(p), nil }
func (a *asked) WriteHeader(status int)      { a.status = status }

// refuser writes refusals in a route's shape.
func (rt Route) refuser() services.Refuser {
	if rt.Shape == Jarvis {
		return services.WriteDetail
	}
	return services.WriteProblem
}

// params are the path parameters of a pattern, without "...".
func params(pattern string) []string {
	var names []string
	for part := range strings.SplitSeq(pattern, "/") {
		if name, ok := strings.CutPrefix(part, "{"); ok && part != "{$}" {
			names = append(names, strings.TrimSuffix(strings.TrimSuffix(name, "}"), "..."))
		}
	}
	return names
}
