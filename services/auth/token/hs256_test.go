package token_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/warrenmesh/warren/services/auth/token"
)

var secret = bytes.Repeat([]byte("k"), token.MinHS256)

func jarvis() token.Jarvis {
	return token.Jarvis{Subject: "7", Email: "ann@example.org", Superuser: true, Household: "3f0e", ID: "jti-1", Issued: start, Expires: start.Add(15 * time.Minute)}
}

// TestHS256ReadAsJarvisReadsIt has another reader, with nothing but the secret.
func TestHS256ReadAsJarvisReadsIt(t *testing.T) {
	raw, err := token.SignHS256(secret, jarvis())
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.Parse(raw, func(*jwt.Token) (any, error) { return secret, nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithTimeFunc(func() time.Time { return start }))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(parsed.Claims)
	if err != nil {
		t.Fatal(err)
	}
	const form = `{"email":"ann@example.org","exp":1772367300,"household_id":"3f0e","iat":1772366400,"is_superuser":true,"jti":"jti-1","sub":"7"}`
	if string(got) != form {
		t.Errorf("got %s\nwant %s", got, form)
	}
	none := jarvis()
	none.Household = ""
	raw, err = token.SignHS256(secret, none)
	if err != nil {
		t.Fatal(err)
	}
	if payload := string(unb64(t, strings.Split(raw, ".")[1])); !strings.Contains(payload, `"household_id":null`) {
		t.Errorf("without a household: %s", payload)
	}
}

func TestHS256Verify(t *testing.T) {
	raw, err := token.SignHS256(secret, jarvis())
	if err != nil {
		t.Fatal(err)
	}
	got, err := token.VerifyHS256(secret, raw, start)
	if err != nil || got.Subject != "7" || !got.Superuser || got.Household != "3f0e" || !got.Expires.Equal(jarvis().Expires) {
		t.Fatal(got, err)
	}
	other := bytes.Repeat([]byte("o"), token.MinHS256)
	unsigned := b64([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + strings.Split(raw, ".")[1] + "."
	for what, c := range map[string]struct {
		secret []byte
		raw    string
		at     time.Time
		err    error
	}{
		"another secret": {other, raw, start, token.ErrInvalid},
		"a short secret": {secret[1:], raw, start, token.ErrInvalid},
		"none":           {secret, unsigned, start, token.ErrInvalid},
		"cut":            {secret, raw[:len(raw)-1], start, token.ErrInvalid},
		"from later":     {secret, raw, start.Add(-31 * time.Second), token.ErrInvalid},
		"over":           {secret, raw, start.Add(15*time.Minute + 30*time.Second), token.ErrExpired},
		"in the leeway":  {secret, raw, start.Add(15*time.Minute + 29*time.Second), nil},
	} {
		if _, err := token.VerifyHS256(c.secret, c.raw, c.at); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", what, err, c.err)
		}
	}
	if _, err := token.SignHS256(secret[1:], jarvis()); err == nil {
		t.Error("signed with a short secret")
	}
	for i, change := range []func(*token.Jarvis){
		func(c *token.Jarvis) { c.Subject = "" }, func(c *token.Jarvis) { c.ID = "" },
		func(c *token.Jarvis) { c.Expires = time.Time{} }, func(c *token.Jarvis) { c.Expires = c.Issued }, func(c *token.Jarvis) { c.Email = "\xff" },
	} {
		c := jarvis()
		change(&c)
		if _, err := token.SignHS256(secret, c); err == nil {
			t.Errorf("change %d: signed", i)
		}
	}
}

// TestJ02_HS256IsNotOurs: what is issued for services that know only Jarvis'
// form opens nothing of Warren's own.
func TestJ02_HS256IsNotOurs(t *testing.T) {
	k := newKit(t)
	raw, err := token.SignHS256(secret, jarvis())
	if err != nil {
		t.Fatal(err)
	}
	k.refused(t, raw, "a token in Jarvis' form")
	text := b64([]byte(strings.Replace(k.header(), "ES256", "HS256", 1))) + "." + b64([]byte(k.payload(t)))
	sig, err := jwt.SigningMethodHS256.Sign(text, secret)
	if err != nil {
		t.Fatal(err)
	}
	k.refused(t, text+"."+b64(sig), "Warren's claims under the secret")
}
