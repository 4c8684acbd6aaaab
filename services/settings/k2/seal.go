package k2

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Snapshot is the type of what a node tells about its settings. It is never the
// type of a setting that somebody sends to a node.
const Snapshot = "settings:snapshot"

// Sealed is a setting on its way, as it stands in the JSON of both sides. Each
// field is base64url without padding.
type Sealed struct {
	Ciphertext string `json:"ciphertext"`
	Nonce      string `json:"nonce"` // 12 bytes: plain, 24: versioned
	Tag        string `json:"tag"`   // 16 bytes
}

// Setting is what a Sealed holds.
type Setting struct {
	// Version rises with each change of one type of setting of one node. 0 is
	// the plain form, which has none.
	Version uint64
	// Issued is when it was sealed, to the second; zero in the plain form.
	Issued time.Time
	// Value is the setting: JSON in the versioned form, anything in the plain
	// one. At most MaxValue bytes.
	Value []byte
}

// inside is the plaintext of the versioned form.
type inside struct {
	V       int             `json:"v"`
	KID     string          `json:"kid"`
	Version uint64          `json:"version"`
	Issued  int64           `json:"issued"` // Unix seconds
	Value   json.RawMessage `json:"value"`
}

const insideForm = 2

// Seal seals a setting for a node. A Version of 0 makes the plain form, for
// clients of Jarvis that know no other; Issued is then not kept.
func (k Key) Seal(node, configType string, s Setting) (Sealed, error) {
	return k.seal(rand.Reader, node, configType, s)
}

func (k Key) seal(random io.Reader, node, configType string, s Setting) (Sealed, error) {
	fail := func(err error) (Sealed, error) { return Sealed{}, fmt.Errorf("sealing setting: %w", err) }
	if k.IsZero() {
		return fail(fmt.Errorf("there is no K2: %w", ErrMalformed))
	}
	aad, err := label(node, configType)
	if err != nil {
		return fail(err)
	}
	if len(s.Value) > MaxValue {
		return fail(fmt.Errorf("a value has at most %d bytes: %w", MaxValue, ErrMalformed))
	}
	plaintext, size := s.Value, plainSize
	if s.Version > 0 {
		size = longSize
		if plaintext, err = (inside{insideForm, k.kid, s.Version, s.Issued.Unix(), s.Value}).text(); err != nil {
			return fail(err)
		}
	}
	nonce, err := k.nonce(random, size, aad, plaintext)
	if err != nil {
		return fail(err)
	}
	aead, short, err := k.sealer(nonce)
	if err != nil {
		return fail(err)
	}
	out := aead.Seal(nil, short, plaintext, aad)
	cut := len(out) - tagSize
	return Sealed{encode(out[:cut]), encode(nonce), encode(out[cut:])}, nil
}

// nonce mixes what the generator says with what is sealed, so that a cloned
// generator does not make two messages share a nonce.
func (k Key) nonce(random io.Reader, size int, aad, plaintext []byte) ([]byte, error) {
	fresh := make([]byte, 32)
	if _, err := io.ReadFull(random, fresh); err != nil {
		return nil, fmt.Errorf("drawing nonce: %w", err)
	}
	m := hmac.New(sha256.New, k.draw("nonce", 32))
	m.Write(fresh)
	m.Write(binary.BigEndian.AppendUint64(nil, uint64(size)))
	m.Write(binary.BigEndian.AppendUint64(nil, uint64(len(aad))))
	m.Write(aad)
	m.Write(plaintext)
	return m.Sum(nil)[:size], nil
}

// Open opens what was sealed for a node as a type of setting. It fails with
// ErrMalformed or ErrForged, and then the Setting is empty. Whether the version
// may be taken is for Mark to say.
func (k Key) Open(node, configType string, s Sealed) (Setting, error) {
	fail := func(err error) (Setting, error) { return Setting{}, fmt.Errorf("opening setting: %w", err) }
	if k.IsZero() {
		return fail(fmt.Errorf("there is no K2: %w", ErrForged))
	}
	aad, err := label(node, configType)
	if err != nil {
		return fail(err)
	}
	nonce, ciphertext, err := s.parts()
	if err != nil {
		return fail(err)
	}
	aead, short, err := k.sealer(nonce)
	if err != nil {
		return fail(err)
	}
	plaintext, err := aead.Open(nil, short, ciphertext, aad)
	if err != nil {
		return fail(ErrForged)
	}
	if len(nonce) == plainSize {
		return Setting{Value: plaintext}, nil
	}
	in, err := parseInside(plaintext)
	if err != nil {
		return fail(err)
	}
	if in.KID != k.kid {
		return fail(fmt.Errorf("it names another K2: %w", ErrForged))
	}
	return Setting{in.Version, time.Unix(in.Issued, 0).UTC(), in.Value}, nil
}

// Valid says whether the form is right; nobody without K2 can say more.
func (s Sealed) Valid() error {
	_, _, err := s.parts()
	return err
}

// parts are the nonce, and the ciphertext with its tag.
func (s Sealed) parts() (nonce, ciphertext []byte, err error) {
	// The envelope of the versioned form is below 200 bytes.
	if len(s.Ciphertext) > (MaxValue+200)*4/3 {
		return nil, nil, fmt.Errorf("a value has at most %d bytes: %w", MaxValue, ErrMalformed)
	}
	if nonce, err = decode("nonce", s.Nonce); err != nil {
		return nil, nil, err
	}
	if len(nonce) != plainSize && len(nonce) != longSize {
		return nil, nil, fmt.Errorf("the nonce has %d bytes, not %d or %d: %w", len(nonce), plainSize, longSize, ErrMalformed)
	}
	if ciphertext, err = decode("ciphertext", s.Ciphertext); err != nil {
		return nil, nil, err
	}
	tag, err := decode("tag", s.Tag)
	if err != nil {
		return nil, nil, err
	}
	if len(tag) != tagSize {
		return nil, nil, fmt.Errorf("the tag has %d bytes, not %d: %w", len(tag), tagSize, ErrMalformed)
	}
	return nonce, append(ciphertext, tag...), nil
}

// text is the plaintext, without blanks, as JSON.stringify writes it.
func (in inside) text() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(in); err != nil {
		return nil, fmt.Errorf("the value of a versioned setting is JSON: %w", ErrMalformed)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// parseInside reads the plaintext: exactly what seal writes, byte for byte, so
// that one message has one form.
func parseInside(plaintext []byte) (inside, error) {
	var in inside
	d := json.NewDecoder(bytes.NewReader(plaintext))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil || in.V != insideForm || in.Version == 0 || len(in.Value) == 0 {
		return inside{}, fmt.Errorf("what was sealed is no versioned setting: %w", ErrMalformed)
	}
	again, err := in.text()
	if err != nil || !bytes.Equal(again, plaintext) {
		return inside{}, fmt.Errorf("what was sealed is no versioned setting: %w", ErrMalformed)
	}
	return in, nil
}

// Versioned says whether it has the form with a version inside, as far as can be
// seen from outside.
func (s Sealed) Versioned() bool {
	nonce, err := decode("nonce", s.Nonce)
	return err == nil && len(nonce) == longSize
}
