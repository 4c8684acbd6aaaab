package router

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// wires takes what huma wants to have served; it is served behind the gate, and
// not by huma.
type wires map[string]func(huma.Context)

// Handle implements huma.Adapter.
func (w wires) Handle(op *huma.Operation, handler func(huma.Context)) {
	w[op.Method+" "+op.Path] = handler
}

// ServeHTTP implements huma.Adapter. Nothing calls it.
func (wires) ServeHTTP(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }

// newAPI makes huma's part: JSON in and out, nothing served by itself, no state
// of its package touched.
func (r *Router) newAPI() huma.API {
	format := huma.Format{Marshal: marshal, Unmarshal: json.Unmarshal}
	doc := &huma.OpenAPI{
		OpenAPI:    "3.1.0",
		Info:       &huma.Info{Title: r.cfg.Title, Version: r.cfg.Version},
		Components: &huma.Components{Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer), SecuritySchemes: schemes()},
	}
	return huma.NewAPI(huma.Config{
		OpenAPI:                      doc,
		Formats:                      map[string]huma.Format{"application/json": format, "json": format},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{reshape},
	}, r.wires)
}

// marshal writes v in one piece. That the caller has gone is no error of ours.
func marshal(w io.Writer, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("writing answer: %w", err)
	}
	_, _ = w.Write(b.Bytes())
	return nil
}

// humaContext has another name than its method Context.
type humaContext = huma.Context

// exchange is one request and its answer as huma sees them.
type exchange struct {
	humaContext
	rt     Route
	body   []byte
	status int // instead of what huma says, if it is not 0
}

func newExchange(w http.ResponseWriter, req *http.Request, rt Route, op *huma.Operation, body []byte) *exchange {
	return &exchange{humaContext: humago.NewContext(op, req, w), rt: rt, body: body}
}

// BodyReader gives the body that was read and checked before.
func (x *exchange) BodyReader() io.Reader { return bytes.NewReader(x.body) }

// SetReadDeadline does nothing: services.Pace has set better ones.
func (x *exchange) SetReadDeadline(time.Time) error { return nil }

// Header hides Accept: there is one form of each answer.
func (x *exchange) Header(name string) string {
	if http.CanonicalHeaderKey(name) == "Accept" {
		return ""
	}
	return x.humaContext.Header(name)
}

// SetStatus sends the status.
func (x *exchange) SetStatus(code int) {
	if x.status != 0 {
		code = x.status
	}
	x.humaContext.SetStatus(code)
}

// reshape puts huma's own errors into the form of the route, without the values
// that huma would repeat.
func reshape(ctx huma.Context, _ string, v any) (any, error) {
	model, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	f := &fault{status: model.Status, detail: sentence(model.Status)}
	for _, e := range model.Errors {
		if e != nil {
			f.faults = append(f.faults, refine(e))
		}
	}
	x, ok := ctx.(*exchange)
	if !ok {
		return nil, fmt.Errorf("answering: %T is no exchange", ctx)
	}
	contentType, body := f.render(x.rt.Shape)
	x.status = f.status
	x.SetHeader("Content-Type", contentType)
	return body, nil
}
