package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.zx2c4.com/wireguard/conn"
)

// plain moves one datagram per call. It is the only way on systems other than
// Linux and what runs over sockets that are not the kernel's.
type plain struct {
	b    *Bind
	pc   PacketConn
	eps  endpoints
	addr netip.AddrPort
}

func newPlain(b *Bind, pc PacketConn) *plain {
	p := &plain{b: b, pc: pc, eps: newEndpoints(b.cfg.Small)}
	if ua, ok := pc.LocalAddr().(*net.UDPAddr); ok {
		p.addr = ua.AddrPort()
	}
	return p
}

func (p *plain) recv(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	for {
		n, from, err := p.pc.ReadFromUDPAddrPort(bufs[0])
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return 0, net.ErrClosed
			}
			if transient(err) {
				p.b.count.recvErrors.Add(1)
				continue
			}
			return 0, fmt.Errorf("receiving: %w", err)
		}
		p.b.count.rx(1, n)
		way := pathOf(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
		if !p.b.admit(bufs[0][:n], &way) {
			continue
		}
		sizes[0], eps[0] = n, p.eps.get(&way, p.b.epoch.Load())
		return 1, nil
	}
}

func (p *plain) send(bufs [][]byte, ep *Endpoint) error {
	for _, buf := range bufs {
		if _, err := p.pc.WriteToUDPAddrPort(buf, ep.addr); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
	}
	return nil
}

func (p *plain) setMark(mark uint32) error { return setMark(p.pc, mark) }

func (p *plain) close() error { return p.pc.Close() }

func (p *plain) info() SocketStats {
	s := SocketStats{Addr: p.addr}
	s.ReadBuffer, s.WriteBuffer = bufferSizes(p.pc)
	return s
}

// scopeOf turns an IPv6 zone, a number or the name of an interface, into the
// number; 0 if there is none.
func scopeOf(zone string) uint32 {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(ifi.Index)
}
