package udp

import (
	"errors"

	"golang.org/x/sys/windows"
)

// prepare sets the options of a socket that is not bound yet. A socket with
// the system's buffers is slower, not wrong, so that is no error.
func (b *Bind) prepare(fd uintptr, _ bool) error {
	h := windows.Handle(fd)
	_ = windows.SetsockoptInt(h, windows.SOL_SOCKET, windows.SO_RCVBUF, b.bufferSize())
	_ = windows.SetsockoptInt(h, windows.SOL_SOCKET, windows.SO_SNDBUF, b.bufferSize())
	return nil // a "udp6" socket is IPv6 only by default
}

func bufferSizes(pc PacketConn) (read, write int) {
	_ = control(pc, func(fd uintptr) error {
		read, _ = windows.GetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_RCVBUF)
		write, _ = windows.GetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_SNDBUF)
		return nil
	})
	return read, write
}

// transient reports whether the next datagram may fare better: the socket is
// well, this datagram was too large or an earlier one was refused.
func transient(err error) bool {
	return errors.Is(err, windows.WSAEMSGSIZE) || errors.Is(err, windows.WSAECONNRESET) ||
		errors.Is(err, windows.WSAENETRESET)
}
