package token

import (
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/warrenmesh/warren/peer/account"
)

const (
	algorithm = "ES256"
	// coordinate is the size of a coordinate on P-256 and of each half of a
	// signature, in bytes (RFC 7518, section 3.4).
	coordinate = 32

	typeAccess = "at+jwt" // RFC 9068, section 2.1
	typeID     = "JWT"
)

// Ring is the set of signing keys. A nil Ring signs nothing and accepts nothing.
type Ring struct {
	keys map[string]Key
	now  func() time.Time
}

// NewRing reads stored keys. now is the clock; nil is the machine's. A key that
// cannot be read is an error, and not passed over: tokens that it signed would
// be refused without a reason that anybody could see.
func NewRing(keys []account.SigningKey, now func() time.Time) (*Ring, error) {
	if now == nil {
		now = time.Now
	}
	r := &Ring{make(map[string]Key, len(keys)), now}
	for _, stored := range keys {
		k, err := parseKey(stored)
		if err != nil {
			return nil, err
		}
		if _, twice := r.keys[k.id]; twice {
			return nil, fmt.Errorf("reading signing key %q: it is there twice", k.id)
		}
		r.keys[k.id] = k
	}
	return r, nil
}

// JWKS is the public half of every key that verifies now or later, as a JSON
// Web Key Set (RFC 7517).
func (r *Ring) JWKS() []byte {
	set := struct {
		Keys []jwk `json:"keys"`
	}{[]jwk{}}
	if r != nil {
		now := r.now()
		for _, id := range slices.Sorted(maps.Keys(r.keys)) {
			k := r.keys[id]
			if public, err := jwkOf(k.private); err == nil && k.lives(now) {
				set.Keys = append(set.Keys, public)
			}
		}
	}
	text, err := json.Marshal(set)
	if err != nil { // strings always marshal
		return []byte(`{"keys":[]}`)
	}
	return text
}

// Sign makes an access token of c with the newest key. Claims that Verify would
// refuse are an error here.
func (r *Ring) Sign(c Claims) (string, error) {
	w, err := wireOf(c)
	if err != nil {
		return "", fmt.Errorf("signing access token: %w", err)
	}
	return r.sign(typeAccess, w)
}

// SignID makes an OpenID Connect id_token of claims. Its type is not that of an
// access token, and Verify refuses it.
func (r *Ring) SignID(claims map[string]any) (string, error) {
	return r.sign(typeID, jwt.MapClaims(claims))
}

func (r *Ring) sign(typ string, claims jwt.Claims) (string, error) {
	k, err := r.newest()
	if err != nil {
		return "", err
	}
	t := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	t.Header["typ"], t.Header["kid"] = typ, k.id
	text, err := t.SigningString()
	if err != nil {
		return "", fmt.Errorf("signing token: %w", err)
	}
	sig, err := t.Method.Sign(text, k.private)
	if err != nil {
		return "", fmt.Errorf("signing token: %w", err)
	}
	lowS(k.private, sig)
	raw := text + "." + base64.RawURLEncoding.EncodeToString(sig)
	if len(raw) > MaxToken {
		return "", fmt.Errorf("signing token: %d bytes are more than %d", len(raw), MaxToken)
	}
	return raw, nil
}

// newest is the key that signs: of those that may, the one that began last.
func (r *Ring) newest() (Key, error) {
	var best Key
	if r != nil {
		now := r.now()
		for _, k := range r.keys {
			later := k.from.Compare(best.from)
			if k.signs(now) && (best.private == nil || later > 0 || later == 0 && k.id < best.id) {
				best = k
			}
		}
	}
	if best.private == nil {
		return Key{}, errors.New("signing token: no key signs at this time; rotate the signing keys")
	}
	return best, nil
}

// lowS replaces s by n-s if that is smaller.
func lowS(k *ecdsa.PrivateKey, sig []byte) {
	if high(sig) {
		s := new(big.Int).SetBytes(sig[coordinate:])
		s.Sub(k.Curve.Params().N, s).FillBytes(sig[coordinate:])
	}
}
