package k2

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// NodeKey is a node's own X25519 key, made on the node and kept in its vault.
// K2 is sealed to its public half.
type NodeKey struct{ private *ecdh.PrivateKey }

// NewNodeKey makes one.
func NewNodeKey() (NodeKey, error) {
	p, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return NodeKey{}, fmt.Errorf("making node key: %w", err)
	}
	return NodeKey{p}, nil
}

// NodeKeyFrom takes what Reveal gave.
func NodeKeyFrom(b []byte) (NodeKey, error) {
	p, err := ecdh.X25519().NewPrivateKey(b)
	if err != nil {
		return NodeKey{}, fmt.Errorf("a node key is 32 bytes: %w", ErrMalformed)
	}
	return NodeKey{p}, nil
}

// Reveal returns the private key, for a vault. The caller clears it.
func (n NodeKey) Reveal() []byte { return n.private.Bytes() }

// Public is the half that others may know.
func (n NodeKey) Public() (p PublicKey) {
	copy(p[:], n.private.PublicKey().Bytes())
	return p
}

// String keeps the key from fmt.
func (n NodeKey) String() string { return "node key" }

// GoString keeps the key from %#v.
func (n NodeKey) GoString() string { return n.String() }

// LogValue keeps the key from slog.
func (n NodeKey) LogValue() slog.Value { return slog.StringValue(n.String()) }

// PublicKey is the public half of a NodeKey. As text it is base64url without
// padding.
type PublicKey [32]byte

// ParsePublicKey reads one; ErrMalformed if it is none, or one that gives
// everybody the same secret (RFC 7748, section 6.1).
func ParsePublicKey(s string) (p PublicKey, err error) {
	b, err := decode("public key", s)
	if err != nil || len(b) != len(p) {
		return PublicKey{}, fmt.Errorf("a public key is 32 bytes in base64url: %w", ErrMalformed)
	}
	copy(p[:], b)
	probe, err := NewNodeKey()
	if err != nil {
		return PublicKey{}, err
	}
	pub, err := ecdh.X25519().NewPublicKey(b)
	if err != nil {
		return PublicKey{}, fmt.Errorf("reading public key: %w", ErrMalformed)
	}
	if _, err := probe.private.ECDH(pub); err != nil {
		return PublicKey{}, fmt.Errorf("this public key hides nothing: %w", ErrMalformed)
	}
	return p, nil
}

// String is the text form.
func (p PublicKey) String() string { return encode(p[:]) }

// Fingerprint is what a person compares on the node and on the phone: six
// groups of four letters and digits, 120 bits of the SHA-256.
func (p PublicKey) Fingerprint() string {
	sum := sha256.Sum256(append([]byte("warren node key\x00"), p[:]...))
	return groups(sum[:15])
}

// groups writes 15 bytes as six groups of four.
func groups(b []byte) string {
	text := strings.ToLower(base32.StdEncoding.EncodeToString(b))
	parts := make([]string, 0, 6)
	for ; len(text) >= 4; text = text[4:] {
		parts = append(parts, text[:4])
	}
	return strings.Join(parts, " ")
}

// SealedKey is a K2 on its way to a node: HPKE (RFC 9180) in base mode with
// DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM. Node, key id and
// the node's public key are bound into it.
type SealedKey struct {
	V          int    `json:"v"` // 1
	KID        string `json:"kid"`
	To         string `json:"to"`         // the node's public key
	Enc        string `json:"enc"`        // the ephemeral public key
	Ciphertext string `json:"ciphertext"` // with its tag
}

// delivery is the plaintext of a SealedKey.
type delivery struct {
	K2      string `json:"k2"`
	Created int64  `json:"created_at"` // Unix seconds
	// Proof is an HMAC under the K2 before, "" for the first.
	Proof string `json:"proof"`
}

func (s SealedKey) info(node string) []byte {
	return []byte("warren k2 delivery v1\x00" + node + "\x00" + s.KID + "\x00" + s.To)
}

// prove vouches for a new key with the one before.
func (s SealedKey) prove(node string, next, before Key) []byte {
	m := hmac.New(sha256.New, before.draw("successor", 32))
	m.Write(s.info(node))
	m.Write(next.secret[:])
	return m.Sum(nil)
}

