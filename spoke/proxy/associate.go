package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Limits of one UDP association.
const (
	maxTargets  = 64              // destinations at a time; the longest idle one makes room
	targetIdle  = 2 * time.Minute // as long as the mesh itself remembers a UDP flow
	udpDial     = 5 * time.Second // a datagram is not worth waiting longer for
	maxDatagram = 64 << 10        // bytes, header and all
	maxPending  = 32              // datagrams waiting for their destination to be dialed
	maxHeader   = 4 + 1 + 255 + 2 // of a datagram: RSV, FRAG, ATYP, name, port
)

// association carries datagrams for one client, for as long as its TCP
// connection stays open (RFC 1928, section 7).
type association struct {
	dial   Dialer
	local  *net.UDPConn
	client netip.Addr // datagrams from elsewhere are not for us
	ctx    context.Context
	wg     sync.WaitGroup

	mu      sync.Mutex
	port    uint16 // the client's; 0 until it is known
	targets map[string]*target
}

type target struct {
	out  chan []byte
	stop context.CancelFunc
	used time.Time // guarded by association.mu
}

func (s *SOCKS) associate(ctx context.Context, c net.Conn, announced string) error {
	here, there := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
	local, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(here.Addr(), 0)))
	if err != nil {
		_ = respond(c, repFailure, netip.AddrPort{})
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	a := &association{
		dial: s.Dial, local: local, client: there.Addr(), ctx: ctx,
		targets: make(map[string]*target),
	}
	// A client may say in advance which port it sends from. The address it says
	// is not used: it is the one that this connection comes from.
	if from, err := netip.ParseAddrPort(announced); err == nil {
		a.port = from.Port()
	}
	defer a.wg.Wait()
	defer local.Close()
	defer cancel()
	if err := respond(c, repOK, addrPort(local.LocalAddr())); err != nil {
		return err
	}
	a.wg.Go(a.read)
	// The end of the TCP connection is the end of the association; bytes on
	// it mean nothing.
	_, err = io.Copy(io.Discard, c)
	return err
}

// read takes the client's datagrams.
func (a *association) read() {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := a.local.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || a.ctx.Err() != nil {
				return
			}
			// An ICMP error about an earlier datagram ends nothing.
			continue
		}
		if !a.mine(from) {
			continue
		}
		to, payload, ok := parseDatagram(buf[:n])
		if !ok {
			continue
		}
		a.send(to, bytes.Clone(payload))
	}
}

// mine reports whether a datagram comes from the client. The first one settles
// the port if the client did not.
func (a *association) mine(from netip.AddrPort) bool {
	if from.Addr().Unmap() != a.client {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.port == 0 {
		a.port = from.Port()
	}
	return a.port == from.Port()
}

// parseDatagram reads RSV, FRAG, address and port. Fragments are dropped, as
// the RFC allows: nobody sends them.
func parseDatagram(b []byte) (to string, payload []byte, ok bool) {
	if len(b) < 4 || b[0] != 0 || b[1] != 0 || b[2] != 0 {
		return "", nil, false
	}
	r := bytes.NewReader(b[3:])
	to, _, err := readAddress(r)
	if err != nil {
		return "", nil, false
	}
	return to, b[len(b)-r.Len():], true
}

// send hands a datagram to its destination's goroutine, starting one if there
// is none. It never blocks; what does not fit is dropped, as UDP is.
func (a *association) send(to string, payload []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.targets[to]
	if t == nil {
		if len(a.targets) >= maxTargets {
			a.evict()
		}
		ctx, cancel := context.WithCancel(a.ctx)
		t = &target{out: make(chan []byte, maxPending), stop: cancel}
		a.targets[to] = t
		a.wg.Go(func() {
			defer cancel()
			a.run(ctx, to, t)
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.targets[to] == t {
				delete(a.targets, to)
			}
		})
	}
	t.used = time.Now()
	select {
	case t.out <- payload:
	default:
	}
}

// evict ends the destination that was idle longest. a.mu is held.
func (a *association) evict() {
	var oldest string
	for name, t := range a.targets {
		if oldest == "" || t.used.Before(a.targets[oldest].used) {
			oldest = name
		}
	}
	a.targets[oldest].stop()
	delete(a.targets, oldest)
}

// run dials one destination and carries datagrams both ways until it is idle.
func (a *association) run(ctx context.Context, to string, t *target) {
	dialCtx, cancel := context.WithTimeout(ctx, udpDial)
	remote, err := a.dial(dialCtx, "udp", to)
	cancel()
	if err != nil {
		// There is no way to say so in this protocol.
		return
	}
	var back sync.WaitGroup
	defer back.Wait()
	defer remote.Close()
	back.Go(func() { a.back(remote, t) })
	idle := time.NewTicker(targetIdle / 4)
	defer idle.Stop()
	for {
		select {
		case payload := <-t.out:
			if _, err := remote.Write(payload); errors.Is(err, net.ErrClosed) {
				return
			}
		case <-idle.C:
			a.mu.Lock()
			quiet := time.Since(t.used)
			a.mu.Unlock()
			if quiet > targetIdle {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// back carries the answers to the client, each behind the address it is from.
func (a *association) back(remote net.Conn, t *target) {
	header := appendAddress([]byte{0, 0, 0}, addrPort(remote.RemoteAddr()))
	buf := make([]byte, maxDatagram)
	copy(buf, header)
	for {
		n, err := remote.Read(buf[len(header):])
		if err != nil {
			t.stop()
			return
		}
		a.mu.Lock()
		t.used = time.Now()
		to := netip.AddrPortFrom(a.client, a.port)
		a.mu.Unlock()
		_, _ = a.local.WriteToUDPAddrPort(buf[:len(header)+n], to)
	}
}
