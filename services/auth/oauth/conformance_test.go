package oauth_test

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services/auth/token"
)

// Independent clients drive the server here: golang.org/x/oauth2 and
// coreos/go-oidc know nothing of it but what its metadata says.

// TestConformanceCodeFlow goes through the code flow on both engines, as a
// public client that finds out for itself how it is to name itself.
func TestConformanceCodeFlow(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		k := newKitOn(t, cfg)
		k.codeFlow(k.public, "", "http://127.0.0.1:43117/done")
	})
}

func TestConformanceConfidentialClient(t *testing.T) {
	k := newKit(t)
	k.codeFlow(k.secret, k.secretText, k.secret.Redirects[0])
}

func TestConformanceFirstPartyClient(t *testing.T) {
	k := newKit(t)
	k.codeFlow(k.own, "", k.own.Redirects[0])
}

func (k *kit) codeFlow(c account.Client, secret, redirect string) {
	k.Helper()
	ctx := oidc.ClientContext(k.Context(), k.client("ann-laptop"))
	provider, err := oidc.NewProvider(ctx, issuer)
	k.ok(err)
	cfg := oauth2.Config{
		ClientID: c.ID, ClientSecret: secret, Endpoint: provider.Endpoint(), RedirectURL: redirect,
		Scopes: []string{oidc.ScopeOpenID, "email", "profile"},
	}
	v := oauth2.GenerateVerifier()
	start, err := url.Parse(cfg.AuthCodeURL("state-1", oauth2.S256ChallengeOption(v), oidc.Nonce("nonce-1")))
	k.ok(err)
	p := k.browse("ann-laptop", start.RequestURI()).signIn()
	if !c.FirstParty {
		p = p.submit("decision", "allow")
	}
	answer := p.answer()
	if !strings.HasPrefix(p.header.Get("Location"), redirect) || answer.Get("state") != "state-1" || answer.Get("iss") != issuer {
		k.Fatalf("answer %s", p.header.Get("Location"))
	}
	tokens, err := cfg.Exchange(ctx, answer.Get("code"), oauth2.VerifierOption(v))
	k.ok(err)
	k.idToken(ctx, provider, c, tokens)
	info, err := provider.UserInfo(ctx, oauth2.StaticTokenSource(tokens))
	k.ok(err)
	if info.Subject != k.ann.ID.String() || info.Email != "ann@example.org" {
		k.Errorf("userinfo %+v", info)
	}
	k.accessToken(c, tokens.AccessToken)

	// The library refreshes when it believes that the token is over.
	old := *tokens
	old.Expiry = time.Now().Add(-time.Second)
	fresh, err := cfg.TokenSource(ctx, &old).Token()
	k.ok(err)
	if fresh.AccessToken == tokens.AccessToken || fresh.RefreshToken == "" || fresh.RefreshToken == tokens.RefreshToken {
		k.Error("a refresh did not give a new pair")
	}
	k.accessToken(c, fresh.AccessToken)
}

// idToken has the independent library verify what it was given, by the keys
// that it finds in the metadata.
func (k *kit) idToken(ctx context.Context, provider *oidc.Provider, c account.Client, tokens *oauth2.Token) {
	k.Helper()
	raw, _ := tokens.Extra("id_token").(string)
	id, err := provider.Verifier(&oidc.Config{ClientID: c.ID}).Verify(ctx, raw)
	k.ok(err)
	var claims struct {
		Email    string   `json:"email"`
		Name     string   `json:"preferred_username"`
		Methods  []string `json:"amr"`
		AuthTime int64    `json:"auth_time"`
	}
	k.ok(id.Claims(&claims))
	if id.Subject != k.ann.ID.String() || id.Nonce != "nonce-1" || claims.Email != "ann@example.org" || claims.Name != "ann" ||
		!reflect.DeepEqual(claims.Methods, []string{"pwd"}) || claims.AuthTime == 0 {
		k.Errorf("id_token %+v %+v", id, claims)
	}
	k.ok(id.VerifyAccessToken(tokens.AccessToken))
	if _, err := provider.Verifier(&oidc.Config{ClientID: "somebody-else"}).Verify(ctx, raw); err == nil {
		k.Error("the id_token is for somebody else as well")
	}
	// J-06: it opens nothing.
	if k.works("ann-laptop", raw) {
		k.Error("the id_token works as an access token")
	}
}

