package oauth_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer/account"
)

// TestJ12_ChallengeAtAuthorize: what is no S256 challenge never gets a page. The
// client is told at its redirect, and nothing is stored.
func TestJ12_ChallengeAtAuthorize(t *testing.T) {
	k := newKit(t)
	good := s256(verifier)
	for what, pairs := range map[string][]string{
		"none":                 {"code_challenge", "", "code_challenge_method", ""},
		"method without one":   {"code_challenge", ""},
		"method omitted":       {"code_challenge_method", ""},
		"plain":                {"code_challenge_method", "plain", "code_challenge", verifier},
		"plain with S256's":    {"code_challenge_method", "plain"},
		"s256":                 {"code_challenge_method", "s256"},
		"S256 and more":        {"code_challenge_method", "S256 plain"},
		"S512":                 {"code_challenge_method", "S512"},
		"verifier as S256":     {"code_challenge", verifier + "x"},
		"42 letters":           {"code_challenge", good[:42]},
		"44 letters":           {"code_challenge", good + "A"},
		"129 letters":          {"code_challenge", strings.Repeat("A", 129)},
		"padded":               {"code_challenge", good + "="},
		"base64, not url":      {"code_challenge", strings.Repeat("+", 43)},
		"stray bits":           {"code_challenge", good[:42] + "_"},
		"hexadecimal":          {"code_challenge", strings.Repeat("ab", 32)},
		"a blank":              {"code_challenge", " "},
		"a break inside":       {"code_challenge", good[:20] + "\n" + good[21:]},
		"percent in the value": {"code_challenge", good[:40] + "%41"},
	} {
		p := k.browse("ann-laptop", request(k.public, callback, pairs...))
		if p.code == http.StatusBadRequest && strings.Contains(p.text, "control characters") {
			continue
		}
		answer := p.answer()
		if answer.Get("error") != "invalid_request" || answer.Get("code") != "" || answer.Get("state") != "s1" || answer.Get("iss") != issuer {
			t.Errorf("%s: %v", what, answer)
		}
	}
	twice := k.browse("ann-laptop", request(k.public, callback)+"&code_challenge_method=plain")
	if twice.code != http.StatusBadRequest || formAt.MatchString(twice.text) {
		t.Errorf("a method that comes twice: %d", twice.code)
	}
}

// TestJ12_VerifierAtToken: the verifier must be there, be one, and be that of
// this very code. A code that was presented with a wrong one is not used up.
func TestJ12_VerifierAtToken(t *testing.T) {
	k := newKit(t)
	code := k.code("ann-laptop", k.public, callback)
	challenge := s256(verifier)
	for what, c := range map[string]struct{ verifier, code string }{
		"none":             {"", "invalid_request"},
		"42 letters":       {verifier[:42], "invalid_request"},
		"129 letters":      {strings.Repeat("a", 129), "invalid_request"},
		"another alphabet": {verifier[:42] + "+", "invalid_request"},
		"a blank":          {verifier[:42] + " ", "invalid_request"},
		"not ASCII":        {verifier[:42] + "é", "invalid_request"},
		"another one":      {strings.Repeat("a", 43), "invalid_grant"},
		"128 letters":      {strings.Repeat("a", 128), "invalid_grant"},
		"the challenge":    {challenge, "invalid_grant"}, // what plain would accept
		"in capitals":      {strings.ToUpper(verifier), "invalid_grant"},
		"padded":           {verifier + "~", "invalid_grant"},
	} {
		k.redeem("ann-laptop", code, "code_verifier", c.verifier).refused(t, what, c.code)
	}
	// The verifier of another code of the same client.
	second := "another-verifier-0123456789-0123456789-0123"
	p := k.browse("ann-laptop", request(k.public, callback, "code_challenge", s256(second))).signIn().submit("decision", "allow")
	k.redeem("ann-laptop", p.answer().Get("code")).refused(t, "another code's verifier", "invalid_grant")
	k.redeem("ann-laptop", code, "code_verifier", second).refused(t, "another code's verifier", "invalid_grant")

	// A request that got past the filter without a challenge is met by none.
	bare := k.store.Accounts()
	k.ok(bare.Keep(t.Context(), func(tx account.Tx) error {
		laptop, _ := k.roster.Load().ByName("ann-laptop")
		err := tx.CreateAuthRequest(account.AuthRequest{
			ID: "bare", Client: k.public.ID, Redirect: callback, Scope: "openid", Peer: laptop.ID, Key: laptop.PublicKey, Expires: tx.Now().Add(60e9),
		})
		if err == nil {
			err = tx.Agree("bare", k.ann.ID, "", tx.Now(), nil)
		}
		if err == nil {
			err = tx.SetCode("bare", sum("bare-code"), tx.Now().Add(60e9))
		}
		return err
	}))
	k.redeem("ann-laptop", "bare-code").refused(t, "a verifier where no challenge is stored", "invalid_grant")

	if r := k.redeem("ann-laptop", code); r.code != http.StatusOK || !k.opens("ann-laptop", r.Access) {
		t.Errorf("the right one: %d %s %s", r.code, r.Error, r.Description)
	}
}

