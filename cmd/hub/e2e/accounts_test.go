package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// atHome lets the people of the household home reach the account services.
var atHome = strings.Replace(first, `"acls": [`, `"acls": [
		{"action": "accept", "src": ["household:home"], "dst": ["svc:auth", "svc:command"]},`, 1)

const (
	authURL  = "http://auth.warren.internal:7701"
	password = "correct horse, battery"
)

// settle adds ann, a superuser, and bob, and their household.
func (m *mesh) settle() {
	m.t.Helper()
	m.apply(atHome)
	m.typed(password, "user", "add", "ann@example.org", "--name", "ann", "--superuser")
	m.typed(password, "user", "add", "bob@example.org", "--name", "bob")
	m.admin("household", "add", "Ann and Bob", "--label", "home")
	m.admin("household", "member", "home", "ann@example.org", "--role", "admin")
	m.admin("household", "member", "home", "bob@example.org", "--role", "member")
}

// known waits until the hub has written down where phones are: then it calls
// them when it was restarted, and nobody has to wait until they notice.
func (m *mesh) known(phones ...*phone) {
	m.t.Helper()
	for _, p := range phones {
		p.curl(authURL + "/health")
		m.settled(p.called)
	}
}

// answer is what a service said.
type answer struct {
	status int // 0 if there was none
	header map[string][]string
	body   map[string]any
	text   string
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, a.text) }

// str is a field of the answer's object, "" if there is none.
func (a answer) str(field string) string {
	s, _ := a.body[field].(string)
	return s
}

// ask calls a service with curl. What is secret comes on curl's standard input,
// as its configuration: headers, and a body that is not "".
func (m *machine) ask(t testing.TB, method, url, body string, headers ...string) answer {
	t.Helper()
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	var conf strings.Builder
	if body != "" {
		headers = append(headers, "Content-Type: application/json")
		fmt.Fprintf(&conf, "data-binary = \"%s\"\n", quoted.Replace(body))
	}
	for _, h := range headers {
		fmt.Fprintf(&conf, "header = \"%s\"\n", quoted.Replace(h))
	}
	r := m.run(t, conf.String(), "curl", "-sS", "--max-time", "10", "-K", "-", "-X", method, "-w", `\n%{http_code}\n%{header_json}`, url)
	return read(t, r)
}

