package router_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

type item struct {
	Name string   `json:"name" maxLength:"8"`
	Tags []string `json:"tags,omitempty" nullable:"false"`
}

type noteIn struct {
	ID    string `path:"id"`
	Limit int    `query:"limit" minimum:"1" maximum:"9"`
	Body  struct {
		Text  string            `json:"text" maxLength:"8"`
		Items []item            `json:"items,omitempty"`
		Extra map[string]string `json:"extra,omitempty"`
		Count int               `json:"count,omitempty"`
	}
}

type noteOut struct {
	Location string `header:"Location"`
	Body     struct {
		Seen string `json:"seen"`
	}
}

// notes has the same route in both shapes, and one without a body.
func notes(t testing.TB) *table {
	t.Helper()
	k := newTable(t)
	for path, shape := range map[string]router.Shape{"/notes/{id}": router.Problem, "/jarvis/{id}": router.Jarvis} {
		router.Handle(k.Router, router.Route{Method: http.MethodPost, Path: path, Summary: "Note.", Need: anyPeer, Shape: shape, Status: 201, MaxBody: 1000, Tenant: "nobody's"},
			func(_ context.Context, _ *services.Caller, in *noteIn) (*noteOut, error) {
				out := &noteOut{Location: "/notes/" + in.ID}
				out.Body.Seen = fmt.Sprint(in.Body.Text, len(in.Body.Items), in.Limit)
				return out, nil
			})
	}
	router.Handle(k.Router, router.Route{Method: http.MethodPost, Path: "/leave", Summary: "Leave.", Need: anyPeer, Status: 204},
		func(context.Context, *services.Caller, *struct{}) (*struct{}, error) { return nil, nil })
	if err := k.Check(); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestStrictInput(t *testing.T) {
	k := notes(t)
	deep := `{"text":"a","extra":{"a":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}}`
	for name, tc := range map[string]struct {
		target, body, header string
		status               int
		where                string // in the fault
	}{
		"good":                  {"/notes/1?limit=3", `{"text":"a","items":[{"name":"x","tags":["y"]}],"extra":{"any":"thing"}}`, "", 201, ""},
		"with charset":          {"/notes/1", `{"text":"a"}`, "Content-Type: application/json; charset=UTF-8", 201, ""},
		"unknown field":         {"/notes/1", `{"text":"a","admin":true}`, "", 422, "body.admin"},
		"unknown inside":        {"/notes/1", `{"text":"a","items":[{"name":"x","role":1}]}`, "", 422, "body.items[0].role"},
		"field in other letter": {"/notes/1", `{"Text":"a"}`, "", 422, "body.Text"},
		"duplicate key":         {"/notes/1", `{"text":"a","text":"b"}`, "", 422, "body.text"},
		"duplicate but for case": {"/notes/1", `{"text":"a","TEXT":"b"}`, "", 422,
			"body.TEXT"},
		"duplicate by folding":    {"/notes/1", `{"text":"a","extra":{"k":"1","` + "\u212a" + `":"2"}}`, "", 422, "body.extra."},
		"duplicate escaped":       {"/notes/1", `{"text":"a","t\u0065xt":"b"}`, "", 422, "body.text"},
		"missing field":           {"/notes/1", `{}`, "", 422, "body.text"},
		"missing body":            {"/notes/1", ``, "Content-Type: application/json", 422, "body"},
		"too long a field":        {"/notes/1", `{"text":"hunter2-hunter2"}`, "", 422, "body.text"},
		"of another type":         {"/notes/1", `{"text":7}`, "", 422, "body.text"},
		"null":                    {"/notes/1", `null`, "", 422, "body"},
		"an array":                {"/notes/1", `[]`, "", 422, "body"},
		"trailing data":           {"/notes/1", `{"text":"a"} {"text":"b"}`, "", 400, "body"},
		"trailing bracket":        {"/notes/1", `{"text":"a"}}`, "", 400, "body"},
		"cut short":               {"/notes/1", `{"text":"a"`, "", 400, "body"},
		"not UTF-8":               {"/notes/1", "{\"text\":\"\xff\"}", "", 400, "body"},
		"no JSON":                 {"/notes/1", `text=a`, "", 400, "body"},
		"nested deep":             {"/notes/1", deep, "", 400, "body.extra.a"},
		"a form":                  {"/notes/1", `text=a`, "Content-Type: application/x-www-form-urlencoded", 415, ""},
		"no type":                 {"/notes/1", `{"text":"a"}`, "Content-Type: ", 415, ""},
		"some other JSON":         {"/notes/1", `{"text":"a"}`, "Content-Type: application/ld+json", 415, ""},
		"another charset":         {"/notes/1", `{"text":"a"}`, "Content-Type: application/json; charset=utf-7", 415, ""},
		"packed":                  {"/notes/1", `{"text":"a"}`, "Content-Encoding: gzip", 415, ""},
		"not packed, it says":     {"/notes/1", `{"text":"a"}`, "Content-Encoding: identity", 415, ""},
		"a number of no size":     {"/notes/1", `{"text":"a","count":31415e999}`, "", 400, "body"},
		"a number too large":      {"/notes/1", `{"text":"a","count":31415926535897932384}`, "", 422, "body"},
		"the largest":             {"/notes/1", `{"text":"a"` + strings.Repeat(" ", 988) + `}`, "", 201, ""},
		"too large":               {"/notes/1", `{"text":"a"` + strings.Repeat(" ", 989) + `}`, "", 413, ""},
		"unknown query parameter": {"/notes/1?limits=3", `{"text":"a"}`, "", 422, "query.limits"},
		"query parameter twice":   {"/notes/1?limit=3&limit=4", `{"text":"a"}`, "", 422, "query.limit"},
		"out of range":            {"/notes/1?limit=10", `{"text":"a"}`, "", 422, "query.limit"},
		"no number":               {"/notes/1?limit=many", `{"text":"a"}`, "", 422, "query.limit"},
		"body where none is":      {"/leave", `{"all":true}`, "", 422, "body"},
		"empty object there":      {"/leave", `{}`, "", 204, ""},
		"nothing there":           {"/leave", ``, "", 204, ""},
	} {
		headers := []string{}
		if tc.header != "" {
			headers = append(headers, tc.header)
		}
		status, header, body := k.call("POST", tc.target, tc.body, headers...)
		if status != tc.status || tc.where != "" && !strings.Contains(body, `"location":"`+tc.where) {
			t.Errorf("%s: %d %s", name, status, body)
		}
		if strings.Contains(body, "hunter2") || strings.Contains(body, "31415") || strings.Contains(body, "Go ") {
			t.Errorf("%s: the value is repeated: %s", name, body)
		}
		if status >= 400 && header.Get("Content-Type") != "application/problem+json" || header.Get("Content-Security-Policy") == "" || header.Get("RateLimit-Limit") != "200" {
			t.Errorf("%s: headers %v", name, header)
		}
		if status == 201 && header.Get("Location") != "/notes/1" {
			t.Errorf("%s: %v", name, header)
		}
	}
}

// The same faults as Jarvis' clients read them: 422 and a list.
func TestJarvisShapeOfFaults(t *testing.T) {
	k := notes(t)
	for body, want := range map[string]string{
		`{}`:                                     `{"detail":[{"loc":["body","text"],"msg":"is missing","type":"missing"}]}`,
		`{"text":"a","x":1}`:                     `{"detail":[{"loc":["body","x"],"msg":"is not known here","type":"extra_forbidden"}]}`,
		`{"text":"a","text":"b"}`:                `{"detail":[{"loc":["body","text"],"msg":"comes twice","type":"extra_forbidden"}]}`,
		`{"text":"a","items":[{"name":"x"},{}]}`: `{"detail":[{"loc":["body","items",1,"name"],"msg":"is missing","type":"missing"}]}`,
		`{"text":"a","items":[{"name":"x","y":1}]}`: `{"detail":[{"loc":["body","items",0,"y"],"msg":"is not known here","type":"extra_forbidden"}]}`,
		`{`:                    `{"detail":[{"loc":["body"],"msg":"is not one JSON value","type":"json_invalid"}]}`,
		`{"text":"123456789"}`: `{"detail":[{"loc":["body","text"],"msg":"expected length <= 8","type":"value_error"}]}`,
	} {
		status, header, got := k.call("POST", "/jarvis/1", body)
		if status != 422 || got != want || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", body, status, got)
		}
	}
	status, _, got := k.call("POST", "/jarvis/1", `{"text":"`+strings.Repeat("a", 1000)+`"}`)
	if status != 413 || got != `{"detail":"The request is larger than this route takes."}` {
		t.Errorf("too large: %d %s", status, got)
	}
	var v struct{ Detail string }
	if status, _, got := k.call("POST", "/jarvis/1", `{"text":"a"}`, "Content-Type: text/plain"); status != 415 || json.Unmarshal([]byte(got), &v) != nil {
		t.Errorf("of another type: %d %s", status, got)
	}
}

