package store

import (
	"bufio"
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/argon2"
)

// A backup file is
//
//	"warren-backup-1\n"  16 bytes
//	lock                 1 byte: 0 master key, 1 passphrase
//	salt                 32 bytes
//	time, memory, lanes  4, 4 and 1 bytes: argon2id's (RFC 9106), 0 for lock 0; memory in KiB
//	check                32 bytes: HMAC-SHA-256 of all before, which tells a wrong key from a damaged file
//	chunks               64 KiB each, the last one shorter, each with a tag of 16 bytes
//
// Chunks are AES-256-GCM with the STREAM construction (Hoang, Reyhanitabar,
// Rogaway, Vizár, 2015): the nonce is the chunk's number and whether it is the
// last, so that none can be moved, dropped or cut off unseen.
const (
	backupMagic  = "warren-backup-1\n"
	backupHeader = len(backupMagic) + 1 + 32 + 4 + 4 + 1
	chunkSize    = 64 << 10
	tagSize      = 16

	lockKey        = 0
	lockPassphrase = 1

	// What a passphrase costs to try: about a third of a second and 64 MiB
	// (RFC 9106, section 4, second recommendation).
	argonTime, argonMemory, argonLanes = 3, 64 << 10, 4
	// The most that a file may demand: who can write one must not be able to
	// take all of the machine's memory.
	maxArgonTime, maxArgonMemory = 16, 1 << 20

	minPassphrase = 8
)

// ErrBackupKey: the passphrase or key is not the backup's.
var ErrBackupKey = fmt.Errorf("%w: the passphrase or master key is not the one it was made with", ErrBackup)

// lock holds what opens a backup: a passphrase, or the master key's subkey.
type lock struct{ passphrase, key []byte }

func (l lock) kind() byte {
	if l.passphrase != nil {
		return lockPassphrase
	}
	return lockKey
}

// newHeader makes the header of a new backup, without its check.
func (l lock) newHeader() ([]byte, error) {
	h := append([]byte(backupMagic), l.kind())
	h = append(h, make([]byte, 32)...)
	if _, err := rand.Read(h[len(h)-32:]); err != nil {
		return nil, fmt.Errorf("making salt: %w", err)
	}
	if l.kind() == lockKey {
		return append(h, make([]byte, 9)...), nil
	}
	if len(l.passphrase) < minPassphrase {
		return nil, fmt.Errorf("%w: a passphrase has at least %d bytes; several words are better", ErrInvalid, minPassphrase)
	}
	h = binary.BigEndian.AppendUint32(h, argonTime)
	h = binary.BigEndian.AppendUint32(h, argonMemory)
	return append(h, argonLanes), nil
}

// keys draws the cipher and the header's check from a header.
func (l lock) keys(header []byte) (cipher.AEAD, []byte, error) {
	rest := header[len(backupMagic):]
	kind, salt, params := rest[0], rest[1:33], rest[33:]
	if kind != l.kind() {
		if kind == lockPassphrase {
			return nil, nil, fmt.Errorf("%w: it is locked with a passphrase, give that", ErrBackup)
		}
		if kind == lockKey {
			return nil, nil, fmt.Errorf("%w: it is locked with the master key, not with a passphrase", ErrBackup)
		}
		return nil, nil, fmt.Errorf("%w: it is locked in a way that this version does not know", ErrBackup)
	}
	secret := l.key
	if kind == lockPassphrase {
		time, memory, lanes := binary.BigEndian.Uint32(params), binary.BigEndian.Uint32(params[4:]), params[8]
		if time == 0 || time > maxArgonTime || memory > maxArgonMemory || lanes == 0 {
			return nil, nil, fmt.Errorf("%w: its header asks for unreasonable work", ErrBackup)
		}
		secret = argon2.IDKey(l.passphrase, salt, time, memory, lanes, keySize)
	}
	out, err := hkdf.Key(sha256.New, secret, salt, "warren backup 1: "+string(header), 2*keySize)
	if err != nil {
		return nil, nil, fmt.Errorf("drawing key: %w", err)
	}
	aead, err := newGCM(out[:keySize])
	if err != nil {
		return nil, nil, err
	}
	mac := hmac.New(sha256.New, out[keySize:])
	mac.Write(header)
	return aead, mac.Sum(nil), nil
}

