package auth

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// byAdmin is what a route of the admin asks: the key of the admin's tools, or a
// superuser.
func byAdmin() services.Requirement {
	return services.Requirement{Any: []services.Credential{services.AsAdmin, services.AsUser}, Superuser: true}
}

const tenantAdmin = "for superusers and the admin's own tools, who see all households"

// registerMachines adds the routes about nodes and apps.
func (s *Service) registerMachines(r *router.Router) {
	route := func(method, path, summary string, status int) router.Route {
		return router.Route{Method: method, Path: path, Summary: summary, Status: status, Group: "nodes", Need: byAdmin(), Shape: router.Jarvis, Tenant: tenantAdmin}
	}
	own := route("GET", "/households/{id}/nodes", "The household's nodes.", 0)
	own.Need, own.Tenant = inHousehold(account.Member), tenantGate
	router.Handle(r, own, s.listNodes)
	register := route("POST", "/households/{id}/nodes", "Register a node; its key is shown this once.", http.StatusCreated)
	register.Need, register.Tenant = inHousehold(account.PowerUser), tenantGate+"; a household_id in the body must be the same"
	router.Handle(r, register, s.postHouseholdNode)

	router.Handle(r, route("POST", "/admin/nodes", "Register a node; its key is shown this once.", http.StatusCreated), s.postNode)
	router.Handle(r, route("GET", "/admin/nodes", "All nodes.", 0), s.listAllNodes)
	router.Handle(r, route("GET", "/admin/nodes/{id}", "One node.", 0), s.getNode)
	router.Handle(r, route("DELETE", "/admin/nodes/{id}", "Switch a node off; its keys end.", 0), s.deleteNode)
	router.Handle(r, route("POST", "/admin/nodes/{id}/rotate-key", "Give a node a new key, shown this once.", 0), s.postRotateNode)
	router.Handle(r, route("POST", "/admin/nodes/{id}/services", "Let a node call a service.", http.StatusCreated), s.postNodeService)
	router.Handle(r, route("DELETE", "/admin/nodes/{id}/services/{sid}", "Take a service from a node.", http.StatusNoContent), s.deleteNodeService)
	s.registerApps(r, route)
	s.registerSuperuser(r)
}

// nodeIn is a node as clients ask for one. Peer and Room are our own.
type nodeIn struct {
	NodeID       string              `json:"node_id" minLength:"1" maxLength:"64"`
	HouseholdID  account.HouseholdID `json:"household_id" minLength:"1" maxLength:"64"`
	Name         string              `json:"name" minLength:"1" maxLength:"100"`
	RegisteredBy *int64              `json:"registered_by_user_id,omitempty" nullable:"true" minimum:"1"`
	Services     []string            `json:"services,omitempty" nullable:"true" maxItems:"64" doc:"What the node may call."`
	Peer         string              `json:"peer,omitempty" minLength:"1" maxLength:"63" doc:"The machine whose address the key works from; if absent, the one called like the node, or else the first that proves the key."`
	Room         string              `json:"room,omitempty" minLength:"1" maxLength:"100"`
}

func (n nodeIn) node() NewNode {
	node := NewNode{ID: n.NodeID, Name: n.Name, Household: n.HouseholdID, Peer: n.Peer, Room: n.Room, Services: n.Services}
	if n.RegisteredBy != nil {
		node.RegisteredBy = account.UserID(*n.RegisteredBy)
	}
	return node
}

type nodeCreated struct {
	NodeID       string              `json:"node_id"`
	Name         string              `json:"name"`
	HouseholdID  account.HouseholdID `json:"household_id"`
	RegisteredBy *account.UserID     `json:"registered_by_user_id"`
	NodeKey      string              `json:"node_key"`
	CreatedAt    time.Time           `json:"created_at"`
	Services     []string            `json:"services"`
}

type nodeItem struct {
	NodeID       string              `json:"node_id"`
	Name         string              `json:"name"`
	HouseholdID  account.HouseholdID `json:"household_id"`
	RegisteredBy *account.UserID     `json:"registered_by_user_id"`
	IsActive     bool                `json:"is_active"`
	CreatedAt    time.Time           `json:"created_at"`
	UpdatedAt    time.Time           `json:"updated_at"`
	RotatedAt    *time.Time          `json:"last_rotated_at"`
	Services     []string            `json:"services"`
}

type nodeService struct {
	ServiceID string          `json:"service_id"`
	GrantedAt time.Time       `json:"granted_at"`
	GrantedBy *account.UserID `json:"granted_by"`
}

type nodeDetail struct {
	nodeItem
	Services []nodeService `json:"services"`
}

// byNumber is a person's number, null for nobody.
func byNumber(u account.UserID) *account.UserID {
	if u == 0 {
		return nil
	}
	return &u
}

// orNull is a time, null for none.
func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// orNone is a list that is [] when it is empty, never null.
func orNone(names []string) []string { return append([]string{}, names...) }

func nodeAnswer(n account.Node) nodeItem {
	updated := n.Created
	if n.Rotated.After(updated) {
		updated = n.Rotated
	}
	return nodeItem{n.ID, n.Name, n.Household, byNumber(n.RegisteredBy), n.Active, n.Created, updated, orNull(n.Rotated), orNone(n.Services)}
}

func nodeAnswers(all []account.Node) *out[[]nodeItem] {
	o := &out[[]nodeItem]{Body: []nodeItem{}}
	for _, n := range all {
		o.Body = append(o.Body, nodeAnswer(n))
	}
	return o
}

