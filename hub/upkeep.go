package hub

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/netstack"
	"github.com/warrenmesh/warren/peer"
)

// How often the hub looks after itself.
const (
	sweepEvery = time.Second
	// keepFlowsEach is how many sweeps lie between two writings of the flows.
	keepFlowsEach = 15
	// greetWithin spreads the first handshakes after a start, so that a
	// thousand answers do not come at once; all machines are back well within
	// two seconds.
	greetWithin = 700 * time.Millisecond
	// greetAge is how long ago a machine may have been heard from to be
	// greeted: endpoints older than that belong to somebody else by now.
	greetAge = 7 * 24 * time.Hour
)

// peerConfigs is who may speak WireGuard to the hub. A machine's endpoint is
// given once, as it was when the hub started: from then on WireGuard follows it,
// and an older one from the store must not lead its packets astray.
func (s *Server) peerConfigs(snap *snapshot) []netstack.PeerConfig {
	out := make([]netstack.PeerConfig, 0, len(snap.peers)+len(snap.invites))
	for _, p := range snap.peers {
		out = append(out, netstack.PeerConfig{
			Key: p.PublicKey, PSK: p.PSK, Addresses: snap.addressesOf(&p), Endpoint: s.initial[p.ID],
		})
	}
	for _, inv := range snap.invites {
		out = append(out, netstack.PeerConfig{Key: inv.PublicKey, PSK: inv.PSK, Addresses: []netip.Addr{inv.V4, inv.V6}})
	}
	return out
}

// addressesOf are the addresses that a machine speaks from: its own two, and
// those of the services that it offers.
func (s *snapshot) addressesOf(p *store.Peer) []netip.Addr {
	out := []netip.Addr{p.V4, p.V6}
	for _, svc := range s.services {
		if svc.Host == p.ID && !svc.withdrawn() {
			out = append(out, svc.V4, svc.V6)
		}
	}
	return out
}

// heard returns what tells whether a machine has completed a handshake: then
// the invite that admitted it has nothing left to do, not even to repeat a lost
// answer. WireGuard is asked once, for all machines, and only if it has to be.
func (s *Server) heard() func(peer.PublicKey) bool {
	var here map[peer.PublicKey]bool
	return func(key peer.PublicKey) bool {
		if here == nil {
			here = make(map[peer.PublicKey]bool)
			for _, st := range s.stack.Peers() {
				here[st.Key] = !st.LastHandshake.IsZero()
			}
		}
		return here[key]
	}
}

// greet initiates a handshake with every machine the hub knows an endpoint
// of. Left alone, a phone would go on sealing packets for the session that
// died with the last process, for about fifteen seconds, into nothing.
func (s *Server) greet(ctx context.Context) error {
	snap := s.snap.Load()
	for i, p := range snap.peers {
		if !p.Endpoint.IsValid() || s.cfg.Now().Sub(p.LastHandshake) > greetAge {
			continue
		}
		at := rand.N(greetWithin)
		if i == 0 {
			at = 0
		}
		key := p.PublicKey
		s.group.Go(func() error {
			select {
			case <-time.After(at):
				if err := s.stack.Handshake(key); err != nil {
					s.log.Debug("greeting", "peer", p.Name, "err", err)
				}
			case <-ctx.Done():
			}
			return nil
		})
	}
	return nil
}

// knocked is told of a machine that proved who it is and where, although
// WireGuard does not accept its handshakes: its clock is behind. The hub calls
// back, with its own clock in the handshake.
func (s *Server) knocked(key peer.PublicKey, from conn.Endpoint) {
	if err := s.stack.Reach(key, from); err != nil {
		s.log.Debug("answering a knock", "err", err)
	}
}

// sweep does what is due: expired invites, and what is worth remembering over
// a restart.
func (s *Server) sweep(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.expire(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("bringing the mesh up to date", "err", err)
		}
		s.keepEndpoints(ctx)
		if n%keepFlowsEach == 0 {
			s.keepFlows(ctx)
		}
	}
}

// expire removes invites whose time is over, and those whose machine has been
// heard from: their throw-away keys stop working.
func (s *Server) expire(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	behind, err := s.behind(ctx)
	if err != nil {
		return err
	}
	if behind {
		if _, err := s.enforce(ctx); err != nil {
			return err
		}
		// Another hub on the same store may have announced a root. That it
		// cannot be read must not keep what was revoked in force.
		if err := s.readAuthority(ctx); err != nil {
			s.log.Error("reading the certificate authority", "err", err)
		}
		s.log.Info("what is stored is in force again")
	}
	due, heard := false, s.heard()
	now := s.cfg.Now()
	for _, inv := range s.snap.Load().invites {
		due = due || !inv.Expires.After(now) || !inv.UsedBy.IsZero() && heard(inv.UsedBy)
	}
	if !due {
		return nil
	}
	var gone []store.Invite
	err = s.store.Keep(ctx, func(tx *store.Tx) (err error) {
		gone, err = tx.ExpireInvites()
		return err
	})
	if err != nil {
		return err
	}
	if _, err := s.enforce(ctx); err != nil {
		return err
	}
	for _, inv := range gone {
		if inv.UsedBy.IsZero() {
			s.note(ctx, audit.Event{Actor: "hub", Action: "invite.expire", Target: inv.Name})
		}
	}
	return nil
}

