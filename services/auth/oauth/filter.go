package oauth

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/zitadel/oidc/v3/pkg/oidc"

	"github.com/warrenmesh/warren/services/auth"
)

const (
	// maxForm is the size of a form, bytes.
	maxForm = 16 << 10
	// maxQuery is the size of an authorization request's query, bytes.
	maxQuery = 8 << 10
	// maxValue is the length of what a client wants back: state and nonce.
	maxValue = 1024
)

// grants are the grants there are.
var grants = []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken, oidc.GrantTypeDeviceCode}

// scopes are the scopes there are. Without the first a token says who somebody
// is and opens nothing; the others say what the client is told about them.
var scopes = []string{auth.ScopeAccount, oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail, oidc.ScopeOfflineAccess}

// verifierForm is RFC 7636, section 4.1.
var verifierForm = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)

// fault is a refusal in OAuth's words (RFC 6749, section 5.2).
type fault struct {
	status int
	code   string
	detail string
}

// Error implements error.
func (f *fault) Error() string { return f.code + ": " + f.detail }

func invalid(detail string) *fault {
	return &fault{http.StatusBadRequest, "invalid_request", detail}
}

// write answers a client that is a program.
func (f *fault) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	if f.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="oauth"`)
	}
	w.WriteHeader(f.status)
	// Two strings marshal.
	b, _ := json.Marshal(map[string]string{"error": f.code, "error_description": f.detail})
	_, _ = w.Write(b)
}

// parse reads parameters of which each may come once (RFC 6749, sections 3.1
// and 3.2), as UTF-8 without control characters.
func parse(raw string) (url.Values, *fault) {
	v, err := url.ParseQuery(raw)
	if err != nil {
		return nil, invalid("The parameters cannot be read; encode them as a form.")
	}
	for name, values := range v {
		if len(values) != 1 {
			return nil, invalid("A parameter comes twice; send each one once.")
		}
		if !clean(name) || !clean(values[0]) {
			return nil, invalid("A parameter has control characters in it, or is not UTF-8.")
		}
	}
	return v, nil
}

func clean(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// form reads the parameters of a POST. They are in the body and nowhere else:
// URLs are written to logs and histories, and secrets are not for those.
func form(r *http.Request) (url.Values, *fault) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") || len(r.Header.Values("Content-Encoding")) != 0 {
		return nil, invalid("Send the form as it is, in UTF-8.")
	}
	if err != nil || kind != "application/x-www-form-urlencoded" || len(r.Header.Values("Content-Type")) != 1 {
		return nil, invalid("Send a form: Content-Type application/x-www-form-urlencoded.")
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		return nil, invalid("Send parameters in the body only; the URL is no place for them.")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxForm+1))
	var tooLong *http.MaxBytesError
	if len(body) > maxForm || errors.As(err, &tooLong) {
		return nil, &fault{http.StatusRequestEntityTooLarge, "invalid_request", "The form is too long."}
	}
	if err != nil {
		return nil, invalid("The form did not arrive whole.")
	}
	return parse(string(body))
}

// clientForm is form for requests of a client that has to say who it is: by one
// method, and under one name.
func clientForm(r *http.Request) (url.Values, *fault) {
	// The machine is a credential that a browser adds by itself, whatever page
	// it shows.
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return nil, &fault{http.StatusForbidden, "invalid_request", "Pages of other sites may not speak for a program here."}
	}
	v, f := form(r)
	if f != nil {
		return nil, f
	}
	if v.Has("client_assertion") || v.Has("client_assertion_type") {
		return nil, invalid("Clients prove themselves with their secret, not with an assertion.")
	}
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		if v.Get("client_id") == "" {
			return nil, invalid("The client does not say who it is; send client_id.")
		}
		return v, nil
	}
	id, _, ok := r.BasicAuth()
	if len(headers) != 1 || !ok {
		return nil, &fault{http.StatusUnauthorized, "invalid_client", "Clients prove themselves with HTTP Basic or in the form."}
	}
	id, err := url.QueryUnescape(id)
	if err != nil || !clean(id) || v.Has("client_secret") || v.Has("client_id") && v.Get("client_id") != id {
		return nil, invalid("A client proves itself by one method, under one name.")
	}
	v.Del("client_id")
	return v, nil
}

// tokenForm judges what a token request says before the library reads it.
func tokenForm(r *http.Request) (url.Values, *fault) {
	v, f := clientForm(r)
	if f != nil {
		return nil, f
	}
	grant := oidc.GrantType(v.Get("grant_type"))
	if grant == "" {
		return nil, invalid("grant_type is missing.")
	}
	if !slices.Contains(grants, grant) {
		return nil, &fault{http.StatusBadRequest, "unsupported_grant_type", "There is the code grant, the refresh grant and the device grant."}
	}
	if grant == oidc.GrantTypeCode {
		if v.Get("code") == "" || v.Get("redirect_uri") == "" {
			return nil, invalid("code and redirect_uri are needed.")
		}
		if !verifierForm.MatchString(v.Get("code_verifier")) {
			return nil, invalid("code_verifier is needed: 43 to 128 of A-Z a-z 0-9 - . _ ~ (RFC 7636).")
		}
	}
	return v, nil
}

// only are the parameters of these names. The library takes a name in any
// letters, Code_Verifier for code_verifier, and would read what nobody judged.
func only(v url.Values, names ...string) url.Values {
	judged := make(url.Values, len(names))
	for _, name := range names {
		if v.Has(name) {
			judged.Set(name, v.Get(name))
		}
	}
	return judged
}

// handOn gives the library judged parameters and no others: it reads the body
// and the URL only where it finds no form.
func (s *Server) handOn(w http.ResponseWriter, r *http.Request, v url.Values) {
	r.Form, r.PostForm = v, v
	r.Body = http.NoBody
	s.protocol.ServeHTTP(challenged{w}, r)
}

// challenged adds the header that a 401 must have (RFC 9110, section 11.6.1).
type challenged struct{ http.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (c challenged) WriteHeader(status int) {
	if status == http.StatusUnauthorized {
		c.Header().Set("WWW-Authenticate", `Basic realm="oauth"`)
	}
	c.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (c challenged) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// pkce says what is wrong with a challenge, "" if nothing is. SHA-256 makes 32
// bytes and base64url 43 letters of them, whatever the verifier.
func pkce(challenge, method string) string {
	if method != string(oidc.CodeChallengeMethodS256) {
		return "code_challenge_method must be S256."
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(challenge)
	if err != nil || len(b) != 32 || base64.RawURLEncoding.EncodeToString(b) != challenge {
		return "code_challenge is needed: the SHA-256 of the verifier in base64url."
	}
	return ""
}

// knownScopes are those of a scope parameter that there are, in order.
func knownScopes(scope string) []string {
	var known []string
	for s := range strings.SplitSeq(scope, " ") {
		if slices.Contains(scopes, s) && !slices.Contains(known, s) {
			known = append(known, s)
		}
	}
	return known
}
