package vault

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"syscall"
)

// The sealed file is
//
//	"warren-vault-1\n"  15 bytes
//	check               16 bytes drawn from K1, which tell a wrong key from damage
//	nonce               12 bytes, random
//	ciphertext          AES-256-GCM of the table as JSON; all before is authenticated with it
const (
	sealedMagic  = "warren-vault-1\n"
	sealedFamily = "warren-vault-" // what a newer version's begins with as well
	checkSize    = 16
	nonceSize    = 12
)

func sealedMaker() maker {
	return maker{sealedFile, createSealed, openSealed}
}

// sealed is the form without cgo: the table in memory, the file replaced as a
// whole at each change.
type sealed struct {
	path  string
	aead  cipher.AEAD
	check []byte
	table map[string][]byte
}

func newSealed(path string, k key) (*sealed, error) {
	sub, err := k.subkey("sealed file")
	if err != nil {
		return nil, err
	}
	check, err := k.subkey("sealed file check")
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(sub)
	if err != nil {
		return nil, fmt.Errorf("making cipher: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("making cipher: %w", err)
	}
	return &sealed{path: path, aead: aead, check: check[:checkSize], table: make(map[string][]byte)}, nil
}

func createSealed(path string, k key) error {
	s, err := newSealed(path, k)
	if err != nil {
		return err
	}
	return s.write(s.table)
}

func openSealed(path string, k key) (form, error) {
	s, err := newSealed(path, k)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// JSON takes more room than what it holds, base64 a third more.
	b, err := io.ReadAll(io.LimitReader(f, 2*MaxVault))
	if err != nil {
		return nil, err
	}
	head := len(sealedMagic) + checkSize + nonceSize
	if len(b) < head+s.aead.Overhead() || !bytes.HasPrefix(b, []byte(sealedMagic)) {
		return nil, s.misfit(b)
	}
	plain, err := s.aead.Open(nil, b[head-nonceSize:head], b[head:], b[:head-nonceSize])
	if err != nil {
		if !hmac.Equal(b[len(sealedMagic):head-nonceSize], s.check) {
			return nil, fmt.Errorf("%s: %w", path, ErrWrongKey)
		}
		return nil, fmt.Errorf("%s: %w", path, ErrCorrupt)
	}
	if err := json.Unmarshal(plain, &s.table); err != nil {
		return nil, fmt.Errorf("%s: %w", path, ErrCorrupt)
	}
	return s, nil
}

// misfit says what a file is that does not begin like ours.
func (s *sealed) misfit(b []byte) error {
	switch {
	case bytes.HasPrefix(b, []byte(sealedMagic)), len(b) == 0, bytes.Count(b, []byte{0}) == len(b):
		return fmt.Errorf("%s: %w", s.path, ErrCorrupt)
	case bytes.HasPrefix(b, []byte(sealedFamily)):
		return fmt.Errorf("%s: %w", s.path, ErrNewer)
	case json.Valid(b):
		return fmt.Errorf("%s: %w", s.path, ErrPlaintext)
	}
	return fmt.Errorf("%s: %w", s.path, ErrCorrupt)
}

// write seals table and puts it in the file's place.
func (s *sealed) write(table map[string][]byte) error {
	plain, err := json.Marshal(table)
	if err != nil {
		return err
	}
	out := append([]byte(sealedMagic), s.check...)
	var nonce [nonceSize]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return fmt.Errorf("sealing: %w", err)
	}
	ad := bytes.Clone(out)
	out = append(out, nonce[:]...)
	if err := replace(s.path, s.aead.Seal(out, nonce[:], plain, ad)); err != nil {
		return storageError(err)
	}
	s.table = table
	return nil
}

func storageError(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fmt.Errorf("%w (%s)", ErrStorage, errno.Error())
	}
	return err
}

func (s *sealed) get(name string) ([]byte, error) {
	value, ok := s.table[name]
	if !ok {
		return nil, ErrNotFound
	}
	return append([]byte{}, value...), nil
}

func (s *sealed) names() ([]string, error) {
	return slices.Collect(maps.Keys(s.table)), nil
}

func (s *sealed) apply(changes map[string][]byte) error {
	next := maps.Clone(s.table)
	size := 0
	for name, value := range changes {
		if value == nil {
			delete(next, name)
			continue
		}
		next[name] = bytes.Clone(value)
	}
	for name, value := range next {
		size += len(name) + len(value)
	}
	if size > MaxVault {
		return fmt.Errorf("%w: the vault would hold %d bytes, the most is %d", ErrInvalid, size, MaxVault)
	}
	return s.write(next)
}

func (s *sealed) close() error { return nil }
