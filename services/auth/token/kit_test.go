package token_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services/auth/token"
)

const issuer = "https://auth.warren.internal"

var (
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	want  = token.Expect{Issuer: issuer, Audience: "warren"}
)

// kit is a ring of one key with the key itself, to sign what Sign would not.
type kit struct {
	ring   *token.Ring
	stored account.SigningKey
	key    *ecdsa.PrivateKey
	now    time.Time
}

func newKit(t testing.TB) *kit {
	t.Helper()
	_, stored, err := token.NewKey(start.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return kitOf(t, stored)
}

func kitOf(t testing.TB, stored account.SigningKey) *kit {
	t.Helper()
	k := &kit{stored: stored, now: start}
	parsed, err := x509.ParsePKCS8PrivateKey(stored.Private)
	if err != nil {
		t.Fatal(err)
	}
	k.key = parsed.(*ecdsa.PrivateKey)
	k.ring = ringOf(t, func() time.Time { return k.now }, stored)
	return k
}

func ringOf(t testing.TB, now func() time.Time, keys ...account.SigningKey) *token.Ring {
	t.Helper()
	r, err := token.NewRing(keys, now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func good() token.Claims {
	return token.Claims{
		Issuer: issuer, Subject: "7", ID: "jti-1", Device: "p-ann-laptop", Session: "s-1", Peer: peer.PublicKey{9},
		Household: "3f0e", Role: "member", Client: "phone", Scope: "openid", Audience: []string{"warren"},
		Issued: start, Expires: start.Add(15 * time.Minute), NotBefore: start,
	}
}

func (k *kit) sign(t testing.TB, c token.Claims) string {
	t.Helper()
	raw, err := k.ring.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (k *kit) refused(t testing.TB, raw, what string) {
	t.Helper()
	if c, err := k.ring.Verify(raw, want); !errors.Is(err, token.ErrInvalid) {
		t.Errorf("%s: got %+v, %v", what, c, err)
	}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func unb64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// forge signs any header and payload with the ring's own key: what is refused
// then is refused for what it says.
func (k *kit) forge(t testing.TB, header, payload string) string {
	t.Helper()
	text := b64([]byte(header)) + "." + b64([]byte(payload))
	return text + "." + b64(k.signature(t, text))
}

func (k *kit) signature(t testing.TB, text string) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, k.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	n := k.key.Params().N
	if twin := twinOf(n, s); twin.Cmp(s) < 0 {
		s = twin
	}
	return pair(r, s)
}

func (k *kit) header() string { return `{"alg":"ES256","kid":"` + k.stored.ID + `","typ":"at+jwt"}` }

// payload is that of a good token.
func (k *kit) payload(t testing.TB) string {
	return string(unb64(t, strings.Split(k.sign(t, good()), ".")[1]))
}

// with is the payload of a good token with a member set to a JSON text, or
// removed if that is "".
func (k *kit) with(t testing.TB, member, value string) string {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(k.payload(t)), &m); err != nil {
		t.Fatal(err)
	}
	delete(m, member)
	if value != "" {
		m[member] = json.RawMessage(value)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