// SealKey seals a K2 to a node's public key. before is the K2 that the node has
// now, the zero Key if it has none: the node takes a new one only with a proof
// by it.
func SealKey(to PublicKey, node string, k, before Key) (SealedKey, error) {
	fail := func(err error) (SealedKey, error) { return SealedKey{}, fmt.Errorf("sealing K2: %w", err) }
	if k.IsZero() || !nodeForm.MatchString(node) {
		return fail(fmt.Errorf("it takes a K2 and a node's id: %w", ErrMalformed))
	}
	pub, err := ecdh.X25519().NewPublicKey(to[:])
	if err != nil {
		return fail(ErrMalformed)
	}
	hpkePub, err := hpke.NewDHKEMPublicKey(pub)
	if err != nil {
		return fail(err)
	}
	s := SealedKey{V: 1, KID: k.kid, To: to.String()}
	d := delivery{K2: encode(k.secret[:]), Created: k.created.Unix()}
	if !before.IsZero() {
		d.Proof = encode(s.prove(node, k, before))
	}
	text, err := json.Marshal(d)
	if err != nil {
		return fail(err)
	}
	enc, sender, err := hpke.NewSender(hpkePub, hpke.HKDFSHA256(), hpke.AES256GCM(), s.info(node))
	if err != nil {
		return fail(err)
	}
	out, err := sender.Seal(nil, text)
	if err != nil {
		return fail(err)
	}
	s.Enc, s.Ciphertext = encode(enc), encode(out)
	return s, nil
}

// Valid says whether the form is right; nobody but the node can say more.
func (s SealedKey) Valid() error {
	_, _, err := s.parts()
	return err
}

func (s SealedKey) parts() (enc, ciphertext []byte, err error) {
	if s.V != 1 || !kidForm.MatchString(s.KID) || len(s.Ciphertext) > 1024 {
		return nil, nil, fmt.Errorf("a sealed K2 has v 1, a kid and a short ciphertext: %w", ErrMalformed)
	}
	if to, err := decode("to", s.To); err != nil || len(to) != 32 {
		return nil, nil, fmt.Errorf("a sealed K2 says to which key: %w", ErrMalformed)
	}
	if enc, err = decode("enc", s.Enc); err != nil || len(enc) != 32 {
		return nil, nil, fmt.Errorf("the enc of a sealed K2 is 32 bytes: %w", ErrMalformed)
	}
	if ciphertext, err = decode("ciphertext", s.Ciphertext); err != nil {
		return nil, nil, err
	}
	return enc, ciphertext, nil
}

// OpenKey opens a K2 that was sealed to this key for this node. before is the
// K2 that is here, the zero Key if there is none. The same K2 again is no
// error; another one without a proof by before is ErrUnproven, one that was
// sealed for another node, key or id ErrForged.
func (n NodeKey) OpenKey(node string, s SealedKey, before Key) (Key, error) {
	fail := func(err error) (Key, error) { return Key{}, fmt.Errorf("opening K2: %w", err) }
	enc, ciphertext, err := s.parts()
	if err != nil {
		return fail(err)
	}
	if s.To != n.Public().String() {
		return fail(fmt.Errorf("it is for another node's key: %w", ErrForged))
	}
	private, err := hpke.NewDHKEMPrivateKey(n.private)
	if err != nil {
		return fail(err)
	}
	recipient, err := hpke.NewRecipient(enc, private, hpke.HKDFSHA256(), hpke.AES256GCM(), s.info(node))
	if err != nil {
		return fail(ErrForged)
	}
	text, err := recipient.Open(nil, ciphertext)
	if err != nil {
		return fail(ErrForged)
	}
	defer clear(text)
	k, proof, err := parseDelivery(text, s.KID)
	if err != nil {
		return fail(err)
	}
	if before.IsZero() || before.Equal(k) {
		return k, nil
	}
	if !hmac.Equal(proof, s.prove(node, k, before)) {
		return fail(ErrUnproven)
	}
	return k, nil
}

func parseDelivery(text []byte, kid string) (Key, []byte, error) {
	var d delivery
	bad := fmt.Errorf("what was sealed is no K2: %w", ErrMalformed)
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if dec.Decode(&d) != nil {
		return Key{}, nil, bad
	}
	if again, err := json.Marshal(d); err != nil || !bytes.Equal(again, text) {
		return Key{}, nil, bad
	}
	secret, err := decode("key", d.K2)
	if err != nil {
		return Key{}, nil, bad
	}
	defer clear(secret)
	proof, err := decode("proof", d.Proof)
	if err != nil {
		return Key{}, nil, bad
	}
	k, err := KeyFrom(kid, secret, time.Unix(d.Created, 0))
	return k, proof, err
}
