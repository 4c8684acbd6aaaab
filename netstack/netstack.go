// Package netstack is the only part of Warren that touches packets. It joins a
// WireGuard device, a gVisor TCP/IP stack and the access policy into one thing
// with the methods of a network: Listen, Dial, Ping.
//
// A packet takes this way, and there is no other:
//
//	UDP datagram -> Bind -> device: decrypt, replay check, source is the peer's
//	  -> Write: parse once, length first -> acl.Gate.In
//	       refused: reset or ICMP error back, counted
//	       for us: merged with what follows it, into gVisor -> Listener
//	       for another peer: into that peer's lane, never through TCP
//	  <- Read <- lanes, fair between peers and between flows <- acl.Gate.Out <- gVisor
//
// What is on its way when the policy changes is judged again before it leaves.
// [Stack.SetFilter] returns when nothing that only the old policy allowed can
// be delivered any more, to either side.
//
// # Promises
//
//   - No policy, no packet: until the gate has a filter, everything is refused.
//   - The device's tun.Write never blocks, so a peer can be removed whatever it
//     does.
//   - A panic on the packet path drops the packet and is counted. It opens
//     nothing.
//   - Memory is bounded per peer. One peer's traffic does not stand in the way
//     of another's.
//
// # Limits
//
// The stack answers for its own addresses only and forwards between peers only
// if Config.Forward is set; it never connects a peer to the machine it runs on.
// Fragments, IP options and extension headers are refused, so a datagram must
// fit the MTU.
//
// # Order of opening and closing
//
// Opening: gVisor, the device, its socket. Closing is in Close, step by step.
package netstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/peer"
)

// DefaultMTU fits every path that IPv6 works on, mobile networks included.
const DefaultMTU = 1280

// MaxMTU is the largest MTU that is supported.
const MaxMTU = slotSize - 64

// Config says what to open. Key and Gate are required.
type Config struct {
	Key peer.PrivateKey
	// Listen is the outer UDP socket; port 0 is any. The zero value is any port
	// of every address. It is ignored if Bind is given, but for the port.
	Listen netip.AddrPort
	// V4 and V6 are the overlay.
	V4, V6 netip.Prefix
	// Addresses are this node's own, inside the overlay. The first of each
	// family is where Dial comes from.
	Addresses []netip.Addr
	// MTU inside the tunnel, 1280 to MaxMTU; 0 is DefaultMTU.
	MTU int
	// Forward makes this node pass packets between peers: the hub.
	Forward bool
	// Small picks sizes for a Pi: small batches, small buffers.
	Small bool
	// Gate judges every packet. Its clock must be its own.
	Gate *acl.Gate
	// Bind is the outer socket; nil is our own, on Listen.
	Bind conn.Bind
	// TUN puts the kernel's stack in the place of ours: an interface that the
	// caller has created, given its addresses and brought up. The same gate
	// judges both directions; Listen, ListenPacket, Dial and Ping are then the
	// kernel's business and fail here. Close closes it.
	TUN tun.Device
	// Logger is told of what goes wrong, never of single packets. Nil discards.
	Logger *slog.Logger
}

// ErrClosed is wrapped by every error of a method that came after Close.
var ErrClosed = fmt.Errorf("the tunnel is closed: %w", net.ErrClosed)

// errKernel is the answer of methods that need our own TCP/IP stack.
var errKernel = errors.New("the kernel has the tunnel's addresses; use the kernel's sockets")

// Stack is a WireGuard device with a network on top. Its methods may be called
// from any goroutine.
type Stack struct {
	public peer.PublicKey
	small  bool
	log    *slog.Logger
	gate   *acl.Gate
	path   *path
	queue  *queue
	bind   *meter
	dev    *device.Device
	net    *stack.Stack // nil with Config.TUN
	conns  registry
	work   sync.WaitGroup

	mu        sync.Mutex // SetPeers, SetFilter, SetAddresses, Rebind, Close
	peers     map[peer.PublicKey]PeerConfig
	addresses []netip.Addr
	closed    bool
	done      chan struct{}
}

func (c *Config) check() error {
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Key.IsZero():
		return errors.New("there is no private key")
	case c.Gate == nil:
		return errors.New("there is no gate to judge packets")
	case c.MTU < DefaultMTU || c.MTU > MaxMTU:
		return fmt.Errorf("the MTU is %d; use %d to %d", c.MTU, DefaultMTU, MaxMTU)
	}
	return checkAddresses(c.Addresses, c.V4, c.V6)
}

func checkAddresses(list []netip.Addr, nets ...netip.Prefix) error {
	for i, a := range list {
		if !slices.ContainsFunc(nets, func(n netip.Prefix) bool { return n.Contains(a) }) {
			return fmt.Errorf("the address %v is not inside the tunnel's networks", a)
		}
		if slices.Contains(list[:i], a) {
			return fmt.Errorf("the address %v is listed twice", a)
		}
	}
	return nil
}

