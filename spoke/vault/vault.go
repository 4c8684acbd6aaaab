// Package vault keeps what a spoke must not forget: its WireGuard key, who it
// is on the mesh, its settings and the names it serves. It is a small table of
// names and values, encrypted under K1, a key made at the spoke's first start
// and kept in a file that only its owner can read. K1 never leaves the device
// and nothing but the vault uses it.
//
// Builds with cgo keep the table in a SQLCipher file, builds without it in one
// sealed file that is replaced as a whole. Both are behind the same type and
// hold the same data; a build with cgo opens either. A change that was
// acknowledged survives a crash and the loss of power, and a crash in the middle
// leaves the old values.
//
// A vault is for little: a few hundred values. It protects a copied file, a
// backup or a discarded card on which the key file is not; it does not protect
// against somebody who can read the spoke's files as its own user.
package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// The errors that callers tell apart with errors.Is. None ever holds a value.
var (
	// ErrNotFound: there is no such value, or no vault.
	ErrNotFound = errors.New("there is none")
	// ErrExists: there is a vault already.
	ErrExists = errors.New("there is a vault already")
	// ErrInvalid: a name or value that cannot be kept.
	ErrInvalid = errors.New("it cannot be kept in the vault")
	// ErrLocked: another process has it open.
	ErrLocked = errors.New("the vault is in use by another process; stop the other spoke first")
	// ErrKey: the key file is missing, unsafe or not a key.
	ErrKey = errors.New("the vault's key cannot be used")
	// ErrWrongKey: the vault was made with another K1.
	ErrWrongKey = errors.New("the vault was made with another key; nothing was changed, bring the key file that belongs to it or join again in a new directory")
	// ErrPlaintext: the file is not encrypted.
	ErrPlaintext = errors.New("the vault is a file without encryption, which Warren never writes; nothing was changed, move it away and join again")
	// ErrCorrupt: the key is right and the content is damaged.
	ErrCorrupt = errors.New("the vault is damaged; nothing was changed, move it away and join again")
	// ErrNewer: a later version wrote it.
	ErrNewer = errors.New("the vault was written by a newer version of Warren; nothing was changed, install that version")
	// ErrStorage: the disk is full or failing.
	ErrStorage = errors.New("the disk is full or failing; the change was not made, free some space and try again")
	// ErrClosed: the vault was closed.
	ErrClosed = errors.New("the vault is closed")
)

// Limits of what is kept.
const (
	MaxName  = 200     // bytes of a name
	MaxValue = 1 << 20 // bytes of a value
	MaxVault = 8 << 20 // bytes of all names and values in a sealed file
)

// The files of a vault, in its directory.
const (
	keyFile    = "vault.key"
	lockFile   = "vault.lock"
	dbFile     = "vault.db"     // SQLCipher
	sealedFile = "vault.sealed" // without cgo
)

// form is one way to keep the table. The vault calls it from one goroutine at
// a time. There are two; which one a vault has is decided when it is made.
type form interface {
	// get returns a value, ErrNotFound if there is none.
	get(name string) ([]byte, error)
	// names returns all names in any order.
	names() ([]string, error)
	// apply makes all changes or none; a nil value removes its name. When it
	// returns nil they are on the disk.
	apply(changes map[string][]byte) error
	close() error
}

// maker creates or opens one form at a path.
type maker struct {
	file   string
	create func(path string, k key) error
	open   func(path string, k key) (form, error)
}

// Vault is an open vault. Any number of goroutines may use it.
type Vault struct {
	mu   sync.Mutex
	form form // nil once closed
	lock *lock
}

// Create makes a new, empty vault in dir, which is made if need be, and opens
// it. A key that is there from an earlier, interrupted start is used; a vault
// that is there is ErrExists.
func Create(dir string) (*Vault, error) { return create(dir, makers()[0]) }

