package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// registerInvites adds the routes about invites into a household; route makes
// a line of the table.
func (s *Service) registerInvites(r *router.Router, route func(method, path, summary string, need services.Requirement, tenant string) router.Route) {
	invite := route("POST", "/households/{id}/invites", "Make a code that lets one person join.", inHousehold(account.PowerUser), tenantGate)
	invite.Status = http.StatusCreated
	router.Handle(r, invite, s.postInvite)
	router.Handle(r, route("GET", "/households/{id}/invites", "The open invites; their codes are for those who may invite.", inHousehold(account.Member), tenantGate), s.listInvites)
	withdraw := route("DELETE", "/households/{id}/invites/{iid}", "Withdraw an invite.", inHousehold(account.PowerUser), tenantGate+"; {iid} is looked for in {id}")
	withdraw.Status = http.StatusNoContent
	router.Handle(r, withdraw, s.deleteInvite)
	router.Handle(r, route("POST", "/households/join", "Join a household with a code.", byUser(), "the code names the household; a wrong one tells nothing"), s.postJoin)
	anyPeer := services.Requirement{Any: []services.Credential{services.AsPeer}}
	router.Handle(r, route("GET", "/invites/{code}/validate", "Whether a code would do, for somebody without an account yet.", anyPeer, "who has a code may read the name that it leads to, and no more"), s.getInvite)
}

type inviteOut struct {
	ID          int64               `json:"id"`
	HouseholdID account.HouseholdID `json:"household_id"`
	Code        string              `json:"code"`
	DefaultRole account.Role        `json:"default_role"`
	MaxUses     int                 `json:"max_uses"`
	UseCount    int                 `json:"use_count"`
	ExpiresAt   time.Time           `json:"expires_at"`
	Revoked     bool                `json:"revoked"`
	CreatedAt   time.Time           `json:"created_at"`
}

func inviteAnswer(in account.Invitation, code string) inviteOut {
	id, _ := strconv.ParseInt(in.ID, 10, 64) // we made it of digits
	return inviteOut{ID: id, HouseholdID: in.Household, Code: code, DefaultRole: in.Role, MaxUses: 1, ExpiresAt: in.Expires, CreatedAt: in.Created}
}

type postInviteIn struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		DefaultRole string `json:"default_role,omitempty" enum:"member,power_user,admin" default:"member"`
		MaxUses     *int   `json:"max_uses,omitempty" nullable:"true" minimum:"1" maximum:"1" doc:"An invite is for one person."`
		Days        int    `json:"expires_in_days,omitempty" minimum:"1" maximum:"90" default:"7"`
	}
}

func (s *Service) postInvite(ctx context.Context, c *services.Caller, in *postInviteIn) (*out[inviteOut], error) {
	role, err := account.ParseRole(in.Body.DefaultRole)
	if err != nil {
		return nil, err
	}
	made, code, err := s.createInvite(ctx, c, c.Scope().Household(), role, in.Body.Days)
	return &out[inviteOut]{inviteAnswer(made, code)}, err
}

func (s *Service) listInvites(ctx context.Context, c *services.Caller, _ *householdPath) (*out[[]inviteOut], error) {
	o := &out[[]inviteOut]{Body: []inviteOut{}}
	err := s.cfg.Store.View(ctx, func(tx account.Tx) error {
		all, err := tx.Invitations(c.Scope().Household())
		if err != nil {
			return fmt.Errorf("reading invites: %w", err)
		}
		for _, in := range all {
			// A member who sees a code could use it for more than they have.
			code := ""
			if c.Role >= account.PowerUser {
				code = inviteCode(tx, in.ID)
			}
			o.Body = append(o.Body, inviteAnswer(in, code))
		}
		return nil
	})
	return o, err
}

type invitePath struct {
	ID  string `path:"id" maxLength:"64"`
	IID int64  `path:"iid" minimum:"1"`
}

func (s *Service) deleteInvite(ctx context.Context, c *services.Caller, in *invitePath) (*struct{}, error) {
	h, id := c.Scope().Household(), strconv.FormatInt(in.IID, 10)
	ev := account.Event{Actor: c.Actor(), Action: "household.uninvite", Target: householdTarget(h), Detail: map[string]string{"invite": id}}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := s.allow(tx, c, h, account.None, account.PowerUser); err != nil {
			return err
		}
		return missing(tx.DeleteInvitation(h, id), "Invite", "withdrawing an invite")
	})
	return nil, err
}

type codePath struct {
	Code string `path:"code" maxLength:"64"`
}

type validateInviteOut struct {
	Valid         bool    `json:"valid"`
	HouseholdName *string `json:"household_name"`
}

func (s *Service) getInvite(ctx context.Context, c *services.Caller, in *codePath) (*out[validateInviteOut], error) {
	var o validateInviteOut
	h, err := s.checkInvite(ctx, c.Peer, in.Code, "")
	if why, refused := errors.AsType[*services.Refusal](err); refused && why.Status == http.StatusBadRequest {
		err = nil
	} else if err == nil {
		o = validateInviteOut{true, &h.Name}
	}
	return &out[validateInviteOut]{o}, err
}

type postJoinIn struct {
	Body struct {
		InviteCode string `json:"invite_code" minLength:"1" maxLength:"64"`
	}
}

type joinOut struct {
	HouseholdID   account.HouseholdID `json:"household_id"`
	HouseholdName string              `json:"household_name"`
	Role          account.Role        `json:"role"`
}

func (s *Service) postJoin(ctx context.Context, c *services.Caller, in *postJoinIn) (*out[joinOut], error) {
	var m account.Membership
	var h account.Household
	if _, err := s.checkInvite(ctx, c.Peer, in.Body.InviteCode, ""); err != nil {
		return nil, err
	}
	ev := account.Event{Actor: c.Actor(), Action: "household.join", Target: "user:" + c.User.ID.String()}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) (err error) {
		if m, h, err = s.acceptInvite(tx, c.Peer, c.User.ID, in.Body.InviteCode); err != nil {
			return err
		}
		if c.Session.Household == "" {
			return tx.SetSessionHousehold(c.Session.ID, h.ID)
		}
		return nil
	})
	return &out[joinOut]{joinOut{h.ID, h.Name, m.Role}}, err
}
