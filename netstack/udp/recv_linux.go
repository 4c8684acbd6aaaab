//go:build linux && !android

package udp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// slabSize holds the largest super-datagram.
const slabSize = 1 << 16

// reader is the receiving side of a socket, used by one goroutine.
//
// With GRO, one message can be up to 64 datagrams of one size in a row. They
// are read into slabs of our own and each datagram is copied once, to the
// buffer it is wanted in; what does not fit stays in the slab for the next
// call, so the caller's batch may be smaller than a super-datagram. Reading
// into the caller's first buffer instead would save that copy for one datagram
// in dozens and touch all 64 KiB of it. Without GRO the caller's buffers are
// read into directly.
type reader struct {
	hdrs  []mmsghdr
	iovs  []unix.Iovec
	names []unix.RawSockaddrInet6 // large enough for IPv4's
	ctl   []controlBuf
	slabs []byte
	eps   endpoints

	got, at, off int // messages read, the one being taken apart, how far
	way          path
	seg          int

	fn    func(fd uintptr) bool // made once: a closure a call would allocate
	vlen  int
	n     int
	errno syscall.Errno
}

func (r *reader) init(k *kernel) {
	size := k.b.batch
	r.hdrs = make([]mmsghdr, size)
	r.iovs = make([]unix.Iovec, size)
	r.names = make([]unix.RawSockaddrInet6, size)
	r.ctl = make([]controlBuf, size)
	r.eps = newEndpoints(k.b.cfg.Small)
	if k.gro.Load() {
		n := 16
		if k.b.cfg.Small {
			n = 2
		}
		r.slabs = make([]byte, n*slabSize)
	}
	for i := range r.hdrs {
		r.hdrs[i].hdr.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		r.hdrs[i].hdr.Iov = &r.iovs[i]
		r.hdrs[i].hdr.SetIovlen(1)
		r.hdrs[i].hdr.Control = &r.ctl[i].bytes()[0]
	}
	r.fn = func(fd uintptr) bool {
		for {
			r.n, r.errno = k.recvmmsg(fd, r.hdrs[:r.vlen])
			if r.errno != syscall.EINTR {
				return r.errno != syscall.EAGAIN // false waits until readable
			}
		}
	}
}

func (k *kernel) recv(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	r := &k.in
	for {
		coalesced := k.gro.Load()
		if r.at == r.got {
			if err := k.read(bufs, coalesced); err != nil {
				return 0, err
			}
		}
		var n int
		if coalesced {
			n = k.split(bufs, sizes, eps)
		} else {
			n = k.direct(bufs, sizes, eps)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// read fills the slabs or bufs with at least one message.
func (k *kernel) read(bufs [][]byte, coalesced bool) error {
	r := &k.in
	r.got, r.at, r.off = 0, 0, 0
	r.vlen = min(len(bufs), len(r.hdrs))
	if coalesced {
		r.vlen = len(r.slabs) / slabSize
	}
	for i := range r.vlen {
		r.hdrs[i].hdr.Namelen = uint32(unsafe.Sizeof(r.names[i]))
		r.hdrs[i].hdr.SetControllen(len(r.ctl[i]) * 8)
		var to []byte
		if coalesced {
			to = r.slabs[i*slabSize : (i+1)*slabSize]
		} else {
			to = bufs[i]
		}
		r.iovs[i].Base = unsafe.SliceData(to)
		r.iovs[i].SetLen(len(to))
	}
	if err := k.raw.Read(r.fn); err != nil {
		return net.ErrClosed
	}
	switch {
	case r.errno == 0:
		r.got = r.n
		return nil
	case coalesced && r.errno == syscall.EIO:
		k.stopGRO()
		return nil
	case transient(r.errno):
		k.b.count.recvErrors.Add(1)
		return nil
	}
	return fmt.Errorf("receiving on %v: %w", k.addr, r.errno)
}

// stopGRO falls back to single datagrams for good.
func (k *kernel) stopGRO() {
	k.gro.Store(false)
	_ = k.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 0)
	})
	k.in.slabs = nil
	k.b.log.Warn("UDP GRO fails on this machine and is off now", "addr", k.addr)
}

