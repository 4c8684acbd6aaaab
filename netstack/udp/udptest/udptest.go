// Package udptest is an outside network in memory, for tests: any number of
// hosts, a tap on the wire, forged sources, loss, reordering, delay, and hosts
// that change their address under way.
//
// The Binds it makes are real ones (package udp) with everything they check;
// only the socket is replaced. Nothing leaves the process, no port is used.
// It works inside a testing/synctest bubble.
package udptest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmesh/warren/netstack/udp"
)

// queue is how many datagrams a host holds before it drops, as a kernel does.
const queue = 8192

// Datagram is one datagram on the wire.
type Datagram struct {
	From, To netip.AddrPort
	Data     []byte
}

// Network is the wire. All methods may be called from any goroutine.
type Network struct {
	mu      sync.Mutex
	hosts   map[netip.AddrPort]*socket
	taps    []func(Datagram)
	filter  func(Datagram) bool
	rand    *rand.Rand
	loss    float64
	reorder float64
	delay   time.Duration
	held    map[netip.AddrPort]Datagram // overtaken by the next to the same host
	port    uint16
}

// New returns a perfect network: no loss, no delay, in order. The sockets on
// it are closed when the test ends.
func New(t testing.TB) *Network {
	t.Helper()
	n := &Network{
		hosts: make(map[netip.AddrPort]*socket),
		held:  make(map[netip.AddrPort]Datagram),
		rand:  rand.New(rand.NewPCG(1, 2)), // the same faults every time
		port:  49152,
	}
	t.Cleanup(n.close)
	return n
}

func (n *Network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.hosts {
		s.stop()
	}
	clear(n.hosts)
}

// Bind returns a Bind at addr, which must name a host. Port 0 is any port.
func (n *Network) Bind(addr netip.AddrPort) *udp.Bind { return udp.New(n.Config(addr)) }

// Config is what Bind uses, for tests that set a key, knocks or sizes.
func (n *Network) Config(addr netip.AddrPort) udp.Config {
	return udp.Config{Listen: addr, ListenPacket: n.Listen}
}

// DualConfig is for a host with an IPv4 and an IPv6 address on one port.
func (n *Network) DualConfig(v4, v6 netip.Addr, port uint16) udp.Config {
	return udp.Config{
		Listen: netip.AddrPortFrom(netip.Addr{}, port),
		ListenPacket: func(network string, at netip.AddrPort) (udp.PacketConn, error) {
			addr := v4
			if network == "udp6" {
				addr = v6
			}
			return n.Listen(network, netip.AddrPortFrom(addr, at.Port()))
		},
	}
}

// Listen opens a bare socket, for what does not go through a Bind.
func (n *Network) Listen(_ string, at netip.AddrPort) (udp.PacketConn, error) {
	if !at.Addr().IsValid() || at.Addr().IsUnspecified() {
		return nil, fmt.Errorf("listening on %v: a host on the test network needs an address", at)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for at.Port() == 0 {
		n.port = max(n.port+1, 49152)
		if try := netip.AddrPortFrom(at.Addr(), n.port); n.hosts[try] == nil {
			at = try
		}
	}
	if n.hosts[at] != nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	s := &socket{net: n, at: at, in: make(chan Datagram, queue), closed: make(chan struct{})}
	n.hosts[at] = s
	return s, nil
}

// Tap calls see for every datagram that is sent, before loss and filter, with
// a copy. It must not send. Injected datagrams are not tapped.
func (n *Network) Tap(see func(Datagram)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.taps = append(n.taps, see)
}

// Filter has pass decide which datagrams arrive; nil lets all. It replaces
// the previous one and may change the bytes in place. It must not send.
func (n *Network) Filter(pass func(Datagram) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.filter = pass
}

// Loss drops that share of the datagrams, 0 to 1.
func (n *Network) Loss(share float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = share
}

// Reorder lets that share of the datagrams, 0 to 1, be overtaken by the next
// one to the same host.
func (n *Network) Reorder(share float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reorder = share
}

// Delay holds every datagram back for d, one way.
func (n *Network) Delay(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay = d
}

// Inject delivers d as it is, from whatever source it claims, past taps,
// filter and faults. It reports whether somebody was there to receive it.
func (n *Network) Inject(d Datagram) bool {
	d.Data = slices.Clone(d.Data)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.deliver(d)
}

// Move gives the host at from the address to, as a new network or a NAT that
// lost its mapping does: what it sends comes from there, what is sent to its
// old address is lost. The host itself does not notice.
func (n *Network) Move(from, to netip.AddrPort) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.hosts[from]
	if s == nil {
		return fmt.Errorf("moving host: nobody is at %v", from)
	}
	if n.hosts[to] != nil {
		return fmt.Errorf("moving host: somebody is at %v already", to)
	}
	delete(n.hosts, from)
	s.at = to
	n.hosts[to] = s
	return nil
}

// send puts d on the wire.
func (n *Network) send(d Datagram) {
	d.Data = slices.Clone(d.Data)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, see := range n.taps {
		seen := d
		seen.Data = slices.Clone(d.Data)
		see(seen)
	}
	if n.filter != nil && !n.filter(d) || n.rand.Float64() < n.loss {
		return
	}
	if n.delay > 0 {
		time.AfterFunc(n.delay, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.arrive(d)
		})
		return
	}
	n.arrive(d)
}

// arrive delivers d and then the datagram that it overtook.
func (n *Network) arrive(d Datagram) {
	if _, holding := n.held[d.To]; !holding && n.rand.Float64() < n.reorder {
		n.held[d.To] = d
		return
	}
	n.deliver(d)
	if late, ok := n.held[d.To]; ok {
		delete(n.held, d.To)
		n.deliver(late)
	}
}

func (n *Network) deliver(d Datagram) bool {
	s := n.hosts[d.To]
	if s == nil {
		return false
	}
	select {
	case s.in <- d:
		return true
	default:
		return false
	}
}

// socket implements udp.PacketConn.
type socket struct {
	net    *Network
	at     netip.AddrPort // guarded by net.mu
	in     chan Datagram
	once   sync.Once
	closed chan struct{}
}

func (s *socket) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case <-s.closed:
		return 0, netip.AddrPort{}, net.ErrClosed
	case d := <-s.in:
		return copy(b, d.Data), d.From, nil // the rest is lost, as with a kernel
	}
}

func (s *socket) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	default:
	}
	s.net.mu.Lock()
	from := s.at
	s.net.mu.Unlock()
	s.net.send(Datagram{From: from, To: to, Data: b})
	return len(b), nil
}

func (s *socket) LocalAddr() net.Addr {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	return net.UDPAddrFromAddrPort(s.at)
}

func (s *socket) stop() { s.once.Do(func() { close(s.closed) }) }

func (s *socket) Close() error {
	s.stop()
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.net.hosts[s.at] == s {
		delete(s.net.hosts, s.at)
	}
	return nil
}
