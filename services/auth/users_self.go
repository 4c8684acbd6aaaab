package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// NeedsSetup says whether there is no superuser yet.
func (s *Service) NeedsSetup(ctx context.Context) (needs bool, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		n, err := tx.CountSuperusers()
		needs = err == nil && n == 0
		return err
	})
	return needs, err
}

// joined is who was added, with their first session.
type joined struct {
	user      account.User
	tokens    Tokens
	household account.HouseholdID
}

// setup adds the first superuser and their household, once, from one of the
// admin's own machines.
func (s *Service) setup(ctx context.Context, p peer.Peer, n NewUser) (joined, error) {
	if s.cfg.Admin == nil || !s.cfg.Admin(p) {
		return joined{}, refuse(http.StatusForbidden, "The first account is made on one of the admin's own machines.")
	}
	// Asked before the password is hashed as well: nobody needs to be able to
	// have that done for nothing.
	if needs, err := s.NeedsSetup(ctx); err != nil {
		return joined{}, err
	} else if !needs {
		return joined{}, errSetupDone()
	}
	n.Superuser = true
	if n.Username == "" {
		n.Username = p.Owner
	}
	person, err := s.prepare(ctx, n)
	if err != nil {
		return joined{}, err
	}
	var out joined
	ev := account.Event{Actor: "peer:" + p.Name, Action: "user.setup", Target: "user", Detail: make(map[string]string)}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if n, err := tx.CountSuperusers(); err != nil {
			return fmt.Errorf("counting superusers: %w", err)
		} else if n > 0 {
			return errSetupDone()
		}
		if out.user, err = person.create(tx); err != nil {
			return errTaken(err)
		}
		ev.Detail["id"] = out.user.ID.String()
		label := p.Household
		if label != "" {
			if _, err := tx.HouseholdByLabel(label); err == nil {
				return conflict("The household %s is there already.", label)
			} else if !errors.Is(err, account.ErrNotFound) {
				return fmt.Errorf("finding a household: %w", err)
			}
		}
		h, err := newHousehold(tx, "Home", label, out.user.ID)
		if err != nil {
			return err
		}
		return s.firstSession(ctx, tx, p, h.ID, &out)
	})
	return out, err
}

func errSetupDone() error { return conflict("Setup already completed") }

// errTaken says that an address or name is taken, in Jarvis' words.
func errTaken(err error) error {
	if errors.Is(err, account.ErrExists) {
		return badRequest("Email or username already registered")
	}
	return err
}

// firstSession signs in somebody who was just added.
func (s *Service) firstSession(ctx context.Context, tx account.Tx, p peer.Peer, h account.HouseholdID, out *joined) (err error) {
	out.household = h
	if err := tx.Know(out.user.ID, p.ID); err != nil {
		return fmt.Errorf("remembering a machine: %w", err)
	}
	out.tokens, err = s.Start(ctx, tx, account.Session{User: out.user.ID, Peer: p.ID, Key: p.PublicKey, Household: h, Methods: []string{methodPwd}})
	return err
}

// register adds somebody whom a household has invited.
func (s *Service) register(ctx context.Context, p peer.Peer, n NewUser, code string, h account.HouseholdID) (joined, error) {
	if needs, err := s.NeedsSetup(ctx); err != nil {
		return joined{}, err
	} else if needs {
		return joined{}, refuse(http.StatusForbidden, "The hub has no admin yet: the first account is made with POST /auth/setup on one of the admin's own machines.")
	}
	if code == "" {
		return joined{}, badRequest("Registering needs an invite code of a household; ask one of its admins.")
	}
	if _, err := s.checkInvite(ctx, p, code, h); err != nil {
		return joined{}, err
	}
	if n.Username == "" || ownsMachines(s.cfg.Roster(), n.Username) && n.Username != p.Owner {
		if n.Username != "" {
			return joined{}, errTaken(account.ErrExists)
		}
		n.Username = s.freeName(ctx, p.Owner)
	}
	person, err := s.prepare(ctx, n)
	if err != nil {
		return joined{}, err
	}
	// An invite is not used up by an address that is taken, and must not be good
	// for asking about one address after another.
	taken := machineLimit("register", p)
	if err := s.attemptAlone(ctx, p, taken); err != nil {
		return joined{}, err
	}
	var out joined
	ev := account.Event{Actor: "peer:" + p.Name, Action: "user.register", Target: "user", Detail: make(map[string]string)}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := forgive(tx, []limit{taken}); err != nil {
			return err
		}
		if out.user, err = person.create(tx); err != nil {
			return errTaken(err)
		}
		ev.Detail["id"] = out.user.ID.String()
		m, _, err := s.acceptInvite(tx, p, out.user.ID, code)
		if err != nil {
			return err
		}
		return s.firstSession(ctx, tx, p, m.Household, &out)
	})
	return out, err
}

