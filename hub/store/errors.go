package store

import (
	"errors"

	"github.com/warrenmesh/warren/peer/account"
)

// The errors that callers tell apart with errors.Is. Each is a sentence for
// the person at the hub; none ever holds a key, a password or a DSN.
var (
	// ErrNotFound: there is no such row. This and the next three are package
	// account's own, so that its users need not know this package.
	ErrNotFound = account.ErrNotFound
	// ErrConflict: somebody else changed it first, or it is not in a state that allows the change.
	ErrConflict = account.ErrConflict
	// ErrExists: the name, key or store is taken.
	ErrExists = account.ErrExists
	// ErrInvalid: the value is refused; nothing was changed.
	ErrInvalid = account.ErrInvalid
	// ErrFull: no address is left in the range.
	ErrFull = errors.New("no address is free")
	// ErrInviteSpent: the invite was used by another key, has expired, was
	// revoked or never was. One answer for all, so that it tells a stranger nothing.
	ErrInviteSpent = errors.New("the invite is not valid any more; ask for a new one")

	// ErrWrongKey: the store is sound as far as can be told, the key is another one's.
	ErrWrongKey = errors.New("the store was made with another master key; nothing was changed, bring the key file that belongs to it")
	// ErrPlaintext: the file is a database without encryption.
	ErrPlaintext = errors.New("the store is a database without encryption, which Warren never writes; nothing was changed, move the file away and restore a backup")
	// ErrCorrupt: the key is right and the content is damaged.
	ErrCorrupt = errors.New("the store is damaged; nothing was changed, keep the file and restore the last backup")
	// ErrNewer: a later version of Warren wrote it.
	ErrNewer = errors.New("the store was written by a newer version of Warren; nothing was changed, install that version or restore a backup from before the upgrade")
	// ErrLocked: another process has it open.
	ErrLocked = errors.New("the store is in use by another process; stop the other hub first")
	// ErrUnavailable: the PostgreSQL server cannot be reached or did not answer in time.
	ErrUnavailable = errors.New("the database does not answer; check that the PostgreSQL server runs and is reachable")
	// ErrDSN: the PostgreSQL address cannot be read. It may hold a password, so it is never quoted.
	ErrDSN = errors.New("the PostgreSQL address cannot be read; it looks like postgres://USER:PASSWORD@HOST:5432/DATABASE")
	// ErrStorage: the disk is full or failing; the change was not made.
	ErrStorage = errors.New("the disk is full or failing; the change was not made, free some space and try again")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("the store is closed")
	// ErrKeyFile: the master key cannot be taken from where it was said to be.
	ErrKeyFile = errors.New("the master key cannot be used")
	// ErrBackup: the backup is truncated, altered or not a backup; nothing was restored.
	ErrBackup = errors.New("the backup cannot be restored; nothing was changed")
)
