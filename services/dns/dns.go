// Package dns answers names inside the tunnel.
//
// Names of the mesh's own domain, and the reverse zones of its own networks,
// are answered from records the hub sets and are never sent anywhere else.
// Names that by their standards have no place in the public DNS (localhost,
// .local, .invalid, reverse names of private networks, …) are answered here
// too (RFC 6303, 6761, 6762, 7686, 8375). Everything else is forwarded to
// the upstreams, cached, and cleaned on its way back: an address that is not
// a public one is dropped from the answer to a public name, because a web page
// that could point its name at a private address would turn the browser that
// shows it into a hand inside the network (DNS rebinding).
//
// The server validates no signatures and sets no AD bit; a client that wants
// DNSSEC asks with DO and checks for itself. It answers active peers only.
package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services"
)

// Port is where DNS is served, over UDP and TCP.
const Port = 53

// maxUDP is the largest datagram that is sent, bytes: it fits the tunnel's
// smallest MTU without fragments.
const maxUDP = 1232

// Config says what a Server answers. Domain and Roster are needed.
type Config struct {
	// Domain is the mesh's own, "warren.internal".
	Domain string
	// Networks are the mesh's own prefixes; their reverse zones are answered
	// here and their addresses never accepted from outside.
	Networks []netip.Prefix
	// Roster says who is on the mesh. Queries from others get no answer.
	Roster func() *peer.Roster
	// Visible says whether p may learn of a name of the mesh's own domain,
	// given without the domain. Nil: every active peer may learn of all. What
	// is hidden does not exist.
	Visible func(p peer.Peer, name string) bool
	// Upstreams answer what is not ours, tried in order. Empty: those of
	// ResolvConf.
	Upstreams []netip.AddrPort
	// ResolvConf is the host's resolver file, read again when it changes.
	// Empty: /etc/resolv.conf.
	ResolvConf string
	// PrivateDomains are domains of the home network, such as "fritz.box" or
	// "168.192.in-addr.arpa", that upstreams may answer with private addresses.
	PrivateDomains []string
	// Logger; nil discards.
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Server answers DNS queries. It is safe for concurrent use.
type Server struct {
	cfg     Config
	domain  string   // canonical, with the final dot
	private []string // canonical, like nowhere
	nowhere []string
	log     *slog.Logger
	now     func() time.Time

	zone      atomic.Pointer[zone]
	cache     *cache
	flights   singleflight.Group
	upstreams upstreams
	clients   clients
	counts    counts
}

// New checks c. The server knows no own names until SetRecords.
func New(c Config) (*Server, error) {
	domain := dns.CanonicalName(c.Domain)
	if domain == "." {
		return nil, errors.New("setting up DNS: the mesh needs a domain, as in \"warren.internal\"")
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(domain, "."), ".") {
		if err := peer.ValidName(label); err != nil {
			return nil, fmt.Errorf("setting up DNS: domain %.253q: %w", c.Domain, err)
		}
	}
	if len(domain) > 190 { // names of 63 bytes must still fit below it
		return nil, fmt.Errorf("setting up DNS: the domain is %d bytes long; the most is 190", len(domain))
	}
	if c.Roster == nil {
		return nil, errors.New("setting up DNS: nobody to answer: no roster was set")
	}
	s := &Server{cfg: c, domain: domain, log: c.Logger, now: c.Now, nowhere: nowhereDomains()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	for _, d := range c.PrivateDomains {
		s.private = append(s.private, dns.CanonicalName(d))
	}
	path := c.ResolvConf
	if path == "" {
		path = "/etc/resolv.conf"
	}
	s.upstreams = upstreams{fixed: c.Upstreams, path: path, own: c.Networks, slots: make(chan struct{}, maxUpstream)}
	s.cache = newCache()
	s.clients.count = make(map[netip.Addr]int)
	return s, s.SetRecords(nil)
}

// Stats counts since the server was made.
type Stats struct {
	Queries   uint64 // all that came
	Own       uint64 // answered from own records or special names
	Forwarded uint64 // asked of an upstream
	Cached    uint64 // answered from the cache
	Failed    uint64 // no upstream answered
	Private   uint64 // answers from which private addresses were dropped
	Malformed uint64 // not a query
	Refused   uint64 // a query of a kind that is not answered
	Stranger  uint64 // not from an active peer
	Limited   uint64 // dropped, since the peer had too many under way
	Panics    uint64 // bugs that cost one answer
}

type counts struct {
	queries, own, forwarded, cached, failed, private, malformed, refused, stranger, limited, panics atomic.Uint64
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	c := &s.counts
	return Stats{c.queries.Load(), c.own.Load(), c.forwarded.Load(), c.cached.Load(), c.failed.Load(), c.private.Load(),
		c.malformed.Load(), c.refused.Load(), c.stranger.Load(), c.limited.Load(), c.panics.Load()}
}

// handle answers one query from client; nil means that nothing is sent. The
// answer is at most 512 bytes over UDP, or what EDNS asks for up to maxUDP.
func (s *Server) handle(ctx context.Context, client netip.Addr, query []byte, udp bool) (reply []byte) {
	s.counts.queries.Add(1)
	defer func() {
		// The bytes come from a peer or an upstream: a mistake in reading them
		// may cost that one answer and nothing else.
		if r := recover(); r != nil {
			s.counts.panics.Add(1)
			s.log.Error("answering a DNS query went wrong", "client", client, "panic", r)
			reply = nil
		}
	}()
	p, ok := services.ActivePeer(s.cfg.Roster(), client)
	if !ok {
		s.counts.stranger.Add(1)
		return nil
	}
	// An answer is never answered: two servers would talk for ever.
	if len(query) < 12 || query[2]&0x80 != 0 {
		s.counts.malformed.Add(1)
		return nil
	}
	if opcode := query[2] >> 3 & 15; opcode != dns.OpcodeQuery {
		s.counts.refused.Add(1)
		return header(query, dns.RcodeNotImplemented)
	}
	req := new(dns.Msg)
	opt, ok := parse(query, req)
	if !ok {
		s.counts.malformed.Add(1)
		return header(query, dns.RcodeFormatError)
	}
	resp := s.respond(ctx, p, req, opt)
	return pack(resp, req, opt, udp)
}

// parse reads a query: exactly one question, nothing else but an OPT record.
func parse(query []byte, req *dns.Msg) (opt *dns.OPT, ok bool) {
	count := func(i int) uint16 { return binary.BigEndian.Uint16(query[i:]) }
	if count(4) != 1 || count(6) != 0 || count(8) != 0 || count(10) > 1 {
		return nil, false
	}
	if err := req.Unpack(query); err != nil || len(req.Question) != 1 || len(req.Extra) != int(count(10)) {
		return nil, false
	}
	for _, rr := range req.Extra {
		if opt, ok = rr.(*dns.OPT); !ok || opt.Hdr.Name != "." {
			return nil, false
		}
	}
	return opt, true
}

// header is an answer without a question, for queries that cannot be read.
func header(query []byte, rcode byte) []byte {
	h := make([]byte, 12)
	copy(h, query[:4])
	h[2] = h[2]&0x79 | 0x80 // keep opcode and RD
	h[3] = rcode
	return h
}

// pack makes the bytes that are sent, cut down to what the client takes.
func pack(resp, req *dns.Msg, opt *dns.OPT, udp bool) []byte {
	size := dns.MaxMsgSize
	if udp {
		size = dns.MinMsgSize
		if opt != nil {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDP)
		}
	}
	resp.Compress = true
	resp.Truncate(size)
	b, err := resp.Pack()
	if err != nil || len(b) > size {
		resp.Answer, resp.Ns, resp.Truncated = nil, nil, err == nil
		if err != nil {
			resp.Rcode = dns.RcodeServerFailure
		}
		if b, err = resp.Pack(); err != nil || len(b) > size {
			return nil
		}
	}
	return b
}

// respond decides where the answer comes from.
func (s *Server) respond(ctx context.Context, p peer.Peer, req *dns.Msg, opt *dns.OPT) *dns.Msg {
	resp := new(dns.Msg)
	resp.SetReply(req)
	resp.RecursionAvailable = true
	if opt != nil {
		resp.SetEdns0(maxUDP, opt.Do())
		if opt.Version() != 0 {
			resp.Rcode = dns.RcodeBadVers
			return resp
		}
	}
	q := req.Question[0]
	switch {
	case q.Qclass != dns.ClassINET, // CHAOS too: nobody needs to know what runs here
		q.Qtype == dns.TypeNone, q.Qtype == dns.TypeOPT,
		q.Qtype >= 128 && q.Qtype <= 255: // ANY, AXFR, IXFR and the other questions about questions (RFC 6895)
		s.counts.refused.Add(1)
		resp.Rcode = dns.RcodeRefused
		return resp
	}
	q.Name = dns.CanonicalName(q.Name)
	if s.local(p, q, resp) {
		s.counts.own.Add(1)
		return resp
	}
	if !req.RecursionDesired {
		s.counts.refused.Add(1)
		resp.Rcode = dns.RcodeRefused
		return resp
	}
	s.forward(ctx, key{name: q.Name, qtype: q.Qtype, do: opt != nil && opt.Do(), cd: req.CheckingDisabled}, resp)
	return resp
}

// explain adds an extended error (RFC 8914) for clients that read them.
func explain(resp *dns.Msg, code uint16, text string) {
	if opt := resp.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
}

// clients counts what each client has under way.
type clients struct {
	mu    sync.Mutex
	total int
	count map[netip.Addr]int
}

const (
	maxPerClient = 64
	maxQueries   = 1024
)

func (c *clients) enter(a netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count[a] >= maxPerClient || c.total >= maxQueries {
		return false
	}
	c.count[a]++
	c.total++
	return true
}

func (c *clients) leave(a netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if c.count[a]--; c.count[a] <= 0 {
		delete(c.count, a)
	}
}
