package oauth_test

import (
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer/account"
)

// TestPagesAreOfOneMachine: a request can be seen and finished on the machine
// that opened it, in the browser that opened it, and nowhere else.
func TestPagesAreOfOneMachine(t *testing.T) {
	k := newKit(t)
	p := k.browse("ann-laptop", request(k.public, callback))
	id := p.at.Query().Get("request")
	if id == "" || !formAt.MatchString(p.text) {
		t.Fatalf("%s %s", p.at, p.text)
	}
	for what, other := range map[string]*page{
		"another machine":  k.browse("bob-phone", "/oauth/sign-in?request="+id),
		"no such request":  k.browse("ann-laptop", "/oauth/sign-in?request=x"),
		"no request":       k.browse("ann-laptop", "/oauth/sign-in"),
		"request twice":    k.browse("ann-laptop", "/oauth/sign-in?request="+id+"&request="+id),
		"another, of many": k.browse("kitchen", "/oauth/sign-in?request="+id),
	} {
		if other.code == http.StatusOK || strings.Contains(other.text, "Lamps") || formAt.MatchString(other.text) {
			t.Errorf("%s: %d", what, other.code)
		}
	}
	good := p.fields()
	good.Set("email", "ann@example.org")
	good.Set("password", password)
	stranger := &page{k: k, http: k.client("bob-phone")}
	stranger.http.Jar = p.http.Jar // who stole the form has the cookie as well
	if got := stranger.post("/oauth/sign-in", good); got.code != http.StatusForbidden {
		t.Errorf("the form on another machine: %d", got.code)
	}
	typed := k.browse("ann-laptop", "/device")
	thief := &page{k: k, http: k.client("bob-phone")}
	thief.http.Jar = typed.http.Jar
	if got := thief.post("/device", typed.fields()); got.code != http.StatusForbidden {
		t.Errorf("the form of a device on another machine: %d", got.code)
	}
	elsewhere := &page{k: k, http: k.client("ann-laptop")}
	if got := elsewhere.post("/oauth/sign-in", good); got.code != http.StatusForbidden {
		t.Errorf("the form in another browser: %d", got.code)
	}
	elsewhere = k.browse("ann-laptop", request(k.public, callback))
	if got := elsewhere.post("/oauth/sign-in", good); got.code != http.StatusForbidden {
		t.Errorf("the form in another browser with a request of its own: %d", got.code)
	}
	if got := p.post("/oauth/sign-in", good); got.code != http.StatusOK || !strings.Contains(got.text, "Lamps") {
		t.Errorf("the form where it belongs: %d", got.code)
	}
}

