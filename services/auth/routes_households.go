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

// The shapes of this file are those that Jarvis' clients know. What we do not
// keep, such as when a household was last changed, is answered with the time
// that comes nearest.

// out is an answer with a body.
type out[T any] struct{ Body T }

// inHousehold is what a route of one household asks of a person.
func inHousehold(role account.Role) services.Requirement {
	return services.Requirement{Any: []services.Credential{services.AsUser}, Household: "id", Role: role}
}

// byUser is what a route about the caller's own things asks.
func byUser() services.Requirement {
	return services.Requirement{Any: []services.Credential{services.AsUser}}
}

const tenantGate = "the gate answers 404 unless the caller lives in {id}"

type householdOut struct {
	ID        account.HouseholdID `json:"id"`
	Name      string              `json:"name"`
	CreatedAt time.Time           `json:"created_at"`
}

type householdDetail struct {
	householdOut
	UpdatedAt time.Time `json:"updated_at"`
}

type householdItem struct {
	ID        account.HouseholdID `json:"id"`
	Name      string              `json:"name"`
	Role      account.Role        `json:"role"`
	CreatedAt time.Time           `json:"created_at"`
}

type householdName struct {
	Name string `json:"name" minLength:"1" maxLength:"100" doc:"What people call the household."`
}

// registerHouseholds adds the routes about households, their members and
// invites into them.
func (s *Service) registerHouseholds(r *router.Router) {
	route := func(method, path, summary string, need services.Requirement, tenant string) router.Route {
		return router.Route{Method: method, Path: path, Summary: summary, Group: "households", Need: need, Shape: router.Jarvis, Tenant: tenant}
	}
	created := func(rt router.Route) router.Route { rt.Status = http.StatusCreated; return rt }
	empty := func(rt router.Route) router.Route { rt.Status = http.StatusNoContent; return rt }

	router.Handle(r, route("GET", "/households", "The caller's households.", byUser(), "only memberships of the caller are read"), s.listHouseholds)
	router.Handle(r, created(route("POST", "/households", "Make a household; the caller is its admin.", byUser(), "makes a new one; no id is taken")), s.postHousehold)
	router.Handle(r, route("GET", "/households/{id}", "One household.", inHousehold(account.Member), tenantGate), s.getHousehold)
	router.Handle(r, route("PATCH", "/households/{id}", "Rename a household.", inHousehold(account.Admin), tenantGate), s.patchHousehold)
	router.Handle(r, empty(route("DELETE", "/households/{id}", "Delete a household with all that belongs to it.", inHousehold(account.Admin), tenantGate)), s.deleteHousehold)

	router.Handle(r, route("GET", "/households/{id}/members", "Who lives there.", inHousehold(account.Member), tenantGate), s.listMembers)
	router.Handle(r, created(route("POST", "/households/{id}/members", "Add somebody whom the caller lives with elsewhere.", inHousehold(account.Admin), tenantGate+"; user_id must be known to the caller")), s.postMember)
	router.Handle(r, route("PATCH", "/households/{id}/members/{uid}", "Change a member's role.", inHousehold(account.Admin), tenantGate+"; {uid} is looked for in {id}"), s.patchMember)
	router.Handle(r, empty(route("DELETE", "/households/{id}/members/{uid}", "Take a member out.", inHousehold(account.Admin), tenantGate+"; {uid} is looked for in {id}")), s.deleteMember)
	router.Handle(r, route("POST", "/households/{id}/leave", "Leave a household; with its last member it is deleted.", inHousehold(account.Member), tenantGate), s.postLeave)
	s.registerInvites(r, route)
}

func (s *Service) listHouseholds(ctx context.Context, c *services.Caller, _ *struct{}) (*out[[]householdItem], error) {
	o := &out[[]householdItem]{Body: []householdItem{}}
	err := s.cfg.Store.View(ctx, func(tx account.Tx) error {
		in, err := tx.Memberships(c.User.ID)
		if err != nil {
			return fmt.Errorf("reading households: %w", err)
		}
		for _, m := range in {
			h, err := tx.Household(m.Household)
			if err != nil {
				return fmt.Errorf("reading a household: %w", err)
			}
			// A machine of another household sees what it may act in only.
			if mayActIn(c.Peer, h) {
				o.Body = append(o.Body, householdItem{h.ID, h.Name, m.Role, h.Created})
			}
		}
		return nil
	})
	return o, err
}

type postHouseholdIn struct{ Body householdName }

func (s *Service) postHousehold(ctx context.Context, c *services.Caller, in *postHouseholdIn) (*out[householdOut], error) {
	var h account.Household
	ev := account.Event{Actor: c.Actor(), Action: "household.create", Target: "household"}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) (err error) {
		h, err = newHousehold(tx, in.Body.Name, "", c.User.ID)
		return err
	})
	return &out[householdOut]{householdOut{h.ID, h.Name, h.Created}}, err
}

