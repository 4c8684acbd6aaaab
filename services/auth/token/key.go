package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/warrenmesh/warren/peer/account"
)

// Key is one signing key. It prints as its id only.
type Key struct {
	id      string
	private *ecdsa.PrivateKey
	from    time.Time // signs and verifies from then on
	retires time.Time // signs until then; zero: not yet
	expires time.Time // verifies until then; zero: not yet
}

// NewKey makes a key that signs from now on, and what a store keeps of it.
func NewKey(now time.Time) (Key, account.SigningKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Key{}, account.SigningKey{}, fmt.Errorf("making signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return Key{}, account.SigningKey{}, fmt.Errorf("encoding signing key: %w", err)
	}
	public, err := jwkOf(private)
	if err != nil {
		return Key{}, account.SigningKey{}, err
	}
	stored := account.SigningKey{ID: public.Kid, Private: der, Created: now, NotBefore: now}
	key, err := parseKey(stored)
	return key, stored, err
}

// parseKey reads a stored key. One whose id is not its thumbprint was not made
// by NewKey, and is refused.
func parseKey(stored account.SigningKey) (Key, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(stored.Private)
	if err != nil {
		return Key{}, fmt.Errorf("reading signing key %.64q: not a PKCS #8 key", stored.ID)
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return Key{}, fmt.Errorf("reading signing key %.64q: not a key on P-256", stored.ID)
	}
	public, err := jwkOf(private)
	if err != nil {
		return Key{}, err
	}
	if public.Kid != stored.ID {
		return Key{}, fmt.Errorf("reading signing key %.64q: it is another key's name", stored.ID)
	}
	return Key{stored.ID, private, stored.NotBefore, stored.Retires, stored.Expires}, nil
}

// ID is the kid: the SHA-256 thumbprint of the public key (RFC 7638).
func (k Key) ID() string { return k.id }

// String is the id; nothing of the private key is ever printed.
func (k Key) String() string { return "signing key " + k.id }

// GoString is String.
func (k Key) GoString() string { return k.String() }

// LogValue implements slog.LogValuer.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// signs reports whether the key makes signatures at a time.
func (k *Key) signs(now time.Time) bool {
	return !now.Before(k.from) && (k.retires.IsZero() || now.Before(k.retires)) && k.lives(now)
}

// verifies reports whether the key's signatures count at a time. Another hub
// on the same store may be ahead of us by the leeway when a key begins.
func (k *Key) verifies(now time.Time) bool {
	return !now.Before(k.from.Add(-Leeway)) && k.lives(now)
}

func (k *Key) lives(now time.Time) bool { return k.expires.IsZero() || now.Before(k.expires) }

// jwk is a public key as RFC 7517 writes it. The members that make up the
// thumbprint come first, in the order that RFC 7638 asks for.
type jwk struct {
	Crv string `json:"crv"`
	Kty string `json:"kty"`
	X   string `json:"x"`
	Y   string `json:"y"`
	Alg string `json:"alg,omitempty"`
	Kid string `json:"kid,omitempty"`
	Use string `json:"use,omitempty"`
}

func jwkOf(private *ecdsa.PrivateKey) (jwk, error) {
	// Bytes is the uncompressed point: 4, then 32 bytes for each coordinate.
	point, err := private.PublicKey.Bytes()
	if err != nil || len(point) != 1+2*coordinate {
		return jwk{}, fmt.Errorf("encoding public key: not a point on P-256: %w", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	public := jwk{Crv: "P-256", Kty: "EC", X: b64(point[1 : 1+coordinate]), Y: b64(point[1+coordinate:])}
	text, err := json.Marshal(public)
	if err != nil {
		return jwk{}, fmt.Errorf("encoding public key: %w", err)
	}
	sum := sha256.Sum256(text)
	public.Alg, public.Kid, public.Use = algorithm, b64(sum[:]), "sig"
	return public, nil
}
