package token_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services/auth/token"
)

func TestSignThenVerify(t *testing.T) {
	k := newKit(t)
	least := good()
	least.Household, least.Role, least.Client, least.Scope, least.NotBefore = "", "", "", "", time.Time{}
	for _, c := range []token.Claims{good(), least} {
		got, err := k.ring.Verify(k.sign(t, c), want)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []*time.Time{&got.Issued, &got.Expires, &got.NotBefore} {
			if !p.IsZero() {
				*p = p.UTC()
			}
		}
		if !reflect.DeepEqual(got, c) {
			t.Errorf("signed %+v\n read %+v", c, got)
		}
	}
}

func TestJ05_IssuerAndAudience(t *testing.T) {
	k := newKit(t)
	for member, values := range map[string][]string{
		"iss": {"", `""`, `"https://AUTH.warren.internal"`, `"https://auth.warren.internal/"`, `"https://auth.warren"`, `"auth.warren.internal"`,
			`"https://auth.warren.internal.evil.example"`, `["` + issuer + `"]`, `null`, `1`, `{}`, `"https://auth.warren.internal "`},
		"aud": {"", `""`, `[]`, `["warren"]`, `["warren","other"]`, `["other","warren"]`, `"Warren"`, `"WARREN"`, `"warre"`, `"warrens"`, `" warren"`,
			`"warren other"`, `{"warren":1}`, `null`, `1`, `true`},
	} {
		for _, v := range values {
			k.refused(t, k.forge(t, k.header(), k.with(t, member, v)), member+" "+v)
		}
	}
	raw := k.sign(t, good())
	for _, w := range []token.Expect{{}, {Issuer: issuer}, {Audience: "warren"}, {Issuer: issuer, Audience: "other"}, {Issuer: "x", Audience: "warren"}} {
		if _, err := k.ring.Verify(raw, w); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("expecting %+v: %v", w, err)
		}
	}
}

func TestJ05_Times(t *testing.T) {
	k := newKit(t)
	exp := start.Add(15 * time.Minute).Unix()
	for _, v := range []string{
		"", "null", "0", "-1", fmt.Sprintf("-%d", exp), fmt.Sprintf("%d.0", exp), fmt.Sprintf("%d.5", exp), fmt.Sprintf(`"%d"`, exp), "1e12", "1E3", "true", "[]", "{}",
		"9223372036854775807", "9223372036854775808", "18446744073709551616", "253402300800", "99999999999999999999999999", fmt.Sprintf("[%d]", exp), `"never"`, "NaN", "1e400",
	} {
		if v == "NaN" {
			k.refused(t, k.forge(t, k.header(), strings.Replace(k.payload(t), fmt.Sprint(exp), v, 1)), "exp "+v)
			continue
		}
		for _, member := range []string{"exp", "iat", "nbf"} {
			if member == "nbf" && v == "" { // the one that may be missing
				continue
			}
			k.refused(t, k.forge(t, k.header(), k.with(t, member, v)), member+" "+v)
		}
	}
	at := func(d time.Duration) string { return fmt.Sprint(start.Add(d).Unix()) }
	for _, c := range []struct {
		member string
		by     time.Duration
		ok     bool
	}{
		{"nbf", 30 * time.Second, true}, {"nbf", 31 * time.Second, false}, {"nbf", time.Hour, false}, {"nbf", -time.Hour, true},
		{"iat", 30 * time.Second, true}, {"iat", 31 * time.Second, false}, {"iat", -45 * time.Minute, true}, {"iat", -46 * time.Minute, false},
		{"exp", 45 * time.Minute, true}, {"exp", 61 * time.Minute, false}, {"exp", 0, false},
	} {
		_, err := k.ring.Verify(k.forge(t, k.header(), k.with(t, c.member, at(c.by))), want)
		if (err == nil) != c.ok {
			t.Errorf("%s at %v: %v", c.member, c.by, err)
		}
	}
}