// TestJ13_RedirectsAtAuthorize: an address that is not the client's own, to the
// letter, gets neither a code nor an error: the person sees a page.
func TestJ13_RedirectsAtAuthorize(t *testing.T) {
	k := newKit(t)
	for _, bad := range []string{
		"", "http://127.0.0.1", "http://127.0.0.1/", "http://127.0.0.1/don", "http://127.0.0.1/done/", "http://127.0.0.1/done/x", "http://127.0.0.1/Done",
		"http://127.0.0.1/done?", "http://127.0.0.1/done?x=y", "http://127.0.0.1/done#", "http://127.0.0.1/done#x", "http://127.0.0.1/%64one",
		"http://127.0.0.1/x/../done", "http://127.0.0.1//done", "http://127.0.0.1/./done", "HTTP://127.0.0.1/done", "https://127.0.0.1/done",
		"http://127.0.0.1:/done", "http://127.0.0.1:0/done", "http://127.0.0.1:080/done", "http://127.0.0.1:65536/done", "http://127.0.0.1:+80/done",
		"http://127.0.0.1:80:80/done", "http://127.0.0.1:80@evil.example/done", "http://127.0.0.1@evil.example/done", "http://a@127.0.0.1/done",
		"http://127.0.0.1.evil.example/done", "http://127.0.0.1\\.evil.example/done", "http://127.0.0.1\\done", "http://127.0.0.1%2fdone", "http://127.0.0.1%00/done",
		"http://127.0.0.2/done", "http://127.1/done", "http://2130706433/done", "http://0x7f000001/done", "http://localhost/done", "http://localhost:80/done",
		"http://[::1]/done", "http://[::ffff:127.0.0.1]/done", "http://127.0.0.1 /done", " http://127.0.0.1/done", "http://127.0.0.1/done ", "//127.0.0.1/done", "/done",
		"http://[::1]:8080/cb/", "http://[::1]:8080/", "http://[::1%25lo]:8080/cb", "http://[0:0:0:0:0:0:0:1]:8080/cb",
		"https://app.example.org/cb", "https://app.example.org/cb?a=b&c=d", "https://app.example.org/cb?a=b#", "https://app.example.org/cb?A=b", "https://app.example.org:443/cb?a=b",
		"https://evilapp.example.org/cb?a=b", "https://app.example.org.evil.example/cb?a=b", "https://app.example.org@evil.example/cb?a=b", "https://APP.example.org/cb?a=b",
		"https://app.example.org/cb%3fa=b", "https://app.example.org/CB?a=b", "https://app.example.org./cb?a=b", "http://app.example.org/cb?a=b", "https://app.example.org/cb/?a=b",
		"https:/app.example.org/cb?a=b", "https:app.example.org/cb?a=b", "https://app.example.org\\@evil.example/cb?a=b", "https://app.example.org/cb?a=b%0d%0aX: y",
		"org.example.lamps:/don", "org.example.lamps:/done/", "org.example.lamps:done", "org.example.lamps://done", "org.example.lamps:///done", "ORG.example.lamps:/done",
		"org.example.lamps2:/done", "javascript:alert(1)", "data:text/html,x", "urn:ietf:wg:oauth:2.0:oob", strings.Repeat("a", 2000),
	} {
		p := k.browse("ann-laptop", request(k.public, bad))
		if p.code != http.StatusBadRequest || p.header.Get("Location") != "" || formAt.MatchString(p.text) || strings.Contains(p.text, "javascript:") {
			t.Errorf("%.80q: %d %s", bad, p.code, p.header.Get("Location"))
		}
	}
	for _, twice := range []string{"&redirect_uri=https%3A%2F%2Fevil.example%2F", "&client_id=x", "&redirect_uri="} {
		if p := k.browse("ann-laptop", request(k.public, callback)+twice); p.code != http.StatusBadRequest || p.header.Get("Location") != "" {
			t.Errorf("twice %s: %d", twice, p.code)
		}
	}
	for _, good := range []string{
		callback, "http://127.0.0.1:1/done", "http://127.0.0.1:80/done", "http://127.0.0.1:65535/done", "http://[::1]:8080/cb", "http://[::1]/cb", "http://[::1]:9/cb",
		"https://app.example.org/cb?a=b", "org.example.lamps:/done",
	} {
		p := k.browse("ann-laptop", request(k.public, good)).signIn().submit("decision", "allow")
		got := p.header.Get("Location")
		join := "?"
		if strings.Contains(good, "?") {
			join = "&"
		}
		if !strings.HasPrefix(got, good+join) || p.answer().Get("code") == "" {
			t.Errorf("%s: %d %s", good, p.code, got)
		}
	}
}

