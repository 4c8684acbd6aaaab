package netstack

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/waiter"
)

// ErrRevoked is wrapped by every error of a connection that a change of policy
// has ended. To code that does not know it, it is a connection reset.
var ErrRevoked = errors.New("the access policy no longer allows this connection")

var errRevoked = fmt.Errorf("%w: %w", ErrRevoked, syscall.ECONNRESET)

// A connection to a machine that vanished ends after about 4 minutes, accepted
// or dialled: an idle one by these probes, one with data in the air by the
// limits in tune. A peer that answers may keep its window closed for as long as
// it likes; how long a writer waits then is the writer's to say.
const (
	keepaliveIdle     = 2 * time.Minute  // silence before the first probe
	keepaliveInterval = 30 * time.Second // between probes
	keepaliveCount    = 4                // unanswered probes that end it
)

// tcpConn is a TCP connection.
type tcpConn struct {
	*gonet.TCPConn
	ep      tcpip.Endpoint
	stack   *Stack
	t       tuple
	ended   atomic.Pointer[error]
	broken  atomic.Pointer[error] // the first error that was for good
	closing atomic.Bool
}

// newConn wraps an established connection, or refuses it if the policy has
// changed since its packets were judged.
func (s *Stack) newConn(ep tcpip.Endpoint, wq *waiter.Queue) (*tcpConn, error) {
	local, err1 := ep.GetLocalAddress()
	remote, err2 := ep.GetRemoteAddress()
	if err1 != nil || err2 != nil {
		ep.Close()
		return nil, syscall.ECONNABORTED
	}
	ep.SocketOptions().SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveInterval)
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
	c := &tcpConn{TCPConn: gonet.NewTCPConn(wq, ep), ep: ep, stack: s, t: tuple{addrPort(local), addrPort(remote)}}
	if !s.conns.add(c) {
		ep.Abort()
		return nil, ErrClosed
	}
	// Only now: SetFilter either finds it registered, or was before this.
	if s.denied(c.t, true) {
		s.path.aborts.add(c.t)
		c.end(errRevoked)
		s.path.aborts.remove(c.t)
		s.conns.remove(c)
		return nil, errRevoked
	}
	return c, nil
}

func (c *tcpConn) ends() (tuple, bool) { return c.t, true }

// end resets the connection; what it had buffered is gone.
func (c *tcpConn) end(err error) {
	if c.ended.CompareAndSwap(nil, &err) {
		c.ep.Abort()
	}
}

// Read implements net.Conn. Data that arrived under an older policy is not
// given out once the policy denies the connection.
func (c *tcpConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if e := c.ended.Load(); e != nil {
		clear(b[:n])
		return 0, c.fault("read", *e)
	}
	return n, c.fault("read", err)
}

// Write implements net.Conn.
func (c *tcpConn) Write(b []byte) (int, error) {
	if e := c.ended.Load(); e != nil {
		return 0, c.fault("write", *e)
	}
	n, err := c.TCPConn.Write(b)
	if e := c.ended.Load(); e != nil && err != nil {
		err = *e
	}
	return n, c.fault("write", err)
}

// CloseRead and CloseWrite shut down one direction.
func (c *tcpConn) CloseRead() error  { return c.fault("close", c.TCPConn.CloseRead()) }
func (c *tcpConn) CloseWrite() error { return c.fault("close", c.TCPConn.CloseWrite()) }

// Close implements net.Conn. Data that was written is still sent.
func (c *tcpConn) Close() error {
	if c.closing.Swap(true) {
		return nil
	}
	c.stack.conns.remove(c)
	return c.TCPConn.Close()
}

func (c *tcpConn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.t.local) }
func (c *tcpConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.t.remote) }

// fault gives an error its final form. gVisor reports a reset once and calls it
// the end of the data after that, which would pass half a document off as a
// whole one; so the first error that is for good is kept.
func (c *tcpConn) fault(op string, err error) error {
	if err == nil {
		return nil
	}
	if err == io.EOF {
		if e := c.broken.Load(); e != nil {
			return *e
		}
		return err
	}
	if c.closing.Load() {
		err = net.ErrClosed
	}
	out := opError(op, "tcp", c.t.local, c.t.remote, err)
	if errors.Is(out, syscall.ECONNRESET) || errors.Is(out, syscall.ECONNABORTED) || errors.Is(out, syscall.ETIMEDOUT) {
		c.broken.CompareAndSwap(nil, &out)
	}
	return out
}

// opError gives an error the shape that package net's have.
func opError(op, network string, local, remote netip.AddrPort, err error) error {
	var timeout net.Error
	var inner *net.OpError
	if errors.As(err, &inner) && inner.Err != nil {
		err = inner.Err
	}
	if errors.As(err, &timeout) && timeout.Timeout() {
		err = os.ErrDeadlineExceeded
	}
	if e, ok := errnoByText[err.Error()]; ok {
		err = e
	}
	out := &net.OpError{Op: op, Net: network, Err: err}
	if local.IsValid() {
		out.Source = netAddr(network, local)
	}
	if remote.IsValid() {
		out.Addr = netAddr(network, remote)
	}
	return out
}

func netAddr(network string, a netip.AddrPort) net.Addr {
	if network == "udp" {
		return net.UDPAddrFromAddrPort(a)
	}
	return net.TCPAddrFromAddrPort(a)
}

// errnoByText maps gVisor's errors, which package gonet has made text of, to
// those that callers of package net know. It is never written.
var errnoByText = map[string]error{
	(&tcpip.ErrConnectionRefused{}).String():    syscall.ECONNREFUSED,
	(&tcpip.ErrConnectionReset{}).String():      syscall.ECONNRESET,
	(&tcpip.ErrConnectionAborted{}).String():    syscall.ECONNABORTED,
	(&tcpip.ErrAborted{}).String():              syscall.ECONNABORTED,
	(&tcpip.ErrHostUnreachable{}).String():      syscall.EHOSTUNREACH,
	(&tcpip.ErrNetworkUnreachable{}).String():   syscall.ENETUNREACH,
	(&tcpip.ErrTimeout{}).String():              syscall.ETIMEDOUT,
	(&tcpip.ErrPortInUse{}).String():            syscall.EADDRINUSE,
	(&tcpip.ErrNotConnected{}).String():         syscall.ENOTCONN,
	(&tcpip.ErrClosedForSend{}).String():        syscall.EPIPE,
	(&tcpip.ErrClosedForReceive{}).String():     io.EOF,
	(&tcpip.ErrMessageTooLong{}).String():       syscall.EMSGSIZE,
	(&tcpip.ErrBadLocalAddress{}).String():      syscall.EADDRNOTAVAIL,
	(&tcpip.ErrInvalidEndpointState{}).String(): net.ErrClosed,
}