type householdPath struct {
	ID string `path:"id" maxLength:"64"`
}

func (s *Service) getHousehold(ctx context.Context, c *services.Caller, _ *householdPath) (*out[householdDetail], error) {
	var h account.Household
	err := s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		h, err = tx.Household(c.Scope().Household())
		return missing(err, "Household", "finding the household")
	})
	return householdAnswer(h), err
}

func householdAnswer(h account.Household) *out[householdDetail] {
	return &out[householdDetail]{householdDetail{householdOut{h.ID, h.Name, h.Created}, h.Created}}
}

type patchHouseholdIn struct {
	ID   string `path:"id" maxLength:"64"`
	Body householdName
}

func (s *Service) patchHousehold(ctx context.Context, c *services.Caller, in *patchHouseholdIn) (*out[householdDetail], error) {
	if err := checkName(in.Body.Name); err != nil {
		return nil, err
	}
	id := c.Scope().Household()
	var h account.Household
	ev := account.Event{Actor: c.Actor(), Action: "household.rename", Target: householdTarget(id)}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) (err error) {
		if err := s.allow(tx, c, id, account.None, account.Admin); err != nil {
			return err
		}
		if h, err = tx.Household(id); err != nil {
			return missing(err, "Household", "finding the household")
		}
		h.Name = in.Body.Name
		return tx.UpdateHousehold(h)
	})
	return householdAnswer(h), err
}

func (s *Service) deleteHousehold(ctx context.Context, c *services.Caller, _ *householdPath) (*struct{}, error) {
	id := c.Scope().Household()
	ev := account.Event{Actor: c.Actor(), Action: "household.delete", Target: householdTarget(id)}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := s.allow(tx, c, id, account.None, account.Admin); err != nil {
			return err
		}
		return tx.DeleteHousehold(id)
	})
	if err == nil {
		s.changed()
	}
	return nil, err
}

type memberOut struct {
	UserID    account.UserID `json:"user_id"`
	Username  string         `json:"username"`
	Email     string         `json:"email"`
	Role      account.Role   `json:"role"`
	CreatedAt time.Time      `json:"created_at"`
}

func memberAnswer(m member) memberOut {
	return memberOut{m.User, m.person.Username, m.person.Email, m.Role, m.Joined}
}

func (s *Service) listMembers(ctx context.Context, c *services.Caller, _ *householdPath) (*out[[]memberOut], error) {
	all, err := s.members(ctx, c.Scope().Household())
	o := &out[[]memberOut]{Body: []memberOut{}}
	for _, m := range all {
		o.Body = append(o.Body, memberAnswer(m))
	}
	return o, err
}

type postMemberIn struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		UserID int64  `json:"user_id" minimum:"1"`
		Role   string `json:"role,omitempty" enum:"member,power_user,admin" default:"member"`
	}
}

func (s *Service) postMember(ctx context.Context, c *services.Caller, in *postMemberIn) (*out[memberOut], error) {
	role, err := account.ParseRole(in.Body.Role)
	if err != nil {
		return nil, err
	}
	m, err := s.addMember(ctx, c, c.Scope().Household(), account.UserID(in.Body.UserID), role)
	return &out[memberOut]{memberAnswer(m)}, err
}

type patchMemberIn struct {
	ID   string `path:"id" maxLength:"64"`
	UID  int64  `path:"uid" minimum:"1"`
	Body struct {
		Role string `json:"role" enum:"member,power_user,admin"`
	}
}

func (s *Service) patchMember(ctx context.Context, c *services.Caller, in *patchMemberIn) (*out[memberOut], error) {
	role, err := account.ParseRole(in.Body.Role)
	if err != nil {
		return nil, err
	}
	m, err := s.changeMember(ctx, c, c.Scope().Household(), account.UserID(in.UID), role)
	return &out[memberOut]{memberAnswer(m)}, err
}

type memberPath struct {
	ID  string `path:"id" maxLength:"64"`
	UID int64  `path:"uid" minimum:"1"`
}

func (s *Service) deleteMember(ctx context.Context, c *services.Caller, in *memberPath) (*struct{}, error) {
	return nil, s.removeMember(ctx, c, c.Scope().Household(), account.UserID(in.UID))
}

type leaveOut struct {
	Left             bool                `json:"left"`
	HouseholdID      account.HouseholdID `json:"household_id"`
	HouseholdDeleted bool                `json:"household_deleted"`
}

func (s *Service) postLeave(ctx context.Context, c *services.Caller, _ *householdPath) (*out[leaveOut], error) {
	deleted, err := s.leave(ctx, c, c.Scope().Household())
	return &out[leaveOut]{leaveOut{true, c.Scope().Household(), deleted}}, err
}
