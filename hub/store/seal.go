package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
)

// sealer encrypts single values with AES-256-GCM and a random 96-bit nonce
// (NIST SP 800-38D; a store seals far fewer than the 2^32 values that allows).
// The place of a value is authenticated with it, so that whoever can write to
// the database cannot move one peer's key to another's row.
type sealer struct{ aead cipher.AEAD }

// sealVersion is the first byte of every sealed value.
const sealVersion = 1

var errSealed = errors.New("a sealed value cannot be opened")

func newSealer(k Key, purpose string) (*sealer, error) {
	sub, err := k.subkey(purpose)
	if err != nil {
		return nil, err
	}
	aead, err := newGCM(sub)
	if err != nil {
		return nil, err
	}
	return &sealer{aead}, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("making cipher: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("making cipher: %w", err)
	}
	return aead, nil
}

// place is the additional data: no part can contain NUL, so it is unambiguous.
func place(table, column, row string) []byte {
	return []byte(table + "\x00" + column + "\x00" + row)
}

// seal returns version, nonce and ciphertext. The empty value is sealed like
// any other, so that nobody can take a peer's pre-shared key away by blanking it.
func (s *sealer) seal(table, column, row string, plain []byte) ([]byte, error) {
	out := make([]byte, 1+s.aead.NonceSize(), 1+s.aead.NonceSize()+len(plain)+s.aead.Overhead())
	out[0] = sealVersion
	nonce := out[1:]
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("sealing value: %w", err)
	}
	return s.aead.Seal(out, nonce, plain, place(table, column, row)), nil
}

func (s *sealer) open(table, column, row string, sealed []byte) ([]byte, error) {
	n := 1 + s.aead.NonceSize()
	if len(sealed) < n+s.aead.Overhead() || sealed[0] != sealVersion {
		return nil, fmt.Errorf("%s of %s: %w: %w", column, table, errSealed, ErrCorrupt)
	}
	plain, err := s.aead.Open(nil, sealed[1:n], sealed[n:], place(table, column, row))
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w: %w", column, table, errSealed, ErrCorrupt)
	}
	return plain, nil
}

// sealedSize is the length of a sealed value that holds n bytes: version,
// nonce, value, tag.
func sealedSize(n int) int { return 1 + 12 + n + 16 }
