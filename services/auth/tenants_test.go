package auth

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer/account"
)

// nobody is the id of a household that there is none of.
const nobody = "00000000-0000-4000-8000-000000000000"

// probe is one request that names something of somebody else's, and the same
// request that names nothing at all.
type probe struct {
	who         string // "bob", or the app "small"
	foreign     string // path
	none        string
	foreignBody string
	noneBody    string
}

func (k *stand) send(who, route, path, body string) answer {
	k.Helper()
	method, _, _ := strings.Cut(route, " ")
	if who == "small" {
		return k.small(method, path, body)
	}
	return k.as(who, method, path, body)
}

// probes has every route of this file's half of the service that takes an id,
// with what another household's caller could put there.
func (k *stand) probes() map[string][]probe {
	h1, ann := string(k.h1), k.users["ann"]
	in, _, err := k.s.createInvite(k.Context(), k.caller("ann"), k.h1, account.Member, 7)
	k.ok(err)
	id, _ := strconv.Atoi(in.ID)
	// home is a path under a household: the first one's, or nobody's.
	home := func(rest, body string) probe {
		return probe{"bob", "/households/" + h1 + rest, "/households/" + nobody + rest, body, body}
	}
	own := "/households/" + string(k.h2)
	admin := func(format, body string) probe {
		return probe{"bob", fmt.Sprintf(format, "kitchen"), fmt.Sprintf(format, "none"), body, body}
	}
	small := func(path, format string, foreign, none any) probe {
		return probe{"small", path, path, fmt.Sprintf(format, foreign), fmt.Sprintf(format, none)}
	}
	node := func(format, body string) probe {
		return probe{"small", fmt.Sprintf(format, "attic"), fmt.Sprintf(format, "none"), body, body}
	}
	role, name := `{"role":"admin"}`, `{"name":"Mine"}`
	return map[string][]probe{
		"GET /households/{id}":         {home("", "")},
		"PATCH /households/{id}":       {home("", name)},
		"DELETE /households/{id}":      {home("", "")},
		"GET /households/{id}/members": {home("/members", "")},
		"POST /households/{id}/members": {home("/members", k.url(`{"user_id":%d,"role":"admin"}`, k.users["bob"])),
			{"bob", own + "/members", own + "/members", k.url(`{"user_id":%d}`, ann), `{"user_id":99999}`}},
		"PATCH /households/{id}/members/{uid}": {home(k.url("/members/%d", ann), role),
			{"bob", k.url("%s/members/%d", own, ann), own + "/members/99999", role, role}},
		"DELETE /households/{id}/members/{uid}": {home(k.url("/members/%d", ann), ""),
			{"bob", k.url("%s/members/%d", own, ann), own + "/members/99999", "", ""}},
		"POST /households/{id}/leave":   {home("/leave", "")},
		"POST /households/{id}/invites": {home("/invites", `{"default_role":"power_user"}`)},
		"GET /households/{id}/invites":  {home("/invites", "")},
		"DELETE /households/{id}/invites/{iid}": {home("/invites/"+in.ID, ""),
			{"bob", k.url("%s/invites/%d", own, id), own + "/invites/1", "", ""}},
		"GET /households/{id}/nodes": {home("/nodes", "")},
		"POST /households/{id}/nodes": {home("/nodes", k.url(`{"node_id":"n","household_id":%q,"name":"N"}`, h1)),
			{"bob", own + "/nodes", own + "/nodes", k.url(`{"node_id":"n","household_id":%q,"name":"N"}`, h1), k.url(`{"node_id":"n","household_id":%q,"name":"N"}`, nobody)}},

		"GET /admin/nodes/{id}":                      {admin("/admin/nodes/%s", "")},
		"DELETE /admin/nodes/{id}":                   {admin("/admin/nodes/%s", "")},
		"POST /admin/nodes/{id}/rotate-key":          {admin("/admin/nodes/%s/rotate-key", "")},
		"POST /admin/nodes/{id}/services":            {admin("/admin/nodes/%s/services", `{"service_id":"x"}`)},
		"DELETE /admin/nodes/{id}/services/{sid}":    {admin("/admin/nodes/%s/services/cc", "")},
		"POST /admin/nodes":                          {{"bob", "/admin/nodes", "/admin/nodes", k.url(`{"node_id":"n","household_id":%q,"name":"N"}`, h1), k.url(`{"node_id":"n","household_id":%q,"name":"N"}`, nobody)}},
		"POST /admin/app-clients/{id}/rotate":        {{"bob", "/admin/app-clients/cc/rotate", "/admin/app-clients/none/rotate", "", ""}},
		"POST /admin/app-clients/{id}/revoke":        {{"bob", "/admin/app-clients/cc/revoke", "/admin/app-clients/none/revoke", "", ""}},
		"POST /superuser/users/{id}/temp-password":   {{"bob", k.url("/superuser/users/%d/temp-password", ann), "/superuser/users/99999/temp-password", "", ""}},
		"POST /internal/validate-node":               {small("/internal/validate-node", `{"node_id":%q,"node_key":"`+k.other+`","service_id":"cc"}`, "attic", "none")},
		"POST /internal/validate-household-access":   {small("/internal/validate-household-access", k.url(`{"user_id":%d,"household_id":%%q,"required_role":"member"}`, k.users["bob"]), k.h2, nobody)},
		"POST /internal/validate-node-household":     {small("/internal/validate-node-household", `{"node_id":%q,"household_id":"`+string(k.h2)+`"}`, "attic", "none")},
		"GET /internal/users/batch":                  {{"small", k.url("/internal/users/batch?user_ids=%d", k.users["bob"]), "/internal/users/batch?user_ids=99999", "", ""}},
		"POST /internal/nodes/register":              {small("/internal/nodes/register", `{"node_id":"n","household_id":%q,"name":"N"}`, k.h2, nobody)},
		"POST /internal/nodes/{id}/services":         {node("/internal/nodes/%s/services", `{"service_id":"auth"}`)},
		"DELETE /internal/nodes/{id}/services/{sid}": {node("/internal/nodes/%s/services/cc", "")},
		"DELETE /internal/nodes/{id}":                {node("/internal/nodes/%s", "")},
	}
}

