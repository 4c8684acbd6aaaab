package hub

import (
	"context"
	"net/http"
	"time"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/services/auth"
)

// keyOverlap is how long the key before works when a node's or an app's is
// replaced: long enough to carry the new one there.
const keyOverlap = time.Hour

func (s *Server) machineRoutes(mux *http.ServeMux) {
	handle(mux, s, "node/add", s.addNode)
	handle(mux, s, "node/list", func(ctx context.Context, _ string, _ struct{}) ([]control.NodeInfo, error) { return s.nodes(ctx) })
	handle(mux, s, "node/rotate", func(ctx context.Context, who, id string) (control.KeyReply, error) {
		n, key, err := s.accounts.auth.RotateNode(ctx, who, id, keyOverlap)
		return control.KeyReply{ID: n.ID, Key: key, Overlap: s.cfg.Now().Add(keyOverlap)}, told(err, "see which there are: hub node list")
	})
	handle(mux, s, "node/rm", func(ctx context.Context, who, id string) (struct{}, error) {
		return struct{}{}, told(s.accounts.auth.RemoveNode(ctx, who, id), "see which there are: hub node list")
	})
	handle(mux, s, "app/add", s.addApp)
	handle(mux, s, "app/list", func(ctx context.Context, _ string, _ struct{}) ([]control.AppInfo, error) { return s.apps(ctx) })
	handle(mux, s, "app/rotate", func(ctx context.Context, who, id string) (control.KeyReply, error) {
		a, key, err := s.accounts.auth.RotateApp(ctx, who, id, keyOverlap)
		return control.KeyReply{ID: a.ID, Key: key, Overlap: s.cfg.Now().Add(keyOverlap)}, told(err, "see which there are: hub app list")
	})
	handle(mux, s, "app/revoke", func(ctx context.Context, who, id string) (struct{}, error) {
		return struct{}{}, told(s.accounts.auth.RevokeApp(ctx, who, id), "see which there are: hub app list")
	})
}

func (s *Server) addNode(ctx context.Context, actor string, spec control.NodeSpec) (control.KeyReply, error) {
	h, err := s.home(ctx, spec.Household)
	if err != nil {
		return control.KeyReply{}, err
	}
	if err := s.known(spec.Peer); err != nil {
		return control.KeyReply{}, err
	}
	if len(spec.Services) == 0 {
		spec.Services = []string{"command"}
	}
	n, key, err := s.accounts.auth.CreateNode(ctx, actor, auth.NewNode{ID: spec.ID, Name: spec.ID, Household: h.ID, Peer: spec.Peer, Services: spec.Services})
	return control.KeyReply{ID: n.ID, Key: key}, told(err, "choose another id, or remove that one first: hub node rm ID")
}

func (s *Server) nodes(ctx context.Context) ([]control.NodeInfo, error) {
	all, err := s.accounts.auth.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	names, err := s.homeNames(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]control.NodeInfo, 0, len(all))
	for _, n := range all {
		out = append(out, control.NodeInfo{ID: n.ID, Name: n.Name, Household: n.Household, Home: names[n.Household], Peer: s.machine(n.Peer),
			Room: n.Room, Active: n.Active, Services: n.Services, Created: n.Created, Rotated: n.Rotated, Seen: n.Seen})
	}
	return out, nil
}

func (s *Server) addApp(ctx context.Context, actor string, spec control.AppSpec) (control.KeyReply, error) {
	if err := s.known(spec.Peer); err != nil {
		return control.KeyReply{}, err
	}
	a, key, err := s.accounts.auth.CreateApp(ctx, actor, auth.NewApp{ID: spec.ID, Name: spec.ID, Peer: spec.Peer, Services: spec.Services, Admin: spec.Admin})
	return control.KeyReply{ID: a.ID, Key: key}, told(err, "choose another id; a revoked app works again after: hub app rotate ID")
}

func (s *Server) apps(ctx context.Context) ([]control.AppInfo, error) {
	all, err := s.accounts.auth.Apps(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]control.AppInfo, 0, len(all))
	for _, a := range all {
		out = append(out, control.AppInfo{ID: a.ID, Name: a.Name, Peer: s.machine(a.Peer), Active: a.Active, Admin: a.Admin,
			Services: a.Services, Created: a.Created, Rotated: a.Rotated})
	}
	return out, nil
}
