package hub

import (
	"context"
	"net"
	"net/netip"
	"reflect"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/console"
	"github.com/warrenmesh/warren/services/publish"
	"github.com/warrenmesh/warren/services/sync"
)

// listening is one service that is being served.
type listening struct {
	of  service
	run *services.Running
}

// listen starts the services that are new, ends those that are gone, and
// restarts those that changed. A service that cannot be started is reported
// by status and doctor; it does not keep the others from running. The caller
// holds s.mu.
func (s *Server) listen(snap *snapshot) {
	want := make(map[string]service)
	for _, svc := range snap.services {
		if svc.local() {
			want[svc.Name] = svc
		}
	}
	for name, l := range s.running {
		if svc, ok := want[name]; !ok || !reflect.DeepEqual(svc, l.of) {
			s.unlisten(name)
		}
	}
	for name, svc := range want {
		if _, ok := s.running[name]; ok {
			continue
		}
		server, ok, err := s.serve(svc)
		if !ok {
			continue
		}
		var run *services.Running
		if err == nil {
			run, err = services.Start(s.ctx, services.Network{Listen: s.listenTCP, ListenPacket: s.stack.ListenPacket}, server, svc.V4, svc.V6)
		}
		if err != nil {
			s.log.Error("starting service", "service", name, "err", err)
			continue
		}
		s.running[name] = &listening{of: svc, run: run}
	}
}

func (s *Server) unlisten(name string) {
	l := s.running[name]
	delete(s.running, name)
	if err := l.run.Stop(); err != nil {
		s.log.Error("ending service", "service", name, "err", err)
	}
}

// listenTCP opens a port on one of the hub's own addresses, for peers.
func (s *Server) listenTCP(at netip.AddrPort) (net.Listener, error) {
	ln, err := s.stack.Listen(at)
	if err != nil {
		return nil, err
	}
	return &peersOnly{ln, s.roster}, nil
}

// peersOnly hands out connections from peers' own addresses and closes others.
// A machine may speak from the addresses of the services that it offers too,
// but there it is nobody to the hub: it gets no answer, and no second share of
// the connections that each address may hold open.
type peersOnly struct {
	net.Listener
	roster func() *peer.Roster
}

func (l *peersOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if _, ok := l.roster().ByAddr(services.AddrOf(c.RemoteAddr())); ok {
			return c, nil
		}
		_ = c.Close()
	}
}

// serve says how a service is served; ok is false for one that only has an
// address.
func (s *Server) serve(svc service) (_ services.Service, ok bool, err error) {
	if !svc.builtin {
		server, err := s.publisher(svc)
		return server, true, err
	}
	switch svc.Name {
	case "enrol":
		return s.https(svc), true, nil
	case "sync":
		return s.http(svc, services.ServerConfig{
			Handler: sync.Handler(s, s.log), MaxBody: sync.MaxRequest, Kinds: []peer.Kind{peer.KindSpoke, peer.KindPhone},
		}, sync.MaxConns, sync.MaxConnsAll), true, nil
	case "console":
		return s.http(svc, services.ServerConfig{
			Handler: console.Handler(console.Config{Status: s.page, Logger: s.log}),
		}, services.MaxConns, services.MaxConnsAll), true, nil
	case "auth", "command", "hooks":
		return s.people(svc), true, nil
	case "dns":
		return services.Service{Name: svc.Name, TCP: []uint16{53}, UDP: []uint16{53}, Serve: s.dns.Serve}, true, nil
	}
	return services.Service{}, false, nil
}

// hosts are the names and addresses that a service's HTTP requests may carry.
func (s *Server) hosts(svc service) []string {
	return []string{svc.Name + "." + s.set.domain, svc.Name, svc.V4.String(), svc.V6.String()}
}

func (s *Server) roster() *peer.Roster { return s.snap.Load().roster }

// http serves the hub's own pages, with each connections for one address and
// all in total.
func (s *Server) http(svc service, cfg services.ServerConfig, each, all int) services.Service {
	cfg.Roster, cfg.Hosts, cfg.Logger = s.roster, s.hosts(svc), s.log
	return services.Service{Name: svc.Name, TCP: []uint16{80}, Serve: func(ctx context.Context, l services.Listeners) error {
		return services.ServeHTTPLimited(ctx, services.NewServer(cfg), l, services.NewConnLimit(each, all))
	}}
}

// https serves the enrolment over the one TLS key that invites are pinned to.
func (s *Server) https(svc service) services.Service {
	cfg := services.ServerConfig{
		Handler: invite.Handler(s.key, s, s.log), MaxBody: 8 << 10, Kinds: []peer.Kind{peer.KindInvite},
		Roster: s.roster, Hosts: append(s.hosts(svc), invite.ServerName), Logger: s.log,
	}
	return services.Service{Name: svc.Name, TCP: []uint16{443}, Serve: func(ctx context.Context, l services.Listeners) error {
		server := services.NewServer(cfg)
		server.TLSConfig = s.identity.TLSConfig()
		return services.ServeHTTP(ctx, server, l)
	}}
}

// publisher serves a target on the hub's own machine.
func (s *Server) publisher(svc service) (services.Service, error) {
	target, err := publish.ParseTarget(svc.target)
	if err != nil {
		return services.Service{}, err
	}
	p, err := publish.New(publish.Config{
		Name: svc.Name, Target: target, Port: svc.Ports[0].First, Roster: s.roster, Hosts: s.hosts(svc),
		Overlay: s.networks(), Logger: s.log,
	})
	if err != nil {
		return services.Service{}, err
	}
	return p.Service(), nil
}
