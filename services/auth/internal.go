package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// What a service is told about somebody whom it may not serve, besides the
// reasons of judgeNode. Clients compare the words.
const (
	reasonElsewhere = "Node is not at its own address"
	reasonForeign   = "Node does not belong to this household"
	reasonNoMember  = "User is not a member of this household"
	reasonBadApp    = "Invalid app credentials"
	reasonAppElse   = "App is not at its own address"
)

// verdict is what a service is told about somebody who calls it. reason is ""
// if they may.
type verdict struct {
	reason    string
	node      account.Node
	app       account.App
	members   []account.UserID
	addresses []string
}

// proof is a key that somebody presented to a service, and where from.
type proof struct {
	id, key, service string
	// address is where the request came from; nil if the service did not say.
	address *string
}

// validateNode judges a node's key for a service that asks. Nothing is written
// but the machine that a node becomes when it proves its key for the first
// time.
func (s *Service) validateNode(ctx context.Context, c *services.Caller, p proof) (v verdict, err error) {
	var bind peer.ID
	judge := func(tx account.Tx) error {
		v, bind, err = s.judgeProof(tx, c.App, p)
		return err
	}
	if err := s.cfg.Store.View(ctx, judge); err != nil {
		return verdict{}, fmt.Errorf("judging a node: %w", err)
	}
	if bind == "" {
		return v, nil
	}
	ev := account.Event{Actor: c.Actor(), Action: "node.bind", Target: nodeTarget(p.id), Detail: map[string]string{"peer": string(bind)}}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := judge(tx); err != nil || bind == "" {
			return err
		}
		return tx.BindNode(p.id, bind)
	})
	if errors.Is(err, account.ErrConflict) {
		return verdict{reason: reasonElsewhere}, nil
	}
	if err != nil {
		return verdict{}, fmt.Errorf("binding a node: %w", err)
	}
	return v, nil
}

// judgeProof says what is true of a node's key now. bind is the machine that
// the node is to become.
func (s *Service) judgeProof(tx account.Tx, asks account.App, p proof) (v verdict, bind peer.ID, err error) {
	no := func(reason string) (verdict, peer.ID, error) { return verdict{reason: reason}, "", nil }
	n, err := tx.Node(p.id)
	if errors.Is(err, account.ErrNotFound) || err == nil && !appMay(asks, n.Household) {
		return no(nodeUnknown)
	} else if err != nil {
		return verdict{}, "", fmt.Errorf("finding the node: %w", err)
	}
	n, why, err := judgeNode(tx, p.id, p.key, p.service)
	if err != nil || why != "" {
		return verdict{reason: why}, "", err
	}
	h, err := tx.Household(n.Household)
	if err != nil {
		return verdict{}, "", fmt.Errorf("finding the household: %w", err)
	}
	at, bind, reason := s.place(n.Peer, h, p.address)
	if reason != "" {
		return no(reason)
	}
	v = verdict{node: n, addresses: addressesOf(at)}
	members, err := tx.Members(n.Household)
	if err != nil {
		return verdict{}, "", fmt.Errorf("reading members: %w", err)
	}
	for _, m := range members {
		v.members = append(v.members, m.User)
	}
	return v, bind, nil
}

// place judges where a node's request came from. A node without a machine yet
// becomes the one that the request came from, if the service said which.
func (s *Service) place(own peer.ID, h account.Household, address *string) (at peer.Peer, bind peer.ID, reason string) {
	roster := s.cfg.Roster()
	if own != "" {
		p, ok := roster.ByID(own)
		if !ok || p.Quarantined || p.Kind == peer.KindInvite || !mayActIn(p, h) {
			return peer.Peer{}, "", nodeInactive
		}
		at = p
	}
	if address == nil {
		return at, "", ""
	}
	p, ok := callerAt(roster, address)
	switch {
	case !ok || own != "" && p.ID != own || !mayActIn(p, h):
		return peer.Peer{}, "", reasonElsewhere
	case own == "":
		return p, p.ID, ""
	}
	return p, "", ""
}

// callerAt finds the active machine with an address.
func callerAt(roster *peer.Roster, address *string) (peer.Peer, bool) {
	if address == nil {
		return peer.Peer{}, false
	}
	addr, err := netip.ParseAddr(*address)
	if err != nil {
		return peer.Peer{}, false
	}
	return services.ActivePeer(roster, addr)
}

