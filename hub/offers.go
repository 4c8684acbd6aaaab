package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services/sync"
)

// The methods here implement sync.Source: what a spoke is told, and what it
// may say.

// What one machine may claim. The addresses of services are few, and each
// change of an offer is an audit entry and a filter for the whole mesh.
const (
	// maxServes is how many names one machine may have, in a large network;
	// in a small one it is an eighth of the addresses there are.
	maxServes = 32
	// offersAtOnce changes of its offers are carried out at once, and then one
	// every offerEvery.
	offersAtOnce = 2 * maxServes
	offerEvery   = 10 * time.Second
)

func (s *Server) maxServes() int {
	return min(maxServes, int(s.set.plan.Services().Last-store.FirstPublished)/8)
}

// Self tells a spoke who it is, whom it may reach, and its own part of the
// policy.
func (s *Server) Self(_ context.Context, p peer.Peer) (sync.Self, <-chan struct{}, error) {
	changed := s.changed.wait()
	snap := s.snap.Load()
	now, ok := snap.roster.ByID(p.ID)
	if !ok || now.Quarantined {
		return sync.Self{}, nil, sync.Forbidden("This machine is not an active peer of the mesh.")
	}
	slice, err := json.Marshal(snap.filter.Slice(now.ID))
	if err != nil {
		return sync.Self{}, nil, fmt.Errorf("encoding policy slice: %w", err)
	}
	self := sync.Self{
		Peer: now, Domain: s.set.domain, Endpoint: s.set.endpoint, DNS: s.dnsAddrs(), Network: s.networks(),
		MTU: tunnelMTU, Epoch: snap.policy.Generation, Slice: slice, Serves: []string{}, Names: map[string][]netip.Addr{},
	}
	for name, addrs := range snap.names {
		if name == now.Name || snap.filter.Reaches(now.V4, addrs[0]) {
			self.Names[name] = addrs
		}
	}
	for _, svc := range snap.services {
		if svc.Host == now.ID && !svc.withdrawn() {
			self.Serves = append(self.Serves, svc.Name)
			self.Names[svc.Name] = []netip.Addr{svc.V4, svc.V6} // where it has to listen
		}
	}
	return self, changed, nil
}

// Serve records that a machine offers a port of its own under a name. The name
// is the machine's from then on, until the admin unpublishes it: a rule that
// says svc:NAME must not come to mean somebody else while the first is away.
func (s *Server) Serve(ctx context.Context, p peer.Peer, r sync.ServeRequest) (sync.ServeReply, error) {
	fqdn := r.Name + "." + s.set.domain
	snap := s.snap.Load()
	if svc, ok := snap.service(r.Name); ok {
		if svc.Host != p.ID {
			return sync.ServeReply{}, sync.Conflict(fmt.Sprintf("The name %q is another machine's; choose another, or ask the admin: hub unpublish %s", r.Name, r.Name))
		}
		if len(svc.Ports) == 1 && svc.Ports[0] == offered(r) {
			return sync.ServeReply{Name: r.Name, FQDN: fqdn}, nil
		}
	}
	if _, ok := snap.roster.ByName(r.Name); ok || reserved(r.Name) {
		return sync.ServeReply{}, sync.Conflict(fmt.Sprintf("The name %q is taken; choose another.", r.Name))
	}
	if err := s.paced(p); err != nil {
		return sync.ServeReply{}, err
	}
	ev := audit.Event{Actor: "peer:" + p.Name, Action: "service.offer", Target: r.Name,
		Detail: map[string]string{"port": offered(r).String()}}
	_, err := s.change(ctx, ev, func(tx *store.Tx) error {
		have, err := tx.Services()
		if err != nil {
			return err
		}
		count := 0
		for _, svc := range have {
			if svc.Name == r.Name && svc.Host != p.ID {
				return store.ErrConflict
			}
			if svc.Host == p.ID && svc.Name != r.Name {
				count++
			}
		}
		if limit := s.maxServes(); count >= limit {
			return sync.Forbidden(fmt.Sprintf("One machine has at most %d names, withdrawn ones included; the admin frees one with: hub unpublish NAME", limit))
		}
		_, err = tx.PutService(store.Service{Name: r.Name, Host: p.ID, Ports: []store.Port{kept(offered(r))}})
		return err
	})
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists) {
		return sync.ServeReply{}, sync.Conflict(fmt.Sprintf("The name %q is taken; choose another.", r.Name))
	}
	if errors.Is(err, store.ErrFull) {
		return sync.ServeReply{}, sync.Conflict("The mesh has no address left for a service; the admin frees one with: hub unpublish NAME")
	}
	if err != nil {
		return sync.ServeReply{}, err
	}
	return sync.ServeReply{Name: r.Name, FQDN: fqdn}, nil
}

// paced refuses a machine that changes its offers all the time.
func (s *Server) paced(p peer.Peer) error {
	if s.offers.take(string(p.ID)) {
		return nil
	}
	return &sync.Problem{Status: http.StatusTooManyRequests, Detail: fmt.Sprintf("This machine changes what it offers too often; try again in %v.", offerEvery)}
}

func offered(r sync.ServeRequest) acl.Port {
	proto := acl.ProtoTCP
	if r.Proto == "udp" {
		proto = acl.ProtoUDP
	}
	return acl.Port{Proto: proto, First: r.Port, Last: r.Port}
}

func kept(p acl.Port) store.Port {
	return store.Port{Proto: uint8(p.Proto), First: p.First, Last: p.Last}
}

// Unserve withdraws an offer. The name and its addresses stay the machine's.
func (s *Server) Unserve(ctx context.Context, p peer.Peer, name string) error {
	none := sync.NotFound(fmt.Sprintf("This machine offers nothing under the name %q.", name))
	if svc, ok := s.snap.Load().service(name); !ok || svc.Host != p.ID || svc.withdrawn() {
		return none
	}
	if err := s.paced(p); err != nil {
		return err
	}
	_, err := s.change(ctx, audit.Event{Actor: "peer:" + p.Name, Action: "service.withdraw", Target: name}, func(tx *store.Tx) error {
		// Since the look above the admin may have given the name to another.
		svc, err := tx.Service(name)
		if errors.Is(err, store.ErrNotFound) || err == nil && svc.Host != p.ID {
			return none
		}
		if err != nil {
			return err
		}
		svc.Ports = nil
		_, err = tx.PutService(svc)
		return err
	})
	return err
}

// farewell is how long the answer to a machine that leaves has to reach it.
const farewell = 250 * time.Millisecond

// Leave removes the machine that asks. When it returns that is done and on
// record; what is enforced follows a moment later, because the answer has to
// travel through the very tunnel that ends.
func (s *Server) Leave(ctx context.Context, p peer.Peer) error {
	ev := audit.Event{Actor: "peer:" + p.Name, Action: "peer.leave", Target: p.Name, Detail: map[string]string{"id": string(p.ID)}}
	s.mu.Lock()
	err := s.store.Do(ctx, ev, func(tx *store.Tx) error { return tx.RemovePeer(p.ID) })
	s.mu.Unlock()
	if err != nil {
		return err
	}
	s.leaving.Store(p.ID, true) // nobody is shown it any more
	s.group.Go(func() error {
		defer s.leaving.Delete(p.ID)
		select {
		case <-time.After(farewell):
		case <-s.ctx.Done():
			return nil // the next start reads the store
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, err := s.enforce(s.ctx); err != nil {
			s.log.Error("removing a machine that left", "peer", p.Name, "err", err)
		}
		s.gate.Forget(p.V4)
		s.gate.Forget(p.V6)
		return nil
	})
	return nil
}
