package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/auth"
	"github.com/warrenmesh/warren/services/auth/oauth"
	"github.com/warrenmesh/warren/services/limit"
	"github.com/warrenmesh/warren/services/router"
	nodesettings "github.com/warrenmesh/warren/services/settings"
	"github.com/warrenmesh/warren/services/webhook"
)

// accounts are the services about people and what acts for them: auth, command
// and hooks. They share the requests that are running, so that one change is
// felt by all, and the limits.
type accounts struct {
	auth     *auth.Service
	settings *nodesettings.Service
	webhooks *webhook.Service
	live     *services.Live
	redis    *limit.Limiter // nil when each hub counts alone
	routers  map[string]*router.Router
}

// openAccounts builds the services. Nothing is served yet.
func (s *Server) openAccounts(ctx context.Context) (err error) {
	a := &accounts{live: services.NewLive()}
	memory := services.NewMemoryLimiter(s.cfg.Now)
	var counter services.Limiter = memory
	if s.cfg.Redis != "" {
		if a.redis, err = limit.Redis(limit.Config{Address: s.cfg.Redis, Memory: memory, Logger: s.log, Now: s.cfg.Now}); err != nil {
			return err
		}
		counter = a.redis
	}
	s.accounts = a // Close ends what was opened
	if a.auth, err = auth.New(ctx, s.authConfig(a.live)); err != nil {
		return err
	}
	if err := s.ownClients(ctx); err != nil {
		return err
	}
	authority, err := oauth.New(oauth.Config{Store: s.store.Accounts(), Accounts: a.auth, Roster: s.roster, Issuer: s.issuer(), Logger: s.log})
	if err != nil {
		return err
	}
	a.settings = nodesettings.New(nodesettings.Config{Store: s.store.Accounts(), Data: s.store.Data(), CreateNode: a.createNode, Logger: s.log, Now: s.cfg.Now})
	a.webhooks = webhook.New(webhook.Config{Store: s.store.Accounts(), Data: s.store.Data(), Logger: s.log, Now: s.cfg.Now})
	tables := map[string][]interface{ Register(*router.Router) }{
		"auth": {a.auth, authority, rootsPage{s.Roots}}, "command": {a.settings}, "hooks": {a.webhooks},
	}
	a.routers = make(map[string]*router.Router, len(tables))
	for name, parts := range tables {
		r := router.New(s.routerConfig(name, counter))
		for _, p := range parts {
			p.Register(r)
		}
		// A route that asks for nothing, or is there twice, is a hole: better
		// no hub than that.
		if err := r.Check(); err != nil {
			return fmt.Errorf("opening service %s: %w", name, err)
		}
		a.routers[name] = r
	}
	return nil
}

// issuer is the iss of tokens.
func (s *Server) issuer() string { return "https://auth." + s.set.domain }

func (s *Server) authConfig(live *services.Live) auth.Config {
	return auth.Config{
		Store: s.store.Accounts(), Data: s.store.Data(), Roster: s.roster, Issuer: s.issuer(), Live: live,
		Admin: s.adminMachine, HS256: s.cfg.HS256, Scrub: s.store.Scrub, Forget: s.forgetPerson,
		Logger: s.log, Now: s.cfg.Now,
	}
}

// adminMachine reports whether a machine is the admin's own: it may make the
// first account.
func (s *Server) adminMachine(p peer.Peer) bool {
	return p.Owner != "" && p.Owner == s.set.admin && len(p.Tags) == 0
}

func (s *Server) routerConfig(name string, counter services.Limiter) router.Config {
	gate := services.NewGate(services.GateConfig{
		Service: name, Authority: s.accounts.auth.Authority(), Roster: s.roster, Grants: s.grants,
		Limit: counter, Live: s.accounts.live, Apps: s.cfg.Apps, Access: s.accounts.auth.Access,
		Domain: s.set.domain, Logger: s.log, Now: s.cfg.Now,
	})
	cfg := router.Config{Service: name, Title: "Warren: " + name, Version: s.cfg.Version, URL: "https://" + name + "." + s.set.domain, Gate: gate, Logger: s.log}
	if name == "command" {
		cfg.Health = "healthy" // Jarvis' word
	}
	return cfg
}

// grants are what the live policy grants a machine for a service.
func (s *Server) grants(p peer.Peer, name string) map[string][]json.RawMessage {
	snap := s.snap.Load()
	svc, ok := snap.service(name)
	if !ok {
		return nil
	}
	return snap.filter.Grants(p.V4, svc.V4)
}

// createNode lets the settings service register what it has provisioned.
func (a *accounts) createNode(ctx context.Context, actor string, n nodesettings.NewNode) (account.Node, string, error) {
	return a.auth.CreateNode(ctx, actor, auth.NewNode(n))
}

// handler answers for one of the services.
func (a *accounts) handler(name string) http.Handler { return a.routers[name] }

// close ends what openAccounts opened.
func (a *accounts) close() error {
	if a == nil || a.redis == nil {
		return nil
	}
	return a.redis.Close()
}

// accountRoutes adds the commands about accounts.
func (s *Server) accountRoutes(mux *http.ServeMux) {
	s.personRoutes(mux)
	s.householdRoutes(mux)
	s.machineRoutes(mux)
	s.clientRoutes(mux)
	s.webhookRoutes(mux)
}
