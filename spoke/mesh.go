package spoke

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/warrenmesh/warren/services/sync"
)

// The mesh is reached through our own TCP/IP stack, or, with Config.TUN,
// through the kernel's and the interface. Nothing else in this package knows
// which.

// dialAddr connects to an address of the mesh. Kind is "tcp" or "udp".
func (c *Client) dialAddr(ctx context.Context, kind string, to netip.AddrPort) (net.Conn, error) {
	if c.cfg.TUN == "" {
		return c.stack.Dial(ctx, kind, netip.Addr{}, to)
	}
	d := net.Dialer{Control: through(c.cfg.TUN)}
	return d.DialContext(ctx, kind, to.String())
}

// listenAddr listens for TCP on one of this machine's addresses on the mesh.
func (c *Client) listenAddr(at netip.AddrPort) (net.Listener, error) {
	if c.cfg.TUN == "" {
		return c.stack.Listen(at)
	}
	l := net.ListenConfig{Control: through(c.cfg.TUN)}
	return l.Listen(context.Background(), "tcp", at.String())
}

// pingAddr sends one echo request and waits for its answer.
func (c *Client) pingAddr(ctx context.Context, to netip.Addr) (time.Duration, error) {
	if c.cfg.TUN == "" {
		return c.stack.Ping(ctx, to)
	}
	network, from, kind := "ip4:icmp", c.state.reply.V4, icmp.Type(ipv4.ICMPTypeEcho)
	answer, proto := icmp.Type(ipv4.ICMPTypeEchoReply), 1
	if to.Is6() {
		network, from, kind = "ip6:ipv6-icmp", c.state.reply.V6, ipv6.ICMPTypeEchoRequest
		answer, proto = ipv6.ICMPTypeEchoReply, 58
	}
	conn, err := icmp.ListenPacket(network, from.String())
	if err != nil {
		return 0, fmt.Errorf("opening a socket for ping (this needs root with --tun): %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	echo := &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: 1, Data: []byte("warren")}
	raw, err := (&icmp.Message{Type: kind, Body: echo}).Marshal(nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := conn.WriteTo(raw, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return 0, err
		}
		m, err := icmp.ParseMessage(proto, buf[:n])
		if err != nil || m.Type != answer {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && e.ID == echo.ID {
			return time.Since(start), nil
		}
	}
}

// setServed gives this machine the addresses of what it offers: each service
// has its own, so that the policy can tell it from the machine.
func (c *Client) setServed(self *sync.Self) error {
	r := &c.state.reply
	var want []netip.Addr
	for _, name := range self.Serves {
		for _, a := range self.Names[name] {
			if c.overlay(a) && a != r.V4 && a != r.V6 && !slices.Contains(want, a) {
				want = append(want, a)
			}
		}
	}
	c.mu.Lock()
	have := c.served
	c.served = want
	c.mu.Unlock()
	if slices.Equal(have, want) {
		return nil
	}
	if c.cfg.TUN != "" {
		for _, a := range have {
			if !slices.Contains(want, a) {
				if err := tunAddress(c.cfg.TUN, "delete", a); err != nil {
					return fmt.Errorf("taking a service's address back: %w", err)
				}
			}
		}
		for _, a := range want {
			if err := tunAddress(c.cfg.TUN, "replace", a); err != nil {
				return fmt.Errorf("taking a service's address: %w", err)
			}
		}
		return nil
	}
	if err := c.stack.SetAddresses(append([]netip.Addr{r.V4, r.V6}, want...)); err != nil {
		return fmt.Errorf("taking a service's address: %w", err)
	}
	return nil
}

// servedAt waits until the hub has said at which addresses a name of this
// machine's is, and returns them.
func (c *Client) servedAt(ctx context.Context, name string) ([]netip.Addr, error) {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if self := c.view.Load().self; slices.Contains(self.Serves, name) && len(self.Names[name]) > 0 {
			return self.Names[name], nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
