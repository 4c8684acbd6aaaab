package store

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// The form of a SQLCipher 4 file, as far as telling its states apart needs it:
// pages of 4096 bytes, each of ciphertext, a 16-byte initialisation vector and
// an HMAC-SHA-512 over both and the page's number. The first 16 bytes of the
// first page are the salt, in clear.
const (
	pageSize = 4096
	pageTag  = 64
	saltSize = 16
)

// plainHeader is how a database without encryption begins.
const plainHeader = "SQLite format 3\x00"

// cipherKey is what a SQLCipher file is opened with. SQLCipher answers "file is
// not a database" to a wrong key and to a damaged first page alike. So the salt
// is not random here, but drawn from the master key: a file that begins with
// it is ours, whatever else happened to it.
type cipherKey struct {
	raw, salt []byte
	tagKey    []byte // what the pages' HMACs are made with
}

func newCipherKey(k Key) (*cipherKey, error) {
	raw, err := k.subkey("sqlcipher")
	if err != nil {
		return nil, err
	}
	whose, err := k.subkey("sqlcipher salt")
	if err != nil {
		return nil, err
	}
	c := &cipherKey{raw: raw, salt: whose[:saltSize]}
	masked := bytes.Clone(c.salt)
	for i := range masked {
		masked[i] ^= 0x3a
	}
	if c.tagKey, err = pbkdf2.Key(sha512.New, string(raw), masked, 2, keySize); err != nil {
		return nil, fmt.Errorf("drawing key: %w", err)
	}
	return c, nil
}

// genuine reports whether page number n (from 1) was written with this key and
// is as it was written.
func (k *cipherKey) genuine(page []byte, n uint32) bool {
	from := 0
	if n == 1 {
		from = saltSize
	}
	mac := hmac.New(sha512.New, k.tagKey)
	mac.Write(page[from : pageSize-pageTag])
	mac.Write(binary.LittleEndian.AppendUint32(nil, n))
	return hmac.Equal(mac.Sum(nil), page[pageSize-pageTag:])
}

// inspect reads the whole file, writes nothing, and says whether it may be
// opened: ErrPlaintext, ErrWrongKey or ErrCorrupt if not. A page that the
// write-ahead log holds anew may be torn, for that is what the log is for.
func (k *cipherKey) inspect(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	logged, err := loggedPages(path + "-wal")
	if err != nil {
		return err
	}
	var good int
	var bad uint32 // the first damaged page
	var header [saltSize]byte
	page := make([]byte, pageSize)
	for n := uint32(1); ; n++ {
		size, err := io.ReadFull(f, page)
		if n == 1 {
			copy(header[:], page[:min(size, saltSize)])
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		if size == pageSize && k.genuine(page, n) {
			good++
		} else if bad == 0 && !logged[n] {
			bad = n
		}
	}
	ours := bytes.Equal(header[:], k.salt)
	switch {
	case string(header[:]) == plainHeader:
		return ErrPlaintext
	case ours && bad == 0 && (good > 0 || len(logged) > 0):
		return nil
	case bad > 0 && (ours || good > 0):
		return fmt.Errorf("page %d of %s: %w", bad, path, ErrCorrupt)
	case good > 0 || ours || allZero(header[:]):
		return fmt.Errorf("the beginning of %s: %w", path, ErrCorrupt)
	}
	return fmt.Errorf("%s: %w", path, ErrWrongKey)
}

// allZero catches an empty file and one whose beginning a crash left unwritten:
// no key has a salt of zeros.
func allZero(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }

// loggedPages lists the pages that a write-ahead log holds (SQLite's file
// format, section 4.1: a header of 32 bytes, then frames of 24 bytes and a
// page; a frame begins with the page's number).
func loggedPages(path string) (map[uint32]bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	pages := make(map[uint32]bool)
	var number [4]byte
	for at := int64(32); ; at += 24 + pageSize {
		if _, err := f.ReadAt(number[:], at); errors.Is(err, io.EOF) {
			return pages, nil
		} else if err != nil {
			return nil, err
		}
		pages[binary.BigEndian.Uint32(number[:])] = true
	}
}