// TestJ13_RedirectAtToken: the redirect of the redemption is that of the
// request, with its port.
func TestJ13_RedirectAtToken(t *testing.T) {
	k := newKit(t)
	const at = "http://127.0.0.1:4711/done"
	code := k.code("ann-laptop", k.public, at)
	for _, bad := range []string{callback, "http://127.0.0.1:4712/done", at + "/", "https://app.example.org/cb?a=b", "HTTP://127.0.0.1:4711/done"} {
		k.redeem("ann-laptop", code, "redirect_uri", bad).refused(t, bad, "invalid_grant")
	}
	k.redeem("ann-laptop", code, "redirect_uri", "").refused(t, "none", "invalid_request")
	if r := k.redeem("ann-laptop", code, "redirect_uri", at); r.code != http.StatusOK {
		t.Errorf("the right one: %d %s", r.code, r.Error)
	}
}

// TestRequestsThatAreNotServed: each is refused at the redirect, with its own
// code, whatever else is in it.
func TestRequestsThatAreNotServed(t *testing.T) {
	k := newKit(t)
	for want, requests := range map[string][][]string{
		"unsupported_response_type": {{"response_type", "token"}, {"response_type", "id_token"}, {"response_type", "code token"}, {"response_type", "code id_token"}, {"response_type", "none"}, {"response_type", "CODE"}},
		"invalid_request": {{"response_type", ""}, {"response_mode", "fragment"}, {"response_mode", "form_post"}, {"response_mode", "query.jwt"},
			{"nonce", strings.Repeat("n", 1025)}},
		"request_not_supported":      {{"request", "eyJhbGciOiJub25lIn0.e30."}},
		"request_uri_not_supported":  {{"request_uri", "https://evil.example/request"}},
		"registration_not_supported": {{"registration", "{}"}},
		"login_required":             {{"prompt", "none"}, {"prompt", "none login"}},
		"invalid_scope":              {{"scope", ""}, {"scope", "admin"}, {"scope", "OPENID"}},
	} {
		for _, pairs := range requests {
			answer := k.browse("ann-laptop", request(k.public, callback, pairs...)).answer()
			if answer.Get("error") != want || answer.Get("code") != "" || answer.Get("state") != "s1" || answer.Get("iss") != issuer || answer.Get("error_description") == "" {
				t.Errorf("%v: %v, want %s", pairs, answer, want)
			}
		}
	}
	long := k.browse("ann-laptop", request(k.public, callback, "state", strings.Repeat("s", 1025))).answer()
	if long.Get("error") != "invalid_request" || long.Has("state") {
		t.Errorf("a long state: %v", long.Get("error"))
	}
	for _, id := range []string{"", "nobody", k.device.ID, "' OR 1=1 --", strings.Repeat("x", 4000)} {
		c := account.Client{ID: id}
		if p := k.browse("ann-laptop", request(c, callback)); p.code != http.StatusBadRequest || p.header.Get("Location") != "" {
			t.Errorf("client %.20q: %d", id, p.code)
		}
	}
	if p := k.browse("ann-laptop", "/oauth/authorize?"+strings.Repeat("x=1&", 3000)); p.code != http.StatusRequestURITooLong {
		t.Errorf("a long query: %d", p.code)
	}
	// What is not known is not heard: RFC 6749, section 3.1.
	p := k.browse("ann-laptop", request(k.public, callback, "unheard", "of", "max_age", "x", "ui_locales", "de", "prompt", "login consent"))
	if p.code != http.StatusOK || !formAt.MatchString(p.text) {
		t.Errorf("unknown parameters: %d %s", p.code, p.text)
	}
}