// behind reports whether what is in force is not what is stored: the last try
// failed, since the database was away for a moment, or another hub on the same
// PostgreSQL database changed it, and what was revoked there must not live on
// here. The caller holds s.mu.
func (s *Server) behind(ctx context.Context) (behind bool, err error) {
	if s.broken {
		return true, nil
	}
	err = s.store.View(ctx, func(tx *store.Tx) error {
		head, err := tx.AuditHead()
		if err != nil {
			return err
		}
		s.read = max(s.read, s.snap.Load().recorded)
		behind, err = meshChanged(tx, s.read, head.Count, time.Now().Before(s.parting))
		if err == nil && !behind {
			s.read = head.Count
		}
		return err
	})
	return behind, err
}

// maxReadBack is how many entries of the audit log are looked through; more
// than that in one sweep, and the mesh is put in force again unseen.
const maxReadBack = 500

// meshChanged reports whether the audit log, between two lengths of it, tells
// of anything but backups and what people do with their accounts: that changes
// nothing the packet path knows, and puts nothing in force. While somebody is parting, what
// was taken from them is left to disown, which puts it in force a moment later.
func meshChanged(tx *store.Tx, from, to uint64, parting bool) (bool, error) {
	if to < from || to-from > maxReadBack {
		return true, nil
	}
	for from < to {
		entries, err := tx.AuditEntries(from+1, int(to-from))
		if err != nil {
			return false, err
		}
		if len(entries) == 0 {
			return true, nil
		}
		for _, e := range entries {
			noun, _, _ := strings.Cut(e.Action, ".")
			disowned := parting && e.Actor == "hub" && (e.Action == "peer.disown" || e.Action == "invite.revoke")
			backup := strings.HasPrefix(e.Action, "hub.backup")
			if !disowned && !backup && !slices.Contains(ofAccounts[:], noun) {
				return true, nil
			}
			from = e.Index
		}
	}
	return false, nil
}

// ofAccounts are the nouns of what is done with accounts.
var ofAccounts = [...]string{"user", "session", "household", "node", "app", "client", "hook", "webhook", "key", "settings", "token", "login"}

// sighting is where a machine was last heard, as the store has it.
type sighting struct {
	at        netip.AddrPort
	handshake time.Time
}

// stale is how old a stored handshake may be while the machine stays where it
// is: what counts is the place, and writing each of them would wear out an SD
// card.
const stale = 10 * time.Minute

// keepEndpoints writes down where machines are, as soon as they have moved: a
// hub that is killed a second later still knows whom to greet.
func (s *Server) keepEndpoints(ctx context.Context) {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	snap := s.snap.Load()
	moved := make(map[peer.ID]sighting)
	for _, st := range s.stack.Peers() {
		i, ok := snap.byKey[st.Key]
		if !ok || !st.Endpoint.IsValid() || st.LastHandshake.IsZero() {
			continue
		}
		p := snap.peers[i]
		last, ok := s.sighted[p.ID]
		if !ok {
			last = sighting{p.Endpoint, p.LastHandshake}
		}
		if last.at != st.Endpoint || st.LastHandshake.Sub(last.handshake) > stale {
			moved[p.ID] = sighting{st.Endpoint, st.LastHandshake}
		}
	}
	if len(moved) == 0 {
		return
	}
	err := s.store.Keep(ctx, func(tx *store.Tx) error {
		for id, now := range moved {
			if err := tx.SaveEndpoint(id, now.at, now.handshake); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		if ctx.Err() == nil {
			s.log.Error("writing down endpoints", "err", err)
		}
		return
	}
	maps.Copy(s.sighted, moved)
}

// keepFlows writes down which flows were tried. Losing the last few seconds of
// it loses nothing that anybody was promised.
func (s *Server) keepFlows(ctx context.Context) {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	flows, counts := s.records(s.snap.Load())
	if len(flows) == 0 {
		return
	}
	err := s.store.Keep(ctx, func(tx *store.Tx) error { return tx.MergeFlows(flows) })
	if err != nil {
		if ctx.Err() == nil {
			s.log.Error("writing down flows", "err", err)
		}
		return
	}
	s.kept = counts
}
