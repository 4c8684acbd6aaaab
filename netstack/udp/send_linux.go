//go:build linux && !android

package udp

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// gsoSegments is the most datagrams in one super-datagram that every
	// kernel with UDP_SEGMENT takes.
	gsoSegments = 64
	// The most payload of a super-datagram: 16 bits less the headers that the
	// length counts.
	gsoBytes4 = 1<<16 - 1 - 20 - 8
	gsoBytes6 = 1<<16 - 1 - 8
)

// writer is the sending side of a socket, used by one goroutine at a time: the
// runtime lets only one write to a descriptor anyway. A super-datagram is a
// message of many I/O vectors: nothing is copied on our side of the kernel.
type writer struct {
	mu    sync.Mutex
	k     *kernel
	hdrs  []mmsghdr
	iovs  []unix.Iovec
	ctl   []controlBuf
	parts []int // datagrams in each message
	name  unix.RawSockaddrInet6

	fn    func(fd uintptr) bool
	first int
	count int
	n     int
	errno syscall.Errno
}

func newWriter(k *kernel) *writer {
	size := 128
	if k.b.cfg.Small {
		size = 64
	}
	w := &writer{
		k:    k,
		hdrs: make([]mmsghdr, size), iovs: make([]unix.Iovec, size),
		ctl: make([]controlBuf, size), parts: make([]int, size),
	}
	w.fn = func(fd uintptr) bool {
		for {
			w.n, w.errno = k.sendmmsg(fd, w.hdrs[w.first:w.count])
			if w.errno != syscall.EINTR {
				return w.errno != syscall.EAGAIN // false waits until writable
			}
		}
	}
	return w
}

func (k *kernel) send(bufs [][]byte, ep *Endpoint) error {
	w := k.out
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.forget()
	namelen := w.address(ep)
	gso := k.gso.Load()
	src, sticky := ep.source(k.epoch)
	for len(bufs) > 0 {
		taken := w.fill(bufs, namelen, gso)
		for i := range w.count {
			w.control(i, ep, src, sticky)
		}
		err := w.flush()
		if err == nil {
			bufs = bufs[taken:]
			continue
		}
		for _, n := range w.parts[:w.first] { // these went out
			bufs = bufs[n:]
		}
		switch {
		case err == net.ErrClosed:
			return err
		case w.parts[w.first] > 1 && gsoFault(w.errno):
			// EIO: the card cannot checksum, so it never will. The others: the
			// datagrams are too large for this path; they go out one by one,
			// in fragments.
			gso = false
			if w.errno == syscall.EIO && k.gso.Swap(false) {
				k.b.log.Warn("UDP GSO fails on this machine and is off now", "addr", k.addr)
			}
		case sticky && sourceFault(w.errno):
			// The address is not ours any more; the kernel knows a better one.
			ep.ClearSrc()
			sticky = false
		default:
			return fmt.Errorf("sending to %v: %w", ep.addr, w.errno)
		}
	}
	return nil
}

// forget lets go of the caller's buffers, which are 64 KiB each.
func (w *writer) forget() {
	for i := range w.iovs {
		if w.iovs[i].Base == nil {
			break
		}
		w.iovs[i].Base = nil
	}
}

func gsoFault(errno syscall.Errno) bool {
	return errno == syscall.EIO || errno == syscall.EINVAL || errno == syscall.EMSGSIZE || errno == syscall.EOPNOTSUPP
}

func sourceFault(errno syscall.Errno) bool {
	switch errno {
	case syscall.EINVAL, syscall.EADDRNOTAVAIL, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENODEV, syscall.ENXIO:
		return true
	}
	return false
}

// address writes ep's address into w.name and returns its length.
func (w *writer) address(ep *Endpoint) uint32 {
	if !ep.v6 {
		name := (*unix.RawSockaddrInet4)(unsafe.Pointer(&w.name))
		*name = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: htons(ep.port), Addr: [4]byte(ep.dst[12:])}
		return unix.SizeofSockaddrInet4
	}
	w.name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: htons(ep.port), Addr: ep.dst, Scope_id: ep.scope}
	return unix.SizeofSockaddrInet6
}

// fill makes messages of as many bufs as there is room for and returns how
// many. With gso, runs of one length become one message; the last of a run
// may be shorter.
func (w *writer) fill(bufs [][]byte, namelen uint32, gso bool) (taken int) {
	most := gsoBytes4
	if w.k.is6 {
		most = gsoBytes6
	}
	w.first, w.count = 0, 0
	for taken < len(bufs) && taken < len(w.iovs) {
		start, size, total := taken, len(bufs[taken]), 0
		for taken < len(bufs) && taken < len(w.iovs) {
			length := len(bufs[taken])
			if taken > start && (!gso || taken-start == gsoSegments || length > size || length == 0 || total+length > most) {
				break
			}
			w.iovs[taken].Base = unsafe.SliceData(bufs[taken])
			w.iovs[taken].SetLen(length)
			total += length
			taken++
			if length < size {
				break
			}
		}
		m := &w.hdrs[w.count]
		m.hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&w.name)), Namelen: namelen, Iov: &w.iovs[start]}
		m.hdr.SetIovlen(taken - start)
		w.parts[w.count] = taken - start
		w.count++
	}
	return taken
}

// control adds to message i the address to send from and, if it is many
// datagrams, their size.
func (w *writer) control(i int, ep *Endpoint, src [16]byte, sticky bool) {
	c, used := &w.ctl[i], 0
	switch {
	case sticky && !ep.v6:
		var info [unix.SizeofInet4Pktinfo]byte // in_pktinfo: index, spec_dst, addr
		copy(info[4:8], src[12:])
		used = putCmsg(c, used, unix.IPPROTO_IP, unix.IP_PKTINFO, info[:])
	case sticky:
		var info [unix.SizeofInet6Pktinfo]byte // in6_pktinfo: addr, index
		copy(info[:16], src[:])
		// The index matters to link-local addresses only; with it on others,
		// the route could not change any more.
		if src[0] == 0xfe && src[1]&0xc0 == 0x80 {
			binary.NativeEndian.PutUint32(info[16:], ep.scope)
		}
		used = putCmsg(c, used, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info[:])
	}
	if w.parts[i] > 1 {
		size := uint16(w.hdrs[i].hdr.Iov.Len)
		used = putCmsg(c, used, unix.SOL_UDP, unix.UDP_SEGMENT, (*[2]byte)(unsafe.Pointer(&size))[:])
	}
	w.hdrs[i].hdr.Control = nil
	if used > 0 {
		w.hdrs[i].hdr.Control = &c.bytes()[0]
	}
	w.hdrs[i].hdr.SetControllen(used)
}

// flush sends the messages. On an error other than net.ErrClosed, message
// w.first is the one that failed, with w.errno.
func (w *writer) flush() error {
	for w.first < w.count {
		if err := w.k.raw.Write(w.fn); err != nil {
			return net.ErrClosed
		}
		if w.errno != 0 {
			return w.errno
		}
		w.first += w.n
	}
	return nil
}
