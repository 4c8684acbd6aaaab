package k2

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/argon2"
)

// MaxBackup is the length of the longest backup that is read, in bytes.
const MaxBackup = 4096

// ErrPassphrase: the backup needs a passphrase and there was none, or it is not
// this one.
var ErrPassphrase = errors.New("the passphrase of this backup is another one")

// kdf are the costs of Argon2id (RFC 9106): KiB, passes, lanes.
type kdf struct {
	M uint32 `json:"m"`
	T uint32 `json:"t"`
	P uint8  `json:"p"`
}

// The two sets that exist: the specification's, which is written here, and the
// one that phones write. No other is read, or a picture could order a gigabyte.
var (
	strongKDF = kdf{65536, 3, 1}
	phoneKDF  = kdf{19456, 2, 1}
)

// backup is the JSON inside a QR code.
type backup struct {
	V          int    `json:"v"`
	Mode       string `json:"mode"` // plain or enc
	Node       string `json:"node_id"`
	KID        string `json:"kid"`
	K2         string `json:"k2,omitempty"`
	KDF        string `json:"kdf,omitempty"` // argon2id
	Salt       string `json:"salt,omitempty"`
	Params     *kdf   `json:"params,omitempty"`
	Nonce      string `json:"nonce,omitempty"`
	Ciphertext string `json:"ciphertext,omitempty"`
	Tag        string `json:"tag,omitempty"`
	Created    string `json:"created_at,omitempty"` // RFC 3339
	URL        string `json:"cc_url,omitempty"`
}

// aad is the canonical text that an encrypted backup is bound to. Neither id
// has a character that JSON escapes.
func (b *backup) aad() []byte {
	return fmt.Appendf(nil, `{"v":1,"node_id":"%s","kid":"%s"}`, b.Node, b.KID)
}

// Backup writes a K2 for a QR code: base64url of JSON. With a passphrase it is
// encrypted (Argon2id with 64 MiB and three passes); with none whoever sees the
// picture has the key.
func Backup(node string, k Key, passphrase string) (string, error) {
	if k.IsZero() || !nodeForm.MatchString(node) {
		return "", fmt.Errorf("writing backup: it takes a K2 and a node's id: %w", ErrMalformed)
	}
	b := backup{V: 1, Mode: "plain", Node: node, KID: k.kid}
	if !k.created.IsZero() {
		b.Created = k.created.Format(time.RFC3339)
	}
	if passphrase == "" {
		b.K2 = encode(k.secret[:])
	} else if err := b.encrypt(k, passphrase); err != nil {
		return "", fmt.Errorf("writing backup: %w", err)
	}
	text, err := json.Marshal(b)
	if err != nil {
		return "", fmt.Errorf("writing backup: %w", err)
	}
	return encode(text), nil
}

func (b *backup) encrypt(k Key, passphrase string) error {
	salt, nonce := make([]byte, 16), make([]byte, plainSize)
	_, _ = rand.Read(salt) // it never fails: crypto/rand
	_, _ = rand.Read(nonce)
	costs := strongKDF
	aead, err := gcm(costs.key(passphrase, salt))
	if err != nil {
		return err
	}
	out := aead.Seal(nil, nonce, k.secret[:], b.aad())
	b.Mode, b.KDF, b.Params = "enc", "argon2id", &costs
	b.Salt, b.Nonce, b.Ciphertext, b.Tag = encode(salt), encode(nonce), encode(out[:keySize]), encode(out[keySize:])
	return nil
}

func (c kdf) key(passphrase string, salt []byte) []byte {
	return argon2.IDKey([]byte(passphrase), salt, c.T, c.M, c.P, keySize)
}

// Restore reads a backup and says whose it is. The passphrase is for one that is
// encrypted and is not looked at otherwise. Fields that are unknown are passed
// over: others write these pictures. Reading takes up to a tenth of a second
// and 64 MiB.
func Restore(text, passphrase string) (node string, k Key, err error) {
	fail := func(err error) (string, Key, error) { return "", Key{}, fmt.Errorf("reading backup: %w", err) }
	if len(text) > MaxBackup {
		return fail(fmt.Errorf("it is longer than any backup of a K2: %w", ErrMalformed))
	}
	raw, err := decode("backup", text)
	if err != nil {
		return fail(err)
	}
	defer clear(raw)
	var b backup
	if json.Unmarshal(raw, &b) != nil || b.V != 1 || !nodeForm.MatchString(b.Node) || !kidForm.MatchString(b.KID) {
		return fail(fmt.Errorf("it is no backup of a K2: %w", ErrMalformed))
	}
	secret, err := b.secret(passphrase)
	if err != nil {
		return fail(err)
	}
	defer clear(secret)
	var created time.Time
	if b.Created != "" {
		if created, err = time.Parse(time.RFC3339, b.Created); err != nil {
			return fail(fmt.Errorf("its date is not in the form of RFC 3339: %w", ErrMalformed))
		}
	}
	if k, err = KeyFrom(b.KID, secret, created); err != nil {
		return fail(err)
	}
	return b.Node, k, nil
}

func (b *backup) secret(passphrase string) ([]byte, error) {
	switch b.Mode {
	case "plain":
		return decode("k2", b.K2)
	case "enc":
		return b.decrypt(passphrase)
	}
	return nil, fmt.Errorf("its mode is neither plain nor enc: %w", ErrMalformed)
}

func (b *backup) decrypt(passphrase string) ([]byte, error) {
	if b.KDF != "argon2id" || b.Params == nil || *b.Params != strongKDF && *b.Params != phoneKDF {
		return nil, fmt.Errorf("its passphrase is stretched in a way that is not known: %w", ErrMalformed)
	}
	salt, err := decode("salt", b.Salt)
	if err != nil {
		return nil, err
	}
	sealed := Sealed{b.Ciphertext, b.Nonce, b.Tag}
	nonce, ciphertext, err := sealed.parts()
	if err != nil {
		return nil, err
	}
	if len(nonce) != plainSize || len(salt) < 8 || len(salt) > 64 {
		return nil, fmt.Errorf("its salt or nonce has another length: %w", ErrMalformed)
	}
	if passphrase == "" {
		return nil, ErrPassphrase
	}
	aead, err := gcm(b.Params.key(passphrase, salt))
	if err != nil {
		return nil, err
	}
	secret, err := aead.Open(nil, nonce, ciphertext, b.aad())
	if err != nil {
		return nil, ErrPassphrase
	}
	// Some write the key's text instead of its bytes.
	if text, err := decode("k2", string(bytes.TrimSpace(secret))); err == nil && len(secret) != keySize && len(text) == keySize {
		clear(secret)
		return text, nil
	}
	return secret, nil
}
