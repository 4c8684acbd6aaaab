package dns

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// forwardTimeout is how long a client waits for the upstreams together.
const forwardTimeout = 6 * time.Second

// forward answers from the cache or from an upstream. Questions that are the
// same at the same time are asked once.
func (s *Server) forward(ctx context.Context, k key, resp *dns.Msg) {
	if a, age, ok := s.cache.get(k, s.now()); ok {
		s.counts.cached.Add(1)
		fill(resp, a, age)
		return
	}
	name := k.name + " " + strconv.Itoa(int(k.qtype)) + " " + strconv.FormatBool(k.do) + strconv.FormatBool(k.cd)
	done := s.flights.DoChan(name, func() (any, error) {
		// ctx ends with the server, not with the client that asked first.
		ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
		defer cancel()
		return s.ask(ctx, k), nil
	})
	// Asking ends by itself in time, and at once when the server stops.
	a, ok := (<-done).Val.(*answer)
	if !ok {
		a = failure("no answer came back")
	}
	fill(resp, a, 0)
}

// ask asks the upstreams and stores what they say.
func (s *Server) ask(ctx context.Context, k key) (a *answer) {
	defer func() {
		if r := recover(); r != nil {
			s.counts.panics.Add(1)
			s.log.Error("reading an upstream's DNS answer went wrong", "panic", r)
			a = failure("the upstream's answer could not be read")
		}
	}()
	s.counts.forwarded.Add(1)
	servers, err := s.servers()
	generation := s.cache.now()
	if err != nil {
		s.counts.failed.Add(1)
		return failure(err.Error())
	}
	m, err := s.upstreams.exchange(ctx, servers, k)
	if err != nil {
		s.counts.failed.Add(1)
		s.log.Debug("asking upstream resolvers", "name", k.name, "type", dns.Type(k.qtype), "error", err)
		a = failure("no upstream resolver answered")
	} else {
		a = s.clean(k, m)
		if a.filtered {
			s.log.Warn("dropped a private address from the answer to a public name", "name", fmt.Sprintf("%.253q", k.name))
		}
	}
	s.cache.put(k, a, s.now(), generation)
	return a
}

// fill copies a into resp, age old.
func fill(resp *dns.Msg, a *answer, age time.Duration) {
	resp.Rcode = a.rcode
	asked := resp.Question[0].Name
	resp.Answer = aged(a.answer, age, asked)
	resp.Ns = aged(a.ns, age, asked)
	switch {
	case a.failed != "":
		explain(resp, dns.ExtendedErrorCodeNoReachableAuthority, a.failed)
	case a.filtered:
		explain(resp, dns.ExtendedErrorCodeBlocked, "a public name led to a private address")
	}
}

// aged copies records, since answers are shared, with what is left of their
// lives and the name spelled as it was asked for.
func aged(rrs []dns.RR, age time.Duration, asked string) []dns.RR {
	if len(rrs) == 0 {
		return nil
	}
	out := make([]dns.RR, len(rrs))
	for i, rr := range rrs {
		rr = dns.Copy(rr)
		h := rr.Header()
		if strings.EqualFold(h.Name, asked) {
			h.Name = asked
		}
		passed := uint32(age / time.Second)
		if h.Ttl > passed {
			h.Ttl -= passed
		} else {
			h.Ttl = 1
		}
		out[i] = rr
	}
	return out
}

// servers returns whom to ask. What other resolvers said is forgotten.
func (s *Server) servers() ([]netip.AddrPort, error) {
	servers, changed, err := s.upstreams.get(s.now())
	if changed {
		s.cache.flush()
		s.log.Info("upstream resolvers changed", "servers", servers)
	}
	return servers, err
}
