package hub

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/netstack"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
)

// Limits of an invite's life.
const (
	defaultTTL = 24 * time.Hour
	maxTTL     = 90 * 24 * time.Hour
)

// refused makes a refusal for a person: what is wrong and what to do.
func refused(hint, format string, args ...any) error {
	return &control.Error{Message: fmt.Sprintf(format, args...), Hint: hint}
}

// check refuses a spec that could not become a peer, before anything is made.
func (s *Server) check(spec *control.PeerSpec) error {
	if err := peer.ValidName(spec.Name); err != nil {
		return refused("", "name %.80q: %v", spec.Name, err)
	}
	if reserved(spec.Name) {
		return refused("choose another name", "the name %q is Warren's own", spec.Name)
	}
	if _, taken := s.snap.Load().service(spec.Name); taken {
		return refused("choose another name, or unpublish the service first: hub unpublish "+spec.Name, "the name %q belongs to a service", spec.Name)
	}
	if spec.Owner != "" {
		spec.Owner = strings.TrimSuffix(spec.Owner, "@")
		if err := peer.ValidUser(spec.Owner); err != nil {
			return refused("", "owner %.80q: %v", spec.Owner, err)
		}
	}
	if spec.Household != "" {
		spec.Household = strings.TrimPrefix(spec.Household, "household:")
		if err := peer.ValidName(spec.Household); err != nil {
			return refused("", "household %.80q: %v", spec.Household, err)
		}
	}
	tags, err := cleanTags(spec.Tags)
	if err != nil {
		return err
	}
	spec.Tags = tags
	return s.checkDeclared(spec)
}