func create(dir string, m maker) (*Vault, error) {
	fail := func(err error) (*Vault, error) { return nil, fmt.Errorf("creating vault: %w", err) }
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	l, err := takeLock(filepath.Join(dir, lockFile))
	if err != nil {
		return fail(err)
	}
	v, err := func() (*Vault, error) {
		if old, err := find(dir); err == nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, old), ErrExists)
		} else if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		k, err := makeKey(filepath.Join(dir, keyFile))
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, m.file)
		if err := m.create(path, k); err != nil {
			return nil, err
		}
		f, err := m.open(path, k)
		return &Vault{form: f, lock: l}, err
	}()
	if err != nil {
		return fail(errors.Join(err, l.release()))
	}
	return v, nil
}

// Open opens the vault in dir. It changes nothing when it fails: ErrNotFound,
// ErrKey, ErrWrongKey, ErrPlaintext, ErrCorrupt, ErrNewer and ErrLocked say why.
func Open(dir string) (*Vault, error) {
	fail := func(err error) (*Vault, error) { return nil, fmt.Errorf("opening vault: %w", err) }
	file, err := find(dir)
	if err != nil {
		return fail(err)
	}
	l, err := takeLock(filepath.Join(dir, lockFile))
	if err != nil {
		return fail(err)
	}
	k, err := loadKey(filepath.Join(dir, keyFile))
	if err != nil {
		return fail(errors.Join(err, l.release()))
	}
	for _, m := range makers() {
		if m.file != file {
			continue
		}
		f, err := m.open(filepath.Join(dir, file), k)
		if err != nil {
			return fail(errors.Join(err, l.release()))
		}
		return &Vault{form: f, lock: l}, nil
	}
	return fail(errors.Join(fmt.Errorf("%s was made by a build with SQLCipher, which this one is not; use that build, or join again in a new directory: %w",
		filepath.Join(dir, file), ErrInvalid), l.release()))
}

// find says which form of vault is in dir.
func find(dir string) (string, error) {
	for _, file := range []string{dbFile, sealedFile} {
		_, err := os.Lstat(filepath.Join(dir, file))
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("no vault in %s: %w", dir, ErrNotFound)
}

// Get returns a value, ErrNotFound if there is none. The slice is the caller's.
func (v *Vault) Get(name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("reading from vault: %w", ErrNotFound)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.form == nil {
		return nil, ErrClosed
	}
	value, err := v.form.get(name)
	if err != nil {
		return nil, fmt.Errorf("reading %s from vault: %w", name, err)
	}
	return value, nil
}

// Put keeps a value under a name: 1 to MaxName printable ASCII characters, no
// blanks. An empty value is a value.
func (v *Vault) Put(name string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	return v.Apply(map[string][]byte{name: value})
}

// Delete removes a value; one that is not there is no error.
func (v *Vault) Delete(name string) error { return v.Apply(map[string][]byte{name: nil}) }

// Apply makes several changes at once: after a crash all of them are there, or
// none. A nil value removes its name.
func (v *Vault) Apply(changes map[string][]byte) error {
	for name, value := range changes {
		if err := checkName(name); err != nil {
			return fmt.Errorf("writing to vault: %w", err)
		}
		if len(value) > MaxValue {
			return fmt.Errorf("writing %s to vault: %w: it is %d bytes, the most is %d", name, ErrInvalid, len(value), MaxValue)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.form == nil {
		return ErrClosed
	}
	if err := v.form.apply(changes); err != nil {
		return fmt.Errorf("writing to vault: %w", err)
	}
	return nil
}

// Names returns the names that begin with prefix, sorted.
func (v *Vault) Names(prefix string) ([]string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.form == nil {
		return nil, ErrClosed
	}
	names, err := v.form.names()
	if err != nil {
		return nil, fmt.Errorf("listing vault: %w", err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, prefix) })
	slices.Sort(names)
	return names, nil
}

// Close closes the vault. It may be called more than once.
func (v *Vault) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.form == nil {
		return nil
	}
	err := errors.Join(v.form.close(), v.lock.release())
	v.form = nil
	if err != nil {
		return fmt.Errorf("closing vault: %w", err)
	}
	return nil
}

func checkName(name string) error {
	if name == "" || len(name) > MaxName || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%w: %.40q cannot be the name of a value", ErrInvalid, name)
	}
	return nil
}
