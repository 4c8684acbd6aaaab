package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	backlog      = 4096 // connections that wait to be accepted
	backlogSmall = 64
)

// ready reports why the stack's own sockets cannot be used.
func (s *Stack) ready() error {
	if s.net == nil {
		return errKernel
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	return nil
}

// Listen accepts TCP connections to one of this node's addresses. Port 0 is any
// port. The policy decides who gets through.
func (s *Stack) Listen(addr netip.AddrPort) (net.Listener, error) {
	if err := s.ready(); err != nil {
		return nil, opError("listen", "tcp", addr, netip.AddrPort{}, err)
	}
	wq := new(waiter.Queue)
	ep, err := s.bound(tcp.ProtocolNumber, wq, addr)
	if err != nil {
		return nil, opError("listen", "tcp", addr, netip.AddrPort{}, err)
	}
	n := backlog
	if s.small {
		n = backlogSmall
	}
	if err := fail(ep.Listen(n)); err != nil {
		ep.Close()
		return nil, opError("listen", "tcp", addr, netip.AddrPort{}, err)
	}
	local, _ := ep.GetLocalAddress()
	l := &listener{stack: s, ep: ep, wq: wq, addr: addrPort(local), closing: make(chan struct{})}
	if !s.conns.add(l) {
		ep.Close()
		return nil, opError("listen", "tcp", addr, netip.AddrPort{}, ErrClosed)
	}
	return l, nil
}

// ListenPacket receives UDP datagrams for one of this node's addresses. Port 0
// is any port.
func (s *Stack) ListenPacket(addr netip.AddrPort) (net.PacketConn, error) {
	c, err := s.listenPacket(addr)
	if err != nil {
		return nil, opError("listen", "udp", addr, netip.AddrPort{}, err)
	}
	return c, nil
}

func (s *Stack) listenPacket(addr netip.AddrPort) (*packetConn, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	wq := new(waiter.Queue)
	ep, err := s.bound(udp.ProtocolNumber, wq, addr)
	if err != nil {
		return nil, err
	}
	return s.newPacketConn(ep, wq, netip.AddrPort{})
}

// bound makes an endpoint on one of our own addresses.
func (s *Stack) bound(proto tcpip.TransportProtocolNumber, wq *waiter.Queue, addr netip.AddrPort) (tcpip.Endpoint, error) {
	if !addr.Addr().IsValid() || addr.Addr().Is4In6() || !s.isOwn(addr.Addr()) {
		return nil, fmt.Errorf("%v is not an address of this node", addr.Addr())
	}
	ep, terr := s.net.NewEndpoint(proto, protocolOf(addr.Addr()), wq)
	if terr != nil {
		return nil, fail(terr)
	}
	if err := fail(ep.Bind(fullAddress(addr))); err != nil {
		ep.Close()
		return nil, err
	}
	return ep, nil
}

// Dial connects to a machine or service on the mesh. network is tcp, tcp4,
// tcp6, udp, udp4 or udp6. src is the address to come from; the zero Addr is
// this node's first of dst's family. What the policy does not allow fails at
// once, as a closed port would.
func (s *Stack) Dial(ctx context.Context, network string, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	kind := strings.TrimRight(network, "46")
	c, err := s.dial(ctx, network, kind, src, dst)
	if err != nil {
		return nil, opError("dial", kind, netip.AddrPort{}, dst, err)
	}
	return c, nil
}

func (s *Stack) dial(ctx context.Context, network, kind string, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	switch {
	case !dst.IsValid() || dst.Port() == 0 || dst.Addr().Zone() != "":
		return nil, fmt.Errorf("%v is not an address and port", dst)
	case network == kind+"4" && !dst.Addr().Is4(), network == kind+"6" && !dst.Addr().Is6():
		return nil, fmt.Errorf("%v is not of the network %q", dst.Addr(), network)
	case kind != "tcp" && kind != "udp":
		return nil, net.UnknownNetworkError(network)
	}
	src, err := s.source(src, dst.Addr())
	if err != nil {
		return nil, err
	}
	if kind == "udp" {
		return s.dialUDP(src, dst)
	}
	return s.dialTCP(ctx, src, dst)
}

// source picks the address to come from.
func (s *Stack) source(src, dst netip.Addr) (netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.addresses {
		if a == src || !src.IsValid() && a.Is4() == dst.Is4() {
			return a, nil
		}
	}
	if src.IsValid() {
		return src, fmt.Errorf("%v is not an address of this node", src)
	}
	return src, fmt.Errorf("this node has no address of the family of %v", dst)
}

func (s *Stack) dialTCP(ctx context.Context, src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	wq := new(waiter.Queue)
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	ep, err := s.bound(tcp.ProtocolNumber, wq, netip.AddrPortFrom(src, 0))
	if err != nil {
		return nil, err
	}
	d := &dialing{ep: ep, failed: make(chan struct{})}
	if !s.conns.add(d) {
		ep.Close()
		return nil, ErrClosed
	}
	defer s.conns.remove(d)
	terr := ep.Connect(fullAddress(dst))
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ready:
		case <-d.failed:
			return nil, ErrClosed
		case <-ctx.Done():
			d.end(ctx.Err())
			return nil, ctx.Err()
		}
		terr = ep.LastError()
	}
	if terr != nil {
		d.end(nil)
		return nil, fail(terr)
	}
	if !d.release() {
		return nil, ErrClosed
	}
	c, err := s.newConn(ep, wq)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// dialing is a connection that is not yet established.
