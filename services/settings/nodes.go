package settings

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

func (s *Service) registerNodes(r *router.Router) {
	const at = "/api/v0/admin/nodes"
	router.Handle(r, router.Route{Method: http.MethodGet, Path: "/api/v0/ping", Summary: "Answer.", Group: "service", Shape: router.Jarvis,
		Need: services.Requirement{Any: []services.Credential{services.AsPeer}}}, s.ping)
	router.Handle(r, route(http.MethodGet, at, "List nodes, with when they were last heard of.", tenantAdmin, asAdminOr(account.Member)), s.nodes)
	router.Handle(r, created(route(http.MethodPost, at, "Register a node and get its key, once.", tenantAdmin, asAdminOr(account.PowerUser))), s.createNode)
	reset := route(http.MethodPost, at+"/{id}/factory-reset", "Tell a node to forget its settings.", tenantAdmin, asAdminOr(account.Admin))
	reset.Status = http.StatusAccepted
	router.Handle(r, reset, s.factoryReset)
	router.Handle(r, route(http.MethodPost, at+"/heartbeat", "Say that the calling node is up.", tenantNode, asNode()), s.heartbeat)
}

type pingOut struct {
	Body struct {
		Message string `json:"message"`
	}
}

func (s *Service) ping(context.Context, *services.Caller, *struct{}) (*pingOut, error) {
	out := new(pingOut)
	out.Body.Message = "pong"
	return out, nil
}

// NodeInfo is a node in answers.
type NodeInfo struct {
	NodeID    string              `json:"node_id"`
	Name      string              `json:"name"`
	Household account.HouseholdID `json:"household_id"`
	Room      string              `json:"room"`
	Active    bool                `json:"is_active"`
	Online    bool                `json:"online"`
	LastSeen  *time.Time          `json:"last_seen"`
	CreatedAt time.Time           `json:"created_at"`
}

func (s *Service) info(n account.Node) NodeInfo {
	i := NodeInfo{NodeID: n.ID, Name: n.Name, Household: n.Household, Room: n.Room, Active: n.Active, CreatedAt: stamp(n.Created)}
	if !n.Seen.IsZero() {
		seen := stamp(n.Seen)
		i.LastSeen, i.Online = &seen, n.Active && s.cfg.Now().Sub(n.Seen) < OnlineFor
	}
	return i
}

type nodesOut struct {
	Body struct {
		Nodes []NodeInfo `json:"nodes"`
	}
}

// nodes lists those of the caller's household, or all for an admin key.
func (s *Service) nodes(ctx context.Context, c *services.Caller, _ *struct{}) (*nodesOut, error) {
	var all []account.Node
	var err error
	if c.As == services.AsAdmin {
		err = s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
			all, err = tx.AllNodes()
			return err
		})
	} else {
		err = s.cfg.Data.View(ctx, c.Scope(), func(sc account.Scoped) (err error) {
			all, err = sc.Nodes()
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	out := new(nodesOut)
	out.Body.Nodes = make([]NodeInfo, 0, len(all))
	for _, n := range all {
		out.Body.Nodes = append(out.Body.Nodes, s.info(n))
	}
	return out, nil
}

// household is the one that a caller means: a person's own, whichever an admin
// names.
func (s *Service) household(c *services.Caller, named account.HouseholdID) (account.HouseholdID, error) {
	switch own := c.Scope().Household(); {
	case c.As == services.AsAdmin && named != "":
		return named, nil
	case c.As == services.AsAdmin:
		return "", refusal(http.StatusUnprocessableEntity, "An admin key is no member of a household: say household_id.")
	case own == "" || named != "" && named != own:
		return "", refusal(http.StatusNotFound, "Household not found")
	default:
		return own, nil
	}
}

type createNodeIn struct {
	Body struct {
		NodeID    string              `json:"node_id" minLength:"1" maxLength:"64"`
		Household account.HouseholdID `json:"household_id,omitempty" maxLength:"64"`
		Name      string              `json:"name,omitempty" maxLength:"64"`
		Room      string              `json:"room,omitempty" maxLength:"64"`
		Peer      string              `json:"peer,omitempty" maxLength:"63" doc:"The machine whose address the key works from."`
	}
}

type createNodeOut struct {
	Body struct {
		NodeInfo
		NodeKey string `json:"node_key" doc:"Shown this once."`
	}
}

func (s *Service) createNode(ctx context.Context, c *services.Caller, in *createNodeIn) (*createNodeOut, error) {
	h, err := s.household(c, in.Body.Household)
	if err != nil {
		return nil, err
	}
	n := NewNode{ID: in.Body.NodeID, Name: in.Body.Name, Household: h, Peer: in.Body.Peer, RegisteredBy: c.User.ID, Room: in.Body.Room, Services: s.cfg.NodeServices}
	if n.Name == "" {
		n.Name = n.ID
	}
	node, key, err := s.cfg.CreateNode(ctx, c.Actor(), n)
	if err != nil {
		return nil, err
	}
	out := new(createNodeOut)
	out.Body.NodeInfo, out.Body.NodeKey = s.info(node), key
	return out, nil
}

// scopeOf is where the caller may look for a node: an admin key in the node's
// own household, a person in theirs.
func (s *Service) scopeOf(ctx context.Context, c *services.Caller, node string) (account.Scope, error) {
	if c.As != services.AsAdmin {
		return c.Scope(), nil
	}
	var n account.Node
	err := s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		n, err = tx.Node(node)
		return err
	})
	if err != nil {
		return account.Scope{}, missing(err, "Node not found")
	}
	return account.NewScope(n.Household, 0), nil
}

