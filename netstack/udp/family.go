package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
)

// family is the socket of one address family. Rebind replaces the socket under
// the receiver, which waits for the next one when it finds its own closed.
type family struct {
	sock atomic.Pointer[transport]
	mu   sync.Mutex
	cond *sync.Cond
	live bool // a receiver should wait for a socket rather than end
	used bool // opened by Open, so Rebind opens it again
}

// put hands the socket, if there is one, to the receiver.
func (f *family) put(t transport) {
	if t == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sock.Store(&t)
	f.cond.Broadcast()
}

// start notes whether Open found a socket and so whether there is a receiver.
func (f *family) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = f.sock.Load() != nil
	f.live = f.used
}

// next returns the socket that is not old, waiting for Rebind to bring it; nil
// after Close.
func (f *family) next(old *transport) *transport {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		if !f.live {
			return nil
		}
		if s := f.sock.Load(); s != nil && s != old {
			return s
		}
		f.cond.Wait()
	}
}

// drop closes the socket; live says whether another one will follow.
func (f *family) drop(live bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live, f.used = live, live
	s := f.sock.Swap(nil)
	f.cond.Broadcast()
	if s == nil {
		return nil
	}
	return (*s).close()
}

// listen opens the wanted sockets on the configured address, all on the same
// port.
func (b *Bind) listen(port uint16, want4, want6 bool) error {
	const tries = 100 // the second family may find the random port taken
	for try := 1; ; try++ {
		s4, s6, got, err := b.listenBoth(port, want4, want6)
		if err != nil && want4 && want6 && port == 0 && errors.Is(err, syscall.EADDRINUSE) && try < tries {
			continue
		}
		if err != nil {
			return err
		}
		b.port = got
		b.v4.put(s4)
		b.v6.put(s6)
		return nil
	}
}

func (b *Bind) listenBoth(port uint16, want4, want6 bool) (s4, s6 transport, got uint16, err error) {
	at, both := b.cfg.Listen.Addr().Unmap(), want4 && want6
	got = port
	if want4 {
		a := at
		if !a.Is4() {
			a = netip.IPv4Unspecified()
		}
		s4, err = b.listenOne("udp4", netip.AddrPortFrom(a, got))
		if err != nil && !(both && noFamily(err)) {
			return nil, nil, 0, err
		}
		if s4 != nil {
			got = s4.info().Addr.Port()
		}
	}
	if want6 {
		a := at
		if !a.Is6() {
			a = netip.IPv6Unspecified()
		}
		s6, err = b.listenOne("udp6", netip.AddrPortFrom(a, got))
		if err != nil && !(both && s4 != nil && noFamily(err)) {
			if s4 != nil {
				_ = s4.close()
			}
			return nil, nil, 0, err
		}
		if s6 != nil {
			got = s6.info().Addr.Port()
		}
	}
	return s4, s6, got, nil
}

// listenOne opens one socket. A nil transport comes with an error, always.
func (b *Bind) listenOne(network string, at netip.AddrPort) (transport, error) {
	var t transport
	var err error
	if b.cfg.ListenPacket != nil {
		var pc PacketConn
		if pc, err = b.cfg.ListenPacket(network, at); err == nil {
			t = newPlain(b, pc)
		}
	} else {
		t, err = b.listenKernel(network, at)
	}
	if err != nil {
		return nil, fmt.Errorf("opening UDP socket on %v: %w", at, err)
	}
	if b.mark != 0 {
		if err := t.setMark(b.mark); err != nil {
			_ = t.close()
			return nil, fmt.Errorf("marking UDP socket on %v: %w", at, err)
		}
	}
	return t, nil
}

// noFamily reports whether the machine lacks an address family altogether.
func noFamily(err error) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)
}
