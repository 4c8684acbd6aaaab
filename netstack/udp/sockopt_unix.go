//go:build unix && (!linux || android)

package udp

import "golang.org/x/sys/unix"

// prepare sets the options of a socket that is not bound yet. A socket with
// the system's buffers is slower, not wrong, so that is no error.
func (b *Bind) prepare(fd uintptr, v6 bool) error {
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, b.bufferSize())
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, b.bufferSize())
	if v6 {
		return unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	return nil
}

func bufferSizes(pc PacketConn) (read, write int) {
	_ = control(pc, func(fd uintptr) error {
		read, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		write, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
		return nil
	})
	return read, write
}
