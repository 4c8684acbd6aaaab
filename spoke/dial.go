package spoke

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	gosync "sync"
	"time"

	"github.com/warrenmesh/warren/acl"
)

// Dial opens a connection to a machine or service of the mesh. Network is tcp,
// tcp4, tcp6, udp, udp4 or udp6; the address is host:port, where host is a name
// of the mesh, with or without its domain, or an address inside it. Nothing
// outside the mesh is dialed, and nothing that this machine's policy does not
// allow: that fails at once, with ErrPolicy.
func (c *Client) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dialing %.120q: it is HOST:PORT", address)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("dialing %.120q: the port is a number from 1 to 65535", address)
	}
	kind, family, err := splitNetwork(network)
	if err != nil {
		return nil, err
	}
	addrs, err := c.lookup(ctx, host, family)
	if err != nil {
		return nil, fmt.Errorf("dialing %s: %w", address, err)
	}
	proto := acl.ProtoTCP
	if kind == "udp" {
		proto = acl.ProtoUDP
	}
	var errs error
	for _, a := range addrs {
		if err := c.allowed(a, proto, uint16(port), host); err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		conn, err := c.dialAddr(ctx, kind, netip.AddrPortFrom(a, uint16(port)))
		if err == nil {
			return conn, nil
		}
		errs = errors.Join(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("dialing %s: %w", address, first(errs))
}

// first keeps the first of several errors: the addresses of one name fail for
// the same reason, and people want one sentence.
func first(err error) error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			return first(e)
		}
	}
	return err
}

func splitNetwork(network string) (kind, family string, err error) {
	for _, kind := range []string{"tcp", "udp"} {
		if family, ok := strings.CutPrefix(network, kind); ok && slices.Contains([]string{"", "4", "6"}, family) {
			return kind, family, nil
		}
	}
	return "", "", fmt.Errorf("dialing: the network is tcp or udp, perhaps with 4 or 6, not %.20q", network)
}

// allowed asks this machine's own slice, on the same matrix that the packets
// will meet, so that a refusal comes at once and with its reason.
func (c *Client) allowed(dst netip.Addr, proto acl.Proto, port uint16, name string) error {
	filter := c.view.Load().filter
	src := c.state.reply.V4
	if dst.Is6() {
		src = c.state.reply.V6
	}
	ex := filter.Explain(src, dst, proto, port)
	if ex.Allowed {
		return nil
	}
	host, _ := c.short(name)
	return fmt.Errorf("%w: %s; ask the admin for svc:%s:%d", ErrPolicy, ex.Reason, host, port)
}

// short strips the domain from a name of the mesh.
func (c *Client) short(name string) (string, bool) {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	domain := c.state.reply.Domain
	if v := c.view.Load(); v.self.Domain != "" {
		domain = v.self.Domain
	}
	if s, ok := strings.CutSuffix(name, "."+strings.ToLower(domain)); ok {
		return s, true
	}
	return name, !strings.Contains(name, ".")
}

// OnMesh reports whether host is a name or an address of the mesh, by its form:
// whether there is such a machine is another question.
func (c *Client) OnMesh(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return c.overlay(a)
	}
	_, ok := c.short(host)
	return ok && host != "" && host != "localhost"
}

// overlay reports whether a is an address inside the mesh. A mapped, scoped or
// otherwise dressed-up address is none.
func (c *Client) overlay(a netip.Addr) bool {
	r := &c.state.reply
	return a.Zone() == "" && !a.Is4In6() && (r.NetV4.Contains(a) || r.NetV6.Contains(a))
}

// lookup finds the addresses of a name of the mesh, those of one family if
// family is "4" or "6".
func (c *Client) lookup(ctx context.Context, host, family string) ([]netip.Addr, error) {
	var found []netip.Addr
	if a, err := netip.ParseAddr(host); err == nil {
		if !c.overlay(a) {
			return nil, fmt.Errorf("%s is %w; this proxy and this machine's tunnel lead into the mesh only", host, ErrNotMesh)
		}
		found = []netip.Addr{a}
	} else {
		name, ok := c.short(host)
		if !ok || name == "localhost" {
			return nil, fmt.Errorf("%.120s is %w: names of the mesh end in .%s", host, ErrNotMesh, c.state.reply.Domain)
		}
		if found = c.names(name); found == nil {
			// The first answer of the hub may be on its way, or have come since
			// the line above.
			if c.view.Load().self.Names == nil {
				_ = c.Ready(ctx)
			}
			found = c.names(name)
		}
		if found == nil {
			return nil, fmt.Errorf("%w that this machine may reach: %.63s; check the spelling, or ask the admin for svc:%.63s", ErrNoName, name, name)
		}
	}
	kept := slices.DeleteFunc(slices.Clone(found), func(a netip.Addr) bool {
		return family == "4" && !a.Is4() || family == "6" && !a.Is6() || !c.overlay(a)
	})
	if len(kept) == 0 {
		return nil, fmt.Errorf("%w with an IPv%s address: %.63s", ErrNoName, family, host)
	}
	return kept, nil
}