// free are the routes that take no id of anybody's: what they answer depends on
// the caller alone. Others of this service are shown where they are written.
var free = []string{
	"GET /households", "POST /households", "POST /households/join", "GET /invites/{code}/validate",
	"GET /admin/nodes", "POST /admin/app-clients", "GET /admin/app-clients",
	"GET /superuser/households", "GET /superuser/nodes", "GET /superuser/users",
	"GET /internal/app-ping", "POST /internal/validate-app",
	"GET /health", "GET /openapi.json",
}

// What belongs to others is, to the byte, as if it did not exist, on every
// route that there is; and whatever was tried, nothing of theirs has changed.
func TestT02_OthersAreAsIfThereWereNone(t *testing.T) {
	k := newStand(t)
	probes := k.probes()
	before := k.everything()
	walked := 0
	for _, rt := range k.router.Routes() {
		tried, ok := probes[rt.Name()]
		if !ok && !strings.Contains(" "+strings.Join(free, "\n ")+"\n", " "+rt.Name()+"\n") {
			t.Errorf("%s has no test of what another household's caller gets", rt.Name())
		}
		for _, p := range tried {
			walked++
			foreign := k.send(p.who, rt.Name(), p.foreign, p.foreignBody)
			none := k.send(p.who, rt.Name(), p.none, p.noneBody)
			if foreign != none {
				t.Errorf("%s as %s: others' is %d %s, none is %d %s", rt.Name(), p.who, foreign.code, foreign.text, none.code, none.text)
			}
			if refused := foreign.code >= 400 || strings.Contains(foreign.text, `"valid":false`) || foreign.text == `{"users":{}}`; !refused {
				t.Errorf("%s as %s: %d %s", rt.Name(), p.who, foreign.code, foreign.text)
			}
			for _, canary := range []string{"First", "Kitchen", "ann@example.org", "Attic"} {
				if strings.Contains(foreign.text, canary) {
					t.Errorf("%s as %s tells %q: %s", rt.Name(), p.who, canary, foreign.text)
				}
			}
		}
	}
	if walked < len(probes) {
		t.Errorf("%d of %d probes were sent: a route has another name", walked, len(probes))
	}
	if after := k.everything(); after != before {
		t.Errorf("something changed:\n%s\n%s", before, after)
	}
}

// everything is what there is, as those see it who may see all.
func (k *stand) everything() string {
	k.Helper()
	var all []string
	for _, path := range []string{"/superuser/households", "/superuser/users", "/superuser/nodes"} {
		all = append(all, k.want(k.as("ann", "GET", path, ""), 200, "").text)
	}
	for _, path := range []string{"/invites", "/members", "/nodes"} {
		all = append(all, k.want(k.as("ann", "GET", "/households/"+string(k.h1)+path, ""), 200, "").text)
	}
	all = append(all, k.want(k.adm("GET", "/admin/app-clients", ""), 200, "").text)
	return strings.Join(all, "\n")
}

// Nothing but the path says which household is meant.
func TestT02_HouseholdFromNowhereElse(t *testing.T) {
	k := newStand(t)
	plain := k.as("bob", "GET", "/households", "")
	for _, header := range []string{"X-Household-Id", "X-Context-Household-Id", "X-Context-User-Id", "X-Context-Household-Member-Ids"} {
		value := string(k.h1)
		if header == "X-Context-User-Id" {
			value = k.users["ann"].String()
		}
		for _, path := range []string{"/households", k.url("/households/%s", k.h1)} {
			got := k.from("bob-phone", "GET", path, "", "Authorization: Bearer "+k.tokens["bob"], header+": "+value)
			if want := k.as("bob", "GET", path, ""); got != want {
				t.Errorf("%s: %v, want %v", header, got, want)
			}
		}
	}
	for _, query := range []string{"household_id=", "id=", "user_id="} {
		got := k.as("bob", "GET", "/households?"+query+string(k.h1), "")
		if got.code < 400 && got != plain {
			t.Errorf("%s changes the answer to %v", query, got)
		}
	}
	k.want(k.as("bob", "PATCH", k.url("/households/%s", k.h2), k.url(`{"name":"Mine","id":%q}`, k.h1)), 422, "")
}

// Shapes of ids that are none: the answer is that of nothing, and never a 500.
func TestT02_OddIDs(t *testing.T) {
	k := newStand(t)
	none := k.as("bob", "GET", "/households/"+nobody, "")
	for _, id := range []string{"%00", "%27%20OR%201=1--", "..%2f" + string(k.h1), string(k.h1) + "%20", strings.ToUpper(string(k.h1)), "%F0%9F%8F%A0", strings.Repeat("a", 300), "*", "%25"} {
		if a := k.as("bob", "GET", "/households/"+id, ""); a.code != 404 && a.code != 422 && a.code != 400 || strings.Contains(a.text, "First") {
			t.Errorf("%.40s: %v, none is %v", id, a, none)
		}
		if a := k.adm("GET", "/admin/nodes/"+id, ""); a.code != 404 && a.code != 422 && a.code != 400 {
			t.Errorf("%.40s: %v", id, a)
		}
	}
}
