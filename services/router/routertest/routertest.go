// Package routertest walks a service's table of routes and tries, on each, to
// get at what belongs to another household.
//
// The table is the router's own, so that a route which is added without a case
// here fails the test. For every id that a route takes, in its path, query or
// body, the walk sends a foreign household's id and one that nobody has: both
// answers must be the same, byte for byte, so that a stranger does not even learn
// what there is. Then it sends the request as it is meant, with headers that name
// the foreign household: it must succeed, which shows that the case reaches
// something at all, and must show nothing of theirs.
package routertest

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/services/router"
)

// Send sends one request as the caller of one's own household would, from their
// machine, and returns the answer. target is path and query.
type Send func(method, target string, header http.Header, body string) *http.Response

// Foreign is the other household.
type Foreign struct {
	// Household is its id.
	Household string
	// Canaries are strings that only its people may read: names, ids, texts.
	// None may be in any answer.
	Canaries []string
}

// Value is one id that a route takes.
type Value struct {
	Own, Foreign string
	// Missing is an id of the same form that nobody has; "" makes one.
	Missing string
	// Free says, in one line, why another household's id is nothing to try here;
	// Own is used, and the other fields are not needed.
	Free string
}

// Case is one way of calling a route.
type Case struct {
	// Header are the caller's credentials, and what else there is to say.
	Header http.Header
	// Values by name, as Router.IDs gives them.
	Values map[string]Value
	// Query and Body are sent with {NAME} replaced by the value of NAME, as in
	// `{"node_id": "{body.node_id}"}`.
	Query, Body string
	// Status is what the request gets with one's own ids; 0 means any 2xx.
	Status int
	// Refused is what it gets with others, 404 if 0.
	Refused int
	// Differs says, in one line, why the answer for a foreign id may differ from
	// that for one nobody has; "" if it may not.
	Differs string
	// Before, if it is not nil, runs before the request with one's own ids.
	Before func()
}

// overrides are headers that some services believe when they say whose data is
// meant. Here none may.
var overrides = []string{"X-Household-Id", "X-Context-Household-Id", "X-Tenant-Id", "X-Household"}

// Walk tries every route whose Tenant is not "". cases are by Route.Name; a route
// without one fails, and so does a case without a route.
func Walk(t testing.TB, r *router.Router, send Send, them Foreign, cases map[string][]Case) {
	t.Helper()
	if err := r.Check(); err != nil {
		t.Errorf("the table is not whole: %v", err)
	}
	left := maps.Clone(cases)
	for _, rt := range r.Routes() {
		name := rt.Name()
		if rt.Tenant != "" && len(cases[name]) == 0 {
			t.Errorf("%s: no case tries another household's ids on it", name)
		}
		delete(left, name)
		for _, c := range cases[name] {
			w := walk{t, send, them, rt, c}
			w.foreign(r.IDs(rt))
			w.own()
		}
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		t.Errorf("%s: there is a case and no route", name)
	}
}

// walk is one case of one route.
type walk struct {
	t    testing.TB
	send Send
	them Foreign
	rt   router.Route
	c    Case
}

// foreign tries each id with a foreign value and with one that nobody has.
func (w *walk) foreign(ids []string) {
	w.t.Helper()
	for name := range w.c.Values {
		if !slices.Contains(ids, name) && !strings.HasPrefix(name, "body.") && !strings.HasPrefix(name, "query.") {
			w.t.Errorf("%s: it takes no %s", w.rt.Name(), name)
		}
	}
	for name := range w.c.Values {
		if !slices.Contains(ids, name) {
			ids = append(ids, name)
		}
	}
	want := w.c.Refused
	if want == 0 {
		want = http.StatusNotFound
	}
	for _, id := range ids {
		v, ok := w.c.Values[id]
		switch {
		case !ok:
			w.t.Errorf("%s: the case has no value for %s", w.rt.Name(), id)
			continue
		case v.Free != "":
			continue
		case v.Own == "" || v.Foreign == "" || v.Own == v.Foreign:
			w.t.Errorf("%s: %s needs one's own value and another household's", w.rt.Name(), id)
			continue
		}
		if v.Missing == "" {
			v.Missing = missing(v.Foreign)
		}
		status, body := w.call(id, v.Foreign, nil)
		absent, none := w.call(id, v.Missing, nil)
		if status != want {
			w.t.Errorf("%s: another household's %s gets %d, want %d: %s", w.rt.Name(), id, status, want, body)
		}
		if w.c.Differs == "" && (absent != status || !bytes.Equal(none, body)) {
			w.t.Errorf("%s: another household's %s is told from one that nobody has:\n%d %s\n%d %s", w.rt.Name(), id, status, body, absent, none)
		}
	}
}

// own sends the request as it is meant, with headers that name the others.
func (w *walk) own() {
	w.t.Helper()
	if w.c.Before != nil {
		w.c.Before()
	}
	header := make(http.Header)
	for _, name := range overrides {
		header.Set(name, w.them.Household)
	}
	status, body := w.call("", "", header)
	if status != w.c.Status && (w.c.Status != 0 || status/100 != 2) {
		w.t.Errorf("%s: one's own ids get %d, so the case shows nothing: %s", w.rt.Name(), status, body)
	}
}

// call sends the case's request with one value replaced, and looks for canaries
// in the answer.
func (w *walk) call(replaced, by string, more http.Header) (int, []byte) {
	w.t.Helper()
	value := func(name string) string {
		if name == replaced {
			return by
		}
		return w.c.Values[name].Own
	}
	target, query, body := w.rt.Path, w.c.Query, w.c.Body
	for name := range w.c.Values {
		if parameter, ok := strings.CutPrefix(name, "path."); ok {
			target = strings.ReplaceAll(target, "{"+parameter+"}", url.PathEscape(value(name)))
			target = strings.ReplaceAll(target, "{"+parameter+"...}", value(name))
		}
		query = strings.ReplaceAll(query, "{"+name+"}", url.QueryEscape(value(name)))
		body = strings.ReplaceAll(body, "{"+name+"}", value(name))
	}
	if query != "" {
		target += "?" + query
	}
	header := make(http.Header)
	maps.Copy(header, more)
	if body != "" {
		header.Set("Content-Type", "application/json")
	}
	maps.Copy(header, w.c.Header)
	res := w.send(w.rt.Method, target, header, body)
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Errorf("%s: reading the answer: %v", w.rt.Name(), err)
	}
	for _, canary := range w.them.Canaries {
		if bytes.Contains(answer, []byte(canary)) {
			w.t.Errorf("%s: %q of another household is in the answer: %s", w.rt.Name(), canary, answer)
		}
	}
	return res.StatusCode, answer
}

// missing makes an id of the same form, which nobody has unless a test made it so.
func missing(like string) string {
	if len(like) == 36 && strings.Count(like, "-") == 4 {
		return "99999999-9999-4999-8999-999999999999"
	}
	return strings.Map(func(c rune) rune {
		switch {
		case '0' <= c && c <= '9':
			return '9'
		case 'a' <= c && c <= 'z':
			return 'z'
		case 'A' <= c && c <= 'Z':
			return 'Z'
		}
		return c
	}, like)
}