// Two readers of one accepted body see the same thing.
func FuzzStrictBody(f *testing.F) {
	for _, s := range []string{`{"text":"a"}`, `{"text":"a","TEXT":"b"}`, `{"text":"a"}x`, `{"text":"a","extra":{"a":"b","a":"c"}}`} {
		f.Add(s)
	}
	k := notes(f)
	f.Fuzz(func(t *testing.T, body string) {
		status, _, got := k.call("POST", "/notes/1", body)
		if status == http.StatusTooManyRequests {
			k = notes(t)
			return
		}
		if status >= 500 {
			t.Fatalf("%d %s", status, got)
		}
		if status != 201 {
			return
		}
		var m map[string]json.RawMessage
		if err := json.Unmarshal([]byte(body), &m); err != nil {
			t.Fatalf("%q accepted: %v", body, err)
		}
		var text string
		var items []item
		if err := json.Unmarshal(m["text"], &text); err != nil {
			t.Fatal(err)
		}
		if raw, ok := m["items"]; ok {
			if err := json.Unmarshal(raw, &items); err != nil {
				t.Fatal(err)
			}
		}
		var out struct{ Seen string }
		if err := json.Unmarshal([]byte(got), &out); err != nil || out.Seen != fmt.Sprint(text, len(items), 0) {
			t.Fatalf("%q: handler saw %q, another reader %q", body, out.Seen, text)
		}
	})
}
