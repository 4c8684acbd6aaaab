package oauth_test

import (
	"net/http"
	"net/url"
	"testing"
)

// TestNamesInOtherLetters: the library takes a parameter's name in any case, the
// filter in its own. What is written otherwise is no parameter at all: it would
// be a second reader's word against the first's.
func TestNamesInOtherLetters(t *testing.T) {
	k := newKit(t)
	code := k.code("ann-laptop", k.public, callback)
	wrong := "wrong-wrong-wrong-wrong-wrong-wrong-wrong-wrong"
	// Which of two the library takes is chance.
	for range 12 {
		for what, r := range map[string]reply{
			"the verifier": k.redeem("ann-laptop", code, "code_verifier", wrong, "Code_Verifier", verifier),
			"the code":     k.redeem("ann-laptop", code, "code", wrong, "CODE", code),
			"the redirect": k.redeem("ann-laptop", code, "redirect_uri", callback+"x", "Redirect_URI", callback),
		} {
			r.refused(t, what, "invalid_grant")
		}
		k.redeem("ann-laptop", code, "client_id", "nobody", "CLIENT_ID", k.public.ID).refused(t, "the client", "invalid_client")
	}
	if t.Failed() {
		return
	}
	if r := k.redeem("ann-laptop", code, "Code", wrong, "CODE_VERIFIER", wrong, "Client_Assertion", "x.y.z", "scope.0.x", "1"); r.code != http.StatusOK {
		t.Errorf("with names that are none: %d %s", r.code, r.Error)
	}
	fresh := k.redeem("ann-laptop", k.code("ann-laptop", k.public, callback))
	for range 12 {
		r := k.call("stt", "/oauth/introspect", url.Values{"token": {"made-up"}, "TOKEN": {fresh.Access}, "client_id": {k.secret.ID}, "client_secret": {k.secretText}})
		if r.Active {
			t.Fatal("a token of another name is introspected")
		}
	}
}
