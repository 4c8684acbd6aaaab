package auth

import (
	"context"
	"errors"
	"fmt"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// member is a membership with the person it is about.
type member struct {
	account.Membership
	person account.User
}

// members reads who lives in h.
func (s *Service) members(ctx context.Context, h account.HouseholdID) (all []member, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		list, err := tx.Members(h)
		if err != nil {
			return fmt.Errorf("reading members: %w", err)
		}
		for _, m := range list {
			u, err := tx.User(m.User)
			if err != nil {
				return fmt.Errorf("reading a member: %w", err)
			}
			all = append(all, member{m, u})
		}
		return nil
	})
	return all, err
}

// addMember puts a person into a household. A caller who is no superuser can
// name only people whom they live with elsewhere: a number that anybody may
// try must not give a name and an address away. Others come with an invite.
func (s *Service) addMember(ctx context.Context, c *services.Caller, h account.HouseholdID, u account.UserID, role account.Role) (m member, err error) {
	ev := account.Event{Actor: c.Actor(), Action: "household.member", Target: householdTarget(h), Detail: map[string]string{"user": u.String(), "role": role.String()}}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := s.allow(tx, c, h, role, account.Admin); err != nil {
			return err
		}
		switch _, err := tx.Membership(h, u); {
		case err == nil:
			return badRequest("User is already a member of this household")
		case !errors.Is(err, account.ErrNotFound):
			return fmt.Errorf("finding a member: %w", err)
		}
		if known, err := knows(tx, c, u); err != nil {
			return err
		} else if !known {
			return notFound("User")
		}
		if m.person, err = tx.User(u); err != nil {
			return missing(err, "User", "finding the person")
		}
		if err := roomFor(tx, h, u); err != nil {
			return err
		}
		m.Membership = account.Membership{Household: h, User: u, Role: role, Joined: tx.Now()}
		return tx.PutMembership(m.Membership)
	})
	return m, err
}

// knows says whether the caller lives with u somewhere, or is a superuser.
func knows(tx account.Tx, c *services.Caller, u account.UserID) (bool, error) {
	if c.User.Superuser {
		return true, nil
	}
	mine, err := tx.Memberships(c.User.ID)
	if err != nil {
		return false, fmt.Errorf("reading households: %w", err)
	}
	for _, m := range mine {
		switch _, err := tx.Membership(m.Household, u); {
		case err == nil:
			return true, nil
		case !errors.Is(err, account.ErrNotFound):
			return false, fmt.Errorf("finding a member: %w", err)
		}
	}
	return false, nil
}

// roomFor refuses a further member, or a further household of a person, beyond
// what is sensible.
func roomFor(tx account.Tx, h account.HouseholdID, u account.UserID) error {
	there, err := tx.Members(h)
	if err != nil {
		return fmt.Errorf("counting members: %w", err)
	}
	in, err := tx.Memberships(u)
	if err != nil {
		return fmt.Errorf("counting households: %w", err)
	}
	if len(there) >= maxMembers || len(in) >= maxHouseholds {
		return conflict("A household has at most %d members, and a person at most %d households.", maxMembers, maxHouseholds)
	}
	return nil
}

// errLastAdmin is told to whoever would leave a household without an admin.
func errLastAdmin() error {
	return conflict("You're the only admin. Promote another member to admin before leaving.")
}

// changeMember gives a member another role.
func (s *Service) changeMember(ctx context.Context, c *services.Caller, h account.HouseholdID, u account.UserID, role account.Role) (m member, err error) {
	ev := account.Event{Actor: c.Actor(), Action: "household.role", Target: householdTarget(h), Detail: map[string]string{"user": u.String(), "role": role.String()}}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := s.allow(tx, c, h, role, account.Admin); err != nil {
			return err
		}
		if role != account.Admin {
			if last, _, err := lastAdmin(tx, h, u); err != nil {
				return err
			} else if last {
				return errLastAdmin()
			}
			if u == c.User.ID {
				return badRequest("Cannot demote yourself")
			}
		}
		if m.Membership, err = tx.Membership(h, u); err != nil {
			return missing(err, "Member", "finding a member")
		}
		if m.person, err = tx.User(u); err != nil {
			return missing(err, "User", "finding the person")
		}
		m.Role = role
		return tx.PutMembership(m.Membership)
	})
	if err == nil {
		s.changed()
	}
	return m, err
}

// removeMember takes somebody else out of a household.
func (s *Service) removeMember(ctx context.Context, c *services.Caller, h account.HouseholdID, u account.UserID) error {
	ev := account.Event{Actor: c.Actor(), Action: "household.remove", Target: householdTarget(h), Detail: map[string]string{"user": u.String()}}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := s.allow(tx, c, h, account.None, account.Admin); err != nil {
			return err
		}
		if u == c.User.ID {
			return badRequest("Cannot kick yourself. Use POST /households/{id}/leave instead.")
		}
		if _, err := tx.Membership(h, u); err != nil {
			return missing(err, "Member", "finding a member")
		}
		return tx.DeleteMembership(h, u)
	})
	if err == nil {
		s.changed()
	}
	return err
}

// leave takes the caller out of a household. With its last member it goes, and
// everything in it.
func (s *Service) leave(ctx context.Context, c *services.Caller, h account.HouseholdID) (deleted bool, err error) {
	ev := account.Event{Actor: c.Actor(), Action: "household.leave", Target: householdTarget(h)}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := s.allow(tx, c, h, account.None, account.Member); err != nil {
			return err
		}
		mine, err := tx.Memberships(c.User.ID)
		if err != nil {
			return fmt.Errorf("counting households: %w", err)
		}
		if len(mine) <= 1 {
			return badRequest("Cannot leave your only household. Join or create another household first.")
		}
		last, members, err := lastAdmin(tx, h, c.User.ID)
		if err != nil {
			return err
		}
		if last {
			return errLastAdmin()
		}
		if deleted = members == 1; deleted {
			return tx.DeleteHousehold(h)
		}
		return tx.DeleteMembership(h, c.User.ID)
	})
	if err == nil {
		s.changed()
	}
	return deleted, err
}
