package publish

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/warrenmesh/warren/services"
)

// Target is where a published service really is: one scheme, one host, one
// port, seen from the hub's machine. The zero value is no target.
type Target struct {
	// Scheme is "http", "https" or "tcp".
	Scheme string
	// Host is an IP address without brackets, or a host name.
	Host string
	// Port is 1 to 65535.
	Port uint16
}

// ParseTarget reads "http://127.0.0.1:8123", "https://nas.example:5001" or
// "tcp://127.0.0.1:22". A missing port is 80 for http and 443 for https.
//
// A target says where and nothing else: user info, paths, queries and
// fragments are refused, since they would look like limits and be none. So are
// unix sockets, addresses that stand for many machines or none, addresses of a
// cloud's metadata service, and host names that some resolvers take for
// numbers ("127.1", "0x7f000001").
func ParseTarget(s string) (Target, error) {
	refuse := func(format string, args ...any) (Target, error) {
		return Target{}, fmt.Errorf("target %.100q: %s", s, fmt.Sprintf(format, args...))
	}
	if len(s) > 300 {
		return refuse("it is %d bytes long; the most is 300", len(s))
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return refuse("it needs a scheme, as in \"http://127.0.0.1:8123\" or \"tcp://127.0.0.1:22\"")
	}
	t := Target{Scheme: strings.ToLower(scheme)}
	switch t.Scheme {
	case "http", "https", "tcp":
	case "unix", "http+unix":
		return refuse("unix sockets cannot be published; let the program listen on 127.0.0.1")
	default:
		return refuse("the scheme is %.20q; it is http, https or tcp", scheme)
	}
	for i := range len(rest) {
		if c := rest[i]; c <= ' ' || c >= 0x7f || c == '\\' {
			return refuse("%q at position %d has no place in a host name; write an international name in its xn-- form", c, len(scheme)+4+i)
		}
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		return refuse("a query or fragment (%.20q) has no place in it", rest[i:])
	}
	if strings.Contains(rest, "@") {
		return refuse("a user name or password has no place in it")
	}
	host, path, _ := strings.Cut(rest, "/")
	if path != "" || t.Scheme == "tcp" && strings.Contains(rest, "/") {
		return refuse("a path (%.20q) has no place in it; the whole server is published", "/"+path)
	}
	var err error
	if t.Host, t.Port, err = splitHost(host, t.Scheme); err != nil {
		return refuse("%v", err)
	}
	if err := checkHost(t.Host); err != nil {
		return refuse("%v", err)
	}
	return t, nil
}

func splitHost(s, scheme string) (host string, port uint16, err error) {
	host, text := s, ""
	if strings.HasPrefix(s, "[") || strings.Count(s, ":") == 1 {
		if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
			host, text = s[:i], s[i+1:]
			if text == "" {
				return "", 0, fmt.Errorf("the port after the colon is missing")
			}
		}
	} else if strings.Contains(s, ":") {
		return "", 0, fmt.Errorf("write an IPv6 address in brackets, as in \"[::1]:8080\"")
	}
	if strings.HasPrefix(host, "[") != strings.HasSuffix(host, "]") {
		return "", 0, fmt.Errorf("the brackets around the address do not match")
	}
	if strings.HasPrefix(host, "[") {
		host = host[1 : len(host)-1]
		if a, err := netip.ParseAddr(host); err != nil || !a.Is6() {
			return "", 0, fmt.Errorf("%.60q in brackets is no IPv6 address", host)
		}
	}
	switch {
	case text != "":
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != text {
			return "", 0, fmt.Errorf("the port is %.20q; it is a number from 1 to 65535", text)
		}
		return host, uint16(n), nil
	case scheme == "http":
		return host, 80, nil
	case scheme == "https":
		return host, 443, nil
	}
	return "", 0, fmt.Errorf("it needs a port, as in \"tcp://127.0.0.1:22\"")
}