// Open brings a node up: no peers, and no packet passes until the gate has a
// filter. The caller must Close it.
func Open(c Config) (_ *Stack, err error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("opening the tunnel: %w", err)
	}
	s := &Stack{
		public: c.Key.Public(), small: c.Small, log: c.Logger, gate: c.Gate,
		queue: newQueue(limitsFor(c.Small)), addresses: slices.Clone(c.Addresses), done: make(chan struct{}),
	}
	if c.Bind == nil {
		c.Bind = udp.New(udp.Config{Listen: c.Listen, Small: c.Small, Key: s.public, Logger: c.Logger})
	}
	s.bind = &meter{Bind: c.Bind, queue: s.queue}
	s.path = newPath(c.Gate, s.queue, c.Logger)
	s.path.now = c.Gate.Now
	s.path.forward, s.path.mtu, s.path.batch = c.Forward, c.MTU, c.Bind.BatchSize()
	if c.TUN != nil {
		s.path.kernel = c.TUN
	} else {
		s.path.link = newLink(s.path, c.MTU)
		if s.net, err = newNetwork(s.path.link, c.Small, c.Addresses); err != nil {
			return nil, fmt.Errorf("opening the tunnel: %w", err)
		}
	}
	s.dev = device.NewDevice(s.path, s.bind, s.path.deviceLogger(c.Logger))
	s.work.Go(s.path.injectAnswers)
	if c.TUN != nil {
		s.work.Go(s.path.readKernel)
	}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if err := s.configure(deviceText(c.Key, c.Listen.Port())); err != nil {
		return nil, fmt.Errorf("opening the tunnel: %w", err)
	}
	if err := s.dev.Up(); err != nil {
		return nil, fmt.Errorf("opening the outer UDP socket: %w", err)
	}
	return s, nil
}

// usable reports why a change cannot be made. The caller holds s.mu.
func (s *Stack) usable(ctx context.Context) error {
	if s.closed {
		return ErrClosed
	}
	return ctx.Err()
}

// SetAddresses makes this node's own addresses those of the list. Connections
// on an address that goes are reset.
func (s *Stack) SetAddresses(list []netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(context.Background()); err != nil {
		return fmt.Errorf("setting addresses: %w", err)
	}
	for i, a := range list {
		switch {
		case !a.IsValid() || a.Is4In6() || a.Zone() != "":
			return fmt.Errorf("setting addresses: %v is not an address inside the tunnel", a)
		case slices.Contains(list[:i], a):
			return fmt.Errorf("setting addresses: %v is listed twice", a)
		case s.path.table.Load().byAddr[a] != nil:
			return fmt.Errorf("setting addresses: %v belongs to a peer", a)
		}
	}
	if s.net != nil {
		if err := s.moveAddresses(list); err != nil {
			return fmt.Errorf("setting addresses: %w", err)
		}
	}
	s.addresses = slices.Clone(list)
	return nil
}

// Cut is what a change of policy ended.
type Cut struct {
	// Connections is how many connections of this node's own stack were reset.
	Connections int
	// Took is how long SetFilter took, all waiting included.
	Took time.Duration
}

// drainPatience is how long SetFilter waits for packets inside WireGuard to
// leave. Those that are still there after it have no session to leave by; if
// they get one, the Bind drops them.
const drainPatience = 25 * time.Millisecond

// SetFilter puts f in force, nil to refuse everything. When it returns, nothing
// that only the old filter allowed is delivered any more: batches that were on
// the packet path are through, what waited in a queue is judged again before
// it leaves, connections of our own stack that are now denied are reset in both
// directions, and data that such a connection had buffered cannot be read.
func (s *Stack) SetFilter(f *acl.Filter) Cut {
	start := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.path.cutting.Lock()
	epoch := s.gate.Swap(f)
	if s.closed {
		s.path.cutting.Unlock()
		return Cut{Took: time.Since(start)}
	}
	s.path.fence.wait()
	n := s.conns.cut(s.denied, s)
	s.path.cutting.Unlock()
	s.path.fence.wait() // the reader, who may have begun a batch in between
	s.queue.drained(drainPatience)
	s.bind.floor.Store(uint32(epoch))
	return Cut{Connections: n, Took: time.Since(start)}
}

// Port returns the outer UDP port, 0 before there is one.
func (s *Stack) Port() uint16 { return uint16(s.bind.port.Load()) }

// Rebind opens the outer socket anew, on the same port, for after a change of
// network. Sessions survive it.
func (s *Stack) Rebind() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(context.Background()); err != nil {
		return fmt.Errorf("rebinding: %w", err)
	}
	if err := s.dev.BindUpdate(); err != nil {
		return fmt.Errorf("rebinding: %w", err)
	}
	return nil
}

// Close ends everything. It may be called twice and from any goroutine; each
// call returns when all is over. The order:
//
//  1. connections and listeners, so that their users see an error;
//  2. the device, which closes the queue, its socket, then its peers; nothing
//     calls Write or Read after that;
//  3. gVisor, whose last packets find the queue closed;
//  4. our own goroutines, and what is left in the queue.
func (s *Stack) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.done
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	defer close(s.done)
	s.conns.close()
	if s.net != nil {
		s.conns.cut(func(tuple, bool) bool { return true }, s)
	}
	// The others hear of it only while there is still a way out. What they do
	// not hear of, they hold on to until they give up on us.
	s.queue.emptied(drainPatience)
	s.dev.Close()
	if s.path.kernel != nil {
		_ = s.path.kernel.Close()
	}
	if s.net != nil {
		s.net.Close()
		s.net.Wait()
	}
	_ = s.path.Close()
	s.work.Wait()
	s.queue.purge()
	return nil
}
