package hub

import (
	"context"
	"errors"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services/publish"
)

// Publish gives a target on the hub's own machine a name and an address in
// the tunnel. Who may reach it is still up to the policy, which says nothing
// about it until somebody writes a rule.
func (s *Server) Publish(ctx context.Context, actor string, req control.PublishRequest) (control.ServiceInfo, error) {
	if err := peer.ValidName(req.Name); err != nil {
		return control.ServiceInfo{}, refused("", "name %.80q: %v", req.Name, err)
	}
	if reserved(req.Name) {
		return control.ServiceInfo{}, refused("choose another name", "the name %q is Warren's own", req.Name)
	}
	target, err := publish.ParseTarget(req.Target)
	if err == nil {
		err = target.Refuse(s.networks())
	}
	if err != nil {
		return control.ServiceInfo{}, refused("write it as http://127.0.0.1:8123 or tcp://127.0.0.1:22", "%v", err)
	}
	port := req.Port
	if port == 0 {
		port = target.DefaultPort()
	}
	if _, taken := s.snap.Load().roster.ByName(req.Name); taken {
		return control.ServiceInfo{}, refused("choose another name", "the name %q belongs to a machine", req.Name)
	}
	if _, taken := s.snap.Load().service(req.Name); taken {
		return control.ServiceInfo{}, refused("unpublish it first: hub unpublish "+req.Name, "the name %q is in use", req.Name)
	}
	_, err = s.change(ctx, audit.Event{Actor: actor, Action: "service.publish", Target: req.Name,
		Detail: map[string]string{"target": target.String()}},
		func(tx *store.Tx) error {
			// PutService would change the target of one published meanwhile.
			if _, err := tx.Service(req.Name); !errors.Is(err, store.ErrNotFound) {
				return errors.Join(err, store.ErrExists)
			}
			_, err := tx.PutService(store.Service{Name: req.Name, Target: target.String(),
				Ports: []store.Port{kept(acl.Port{Proto: acl.ProtoTCP, First: port, Last: port})}})
			return err
		})
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists) {
		return control.ServiceInfo{}, refused("choose another name", "the name %q is taken", req.Name)
	}
	if err != nil {
		return control.ServiceInfo{}, err
	}
	svc, _ := s.snap.Load().service(req.Name)
	info := s.serviceInfo(svc)
	info.Note = "allow it in the policy: {\"action\": \"accept\", \"src\": [\"autogroup:member\"], \"dst\": [\"svc:" + req.Name + ":*\"]}"
	return info, nil
}

// Unpublish takes a name back, the hub's or a machine's.
func (s *Server) Unpublish(ctx context.Context, actor, name string) (control.Change, error) {
	// The store is asked, not the snapshot: one of the hub's own services may
	// hide what was published before the hub had it.
	cut, err := s.change(ctx, audit.Event{Actor: actor, Action: "service.unpublish", Target: name},
		func(tx *store.Tx) error { return tx.RemoveService(name) })
	if errors.Is(err, store.ErrNotFound) {
		return control.Change{}, refused("see what there is: hub services", "nothing is published as %.80q", name)
	}
	return control.Change{Cut: cut.Connections, Took: cut.Took}, err
}

// Services lists what has a name in the tunnel.
func (s *Server) Services() []control.ServiceInfo {
	var out []control.ServiceInfo
	for _, svc := range s.snap.Load().services {
		out = append(out, s.serviceInfo(svc))
	}
	return out
}

func (s *Server) serviceInfo(svc service) control.ServiceInfo {
	info := control.ServiceInfo{Name: svc.Name, FQDN: svc.Name + "." + s.set.domain, Target: svc.target,
		Host: svc.hostName, Builtin: svc.builtin}
	info.Addrs = append(info.Addrs, svc.V4, svc.V6)
	for _, p := range svc.Ports {
		info.Ports = append(info.Ports, p.String())
	}
	if svc.withdrawn() {
		info.Note = "withdrawn by its machine; the name stays with it until: hub unpublish " + svc.Name
	}
	if why := s.down(svc); why != "" {
		info.Note = why
	}
	return info
}

// down says why a service that ought to be served is not.
func (s *Server) down(svc service) string {
	if !svc.local() || svc.Name == "hub" {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.running[svc.Name]
	if !ok {
		return "not running; the hub's log says why"
	}
	select {
	case <-l.run.Done():
		return "stopped; the hub's log says why"
	default:
		return ""
	}
}
