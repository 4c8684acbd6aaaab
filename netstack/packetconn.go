package netstack

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// packetConn is a UDP socket: a net.PacketConn, and a net.Conn too if it has a
// remote address.
type packetConn struct {
	ep      tcpip.Endpoint
	wq      *waiter.Queue
	stack   *Stack
	t       tuple // remote is invalid unless dialled
	read    deadline
	write   deadline
	ended   atomic.Pointer[error]
	once    sync.Once
	closing chan struct{}
}

var errClosedConn error = net.ErrClosed

// newPacketConn wraps a bound endpoint.
func (s *Stack) newPacketConn(ep tcpip.Endpoint, wq *waiter.Queue, remote netip.AddrPort) (*packetConn, error) {
	local, _ := ep.GetLocalAddress()
	c := &packetConn{ep: ep, wq: wq, stack: s, t: tuple{addrPort(local), remote}, closing: make(chan struct{})}
	c.read.init()
	c.write.init()
	if !s.conns.add(c) {
		ep.Close()
		return nil, ErrClosed
	}
	return c, nil
}

// ends implements revocable. A socket without a remote end has no one peer: it
// is never cut, its datagrams are judged one by one as they are read.
func (c *packetConn) ends() (tuple, bool) { return c.t, false }

// end implements handle.
func (c *packetConn) end(err error) {
	c.ended.CompareAndSwap(nil, &err)
	c.once.Do(func() {
		close(c.closing)
		c.ep.Close()
	})
}

// Close implements net.Conn and net.PacketConn.
func (c *packetConn) Close() error {
	c.stack.conns.remove(c)
	c.end(errClosedConn)
	return nil
}

// Read implements net.Conn.
func (c *packetConn) Read(b []byte) (int, error) {
	n, _, err := c.receive(b)
	return n, err
}

// ReadFrom implements net.PacketConn.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.receive(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// receive returns the next datagram that is allowed now. One that arrived while
// it was, and waited here while the policy changed, is dropped.
func (c *packetConn) receive(b []byte) (int, netip.AddrPort, error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	for {
		select {
		case <-c.read.passed():
			return 0, netip.AddrPort{}, c.fault("read", os.ErrDeadlineExceeded)
		default:
		}
		w := tcpip.SliceWriter(b)
		res, err := c.ep.Read(&w, tcpip.ReadOptions{NeedRemoteAddr: true})
		if e := c.ended.Load(); e != nil {
			return 0, netip.AddrPort{}, c.fault("read", *e)
		}
		if _, wait := err.(*tcpip.ErrWouldBlock); wait {
			select {
			case <-ready:
			case <-c.read.passed():
			case <-c.closing:
			}
			continue
		}
		if err != nil {
			return 0, netip.AddrPort{}, c.fault("read", fail(err))
		}
		from := addrPort(res.RemoteAddr)
		if c.stack.denied(tuple{c.t.local, from}, false) {
			clear(b[:min(res.Count, len(b))])
			continue
		}
		return res.Count, from, nil
	}
}

// Write implements net.Conn.
func (c *packetConn) Write(b []byte) (int, error) { return c.send(b, nil) }

// WriteTo implements net.PacketConn.
func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, c.fault("write", &net.AddrError{Err: "not a UDP address", Addr: to.String()})
	}
	ap := u.AddrPort()
	full := fullAddress(netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
	return c.send(b, &full)
}

func (c *packetConn) send(b []byte, to *tcpip.FullAddress) (int, error) {
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	var r bytes.Reader
	for {
		if e := c.ended.Load(); e != nil {
			return 0, c.fault("write", *e)
		}
		select {
		case <-c.write.passed():
			return 0, c.fault("write", os.ErrDeadlineExceeded)
		default:
		}
		r.Reset(b)
		n, err := c.ep.Write(&r, tcpip.WriteOptions{To: to})
		if _, wait := err.(*tcpip.ErrWouldBlock); !wait {
			return int(n), c.fault("write", fail(err))
		}
		select {
		case <-ready:
		case <-c.write.passed():
		case <-c.closing:
		}
	}
}

// LocalAddr implements net.Conn and net.PacketConn.
func (c *packetConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.t.local) }

// RemoteAddr implements net.Conn; it is nil if there is no one remote end.
func (c *packetConn) RemoteAddr() net.Addr {
	if !c.t.remote.IsValid() {
		return nil
	}
	return net.UDPAddrFromAddrPort(c.t.remote)
}

// SetDeadline and its two halves implement net.Conn and net.PacketConn.
func (c *packetConn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return nil
}
func (c *packetConn) SetReadDeadline(t time.Time) error  { c.read.set(t); return nil }
func (c *packetConn) SetWriteDeadline(t time.Time) error { c.write.set(t); return nil }

func (c *packetConn) fault(op string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, net.ErrClosed) && !errors.Is(err, ErrClosed) {
		err = net.ErrClosed
	}
	return opError(op, "udp", c.t.local, c.t.remote, err)
}

// deadline is a point in time that can be moved and waited for.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	over  chan struct{} // closed when the time has come
}

func (d *deadline) init() { d.over = make(chan struct{}) }

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.over // its function has begun: let it end
	}
	d.timer = nil
	select {
	case <-d.over:
		d.over = make(chan struct{})
	default:
	}
	switch wait := time.Until(t); {
	case t.IsZero():
	case wait <= 0:
		close(d.over)
	default:
		over := d.over
		d.timer = time.AfterFunc(wait, func() { close(over) })
	}
}

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}
