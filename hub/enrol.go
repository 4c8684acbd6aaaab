package hub

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
)

// tunnelMTU is what every machine uses inside the tunnel: the smallest that
// IPv6 allows, because phones on mobile networks must simply work.
const tunnelMTU = 1280

// Of an invite's refusals refusalsAtOnce are recorded, and then one every
// refusalEvery.
const (
	refusalsAtOnce = 8
	refusalEvery   = time.Minute
)

// Enrol implements invite.Registry: it makes the key a peer and the invite
// used, in one transaction, or does neither.
func (s *Server) Enrol(ctx context.Context, caller peer.Peer, req invite.Request) (invite.Reply, error) {
	inv, ok := s.inviteOf(caller)
	if !ok {
		return invite.Reply{}, fmt.Errorf("no such invite: %w", invite.ErrRefused)
	}
	if p, taken := s.snap.Load().roster.ByKey(req.PublicKey); taken && inv.UsedBy != req.PublicKey {
		return invite.Reply{}, fmt.Errorf("the key is %s's already: %w", p.Name, invite.ErrRefused)
	}
	psk, err := peer.NewPresharedKey()
	if err != nil {
		return invite.Reply{}, fmt.Errorf("making pre-shared key: %w", err)
	}
	var p store.Peer
	ev := audit.Event{Actor: "invite:" + inv.Name, Action: "peer.join", Target: inv.Name, Detail: map[string]string{
		"key": req.PublicKey.String(), "platform": req.Platform, "version": req.Version,
	}}
	_, err = s.change(ctx, ev, func(tx *store.Tx) error {
		used, fresh, err := tx.ConsumeInvite(inv.ID, req.PublicKey)
		if err != nil {
			return err
		}
		if !fresh {
			return errRepeat
		}
		p, err = tx.AddPeer(store.NewPeer{
			Name: used.Name, PublicKey: req.PublicKey, PSK: psk, Kind: peer.KindSpoke,
			Owner: used.Owner, Household: used.Household, Tags: used.Tags, Invite: used.ID,
		})
		return err
	})
	switch {
	case errors.Is(err, errRepeat):
		// The first answer was lost on its way. The same key gets it again.
		return s.again(ctx, req.PublicKey)
	case errors.Is(err, store.ErrInviteSpent), errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrExists), errors.Is(err, store.ErrNotFound):
		// The log is for ever: whoever holds a spent invite must not fill it.
		if s.refusedJoins.take(inv.ID) {
			s.note(ctx, audit.Event{Actor: "invite:" + inv.Name, Action: "peer.join.refused", Target: inv.Name,
				Detail: map[string]string{"why": err.Error()}})
		}
		return invite.Reply{}, fmt.Errorf("%w: %w", err, invite.ErrRefused)
	case err != nil:
		return invite.Reply{}, fmt.Errorf("enrolling: %w", err)
	}
	s.log.Info("peer joined", "peer", p.Name, "v4", p.V4.String())
	return s.reply(p), nil
}

// errRepeat rolls a repeated enrolment back: nothing happened, nothing is
// recorded twice.
var errRepeat = errors.New("enrolled already")

func (s *Server) inviteOf(caller peer.Peer) (store.Invite, bool) {
	for _, inv := range s.snap.Load().invites {
		if inv.PublicKey == caller.PublicKey {
			return inv, true
		}
	}
	return store.Invite{}, false
}

func (s *Server) again(ctx context.Context, key peer.PublicKey) (invite.Reply, error) {
	var p store.Peer
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		p, err = tx.PeerByKey(key)
		return err
	})
	switch {
	case errors.Is(err, store.ErrNotFound): // removed again since
		return invite.Reply{}, fmt.Errorf("the peer is gone: %w", invite.ErrRefused)
	case err != nil:
		return invite.Reply{}, fmt.Errorf("enrolling: %w", err)
	}
	return s.reply(p), nil
}

func (s *Server) reply(p store.Peer) invite.Reply {
	sync4, _ := s.set.plan.Addrs(store.IndexSync)
	return invite.Reply{
		ID: p.ID, Name: p.Name, V4: p.V4, V6: p.V6, PSK: p.PSK, Hub: s.key.Public(), Endpoint: s.set.endpoint,
		NetV4: s.set.plan.V4, NetV6: s.set.plan.V6, Domain: s.set.domain, DNS: s.dnsAddrs(),
		Sync: netip.AddrPortFrom(sync4, 80), MTU: tunnelMTU,
		Owner: p.Owner, Household: p.Household, Tags: p.Tags, Kind: p.Kind,
	}
}

// note records something that happened but changed nothing. That it could not
// be recorded is logged: there is no action to hold back.
func (s *Server) note(ctx context.Context, ev audit.Event) {
	if err := s.store.Do(ctx, ev, func(*store.Tx) error { return nil }); err != nil {
		s.log.Error("recording in the audit log", "action", ev.Action, "err", err)
	}
}