// split hands out datagrams from the slabs until they or bufs are used up.
func (k *kernel) split(bufs [][]byte, sizes []int, eps []conn.Endpoint) (n int) {
	r := &k.in
	for ; r.at < r.got; r.at, r.off = r.at+1, 0 {
		total := int(r.hdrs[r.at].n)
		if n == len(bufs) {
			return n
		}
		if r.off == 0 {
			if !k.open(r.at) {
				continue
			}
			k.b.count.rx(max(1, (total+r.seg-1)/r.seg), total)
		}
		if total == 0 {
			k.b.count.size.Add(1) // an empty datagram; it has no piece below
		}
		slab := r.slabs[r.at*slabSize:]
		for r.off < total {
			if n == len(bufs) {
				return n
			}
			data := slab[r.off:min(r.off+r.seg, total)]
			r.off += len(data)
			if len(data) > len(bufs[n]) {
				k.b.count.truncated.Add(1)
				continue
			}
			if !k.b.admit(data, &r.way) {
				continue
			}
			sizes[n] = copy(bufs[n], data)
			eps[n] = r.eps.get(&r.way, k.epoch)
			n++
		}
	}
	return n
}

// direct judges the datagrams that lie in bufs already. A dropped one leaves a
// size of 0; the result is 0 if all were dropped.
func (k *kernel) direct(bufs [][]byte, sizes []int, eps []conn.Endpoint) int {
	r := &k.in
	passed, got := 0, r.got
	for i := range got {
		size := int(r.hdrs[i].n)
		sizes[i], eps[i] = 0, nil
		ok := k.open(i)
		k.b.count.rx(1, size)
		if ok && k.b.admit(bufs[i][:min(size, len(bufs[i]))], &r.way) {
			sizes[i], eps[i] = size, r.eps.get(&r.way, k.epoch)
			passed++
		}
	}
	r.at = r.got
	if passed == 0 {
		return 0
	}
	return got
}

// open reads where message i came from and in what pieces. It refuses what
// the kernel had to cut.
func (k *kernel) open(i int) bool {
	r := &k.in
	h := &r.hdrs[i].hdr
	if h.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		k.b.count.truncated.Add(1)
		return false
	}
	r.way = path{v6: k.is6}
	if k.is6 {
		name := &r.names[i]
		r.way.dst, r.way.port, r.way.scope = name.Addr, ntohs(&name.Port), name.Scope_id
	} else {
		name := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.names[i]))
		r.way.dst, r.way.port = netip.AddrFrom4(name.Addr).As16(), ntohs(&name.Port)
	}
	r.seg = max(int(r.hdrs[i].n), 1)
	r.control(r.ctl[i].bytes()[:min(int(h.Controllen), len(r.ctl[i])*8)])
	return true
}

// control takes our own address and the segment size from the control
// messages b. They come from the kernel; what does not fit ends the reading.
func (r *reader) control(b []byte) {
	for len(b) >= unix.CmsgLen(0) {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		size := int(h.Len)
		if size < unix.CmsgLen(0) || size > len(b) {
			return
		}
		data := b[unix.CmsgLen(0):size]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			// Spec_dst is the address to answer from, also for a broadcast.
			r.way.src = netip.AddrFrom4([4]byte(data[4:8])).As16()
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			if data[0] != 0xff { // a multicast group is no address to answer from
				r.way.src = [16]byte(data[:16])
			}
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			if seg := int(binary.NativeEndian.Uint32(data)); seg > 0 {
				r.seg = seg
			}
		}
		next := unix.CmsgSpace(size - unix.CmsgLen(0))
		if next >= len(b) {
			return
		}
		b = b[next:]
	}
}
