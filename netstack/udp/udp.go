package udp

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/warrenmesh/warren/peer"
	"golang.zx2c4.com/wireguard/conn"
)

// PacketConn is what a Bind needs of a socket; *net.UDPConn is one.
type PacketConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	LocalAddr() net.Addr
	Close() error
}

// Config says what to bind and what to let through. The zero value is a Bind
// on a random port of every address that checks no mac1 and answers no knock.
type Config struct {
	// Listen names the address to bind. The invalid address and "::" mean
	// every address of both families; "0.0.0.0" every IPv4 address; any other
	// only itself. Port 0 is any port. A port given to Open comes first.
	Listen netip.AddrPort
	// Small picks sizes for a machine with little memory.
	Small bool
	// Key is our own public key. If it is set, handshake messages whose mac1
	// is not made with it are dropped here. Zero skips that check.
	Key peer.PublicKey
	// Remote is the public key of the one peer that this Bind dials, a spoke's
	// hub. With it, an initiation that a hub under load answers with a cookie
	// is repeated at once instead of after 5 s. Zero leaves that to WireGuard.
	Remote peer.PublicKey
	// Knocks makes this Bind answer knocks, which is the hub's part. Nil
	// drops them.
	Knocks *Knocks
	// NoOffload keeps UDP GSO and GRO off, for kernels where they are broken.
	NoOffload bool
	// ListenPacket opens a socket other than the kernel's; nil is the
	// kernel's. Network is "udp4" or "udp6". Package udptest has one.
	ListenPacket func(network string, at netip.AddrPort) (PacketConn, error)
	// Logger is told about changes of state, never about single datagrams.
	// Nil discards.
	Logger *slog.Logger
}

// Bind is a conn.Bind. Its methods may be called from any goroutine; each
// function that Open returns from one goroutine at a time.
type Bind struct {
	cfg   Config
	log   *slog.Logger
	batch int
	start time.Time // base of the monotonic clock that the limiter reads

	gate  gate
	retry retry
	count counters
	calls callers // knocks that we have sent and that wait for an answer
	epoch atomic.Uint32

	mu      sync.Mutex // Open, Close, Rebind, SetMark; held while sockets change
	open    atomic.Bool
	port    uint16
	anyPort bool // Open was free to choose
	mark    uint32
	knocks  *knockServer
	v4, v6  family
}

var _ conn.Bind = (*Bind)(nil)

// transport is one socket. recv is called by one goroutine, the rest by any.
type transport interface {
	// recv fills in datagrams that passed the gate and returns how many
	// entries to look at. It returns net.ErrClosed after close.
	recv(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error)
	send(bufs [][]byte, ep *Endpoint) error
	setMark(mark uint32) error
	info() SocketStats
	close() error
}

// errFamily is the answer to a datagram for a family that is not bound.
var errFamily = fmt.Errorf("sending: no socket for this address family: %w", syscall.EAFNOSUPPORT)

// New returns a Bind that is not open yet.
func New(cfg Config) *Bind {
	b := &Bind{cfg: cfg, log: cfg.Logger, batch: batchSize(cfg), start: time.Now()}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.gate.init(cfg.Key, cfg.Small)
	b.retry.init(cfg.Remote)
	b.v4.cond = sync.NewCond(&b.v4.mu)
	b.v6.cond = sync.NewCond(&b.v6.mu)
	return b
}

// now is the monotonic time in nanoseconds since New.
func (b *Bind) now() int64 { return int64(time.Since(b.start)) }

// BatchSize implements conn.Bind.
func (b *Bind) BatchSize() int { return b.batch }

