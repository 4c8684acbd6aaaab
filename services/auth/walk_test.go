package auth

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services/router/routertest"
)

// walker sends as al, who is the admin of the first household and no more, or
// as the app that knows of the first household only.
func (k *stand) walker() routertest.Send {
	return func(method, target string, header http.Header, body string) *http.Response {
		machine := "al-phone"
		if header.Get("X-Jarvis-App-Id") != "" {
			machine = "box"
		}
		var lines []string
		for name := range header {
			lines = append(lines, name+": "+header.Get(name))
		}
		a := k.from(machine, method, target, body, lines...)
		return &http.Response{StatusCode: a.code, Body: io.NopCloser(strings.NewReader(a.text))}
	}
}

// Every route of this half of the service, with the ids of the house next door.
func TestT02_WalkAccounts(t *testing.T) {
	k := newStand(t)
	k.ok(k.s.SetMember(t.Context(), "hub", k.h1, k.users["al"], account.Admin))
	them := routertest.Foreign{Household: string(k.h2), Canaries: []string{"Second", "Attic", "bob@example.org", k.other}}
	routertest.Walk(t, k.router, k.walker(), them, k.walks())
}

func (k *stand) walks() map[string][]routertest.Case {
	person := http.Header{"Authorization": {"Bearer " + k.tokens["al"]}}
	app := http.Header{"X-Jarvis-App-Id": {"small"}, "X-Jarvis-App-Key": {k.limited}}
	home := routertest.Value{Own: string(k.h1), Foreign: string(k.h2)}
	member := routertest.Value{Own: k.users["amy"].String(), Foreign: k.users["bob"].String(), Missing: "99999"}
	node := routertest.Value{Own: "kitchen", Foreign: "attic"}
	type values = map[string]routertest.Value
	free := func(own, why string) routertest.Value { return routertest.Value{Own: own, Free: why} }
	// What only a superuser may: al is refused whatever the id is.
	super := func(v values, body string) []routertest.Case {
		return []routertest.Case{{Header: person, Values: v, Body: body, Status: 403, Refused: 403}}
	}
	of := func(body string) []routertest.Case {
		return []routertest.Case{{Header: person, Values: values{"path.id": home}, Body: body}}
	}
	asApp := func(v values, body string) []routertest.Case {
		return []routertest.Case{{Header: app, Values: v, Body: body}}
	}
	// A service that asks is told no in an answer of 200.
	told := func(v values, body string) []routertest.Case {
		return []routertest.Case{{Header: app, Values: v, Body: body, Refused: 200}}
	}
	id := func(c routertest.Case) []routertest.Case { c.Header = person; return []routertest.Case{c} }
	// Two more of al's own, to delete one and to leave the other.
	cabin := must(k.s.CreateHousehold(k.Context(), "hub", "Cabin", "", k.users["al"]))(k).ID
	hut := must(k.s.CreateHousehold(k.Context(), "hub", "Hut", "", k.users["al"]))(k).ID
	theirs, own := k.openInvite("bob", k.h2), k.openInvite("ann", k.h1)
	service := free("tts", "names a service, which is nobody's")
	fresh := free("fresh", "is chosen by the caller")
	cases := map[string][]routertest.Case{
		"GET /households": id(routertest.Case{}), "POST /households": id(routertest.Case{Body: `{"name":"Cabin"}`}),
		"GET /households/{id}": of(""), "PATCH /households/{id}": of(`{"name":"Home"}`),
		"GET /households/{id}/members":            of(""),
		"POST /households/{id}/members":           id(routertest.Case{Values: values{"path.id": home, "body.user_id": member}, Body: `{"user_id":{body.user_id}}`, Status: 400}),
		"PATCH /households/{id}/members/{uid}":    id(routertest.Case{Values: values{"path.id": home, "path.uid": member}, Body: `{"role":"member"}`}),
		"DELETE /households/{id}/members/{uid}":   id(routertest.Case{Values: values{"path.id": home, "path.uid": member}}),
		"POST /households/{id}/invites":           of(`{}`),
		"GET /households/{id}/invites":            of(""),
		"DELETE /households/{id}/invites/{iid}":   id(routertest.Case{Values: values{"path.id": home, "path.iid": {Own: own, Foreign: theirs, Missing: "1"}}}),
		"POST /households/join":                   id(routertest.Case{Body: `{"invite_code":"AAAAAAAA"}`, Status: 400}),
		"GET /invites/{code}/validate":            id(routertest.Case{Values: values{"path.code": free("AAAAAAAA", "whoever has a code may read the name that it leads to")}}),
		"GET /households/{id}/nodes":              of(""),
		"POST /households/{id}/nodes":             id(routertest.Case{Values: values{"path.id": home, "body.node_id": fresh, "body.household_id": free(string(k.h1), "must be that of the path: see POST /households/{id}/nodes in probes"), "body.registered_by_user_id": free("1", "is the caller, whatever is said")}, Body: `{"node_id":"fresh","household_id":"` + string(k.h1) + `","name":"N"}`}),
		"POST /households/{id}/leave":             id(routertest.Case{Values: values{"path.id": {Own: string(hut), Foreign: string(k.h2)}}}),
		"DELETE /households/{id}":                 id(routertest.Case{Values: values{"path.id": {Own: string(cabin), Foreign: string(k.h2)}}}),
		"GET /admin/nodes":                        super(nil, ""),
		"POST /admin/nodes":                       super(values{"body.household_id": home, "body.node_id": node, "body.registered_by_user_id": member}, `{"node_id":"{body.node_id}","household_id":"{body.household_id}","name":"N","registered_by_user_id":{body.registered_by_user_id}}`),
		"GET /admin/nodes/{id}":                   super(values{"path.id": node}, ""),
		"DELETE /admin/nodes/{id}":                super(values{"path.id": node}, ""),
		"POST /admin/nodes/{id}/rotate-key":       super(values{"path.id": node}, ""),
		"POST /admin/nodes/{id}/services":         super(values{"path.id": node, "body.service_id": service}, `{"service_id":"tts"}`),
		"DELETE /admin/nodes/{id}/services/{sid}": super(values{"path.id": node, "path.sid": service}, ""),
		"POST /admin/app-clients":                 super(values{"body.app_id": fresh}, `{"app_id":"fresh","name":"F"}`),
		"GET /admin/app-clients":                  super(nil, ""),
		"POST /admin/app-clients/{id}/rotate":     super(values{"path.id": {Own: "cc", Foreign: "small"}}, ""),
		"POST /admin/app-clients/{id}/revoke":     super(values{"path.id": {Own: "cc", Foreign: "small"}}, ""),
		"GET /superuser/households":               super(nil, ""), "GET /superuser/nodes": super(nil, ""), "GET /superuser/users": super(nil, ""),
		"POST /superuser/users/{id}/temp-password":   super(values{"path.id": member}, ""),
		"GET /internal/app-ping":                     asApp(nil, ""),
		"POST /internal/validate-app":                told(values{"body.app_id": free("cc", "an app is nobody's"), "body.service_id": service}, `{"app_id":"cc","app_key":"k","service_id":"tts","address":"10.77.1.5"}`),
		"POST /internal/validate-node":               told(values{"body.node_id": node, "body.service_id": service}, `{"node_id":"{body.node_id}","node_key":"`+k.other+`","service_id":"cc"}`),
		"POST /internal/validate-household-access":   told(values{"body.household_id": home, "body.user_id": member}, `{"user_id":{body.user_id},"household_id":"{body.household_id}","required_role":"member"}`),
		"POST /internal/validate-node-household":     told(values{"body.household_id": home, "body.node_id": node}, `{"node_id":"{body.node_id}","household_id":"{body.household_id}"}`),
		"POST /internal/nodes/register":              asApp(values{"body.household_id": home, "body.registered_by_user_id": {Own: k.users["ann"].String(), Foreign: k.users["bob"].String(), Missing: "99999"}, "body.node_id": free("fresh2", "is chosen by the caller")}, `{"node_id":"fresh2","household_id":"{body.household_id}","name":"N","registered_by_user_id":{body.registered_by_user_id}}`),
		"POST /internal/nodes/{id}/services":         asApp(values{"path.id": node, "body.service_id": service}, `{"service_id":"small"}`),
		"DELETE /internal/nodes/{id}/services/{sid}": asApp(values{"path.id": node, "path.sid": free("small", "names a service, which is nobody's")}, ""),
		"DELETE /internal/nodes/{id}":                asApp(values{"path.id": node}, ""),
	}
	batch := routertest.Case{Header: app, Values: values{"query.user_ids": member}, Query: "user_ids={query.user_ids}", Refused: 200}
	cases["GET /internal/users/batch"] = []routertest.Case{batch}
	return cases
}

// openInvite is the id of an invite into a household.
func (k *stand) openInvite(name string, h account.HouseholdID) string {
	k.Helper()
	in, _, err := k.s.createInvite(k.Context(), k.caller(name), h, account.Member, 7)
	k.ok(err)
	return in.ID
}