type dialing struct {
	ep     tcpip.Endpoint
	once   sync.Once
	failed chan struct{}
}

// end implements handle.
func (d *dialing) end(error) {
	d.once.Do(func() {
		close(d.failed)
		d.ep.Close()
	})
}

// release hands the endpoint over; it reports false if end was first.
func (d *dialing) release() bool {
	ok := false
	d.once.Do(func() { ok = true })
	return ok
}

func (s *Stack) dialUDP(src netip.Addr, dst netip.AddrPort) (net.Conn, error) {
	wq := new(waiter.Queue)
	ep, err := s.bound(udp.ProtocolNumber, wq, netip.AddrPortFrom(src, 0))
	if err != nil {
		return nil, err
	}
	if err := fail(ep.Connect(fullAddress(dst))); err != nil {
		ep.Close()
		return nil, err
	}
	c, err := s.newPacketConn(ep, wq, dst)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// listener accepts TCP connections.
type listener struct {
	stack   *Stack
	ep      tcpip.Endpoint
	wq      *waiter.Queue
	addr    netip.AddrPort
	once    sync.Once
	closing chan struct{}
}

// Accept implements net.Listener. Connections that the policy has come to deny
// while they waited are reset and never seen.
func (l *listener) Accept() (net.Conn, error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	l.wq.EventRegister(&entry)
	defer l.wq.EventUnregister(&entry)
	for {
		select {
		case <-l.closing:
			return nil, opError("accept", "tcp", l.addr, netip.AddrPort{}, net.ErrClosed)
		default:
		}
		ep, wq, terr := l.ep.Accept(nil)
		if _, wait := terr.(*tcpip.ErrWouldBlock); wait {
			select {
			case <-ready:
			case <-l.closing:
			}
			continue
		}
		if terr != nil {
			return nil, opError("accept", "tcp", l.addr, netip.AddrPort{}, fail(terr))
		}
		c, err := l.stack.newConn(ep, wq)
		if err == nil {
			return c, nil
		}
		if errors.Is(err, ErrClosed) {
			return nil, opError("accept", "tcp", l.addr, netip.AddrPort{}, err)
		}
	}
}

// end implements handle.
func (l *listener) end(error) {
	l.once.Do(func() {
		close(l.closing)
		l.ep.Close()
	})
}

// Close implements net.Listener. Accepted connections stay.
func (l *listener) Close() error {
	l.stack.conns.remove(l)
	l.end(nil)
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }
