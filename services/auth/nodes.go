package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

const (
	maxServices = 64   // that one node or app may call
	maxNodes    = 1000 // of one household
)

// NewNode is a node to be registered.
type NewNode struct {
	ID        string
	Name      string
	Household account.HouseholdID
	// Peer is the name of the machine whose address the key works from. "" is
	// the machine that is called like the node, or else the first that proves
	// the key.
	Peer         string
	RegisteredBy account.UserID
	Room         string
	// Services are what the node may call, by name.
	Services []string
}

func nodeTarget(id string) string { return "node:" + id }

// checkID accepts the id of a node, an app or a service: 1 to 64 of
// a-z A-Z 0-9 . _ -
func checkID(what, id string) error {
	if len(id) == 0 || len(id) > 64 {
		return fmt.Errorf("%s has 1 to 64 characters: %w", what, account.ErrInvalid)
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("%s is made of letters, digits, dots, underscores and hyphens: %w", what, account.ErrInvalid)
		}
	}
	return nil
}

// serviceList checks names of services and returns them sorted, each once.
func serviceList(names []string) ([]string, error) {
	if len(names) > maxServices {
		return nil, fmt.Errorf("at most %d services can be named: %w", maxServices, account.ErrInvalid)
	}
	for _, name := range names {
		if err := checkID("a service's name", name); err != nil {
			return nil, err
		}
	}
	out := slices.Clone(names)
	slices.Sort(out)
	return slices.Compact(out), nil
}

// CreateNode registers a node and returns its key, which is shown this once
// and kept nowhere.
func (s *Service) CreateNode(ctx context.Context, actor string, n NewNode) (account.Node, string, error) {
	return s.createNode(ctx, actor, n, anything)
}

// anything is the check of callers who may do all: the hub's own command line.
func anything(account.Tx) error { return nil }

// createNode is CreateNode by somebody of whom may says, inside the
// transaction, whether they still can.
func (s *Service) createNode(ctx context.Context, actor string, n NewNode, may func(account.Tx) error) (node account.Node, key string, err error) {
	if err := checkID("a node's id", n.ID); err != nil {
		return node, "", err
	}
	if err := checkName(n.Name); err != nil {
		return node, "", err
	}
	if n.Room != "" {
		if err := checkName(n.Room); err != nil {
			return node, "", err
		}
	}
	if n.Services, err = serviceList(n.Services); err != nil {
		return node, "", err
	}
	ev := account.Event{Actor: actor, Action: "node.create", Target: nodeTarget(n.ID), Detail: map[string]string{"household": string(n.Household)}}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := may(tx); err != nil {
			return err
		}
		node, key, err = s.putNode(tx, n)
		return err
	})
	if err != nil {
		return account.Node{}, "", err
	}
	return node, key, nil
}

// putNode writes a node that has been checked, and its first key.
func (s *Service) putNode(tx account.Tx, n NewNode) (account.Node, string, error) {
	none := func(err error) (account.Node, string, error) { return account.Node{}, "", err }
	h, err := tx.Household(n.Household)
	if err != nil {
		return none(missing(err, "Household", "finding the household"))
	}
	switch old, err := tx.Node(n.ID); {
	case errors.Is(err, account.ErrNotFound):
	case err != nil:
		return none(fmt.Errorf("finding the node: %w", err))
	case old.Active || old.Household != n.Household:
		return none(badRequest("node_id already exists"))
	default: // it was switched off, and is set up anew
		if err := tx.DeleteNode(n.ID); err != nil {
			return none(fmt.Errorf("replacing the node: %w", err))
		}
	}
	if all, err := tx.NodesOf(n.Household); err != nil {
		return none(fmt.Errorf("counting nodes: %w", err))
	} else if len(all) >= maxNodes {
		return none(conflict("A household has at most %d nodes.", maxNodes))
	}
	if n.RegisteredBy != 0 {
		if _, err := tx.Membership(n.Household, n.RegisteredBy); err != nil {
			return none(missing(err, "User", "finding who registers the node"))
		}
	}
	at, err := s.machineOf(h, n)
	if err != nil {
		return none(err)
	}
	node := account.Node{ID: n.ID, Name: n.Name, Household: h.ID, Peer: at, RegisteredBy: n.RegisteredBy, Room: n.Room, Active: true, Services: n.Services, Created: tx.Now()}
	if err := tx.CreateNode(node); err != nil {
		return none(fmt.Errorf("creating a node: %w", err))
	}
	key, err := addKey(tx, nodeOwner(n.ID), 0)
	return node, key, err
}

// machineOf finds the machine that a new node is: the one named, or the one
// that is called like the node. A machine of another household is none.
func (s *Service) machineOf(h account.Household, n NewNode) (peer.ID, error) {
	name := n.Peer
	if name == "" {
		name = n.ID
	}
	p, ok := s.cfg.Roster().ByName(name)
	switch {
	case ok && p.Kind != peer.KindInvite && mayActIn(p, h):
		return p.ID, nil
	case n.Peer != "":
		return "", notFound("Peer")
	}
	return "", nil
}