// TestJ05_Expiry goes through the life of a token second by second at its ends.
func TestJ05_Expiry(t *testing.T) {
	k := newKit(t)
	raw := k.sign(t, good())
	for _, c := range []struct {
		after time.Duration
		err   error
	}{
		{-31 * time.Second, token.ErrInvalid}, {-30 * time.Second, nil}, {0, nil}, {15 * time.Minute, nil},
		{15*time.Minute + 29*time.Second, nil}, {15*time.Minute + 30*time.Second, token.ErrExpired}, {24 * time.Hour, token.ErrExpired},
	} {
		k.now = start.Add(c.after)
		if _, err := k.ring.Verify(raw, want); !errors.Is(err, c.err) {
			t.Errorf("after %v: %v, want %v", c.after, err, c.err)
		}
	}
	// Only a token that was good is told that it is over.
	k.now = start.Add(time.Hour)
	for what, other := range map[string]string{
		"another signature": raw[:len(raw)-8] + "AAAAAAAA",
		"another issuer":    k.forge(t, k.header(), k.with(t, "iss", `"https://other"`)),
		"another audience":  k.forge(t, k.header(), k.with(t, "aud", `"other"`)),
		"no session":        k.forge(t, k.header(), k.with(t, "sid", "")),
		"not before":        k.forge(t, k.header(), k.with(t, "nbf", fmt.Sprint(start.Add(2*time.Hour).Unix()))),
	} {
		k.refused(t, other, "expired with "+what)
	}
}

func TestJ05_WhatMustBeThere(t *testing.T) {
	k := newKit(t)
	for _, member := range []string{"iss", "sub", "aud", "exp", "iat", "jti", "sid", "did", "cnf"} {
		k.refused(t, k.forge(t, k.header(), k.with(t, member, "")), "no "+member)
		k.refused(t, k.forge(t, k.header(), k.with(t, member, "null")), member+" null")
		k.refused(t, k.forge(t, k.header(), k.with(t, member, `""`)), member+" empty")
	}
	for _, member := range []string{"sub", "jti", "sid", "did", "household_id", "role", "client_id", "scope"} {
		for _, v := range []string{"1", "true", "[]", `["x"]`, "{}", "null"} {
			k.refused(t, k.forge(t, k.header(), k.with(t, member, v)), member+" "+v)
		}
	}
	key := peer.PublicKey{9}.String()
	for _, v := range []string{`{}`, `{"wg":""}`, `{"wg":null}`, `{"wg":1}`, `"` + key + `"`, `{"wg":"` + key[:43] + `"}`, `{"wg":"` + key + `","jkt":"x"}`,
		`{"wg":"` + peer.PublicKey{}.String() + `"}`, `{"wg":"` + key[:40] + `\n` + key[40:] + `"}`, `[{"wg":"` + key + `"}]`} {
		k.refused(t, k.forge(t, k.header(), k.with(t, "cnf", v)), "cnf "+v)
	}
}

// TestJ05_NothingSignedThatIsRefused: what Verify would refuse, Sign does not make.
func TestJ05_NothingSignedThatIsRefused(t *testing.T) {
	k := newKit(t)
	for what, change := range map[string]func(*token.Claims){
		"no issuer":      func(c *token.Claims) { c.Issuer = "" },
		"no subject":     func(c *token.Claims) { c.Subject = "" },
		"no audience":    func(c *token.Claims) { c.Audience = nil },
		"empty audience": func(c *token.Claims) { c.Audience = []string{""} },
		"two audiences":  func(c *token.Claims) { c.Audience = []string{"warren", "other"} },
		"no id":          func(c *token.Claims) { c.ID = "" },
		"no session":     func(c *token.Claims) { c.Session = "" },
		"no device":      func(c *token.Claims) { c.Device = "" },
		"no key":         func(c *token.Claims) { c.Peer = peer.PublicKey{} },
		"no expiry":      func(c *token.Claims) { c.Expires = time.Time{} },
		"no issue":       func(c *token.Claims) { c.Issued = time.Time{} },
		"over at once":   func(c *token.Claims) { c.Expires = c.Issued },
		"too long":       func(c *token.Claims) { c.Expires = c.Issued.Add(token.MaxLife + time.Second) },
		"before 1970":    func(c *token.Claims) { c.NotBefore = time.Unix(-5, 0) },
		"never begins":   func(c *token.Claims) { c.NotBefore = c.Expires.Add(time.Second) },
		"not UTF-8":      func(c *token.Claims) { c.Role = "\xff" },
		"too big":        func(c *token.Claims) { c.Scope = strings.Repeat("x", token.MaxToken) },
	} {
		c := good()
		change(&c)
		if raw, err := k.ring.Sign(c); err == nil || raw != "" {
			t.Errorf("%s: signed", what)
		}
	}
}