func cleanTags(tags []string) ([]string, error) {
	if len(tags) > 32 {
		return nil, refused("", "%d tags are too many; the most is 32", len(tags))
	}
	out := make([]string, 0, len(tags))
	for _, t := range tags {
		if !strings.HasPrefix(t, "tag:") {
			t = "tag:" + t
		}
		if err := peer.ValidTag(t); err != nil {
			return nil, refused("", "tag %.80q: %v", t, err)
		}
		out = append(out, t)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// checkDeclared refuses tags and households that the live policy does not
// know: a machine that carries a misspelt one would silently get nothing, or,
// once somebody declares it, everything.
func (s *Server) checkDeclared(spec *control.PeerSpec) error {
	snap := s.snap.Load()
	policy, err := acl.Parse(snap.policy.Text)
	if err != nil {
		return nil // recovery: nothing is reachable whatever it is called
	}
	for _, t := range spec.Tags {
		if !slices.Contains(policy.Tags(), t) {
			return refused("declare it under tagOwners first: hub acl show > p; edit p; hub acl apply p", "no one owns %q", t)
		}
	}
	if spec.Household != "" && !slices.Contains(policy.Households(), spec.Household) {
		return refused("declare it under households first: hub acl show > p; edit p; hub acl apply p", "there is no household %q", spec.Household)
	}
	return nil
}

// unmeant says why no rule of the live policy may mean a machine, in words for
// its admin, and is empty if one can. That is no error: a policy may be written
// after the machine is there.
func (s *Server) unmeant(spec *control.PeerSpec) string {
	switch {
	case len(spec.Tags) > 0 || spec.Household != "" && spec.Owner != "":
		return ""
	case spec.Owner == "":
		return "it has no owner and no tag, so rules for users and tags do not mean it; see --owner and --tag"
	}
	policy, err := acl.Parse(s.snap.Load().policy.Text)
	if err != nil || policy.HouseholdOf(&peer.Peer{Owner: spec.Owner}) != "" {
		return ""
	}
	return "the policy lists " + spec.Owner + "@ in no household, so hardly a rule means this machine yet; is the name right? " +
		"To add them: hub acl show > p; edit p; hub acl apply p"
}

// Invite makes a code that lets one machine join.
func (s *Server) Invite(ctx context.Context, actor string, spec control.PeerSpec) (invite.Code, error) {
	if spec.TTL == 0 {
		spec.TTL = defaultTTL
	}
	if spec.TTL < time.Minute || spec.TTL > maxTTL {
		return invite.Code{}, refused("", "an invite lives from 1 minute to 90 days, not %v", spec.TTL)
	}
	if err := s.check(&spec); err != nil {
		return invite.Code{}, err
	}
	key, err := peer.NewPrivateKey()
	if err != nil {
		return invite.Code{}, fmt.Errorf("making invite key: %w", err)
	}
	psk, err := peer.NewPresharedKey()
	if err != nil {
		return invite.Code{}, fmt.Errorf("making invite key: %w", err)
	}
	detail, err := s.detail(ctx, &spec)
	if err != nil {
		return invite.Code{}, err
	}
	var inv store.Invite
	_, err = s.change(ctx, audit.Event{Actor: actor, Action: "invite.create", Target: spec.Name, Detail: detail},
		func(tx *store.Tx) error {
			inv, err = tx.AddInvite(store.Invite{
				PublicKey: key.Public(), PSK: psk, Name: spec.Name, Owner: spec.Owner, Household: spec.Household,
				Tags: spec.Tags, Expires: s.cfg.Now().Add(spec.TTL).Truncate(time.Second),
			})
			return nameTaken(err, spec.Name)
		})
	if err != nil {
		return invite.Code{}, err
	}
	enrol4, enrol6 := s.set.plan.Addrs(store.IndexEnrol)
	return invite.Code{
		ID: inv.ID, Endpoint: s.set.endpoint, Hub: s.key.Public(), Key: key, PSK: psk,
		V4: inv.V4, V6: inv.V6, EnrolV4: enrol4, EnrolV6: enrol6,
		Pin: s.identity.Pin(), Expires: inv.Expires,
	}, nil
}

// detail is what the audit log keeps of a spec.
func (s *Server) detail(ctx context.Context, spec *control.PeerSpec) (map[string]string, error) {
	owner, err := s.pseudonym(ctx, spec.Owner)
	if err != nil {
		return nil, err
	}
	d := make(map[string]string)
	for k, v := range map[string]string{"owner": owner, "household": spec.Household, "tags": strings.Join(spec.Tags, " ")} {
		if v != "" {
			d[k] = v
		}
	}
	return d, nil
}

func nameTaken(err error, name string) error {
	if errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrConflict) {
		return refused("choose another name, or remove that one first: hub peer rm "+name, "the name %q is taken", name)
	}
	return err
}

// Phone adds a machine whose key pair was made elsewhere.
func (s *Server) Phone(ctx context.Context, actor string, req control.PhoneRequest) (control.PhoneReply, error) {
	if err := s.check(&req.PeerSpec); err != nil {
		return control.PhoneReply{}, err
	}
	if err := s.usableKey(req.PublicKey); err != nil {
		return control.PhoneReply{}, err
	}
	psk, err := peer.NewPresharedKey()
	if err != nil {
		return control.PhoneReply{}, fmt.Errorf("making pre-shared key: %w", err)
	}
	detail, err := s.detail(ctx, &req.PeerSpec)
	if err != nil {
		return control.PhoneReply{}, err
	}
	var added store.Peer
	_, err = s.change(ctx, audit.Event{Actor: actor, Action: "peer.phone", Target: req.Name, Detail: detail},
		func(tx *store.Tx) error {
			added, err = tx.AddPeer(store.NewPeer{
				Name: req.Name, PublicKey: req.PublicKey, PSK: psk, Kind: peer.KindPhone,
				Owner: req.Owner, Household: req.Household, Tags: req.Tags,
			})
			return nameTaken(err, req.Name)
		})
	if err != nil {
		return control.PhoneReply{}, err
	}
	return control.PhoneReply{
		Peer: added.Peer, PSK: psk.RevealText(), Hub: s.key.Public(), Endpoint: s.set.endpoint,
		Networks: s.networks(), DNS: s.dnsAddrs(), Domain: s.set.domain, MTU: tunnelMTU, Note: s.unmeant(&req.PeerSpec),
	}, nil
}

// usableKey refuses keys that would make two machines one: the hub's own, and
// any that is on the mesh.
func (s *Server) usableKey(key peer.PublicKey) error {
	switch {
	case key.IsZero():
		return refused("", "the public key is missing")
	case key == s.key.Public():
		return refused("give the machine a key of its own", "that is the hub's own public key")
	}
	if p, ok := s.snap.Load().roster.ByKey(key); ok {
		return refused("give the machine a key of its own", "that key is %q's already", p.Name)
	}
	return nil
}

// EditPeer removes, renames, tags, quarantines or releases one peer.
func (s *Server) EditPeer(ctx context.Context, actor string, edit control.PeerEdit) (control.Change, error) {
	p, ok := s.find(edit.Name)
	if !ok {
		return s.editInvite(ctx, actor, edit)
	}
	action, change, err := s.plan(p, edit)
	if err != nil {
		return control.Change{}, err
	}
	cut, err := s.change(ctx, audit.Event{Actor: actor, Action: action, Target: p.Name, Detail: map[string]string{"id": string(p.ID)}}, change)
	if err != nil {
		return control.Change{}, err
	}
	if edit.Remove {
		s.gate.Forget(p.V4)
		s.gate.Forget(p.V6)
	}
	return control.Change{Cut: cut.Connections, Took: cut.Took}, nil
}

// plan says what an edit is called and what it does to the store. What the
// edit leaves alone is read in its own transaction: somebody may have changed
// it a moment ago.
func (s *Server) plan(p store.Peer, edit control.PeerEdit) (string, func(*store.Tx) error, error) {
	update := func(set func(*store.Peer)) func(*store.Tx) error {
		return func(tx *store.Tx) error {
			now, err := tx.Peer(p.ID)
			if errors.Is(err, store.ErrNotFound) {
				return noSuchPeer(edit.Name)
			}
			if err != nil {
				return err
			}
			set(&now)
			return nameTaken(tx.UpdatePeer(now), now.Name)
		}
	}
	switch {
	case edit.Remove:
		return "peer.remove", func(tx *store.Tx) error { return tx.RemovePeer(p.ID) }, nil
	case edit.Rename != "":
		if err := s.check(&control.PeerSpec{Name: edit.Rename}); err != nil {
			return "", nil, err
		}
		return "peer.rename", update(func(p *store.Peer) { p.Name = edit.Rename }), nil
	case edit.SetTags:
		tags, err := cleanTags(edit.Tags)
		if err == nil {
			err = s.checkDeclared(&control.PeerSpec{Tags: tags})
		}
		if err != nil {
			return "", nil, err
		}
		return "peer.tag", update(func(p *store.Peer) { p.Tags = tags }), nil
	case edit.Quarantine:
		return "peer.quarantine", update(func(p *store.Peer) { p.Quarantined = true }), nil
	case edit.Release:
		return "peer.release", update(func(p *store.Peer) { p.Quarantined = false }), nil
	}
	return "", nil, refused("", "nothing to change about %q", p.Name)
}

func noSuchPeer(name string) error {
	return refused("see who is there: hub peers", "there is no peer %.80q", name)
}

// editInvite withdraws an invite that nobody used: it goes by the name the
// machine would have had.
func (s *Server) editInvite(ctx context.Context, actor string, edit control.PeerEdit) (control.Change, error) {
	for _, inv := range s.snap.Load().invites {
		if inv.Name != edit.Name || !edit.Remove || !inv.UsedBy.IsZero() {
			continue
		}
		cut, err := s.change(ctx, audit.Event{Actor: actor, Action: "invite.revoke", Target: inv.Name},
			func(tx *store.Tx) error {
				now, err := tx.Invite(inv.ID)
				if errors.Is(err, store.ErrNotFound) {
					return noSuchPeer(edit.Name)
				}
				if err == nil && !now.UsedBy.IsZero() {
					return refused("remove the machine: hub peer rm "+inv.Name, "a machine has just joined as %q", inv.Name)
				}
				if err != nil {
					return err
				}
				return tx.RevokeInvite(inv.ID)
			})
		return control.Change{Cut: cut.Connections, Took: cut.Took}, err
	}
	return control.Change{}, noSuchPeer(edit.Name)
}

func (s *Server) find(name string) (store.Peer, bool) {
	peers := s.snap.Load().peers
	i := slices.IndexFunc(peers, func(p store.Peer) bool { return p.Name == name })
	if i < 0 {
		return store.Peer{}, false
	}
	return peers[i], true
}

// Peers lists who is on the mesh, then the invites nobody has used yet.
func (s *Server) Peers() []control.PeerInfo {
	snap := s.snap.Load()
	live := make(map[peer.PublicKey]netstack.PeerStatus)
	for _, st := range s.stack.Peers() {
		live[st.Key] = st
	}
	refusals := make(map[netip.Addr]uint64)
	for _, st := range s.gate.Stats().Peers {
		refusals[st.V4] = st.Refused
	}
	out := make([]control.PeerInfo, 0, len(snap.peers)+len(snap.invites))
	for _, p := range snap.peers {
		if _, gone := s.leaving.Load(p.ID); gone {
			continue
		}
		// With the household that the policy goes by, its owner's perhaps.
		if lives, ok := snap.roster.ByKey(p.PublicKey); ok {
			p.Household = lives.Household
		}
		info := control.PeerInfo{Peer: p.Peer, Handshake: p.LastHandshake, Refused: refusals[p.V4]}
		st := live[p.PublicKey]
		info.RxBytes, info.TxBytes = st.RxBytes, st.TxBytes
		if st.LastHandshake.After(info.Handshake) {
			info.Handshake = st.LastHandshake
		}
		if ep := st.Endpoint; ep.IsValid() {
			info.Endpoint = ep.String()
		} else if p.Endpoint.IsValid() {
			info.Endpoint = p.Endpoint.String()
		}
		out = append(out, info)
	}
	for _, inv := range snap.invites {
		if inv.UsedBy.IsZero() {
			out = append(out, control.PeerInfo{Expires: inv.Expires, Peer: peer.Peer{
				Name: inv.Name, Kind: peer.KindInvite, Owner: inv.Owner, Tags: inv.Tags, Household: inv.Household,
				V4: inv.V4, V6: inv.V6, PublicKey: inv.PublicKey, Created: inv.Created,
			}})
		}
	}
	return out
}

func (s *Server) dnsAddrs() []netip.Addr {
	v4, v6 := s.set.plan.Addrs(store.IndexDNS)
	return []netip.Addr{v4, v6}
}

func (s *Server) pskOf(key peer.PublicKey) (peer.PresharedKey, bool) {
	snap := s.snap.Load()
	if snap == nil {
		return peer.PresharedKey{}, false
	}
	i, ok := snap.byKey[key]
	if !ok || snap.peers[i].Quarantined {
		return peer.PresharedKey{}, false
	}
	return snap.peers[i].PSK, true
}