func (s *Service) listNodes(ctx context.Context, c *services.Caller, _ *householdPath) (*out[[]nodeItem], error) {
	var all []account.Node
	err := s.cfg.Data.View(ctx, c.Scope(), func(data account.Scoped) (err error) {
		all, err = data.Nodes()
		return err
	})
	return nodeAnswers(all), err
}

type postHouseholdNodeIn struct {
	ID   string `path:"id" maxLength:"64"`
	Body nodeIn
}

func (s *Service) postHouseholdNode(ctx context.Context, c *services.Caller, in *postHouseholdNodeIn) (*out[nodeCreated], error) {
	h := c.Scope().Household()
	if in.Body.HouseholdID != h {
		return nil, badRequest("Household ID in payload must match URL")
	}
	n := in.Body.node()
	n.RegisteredBy = c.User.ID // whoever the body says
	node, key, err := s.createNode(ctx, c.Actor(), n, func(tx account.Tx) error {
		return s.allow(tx, c, h, account.None, account.PowerUser)
	})
	return nodeCreatedAnswer(node, key), err
}

func nodeCreatedAnswer(n account.Node, key string) *out[nodeCreated] {
	return &out[nodeCreated]{nodeCreated{n.ID, n.Name, n.Household, byNumber(n.RegisteredBy), key, n.Created, orNone(n.Services)}}
}

type postNodeIn struct{ Body nodeIn }

func (s *Service) postNode(ctx context.Context, c *services.Caller, in *postNodeIn) (*out[nodeCreated], error) {
	node, key, err := s.createNode(ctx, c.Actor(), in.Body.node(), superuser(c))
	return nodeCreatedAnswer(node, key), err
}

func (s *Service) listAllNodes(ctx context.Context, _ *services.Caller, _ *struct{}) (*out[[]nodeItem], error) {
	all, err := s.Nodes(ctx)
	return nodeAnswers(all), err
}

type nodePath struct {
	ID string `path:"id" maxLength:"64"`
}

func (s *Service) getNode(ctx context.Context, _ *services.Caller, in *nodePath) (*out[nodeDetail], error) {
	if checkID("a node's id", in.ID) != nil {
		return nil, notFound("Node")
	}
	var n account.Node
	err := s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		n, err = tx.Node(in.ID)
		return missing(err, "Node", "finding the node")
	})
	d := nodeDetail{nodeItem: nodeAnswer(n), Services: []nodeService{}}
	for _, name := range n.Services {
		d.Services = append(d.Services, nodeService{name, n.Created, nil})
	}
	return &out[nodeDetail]{d}, err
}

type nodeStopped struct {
	NodeID   string `json:"node_id"`
	IsActive bool   `json:"is_active"`
}

func (s *Service) deleteNode(ctx context.Context, c *services.Caller, in *nodePath) (*out[nodeStopped], error) {
	err := s.stopNode(ctx, c.Actor(), in.ID, superuser(c))
	return &out[nodeStopped]{nodeStopped{in.ID, false}}, err
}

// rotateBody is the body of a rotation, which may be left out.
type rotateBody struct {
	Overlap *int64 `json:"overlap_seconds,omitempty" nullable:"true" minimum:"0" maximum:"2592000" doc:"How long the old key stays good, 24 hours if absent."`
}

func (b *rotateBody) overlap() time.Duration {
	if b == nil || b.Overlap == nil {
		return DefaultOverlap
	}
	return time.Duration(*b.Overlap) * time.Second
}

type rotateIn struct {
	ID   string `path:"id" maxLength:"64"`
	Body *rotateBody
}

type nodeRotated struct {
	NodeID    string    `json:"node_id"`
	NodeKey   string    `json:"node_key"`
	RotatedAt time.Time `json:"last_rotated_at"`
}

func (s *Service) postRotateNode(ctx context.Context, c *services.Caller, in *rotateIn) (*out[nodeRotated], error) {
	n, key, err := s.rotateNode(ctx, c.Actor(), in.ID, in.Body.overlap(), superuser(c))
	return &out[nodeRotated]{nodeRotated{n.ID, key, n.Rotated}}, err
}

type postNodeServiceIn struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		ServiceID string `json:"service_id" minLength:"1" maxLength:"64"`
	}
}

type nodeGranted struct {
	NodeID    string    `json:"node_id"`
	ServiceID string    `json:"service_id"`
	GrantedAt time.Time `json:"granted_at"`
}

func (s *Service) postNodeService(ctx context.Context, c *services.Caller, in *postNodeServiceIn) (*out[nodeGranted], error) {
	return s.grantAnswer(ctx, c, in, superuser(c))
}

func (s *Service) grantAnswer(ctx context.Context, c *services.Caller, in *postNodeServiceIn, may func(account.Tx) error) (*out[nodeGranted], error) {
	at, err := s.grantService(ctx, c.Actor(), in.ID, in.Body.ServiceID, may)
	if err != nil {
		return nil, fmt.Errorf("granting a service: %w", err)
	}
	return &out[nodeGranted]{nodeGranted{in.ID, in.Body.ServiceID, at}}, nil
}

type nodeServicePath struct {
	ID  string `path:"id" maxLength:"64"`
	SID string `path:"sid" maxLength:"64"`
}

func (s *Service) deleteNodeService(ctx context.Context, c *services.Caller, in *nodeServicePath) (*struct{}, error) {
	return nil, s.ungrantService(ctx, c.Actor(), in.ID, in.SID, superuser(c))
}