// Nodes lists the nodes of all households.
func (s *Service) Nodes(ctx context.Context) (all []account.Node, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		all, err = tx.AllNodes()
		return err
	})
	return all, err
}

// RotateNode gives a node a new key, shown this once. The old one is good for
// overlap more, 0 for not at all.
func (s *Service) RotateNode(ctx context.Context, actor, id string, overlap time.Duration) (n account.Node, key string, err error) {
	return s.rotateNode(ctx, actor, id, overlap, anything)
}

func (s *Service) rotateNode(ctx context.Context, actor, id string, overlap time.Duration, may func(account.Tx) error) (n account.Node, key string, err error) {
	err = s.changeNode(ctx, actor, "node.rotate", id, map[string]string{"overlap": overlap.String()}, may, func(tx account.Tx, node *account.Node) error {
		if !node.Active {
			return conflict("Node is inactive; register it again.")
		}
		if key, err = addKey(tx, nodeOwner(id), overlap); err != nil {
			return err
		}
		node.Rotated = tx.Now()
		n = *node
		return nil
	})
	if err != nil {
		return account.Node{}, "", err
	}
	return n, key, nil
}

// changeNode changes a node in a transaction of its own and has what runs
// judged again.
func (s *Service) changeNode(ctx context.Context, actor, action, id string, detail map[string]string, may func(account.Tx) error, change func(account.Tx, *account.Node) error) error {
	if checkID("a node's id", id) != nil {
		return notFound("Node")
	}
	ev := account.Event{Actor: actor, Action: action, Target: nodeTarget(id), Detail: detail}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := may(tx); err != nil {
			return err
		}
		n, err := tx.Node(id)
		if err != nil {
			return missing(err, "Node", "finding the node")
		}
		if err := change(tx, &n); err != nil {
			return err
		}
		return tx.UpdateNode(n)
	})
	if err == nil {
		s.changed()
	}
	return err
}

// stopNode switches a node off: none of its keys works any more. Its name
// stays taken until the household registers it again.
func (s *Service) stopNode(ctx context.Context, actor, id string, may func(account.Tx) error) error {
	return s.changeNode(ctx, actor, "node.stop", id, nil, may, func(tx account.Tx, n *account.Node) error {
		n.Active = false
		return endKeys(tx, nodeOwner(id))
	})
}

// RemoveNode removes a node with its keys. Its settings, which only it could
// open, wait until they expire; the public key that it had stays pinned, so that
// another machine of that name has to be approved by a person.
func (s *Service) RemoveNode(ctx context.Context, actor, id string) error {
	ev := account.Event{Actor: actor, Action: "node.remove", Target: nodeTarget(id)}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if _, err := tx.Node(id); err != nil {
			return missing(err, "Node", "finding the node")
		}
		if err := endKeys(tx, nodeOwner(id)); err != nil {
			return err
		}
		return tx.DeleteNode(id)
	})
	if err == nil {
		s.changed()
	}
	return err
}

// grantService lets a node call a further service.
func (s *Service) grantService(ctx context.Context, actor, id, service string, may func(account.Tx) error) (at time.Time, err error) {
	if err := checkID("a service's name", service); err != nil {
		return at, err
	}
	err = s.changeNode(ctx, actor, "node.grant", id, map[string]string{"service": service}, may, func(tx account.Tx, n *account.Node) error {
		if slices.Contains(n.Services, service) {
			return badRequest("Node already has access to this service")
		}
		at = tx.Now()
		n.Services, err = serviceList(append(slices.Clone(n.Services), service))
		return err
	})
	return at, err
}

// ungrantService takes a service from a node.
func (s *Service) ungrantService(ctx context.Context, actor, id, service string, may func(account.Tx) error) error {
	none := notFound("Service access")
	if checkID("a service's name", service) != nil {
		return none
	}
	err := s.changeNode(ctx, actor, "node.ungrant", id, map[string]string{"service": service}, may, func(tx account.Tx, n *account.Node) error {
		i := slices.Index(n.Services, service)
		if i < 0 {
			return none
		}
		n.Services = slices.Delete(slices.Clone(n.Services), i, i+1)
		return nil
	})
	if r, ok := errors.AsType[*services.Refusal](err); ok && r.Status == 404 {
		return none // whether it is the node that is missing is the same answer
	}
	return err
}

// BindNode makes a machine the one that a node's keys work from, by the
// machine's name. ErrConflict if it is another already: remove the node first.
func (s *Service) BindNode(ctx context.Context, actor, id, machine string) error {
	ev := account.Event{Actor: actor, Action: "node.bind", Target: nodeTarget(id), Detail: map[string]string{"peer": machine}}
	return s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		n, err := tx.Node(id)
		if err != nil {
			return missing(err, "Node", "finding the node")
		}
		h, err := tx.Household(n.Household)
		if err != nil {
			return fmt.Errorf("finding the household: %w", err)
		}
		at, err := s.machineOf(h, NewNode{Peer: machine})
		if err != nil {
			return err
		}
		return tx.BindNode(id, at)
	})
}
