package token

import (
	"bytes"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// Verify judges a token as it was presented. The error is ErrExpired if being
// over is the one thing that is wrong with it, and ErrInvalid otherwise.
func (r *Ring) Verify(raw string, want Expect) (Claims, error) {
	if r == nil || want.Issuer == "" || want.Audience == "" {
		return Claims{}, ErrInvalid
	}
	h, err := inspect(raw)
	if err != nil || h.Alg != algorithm || h.Typ != typeAccess {
		return Claims{}, ErrInvalid
	}
	k, ok := r.keys[h.Kid]
	if !ok || !k.verifies(r.now()) {
		return Claims{}, ErrInvalid
	}
	// The library reads the same bytes again; what inspect let pass leaves it
	// one way to read them.
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{algorithm}),
		jwt.WithStrictDecoding(),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithIssuer(want.Issuer),
		jwt.WithAudience(want.Audience),
		jwt.WithLeeway(Leeway),
		jwt.WithTimeFunc(r.now),
	)
	var w wire
	t, err := parser.ParseWithClaims(raw, &w, func(*jwt.Token) (any, error) { return &k.private.PublicKey, nil })
	switch {
	case err == nil && t.Valid && !high(t.Signature):
	case onlyExpired(err) && !high(t.Signature):
		return Claims{}, ErrExpired
	default:
		return Claims{}, ErrInvalid
	}
	return w.claims()
}

// onlyExpired reports whether err says that a token is over and has no other
// fault: whoever learns "expired" has shown a token that was good once.
func onlyExpired(err error) bool {
	if !errors.Is(err, jwt.ErrTokenExpired) {
		return false
	}
	for _, other := range []error{
		jwt.ErrTokenMalformed, jwt.ErrTokenUnverifiable, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenInvalidIssuer,
		jwt.ErrTokenInvalidAudience, jwt.ErrTokenNotValidYet, jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenRequiredClaimMissing,
		jwt.ErrTokenInvalidSubject, jwt.ErrTokenInvalidId, jwt.ErrInvalidType, ErrInvalid,
	} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

// high reports whether the s of a signature is above half the order of the
// curve, or whether it is no signature at all.
func high(sig []byte) bool {
	if len(sig) != 2*coordinate {
		return true
	}
	half := new(big.Int).Rsh(elliptic.P256().Params().N, 1)
	return new(big.Int).SetBytes(sig[coordinate:]).Cmp(half) > 0
}

// header is what a token may say about itself.
type header struct {
	Alg string `json:"alg"`
	Kid string `json:"kid"`
	Typ string `json:"typ"`
}

// inspect reads the form of a token in compact serialisation and its header,
// strictly; nothing is proved by it.
func inspect(raw string) (header, error) {
	var h header
	if len(raw) > MaxToken {
		return h, ErrInvalid
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return h, ErrInvalid
	}
	decoded := make([][]byte, len(parts))
	for i, part := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		// The decoder skips line breaks; what it read must encode to the same.
		if err != nil || len(b) == 0 || base64.RawURLEncoding.EncodeToString(b) != part {
			return h, ErrInvalid
		}
		decoded[i] = b
	}
	return h, strictJSON(decoded[0], &h, "alg", "kid", "typ")
}

// strictJSON reads one JSON object into v: only the members given, spelled like
// that, each at most once, and nothing behind the object.
func strictJSON(text []byte, v any, members ...string) error {
	if err := once(text, members); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return ErrInvalid
	}
	return nil
}
