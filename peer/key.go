package peer

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
)

// KeySize is the length of every WireGuard key, in bytes.
const KeySize = 32

// ErrKey is wrapped by every error about the form of a key. The text of the
// key is never part of it.
var ErrKey = errors.New("not a WireGuard key (44 characters of base64, as `wg pubkey` prints it)")

// PublicKey is a Curve25519 public key. It is no secret and may be compared
// with ==. The zero value is no key.
type PublicKey [KeySize]byte

// ParsePublicKey reads the base64 form. It refuses the zero key and every
// other point of low order: with such a key Diffie-Hellman has the same result
// for everybody (RFC 7748, section 6.1).
func ParsePublicKey(s string) (PublicKey, error) {
	b, err := decodeKey(s)
	if err != nil {
		return PublicKey{}, err
	}
	return PublicKeyFrom(b)
}

// PublicKeyFrom is ParsePublicKey for the 32 raw bytes.
func PublicKeyFrom(b []byte) (PublicKey, error) {
	if len(b) != KeySize {
		return PublicKey{}, fmt.Errorf("reading public key: %w", ErrKey)
	}
	pub, err := ecdh.X25519().NewPublicKey(b)
	if err != nil {
		return PublicKey{}, fmt.Errorf("reading public key: %w", ErrKey)
	}
	// Any private key will do: the standard library answers with an error
	// exactly when the shared secret is all zero.
	probe, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return PublicKey{}, fmt.Errorf("probing public key: %w", err)
	}
	if _, err := probe.ECDH(pub); err != nil {
		return PublicKey{}, errors.New("reading public key: a key of low order protects nothing; make a new one")
	}
	return PublicKey(b), nil
}

// IsZero reports whether k is no key at all.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// String returns the base64 form.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// Short returns the first eight characters: enough for a person to tell keys
// apart in a table, never enough to decide anything.
func (k PublicKey) Short() string { return k.String()[:8] }

// MarshalText implements encoding.TextMarshaler.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler with ParsePublicKey.
func (k *PublicKey) UnmarshalText(b []byte) error {
	parsed, err := ParsePublicKey(string(b))
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}

func decodeKey(s string) ([]byte, error) {
	// A wrong length is told apart first, so that a megabyte is not decoded.
	if len(s) != 44 {
		return nil, fmt.Errorf("reading key: %w", ErrKey)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != KeySize {
		return nil, fmt.Errorf("reading key: %w", ErrKey)
	}
	return b, nil
}

// secret is what PrivateKey and PresharedKey have in common: bytes that no
// formatting, logging, marshalling or comparison can get at.
type secret struct {
	_ [0]func() // not comparable: == on secrets is not constant time
	b *[KeySize]byte
}

const redacted = "(redacted)"

// errMarshal is what stops a secret from ending in a JSON document.
var errMarshal = errors.New("a secret key is not marshalled; Reveal it where that is meant")

// String, GoString, Format, LogValue and MarshalText keep the bytes out of
// fmt, log/slog and encoding/json.
func (secret) String() string             { return redacted }
func (secret) GoString() string           { return redacted }
func (secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }
func (secret) LogValue() slog.Value       { return slog.StringValue(redacted) }
func (secret) MarshalText() ([]byte, error) {
	return nil, errMarshal
}

// IsZero reports whether there is no key.
func (s secret) IsZero() bool { return s.b == nil }

// Reveal returns the 32 secret bytes, zeros if there is no key. What is done
// with them is the caller's to answer for.
func (s secret) Reveal() [KeySize]byte {
	if s.b == nil {
		return [KeySize]byte{}
	}
	return *s.b
}

// RevealText returns the base64 form that a WireGuard configuration file
// holds, "" if there is no key.
func (s secret) RevealText() string {
	if s.b == nil {
		return ""
	}
	return base64.StdEncoding.EncodeToString(s.b[:])
}

func newSecret() (secret, error) {
	b := new([KeySize]byte)
	if _, err := rand.Read(b[:]); err != nil {
		return secret{}, fmt.Errorf("reading randomness: %w", err)
	}
	return secret{b: b}, nil
}

func secretFrom(b []byte) (secret, error) {
	if len(b) != KeySize {
		return secret{}, fmt.Errorf("reading key: %w", ErrKey)
	}
	k := [KeySize]byte(b)
	if k == [KeySize]byte{} {
		return secret{}, errors.New("reading key: the all-zero key is no secret; make a new one")
	}
	return secret{b: &k}, nil
}

// PrivateKey is a Curve25519 private key.
type PrivateKey struct{ secret }

// NewPrivateKey makes a key from the system's randomness, clamped as
// Curve25519 wants it (RFC 7748, section 5).
func NewPrivateKey() (PrivateKey, error) {
	s, err := newSecret()
	if err != nil {
		return PrivateKey{}, err
	}
	s.b[0] &= 248
	s.b[31] = s.b[31]&127 | 64
	return PrivateKey{s}, nil
}

// PrivateKeyFrom takes 32 bytes that Reveal once gave.
func PrivateKeyFrom(b []byte) (PrivateKey, error) {
	s, err := secretFrom(b)
	return PrivateKey{s}, err
}

// ParsePrivateKey reads the base64 form of a configuration file.
func ParsePrivateKey(text string) (PrivateKey, error) {
	b, err := decodeKey(text)
	if err != nil {
		return PrivateKey{}, err
	}
	return PrivateKeyFrom(b)
}

// Public returns the public half, the zero key if there is no private one.
func (k PrivateKey) Public() PublicKey {
	if k.IsZero() {
		return PublicKey{}
	}
	priv, err := ecdh.X25519().NewPrivateKey(k.b[:])
	if err != nil {
		return PublicKey{}
	}
	return PublicKey(priv.PublicKey().Bytes())
}

// Shared returns the X25519 shared secret with a peer's public key.
func (k PrivateKey) Shared(with PublicKey) ([]byte, error) {
	if k.IsZero() {
		return nil, errors.New("computing shared secret: no private key")
	}
	priv, err := ecdh.X25519().NewPrivateKey(k.b[:])
	if err != nil {
		return nil, errors.New("computing shared secret: unusable private key")
	}
	pub, err := ecdh.X25519().NewPublicKey(with[:])
	if err != nil {
		return nil, fmt.Errorf("computing shared secret: %w", ErrKey)
	}
	shared, err := priv.ECDH(pub)
	if err != nil {
		return nil, errors.New("computing shared secret: a key of low order")
	}
	return shared, nil
}

// PresharedKey is the symmetric key that two WireGuard peers mix into their
// handshake.
type PresharedKey struct{ secret }

// NewPresharedKey makes a key from the system's randomness.
func NewPresharedKey() (PresharedKey, error) {
	s, err := newSecret()
	return PresharedKey{s}, err
}

// PresharedKeyFrom takes 32 bytes that Reveal once gave.
func PresharedKeyFrom(b []byte) (PresharedKey, error) {
	s, err := secretFrom(b)
	return PresharedKey{s}, err
}

// ParsePresharedKey reads the base64 form of a configuration file.
func ParsePresharedKey(text string) (PresharedKey, error) {
	b, err := decodeKey(text)
	if err != nil {
		return PresharedKey{}, err
	}
	return PresharedKeyFrom(b)
}
