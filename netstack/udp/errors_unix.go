//go:build unix

package udp

import (
	"errors"
	"syscall"
)

// transient reports whether the next datagram may fare better: the socket is
// well, but an ICMP error came for an earlier datagram, or memory was short.
func transient(err error) bool {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return false
	}
	switch no {
	case syscall.EINTR, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN,
		syscall.EHOSTDOWN, syscall.EMSGSIZE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPROTO, syscall.ENOPROTOOPT:
		return true
	}
	return false
}
