package dns

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services"
)

// How long a client may keep what it heard of the mesh's own names, seconds.
// Short, so that a change is seen soon; the answer is near.
const (
	ownTTL      = 30
	ownNegative = 10
)

// zone is the mesh's own names at one moment. It is immutable.
type zone struct {
	serial uint32
	names  map[string][]netip.Addr // canonical, with domain
	above  map[string]bool         // names that only have names below them
	ptr    map[netip.Addr][]string // sorted
}

// SetRecords puts the mesh's own names in force, replacing those before in one
// step. Keys are names without the domain ("stt"). When one of them is no name
// or has no usable address nothing changes.
func (s *Server) SetRecords(records map[string][]netip.Addr) error {
	z := &zone{
		names: make(map[string][]netip.Addr, len(records)),
		above: make(map[string]bool),
		ptr:   make(map[netip.Addr][]string),
	}
	for _, name := range slices.Sorted(maps.Keys(records)) {
		for label := range strings.SplitSeq(name, ".") {
			if err := peer.ValidName(label); err != nil {
				return fmt.Errorf("setting DNS record %.80q: %w", name, err)
			}
		}
		full := name + "." + s.domain
		if len(full) > 254 {
			return fmt.Errorf("setting DNS record %.80q: the name is longer than 253 bytes", name)
		}
		for _, a := range records[name] {
			if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
				return fmt.Errorf("setting DNS record %q: %v is no plain address", name, a)
			}
			z.ptr[a] = append(z.ptr[a], full)
		}
		z.names[full] = slices.Clone(records[name])
		for _, up, ok := strings.Cut(full, "."); ok && up != s.domain; _, up, ok = strings.Cut(up, ".") {
			z.above[up] = true
		}
	}
	for {
		old := s.zone.Load()
		z.serial = 1
		if old != nil {
			z.serial = old.serial + 1
		}
		if s.zone.CompareAndSwap(old, z) {
			return nil
		}
	}
}

// local answers what must not leave this machine, and reports whether it did.
// q.Name is canonical.
func (s *Server) local(p peer.Peer, q dns.Question, resp *dns.Msg) bool {
	if dns.IsSubDomain(s.domain, q.Name) {
		s.ownName(p, q, resp)
		return true
	}
	if rev, ok := reverse(q.Name); ok {
		return s.ownReverse(p, q, rev, resp)
	}
	for _, d := range s.private {
		if dns.IsSubDomain(d, q.Name) {
			return false
		}
	}
	return specialName(s.nowhere, q, resp)
}

func (s *Server) ownName(p peer.Peer, q dns.Question, resp *dns.Msg) {
	z := s.zone.Load()
	resp.Authoritative = true
	if q.Name == s.domain {
		switch q.Qtype {
		case dns.TypeSOA:
			resp.Answer = append(resp.Answer, soa(s.domain, z.serial))
		case dns.TypeNS:
			resp.Answer = append(resp.Answer, &dns.NS{Hdr: head(s.domain, dns.TypeNS, ownTTL), Ns: "dns." + s.domain})
		default:
			resp.Ns = append(resp.Ns, soa(s.domain, z.serial))
		}
		return
	}
	addrs, known := z.names[q.Name]
	known = known && s.visible(p, q.Name)
	if known {
		for _, a := range addrs {
			switch {
			case q.Qtype == dns.TypeA && a.Is4():
				resp.Answer = append(resp.Answer, &dns.A{Hdr: head(resp.Question[0].Name, dns.TypeA, ownTTL), A: a.AsSlice()})
			case q.Qtype == dns.TypeAAAA && a.Is6():
				resp.Answer = append(resp.Answer, &dns.AAAA{Hdr: head(resp.Question[0].Name, dns.TypeAAAA, ownTTL), AAAA: a.AsSlice()})
			}
		}
	}
	if len(resp.Answer) > 0 {
		return
	}
	if !known && !z.above[q.Name] {
		resp.Rcode = dns.RcodeNameError
	}
	resp.Ns = append(resp.Ns, soa(s.domain, z.serial))
}

func (s *Server) visible(p peer.Peer, full string) bool {
	return s.cfg.Visible == nil || s.cfg.Visible(p, strings.TrimSuffix(full, "."+s.domain))
}

