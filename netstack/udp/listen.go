package udp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Socket buffers, in bytes. 7 MiB is what macOS grants at most by default and
// holds 25 ms of 2 Gbit/s; a small machine receives far less than it could
// drain from 256 KiB.
const (
	bufferLarge = 7 << 20
	bufferSmall = 256 << 10
)

func (b *Bind) bufferSize() int {
	if b.cfg.Small {
		return bufferSmall
	}
	return bufferLarge
}

// listenUDP opens the kernel's socket with options set before it is bound.
func (b *Bind) listenUDP(network string, at netip.AddrPort) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			err = b.prepare(fd, network == "udp6")
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	pc, err := lc.ListenPacket(context.Background(), network, at.String())
	if err != nil {
		return nil, err
	}
	uc, ok := pc.(*net.UDPConn)
	if !ok {
		_ = pc.Close()
		return nil, fmt.Errorf("opening %s: not a UDP socket", network)
	}
	return uc, nil
}

// control runs f on the descriptor of a socket that has one.
func control(pc PacketConn, f func(fd uintptr) error) error {
	sc, ok := pc.(syscall.Conn)
	if !ok {
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = f(fd) }); err != nil {
		return err
	}
	return ferr
}