func checkHost(host string) error {
	if host == "" {
		return fmt.Errorf("it needs a host, as in \"http://127.0.0.1:8123\"")
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return fmt.Errorf("an address with a zone (%.40q) cannot be published", host)
		}
		if a.Is4In6() {
			return fmt.Errorf("write the address as %v", a.Unmap())
		}
		return checkAddr(a, nil)
	}
	if len(host) > 253 {
		return fmt.Errorf("the host name is %d bytes long; the most is 253", len(host))
	}
	if strings.HasSuffix(host, ".") {
		return fmt.Errorf("leave out the dot at the end of the host name")
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	if last != "" && (last[0] >= '0' && last[0] <= '9') && isNumber(last) {
		return fmt.Errorf("%.60q is neither an address nor a host name; write an address in full, as in \"127.0.0.1\"", host)
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("%.60q is no host name", host)
		}
		for _, c := range label {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return fmt.Errorf("%.60q is no host name: %q has no place in one", host, c)
			}
		}
	}
	if slices.Contains([]string{"metadata", "metadata.google.internal", "instance-data"}, strings.ToLower(host)) {
		return fmt.Errorf("a cloud's metadata service is never published: it hands out the machine's credentials")
	}
	return nil
}

// isNumber reports whether a resolver might read s as part of an IPv4 address
// in decimal, octal or hexadecimal form.
func isNumber(s string) bool {
	if _, err := strconv.ParseUint(s, 10, 64); err == nil {
		return true
	}
	digits, hex := strings.CutPrefix(strings.ToLower(s), "0x")
	return hex && strings.Trim(digits, "0123456789abcdef") == ""
}

// checkAddr refuses addresses that must not be dialled for anybody. It judges
// the targets as they are written and, again, each address that a target's
// name turns out to have.
func checkAddr(a netip.Addr, overlay []netip.Prefix) error {
	if !a.IsValid() {
		return fmt.Errorf("there is no address")
	}
	if services.Metadata(a) {
		return fmt.Errorf("%v is where a cloud hands out the machine's credentials; it is never published", a)
	}
	inner := services.Inside(a)
	for _, n := range overlay {
		if n.Contains(a.WithZone("")) || n.Contains(inner) {
			return fmt.Errorf("%v is inside the mesh; name the service or peer in the policy instead of publishing it again", a)
		}
	}
	switch {
	case a.IsUnspecified() || inner.IsUnspecified() || inner.Is4() && inner.As4()[0] == 0:
		return fmt.Errorf("%v stands for every address; write the one that is meant, such as 127.0.0.1", a)
	case a.IsMulticast() || inner.IsMulticast() || inner == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%v stands for many machines", a)
	case inner != a.Unmap():
		return fmt.Errorf("%v hides the address %v; write that one", a, inner)
	}
	return nil
}

// String is the form that ParseTarget reads.
func (t Target) String() string {
	if t.Scheme == "" {
		return ""
	}
	return t.Scheme + "://" + t.addr()
}

func (t Target) addr() string { return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) }

// HTTP reports whether the target speaks HTTP, so that the service can say who
// is calling.
func (t Target) HTTP() bool { return t.Scheme == "http" || t.Scheme == "https" }

// DefaultPort is where the service listens inside the tunnel: 80 for HTTP (and
// HTTPS, since the tunnel encrypts already), the target's own port for tcp.
func (t Target) DefaultPort() uint16 {
	if t.HTTP() {
		return 80
	}
	return t.Port
}

// Refuse says why the target may not be published in a mesh with these
// networks, nil if it may. A host name is judged when it is dialled.
func (t Target) Refuse(overlay []netip.Prefix) error {
	if t.Scheme == "" || t.Port == 0 {
		return fmt.Errorf("there is no target")
	}
	if a, err := netip.ParseAddr(t.Host); err == nil {
		if err := checkAddr(a, overlay); err != nil {
			return fmt.Errorf("target %q: %w", t, err)
		}
	}
	return nil
}

// admits says why a socket may not connect to this address for the target.
func (t Target) admits(address string, overlay []netip.Prefix) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("checking address %q: %w", address, err)
	}
	if ap.Port() != t.Port {
		return errors.New("the port is not the published one")
	}
	return checkAddr(ap.Addr(), overlay)
}

// Probe connects to the target and hangs up: nil means that something answers
// there. It dials what a publisher would dial and nothing else.
func (t Target) Probe(ctx context.Context, overlay []netip.Prefix) error {
	d := net.Dialer{Timeout: dialTimeout, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		return t.admits(address, overlay)
	}}
	c, err := d.DialContext(ctx, "tcp", t.addr())
	if err != nil {
		return fmt.Errorf("probing %s: %w", t, err)
	}
	return c.Close()
}
