package hubtest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/hub/control"
)

// Machine is where a plain HTTP client runs: behind a spoke, or behind a
// stranger's own tunnel.
type Machine interface{ HTTPClient() *http.Client }

// Password is everybody's.
const Password = "correct horse battery staple"

// Command does what the admin's command line does: it asks over the control
// socket. A refusal fails the test.
func (m *Mesh) Command(command string, req, reply any) {
	m.t.Helper()
	if err := control.NewClient(m.Dir).Call(m.t.Context(), command, req, reply); err != nil {
		m.t.Fatalf("hub %s: %v", command, err)
	}
}

// Household adds a household and returns its id.
func (m *Mesh) Household(name, label string) string {
	m.t.Helper()
	var h control.HouseholdInfo
	m.Command("household/add", control.HouseholdSpec{Name: name, Label: label}, &h)
	return string(h.ID)
}

// Person adds name@example.org with Password and seats them in a household, ""
// for none.
func (m *Mesh) Person(name, household, role string) control.UserInfo {
	m.t.Helper()
	var u control.UserInfo
	m.Command("user/add", control.UserSpec{Email: name + "@example.org", Username: name, Password: Password}, &u)
	if household != "" {
		m.Command("household/member", control.MemberSpec{Household: household, User: name, Role: role}, nil)
	}
	return u
}

// Answer is what a service said.
type Answer struct {
	Status int
	Header http.Header
	Text   string
	// JSON is the body, if it is an object.
	JSON map[string]any
}

// Detail is the text of a refusal, in either shape.
func (a Answer) Detail() string { return a.String("detail") }

// String is a field of the body, "" if there is none or it is no text.
func (a Answer) String(field string) string {
	s, _ := a.JSON[field].(string)
	return s
}

// Request is one request of a plain HTTP client behind a machine of the mesh.
type Request struct {
	Method, URL string
	// Header is lines "Name: value".
	Header []string
	Body   any // nil: none; marshalled
}

// Call sends a request through a machine's tunnel. It fails the test if there is
// no answer.
func Call(t testing.TB, c Machine, r Request) Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	a, err := Try(ctx, c, r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	return a
}

// Try is Call that may fail.
func Try(ctx context.Context, c Machine, r Request) (Answer, error) {
	var body io.Reader
	if r.Body != nil {
		b, err := json.Marshal(r.Body)
		if err != nil {
			return Answer{}, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, body)
	if err != nil {
		return Answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, line := range r.Header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	// Each call is a client of its own and leaves no connection behind: one
	// address may hold only so many.
	client := c.HTTPClient()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Status: resp.StatusCode, Header: resp.Header, Text: string(text)}
	// What is no object has no fields.
	_ = json.Unmarshal(text, &a.JSON)
	return a, nil
}

// Tokens are what a sign-in gives.
type Tokens struct{ Access, Refresh string }

// Bearer is the header line of the access token.
func (k Tokens) Bearer() string { return "Authorization: Bearer " + k.Access }

// AuthURL and CommandURL are where clients of Jarvis look.
const (
	AuthURL    = "http://auth.warren.internal:7701"
	CommandURL = "http://command.warren.internal:7703"
)

// SignIn signs somebody in with Password on a machine.
func SignIn(t testing.TB, c Machine, name string) Tokens {
	t.Helper()
	a := Call(t, c, Request{Method: http.MethodPost, URL: AuthURL + "/auth/login",
		Body: map[string]string{"email": name + "@example.org", "password": Password}})
	if a.Status != http.StatusOK {
		t.Fatalf("%s signing in: %d %s", name, a.Status, a.Text)
	}
	return Tokens{a.String("access_token"), a.String("refresh_token")}
}