func chunkNonce(n uint64, last bool) []byte {
	nonce := make([]byte, 12)
	binary.BigEndian.PutUint64(nonce[3:], n)
	if last {
		nonce[11] = 1
	}
	return nonce
}

// sealWriter encrypts what is written to it. Close writes the last chunk;
// without it the file is a truncated one.
type sealWriter struct {
	w    io.Writer
	aead cipher.AEAD
	buf  []byte
	n    uint64
}

func newSealWriter(w io.Writer, l lock) (*sealWriter, error) {
	header, err := l.newHeader()
	if err != nil {
		return nil, err
	}
	aead, check, err := l.keys(header)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(append(header, check...)); err != nil {
		return nil, err
	}
	return &sealWriter{w: w, aead: aead, buf: make([]byte, 0, chunkSize+tagSize)}, nil
}

func (s *sealWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if len(s.buf) == chunkSize {
			if err := s.flush(false); err != nil {
				return 0, err
			}
		}
		n := min(len(p), chunkSize-len(s.buf))
		s.buf, p = append(s.buf, p[:n]...), p[n:]
	}
	return total, nil
}

func (s *sealWriter) flush(last bool) error {
	_, err := s.w.Write(s.aead.Seal(s.buf[:0], chunkNonce(s.n, last), s.buf, nil))
	s.buf, s.n = s.buf[:0], s.n+1
	return err
}

func (s *sealWriter) Close() error { return s.flush(true) }

// sealReader gives out only what was authenticated. It ends with io.EOF after
// the last chunk and with ErrBackup at anything else.
type sealReader struct {
	r    *bufio.Reader
	aead cipher.AEAD
	buf  []byte // the chunk as read
	rest []byte // what of it was not given out yet
	n    uint64
	last bool
	err  error
}

func newSealReader(r io.Reader, l lock) (*sealReader, error) {
	header := make([]byte, backupHeader+sha256.Size)
	n, err := io.ReadFull(r, header)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("reading backup: %w", err)
	}
	if !bytes.HasPrefix(header[:n], []byte(backupMagic)) {
		return nil, fmt.Errorf("%w: it is not a backup that Warren wrote, or from a version this one cannot read", ErrBackup)
	}
	if n < len(header) {
		return nil, fmt.Errorf("%w: it is truncated, it ends after %d bytes", ErrBackup, n)
	}
	aead, check, err := l.keys(header[:backupHeader])
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(check, header[backupHeader:]) {
		return nil, ErrBackupKey
	}
	return &sealReader{r: bufio.NewReader(r), aead: aead, buf: make([]byte, chunkSize+tagSize)}, nil
}

func (s *sealReader) Read(p []byte) (int, error) {
	for len(s.rest) == 0 && s.err == nil {
		s.err = s.next()
	}
	if len(s.rest) == 0 {
		return 0, s.err
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *sealReader) next() error {
	if s.last {
		return io.EOF
	}
	n, err := io.ReadFull(s.r, s.buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("reading backup: %w", err)
	}
	_, ahead := s.r.Peek(1)
	s.last = ahead != nil
	chunk := s.buf[:n]
	plain, err := s.aead.Open(nil, chunkNonce(s.n, s.last), chunk, nil)
	if err != nil {
		// What opens as a chunk that is not the last one is whole, so
		// something that followed it is missing.
		if _, err := s.aead.Open(nil, chunkNonce(s.n, false), chunk, nil); n == 0 || (s.last && err == nil) {
			return fmt.Errorf("%w: it is truncated, the end is missing after chunk %d", ErrBackup, s.n)
		}
		return fmt.Errorf("%w: it is altered or truncated in chunk %d, near byte %d", ErrBackup, s.n+1,
			uint64(backupHeader+sha256.Size)+s.n*(chunkSize+tagSize))
	}
	s.rest, s.n = plain, s.n+1
	return nil
}
