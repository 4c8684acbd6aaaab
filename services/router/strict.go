package router

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// maxDepth is how deep a JSON body may be nested.
const maxDepth = 32

// readBody reads the whole body and refuses what json.Unmarshal would forgive.
func (r *Router) readBody(w http.ResponseWriter, req *http.Request, rt Route, op *huma.Operation) ([]byte, *fault) {
	most := rt.MaxBody
	if most < 0 {
		most = 1 << 30 // it is held in memory
	}
	if req.ContentLength > most {
		w.Header().Set("Connection", "close")
		return nil, &fault{status: http.StatusRequestEntityTooLarge, detail: sentence(http.StatusRequestEntityTooLarge)}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, most))
	if err != nil {
		return nil, readFault(err)
	}
	if op.RequestBody == nil {
		// Some clients send an empty object where nothing is asked for.
		if s := string(bytes.TrimSpace(body)); s != "" && s != "{}" && s != "null" {
			return nil, badInput(http.StatusUnprocessableEntity, "body", msgUnknown)
		}
		return nil, nil
	}
	if len(body) == 0 {
		if op.RequestBody.Required {
			return nil, badInput(http.StatusUnprocessableEntity, "body", msgMissing)
		}
		return nil, nil
	}
	kind, media := bodyType(req, op)
	if media == nil {
		return nil, &fault{status: http.StatusUnsupportedMediaType, detail: sentence(http.StatusUnsupportedMediaType)}
	}
	if kind == "application/json" {
		if !utf8.Valid(body) {
			return nil, badInput(http.StatusBadRequest, "body", "is not UTF-8")
		}
		s := strictJSON{dec: json.NewDecoder(bytes.NewReader(body)), schemas: r.api.OpenAPI().Components.Schemas}
		s.dec.UseNumber()
		if f := s.document(media.Schema); f != nil {
			return nil, f
		}
	}
	return body, nil
}

func readFault(err error) *fault {
	status := http.StatusBadRequest
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		status = http.StatusRequestTimeout
	}
	return &fault{status: status, detail: sentence(status)}
}

// bodyType finds the body's media type among those of the route, nil if it is
// none of them, is missing or comes twice, or if the body says that it is packed.
func bodyType(req *http.Request, op *huma.Operation) (string, *huma.MediaType) {
	if len(req.Header.Values("Content-Type")) != 1 || len(req.Header.Values("Content-Encoding")) != 0 {
		return "", nil
	}
	kind, params, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil {
		return "", nil
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return "", nil
	}
	return kind, op.RequestBody.Content[kind]
}

// checkQuery refuses a query that cannot be read or says one thing twice. What
// is unknown huma refuses.
func checkQuery(req *http.Request, op *huma.Operation) *fault {
	values, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		return badInput(http.StatusBadRequest, "query", "cannot be read")
	}
	for _, p := range op.Parameters {
		if p.In == "query" && len(values[p.Name]) > 1 && (p.Schema == nil || p.Schema.Type != huma.TypeArray || p.Explode == nil || !*p.Explode) {
			return badInput(http.StatusUnprocessableEntity, "query."+p.Name, msgTwice)
		}
	}
	return nil
}

// strictJSON walks a document along its schema.
//
// encoding/json takes the last of two equal keys, and keys in other letters than
// the field's: two readers of one body could then see two different things.
type strictJSON struct {
	dec     *json.Decoder
	schemas huma.Registry
}

func (s *strictJSON) document(schema *huma.Schema) *fault {
	if f := s.value(schema, "body", 0); f != nil {
		return f
	}
	if _, err := s.dec.Token(); err != io.EOF {
		return badInput(http.StatusBadRequest, "body", msgJSON)
	}
	return nil
}

func (s *strictJSON) value(schema *huma.Schema, at string, depth int) *fault {
	if schema != nil && schema.Ref != "" {
		schema = s.schemas.SchemaFromRef(schema.Ref)
	}
	t, err := s.dec.Token()
	if err != nil {
		return badInput(http.StatusBadRequest, "body", msgJSON)
	}
	open, nested := t.(json.Delim)
	if !nested {
		return nil
	}
	if depth == maxDepth {
		return badInput(http.StatusBadRequest, at, "is nested too deep")
	}
	f := s.array
	if open == '{' {
		f = s.object
	}
	if f := f(schema, at, depth+1); f != nil {
		return f
	}
	if _, err := s.dec.Token(); err != nil { // the closing bracket
		return badInput(http.StatusBadRequest, "body", msgJSON)
	}
	return nil
}

func (s *strictJSON) array(schema *huma.Schema, at string, depth int) *fault {
	var items *huma.Schema
	if schema != nil {
		items = schema.Items
	}
	for i := 0; s.dec.More(); i++ {
		if f := s.value(items, at+"["+strconv.Itoa(i)+"]", depth); f != nil {
			return f
		}
	}
	return nil
}

func (s *strictJSON) object(schema *huma.Schema, at string, depth int) *fault {
	seen := make(map[string]bool)
	for s.dec.More() {
		t, err := s.dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return badInput(http.StatusBadRequest, "body", msgJSON)
		}
		here := short(at + "." + name)
		folded := fold(name)
		if seen[folded] {
			return badInput(http.StatusUnprocessableEntity, here, msgTwice)
		}
		seen[folded] = true
		field, f := s.field(schema, name, here)
		if f != nil {
			return f
		}
		if f := s.value(field, here, depth); f != nil {
			return f
		}
	}
	return nil
}

// field finds the schema of a key, in exactly these letters.
func (s *strictJSON) field(schema *huma.Schema, name, here string) (*huma.Schema, *fault) {
	if schema == nil {
		return nil, nil
	}
	if field, ok := schema.Properties[name]; ok {
		return field, nil
	}
	switch more := schema.AdditionalProperties.(type) {
	case *huma.Schema:
		return more, nil
	case bool:
		if !more {
			return nil, badInput(http.StatusUnprocessableEntity, here, msgUnknown)
		}
	}
	return nil, nil
}

// fold maps names that encoding/json takes for the same to the same.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, s)
}
