package hub_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/services/webhook"
	"github.com/warrenmesh/warren/spoke"
)

// secure is a plain HTTP client that believes the hub's own authority only.
type secure struct {
	spoke *spoke.Client
	roots *x509.CertPool
}

func (s secure) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: s.spoke.Dial, TLSClientConfig: &tls.Config{RootCAs: s.roots}}}
}

// TestIssuer: discovery is where OAuth clients look for it, over TLS, and names
// the issuer that tokens name.
func TestIssuer(t *testing.T) {
	h := newHome(t)
	roots := x509.NewCertPool()
	ca := hubtest.Call(t, h.kitchen, hubtest.Request{Method: http.MethodGet, URL: hubtest.AuthURL + "/ca.crt"})
	if ca.Status != 200 || !roots.AppendCertsFromPEM([]byte(ca.Text)) {
		t.Fatalf("the hub shows no authority: %d %s", ca.Status, ca.Text)
	}
	at := secure{h.kitchen, roots}
	const issuer = "https://auth.warren.internal"
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		a := hubtest.Call(t, at, hubtest.Request{Method: http.MethodGet, URL: issuer + path})
		if a.Status != 200 || a.String("issuer") != issuer {
			t.Fatalf("%s: %d %s", path, a.Status, a.Text)
		}
		if keys := hubtest.Call(t, at, hubtest.Request{Method: http.MethodGet, URL: a.String("jwks_uri")}); keys.Status != 200 || keys.JSON["keys"] == nil {
			t.Errorf("%s leads to keys %d %s", path, keys.Status, keys.Text)
		}
	}
	for _, service := range []string{"auth", "command", "hooks"} {
		if a := hubtest.Call(t, at, hubtest.Request{Method: http.MethodGet, URL: "https://" + service + ".warren.internal/openapi.json"}); a.Status != 200 || a.String("openapi") == "" {
			t.Errorf("%s: %d", service, a.Status)
		}
	}
	// Nobody else's certificate, and not for anybody else's name.
	ctx, cancel := context.WithTimeout(t.Context(), hubtest.Patience)
	defer cancel()
	if _, err := hubtest.Try(ctx, secure{h.kitchen, x509.NewCertPool()}, hubtest.Request{Method: http.MethodGet, URL: issuer + "/health"}); err == nil {
		t.Error("a client that trusts nobody was content")
	}
}

// TestK06_OverTheTunnel: an event is taken once, also after the hub has been
// started again.
func TestK06_OverTheTunnel(t *testing.T) {
	h := newHome(t)
	var hook control.WebhookReply
	h.Command("webhook/add", control.WebhookSpec{Name: "bell", Household: h.id}, &hook)
	body := `{"ring":true}`
	now := time.Now()
	signature, err := webhook.Sign([]byte(hook.Secret), "", now, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	ring := hubtest.Request{Method: http.MethodPost, URL: hook.URL, Body: map[string]bool{"ring": true},
		Header: []string{fmt.Sprintf("X-Jarvis-Timestamp: %d", now.Unix()), "X-Jarvis-Signature: " + signature}}
	if a := hubtest.Call(t, h.kitchen, ring); a.Status != 202 {
		t.Fatalf("%d %s", a.Status, a.Text)
	}
	refuses(t, h.kitchen, ring, 409, "Already accepted")
	h.Stop()
	h.Start()
	hubtest.Until(t, "the hub is reached again", func() bool { return reaches(t, h.kitchen, "hooks.warren.internal:80") })
	refuses(t, h.kitchen, ring, 409, "Already accepted")
	other := ring
	other.Header = []string{ring.Header[0], "X-Jarvis-Signature: sha256=" + fmt.Sprintf("%064x", 1)}
	refuses(t, h.kitchen, other, 401, "Invalid signature")
}

// TestSignInEnforcesNothing: what people do with their accounts is in the same
// log as changes of the mesh, and does not have all of it compiled again.
func TestSignInEnforcesNothing(t *testing.T) {
	h := newHome(t)
	before, err := h.Hub.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hubtest.SignIn(t, h.kitchen, "ann")
	h.Person("bob", h.id, "member")
	if after, err := h.Hub.Sweep(t.Context()); err != nil || after != before {
		t.Errorf("put in force %d times by people (%v)", after-before, err)
	}
}

// TestOwnersAreNumbers: the audit log has no name for the owner of a machine
// who has an account.
func TestOwnersAreNumbers(t *testing.T) {
	h := newHome(t)
	h.Invite("den", control.PeerSpec{Owner: "ann"})
	h.Invite("hall", control.PeerSpec{Owner: "bob"})
	page, err := h.Hub.Audit(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	owners := make(map[string]string)
	for _, e := range page.Rows {
		if e.Action == "invite.create" {
			owners[e.Target] = e.Detail["owner"]
		}
	}
	if owners["den"] != "user:1" || owners["hall"] != "bob" {
		t.Errorf("the log says %v", owners)
	}
}