// accessToken is bound to the machine that began the flow.
func (k *kit) accessToken(c account.Client, raw string) {
	k.Helper()
	claims, err := k.auth.Ring().Verify(raw, token.Expect{Issuer: issuer, Audience: "warren"})
	k.ok(err)
	laptop, _ := k.roster.Load().ByName("ann-laptop")
	if claims.Peer != laptop.PublicKey || claims.Device != laptop.ID || claims.Client != c.ID || claims.Household != string(k.home.ID) || claims.Role != "admin" {
		k.Errorf("claims %+v", claims)
	}
	if !k.works("ann-laptop", raw) || k.works("bob-phone", raw) {
		k.Error("the token does not work on its own machine, or works on another")
	}
}

// TestConformanceDeviceFlow polls with the library's own loop while ann decides
// on another machine.
func TestConformanceDeviceFlow(t *testing.T) {
	k := newKit(t)
	ctx := oidc.ClientContext(t.Context(), k.client("kitchen"))
	provider, err := oidc.NewProvider(ctx, issuer)
	k.ok(err)
	cfg := oauth2.Config{ClientID: k.device.ID, Endpoint: provider.Endpoint(), Scopes: []string{"openid"}}
	d, err := cfg.DeviceAuth(ctx)
	k.ok(err)
	if d.Interval != 5 || d.VerificationURI != issuer+"/device" || time.Until(d.Expiry) > 10*time.Minute || time.Until(d.Expiry) < 9*time.Minute {
		t.Errorf("%+v", d)
	}
	complete, err := url.Parse(d.VerificationURIComplete)
	k.ok(err)
	p := k.browse("ann-laptop", complete.RequestURI())
	p = p.submit("email", "ann@example.org", "password", password, "user_code", d.UserCode)
	if !strings.Contains(p.text, "Speaker") || !strings.Contains(p.text, "kitchen") {
		t.Fatalf("the page does not say what asks, and where: %s", p.text)
	}
	if p = p.submit("decision", "allow"); !strings.Contains(p.text, "Connected") {
		t.Fatalf("%d %s", p.code, p.text)
	}
	d.Interval = 1 // the first poll may come at once
	tokens, err := cfg.DeviceAccessToken(ctx, d)
	k.ok(err)
	claims, err := k.auth.Ring().Verify(tokens.AccessToken, token.Expect{Issuer: issuer, Audience: "warren"})
	k.ok(err)
	if claims.Device != "id-kitchen" || !k.works("kitchen", tokens.AccessToken) || k.works("ann-laptop", tokens.AccessToken) {
		t.Errorf("the token is not the kitchen's: %+v", claims)
	}
	if _, err := cfg.DeviceAccessToken(ctx, d); err == nil {
		t.Error("a device code worked twice")
	}
}

// TestMetadata compares both documents, and what they say with what there is.
func TestMetadata(t *testing.T) {
	k := newKit(t)
	var docs [2]map[string]any
	for i, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		p := k.browse("kitchen", path)
		if p.code != 200 || p.header.Get("Content-Type") != "application/json" {
			t.Fatalf("%s: %d %s", path, p.code, p.text)
		}
		k.ok(json.Unmarshal([]byte(p.text), &docs[i]))
	}
	if !reflect.DeepEqual(docs[0], docs[1]) {
		t.Errorf("they differ: %v\n%v", docs[0], docs[1])
	}
	for name, want := range map[string]any{
		"issuer": issuer, "response_types_supported": []any{"code"}, "code_challenge_methods_supported": []any{"S256"},
		"grant_types_supported":                          []any{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"},
		"authorization_response_iss_parameter_supported": true, "request_uri_parameter_supported": false,
		"id_token_signing_alg_values_supported": []any{"ES256"}, "request_parameter_supported": nil, "registration_endpoint": nil,
	} {
		if !reflect.DeepEqual(docs[0][name], want) {
			t.Errorf("%s is %v, want %v", name, docs[0][name], want)
		}
	}
	for name, value := range docs[0] {
		text, _ := value.(string)
		path, ours := strings.CutPrefix(text, issuer+"/")
		if !ours || !strings.HasSuffix(name, "_endpoint") && name != "jwks_uri" {
			continue
		}
		found := false
		for _, rt := range k.table.Routes() {
			found = found || rt.Path == "/"+path
		}
		if !found {
			t.Errorf("%s leads nowhere: %s", name, text)
		}
	}
	resp, err := k.client("kitchen").Get(issuer + "/oauth/jwks.json")
	k.ok(err)
	defer resp.Body.Close()
	keys, err := io.ReadAll(resp.Body)
	k.ok(err)
	if strings.TrimSpace(string(keys)) != string(k.auth.Ring().JWKS()) {
		t.Errorf("keys %s", keys)
	}
}
