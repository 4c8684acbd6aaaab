package dns

import (
	"context"

	"github.com/miekg/dns"
)

// Check asks the upstreams for the root's name servers, which every resolver
// knows, and returns why there is no answer. Nothing of it is cached.
func (s *Server) Check(ctx context.Context) error {
	servers, err := s.servers()
	if err != nil {
		return err
	}
	_, err = s.upstreams.exchange(ctx, servers, key{name: ".", qtype: dns.TypeNS})
	return err
}
