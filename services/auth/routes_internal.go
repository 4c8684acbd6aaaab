package auth

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// maxBatch is how many people can be asked about at once.
const maxBatch = 100

// tenantApp is what keeps households apart for apps.
const tenantApp = "an app sees the households of its list only; others are as if there were none"

// registerInternal adds the routes that services ask, with their app keys.
func (s *Service) registerInternal(r *router.Router) {
	route := func(method, path, summary string, status int) router.Route {
		need := services.Requirement{Any: []services.Credential{services.AsApp}}
		return router.Route{Method: method, Path: path, Summary: summary, Status: status, Group: "internal", Need: need, Shape: router.Jarvis, Tenant: tenantApp}
	}
	router.Handle(r, route("GET", "/internal/app-ping", "Whether the app's key is good.", 0), s.getAppPing)
	router.Handle(r, route("POST", "/internal/validate-app", "Whether the app's key is good; or, with a body, whether that of an app that called it is.", 0), s.postValidateApp)
	router.Handle(r, route("POST", "/internal/validate-node", "Whether a node may call a service. The answer is always 200.", 0), s.postValidateNode)
	router.Handle(r, route("POST", "/internal/validate-household-access", "Whether a person has a role in a household.", 0), s.postValidateAccess)
	router.Handle(r, route("POST", "/internal/validate-node-household", "Whether a node belongs to a household.", 0), s.postValidateNodeHousehold)
	router.Handle(r, route("GET", "/internal/users/batch", "The names of up to 100 people.", 0), s.getUsersBatch)
	router.Handle(r, route("POST", "/internal/nodes/register", "Register a node that may call the app; its key is shown this once.", http.StatusCreated), s.postInternalNode)
	router.Handle(r, route("POST", "/internal/nodes/{id}/services", "Let a node call a service.", http.StatusCreated), s.postInternalService)
	router.Handle(r, route("DELETE", "/internal/nodes/{id}/services/{sid}", "Take a service from a node.", http.StatusNoContent), s.deleteInternalService)
	router.Handle(r, route("DELETE", "/internal/nodes/{id}", "Switch a node off; its keys end.", 0), s.deleteInternalNode)
}

type appPing struct {
	AppID string `json:"app_id"`
	Name  string `json:"name"`
}

func (s *Service) getAppPing(_ context.Context, c *services.Caller, _ *struct{}) (*out[appPing], error) {
	return &out[appPing]{appPing{c.App.ID, c.App.Name}}, nil
}

type validateAppIn struct {
	Body *struct {
		AppID     string `json:"app_id" maxLength:"64"`
		AppKey    string `json:"app_key" maxLength:"256"`
		ServiceID string `json:"service_id" maxLength:"64"`
		Address   string `json:"address" maxLength:"64" doc:"Where that app's request came from."`
	}
}

