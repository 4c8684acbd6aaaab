package dns

import (
	"net"

	"github.com/miekg/dns"
)

// nowhereDomains lists domains that do not exist in the public DNS by their
// standards. A query for one that leaves the machine tells strangers about the
// home, and an answer from them would be a lie.
func nowhereDomains() []string {
	return []string{
		"invalid.", "test.", "alt.", // RFC 6761, 9476
		"local.",                          // multicast DNS, RFC 6762
		"onion.",                          // RFC 7686
		"home.arpa.",                      // RFC 8375
		"internal.",                       // reserved for private use; a cloud's metadata names are below it
		"lan.", "home.", "corp.", "mail.", // never to be delegated; home routers use them
		"resolver.arpa.",           // designated resolvers, RFC 9462: there are none here
		"use-application-dns.net.", // asks whether a browser may go around this resolver: no, it would not find the mesh
	}
}

// specialName answers names that RFC 6761 and its kin settle, and reports
// whether it did.
func specialName(nowhere []string, q dns.Question, resp *dns.Msg) bool {
	if dns.IsSubDomain("localhost.", q.Name) {
		resp.Authoritative = true
		switch q.Qtype {
		case dns.TypeA:
			resp.Answer = append(resp.Answer, &dns.A{Hdr: head(resp.Question[0].Name, dns.TypeA, ownTTL), A: net.IPv4(127, 0, 0, 1)})
		case dns.TypeAAAA:
			resp.Answer = append(resp.Answer, &dns.AAAA{Hdr: head(resp.Question[0].Name, dns.TypeAAAA, ownTTL), AAAA: net.IPv6loopback})
		default:
			resp.Ns = append(resp.Ns, soa("localhost.", 1))
		}
		return true
	}
	for _, d := range nowhere {
		if dns.IsSubDomain(d, q.Name) {
			nxdomain(d, resp)
			return true
		}
	}
	// A name without a dot is a machine's, not a domain's: asking the world
	// for it only tells the world.
	if dns.CountLabel(q.Name) == 1 {
		switch q.Qtype {
		case dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeSVCB:
			nxdomain(q.Name, resp)
			return true
		}
	}
	return false
}
