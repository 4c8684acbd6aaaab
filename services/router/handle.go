package router

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/warrenmesh/warren/services"
)

// callerKey is where the caller is in the context of a request.
type callerKey struct{}

// Handle adds a route whose handler takes and returns structs in the manner of
// huma: fields of I tagged path, query or header, and Body, a struct or *struct
// tagged with json; O with Body, header fields and perhaps Status. Body is
// written as JSON. A nil *O answers with the status alone.
//
// ctx ends when the caller loses what let them in; c is never nil.
func Handle[I, O any](r *Router, rt Route, h func(ctx context.Context, c *services.Caller, in *I) (*O, error)) {
	op, ok := r.add(&rt)
	if !ok {
		return
	}
	err := protect(func() {
		huma.Register(r.api, *op, func(ctx context.Context, in *I) (*O, error) {
			c, ok := ctx.Value(callerKey{}).(*services.Caller)
			if !ok {
				return nil, errors.New("handler reached around the gate")
			}
			out, err := h(ctx, c, in)
			if err != nil {
				return nil, r.answer(ctx, rt, err)
			}
			return out, nil
		})
	})
	run := r.wires[rt.Name()]
	if err == nil && run == nil {
		err = errors.New("huma registered nothing")
	}
	if err != nil {
		r.wrong(rt, err)
		return
	}
	// What huma has documented is what it checks.
	op = documented(r.api.OpenAPI(), rt)
	r.serve(rt, op, func(w http.ResponseWriter, req *http.Request, c *services.Caller) {
		body, fault := r.readBody(w, req, rt, op)
		if fault == nil {
			fault = checkQuery(req, op)
		}
		if fault != nil {
			fault.write(w, req, rt)
			return
		}
		run(newExchange(w, req.WithContext(context.WithValue(req.Context(), callerKey{}, c)), rt, op, body))
	})
}

// Raw adds a route whose handler speaks HTTP itself. The request's body is
// bounded, its context ends when the caller loses what let them in, and the
// headers of services.SecurityHeaders are set before it runs.
func Raw(r *Router, rt Route, h func(w http.ResponseWriter, req *http.Request, c *services.Caller)) {
	op, ok := r.add(&rt)
	if !ok {
		return
	}
	for _, name := range params(rt.Path) {
		op.Parameters = append(op.Parameters, &huma.Param{Name: name, In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}})
	}
	if err := protect(func() { r.api.OpenAPI().AddOperation(op) }); err != nil {
		r.wrong(rt, err)
		return
	}
	r.serve(rt, op, func(w http.ResponseWriter, req *http.Request, c *services.Caller) {
		if rt.MaxBody >= 0 {
			req.Body = http.MaxBytesReader(w, req.Body, rt.MaxBody)
		}
		h(w, req, c)
	})
}

// add fills in the defaults, checks what can be checked without a handler and
// describes the route.
func (r *Router) add(rt *Route) (*huma.Operation, bool) {
	if rt.Status == 0 {
		rt.Status = http.StatusOK
	}
	if rt.MaxBody == 0 {
		rt.MaxBody = MaxBody
	}
	if err := check(*rt); err != nil {
		r.wrong(*rt, err)
		return nil, false
	}
	for _, have := range r.routes {
		if have.Method == rt.Method && blank(have.Path) == blank(rt.Path) {
			r.wrong(*rt, fmt.Errorf("it is there already, as %s", have.Name()))
			return nil, false
		}
	}
	return r.describe(*rt), true
}

// serve makes the route reachable.
func (r *Router) serve(rt Route, op *huma.Operation, h func(http.ResponseWriter, *http.Request, *services.Caller)) {
	gated := services.Require(r.cfg.Gate, rt.Name(), rt.Need, rt.refuser(), h)
	if err := protect(func() { r.mux.Handle(rt.Name(), gated) }); err != nil {
		r.wrong(rt, err)
		return
	}
	r.routes = append(r.routes, rt)
	r.ops[rt.Name()] = op
}

func (r *Router) wrong(rt Route, err error) {
	r.errs = append(r.errs, fmt.Errorf("route %s of %s: %w", rt.Name(), r.cfg.Service, err))
}

// check says what is wrong with a route as it is written down.
func check(rt Route) error {
	methods := []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
	switch {
	case !slices.Contains(methods, rt.Method):
		return errors.New("its method is none of GET, POST, PUT, PATCH and DELETE")
	case !strings.HasPrefix(rt.Path, "/") || !clean(rt.Path):
		return errors.New("its path is not a clean one from /")
	case len(rt.Need.Any) == 0:
		return errors.New("it does not say who may call; the zero Requirement lets nobody in")
	case rt.Summary == "":
		return errors.New("it has no summary")
	case rt.Need.Household != "" && !slices.Contains(params(rt.Path), rt.Need.Household):
		return fmt.Errorf("its household is the path parameter %q, which it does not have", rt.Need.Household)
	case rt.Need.Rate != "" && rt.Need.Rate != services.Usual && rt.Need.Rate != services.Talk:
		return fmt.Errorf("its rate %q is none", rt.Need.Rate)
	}
	tenants := len(params(rt.Path)) > 0
	for _, c := range rt.Need.Any {
		if c < services.AsPeer || c > services.AsAdmin {
			return fmt.Errorf("credential %d is none", c)
		}
		tenants = tenants || c == services.AsUser || c == services.AsNode || c == services.AsApp
	}
	if tenants && rt.Tenant == "" {
		return errors.New("it has a path parameter or a caller of some household, and does not say what keeps households apart (Tenant)")
	}
	return nil
}

// blank takes the names out of a pattern's parameters.
func blank(pattern string) string {
	parts := strings.Split(pattern, "/")
	for i, part := range parts {
		if strings.HasPrefix(part, "{") {
			parts[i] = "{}"
		}
	}
	return strings.Join(parts, "/")
}

// protect turns a panic at registration, which is how the mux and huma report a
// programming error, into an error that Check can report.
func protect(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("registering: %v", p)
		}
	}()
	f()
	return nil
}
