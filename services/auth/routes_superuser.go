package auth

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// registerSuperuser adds the views over all households.
func (s *Service) registerSuperuser(r *router.Router) {
	route := func(method, path, summary string) router.Route {
		need := services.Requirement{Any: []services.Credential{services.AsUser}, Superuser: true}
		return router.Route{Method: method, Path: path, Summary: summary, Group: "superuser", Need: need, Shape: router.Jarvis, Tenant: "for superusers, who see all households"}
	}
	router.Handle(r, route("GET", "/superuser/households", "All households, by name."), s.listAllHouseholds)
	router.Handle(r, route("GET", "/superuser/nodes", "All nodes, by name."), s.listNodesByName)
	router.Handle(r, route("GET", "/superuser/users", "Everybody, by address, with where they live."), s.listAllUsers)
	router.Handle(r, route("POST", "/superuser/users/{id}/temp-password", "Give a person a password for their next sign-in, shown this once."), s.postTempPassword)
}

func (s *Service) listAllHouseholds(ctx context.Context, _ *services.Caller, _ *struct{}) (*out[[]householdDetail], error) {
	all, err := s.Households(ctx)
	slices.SortFunc(all, func(a, b account.Household) int { return strings.Compare(a.Name, b.Name) })
	o := &out[[]householdDetail]{Body: []householdDetail{}}
	for _, h := range all {
		o.Body = append(o.Body, householdAnswer(h).Body)
	}
	return o, err
}

func (s *Service) listNodesByName(ctx context.Context, _ *services.Caller, _ *struct{}) (*out[[]nodeItem], error) {
	all, err := s.Nodes(ctx)
	slices.SortFunc(all, func(a, b account.Node) int { return strings.Compare(a.Name, b.Name) })
	return nodeAnswers(all), err
}

type residentOut struct {
	ID         account.UserID `json:"id"`
	Email      string         `json:"email"`
	Username   string         `json:"username"`
	IsActive   bool           `json:"is_active"`
	Superuser  bool           `json:"is_superuser"`
	MustChange bool           `json:"must_change_password"`
	CreatedAt  time.Time      `json:"created_at"`
	UpdatedAt  *time.Time     `json:"updated_at"`
	Households []placeOut     `json:"households"`
}

type placeOut struct {
	HouseholdID   account.HouseholdID `json:"household_id"`
	HouseholdName string              `json:"household_name"`
	Role          account.Role        `json:"role"`
}

func (s *Service) listAllUsers(ctx context.Context, _ *services.Caller, _ *struct{}) (*out[[]residentOut], error) {
	all, err := s.residents(ctx)
	o := &out[[]residentOut]{Body: []residentOut{}}
	for _, u := range all {
		line := residentOut{u.ID, u.Email, u.Username, !u.Disabled, u.Superuser, u.MustChange, u.Created, nil, []placeOut{}}
		for _, p := range u.places {
			line.Households = append(line.Households, placeOut{p.Household, p.name, p.Role})
		}
		o.Body = append(o.Body, line)
	}
	return o, err
}

type tempPasswordIn struct {
	ID   int64 `path:"id" minimum:"1"`
	Body *struct {
		Password *string `json:"temp_password,omitempty" nullable:"true" minLength:"8" maxLength:"255" doc:"One is made if it is absent, which is better."`
		Hours    *int    `json:"expires_in_hours,omitempty" nullable:"true" minimum:"1" maximum:"168" doc:"24 if absent."`
	}
}

type tempPasswordOut struct {
	Password   string    `json:"temp_password"`
	ExpiresAt  time.Time `json:"expires_at"`
	MustChange bool      `json:"must_change_password"`
}

func (s *Service) postTempPassword(ctx context.Context, c *services.Caller, in *tempPasswordIn) (*out[tempPasswordOut], error) {
	password, hours := "", tempHours
	if b := in.Body; b != nil {
		if b.Password != nil {
			password = *b.Password
		}
		if b.Hours != nil {
			hours = min(*b.Hours, maxTempHours)
		}
	}
	set, until, err := s.tempPassword(ctx, c, account.UserID(in.ID), password, hours)
	return &out[tempPasswordOut]{tempPasswordOut{set, until, true}}, err
}
