package vault

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

const keySize = 32

// key is K1. Nothing outside the package can get at it, and nothing prints it.
type key struct{ b *[keySize]byte }

func (key) String() string               { return "(redacted)" }
func (key) GoString() string             { return "(redacted)" }
func (key) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, "(redacted)") }
func (key) MarshalText() ([]byte, error) { return nil, errors.New("the vault's key is not marshalled") }

// subkey draws the key for one purpose (HKDF-SHA256, RFC 5869).
func (k key) subkey(purpose string) ([]byte, error) {
	sub, err := hkdf.Key(sha256.New, k.b[:], nil, "warren vault 1: "+purpose, keySize)
	if err != nil {
		return nil, fmt.Errorf("drawing key: %w", err)
	}
	return sub, nil
}

// makeKey makes K1 and writes it to a new file, complete and on the disk
// before it has its name. If there is one, an earlier start was interrupted
// before it made the vault, and that one is used: it may be the key to a
// vault that was only moved away.
func makeKey(path string) (key, error) {
	if _, err := os.Lstat(path); err == nil {
		return loadKey(path)
	}
	b := new([keySize]byte)
	if _, err := rand.Read(b[:]); err != nil {
		return key{}, fmt.Errorf("making key: %w", err)
	}
	if err := replace(path, []byte(hex.EncodeToString(b[:])+"\n")); err != nil {
		return key{}, fmt.Errorf("making key: %w", err)
	}
	return key{b}, nil
}

var errKeyForm = fmt.Errorf("%w: its file does not hold 64 hexadecimal digits and nothing else", ErrKey)

// loadKey reads K1. A file that others can read or write is refused: the key
// may be known. Windows has no such mode; there the directory's ACL decides.
func loadKey(path string) (key, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return key{}, fmt.Errorf("%w: %s is missing", ErrKey, path)
	}
	if err != nil {
		return key{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return key{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if !info.Mode().IsRegular() {
		return key{}, fmt.Errorf("%w: %s is not a regular file", ErrKey, path)
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return key{}, fmt.Errorf("%w: others can read or write %s (mode %04o); run chmod 600 on it, and join again if others had the chance", ErrKey, path, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, 2*keySize+3))
	if err != nil {
		return key{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	digits := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	b := new([keySize]byte)
	if len(digits) != 2*keySize {
		return key{}, errKeyForm
	}
	if _, err := hex.Decode(b[:], []byte(digits)); err != nil || *b == [keySize]byte{} {
		return key{}, errKeyForm
	}
	return key{b}, nil
}

// replace puts content at path in one step that survives a crash: a new file,
// on the disk before it gets the name, and the name on the disk before
// anybody is told.
func replace(path string, content []byte) (err error) {
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(fresh)
		}
	}()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(fresh, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
