//go:build linux && !android

package udp

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

func batchSize(cfg Config) int {
	switch {
	case cfg.ListenPacket != nil:
		return 1
	case cfg.Small:
		return 8
	}
	return conn.IdealBatchSize
}

// kernel is a socket of the Linux kernel, used through recvmmsg and sendmmsg
// directly: x/net's batches allocate an address for every datagram.
type kernel struct {
	b     *Bind
	conn  *net.UDPConn
	raw   syscall.RawConn
	addr  netip.AddrPort
	is6   bool
	epoch uint32
	gso   atomic.Bool
	gro   atomic.Bool

	in  reader
	out *writer

	// The system calls, so that tests can make the kernel fail.
	recvmmsg func(fd uintptr, hdrs []mmsghdr) (int, syscall.Errno)
	sendmmsg func(fd uintptr, hdrs []mmsghdr) (int, syscall.Errno)
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// control space for one message: a source address of either family and a
// segment size. uint64 gives it the alignment of struct cmsghdr.
type controlBuf [10]uint64

func (c *controlBuf) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(c)), len(c)*8)
}

func (b *Bind) listenKernel(network string, at netip.AddrPort) (transport, error) {
	uc, err := b.listenUDP(network, at)
	if err != nil {
		return nil, err
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		_ = uc.Close()
		return nil, fmt.Errorf("reaching the descriptor: %w", err)
	}
	k := &kernel{b: b, conn: uc, raw: raw, is6: network == "udp6", epoch: b.epoch.Load(),
		recvmmsg: recvmmsg, sendmmsg: sendmmsg}
	if ua, ok := uc.LocalAddr().(*net.UDPAddr); ok {
		k.addr = ua.AddrPort()
	}
	if !b.cfg.NoOffload {
		k.probe()
	}
	k.in.init(k)
	k.out = newWriter(k)
	b.log.Debug("opened UDP socket", "addr", k.addr, "gso", k.gso.Load(), "gro", k.gro.Load())
	return k, nil
}

// probe turns on what this kernel has. A kernel that cannot say whether GRO is
// on (before 5.12) has an early version of it, which we leave alone.
func (k *kernel) probe() {
	_ = k.raw.Control(func(fd uintptr) {
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		k.gso.Store(err == nil)
		if unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) != nil {
			return
		}
		on, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO)
		if err != nil || on != 1 {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 0)
			return
		}
		k.gro.Store(true)
	})
}

func (k *kernel) setMark(mark uint32) error { return setMark(k.conn, mark) }

func (k *kernel) close() error { return k.conn.Close() }

func (k *kernel) info() SocketStats {
	s := SocketStats{Addr: k.addr, GSO: k.gso.Load(), GRO: k.gro.Load()}
	s.ReadBuffer, s.WriteBuffer = bufferSizes(k.conn)
	return s
}

func recvmmsg(fd uintptr, hdrs []mmsghdr) (int, syscall.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&hdrs[0])), uintptr(len(hdrs)), 0, 0, 0)
	return int(n), errno
}

func sendmmsg(fd uintptr, hdrs []mmsghdr) (int, syscall.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&hdrs[0])), uintptr(len(hdrs)), 0, 0, 0)
	return int(n), errno
}

// putCmsg appends one control message to c, whose first used bytes are taken,
// and returns how many are taken then.
func putCmsg(c *controlBuf, used int, level, kind int32, data []byte) int {
	b := c.bytes()[used:]
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
	return used + unix.CmsgSpace(len(data))
}

// ntohs turns the two bytes of v, as they lie in memory, from network order.
func ntohs(v *uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(v))
	return uint16(b[0])<<8 | uint16(b[1])
}

func htons(v uint16) (n uint16) {
	b := (*[2]byte)(unsafe.Pointer(&n))
	b[0], b[1] = byte(v>>8), byte(v)
	return n
}