// ownsMachines says whether the policy knows a person of that name. Such a name
// can be taken on one of their machines only: it is how the policy and an
// account are known to be one person.
func ownsMachines(r *peer.Roster, name string) bool {
	return slices.ContainsFunc(r.All(), func(p peer.Peer) bool { return p.Owner == name })
}

// freeName is name, or "" if somebody has it.
func (s *Service) freeName(ctx context.Context, name string) string {
	if name == "" || peer.ValidUser(name) != nil {
		return ""
	}
	if _, err := s.User(ctx, name); !errors.Is(err, account.ErrNotFound) {
		return ""
	}
	return name
}

// changePassword replaces somebody's password, ends all of their sessions and
// starts one anew on the machine it was changed on.
func (s *Service) changePassword(ctx context.Context, c *services.Caller, current, next string) (account.User, Tokens, error) {
	if err := s.reprove(ctx, c.Peer, c.User.ID, current); err != nil {
		return account.User{}, Tokens{}, err
	}
	hash, err := s.hashPassword(ctx, next)
	if err != nil {
		return account.User{}, Tokens{}, err
	}
	var out Tokens
	var u account.User
	ev := account.Event{Actor: c.Actor(), Action: "user.password", Target: c.Actor()}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if u, err = tx.User(c.User.ID); err != nil {
			return fmt.Errorf("finding a person: %w", err)
		}
		// Hashing takes its time. Who has taken their account back from a thief
		// meanwhile has ended this session.
		sess, err := tx.Session(c.Session.ID)
		if errors.Is(err, account.ErrNotFound) || err == nil && (u.Disabled || !sess.Revoked.IsZero()) {
			return errToken()
		} else if err != nil {
			return fmt.Errorf("finding a session: %w", err)
		}
		u.MustChange, u.TempUntil = false, time.Time{}
		if err := tx.UpdateUser(u); err != nil {
			return fmt.Errorf("changing a person: %w", err)
		}
		if err := tx.SetPassword(u.ID, hash); err != nil {
			return err
		}
		if _, err := tx.RevokeSessions(u.ID, "", "password"); err != nil {
			return fmt.Errorf("ending sessions: %w", err)
		}
		old := c.Session
		out, err = s.Start(ctx, tx, account.Session{User: u.ID, Peer: old.Peer, Key: old.Key, Household: old.Household, Client: old.Client, Scope: old.Scope, Methods: []string{methodPwd}})
		return err
	})
	if err != nil {
		return account.User{}, Tokens{}, err
	}
	s.changed()
	return u, out, nil
}

// switchHousehold makes a household the one that a session's tokens are for.
func (s *Service) switchHousehold(ctx context.Context, c *services.Caller, h account.HouseholdID) (Tokens, error) {
	var out Tokens
	err := s.cfg.Store.Keep(ctx, func(tx account.Tx) error {
		role, err := roleIn(tx, c.User.ID, h)
		if err != nil {
			return err
		}
		if role == account.None {
			return forbidden("Not a member of this household")
		}
		house, err := tx.Household(h)
		if err != nil {
			return fmt.Errorf("finding a household: %w", err)
		}
		if !mayActIn(c.Peer, house) {
			return forbidden("Not a member of this household")
		}
		if err := tx.SetSessionHousehold(c.Session.ID, h); err != nil {
			return fmt.Errorf("changing a session: %w", err)
		}
		sess := c.Session
		sess.Household = h
		out, err = s.tokens(tx, c.User, sess, "")
		return err
	})
	return out, err
}