// Open implements conn.Bind. It binds the configured address on port, or on
// the configured port if port is 0, or on any.
func (b *Bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open.Load() {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	if port == 0 {
		port = b.cfg.Listen.Port()
	}
	b.epoch.Add(1) // source addresses learned before this mean nothing now
	at := b.cfg.Listen.Addr().Unmap()
	want4 := !at.IsValid() || at.Is4() || at == netip.IPv6Unspecified()
	want6 := !at.IsValid() || at.Is6()
	if err := b.listen(port, want4, want6); err != nil {
		return nil, 0, err
	}
	b.anyPort = port == 0
	b.v4.start()
	b.v6.start()
	if b.cfg.Knocks != nil {
		b.knocks = newKnockServer(b, *b.cfg.Knocks)
		b.gate.knocks.Store(b.knocks)
	}
	b.open.Store(true)
	var fns []conn.ReceiveFunc
	if b.v4.used {
		fns = append(fns, b.receiveIPv4)
	}
	if b.v6.used {
		fns = append(fns, b.receiveIPv6)
	}
	return fns, b.port, nil
}

func (b *Bind) receiveIPv4(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	return b.receive(&b.v4, bufs, sizes, eps)
}

func (b *Bind) receiveIPv6(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	return b.receive(&b.v6, bufs, sizes, eps)
}

func (b *Bind) receive(f *family, bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	s := f.sock.Load()
	for {
		if s == nil {
			if s = f.next(nil); s == nil {
				return 0, net.ErrClosed
			}
		}
		n, err := (*s).recv(bufs, sizes, eps)
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, net.ErrClosed) {
			return 0, err
		}
		if s = f.next(s); s == nil {
			return 0, net.ErrClosed
		}
	}
}

// Send implements conn.Bind. It takes any number of datagrams, because a
// device whose TUN has larger batches than we have sends those.
func (b *Bind) Send(bufs [][]byte, to conn.Endpoint) error {
	ep, ok := to.(*Endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	f := &b.v4
	if ep.is6() {
		f = &b.v6
	}
	s := f.sock.Load()
	if s == nil {
		if !b.open.Load() {
			return net.ErrClosed
		}
		return errFamily
	}
	var bytes uint64
	for _, buf := range bufs {
		b.gate.sent(buf, b)
		b.retry.note(buf, ep)
		bytes += uint64(len(buf))
	}
	if err := (*s).send(bufs, ep); err != nil {
		b.count.sendErrors.Add(1)
		return err
	}
	b.count.txDatagrams.Add(uint64(len(bufs)))
	b.count.txBytes.Add(bytes)
	return nil
}

// ParseEndpoint implements conn.Bind.
func (b *Bind) ParseEndpoint(s string) (conn.Endpoint, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, fmt.Errorf("reading endpoint: %w", err)
	}
	return newEndpoint(ap)
}

// SetMark implements conn.Bind. It needs privileges and exists on Linux only;
// elsewhere it does nothing. The mark stays on sockets that Rebind opens.
func (b *Bind) SetMark(mark uint32) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mark = mark
	for _, f := range []*family{&b.v4, &b.v6} {
		if s := f.sock.Load(); s != nil {
			if err := (*s).setMark(mark); err != nil {
				return fmt.Errorf("marking UDP socket: %w", err)
			}
		}
	}
	return nil
}

// Rebind replaces the sockets by new ones on the same port, for when the
// machine has changed networks: nothing of the old routes, source addresses
// and queued datagrams stays. Receivers carry on. The port stays the same
// unless any would do and another program took it meanwhile. If Rebind fails,
// nothing is sent or received until a later one succeeds.
func (b *Bind) Rebind() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open.Load() {
		return net.ErrClosed
	}
	b.epoch.Add(1)           // source addresses learned before this mean nothing now
	_ = b.v4.drop(b.v4.used) // the port must be free before it can be bound again
	_ = b.v6.drop(b.v6.used)
	err := b.listen(b.port, b.v4.used, b.v6.used)
	if b.anyPort && errors.Is(err, syscall.EADDRINUSE) {
		err = b.listen(0, b.v4.used, b.v6.used)
	}
	if err != nil {
		return fmt.Errorf("rebinding: %w", err)
	}
	b.log.Info("rebound UDP sockets", "port", b.port)
	return nil
}

// Close implements conn.Bind: receivers return net.ErrClosed. Open works
// again afterwards. Closing a closed Bind does nothing.
func (b *Bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open.Store(false)
	err := errors.Join(b.v4.drop(false), b.v6.drop(false))
	if b.knocks != nil {
		b.gate.knocks.Store(nil)
		b.knocks.close()
		b.knocks = nil
	}
	return err
}
