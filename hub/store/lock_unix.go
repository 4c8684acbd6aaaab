//go:build unix

package store

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile keeps a second process away from a SQLCipher file. SQLite would let
// it in, but two hubs on one store would hand out what the other believes it
// holds. The kernel drops the lock when the process ends, however it ends.
type lockFile struct{ f *os.File }

func takeLock(path string) (*lockFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("taking lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("taking lock: %w", err)
	}
	return &lockFile{f}, nil
}

// release gives the lock back. The file stays: removing it would let two
// processes hold locks on two files of the same name.
func (l *lockFile) release() error {
	if l == nil {
		return nil
	}
	// Unlock and not only close: a process that is being forked off this
	// moment shares the open file until it execs.
	return errors.Join(unix.Flock(int(l.f.Fd()), unix.LOCK_UN), l.f.Close())
}
