package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Listen opens the control socket in dir. A socket that a dead hub left behind
// is replaced; one that somebody answers on is not. The caller holds the
// store's lock, so two hubs cannot race here.
//
// Only connections of the hub's own user and of root are handed out; others
// are closed at once.
func Listen(dir string) (net.Listener, error) {
	path := filepath.Join(dir, Socket)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("opening control socket: %s is longer than the %d bytes a Unix socket may have; choose a shorter --dir", path, maxSocketPath)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, errors.New("opening control socket: a hub is already running in this directory; stop it first")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing a stale control socket: %w", err)
	}
	// The directory is 0700 already; the mode is set again on the socket so
	// that a directory somebody opened up does not open the hub.
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("protecting state directory: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("opening control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("protecting control socket: %w", err)
	}
	return &ownerListener{Listener: ln}, nil
}

// maxSocketPath is sun_path less its terminating zero (unix(7)).
const maxSocketPath = 107

// ownerListener drops connections of other users.
type ownerListener struct{ net.Listener }

func (l *ownerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(c)
		if err == nil && (uid == os.Getuid() || uid == 0) {
			return &Conn{Conn: c, UID: uid}, nil
		}
		c.Close()
	}
}

// Conn is a control connection whose user the kernel vouched for.
type Conn struct {
	net.Conn
	UID int
}