// TestJ06_IDTokenIsNoAccessToken also with the very claims of one.
func TestJ06_IDTokenIsNoAccessToken(t *testing.T) {
	k := newKit(t)
	var m map[string]any
	if err := json.Unmarshal([]byte(k.payload(t)), &m); err != nil {
		t.Fatal(err)
	}
	raw, err := k.ring.SignID(m)
	if err != nil {
		t.Fatal(err)
	}
	k.refused(t, raw, "an id_token")
	p := strings.Split(raw, ".")
	k.refused(t, b64([]byte(k.header()))+"."+p[1]+"."+p[2], "an id_token under another header")
}

func TestJ07_Rotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		_, first, err := token.NewKey(begin)
		if err != nil {
			t.Fatal(err)
		}
		old := ringOf(t, nil, first)
		sign := func(r *token.Ring) string {
			c := good()
			c.Issued, c.NotBefore, c.Expires = time.Now(), time.Time{}, time.Now().Add(15*time.Minute)
			raw, err := r.Sign(c)
			if err != nil {
				t.Fatal(err)
			}
			return raw
		}
		time.Sleep(time.Hour)
		before := sign(old)

		// Rotation: the first key signs no more and verifies for another hour.
		_, second, err := token.NewKey(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		first.Retires, first.Expires = time.Now(), time.Now().Add(time.Hour)
		both := ringOf(t, nil, first, second)
		after := sign(both)
		if kid := kidOf(t, after); kid != second.ID {
			t.Errorf("signed with %s, not with the new key", kid)
		}
		accept := func(r *token.Ring, raw, what string, err error) {
			t.Helper()
			if _, got := r.Verify(raw, want); !errors.Is(got, err) {
				t.Errorf("%s: %v, want %v", what, got, err)
			}
		}
		accept(both, before, "the old key's token in the overlap", nil)
		accept(both, after, "the new key's token", nil)
		accept(old, after, "a token of a key that is not in the ring", token.ErrInvalid)
		accept(ringOf(t, nil, second), before, "a token of a key that was deleted", token.ErrInvalid)
		if n := strings.Count(string(both.JWKS()), `"kid"`); n != 2 {
			t.Errorf("%d public keys in the overlap", n)
		}

		// Just before and at the end of the overlap, with a token that itself lasts longer.
		k := kitOf(t, first)
		time.Sleep(50 * time.Minute)
		payload := fmt.Sprintf(`{"iss":%q,"sub":"7","aud":"warren","exp":%d,"iat":%d,"jti":"j","sid":"s","did":"d","cnf":{"wg":%q}}`,
			issuer, time.Now().Add(30*time.Minute).Unix(), time.Now().Unix(), peer.PublicKey{9})
		late := k.forge(t, k.header(), payload)
		time.Sleep(10*time.Minute - time.Second)
		accept(both, late, "the old key one second before its end", nil)
		time.Sleep(time.Second)
		accept(both, late, "the old key at its end", token.ErrInvalid)
		if n := strings.Count(string(both.JWKS()), `"kid"`); n != 1 {
			t.Errorf("%d public keys after the overlap", n)
		}
	})
}

