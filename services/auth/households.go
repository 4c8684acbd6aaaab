package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

const (
	maxName       = 100 // characters of a household's, node's or app's name
	maxHouseholds = 20  // that one person lives in
	maxMembers    = 200 // of one household
)

// The answers that several routes give.

func notFound(what string) error {
	return &services.Refusal{Status: http.StatusNotFound, Detail: what + " not found"}
}

func conflict(format string, args ...any) error {
	return &services.Refusal{Status: http.StatusConflict, Detail: fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) error {
	return &services.Refusal{Status: http.StatusBadRequest, Detail: fmt.Sprintf(format, args...)}
}

func forbidden(format string, args ...any) error {
	return &services.Refusal{Status: http.StatusForbidden, Detail: fmt.Sprintf(format, args...)}
}

// missing turns ErrNotFound into the 404 for what; doing names the step in any
// other error.
func missing(err error, what, doing string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, account.ErrNotFound):
		return notFound(what)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// checkName accepts what a person calls something: 1 to maxName printable
// characters, no blank at either end. What cannot be seen, or turns the
// direction of the text around, is refused.
func checkName(name string) error {
	if n := utf8.RuneCountInString(name); n == 0 || n > maxName || !utf8.ValidString(name) || strings.TrimSpace(name) != name {
		return fmt.Errorf("a name has 1 to %d characters and no blanks around it: %w", maxName, account.ErrInvalid)
	}
	for _, c := range name {
		if !unicode.IsPrint(c) {
			return fmt.Errorf("a name has printable characters only: %w", account.ErrInvalid)
		}
	}
	return nil
}

// allow judges a change again in the transaction that makes it: what the gate
// saw may be gone by now. The caller must have at least need in h and cannot
// give a role above their own.
func (s *Service) allow(tx account.Tx, c *services.Caller, h account.HouseholdID, give, need account.Role) error {
	if c.As != services.AsUser {
		return notFound("Household")
	}
	m, err := tx.Membership(h, c.User.ID)
	if err != nil {
		return missing(err, "Household", "finding a member")
	}
	if m.Role < need {
		return forbidden("Requires %s role or higher", need)
	}
	if give > m.Role {
		return forbidden("You cannot give a role above your own")
	}
	return nil
}

// lastAdmin says whether u is the only admin of h while others live there, and
// how many live there. Who is being erased is none any more.
func lastAdmin(tx account.Tx, h account.HouseholdID, u account.UserID) (last bool, members int, err error) {
	all, err := tx.Members(h)
	if err != nil {
		return false, 0, fmt.Errorf("reading members: %w", err)
	}
	admin, others := false, 0
	for _, m := range all {
		switch {
		case m.User == u:
			admin = m.Role == account.Admin
		case m.Role == account.Admin:
			person, err := tx.User(m.User)
			if err != nil {
				return false, 0, fmt.Errorf("reading a member: %w", err)
			}
			if !person.Disabled {
				others++
			}
		}
	}
	return admin && others == 0 && len(all) > 1, len(all), nil
}

// newHousehold makes a household with u as its admin, in the caller's
// transaction; u may be 0 when the admin puts somebody in later.
func newHousehold(tx account.Tx, name, label string, u account.UserID) (account.Household, error) {
	if err := checkName(name); err != nil {
		return account.Household{}, err
	}
	if label != "" {
		if err := peer.ValidName(label); err != nil {
			return account.Household{}, fmt.Errorf("%w: %w", err, account.ErrInvalid)
		}
	}
	h, err := tx.CreateHousehold(account.Household{Name: name, Label: label, Created: tx.Now()})
	if err != nil {
		return h, fmt.Errorf("creating a household: %w", err)
	}
	if u == 0 {
		return h, nil
	}
	if err := roomFor(tx, h.ID, u); err != nil {
		return h, err
	}
	if err := tx.PutMembership(account.Membership{Household: h.ID, User: u, Role: account.Admin, Joined: tx.Now()}); err != nil {
		return h, fmt.Errorf("adding a member: %w", err)
	}
	return h, nil
}

func householdTarget(h account.HouseholdID) string { return "household:" + string(h) }

// CreateHousehold makes a household. label is what the packet policy calls it,
// "" if it does not know it; admin is its first member, 0 for nobody yet.
func (s *Service) CreateHousehold(ctx context.Context, actor, name, label string, admin account.UserID) (h account.Household, err error) {
	ev := account.Event{Actor: actor, Action: "household.create", Target: "household"}
	if admin != 0 {
		ev.Detail = map[string]string{"admin": admin.String()}
	}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if admin != 0 {
			if _, err := tx.User(admin); err != nil {
				return fmt.Errorf("finding the first member: %w", err)
			}
		}
		h, err = newHousehold(tx, name, label, admin)
		return err
	})
	return h, err
}

// Households lists all households.
func (s *Service) Households(ctx context.Context) (all []account.Household, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		all, err = tx.AllHouseholds()
		return err
	})
	return all, err
}

// SetLabel changes what the packet policy calls a household; "" means that it
// does not know it. Machines with another label lose their place in it at once.
func (s *Service) SetLabel(ctx context.Context, actor string, id account.HouseholdID, label string) error {
	if label != "" {
		if err := peer.ValidName(label); err != nil {
			return fmt.Errorf("%w: %w", err, account.ErrInvalid)
		}
	}
	ev := account.Event{Actor: actor, Action: "household.label", Target: householdTarget(id), Detail: map[string]string{"label": label}}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		h, err := tx.Household(id)
		if err != nil {
			return fmt.Errorf("finding the household: %w", err)
		}
		h.Label = label
		return tx.UpdateHousehold(h)
	})
	if err == nil {
		s.changed()
	}
	return err
}

// SetMember gives a person a role in a household, or with account.None takes
// them out. The last admin of a household with members stays: ErrConflict.
func (s *Service) SetMember(ctx context.Context, actor string, h account.HouseholdID, u account.UserID, role account.Role) error {
	ev := account.Event{Actor: actor, Action: "household.member", Target: householdTarget(h), Detail: map[string]string{"user": u.String(), "role": role.String()}}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if _, err := tx.Household(h); err != nil {
			return fmt.Errorf("finding the household: %w", err)
		}
		if _, err := tx.User(u); err != nil {
			return fmt.Errorf("finding the person: %w", err)
		}
		if role != account.Admin {
			if last, _, err := lastAdmin(tx, h, u); err != nil {
				return err
			} else if last {
				return fmt.Errorf("the household would be without an admin; make another member one first: %w", account.ErrConflict)
			}
		}
		if role == account.None {
			return tx.DeleteMembership(h, u)
		}
		return setRole(tx, h, u, role)
	})
	if err == nil {
		s.changed()
	}
	return err
}

// setRole adds a member or changes their role; when they joined stays.
func setRole(tx account.Tx, h account.HouseholdID, u account.UserID, role account.Role) error {
	m, err := tx.Membership(h, u)
	switch {
	case errors.Is(err, account.ErrNotFound):
		m = account.Membership{Household: h, User: u, Joined: tx.Now()}
	case err != nil:
		return fmt.Errorf("finding a member: %w", err)
	}
	m.Role = role
	if err := tx.PutMembership(m); err != nil {
		return fmt.Errorf("writing a member: %w", err)
	}
	return nil
}
