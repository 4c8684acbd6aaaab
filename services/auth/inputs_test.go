package auth

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// bodies has a good body for every route of this half of the service that reads
// one, and who may send it.
func (k *stand) bodies() map[string]struct{ who, path, body string } {
	h := "/households/" + string(k.h1)
	node := k.url(`{"node_id":"n","household_id":%q,"name":"N","services":["cc"],"registered_by_user_id":%d,"room":"Hall"}`, k.h1, k.users["ann"])
	return map[string]struct{ who, path, body string }{
		"POST /households":                         {"ann", "/households", `{"name":"Cabin"}`},
		"PATCH /households/{id}":                   {"ann", h, `{"name":"Cabin"}`},
		"POST /households/{id}/members":            {"ann", h + "/members", k.url(`{"user_id":%d,"role":"member"}`, k.users["bob"])},
		"PATCH /households/{id}/members/{uid}":     {"ann", k.url("%s/members/%d", h, k.users["al"]), `{"role":"member"}`},
		"POST /households/{id}/invites":            {"ann", h + "/invites", `{"default_role":"member","expires_in_days":7}`},
		"POST /households/join":                    {"ann", "/households/join", `{"invite_code":"AAAAAAAA"}`},
		"POST /households/{id}/nodes":              {"ann", h + "/nodes", node},
		"POST /admin/nodes":                        {"ann", "/admin/nodes", node},
		"POST /admin/nodes/{id}/rotate-key":        {"ann", "/admin/nodes/kitchen/rotate-key", `{"overlap_seconds":60}`},
		"POST /admin/nodes/{id}/services":          {"ann", "/admin/nodes/kitchen/services", `{"service_id":"tts"}`},
		"POST /admin/app-clients":                  {"ann", "/admin/app-clients", k.url(`{"app_id":"x","name":"X","services":["auth"],"households":[%q]}`, k.h1)},
		"POST /admin/app-clients/{id}/rotate":      {"ann", "/admin/app-clients/cc/rotate", `{"overlap_seconds":60}`},
		"POST /superuser/users/{id}/temp-password": {"ann", k.url("/superuser/users/%d/temp-password", k.users["bob"]), `{"temp_password":"long enough","expires_in_hours":2}`},
		"POST /internal/validate-app":              {"small", "/internal/validate-app", `{"app_id":"cc","app_key":"k","service_id":"auth","address":"10.77.1.5"}`},
		"POST /internal/validate-node":             {"small", "/internal/validate-node", `{"node_id":"kitchen","node_key":"k","service_id":"cc","address":"10.77.1.6"}`},
		"POST /internal/validate-household-access": {"small", "/internal/validate-household-access", k.url(`{"user_id":%d,"household_id":%q,"required_role":"member"}`, k.users["ann"], k.h1)},
		"POST /internal/validate-node-household":   {"small", "/internal/validate-node-household", k.url(`{"node_id":"kitchen","household_id":%q}`, k.h1)},
		"POST /internal/nodes/register":            {"small", "/internal/nodes/register", strings.Replace(node, `"cc"`, `"auth"`, 1)},
		"POST /internal/nodes/{id}/services":       {"small", "/internal/nodes/kitchen/services", `{"service_id":"small"}`},
	}
}

// bodyless routes change something and read no body.
var bodyless = []string{"POST /households/{id}/leave", "POST /admin/app-clients/{id}/revoke"}

// Every body is refused as soon as one thing about it is wrong: the answer is
// 4xx, never 5xx, says what is wrong in Jarvis' shape and changes nothing.
func TestBadInputs(t *testing.T) {
	k := newStand(t)
	bodies := k.bodies()
	before := k.everything()
	for _, rt := range k.router.Routes() {
		in, ok := bodies[rt.Name()]
		if !ok {
			if writes := rt.Method == http.MethodPost || rt.Method == http.MethodPatch; writes && !slices.Contains(bodyless, rt.Name()) {
				t.Errorf("%s has no test of bad inputs", rt.Name())
			}
			continue
		}
		for what, body := range spoiled(t, in.body) {
			a := k.send(in.who, rt.Name(), in.path, body)
			if a.code < 400 || a.code >= 500 {
				// A number that means "nobody" is an answer of 200 and no.
				if strings.Contains(a.text, `"valid":false`) {
					continue
				}
				t.Errorf("%s, %s: %d %.200s", rt.Name(), what, a.code, a.text)
				continue
			}
			if detail := a.json(t)["detail"]; detail == nil {
				t.Errorf("%s, %s: no detail in %s", rt.Name(), what, a.text)
			}
		}
	}
	if after := k.everything(); after != before {
		t.Errorf("something changed:\n%s\n%s", before, after)
	}
	// The bodies themselves are good, or all of this shows nothing.
	for _, name := range slices.Sorted(maps.Keys(bodies)) {
		in := bodies[name]
		a := k.send(in.who, name, in.path, in.body)
		expected := name == "POST /households/join" || strings.Contains(a.text, "node_id already exists")
		if a.code >= 400 && !expected {
			t.Errorf("%s: a good body is %d %s", name, a.code, a.text)
		}
	}
}

// spoiled returns bodies that each have one thing wrong.
func spoiled(t *testing.T, good string) map[string]string {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(good), &fields); err != nil {
		t.Fatalf("%s: %v", good, err)
	}
	with := func(name, value string) string {
		changed := maps.Clone(fields)
		changed[name] = json.RawMessage(value)
		b, err := json.Marshal(changed)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	out := map[string]string{
		"an unknown field": with("is_admin", "true"), "data after it": good + good, "no object": "[" + good + "]", "a string": `"x"`,
		"cut off": good[:len(good)-1], "a name in capitals": strings.Replace(good, `{"`, `{"X`, 1), "null": "null",
	}
	for name, value := range fields {
		again := fmt.Sprintf(`{%q:%s,%s`, name, value, good[1:])
		out[name+" twice"] = again
		out[name+" an object"] = with(name, `{"a":1}`)
		out[name+" a truth"] = with(name, `true`)
		switch value[0] {
		case '"':
			out[name+" a number"] = with(name, `1`)
			out[name+" empty"] = with(name, `""`)
			out[name+" too long"] = with(name, `"`+strings.Repeat("a", 5000)+`"`)
			out[name+" with a control character"] = with(name, `"a\u0007b"`)
			out[name+" with a zero"] = with(name, `"a\u0000b"`)
			out[name+" that turns around"] = with(name, `"a\u202eb"`)
		case '[':
			out[name+" of numbers"] = with(name, `[1]`)
			out[name+" of nonsense"] = with(name, `["a b"]`)
			out[name+" too long"] = with(name, `[`+strings.Repeat(`"a",`, 300)+`"a"]`)
		default:
			out[name+" a string"] = with(name, `"1"`)
			out[name+" negative"] = with(name, `-1`)
			out[name+" broken"] = with(name, `1.5`)
			out[name+" huge"] = with(name, `1e30`)
		}
	}
	return out
}