// TestFormsCannotBeForged: a form needs the ticket of its own step, request and
// time.
func TestFormsCannotBeForged(t *testing.T) {
	k := newKit(t)
	p := k.browse("ann-laptop", request(k.public, callback))
	first := p.fields()
	second := p.get(issuer + request(k.public, callback)).fields() // in the same browser
	agree := p.signIn()
	consent := agree.fields()
	try := func(path string, v url.Values, pairs ...string) *page {
		out := url.Values{}
		for name := range v {
			out.Set(name, v.Get(name))
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			out.Set(pairs[i], pairs[i+1])
		}
		return p.post(path, out)
	}
	in := []string{"email", "ann@example.org", "password", password}
	cut := consent.Get("ticket")
	body, mac, _ := strings.Cut(cut, ".")
	for what, got := range map[string]*page{
		"no ticket":                   try("/oauth/sign-in", first, append(in, "ticket", "")...),
		"another request's":           try("/oauth/sign-in", first, append(in, "ticket", second.Get("ticket"))...),
		"for another request":         try("/oauth/sign-in", first, append(in, "request", second.Get("request"))...),
		"the consent's at sign-in":    try("/oauth/sign-in", first, append(in, "ticket", consent.Get("ticket"))...),
		"the sign-in's at consent":    try("/oauth/consent", first, "decision", "allow"),
		"the consent's, of another":   try("/oauth/consent", consent, "decision", "allow", "request", second.Get("request")),
		"the consent's for a device":  try("/device/decide", consent, "decision", "allow"),
		"the sign-in's for a device":  try("/device", first, append(in, "user_code", "BBBB-BBBB")...),
		"changed":                     try("/oauth/consent", consent, "decision", "allow", "ticket", "e30."+mac),
		"another signature":           try("/oauth/consent", consent, "decision", "allow", "ticket", body+"."+strings.Repeat("A", 43)),
		"no signature":                try("/oauth/consent", consent, "decision", "allow", "ticket", body),
		"an empty signature":          try("/oauth/consent", consent, "decision", "allow", "ticket", body+"."),
		"a very long one":             try("/oauth/consent", consent, "decision", "allow", "ticket", strings.Repeat("A", 5000)+"."+mac),
		"in the URL":                  try("/oauth/consent?ticket="+url.QueryEscape(cut), consent, "decision", "allow"),
		"from another site (Fetch)":   p.crossSite("/oauth/consent", consent, "Sec-Fetch-Site", "cross-site"),
		"from another site (Origin)":  p.crossSite("/oauth/consent", consent, "Origin", "https://evil.example"),
		"from a sandbox (Origin)":     p.crossSite("/oauth/consent", consent, "Origin", "null"),
		"a field that is there twice": p.crossSite("/oauth/consent", url.Values{"ticket": {cut, cut}, "request": consent["request"]}, "Sec-Fetch-Site", "same-origin"),
	} {
		if got.code != http.StatusForbidden && got.code != http.StatusBadRequest || got.header.Get("Location") != "" {
			t.Errorf("%s: %d", what, got.code)
		}
	}
	k.pass(10*time.Minute - time.Second)
	late := k.browse("ann-laptop", request(k.public, callback)).signIn()
	k.pass(10 * time.Minute)
	if got := late.submit("decision", "allow"); got.code == http.StatusSeeOther {
		t.Error("a page that was open for ten minutes still works")
	}
}

