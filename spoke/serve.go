package spoke

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	gosync "sync"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services/sync"
	"github.com/warrenmesh/warren/spoke/proxy"
)

// Offer gives something on this machine a name on the mesh.
type Offer struct {
	Name   string // on the mesh, one label
	Port   uint16 // on the mesh
	Target string // host:port on this machine or near it; nothing else is dialed
}

// ParseOffer reads NAME=HOST:PORT, or NAME:PORT=HOST:PORT where the port on the
// mesh is another one.
func ParseOffer(s string) (Offer, error) {
	const form = "an offer is NAME=HOST:PORT, as in llm=127.0.0.1:8080, or NAME:PORT=HOST:PORT"
	left, target, ok := strings.Cut(s, "=")
	if !ok {
		return Offer{}, fmt.Errorf("%s, not %.120q", form, s)
	}
	host, port, err := net.SplitHostPort(target)
	if err != nil || host == "" {
		return Offer{}, fmt.Errorf("%s, not %.120q", form, s)
	}
	name, meshPort, apart := strings.Cut(left, ":")
	if err := peer.ValidName(name); err != nil {
		return Offer{}, fmt.Errorf("in the offer %.120q: %w", s, err)
	}
	if !apart {
		meshPort = port
	}
	for _, p := range []string{port, meshPort} {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return Offer{}, fmt.Errorf("in the offer %.120q: a port is a number from 1 to 65535", s)
		}
	}
	n, _ := strconv.ParseUint(meshPort, 10, 16)
	return Offer{Name: name, Port: uint16(n), Target: target}, nil
}

// Serve offers o to the mesh until ctx ends: it registers the name as soon as
// the hub answers, and fails if the hub says no, and then listens where the hub
// says that the name is. The name stays this machine's when it stops.
func (c *Client) Serve(ctx context.Context, o Offer) error {
	if err := c.register(ctx, o); err != nil || ctx.Err() != nil {
		return err
	}
	for ctx.Err() == nil {
		at, err := c.servedAt(ctx, o.Name)
		if err != nil {
			return nil
		}
		if err := c.serveAt(ctx, o, at); err != nil {
			return fmt.Errorf("offering %s: %w", o.Name, err)
		}
	}
	return nil
}

// register tells the hub, and keeps trying while that does not answer.
func (c *Client) register(ctx context.Context, o Offer) error {
	wait := retryMin
	for {
		reply, err := c.sync.Serve(ctx, sync.ServeRequest{Name: o.Name, Proto: "tcp", Port: o.Port})
		if err == nil {
			c.log.Info("offered to the mesh", "name", reply.FQDN, "port", o.Port, "target", o.Target)
			return nil
		}
		if p, ok := errors.AsType[*sync.Problem](err); ok && p.Status < 500 {
			return err
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 5*time.Second)
		case <-ctx.Done():
			return nil
		}
	}
}

// serveAt listens at the addresses of the name until ctx ends or the hub moves
// the name elsewhere.
func (c *Client) serveAt(ctx context.Context, o Offer, at []netip.Addr) error {
	var list []net.Listener
	for _, a := range at {
		ln, err := c.listenAddr(netip.AddrPortFrom(a, o.Port))
		if err != nil {
			for _, other := range list {
				_ = other.Close()
			}
			return err
		}
		list = append(list, ln)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg gosync.WaitGroup
	defer wg.Wait()
	defer cancel()
	// The target is fixed: what comes from the mesh cannot choose it.
	ln, forward := merge(list), proxy.Forward{Target: o.Target}
	wg.Go(func() {
		_ = forward.Serve(ctx, ln, func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", o.Target)
		}, c.log)
	})
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if !slices.Equal(c.view.Load().self.Names[o.Name], at) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