// read takes apart what curl wrote for ask.
func read(t testing.TB, r result) (a answer) {
	t.Helper()
	// header_json begins on the line after the status, with a brace of its own.
	end := strings.LastIndex(r.out, "\n{\"")
	if end < 0 {
		return answer{text: fmt.Sprintf("exit code %d: %s", r.code, r.errs)}
	}
	if err := json.Unmarshal([]byte(r.out[end:]), &a.header); err != nil {
		t.Fatalf("curl's headers: %v\n%s", err, r.out[end:])
	}
	a.text = r.out[:end]
	at := strings.LastIndexByte(a.text, '\n')
	status, err := strconv.Atoi(a.text[at+1:])
	if err != nil {
		t.Fatalf("curl's status: %v\n%s", err, a.text)
	}
	a.status, a.text = status, a.text[:at]
	_ = json.Unmarshal([]byte(a.text), &a.body) // pages and lists are read as text
	return a
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// object writes a JSON object of names and values.
func object(pairs ...string) string {
	o := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		o[pairs[i]] = pairs[i+1]
	}
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// signIn is a person's sign-in on a machine, with what came of it.
func (m *machine) signIn(t testing.TB, who string) (access, refresh string) {
	t.Helper()
	a := m.ask(t, "POST", authURL+"/auth/login", object("email", who+"@example.org", "password", password))
	if a.status != 200 || a.str("access_token") == "" {
		t.Fatalf("%s signs in: %v", who, a)
	}
	return a.str("access_token"), a.str("refresh_token")
}

// want checks an answer's status and that its text has a word.
func want(t testing.TB, what string, a answer, status int, word string) {
	t.Helper()
	if a.status != status || !strings.Contains(a.text, word) {
		t.Errorf("%s: %v; want %d and %q", what, a, status, word)
	}
}

// TestAccountsOnPhones is a person's life with an account, from the stock app
// and curl: the hub's authority, signing in, and what it is worth elsewhere.
func TestAccountsOnPhones(t *testing.T) {
	m := newMesh(t)
	m.settle()
	ann, bob := m.phone("ann-phone", "--owner", "ann"), m.phone("bob-phone", "--owner", "bob")
	want(t, "set-up", ann.ask(t, "GET", authURL+"/auth/setup-status", ""), 200, "false")
	want(t, "a second set-up", ann.ask(t, "POST", authURL+"/auth/setup", object("email", "eve@example.org", "password", password)), 409, "")

	access, refresh := ann.signIn(t, "ann")
	const me = authURL + "/auth/me"
	want(t, "who am I", ann.ask(t, "GET", me, "", bearer(access)), 200, "ann@example.org")
	t.Run("TLS", func(t *testing.T) { overTLS(t, ann, access) })
	t.Run("Forwarded", func(t *testing.T) { forwarded(t, m) })
	a := ann.ask(t, "POST", authURL+"/auth/refresh", object("refresh_token", refresh))
	want(t, "refresh", a, 200, "refresh_token")
	want(t, "a wrong password", ann.ask(t, "POST", authURL+"/auth/login", object("email", "ann@example.org", "password", "wrong horse")), 401, "")

	// All that Ann's phone holds, on Bob's, is worth nothing there.
	access, refresh = a.str("access_token"), a.str("refresh_token")
	want(t, "a stolen access token", bob.ask(t, "GET", me, "", bearer(access)), 401, "")
	want(t, "a stolen refresh token", bob.ask(t, "POST", authURL+"/auth/refresh", object("refresh_token", refresh)), 401, "Invalid refresh token")
	want(t, "the owner's, afterwards", ann.ask(t, "GET", me, "", bearer(access)), 200, "ann@example.org")
	want(t, "a token in the URL", ann.ask(t, "GET", me+"?access_token=x", ""), 400, "")

	t.Run("Nodes", func(t *testing.T) { nodes(t, m, ann, bob) })
	m.admin("peer", "quarantine", "ann-phone")
	if a := ann.ask(t, "GET", me, "", bearer(access)); a.status != 0 {
		t.Errorf("in quarantine: %v", a)
	}
	m.admin("user", "logout", "ann@example.org")
	m.admin("peer", "release", "ann-phone")
	until(t, "the phone is heard again", func() bool { return ann.ask(t, "GET", authURL+"/health", "").status == 200 })
	want(t, "signed out meanwhile", ann.ask(t, "GET", me, "", bearer(access)), 401, "")
	want(t, "signed out meanwhile, refreshing", ann.ask(t, "POST", authURL+"/auth/refresh", object("refresh_token", refresh)), 401, "")
}

// overTLS trusts the hub's authority as the page for it says.
func overTLS(t *testing.T, p *phone, access string) {
	const url = "https://auth.warren.internal/auth/me"
	if r := p.curl("-H", "Expect:", url); r.code != 60 {
		t.Errorf("without the hub's certificate: exit code %d, want 60 (not trusted): %s%s", r.code, r.out, r.errs)
	}
	roots := p.mesh.dir + "/ca.crt"
	if r := p.curl("-f", "-o", roots, "http://auth.warren.internal/ca.crt"); r.code != 0 {
		t.Fatalf("the hub's certificate: exit code %d %s", r.code, r.errs)
	}
	header := p.mesh.dir + "/header"
	if err := os.WriteFile(header, []byte(bearer(access)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, family := range []string{"-4", "-6"} {
		if r := p.curl("-f", family, "--cacert", roots, "-H", "@"+header, url); r.code != 0 || !strings.Contains(r.out, "ann@example.org") {
			t.Errorf("curl %s --cacert: exit code %d, %s%s", family, r.code, r.out, r.errs)
		}
	}
	for _, page := range []string{"/.well-known/openid-configuration", "/oauth/jwks.json", "/openapi.json"} {
		if r := p.curl("-f", "--cacert", roots, "https://auth.warren.internal"+page); r.code != 0 || !json.Valid([]byte(r.out)) {
			t.Errorf("%s: exit code %d, %.200s%s", page, r.code, r.out, r.errs)
		}
	}
	if r := p.curl("--cacert", roots, "https://command.warren.internal/health"); r.code != 0 || !strings.Contains(r.out, "healthy") {
		t.Errorf("command over TLS: exit code %d, %s%s", r.code, r.out, r.errs)
	}
	p.must(t, "", "openssl", "verify", "-CAfile", roots, roots)
}

// forwarded signs in as a program beside a spoke does that knows no names of
// the mesh.
func forwarded(t *testing.T, m *mesh) {
	s := m.join("laptop", "--owner", "bob").up("--forward", "127.0.0.1:7701=auth.warren.internal:7701")
	a := s.ask(t, "POST", "http://127.0.0.1:7701/auth/login", object("email", "bob@example.org", "password", password))
	want(t, "through a forwarded port", a, 200, "access_token")
	s.stop(15)
}

// nodes uses a node's key and an app's, right and from elsewhere.
func nodes(t *testing.T, m *mesh, ann, bob *phone) {
	key := m.admin("node", "add", "kitchen", "--household", "home", "--peer", "ann-phone")
	center := m.admin("app", "add", "center", "--service", "auth", "--peer", "bob-phone")
	const command = "http://command.warren.internal:7703/api/v0/nodes/kitchen/config/pending"
	want(t, "the node", ann.ask(t, "GET", command, "", "X-API-Key: kitchen:"+key), 200, "")
	want(t, "the node's key elsewhere", bob.ask(t, "GET", command, "", "X-API-Key: kitchen:"+key), 401, "Invalid API Key")
	want(t, "a wrong node key", ann.ask(t, "GET", command, "", "X-API-Key: kitchen:"+key+"x"), 401, "Invalid API Key")

	app := []string{"X-Jarvis-App-Id: center", "X-Jarvis-App-Key: " + center}
	ask := func(p *phone, address string) answer {
		body := object("node_id", "kitchen", "node_key", key, "service_id", "command", "address", address)
		return p.ask(t, "POST", authURL+"/internal/validate-node", body, app...)
	}
	began := time.Now()
	want(t, "validate-node", ask(bob, ann.v4), 200, `"valid":true`)
	t.Logf("validate-node, curl and all: %v", time.Since(began).Round(time.Millisecond))
	want(t, "validate-node, from elsewhere", ask(bob, bob.v4), 200, `"valid":false`)
	want(t, "the app's key elsewhere", ask(ann, ann.v4), 401, "Invalid app credentials")
	// The node waits for events, and with its key that ends.
	events := strings.TrimSuffix(command, "config/pending") + "events?wait=50&after="
	none := ann.ask(t, "GET", events, "", "X-API-Key: kitchen:"+key)
	want(t, "the node's events", none, 200, "cursor")
	waiting := ann.startWith(t, "header = \"X-API-Key: kitchen:"+key+"\"", m.dir+"/events.log", "curl", "-v", "-K", "-", events+none.str("cursor"))
	until(t, "the node asks for events", func() bool { return strings.Contains(waiting.said(), "> GET ") })
	m.admin("node", "rm", "kitchen")
	removed := time.Now()
	<-waiting.done
	t.Logf("what it waited for ended after %v", time.Since(removed).Round(time.Millisecond))
	if took := time.Since(removed); took > generous || !strings.Contains(waiting.said(), "< HTTP/1.1 401") {
		t.Errorf("the node's waiting ended after %v:\n%s", took, waiting.said())
	}
	want(t, "validate-node, of one removed", ask(bob, ann.v4), 200, `"valid":false`)
	want(t, "the node, removed", ann.ask(t, "GET", command, "", "X-API-Key: kitchen:"+key), 401, "")
}
