//go:build linux && !android

package udp

import "golang.org/x/sys/unix"

// prepare sets the options of a socket that is not bound yet. Only what
// changes who we are or whom we hear is required to work.
func (b *Bind) prepare(ufd uintptr, v6 bool) error {
	fd := int(ufd)
	for _, o := range [2][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		// Beyond net.core.[rw]mem_max only with CAP_NET_ADMIN, up to it without.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], b.bufferSize()) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], b.bufferSize())
		}
	}
	if !v6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
}

// bufferSizes asks for what was granted. Linux counts its own bookkeeping and
// so reports twice the payload.
func bufferSizes(pc PacketConn) (read, write int) {
	_ = control(pc, func(fd uintptr) error {
		read, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		write, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
		return nil
	})
	return read / 2, write / 2
}

func setMark(pc PacketConn, mark uint32) error {
	return control(pc, func(fd uintptr) error {
		return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	})
}
