// Package publish gives a service on the hub's own machine, or in its network,
// a name and address inside the tunnel.
//
// Only what is published by name is reachable, and only at the very host and
// port that was named: the address a caller connects to, its Host header, the
// request line and redirects never decide what is dialled. An HTTP target is
// told who calls:
//
//	X-Warren-Peer: kitchen            the machine, always
//	X-Warren-User: ann                its owner, unless it has none or is tagged
//	X-Warren-Tags: tag:speaker,tag:x  its tags, if any
//	X-Warren-Household: home          its household, if any
//
// A target may rely on these headers if nobody but the hub can connect to it,
// as on 127.0.0.1. Whatever resembles them in a request is removed, and so is
// what other proxies use to say who calls. X-Forwarded-For is not sent: several
// servers, Home Assistant among them, refuse requests that carry it until they
// are told to trust the proxy.
//
// A tcp target gets the bytes and cannot be told anything.
package publish

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services"
)

// dialTimeout is how long a target may take to accept a connection.
const dialTimeout = 5 * time.Second

// Config says what is published. Name, Target and Roster are needed, and Hosts
// for an HTTP target.
type Config struct {
	// Name is the service's name in the mesh.
	Name string
	// Target is where it really is.
	Target Target
	// Port is where it listens in the tunnel; 0 is Target.DefaultPort.
	Port uint16
	// Hosts are the names and addresses an HTTP service answers to (see
	// services.AllowHosts).
	Hosts []string
	// Overlay are the mesh's own networks, which no target is in.
	Overlay []netip.Prefix
	// Roster says who is on the mesh.
	Roster func() *peer.Roster
	// Dialer dials the target; nil is a plain one. Its Control hooks run after
	// the address was found harmless.
	Dialer *net.Dialer
	// RootCAs vouch for an https target; nil is the system's. A target on a
	// loopback address needs no certificate that somebody vouches for: nobody
	// issues one for 127.0.0.1, and what listens there is what plain http
	// would have reached.
	RootCAs *x509.CertPool
	// Logger; nil discards.
	Logger *slog.Logger
}

// Publisher serves one published target.
type Publisher struct {
	cfg    Config
	log    *slog.Logger
	dialer net.Dialer

	dials, down, refused atomic.Uint64
}

// Stats counts since the publisher was made.
type Stats struct {
	Dials   uint64 // connections to the target that were tried
	Down    uint64 // of these, those that failed
	Refused uint64 // connections over a peer's limit or of no active peer
}

// New checks c.
func New(c Config) (*Publisher, error) {
	if err := peer.ValidName(c.Name); err != nil {
		return nil, fmt.Errorf("publishing %.63q: %w", c.Name, err)
	}
	if err := c.Target.Refuse(c.Overlay); err != nil {
		return nil, fmt.Errorf("publishing %s: %w", c.Name, err)
	}
	if c.Roster == nil {
		return nil, fmt.Errorf("publishing %s: nobody to serve: no roster was set", c.Name)
	}
	if c.Target.HTTP() && len(c.Hosts) == 0 {
		return nil, fmt.Errorf("publishing %s: no host names were given for it to answer to", c.Name)
	}
	if c.Port == 0 {
		c.Port = c.Target.DefaultPort()
	}
	p := &Publisher{cfg: c, log: c.Logger}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.log = p.log.With("service", c.Name)
	if c.Dialer != nil {
		p.dialer = *c.Dialer
	}
	if p.dialer.Timeout == 0 || p.dialer.Timeout > dialTimeout {
		p.dialer.Timeout = dialTimeout
	}
	next, nextCtx := p.dialer.Control, p.dialer.ControlContext
	p.dialer.Control = nil
	// The check is made on the very address the socket is about to connect to,
	// after any name was resolved: a name may have two answers (S-02).
	p.dialer.ControlContext = func(ctx context.Context, network, address string, rc syscall.RawConn) error {
		if err := c.Target.admits(address, c.Overlay); err != nil {
			return err
		}
		if nextCtx != nil {
			return nextCtx(ctx, network, address, rc)
		}
		if next != nil {
			return next(network, address, rc)
		}
		return nil
	}
	return p, nil
}

// Stats returns the counters.
func (p *Publisher) Stats() Stats {
	return Stats{p.dials.Load(), p.down.Load(), p.refused.Load()}
}

// Service is the publisher as the hub starts it.
func (p *Publisher) Service() services.Service {
	return services.Service{Name: p.cfg.Name, TCP: []uint16{p.cfg.Port}, Serve: p.Serve}
}

// Serve publishes on l until ctx ends. When it returns every connection, to
// either side, is closed.
func (p *Publisher) Serve(ctx context.Context, l services.Listeners) error {
	if !p.cfg.Target.HTTP() {
		return p.serveTCP(ctx, l)
	}
	handler, transport := p.proxy()
	defer transport.CloseIdleConnections()
	srv := services.NewServer(services.ServerConfig{
		Handler: handler, Roster: p.cfg.Roster, Hosts: p.cfg.Hosts, MaxBody: -1, Logger: p.log,
	})
	srv.MaxHeaderBytes = 64 << 10 // what a target may set as cookies comes back here
	return services.ServeHTTP(ctx, srv, l)
}

// dial connects to the target. It takes no address: there is only one.
func (p *Publisher) dial(ctx context.Context) (net.Conn, error) {
	p.dials.Add(1)
	c, err := p.dialer.DialContext(ctx, "tcp", p.cfg.Target.addr())
	if err != nil && ctx.Err() == nil {
		p.down.Add(1)
	}
	return c, err
}

// why says in a few words what keeps the target from answering.
func why(err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return "its host name is unknown"
		}
		return "its host name cannot be looked up"
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return "no answer in time"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route to its machine"
	case errors.Is(err, syscall.ECONNRESET):
		return "it closed the connection"
	}
	return "it did not answer as it should"
}