// TestJ07_KeysOutOfTheirTime: a ring without a key that signs now makes no
// tokens, and a key signs and verifies nothing before it begins.
func TestJ07_KeysOutOfTheirTime(t *testing.T) {
	_, stored, err := token.NewKey(start)
	if err != nil {
		t.Fatal(err)
	}
	clock := start
	now := func() time.Time { return clock }
	retired, expired, later := stored, stored, stored
	retired.Retires, expired.Expires, later.NotBefore = start, start, start.Add(time.Minute)
	for what, r := range map[string]*token.Ring{
		"nil": nil, "empty": ringOf(t, now), "retired": ringOf(t, now, retired), "expired": ringOf(t, now, expired), "later": ringOf(t, now, later),
	} {
		if raw, err := r.Sign(good()); err == nil || raw != "" {
			t.Errorf("%s: signed", what)
		}
		if _, err := r.SignID(map[string]any{"sub": "7"}); err == nil {
			t.Errorf("%s: signed an id_token", what)
		}
	}
	raw, err := ringOf(t, now, stored).Sign(good())
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		r   *token.Ring
		err error
	}{
		"retired": {ringOf(t, now, retired), nil}, "expired": {ringOf(t, now, expired), token.ErrInvalid}, "later": {ringOf(t, now, later), token.ErrInvalid},
		"nil": {nil, token.ErrInvalid}, "empty": {ringOf(t, now), token.ErrInvalid},
	} {
		if _, err := c.r.Verify(raw, want); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	clock = start.Add(31 * time.Second) // the other hub's key begins in 29 s by our clock
	if _, err := ringOf(t, now, later).Verify(raw, want); err != nil {
		t.Errorf("within the leeway: %v", err)
	}
}

func TestRingRefusesKeys(t *testing.T) {
	_, a, err := token.NewKey(start)
	if err != nil {
		t.Fatal(err)
	}
	_, b, err := token.NewKey(start)
	if err != nil {
		t.Fatal(err)
	}
	other, cut, curve := a, a, a
	other.ID = b.ID
	cut.Private = a.Private[:len(a.Private)-3]
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if curve.Private, err = x509.MarshalPKCS8PrivateKey(p384); err != nil {
		t.Fatal(err)
	}
	for what, keys := range map[string][]account.SigningKey{"twice": {a, a}, "another's name": {other}, "damaged": {cut}, "P-384": {curve}, "empty": {{}}} {
		if _, err := token.NewRing(keys, nil); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

// TestKeyIsNamedByItsThumbprint computes RFC 7638 from what is published, and
// checks a signature with it: nothing of the ring's own code takes part.
func TestKeyIsNamedByItsThumbprint(t *testing.T) {
	k := newKit(t)
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(k.ring.JWKS(), &set); err != nil || len(set.Keys) != 1 {
		t.Fatal(set, err)
	}
	j := set.Keys[0]
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + j["x"] + `","y":"` + j["y"] + `"}`))
	if j["kid"] != b64(sum[:]) || j["kid"] != k.stored.ID || j["alg"] != "ES256" || j["use"] != "sig" || j["kty"] != "EC" || j["d"] != "" {
		t.Errorf("published %v", j)
	}
	raw := k.sign(t, good())
	dot := strings.LastIndexByte(raw, '.')
	hash, sig := sha256.Sum256([]byte(raw[:dot])), unb64(t, raw[dot+1:])
	public := ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).SetBytes(unb64(t, j["x"])), Y: new(big.Int).SetBytes(unb64(t, j["y"]))}
	if !ecdsa.Verify(&public, hash[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		t.Error("what is published does not verify what was signed")
	}
}

func TestKeyDoesNotPrint(t *testing.T) {
	k, stored, err := token.NewKey(start)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("key", "k", k)
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%+v", k), fmt.Sprintf("%#v", k), fmt.Sprintf("%q", k), log.String()} {
		if !strings.Contains(text, stored.ID) || strings.Contains(text, "big.Int") || strings.Contains(text, "private") {
			t.Errorf("prints %s", text)
		}
	}
}

func kidOf(t *testing.T, raw string) string {
	t.Helper()
	var h struct{ Kid string }
	if err := json.Unmarshal(unb64(t, strings.Split(raw, ".")[0]), &h); err != nil {
		t.Fatal(err)
	}
	return h.Kid
}