// TestFormsAtToken: what is wrong with the form is refused before any code or
// secret in it is looked at.
func TestFormsAtToken(t *testing.T) {
	k := newKit(t)
	code := k.code("ann-laptop", k.public, callback)
	good := redemption(k.public, code, callback)
	c := k.client("ann-laptop")
	post := func(path, kind, body string) reply {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, issuer+path, strings.NewReader(body))
		k.ok(err)
		req.Header.Set("Content-Type", kind)
		return k.read(c.Do(req))
	}
	const form = "application/x-www-form-urlencoded"
	for what, r := range map[string]reply{
		"code in the URL":       post("/oauth/token?code="+code, form, good.Encode()),
		"client in the URL":     post("/oauth/token?client_id="+k.public.ID, form, good.Encode()),
		"an empty query":        post("/oauth/token?", form, good.Encode()),
		"JSON":                  post("/oauth/token", "application/json", `{"grant_type":"authorization_code"}`),
		"multipart":             post("/oauth/token", "multipart/form-data; boundary=x", good.Encode()),
		"no type":               post("/oauth/token", "", good.Encode()),
		"a code twice":          post("/oauth/token", form, good.Encode()+"&code="+code),
		"a grant type twice":    post("/oauth/token", form, good.Encode()+"&grant_type=refresh_token"),
		"something twice":       post("/oauth/token", form, good.Encode()+"&x=1&x=1"),
		"a broken escape":       post("/oauth/token", form, good.Encode()+"&x=%zz"),
		"a semicolon":           post("/oauth/token", form, good.Encode()+";x=1"),
		"a zero byte":           post("/oauth/token", form, good.Encode()+"&x=%00"),
		"not UTF-8":             post("/oauth/token", form, good.Encode()+"&x=%ff"),
		"another charset":       post("/oauth/token", form+"; charset=utf-16", good.Encode()),
		"packed, it says":       k.send(c, "/oauth/token", good, http.Header{"Content-Encoding": {"gzip"}}),
		"no grant type":         k.redeem("ann-laptop", code, "grant_type", ""),
		"no client":             k.redeem("ann-laptop", code, "client_id", ""),
		"no code":               k.redeem("ann-laptop", code, "code", ""),
		"an assertion":          k.redeem("ann-laptop", code, "client_assertion", "x.y.z", "client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
		"too long":              post("/oauth/token", form, good.Encode()+"&x="+strings.Repeat("x", 20<<10)),
		"a form of nothing":     post("/oauth/token", form, ""),
		"credentials elsewhere": post("/oauth/token?client_secret=x", form, good.Encode()),
	} {
		if what == "credentials elsewhere" {
			if r.code != http.StatusBadRequest || r.Access != "" { // by the gate, in its own words
				t.Errorf("%s: %d", what, r.code)
			}
			continue
		}
		r.refused(t, what, "invalid_request")
	}
	for _, grant := range []string{"password", "client_credentials", "implicit", "urn:ietf:params:oauth:grant-type:jwt-bearer", "urn:ietf:params:oauth:grant-type:token-exchange", "AUTHORIZATION_CODE", "x"} {
		k.redeem("ann-laptop", code, "grant_type", grant, "username", "ann@example.org", "password", password, "subject_token", "x", "subject_token_type", "x", "assertion", "x").
			refused(t, grant, "unsupported_grant_type")
	}
	if p := (&page{k: k, http: c}).get(issuer + "/oauth/token?" + good.Encode()); p.code != http.StatusMethodNotAllowed && p.code != http.StatusBadRequest {
		t.Errorf("GET: %d", p.code)
	}
	if r := k.redeem("ann-laptop", code); r.code != http.StatusOK || r.header.Get("Cache-Control") != "no-store" {
		t.Errorf("after all that: %d %s", r.code, r.Error)
	}
}