// crossSite posts a good consent with a header that says where it came from.
func (p *page) crossSite(path string, v url.Values, name, value string) *page {
	p.k.Helper()
	out := url.Values{"decision": {"allow"}}
	for n, values := range v {
		out[n] = values
	}
	req, err := http.NewRequestWithContext(p.k.Context(), http.MethodPost, issuer+path, strings.NewReader(out.Encode()))
	p.k.ok(err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set(name, value)
	resp, err := p.http.Do(req)
	return p.shows(resp, err)
}

// TestConsent: refusing tells the client so and ends the request; agreeing works
// once; a wrong password does not get that far.
func TestConsent(t *testing.T) {
	k := newKit(t)
	p := k.browse("ann-laptop", request(k.public, callback)).signIn()
	if !strings.Contains(p.text, "Lamps &lt;3") || strings.Contains(p.text, "Lamps <3") || !strings.Contains(p.text, "ann@example.org") || !strings.Contains(p.text, "ann-laptop") {
		t.Errorf("the page does not say who asks whom, and where: %s", p.text)
	}
	answer := p.submit("decision", "deny").answer()
	if answer.Get("error") != "access_denied" || answer.Get("state") != "s1" || answer.Get("iss") != issuer || answer.Has("code") {
		t.Errorf("refused: %v", answer)
	}
	if got := p.submit("decision", "allow"); got.code != http.StatusNotFound {
		t.Errorf("allowed after it was refused: %d", got.code)
	}
	p = k.browse("ann-laptop", request(k.public, callback)).signIn()
	if got := p.submit(); got.answer().Get("error") != "access_denied" {
		t.Error("no decision was taken for a yes")
	}
	p = k.browse("ann-laptop", request(k.public, callback)).signIn()
	if got := p.submit("decision", "allow"); got.answer().Get("code") == "" {
		t.Error("no code")
	}
	if got := p.submit("decision", "allow"); got.header.Get("Location") != "" {
		t.Error("two codes for one request")
	}
	wrong := k.browse("ann-laptop", request(k.public, callback)).submit("email", "ann@example.org", "password", "wrong")
	if wrong.code != http.StatusUnauthorized || !strings.Contains(wrong.text, "Invalid email or password") || strings.Contains(wrong.text, `"wrong"`) {
		t.Errorf("a wrong password: %d %s", wrong.code, wrong.text)
	}
	if got := wrong.signIn(); !strings.Contains(got.text, "Do not allow") {
		t.Errorf("the right one afterwards: %d", got.code)
	}
}

// TestConsentIsOfWhoSignedIn: the ticket says who agrees, not the form.
func TestConsentIsOfWhoSignedIn(t *testing.T) {
	k := newKit(t)
	p := k.browse("ann-laptop", request(k.public, callback)).signIn()
	code := p.submit("decision", "allow", "user", "2", "u", "2", "email", "bob@example.org").answer().Get("code")
	var a account.AuthRequest
	k.ok(k.store.Accounts().View(t.Context(), func(tx account.Tx) (err error) {
		a, err = tx.AuthRequestByCode(sum(code))
		return err
	}))
	if a.User != k.ann.ID || a.Peer != "id-ann-laptop" {
		t.Errorf("%+v", a)
	}
}

// TestPageHeaders: a page loads its own style, runs nothing, is framed by
// nobody, and its form leads here or to the client.
func TestPageHeaders(t *testing.T) {
	k := newKit(t)
	for redirect, target := range map[string]string{
		callback: " http://127.0.0.1", "https://app.example.org/cb?a=b": " https://app.example.org", "org.example.lamps:/done": " org.example.lamps:", "http://[::1]:99/cb": " http:",
	} {
		p := k.browse("ann-laptop", request(k.public, redirect))
		for _, p := range []*page{p, p.signIn()} {
			want := "default-src 'none'; style-src 'self'; form-action 'self'" + target + "; base-uri 'none'; frame-ancestors 'none'"
			if got := p.header.Get("Content-Security-Policy"); got != want {
				t.Errorf("%s: policy %s", redirect, got)
			}
			if strings.Contains(p.text, "<script") || strings.Contains(p.text, "style=") || strings.Contains(p.text, " on") && strings.Contains(p.text, "onclick") {
				t.Errorf("%s: something to run", redirect)
			}
			for name, want := range map[string]string{"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff"} {
				if got := p.header.Get(name); got != want {
					t.Errorf("%s is %q", name, got)
				}
			}
		}
	}
	resp, err := k.client("ann-laptop").Get(issuer + "/device")
	k.ok(err)
	resp.Body.Close()
	if c := resp.Cookies(); len(c) != 1 || !c[0].HttpOnly || !c[0].Secure || c[0].SameSite != http.SameSiteLaxMode || c[0].MaxAge != 0 || !c[0].Expires.IsZero() {
		t.Errorf("cookies %v", c)
	}
	if p := k.browse("ann-laptop", "/oauth/style.css"); p.code != http.StatusOK || !strings.HasPrefix(p.header.Get("Content-Type"), "text/css") {
		t.Errorf("style: %d", p.code)
	}
	// Who is no peer sees nothing.
	if p := k.browse("nobody", "/device"); p.code == http.StatusOK {
		t.Error("a page for nobody")
	}
}

// TestPagesOverPlainHTTP: inside the tunnel, where WireGuard keeps things
// private, the pages work without TLS as well.
func TestPagesOverPlainHTTP(t *testing.T) {
	k := newKit(t)
	plain := httptest.NewServer(k.server.Config.Handler)
	defer plain.Close()
	jar, err := cookiejar.New(nil)
	k.ok(err)
	c := &http.Client{Jar: jar, Transport: from{"ann-laptop", http.DefaultTransport}, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Host != strings.TrimPrefix(plain.URL, "http://") {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	p := (&page{k: k, http: c}).get(plain.URL + request(k.public, callback))
	send := func(path string, pairs ...string) *page {
		t.Helper()
		v := p.fields()
		for i := 0; i+1 < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, plain.URL+path, strings.NewReader(v.Encode()))
		k.ok(err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", plain.URL) // all that browsers say where there is no TLS
		return p.shows(c.Do(req))
	}
	p = send("/oauth/sign-in", "email", "ann@example.org", "password", password)
	if p = send("/oauth/consent", "decision", "allow"); p.answer().Get("code") == "" {
		t.Errorf("%d %s", p.code, p.text)
	}
}
