package hub_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	neturl "net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/spoke"
)

// field finds hidden fields of a page.
var field = regexp.MustCompile(`name="([a-z_]+)" value="([^"]*)"`)

// post sends a form as a browser would, to a page that another page names.
func post(t *testing.T, c *http.Client, at string, form neturl.Values) string {
	t.Helper()
	res, err := c.PostForm(at, form)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text := readAll(t, res)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s\n%s", at, res.Status, text)
	}
	return text
}

// TestSpokeLogin: a person signs in for a machine without a screen on another
// machine of theirs; what comes of it speaks for them from that machine, is
// renewed, and ends with logout.
func TestSpokeLogin(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	home := m.Household("home", "")
	ann := m.Person("ann", home, "member")
	box := m.Join("box", control.PeerSpec{})
	laptop := m.Join("laptop", control.PeerSpec{Owner: "ann"})
	if _, err := box.Token(t.Context()); !errors.Is(err, spoke.ErrNoLogin) {
		t.Fatalf("before: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*hubtest.Patience)
	defer cancel()
	prompts, done := make(chan spoke.Prompt, 1), make(chan error, 1)
	go func() { done <- box.Login(ctx, func(p spoke.Prompt) { prompts <- p }) }()
	var p spoke.Prompt
	select {
	case p = <-prompts:
	case err := <-done:
		t.Fatalf("login: %v", err)
	}
	browser := browserOf(t, laptop)
	defer browser.CloseIdleConnections()
	agree(t, browser, p, ann.Email)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	token, err := box.Token(t.Context())
	if err != nil || !box.Status().SignedIn {
		t.Fatal(err, "and the status says that nobody is signed in")
	}
	me := func(c hubtest.Machine) hubtest.Answer {
		return hubtest.Call(t, c, hubtest.Request{Method: http.MethodGet, URL: "https://auth.warren.internal/auth/me",
			Header: []string{"Authorization: Bearer " + token}})
	}
	if a := me(box); a.Status != http.StatusOK || a.String("email") != ann.Email {
		t.Errorf("from the machine that signed in: %d %s", a.Status, a.Text)
	}
	if a := me(laptop); a.Status != http.StatusUnauthorized {
		t.Errorf("from another machine: %d, want 401", a.Status)
	}
	if err := box.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := me(box); a.Status != http.StatusUnauthorized || box.Status().SignedIn {
		t.Errorf("after logout: %d, want 401", a.Status)
	}
	if _, err := box.Token(t.Context()); !errors.Is(err, spoke.ErrNoLogin) {
		t.Errorf("after logout: %v", err)
	}
}

// browserOf keeps cookies, as a browser does.
func browserOf(t *testing.T, c *spoke.Client) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	hc := c.HTTPClient()
	hc.Jar = jar
	return hc
}

func readAll(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// agree is what the person does.
func agree(t *testing.T, browser *http.Client, p spoke.Prompt, email string) {
	t.Helper()
	res, err := browser.Get(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	page := readAll(t, res)
	res.Body.Close()
	at, err := neturl.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	form := hidden(page)
	form.Set("user_code", p.Code)
	form.Set("email", email)
	form.Set("password", hubtest.Password)
	page = post(t, browser, "https://"+at.Host+"/device", form)
	if !strings.Contains(page, "box") {
		t.Errorf("the page does not say which machine is meant:\n%s", page)
	}
	form = hidden(page)
	form.Set("decision", "allow")
	post(t, browser, "https://"+at.Host+"/device/decide", form)
}

func hidden(page string) neturl.Values {
	form := neturl.Values{}
	for _, f := range field.FindAllStringSubmatch(page, -1) {
		form.Set(f[1], f[2])
	}
	return form
}
