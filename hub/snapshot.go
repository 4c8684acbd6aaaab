package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
)

// settings are what Init chose and nothing changes while the hub runs.
type settings struct {
	endpoint string
	domain   string
	admin    string
	plan     store.Plan
}

func loadSettings(tx *store.Tx) (settings, error) {
	var s settings
	for name, to := range map[string]*string{metaEndpoint: &s.endpoint, metaDomain: &s.domain, metaAdmin: &s.admin} {
		value, err := tx.Meta(name)
		if err != nil {
			return settings{}, fmt.Errorf("reading setting %s: %w", name, err)
		}
		*to = value
	}
	var err error
	if s.plan, err = tx.Plan(); err != nil {
		return settings{}, fmt.Errorf("reading networks: %w", err)
	}
	return s, nil
}

// snapshot is everything the store said at one moment, compiled. It is
// immutable and replaced as a whole, so no two parts of the hub can disagree
// about who is on the mesh.
type snapshot struct {
	roster   *peer.Roster
	peers    []store.Peer
	byKey    map[peer.PublicKey]int // into peers
	invites  []store.Invite
	services []service
	// shadowed are names that were published, or given to a machine, before the
	// hub used them itself.
	shadowed []string
	world    *acl.World
	policy   store.Policy
	// recorded is how long the audit log was: every change of somebody makes
	// it longer.
	recorded uint64
	filter   *acl.Filter
	// problems are sentences about a policy that is in force with parts that
	// no longer mean anything.
	problems []string
	// recovery says why only the recovery path is open; "" if it is not.
	recovery string
	names    map[string][]netip.Addr
	tag      string
}

// load reads and compiles one snapshot. spent tells which used invites have
// done their work, because the machine they admitted was heard from.
func load(ctx context.Context, st *store.Store, set settings, heard func(peer.PublicKey) bool) (*snapshot, error) {
	snap := &snapshot{}
	var policyErr error
	err := st.View(ctx, func(tx *store.Tx) (err error) {
		if snap.peers, err = tx.Peers(); err != nil {
			return fmt.Errorf("reading peers: %w", err)
		}
		if snap.invites, err = tx.Invites(); err != nil {
			return fmt.Errorf("reading invites: %w", err)
		}
		published, err := tx.Services()
		if err != nil {
			return fmt.Errorf("reading services: %w", err)
		}
		snap.services = allServices(set, published, snap.peers)
		snap.shadowed = shadowed(published, snap.peers)
		head, err := tx.AuditHead()
		if err != nil {
			return fmt.Errorf("reading audit log: %w", err)
		}
		snap.recorded = head.Count
		// A policy that cannot be read must not keep the hub from starting:
		// it leaves the recovery path.
		snap.policy, policyErr = tx.CurrentPolicy()
		return nil
	})
	if err != nil {
		return nil, err
	}
	snap.invites = slices.DeleteFunc(snap.invites, func(inv store.Invite) bool {
		return !inv.UsedBy.IsZero() && heard(inv.UsedBy)
	})
	policy, err := acl.Parse(snap.policy.Text)
	if policyErr == nil {
		policyErr = err
	}
	if snap.roster, err = peer.NewRoster(roster(policy, snap.peers, snap.invites)); err != nil {
		return nil, fmt.Errorf("reading peers: %w", err)
	}
	snap.byKey = make(map[peer.PublicKey]int, len(snap.peers))
	for i, p := range snap.peers {
		snap.byKey[p.PublicKey] = i
	}
	snap.world = &acl.World{V4: set.plan.V4, V6: set.plan.V6, Peers: snap.roster.All(), Admin: set.admin}
	for _, svc := range snap.services {
		snap.world.Services = append(snap.world.Services, svc.Service)
	}
	snap.compile(policy, policyErr)
	snap.names = names(set, snap)
	snap.tag = snap.fingerprint()
	return snap, nil
}

// compile puts the stored policy in force, or recovery if there is none that
// can be read.
func (s *snapshot) compile(policy *acl.Policy, err error) {
	if err == nil {
		var problems []acl.Problem
		s.filter, problems = acl.Recompile(policy, s.world)
		for _, p := range problems {
			s.problems = append(s.problems, p.String())
		}
		return
	}
	s.recovery = fmt.Sprintf("the policy cannot be used (%v); only the admin's own machines reach the console", err)
	s.filter = acl.Recovery(s.world)
}

// roster lists who may speak. A machine without a household of its own lives in
// its owner's, for whoever is told about it as for the packet filter.
func roster(policy *acl.Policy, peers []store.Peer, invites []store.Invite) []peer.Peer {
	all := make([]peer.Peer, 0, len(peers)+len(invites))
	for _, p := range peers {
		p.Household = policy.HouseholdOf(&p.Peer)
		all = append(all, p.Peer)
	}
	for _, inv := range invites {
		all = append(all, peer.Peer{
			ID: peer.ID("invite-" + inv.ID), Name: "invite-" + strings.ToLower(inv.ID), Kind: peer.KindInvite,
			PublicKey: inv.PublicKey, V4: inv.V4, V6: inv.V6, Created: inv.Created,
		})
	}
	return all
}

// names is what the hub's DNS answers for.
func names(set settings, snap *snapshot) map[string][]netip.Addr {
	out := make(map[string][]netip.Addr, len(snap.peers)+len(snap.services))
	for _, p := range snap.peers {
		out[p.Name] = []netip.Addr{p.V4, p.V6}
	}
	// A service's name wins over a peer's; creating either refuses the other.
	for _, svc := range snap.services {
		if !svc.withdrawn() {
			out[svc.Name] = []netip.Addr{svc.V4, svc.V6}
		}
	}
	return out
}

// fingerprint changes when anything that a spoke is told may have changed.
func (s *snapshot) fingerprint() string {
	h := sha256.New()
	enc := json.NewEncoder(h)
	_ = enc.Encode(s.roster.All())
	_ = enc.Encode(s.world.Services)
	_ = enc.Encode(s.policy.Generation)
	_ = enc.Encode(s.recovery)
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// service finds a service by name.
func (s *snapshot) service(name string) (service, bool) {
	i := slices.IndexFunc(s.services, func(svc service) bool { return svc.Name == name })
	if i < 0 {
		return service{}, false
	}
	return s.services[i], true
}

// nameOf says who an address is, for tables and logs.
func (s *snapshot) nameOf(addr netip.Addr) string {
	if p, ok := s.roster.ByAddr(addr); ok {
		return p.Name
	}
	for _, svc := range s.services {
		if svc.V4 == addr || svc.V6 == addr {
			return "svc:" + svc.Name
		}
	}
	return addr.String()
}
