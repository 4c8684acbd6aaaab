package hub

import (
	"context"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/store"
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
