//go:build linux && !android

package udp

import (
	"net/netip"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
)

// FailGSO makes b's IPv4 socket fail super-datagrams with errno from now on,
// after the first after messages went out.
func FailGSO(b *Bind, errno syscall.Errno, after int) {
	k := (*b.v4.sock.Load()).(*kernel)
	k.sendmmsg = func(fd uintptr, hdrs []mmsghdr) (int, syscall.Errno) {
		if after > 0 {
			after--
			return sendmmsg(fd, hdrs[:1])
		}
		for i := range hdrs {
			if hdrs[i].hdr.Iovlen > 1 {
				if i > 0 {
					return sendmmsg(fd, hdrs[:i])
				}
				return 0, errno
			}
		}
		return sendmmsg(fd, hdrs)
	}
}

// FailGRO makes b's IPv4 socket fail the first read with errno. Call it
// before anything is received.
func FailGRO(b *Bind, errno syscall.Errno) {
	k := (*b.v4.sock.Load()).(*kernel)
	failed := false
	k.recvmmsg = func(fd uintptr, hdrs []mmsghdr) (int, syscall.Errno) {
		if !failed {
			failed = true
			return 0, errno
		}
		return recvmmsg(fd, hdrs)
	}
}

// WithSource is an endpoint that was learned with that source.
func WithSource(b *Bind, to netip.AddrPort, src netip.Addr) conn.Endpoint {
	p := pathOf(to)
	p.src = src.As16()
	return &Endpoint{path: p, addr: to, epoch: b.epoch.Load()}
}