// TestClientsProveThemselves: a secret is asked of those who have one, by one
// method.
func TestClientsProveThemselves(t *testing.T) {
	k := newKit(t)
	redirect := k.secret.Redirects[0]
	code := k.code("ann-laptop", k.secret, redirect)
	c := k.client("ann-laptop")
	basic := func(id, secret string) http.Header {
		return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"+url.QueryEscape(secret)))}}
	}
	good := redemption(k.secret, code, redirect, "client_id", "")
	for what, r := range map[string]reply{
		"no secret":                  k.send(c, "/oauth/token", redemption(k.secret, code, redirect), nil),
		"a wrong one":                k.send(c, "/oauth/token", redemption(k.secret, code, redirect, "client_secret", "x"), nil),
		"a wrong one, Basic":         k.send(c, "/oauth/token", good, basic(k.secret.ID, "x")),
		"an empty one, Basic":        k.send(c, "/oauth/token", good, basic(k.secret.ID, "")),
		"nobody's, Basic":            k.send(c, "/oauth/token", good, basic("nobody", k.secretText)),
		"a public client's, Basic":   k.send(c, "/oauth/token", good, basic(k.public.ID, k.secretText)),
		"another scheme":             k.send(c, "/oauth/token", good, http.Header{"Authorization": {"Bearer " + k.secretText}}),
		"two headers":                k.send(c, "/oauth/token", good, http.Header{"Authorization": {basic(k.secret.ID, k.secretText).Get("Authorization"), "Basic eDp4"}}),
		"a public client's, in form": k.send(c, "/oauth/token", redemption(k.public, code, redirect, "client_secret", k.secretText), nil),
	} {
		r.refused(t, what, "invalid_client")
		if r.code != http.StatusUnauthorized || r.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %d %q", what, r.code, r.header.Get("WWW-Authenticate"))
		}
	}
	both := redemption(k.secret, code, redirect, "client_secret", k.secretText)
	k.send(c, "/oauth/token", both, basic(k.secret.ID, k.secretText)).refused(t, "by two methods", "invalid_request")
	k.send(c, "/oauth/token", redemption(k.public, code, redirect), basic(k.secret.ID, k.secretText)).refused(t, "under two names", "invalid_request")
	if r := k.send(c, "/oauth/token", good, basic(k.secret.ID, k.secretText)); r.code != http.StatusOK {
		t.Errorf("the right one: %d %s", r.code, r.Error)
	}
	if strings.Contains(k.log.String(), k.secretText) || strings.Contains(k.log.String(), code) {
		t.Error("the log has a secret in it")
	}
}