// addressesOf are the tunnel addresses of a machine, none of nobody.
func addressesOf(p peer.Peer) []string {
	if p.ID == "" {
		return []string{}
	}
	return []string{p.V4.String(), p.V6.String()}
}

// validateApp judges the key of an app that called the service which asks.
// Whose key it is must have called from its own machine, so address is needed.
func (s *Service) validateApp(ctx context.Context, p proof) (v verdict, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		v = verdict{reason: reasonBadApp}
		app, ok, err := judgeApp(tx, p.id, p.key)
		if err != nil {
			return err
		}
		at, active := callerAt(s.cfg.Roster(), p.address)
		switch {
		case !ok:
		case !mayCall(app.Services, p.service):
			v.reason = fmt.Sprintf("App is not authorized to access service '%s'", p.service)
		case !active || app.Peer != at.ID:
			v.reason = reasonAppElse
		default:
			v = verdict{app: app, addresses: addressesOf(at)}
		}
		return nil
	})
	return v, err
}

// householdAccess says whether a person has at least a role in a household.
func (s *Service) householdAccess(ctx context.Context, asks account.App, u account.UserID, h account.HouseholdID, need account.Role) (role account.Role, reason string, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		reason = reasonNoMember
		if !appMay(asks, h) {
			return nil
		}
		m, err := tx.Membership(h, u)
		if errors.Is(err, account.ErrNotFound) {
			return nil
		} else if err != nil {
			return fmt.Errorf("finding a member: %w", err)
		}
		person, err := tx.User(u)
		if err != nil {
			return fmt.Errorf("finding the person: %w", err)
		}
		switch {
		case person.Disabled:
		case m.Role < need:
			reason = fmt.Sprintf("User has %s role, requires %s or higher", m.Role, need)
		default:
			role, reason = m.Role, ""
		}
		return nil
	})
	return role, reason, err
}

// nodeHousehold says whether a node belongs to a household.
func (s *Service) nodeHousehold(ctx context.Context, asks account.App, id string, h account.HouseholdID) (reason string, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		n, err := tx.Node(id)
		switch {
		case errors.Is(err, account.ErrNotFound) || err == nil && !appMay(asks, n.Household):
			reason = nodeUnknown
		case err != nil:
			return fmt.Errorf("finding the node: %w", err)
		case n.Household != h:
			reason = reasonForeign
		}
		return nil
	})
	return reason, err
}

// usernames are the names of people whom an app may know of: all, or those of
// its households.
func (s *Service) usernames(ctx context.Context, asks account.App, ids []account.UserID) (map[string]string, error) {
	names := make(map[string]string)
	err := s.cfg.Store.View(ctx, func(tx account.Tx) error {
		for _, id := range ids {
			if known, err := appKnows(tx, asks, id); err != nil {
				return err
			} else if !known {
				continue
			}
			u, err := tx.User(id)
			if errors.Is(err, account.ErrNotFound) {
				continue
			} else if err != nil {
				return fmt.Errorf("reading a person: %w", err)
			}
			names[id.String()] = u.Username
		}
		return nil
	})
	return names, err
}

// appKnows says whether a person lives in one of an app's households.
func appKnows(tx account.Tx, a account.App, u account.UserID) (bool, error) {
	if len(a.Households) == 0 {
		return true, nil
	}
	for _, h := range a.Households {
		switch _, err := tx.Membership(h, u); {
		case err == nil:
			return true, nil
		case !errors.Is(err, account.ErrNotFound):
			return false, fmt.Errorf("finding a member: %w", err)
		}
	}
	return false, nil
}

// nodeOfApp is the check that an app may change a node: it must know of its
// household.
func nodeOfApp(c *services.Caller, id string) func(account.Tx) error {
	return func(tx account.Tx) error {
		n, err := tx.Node(id)
		if err != nil {
			return missing(err, "Node", "finding the node")
		}
		if !appMay(c.App, n.Household) {
			return notFound("Node")
		}
		return nil
	}
}

// gives refuses an app that would let a node call what the app may not call
// itself: its key would be worth more than its own rights.
func gives(a account.App, service string) error {
	if service == a.ID || mayCall(a.Services, service) {
		return nil
	}
	return forbidden("This app may not give access to service '%s'; let it call that service first", service)
}
