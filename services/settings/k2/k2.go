// Package k2 seals settings between a person's phone and a node, so that
// whatever carries them (the hub, a database, a backup) has ciphertext only.
// It is pure code, used by the node and by the phone's side alike.
//
// K2 is a key of 256 bits that one node and its people share. What is sealed
// with it is a Sealed: ciphertext, nonce and tag, each in base64url without
// padding, authenticated together with "{node_id}:{config_type}". Two forms
// exist, and the length of the nonce says which:
//
//   - Plain (12 bytes): AES-256-GCM over the bare value, as Jarvis' clients do
//     it. It has no version: a node takes it only for a type of setting that
//     never had one. One K2 may seal 2^32 of them (NIST SP 800-38D, 8.3); at one
//     a second that is 136 years.
//   - Versioned (24 bytes): XAES-256-GCM (C2SP), which draws a key of its own
//     from each nonce, over {"v":2,"kid","version","issued","value"}. No bound
//     is near: 2^80 messages.
//
// A nonce is not what the random generator says, but an HMAC over that, the
// label and the plaintext, under a key drawn from K2. A machine that was cloned
// or set back with its generator's state therefore repeats a nonce only when it
// repeats the message.
//
// The label cannot carry a version, since existing clients fix it. The version
// is inside, the receiver keeps the highest one (Mark), and takes neither a
// lower one nor the same one with another content.
//
// K2 itself reaches a node by QR code (Backup) or sealed to the node's own
// X25519 key (SealKey), never in the clear through the hub. The hub could still
// name a key of its own where it should name the node's: compare what
// Fingerprint says on both sides once. From then on a node takes a new K2 only
// with a proof made with the one it has.
//
// Limits: what is sealed is at most MaxValue bytes; the package hides neither
// the size of a setting nor that there is one. Who has K2 can write as well as
// read: it does not say which of a household's phones wrote.
package k2

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"
)

// The classes of failure, told apart with errors.Is. Nothing is opened, and
// nothing of a plaintext is returned, when one of them is.
var (
	// ErrMalformed: it is not in the form, whoever made it.
	ErrMalformed = errors.New("malformed")
	// ErrForged: it was not sealed with this key for this node and type, or it
	// was changed on the way.
	ErrForged = errors.New("it was changed, or sealed for something else")
	// ErrRollback: an older one than what was seen before.
	ErrRollback = errors.New("older than what is here already")
	// ErrConflict: the version that is here already, with another content.
	ErrConflict = errors.New("another content under a version that is here already")
	// ErrUnproven: a new K2 without a proof by the one before.
	ErrUnproven = errors.New("the new key is not vouched for by the key that is here")
)

// MaxValue is the size in bytes of the largest value that is sealed or opened.
const MaxValue = 128 << 10

const (
	keySize   = 32
	tagSize   = 16
	plainSize = 12 // of a nonce
	longSize  = 24
)

var (
	kidForm  = regexp.MustCompile(`^k2-[0-9]{6}-[0-9A-Za-z]{6}$`)
	nodeForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	typeForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$`)
)

// Key is K2. The zero Key seals and opens nothing. It prints without its
// secret.
type Key struct {
	kid     string
	created time.Time
	secret  [keySize]byte
}

// NewKey makes a key with an id of the month of now.
func NewKey(now time.Time) (Key, error) {
	var secret [keySize]byte
	var id [3]byte
	_, _ = rand.Read(secret[:]) // it never fails: crypto/rand
	_, _ = rand.Read(id[:])
	return KeyFrom(fmt.Sprintf("k2-%s-%s", now.UTC().Format("200601"), hex.EncodeToString(id[:])), secret[:], now)
}

// KeyFrom takes a key that was made elsewhere. The id is k2-YYYYMM-xxxxxx, the
// secret 32 bytes that are not all zero; ErrMalformed otherwise.
func KeyFrom(kid string, secret []byte, created time.Time) (Key, error) {
	if !kidForm.MatchString(kid) {
		return Key{}, fmt.Errorf("the id of a K2 is k2-YYYYMM-xxxxxx: %w", ErrMalformed)
	}
	k := Key{kid: kid, created: created.UTC().Truncate(time.Second)}
	if len(secret) != keySize || copy(k.secret[:], secret) != keySize || k.secret == [keySize]byte{} {
		return Key{}, fmt.Errorf("a K2 is 32 random bytes: %w", ErrMalformed)
	}
	return k, nil
}

// ID is the key's id, k2-YYYYMM-xxxxxx; "" for the zero Key. Two keys may have
// the same by chance or by malice: it names a key, it does not prove one.
func (k Key) ID() string { return k.kid }

// Created is when the key was made, to the second, UTC; zero if unknown.
func (k Key) Created() time.Time { return k.created }

// IsZero says that there is no key.
func (k Key) IsZero() bool { return k.kid == "" }

// Equal compares two keys with their secrets in constant time.
func (k Key) Equal(o Key) bool {
	return hmac.Equal(k.secret[:], o.secret[:]) && k.kid == o.kid
}

// Reveal returns the secret, for a vault. The caller clears it.
func (k Key) Reveal() []byte { return append([]byte(nil), k.secret[:]...) }

// Check is six groups of four letters that two people compare, on the phone and
// on the node, to know that both have the same K2. It tells nobody the key.
func (k Key) Check() string { return groups(k.draw("check", 15)) }

// String is the id; it keeps the secret from fmt.
func (k Key) String() string { return "K2 " + k.kid }

// GoString keeps the secret from %#v.
func (k Key) GoString() string { return k.String() }

// LogValue keeps the secret from slog.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON refuses: a key leaves by Reveal, SealKey or Backup, on purpose.
func (k Key) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a K2 is not written as JSON")
}

// draw derives n bytes for one purpose (RFC 5869).
func (k Key) draw(purpose string, n int) []byte {
	b, err := hkdf.Key(sha256.New, k.secret[:], nil, "warren k2 "+purpose, n)
	if err != nil {
		panic("k2: HKDF of a few bytes: " + err.Error()) // n is a constant of this package
	}
	return b
}

// label is the additional data of a setting. A node's id has no colon, so no
// two pairs have the same.
func label(node, configType string) ([]byte, error) {
	if !nodeForm.MatchString(node) {
		return nil, fmt.Errorf("a node's id is 1 to 64 of letters, digits and . _ -: %w", ErrMalformed)
	}
	if !typeForm.MatchString(configType) {
		return nil, fmt.Errorf("a type of setting is 1 to 128 of letters, digits and . _ : / -: %w", ErrMalformed)
	}
	return []byte(node + ":" + configType), nil
}

// ValidType says whether a name can be a type of setting.
func ValidType(configType string) bool { return typeForm.MatchString(configType) }

// encode is base64url without padding.
func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// decode is strict: the standard library's decoder skips line ends, and a text
// with one would be a second name of the same bytes.
func decode(what, s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("the %s is not base64url without padding: %w", what, ErrMalformed)
	}
	return b, nil
}
