package store

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// keySize is the length of the master key and of every key drawn from it, in bytes.
const keySize = 32

// Key is the master key of a store: 32 random bytes. It cannot be printed,
// compared with == or marshalled. The zero value is no key.
type Key struct {
	_ [0]func() // not comparable: == on secrets is not constant time
	b *[keySize]byte
}

const redacted = "(redacted)"

// String, GoString, Format, LogValue and MarshalText keep the bytes out of
// fmt, log/slog and encoding/json.
func (Key) String() string             { return redacted }
func (Key) GoString() string           { return redacted }
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }
func (Key) LogValue() slog.Value       { return slog.StringValue(redacted) }
func (Key) MarshalText() ([]byte, error) {
	return nil, errors.New("the master key is not marshalled")
}

// IsZero reports whether there is no key.
func (k Key) IsZero() bool { return k.b == nil }

// NewKey makes a key from the system's randomness and keeps it nowhere.
func NewKey() (Key, error) {
	b := new([keySize]byte)
	if _, err := rand.Read(b[:]); err != nil {
		return Key{}, fmt.Errorf("making master key: %w", err)
	}
	return Key{b: b}, nil
}

// subkey draws the key for one purpose (HKDF-SHA256, RFC 5869). The master key
// itself is never used for anything else and never reaches a database.
func (k Key) subkey(purpose string) ([]byte, error) {
	if k.b == nil {
		return nil, fmt.Errorf("%w: there is none", ErrKeyFile)
	}
	sub, err := hkdf.Key(sha256.New, k.b[:], nil, "warren store 1: "+purpose, keySize)
	if err != nil {
		return nil, fmt.Errorf("drawing key: %w", err)
	}
	return sub, nil
}

// CreateKey makes a key and writes it as 64 hexadecimal digits to a new file
// that only its owner can read. A file that is there already is not touched:
// it may be the only key to somebody's data (ErrExists).
func CreateKey(path string) (Key, error) {
	k, err := NewKey()
	if err != nil {
		return Key{}, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return Key{}, fmt.Errorf("creating master key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return Key{}, fmt.Errorf("creating master key %s: %w", path, ErrExists)
	}
	if err != nil {
		return Key{}, fmt.Errorf("creating master key: %w", err)
	}
	_, err = f.WriteString(hex.EncodeToString(k.b[:]) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close(), syncDir(filepath.Dir(path))); err != nil {
		// Half a key is worse than none: the next start would refuse it.
		_ = os.Remove(path)
		return Key{}, fmt.Errorf("creating master key: %w", err)
	}
	return k, nil
}

// LoadKey reads the file that CreateKey wrote. It refuses a file that anybody
// but its owner can read or write: a key that others had a chance to read
// protects nothing.
func LoadKey(path string) (Key, error) {
	return loadKey(path, 0o077)
}

func loadKey(path string, forbidden fs.FileMode) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	if !info.Mode().IsRegular() {
		return Key{}, fmt.Errorf("%w: %s is not a regular file", ErrKeyFile, path)
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return Key{}, fmt.Errorf("%w: others can read or write %s (mode %04o); run chmod 600 on it, and treat the key as known if others had the chance", ErrKeyFile, path, mode)
	}
	k, err := readKey(f)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %s %w", ErrKeyFile, path, err)
	}
	return k, nil
}

// KeyFromFD reads the key, in the same form, from a file descriptor that the
// parent process opened (a pipe or a file), to its end, and closes it.
func KeyFromFD(fd uintptr) (Key, error) {
	f := os.NewFile(fd, "master key")
	if f == nil {
		return Key{}, fmt.Errorf("%w: file descriptor %d is not open", ErrKeyFile, fd)
	}
	defer f.Close()
	k, err := readKey(f)
	if err != nil {
		return Key{}, fmt.Errorf("%w: file descriptor %d %w", ErrKeyFile, fd, err)
	}
	return k, nil
}

// KeyFromCredential reads the key from a systemd credential: the file name in
// the directory that $CREDENTIALS_DIRECTORY holds (systemd.exec(5),
// LoadCredential=). systemd guards that directory with an ACL, whose mask shows
// as group permission; so only permissions for all others are refused here.
func KeyFromCredential(name string) (Key, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return Key{}, fmt.Errorf("%w: $CREDENTIALS_DIRECTORY is not set; start the hub from a unit with LoadCredential=%.40s:PATH", ErrKeyFile, name)
	}
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return Key{}, fmt.Errorf("%w: %.40q is not the name of a credential", ErrKeyFile, name)
	}
	return loadKey(filepath.Join(dir, name), 0o007)
}

var errKeyForm = errors.New("does not hold a key: 64 hexadecimal digits and nothing else")

func readKey(r io.Reader) (Key, error) {
	text, err := io.ReadAll(io.LimitReader(r, 2*keySize+3))
	if err != nil {
		return Key{}, err
	}
	digits := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if len(digits) != 2*keySize {
		return Key{}, errKeyForm
	}
	var b [keySize]byte
	// hex.Decode's own error quotes the offending byte of the key.
	if _, err := hex.Decode(b[:], []byte(digits)); err != nil {
		return Key{}, errKeyForm
	}
	if b == [keySize]byte{} {
		return Key{}, errors.New("holds the all-zero key, which is no secret")
	}
	return Key{b: &b}, nil
}

// syncDir makes a creation, rename or removal in dir survive a power failure.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