type resetOut struct {
	Body struct {
		Status    string `json:"status"`
		RequestID string `json:"request_id"`
		NodeID    string `json:"node_id"`
	}
}

func (s *Service) factoryReset(ctx context.Context, c *services.Caller, in *NodePath) (*resetOut, error) {
	scope, err := s.scopeOf(ctx, c, in.ID)
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(command{Command: factoryReset})
	if err != nil {
		return nil, err
	}
	b := account.Blob{Kind: account.BlobCommand, ID: newID(), Node: in.ID, By: c.User.ID, State: statePending, Payload: payload}
	err = s.cfg.Data.Do(ctx, scope, event(c, "node.reset", in.ID, nil), func(sc account.Scoped) error {
		b.Created, b.Expires = sc.Now(), sc.Now().Add(KeyLife)
		return s.put(sc, b)
	})
	if err != nil {
		return nil, err
	}
	s.wake()
	out := new(resetOut)
	out.Body.Status, out.Body.RequestID, out.Body.NodeID = statePending, b.ID, in.ID
	return out, nil
}

type heartbeatIn struct {
	Body *struct {
		_      struct{} `additionalProperties:"true"`
		NodeID string   `json:"node_id,omitempty" doc:"What else a node says of itself is not looked at."`
	}
}

type heartbeatOut struct {
	Body struct {
		Status    string    `json:"status"`
		NodeID    string    `json:"node_id"`
		Timestamp time.Time `json:"timestamp"`
	}
}

func (s *Service) heartbeat(ctx context.Context, c *services.Caller, in *heartbeatIn) (*heartbeatOut, error) {
	if in.Body != nil && in.Body.NodeID != "" && in.Body.NodeID != c.Node.ID {
		return nil, refusal(http.StatusForbidden, "Cannot speak for other nodes")
	}
	n, err := s.seen(ctx, c.Node.ID)
	if err != nil {
		return nil, err
	}
	out := new(heartbeatOut)
	out.Body.Status, out.Body.NodeID, out.Body.Timestamp = "ok", n.ID, stamp(n.Seen)
	return out, nil
}

// seen notes that a node was heard of now.
func (s *Service) seen(ctx context.Context, node string) (n account.Node, err error) {
	err = s.cfg.Store.Keep(ctx, func(tx account.Tx) error {
		if n, err = tx.Node(node); err != nil {
			return missing(err, "Node not found")
		}
		n.Seen = tx.Now()
		return tx.UpdateNode(n)
	})
	return n, err
}
