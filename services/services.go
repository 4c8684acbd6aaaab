// Package services holds what every service inside the tunnel has in common.
//
// A service lives on an address of its own inside the tunnel, so that the
// packet policy can tell services apart. By the time a connection gets here
// the policy has allowed it and WireGuard has proved its source address; what
// is left to do is to say who that is ([Identify]), to see that a browser was
// not talked into calling under a foreign name ([AllowHosts]), and to keep a
// slow or greedy caller from costing the others anything ([NewServer]).
//
// Nothing in here, or in the folders below, knows of WireGuard, of the
// userspace TCP/IP stack or of the hub: listeners and answers are handed in.
// A nil function or an empty list always means that nobody is served.
package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// Service is something the hub can start on a tunnel address and stop again.
type Service struct {
	// Name is the service's name inside the mesh, one DNS label.
	Name string
	// TCP and UDP are the ports it is to be reached on; no other is opened.
	TCP, UDP []uint16
	// Serve answers on l until ctx ends or a listener fails. It closes l and
	// returns nil when the end of ctx was the reason, and it returns only when
	// every goroutine it started has ended.
	Serve func(ctx context.Context, l Listeners) error
}

// Listeners are the open ends a service serves on.
type Listeners struct {
	TCP []net.Listener
	UDP []net.PacketConn
}

// Close closes all of them.
func (l Listeners) Close() error {
	var errs []error
	for _, t := range l.TCP {
		errs = append(errs, t.Close())
	}
	for _, u := range l.UDP {
		errs = append(errs, u.Close())
	}
	return errors.Join(errs...)
}

// Network is where listeners come from: the stack in the tunnel, or loopback
// in a test.
type Network struct {
	Listen       func(netip.AddrPort) (net.Listener, error)
	ListenPacket func(netip.AddrPort) (net.PacketConn, error)
}

// Running is a started service.
type Running struct {
	cancel context.CancelFunc
	done   chan struct{}
	once   sync.Once
	err    error
}

// Start opens the service's ports on each of addrs and serves them until Stop
// is called, ctx ends or serving fails. When one port cannot be opened none
// stays open.
func Start(ctx context.Context, n Network, s Service, addrs ...netip.Addr) (*Running, error) {
	var l Listeners
	for _, a := range addrs {
		for _, port := range s.TCP {
			t, err := n.Listen(netip.AddrPortFrom(a, port))
			if err != nil {
				_ = l.Close()
				return nil, fmt.Errorf("starting service %s on %v tcp/%d: %w", s.Name, a, port, err)
			}
			l.TCP = append(l.TCP, t)
		}
		for _, port := range s.UDP {
			u, err := n.ListenPacket(netip.AddrPortFrom(a, port))
			if err != nil {
				_ = l.Close()
				return nil, fmt.Errorf("starting service %s on %v udp/%d: %w", s.Name, a, port, err)
			}
			l.UDP = append(l.UDP, u)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &Running{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		defer cancel()
		defer l.Close()
		if err := s.Serve(ctx, l); err != nil {
			r.err = fmt.Errorf("serving %s: %w", s.Name, err)
		}
	}()
	return r, nil
}

// Done is closed when the service no longer serves.
func (r *Running) Done() <-chan struct{} { return r.done }

// Stop ends the service, waits until nothing of it is left, and returns what
// it failed with, if it did. Calling it again returns the same.
func (r *Running) Stop() error {
	r.once.Do(r.cancel)
	<-r.done
	return r.err
}