// ownReverse answers reverse names of the mesh and of networks that are
// nobody's in public (RFC 6303); the rest may be forwarded.
func (s *Server) ownReverse(p peer.Peer, q dns.Question, rev netip.Prefix, resp *dns.Msg) bool {
	z := s.zone.Load()
	for _, n := range s.cfg.Networks {
		if rev.Bits() < n.Bits() || !n.Contains(rev.Addr()) {
			continue
		}
		apex := reverseZone(n, q.Name)
		resp.Authoritative = true
		switch {
		case q.Name == apex && q.Qtype == dns.TypeSOA:
			resp.Answer = append(resp.Answer, soa(apex, z.serial))
			return true
		case q.Name == apex && q.Qtype == dns.TypeNS:
			resp.Answer = append(resp.Answer, &dns.NS{Hdr: head(apex, dns.TypeNS, ownTTL), Ns: "dns." + s.domain})
			return true
		}
		exists := !rev.IsSingleIP() && slices.ContainsFunc(slices.Collect(maps.Keys(z.ptr)), rev.Contains)
		if rev.IsSingleIP() {
			for _, name := range z.ptr[rev.Addr()] {
				if !s.visible(p, name) {
					continue
				}
				exists = true
				if q.Qtype == dns.TypePTR {
					resp.Answer = append(resp.Answer, &dns.PTR{Hdr: head(resp.Question[0].Name, dns.TypePTR, ownTTL), Ptr: name})
				}
			}
		}
		if len(resp.Answer) > 0 {
			return true
		}
		if !exists && q.Name != apex {
			resp.Rcode = dns.RcodeNameError
		}
		resp.Ns = append(resp.Ns, soa(apex, z.serial))
		return true
	}
	for _, d := range s.private {
		if dns.IsSubDomain(d, q.Name) {
			return false
		}
	}
	if !privateReverse(rev) {
		return false
	}
	nxdomain(q.Name, resp)
	return true
}

// privateReverse reports whether rev lies in address space without a meaning
// in public.
func privateReverse(rev netip.Prefix) bool {
	first := rev.Masked().Addr()
	why := services.Special(first)
	if why == "" {
		return false
	}
	// The last address too: 172.in-addr.arpa is not private because
	// 172.16.0.0 is.
	last := first.AsSlice()
	for i := rev.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	l, _ := netip.AddrFromSlice(last)
	if rev.Addr().Is4() {
		return services.Special(l) == why
	}
	// Between the ends of an IPv6 prefix this short anything may lie.
	return services.Special(l) != "" && rev.Bits() >= 8
}

// reverse reads a name below in-addr.arpa or ip6.arpa as the prefix it is.
func reverse(name string) (netip.Prefix, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(rest, ".")
		if len(labels) > 4 {
			return netip.Prefix{}, false
		}
		var b [4]byte
		for i, l := range labels {
			n, err := strconv.ParseUint(l, 10, 8)
			if err != nil || strconv.FormatUint(n, 10) != l {
				return netip.Prefix{}, false
			}
			b[len(labels)-1-i] = byte(n)
		}
		return netip.PrefixFrom(netip.AddrFrom4(b), 8*len(labels)), true
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		labels := strings.Split(rest, ".")
		if len(labels) > 32 {
			return netip.Prefix{}, false
		}
		var b [16]byte
		for i, l := range labels {
			n, err := strconv.ParseUint(l, 16, 4)
			if err != nil || len(l) != 1 {
				return netip.Prefix{}, false
			}
			at := len(labels) - 1 - i
			b[at/2] |= byte(n) << (4 - 4*(at%2))
		}
		return netip.PrefixFrom(netip.AddrFrom16(b), 4*len(labels)), true
	}
	return netip.Prefix{}, false
}

// reverseZone cuts name down to the zone that belongs to n: n's prefix, rounded
// to the next whole label.
func reverseZone(n netip.Prefix, name string) string {
	labels := dns.SplitDomainName(name)
	keep := (n.Bits() + 7) / 8
	if n.Addr().Is6() {
		keep = (n.Bits() + 3) / 4
	}
	keep = min(keep+2, len(labels))
	return strings.Join(labels[len(labels)-keep:], ".") + "."
}

func head(name string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

func soa(apex string, serial uint32) *dns.SOA {
	return &dns.SOA{Hdr: head(apex, dns.TypeSOA, ownNegative), Ns: "dns." + apex, Mbox: "hostmaster." + apex,
		Serial: serial, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ownNegative}
}

// nxdomain says that name does not exist, with authority for its last label
// or its whole, so that the answer can be cached (RFC 6303, section 3).
func nxdomain(name string, resp *dns.Msg) {
	resp.Authoritative = true
	resp.Rcode = dns.RcodeNameError
	resp.Ns = append(resp.Ns, soa(name, 1))
}
