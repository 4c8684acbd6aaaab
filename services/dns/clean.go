package dns

import (
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/warrenmesh/warren/services"
)

const (
	maxChain   = 16  // CNAMEs in a row
	maxRecords = 512 // in one answer
)

// clean makes of an upstream's reply what may be passed on: the records that
// answer the question, without addresses that a public name has no business
// with. Everything else in the message is dropped.
func (s *Server) clean(k key, m *dns.Msg) *answer {
	a := &answer{rcode: m.Rcode, size: m.Len()}
	if len(m.Answer) > maxRecords || len(m.Ns) > maxRecords {
		return failure("the upstream's answer has too many records")
	}
	trusted := false
	for _, d := range s.private {
		trusted = trusted || dns.IsSubDomain(d, k.name)
	}
	chain := follow(k.name, m.Answer)
	for _, rr := range m.Answer {
		h := rr.Header()
		h.Name = dns.CanonicalName(h.Name)
		if h.Class != dns.ClassINET || !answers(k, chain, rr) {
			continue
		}
		if s.forbidden(rr, trusted) {
			a.filtered = true
			continue
		}
		h.Ttl = uint32(clamp(time.Duration(h.Ttl)*time.Second, minTTL, maxTTL) / time.Second)
		a.answer = append(a.answer, rr)
	}
	if a.filtered {
		s.counts.private.Add(1)
	}
	negative := s.authority(k, chain, m.Ns, a)
	a.ttl = lifetime(a, negative)
	return a
}

// follow returns the names that answer for name: itself and where its CNAMEs
// lead, by this message.
func follow(name string, rrs []dns.RR) map[string]bool {
	next := make(map[string]string)
	for _, rr := range rrs {
		if c, ok := rr.(*dns.CNAME); ok {
			next[dns.CanonicalName(c.Hdr.Name)] = dns.CanonicalName(c.Target)
		}
	}
	chain := map[string]bool{name: true}
	for range maxChain {
		target, ok := next[name]
		if !ok || chain[target] {
			break
		}
		chain[target] = true
		name = target
	}
	return chain
}

func answers(k key, chain map[string]bool, rr dns.RR) bool {
	h := rr.Header()
	switch h.Rrtype {
	case dns.TypeDNAME:
		for name := range chain {
			if name != h.Name && dns.IsSubDomain(h.Name, name) {
				return true
			}
		}
		return false
	case dns.TypeRRSIG:
		if !k.do && k.qtype != dns.TypeRRSIG {
			return false
		}
	case k.qtype, dns.TypeCNAME:
	default:
		return false
	}
	return chain[h.Name]
}

// forbidden reports whether rr would lead a client to an address that is not
// public, or into the mesh's own domain. trusted names may lead into the home
// network, though never into the tunnel or onto the client itself.
func (s *Server) forbidden(rr dns.RR, trusted bool) bool {
	if s.forbiddenName(rr.Header().Name) {
		return true
	}
	switch rr := rr.(type) {
	case *dns.A:
		return s.forbiddenAddr(rr.A, trusted)
	case *dns.AAAA:
		return s.forbiddenAddr(rr.AAAA, trusted)
	case *dns.CNAME:
		return s.forbiddenName(rr.Target)
	case *dns.DNAME:
		return s.forbiddenName(rr.Target)
	case *dns.SVCB:
		return s.forbiddenSVCB(rr, trusted)
	case *dns.HTTPS:
		return s.forbiddenSVCB(&rr.SVCB, trusted)
	}
	return false
}

func (s *Server) forbiddenName(target string) bool {
	return dns.IsSubDomain(s.domain, dns.CanonicalName(target))
}

func (s *Server) forbiddenSVCB(rr *dns.SVCB, trusted bool) bool {
	if s.forbiddenName(rr.Target) {
		return true
	}
	for _, kv := range rr.Value {
		var hints []net.IP
		switch kv := kv.(type) {
		case *dns.SVCBIPv4Hint:
			hints = kv.Hint
		case *dns.SVCBIPv6Hint:
			hints = kv.Hint
		}
		for _, ip := range hints {
			if s.forbiddenAddr(ip, trusted) {
				return true
			}
		}
	}
	return false
}

func (s *Server) forbiddenAddr(ip net.IP, trusted bool) bool {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return true
	}
	inner := services.Inside(addr)
	addr = addr.Unmap()
	for _, n := range s.cfg.Networks {
		if n.Contains(addr) || n.Contains(inner) {
			return true
		}
	}
	if !trusted {
		return services.Special(addr) != ""
	}
	switch services.Special(inner) {
	case "", "private", "unique local", "carrier NAT":
		return services.Metadata(addr)
	}
	return true
}

// authority keeps what makes a negative answer: its SOA, and with DO the
// proof. It returns how long the answer may be believed.
func (s *Server) authority(k key, chain map[string]bool, ns []dns.RR, a *answer) time.Duration {
	var believe time.Duration
	if a.rcode != dns.RcodeNameError && len(a.answer) > 0 && hasType(a.answer, k.qtype) {
		return 0
	}
	for _, rr := range ns {
		h := rr.Header()
		h.Name = dns.CanonicalName(h.Name)
		if h.Class != dns.ClassINET || dns.IsSubDomain(s.domain, h.Name) {
			continue
		}
		switch rr := rr.(type) {
		case *dns.SOA:
			above := false
			for name := range chain {
				above = above || dns.IsSubDomain(h.Name, name)
			}
			if !above {
				continue
			}
			believe = clamp(time.Duration(min(h.Ttl, rr.Minttl))*time.Second, minTTL, maxNegative)
			h.Ttl = uint32(believe / time.Second)
		case *dns.NSEC, *dns.NSEC3, *dns.RRSIG:
			if !k.do {
				continue
			}
			h.Ttl = min(h.Ttl, uint32(maxNegative/time.Second))
		default:
			continue
		}
		a.ns = append(a.ns, rr)
	}
	return believe
}

func hasType(rrs []dns.RR, t uint16) bool {
	for _, rr := range rrs {
		if rr.Header().Rrtype == t {
			return true
		}
	}
	return false
}

// lifetime is how long the whole answer may be kept: its shortest part.
func lifetime(a *answer, negative time.Duration) time.Duration {
	if a.filtered && len(a.answer) == 0 && negative == 0 {
		return minTTL
	}
	ttl := maxTTL
	if negative > 0 {
		ttl = negative
	} else if len(a.answer) == 0 {
		return 0 // without an SOA nobody said how long "no" holds (RFC 2308, 5)
	}
	for _, rr := range a.answer {
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
	}
	return ttl
}

func clamp(d, low, high time.Duration) time.Duration { return min(max(d, low), high) }

func failure(why string) *answer {
	return &answer{rcode: dns.RcodeServerFailure, failed: why, ttl: failureTTL, size: 64}
}
