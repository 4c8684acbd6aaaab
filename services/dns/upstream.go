package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxUpstream is how many questions are asked at once, each with a socket
	// of its own: its port is part of what a forger has to guess.
	maxUpstream = 256
	// maxForeign is how many datagrams that answer something else are read
	// before the question is asked over TCP, where guessing does not help.
	maxForeign = 16
	// rereadAfter is how often the resolver file is looked at.
	rereadAfter = 2 * time.Second
	maxServers  = 8
)

// upstreams knows whom to ask. It is safe for concurrent use.
type upstreams struct {
	fixed []netip.AddrPort
	path  string
	own   []netip.Prefix
	slots chan struct{}

	mu      sync.Mutex
	looked  time.Time
	stamp   string
	servers []netip.AddrPort
	err     error
	good    int // the one that answered last
}

// get returns the servers to ask, in order, and whether they differ from those
// it returned before.
func (u *upstreams) get(now time.Time) (servers []netip.AddrPort, changed bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.fixed) > 0 {
		return u.order(u.fixed), false, nil
	}
	if age := now.Sub(u.looked); u.stamp == "" || age < 0 || age >= rereadAfter {
		u.looked = now
		changed = u.reread()
	}
	if u.err != nil {
		return nil, changed, u.err
	}
	return u.order(u.servers), changed, nil
}

func (u *upstreams) order(servers []netip.AddrPort) []netip.AddrPort {
	if u.good >= len(servers) {
		return servers
	}
	return slices.Concat(servers[u.good:], servers[:u.good])
}

func (u *upstreams) reread() (changed bool) {
	info, err := os.Stat(u.path)
	stamp := "missing"
	if err == nil {
		stamp = fmt.Sprint(info.ModTime().UnixNano(), " ", info.Size())
	}
	if stamp == u.stamp {
		return false
	}
	first := u.stamp == ""
	u.stamp = stamp
	servers, err := readResolvConf(u.path, u.own)
	changed = !first && !slices.Equal(servers, u.servers)
	u.servers, u.err, u.good = servers, err, 0
	return changed
}

// readResolvConf returns the nameservers of a resolv.conf(5). One inside the
// mesh is left out: the question would come back to us.
func readResolvConf(path string, own []netip.Prefix) ([]netip.AddrPort, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the host's resolvers: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("reading the host's resolvers: %w", err)
	}
	var servers []netip.AddrPort
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(f[1])
		if err != nil || slices.ContainsFunc(own, func(n netip.Prefix) bool { return n.Contains(addr.Unmap()) }) {
			continue
		}
		if len(servers) < maxServers {
			servers = append(servers, netip.AddrPortFrom(addr, Port))
		}
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("the host has no resolver in %s; name one in the hub's settings", path)
	}
	return servers, nil
}

// exchange asks the servers in turn, twice, and returns the first answer that
// is one: NOERROR or NXDOMAIN.
func (u *upstreams) exchange(ctx context.Context, servers []netip.AddrPort, k key) (*dns.Msg, error) {
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for a free place: %w", ctx.Err())
	}
	var errs []error
	for _, patience := range []time.Duration{1500 * time.Millisecond, 3 * time.Second} {
		for _, server := range servers {
			m, err := askOne(ctx, server, k, patience)
			if err == nil && m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
				err = errors.New(dns.RcodeToString[m.Rcode])
			}
			if err == nil {
				u.prefer(server)
				return m, nil
			}
			errs = append(errs, fmt.Errorf("asking %v: %w", server, err))
			if ctx.Err() != nil {
				return nil, errors.Join(errs...)
			}
		}
	}
	return nil, errors.Join(errs...)
}

// prefer starts with server the next time.
func (u *upstreams) prefer(server netip.AddrPort) {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := u.servers
	if len(u.fixed) > 0 {
		list = u.fixed
	}
	if i := slices.Index(list, server); i >= 0 {
		u.good = i
	}
}

var (
	errForged    = errors.New("too many datagrams that answer another question")
	errTruncated = errors.New("truncated")
)

// askOne asks one server: over UDP, and over TCP when the answer does not fit
// or somebody interferes. A server that cannot read EDNS is asked without.
func askOne(ctx context.Context, server netip.AddrPort, k key, patience time.Duration) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, edns := range []bool{true, false} {
		q := question(k, edns)
		m, err := askVia(ctx, "udp", server, q)
		if errors.Is(err, errForged) || errors.Is(err, errTruncated) {
			m, err = askVia(ctx, "tcp", server, q)
		}
		if err != nil {
			return nil, err
		}
		if edns && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
			continue
		}
		return m, nil
	}
	return nil, errors.New("it can read no question")
}

// question is made anew for each server: an unguessable id, and letters in
// upper and lower case by chance, which the server repeats and a forger, who
// does not see the question, cannot.
func question(k key, edns bool) *dns.Msg {
	var r [2 + 256]byte
	_, _ = rand.Read(r[:]) // never fails (crypto/rand)
	name := []byte(k.name)
	for i, c := range name {
		// After a backslash comes an escape: \DDD has digits only.
		if 'a' <= c && c <= 'z' && r[2+i%256]&1 == 1 {
			name[i] = c - 'a' + 'A'
		}
	}
	q := &dns.Msg{Question: []dns.Question{{Name: string(name), Qtype: k.qtype, Qclass: dns.ClassINET}}}
	q.Id = binary.BigEndian.Uint16(r[:2])
	q.RecursionDesired = true
	q.CheckingDisabled = k.cd
	if edns {
		q.SetEdns0(maxUDP, k.do)
	}
	return q
}

func askVia(ctx context.Context, network string, server netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	wire, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("packing the question: %w", err)
	}
	// A connected socket takes datagrams from the server's address only, and
	// its port is chosen by the kernel for this one question.
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		return overTCP(conn, wire, q)
	}
	return overUDP(conn, wire, q)
}

func overUDP(conn net.Conn, wire []byte, q *dns.Msg) (*dns.Msg, error) {
	if _, err := conn.Write(wire); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	for range maxForeign {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		m := new(dns.Msg)
		// A truncated message need not be readable beyond its question.
		err = m.Unpack(buf[:n])
		if !matches(m, q) {
			continue
		}
		if m.Truncated {
			return nil, errTruncated
		}
		if err != nil {
			return nil, fmt.Errorf("reading the answer: %w", err)
		}
		return m, nil
	}
	return nil, errForged
}

func overTCP(conn net.Conn, wire []byte, q *dns.Msg) (*dns.Msg, error) {
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	if err := m.Unpack(buf); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	// Over TCP nobody else can answer, so the case of letters may be lost.
	if m.Id != q.Id || !m.Response || len(m.Question) > 1 ||
		len(m.Question) == 1 && (!strings.EqualFold(m.Question[0].Name, q.Question[0].Name) || m.Question[0].Qtype != q.Question[0].Qtype) {
		return nil, errors.New("the answer is to another question")
	}
	return m, nil
}

// matches reports whether m answers q to the letter. A server that could not
// read the question cannot repeat it; its id must do, and all it is believed
// is that.
func matches(m, q *dns.Msg) bool {
	if m.Id != q.Id || !m.Response || m.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(m.Question) == 0 {
		return m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented
	}
	return len(m.Question) == 1 && m.Question[0] == q.Question[0]
}
