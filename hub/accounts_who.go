package hub

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// person finds a person by number, e-mail address or username.
func (s *Server) person(ctx context.Context, who string) (u account.User, err error) {
	err = s.store.Accounts().View(ctx, func(tx account.Tx) error {
		u, err = findPerson(tx, who)
		return err
	})
	if errors.Is(err, account.ErrNotFound) {
		return u, refused("see who there is: hub user list", "there is no person %.80q", who)
	}
	return u, err
}

func findPerson(tx account.Tx, who string) (account.User, error) {
	if id, err := account.ParseUserID(who); err == nil {
		return tx.User(id)
	}
	if who = strings.TrimSuffix(who, "@"); strings.Contains(who, "@") {
		return tx.UserByEmail(who)
	}
	return tx.UserByName(who)
}

// pseudonym is what the audit log calls the owner of a machine: the number of
// the account if there is one, for people are numbers there, and the word of
// the policy if there is none.
func (s *Server) pseudonym(ctx context.Context, owner string) (string, error) {
	if owner == "" {
		return "", nil
	}
	var u account.User
	err := s.store.Accounts().View(ctx, func(tx account.Tx) (err error) {
		if u, err = tx.UserByName(owner); errors.Is(err, account.ErrNotFound) && strings.Contains(owner, "@") {
			u, err = tx.UserByEmail(owner)
		}
		return err
	})
	switch {
	case errors.Is(err, account.ErrNotFound):
		return owner, nil
	case err != nil:
		return "", fmt.Errorf("looking for the owner's account: %w", err)
	}
	return "user:" + u.ID.String(), nil
}

// home finds a household by id, label or name.
func (s *Server) home(ctx context.Context, which string) (account.Household, error) {
	homes, err := s.accounts.auth.Households(ctx)
	if err != nil {
		return account.Household{}, err
	}
	var found []account.Household
	for _, h := range homes {
		if string(h.ID) == which {
			return h, nil
		}
		if h.Name == which || h.Label != "" && h.Label == strings.TrimPrefix(which, "household:") {
			found = append(found, h)
		}
	}
	switch len(found) {
	case 0:
		return account.Household{}, refused("see which there are: hub household list", "there is no household %.80q", which)
	case 1:
		return found[0], nil
	}
	return account.Household{}, refused("give its id; see: hub household list", "%d households are called %.80q", len(found), which)
}

// homeNames are what households are called, by id.
func (s *Server) homeNames(ctx context.Context) (map[account.HouseholdID]string, error) {
	homes, err := s.accounts.auth.Households(ctx)
	if err != nil {
		return nil, err
	}
	names := make(map[account.HouseholdID]string, len(homes))
	for _, h := range homes {
		names[h.ID] = h.Name
	}
	return names, nil
}

// machine is a peer's name, or its ID once the peer is gone.
func (s *Server) machine(id peer.ID) string {
	if p, ok := s.roster().ByID(id); ok {
		return p.Name
	}
	return string(id)
}

// known refuses the name of a machine that is not there.
func (s *Server) known(name string) error {
	if name == "" {
		return nil
	}
	if p, ok := s.roster().ByName(name); !ok || p.Kind == peer.KindInvite {
		return noSuchPeer(name)
	}
	return nil
}

// told turns what a service refuses into a refusal for a person, and leaves
// failures as they are: they go to the log as well.
func told(err error, hint string) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*control.Error](err); ok {
		return err
	}
	if why, ok := errors.AsType[*services.Refusal](err); ok {
		return &control.Error{Message: why.Detail, Hint: hint}
	}
	for _, kind := range []error{account.ErrNotFound, account.ErrExists, account.ErrConflict, account.ErrInvalid} {
		if errors.Is(err, kind) {
			// That something is not acceptable is clear from what comes before.
			return &control.Error{Message: strings.TrimSuffix(err.Error(), ": "+account.ErrInvalid.Error()), Hint: hint}
		}
	}
	return err
}