type validateAppOut struct {
	Valid     bool     `json:"valid"`
	AppID     string   `json:"app_id,omitempty"`
	Name      string   `json:"name,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	Reason    string   `json:"reason,omitempty"`
}

func (s *Service) postValidateApp(ctx context.Context, c *services.Caller, in *validateAppIn) (*out[validateAppOut], error) {
	if in.Body == nil {
		return &out[validateAppOut]{validateAppOut{Valid: true, AppID: c.App.ID, Name: c.App.Name}}, nil
	}
	v, err := s.validateApp(ctx, proof{in.Body.AppID, in.Body.AppKey, in.Body.ServiceID, &in.Body.Address})
	return &out[validateAppOut]{validateAppOut{v.reason == "", v.app.ID, v.app.Name, v.addresses, v.reason}}, err
}

type validateNodeIn struct {
	Body struct {
		NodeID    string  `json:"node_id" maxLength:"256"`
		NodeKey   string  `json:"node_key" maxLength:"1024"`
		ServiceID string  `json:"service_id" maxLength:"256"`
		Address   *string `json:"address,omitempty" nullable:"true" maxLength:"64" doc:"Where the node's request came from. If given, it must be the node's own tunnel address."`
	}
}

type validateNodeOut struct {
	Valid       bool                 `json:"valid"`
	NodeID      *string              `json:"node_id"`
	HouseholdID *account.HouseholdID `json:"household_id"`
	Members     []account.UserID     `json:"household_member_ids"`
	Addresses   []string             `json:"addresses"`
	Reason      *string              `json:"reason"`
}

func (s *Service) postValidateNode(ctx context.Context, c *services.Caller, in *validateNodeIn) (*out[validateNodeOut], error) {
	v, err := s.validateNode(ctx, c, proof{in.Body.NodeID, in.Body.NodeKey, in.Body.ServiceID, in.Body.Address})
	if err != nil {
		return nil, err
	}
	if v.reason != "" {
		return &out[validateNodeOut]{validateNodeOut{Reason: &v.reason}}, nil
	}
	return &out[validateNodeOut]{validateNodeOut{true, &v.node.ID, &v.node.Household, v.members, v.addresses, nil}}, nil
}

type validateAccessIn struct {
	Body struct {
		UserID      int64               `json:"user_id"`
		HouseholdID account.HouseholdID `json:"household_id" maxLength:"64"`
		Role        string              `json:"required_role" enum:"member,power_user,admin"`
	}
}

type validateAccessOut struct {
	Valid       bool                 `json:"valid"`
	UserID      *account.UserID      `json:"user_id"`
	HouseholdID *account.HouseholdID `json:"household_id"`
	Role        *account.Role        `json:"role"`
	Reason      *string              `json:"reason"`
}

func (s *Service) postValidateAccess(ctx context.Context, c *services.Caller, in *validateAccessIn) (*out[validateAccessOut], error) {
	need, err := account.ParseRole(in.Body.Role)
	if err != nil {
		return nil, err
	}
	u, h := account.UserID(in.Body.UserID), in.Body.HouseholdID
	role, reason, err := s.householdAccess(ctx, c.App, u, h, need)
	if err != nil || reason != "" {
		return &out[validateAccessOut]{validateAccessOut{Reason: &reason}}, err
	}
	return &out[validateAccessOut]{validateAccessOut{true, &u, &h, &role, nil}}, nil
}

type validateNodeHouseholdIn struct {
	Body struct {
		NodeID      string              `json:"node_id" maxLength:"256"`
		HouseholdID account.HouseholdID `json:"household_id" maxLength:"64"`
	}
}

type validateNodeHouseholdOut struct {
	Valid       bool                 `json:"valid"`
	NodeID      *string              `json:"node_id"`
	HouseholdID *account.HouseholdID `json:"household_id"`
	Reason      *string              `json:"reason"`
}

func (s *Service) postValidateNodeHousehold(ctx context.Context, c *services.Caller, in *validateNodeHouseholdIn) (*out[validateNodeHouseholdOut], error) {
	reason, err := s.nodeHousehold(ctx, c.App, in.Body.NodeID, in.Body.HouseholdID)
	if err != nil || reason != "" {
		return &out[validateNodeHouseholdOut]{validateNodeHouseholdOut{Reason: &reason}}, err
	}
	return &out[validateNodeHouseholdOut]{validateNodeHouseholdOut{true, &in.Body.NodeID, &in.Body.HouseholdID, nil}}, nil
}

type usersBatchIn struct {
	IDs []string `query:"user_ids,explode" maxItems:"100" doc:"Numbers of people, repeated or with commas between."`
}

type usersBatchOut struct {
	Users map[string]string `json:"users"`
}

func (s *Service) getUsersBatch(ctx context.Context, c *services.Caller, in *usersBatchIn) (*out[usersBatchOut], error) {
	var ids []account.UserID
	for text := range strings.SplitSeq(strings.Join(in.IDs, ","), ",") {
		if text == "" {
			continue
		}
		id, err := account.ParseUserID(text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if ids = slices.Compact(ids); len(ids) > maxBatch {
		return nil, badRequest("At most %d user_ids at once", maxBatch)
	}
	names, err := s.usernames(ctx, c.App, ids)
	return &out[usersBatchOut]{usersBatchOut{names}}, err
}

type nodeKeyOut struct {
	NodeID  string `json:"node_id"`
	NodeKey string `json:"node_key"`
}

func (s *Service) postInternalNode(ctx context.Context, c *services.Caller, in *postNodeIn) (*out[nodeKeyOut], error) {
	if !appMay(c.App, in.Body.HouseholdID) {
		return nil, notFound("Household")
	}
	n := in.Body.node()
	for _, name := range n.Services {
		if err := gives(c.App, name); err != nil {
			return nil, err
		}
	}
	// Whoever registers a node may be called by it.
	n.Services = append(slices.Clone(n.Services), c.App.ID)
	node, key, err := s.createNode(ctx, c.Actor(), n, anything)
	return &out[nodeKeyOut]{nodeKeyOut{node.ID, key}}, err
}

func (s *Service) postInternalService(ctx context.Context, c *services.Caller, in *postNodeServiceIn) (*out[nodeGranted], error) {
	if err := gives(c.App, in.Body.ServiceID); err != nil {
		return nil, err
	}
	return s.grantAnswer(ctx, c, in, nodeOfApp(c, in.ID))
}

func (s *Service) deleteInternalService(ctx context.Context, c *services.Caller, in *nodeServicePath) (*struct{}, error) {
	return nil, s.ungrantService(ctx, c.Actor(), in.ID, in.SID, nodeOfApp(c, in.ID))
}

func (s *Service) deleteInternalNode(ctx context.Context, c *services.Caller, in *nodePath) (*out[nodeStopped], error) {
	err := s.stopNode(ctx, c.Actor(), in.ID, nodeOfApp(c, in.ID))
	return &out[nodeStopped]{nodeStopped{in.ID, false}}, err
}
