package oauth_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer/account"
)

// reply is an answer to a program.
type reply struct {
	code                               int
	header                             http.Header
	Error, Scope                       string
	Access                             string `json:"access_token"`
	Refresh                            string `json:"refresh_token"`
	ID                                 string `json:"id_token"`
	Type                               string `json:"token_type"`
	Description                        string `json:"error_description"`
	Expires                            int    `json:"expires_in"`
	Active                             bool
	Subject                            string `json:"sub"`
	Role                               string
	DeviceCode, UserCode, Verification string
	all                                map[string]any
}

// call posts a form from a machine.
func (k *kit) call(machine, path string, v url.Values) reply {
	k.Helper()
	return k.send(k.client(machine), path, v, nil)
}

func (k *kit) send(c *http.Client, path string, v url.Values, header http.Header) reply {
	k.Helper()
	req, err := http.NewRequestWithContext(k.Context(), http.MethodPost, issuer+path, strings.NewReader(v.Encode()))
	k.ok(err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for name, values := range header {
		req.Header[name] = values
	}
	return k.read(c.Do(req))
}

func (k *kit) read(resp *http.Response, err error) reply {
	k.Helper()
	k.ok(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	k.ok(err)
	r := reply{code: resp.StatusCode, header: resp.Header}
	if len(text) > 0 && json.Unmarshal(text, &r) != nil {
		k.Fatalf("%d is no JSON: %s", resp.StatusCode, text)
	}
	_ = json.Unmarshal(text, &r.all)
	return r
}

// redeem is a good redemption of the public client; pairs change it.
func (k *kit) redeem(machine, code string, pairs ...string) reply {
	k.Helper()
	return k.call(machine, "/oauth/token", redemption(k.public, code, callback, pairs...))
}

func redemption(c account.Client, code, redirect string, pairs ...string) url.Values {
	v := url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect}, "client_id": {c.ID}, "code_verifier": {verifier},
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
		if pairs[i+1] == "" {
			v.Del(pairs[i])
		}
	}
	return v
}

// refused wants an error code and that nothing was given out.
func (r reply) refused(t testing.TB, what, code string) {
	t.Helper()
	if r.code < 400 || r.Error != code || r.Access != "" || r.Refresh != "" || r.ID != "" {
		t.Errorf("%s: got %d %q %q, want %s", what, r.code, r.Error, r.Description, code)
	}
}

// works says whether an access token says who its person is, to a machine.
func (k *kit) works(machine, access string) bool { return k.bearer(machine, "/oauth/userinfo", access) }

// opens says whether it opens what people may use.
func (k *kit) opens(machine, access string) bool { return k.bearer(machine, "/opened", access) }

func (k *kit) bearer(machine, path, access string) bool {
	k.Helper()
	req, err := http.NewRequestWithContext(k.Context(), http.MethodGet, issuer+path, nil)
	k.ok(err)
	req.Header.Set("Authorization", "Bearer "+access)
	r := k.read(k.client(machine).Do(req))
	return r.code == http.StatusOK && r.Subject == k.ann.ID.String()
}
