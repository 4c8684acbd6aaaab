package hub

import (
	"context"
	"io"
	"net/http"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// Store is the hub's own, for tests that damage it behind the hub's back.
func (s *Server) Store() *store.Store { return s.store }

// Stale checks a policy against the mesh as it is, and returns what stores it,
// to be called when the mesh is another.
func (s *Server) Stale(ctx context.Context, req control.PolicyRequest) (func() error, error) {
	judged := s.snap.Load()
	if _, _, err := s.CheckPolicy([]byte(req.Text)); err != nil {
		return nil, err
	}
	return func() error {
		_, err := s.put(ctx, "test", req, judged)
		return err
	}, nil
}

// Stream adds a route to the command service that runs until its caller loses
// what let it in: as long answers do, for a person of some role. It must be
// called before the first request.
func (s *Server) Stream(path string, need services.Requirement) {
	need.Stream = true
	router.Raw(s.accounts.routers["command"], router.Route{Method: http.MethodGet, Path: path, Summary: "A stream for a test.", Group: "test",
		Need: need, Tenant: "says nothing of anybody"}, func(w http.ResponseWriter, r *http.Request, _ *services.Caller) {
		_, _ = io.WriteString(w, "begun\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
}

// Tables are the routes of the hub's services, by service.
func (s *Server) Tables() map[string][]router.Route {
	out := make(map[string][]router.Route)
	for name, r := range s.accounts.routers {
		out[name] = r.Routes()
	}
	return out
}

// Running is how many requests of people, nodes and apps are running.
func (s *Server) Running() int { return s.accounts.live.Count() }

// Narrow confines an app to one household.
func (s *Server) Narrow(ctx context.Context, app, household string) error {
	return s.accounts.auth.ScopeApp(ctx, "test", app, []string{"*"}, []account.HouseholdID{account.HouseholdID(household)})
}

// Sweep does once what the hub does every second, and says how often a state
// has been put in force.
func (s *Server) Sweep(ctx context.Context) (epoch uint64, err error) {
	err = s.expire(ctx)
	return s.gate.Epoch(), err
}
