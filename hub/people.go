package hub

import (
	"context"
	"crypto/tls"
	"net"

	"golang.org/x/sync/errgroup"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/services"
)

// The ports that clients of Jarvis expect, besides 80 and 443.
const (
	portAuth    = 7701
	portCommand = 7703
	portTLS     = 443
)

// maxPeopleBody is the size of a request to one of these services, bytes; each
// route has a smaller one of its own.
const maxPeopleBody = 1 << 20

// people serves auth, command or hooks on all of its ports: in the clear, which
// the tunnel hides, and on port 443 with a certificate of the hub's authority,
// for clients that insist. The limit of connections is one for all ports.
func (s *Server) people(svc service) services.Service {
	cfg := services.ServerConfig{Handler: s.accounts.handler(svc.Name), MaxBody: maxPeopleBody,
		Roster: s.roster, Hosts: s.hosts(svc), Logger: s.log}
	out := services.Service{Name: svc.Name}
	for _, p := range svc.Ports {
		if p.Proto == acl.ProtoTCP {
			out.TCP = append(out.TCP, p.First)
		}
	}
	out.Serve = func(ctx context.Context, l services.Listeners) error {
		plain, secure := split(l)
		conns := services.NewConnLimit(services.MaxConns, services.MaxConnsAll)
		group, ctx := errgroup.WithContext(ctx)
		serve := func(l services.Listeners, conf *tls.Config) {
			group.Go(func() error {
				server := services.NewServer(cfg)
				server.TLSConfig = conf
				return services.ServeHTTPLimited(ctx, server, l, conns)
			})
		}
		serve(plain, nil)
		serve(secure, s.tlsConfig(svc))
		return group.Wait()
	}
	return out
}

// split parts the listeners for TLS from the others.
func split(l services.Listeners) (plain, secure services.Listeners) {
	for _, t := range l.TCP {
		if a, ok := t.Addr().(*net.TCPAddr); ok && a.Port == portTLS {
			secure.TCP = append(secure.TCP, t)
			continue
		}
		plain.TCP = append(plain.TCP, t)
	}
	return plain, secure
}