// names looks a short name up in what the hub said last.
func (c *Client) names(short string) []netip.Addr {
	v := c.view.Load()
	if a := v.self.Names[short]; len(a) > 0 {
		return a
	}
	r := &c.state.reply
	switch {
	case short == "hub":
		v4, v6 := pair(r.NetV4, r.NetV6, r.NetV4.Masked().Addr().Next())
		return []netip.Addr{v4, v6}
	case short == "dns" && len(r.DNS) > 0:
		return r.DNS
	case short == c.Membership().Name:
		return []netip.Addr{r.V4, r.V6}
	}
	return nil
}

// HTTPClient returns a client whose requests go through the mesh: the names in
// its URLs are the mesh's, and https is DialTLS. It follows no proxy settings
// of the environment.
func (c *Client) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: c.Dial, DialTLSContext: c.DialTLS, MaxIdleConns: 16, IdleConnTimeout: 30 * time.Second,
	}}
}

// Ping sends one ICMP echo request through the tunnel and returns how long the
// answer took, and who was asked. The policy must allow icmp.
func (c *Client) Ping(ctx context.Context, host string) (time.Duration, netip.Addr, error) {
	addrs, err := c.lookup(ctx, host, "")
	if err != nil {
		return 0, netip.Addr{}, fmt.Errorf("pinging %.120s: %w", host, err)
	}
	if err := c.allowed(addrs[0], acl.ProtoICMP, 0, host); err != nil {
		return 0, addrs[0], fmt.Errorf("pinging %.120s: %w", host, err)
	}
	took, err := c.pingAddr(ctx, addrs[0])
	if err != nil {
		return 0, addrs[0], fmt.Errorf("pinging %.120s: %w", host, err)
	}
	return took, addrs[0], nil
}

// Listen accepts connections from the mesh on this machine's own addresses
// inside it. Network is tcp, tcp4 or tcp6; the address is ":PORT", or one of
// the machine's own addresses with a port. Who may connect is the policy's to
// say.
func (c *Client) Listen(network, address string) (net.Listener, error) {
	kind, family, err := splitNetwork(network)
	if err != nil || kind != "tcp" {
		return nil, fmt.Errorf("listening: the network is tcp, tcp4 or tcp6, not %.20q", network)
	}
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("listening on %.120q: the address is :PORT", address)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("listening on %.120q: the port is a number from 1 to 65535", address)
	}
	r := &c.state.reply
	own := []netip.Addr{r.V4, r.V6}
	if host != "" {
		a, err := netip.ParseAddr(host)
		if err != nil || a != r.V4 && a != r.V6 {
			return nil, fmt.Errorf("listening on %.120q: this machine is %v and %v on the mesh", address, r.V4, r.V6)
		}
		own = []netip.Addr{a}
	}
	var list []net.Listener
	for _, a := range own {
		if family == "4" && !a.Is4() || family == "6" && !a.Is6() {
			continue
		}
		ln, err := c.listenAddr(netip.AddrPortFrom(a, uint16(port)))
		if err != nil {
			for _, other := range list {
				_ = other.Close()
			}
			return nil, fmt.Errorf("listening on %v port %d: %w", a, port, err)
		}
		list = append(list, ln)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("listening on %.120q: no address of that family", address)
	}
	return merge(list), nil
}

// merged accepts from the listeners of both families.
type merged struct {
	list     []net.Listener
	accepted chan net.Conn
	done     chan struct{}
	once     gosync.Once
	wg       gosync.WaitGroup
}

func merge(list []net.Listener) net.Listener {
	m := &merged{list: list, accepted: make(chan net.Conn), done: make(chan struct{})}
	for _, ln := range list {
		m.wg.Go(func() { m.accept(ln) })
	}
	return m
}

func (m *merged) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			m.shut() // both or none
			return
		}
		select {
		case m.accepted <- conn:
		case <-m.done:
			_ = conn.Close()
		}
	}
}

func (m *merged) shut() {
	m.once.Do(func() {
		close(m.done)
		for _, ln := range m.list {
			_ = ln.Close()
		}
	})
}

// Accept implements net.Listener.
func (m *merged) Accept() (net.Conn, error) {
	select {
	case conn := <-m.accepted:
		return conn, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It is safe to call twice.
func (m *merged) Close() error {
	m.shut()
	m.wg.Wait()
	return nil
}

// Addr implements net.Listener.
func (m *merged) Addr() net.Addr { return m.list[0].Addr() }
