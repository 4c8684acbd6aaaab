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
)

// eraseStep is how many records one transaction removes.
const eraseStep = 500

// Erased is what came of erasing a person.
type Erased struct {
	// Records is how many were removed by this call; what an earlier one that
	// was interrupted removed is not among them.
	Records int
	At      time.Time
}

// Erase removes a person and all that is known about them, and destroys their
// key. It may be interrupted anywhere and called again: once it has begun the
// person is locked out, and Run goes on with it. Households that nobody else
// lives in go with them. Erasing who is not there any more changes nothing.
//
// ErrConflict: the person is the only superuser; somebody else has to be made
// one first, for the hub must not be left to whoever comes next.
func (s *Service) Erase(ctx context.Context, actor string, u account.UserID) (Erased, error) {
	return s.erase(ctx, actor, u, anything)
}

// erase is Erase if may, which is asked in the transaction that begins it.
func (s *Service) erase(ctx context.Context, actor string, u account.UserID, may func(account.Tx) error) (Erased, error) {
	out := Erased{At: s.cfg.Now()}
	ev := account.Event{Actor: actor, Action: "user.erase", Target: "user:" + u.String()}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		person, err := tx.User(u)
		if err != nil {
			return err
		}
		if err := may(tx); err != nil {
			return err
		}
		if person.Superuser && !person.Disabled {
			if n, err := tx.CountSuperusers(); err != nil {
				return fmt.Errorf("counting superusers: %w", err)
			} else if n <= 1 {
				return fmt.Errorf("this is the only superuser; make somebody else one first: %w", account.ErrConflict)
			}
		}
		return tx.BeginErasure(u)
	})
	if errors.Is(err, account.ErrNotFound) {
		return out, nil
	} else if err != nil {
		return out, fmt.Errorf("erasing a person: %w", err)
	}
	s.changed()
	// The person's own request ends with their session, and the work does not.
	ctx = context.WithoutCancel(ctx)
	if out.Records, err = s.goOnErasing(ctx, u); err != nil {
		return out, err
	}
	s.try("scrubbing the store", s.scrubDue(ctx))
	return out, nil
}

// goOnErasing takes an erasure that has begun to its end.
func (s *Service) goOnErasing(ctx context.Context, u account.UserID) (total int, err error) {
	for {
		n := 0
		err := s.cfg.Store.Keep(ctx, func(tx account.Tx) (err error) {
			n, err = tx.EraseRecords(u, eraseStep)
			return err
		})
		if err != nil {
			return total, fmt.Errorf("erasing records: %w", err)
		}
		if total += n; n == 0 {
			break
		}
	}
	if err := s.eraseHouseholds(ctx, u); err != nil {
		return total, fmt.Errorf("erasing a person's households: %w", err)
	}
	// Before the end, so that it is tried again if it fails; and after, for a
	// backup that was made in between.
	if err := s.forget(ctx, u); err != nil {
		return total, err
	}
	ev := account.Event{Actor: "hub", Action: "user.erased", Target: "user:" + u.String(), Detail: map[string]string{"records": strconv.Itoa(total)}}
	if err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error { return tx.FinishErasure(u) }); err != nil {
		return total, fmt.Errorf("erasing a person: %w", err)
	}
	s.scrub.Store(true)
	s.changed()
	return total, s.forget(ctx, u)
}

func (s *Service) forget(ctx context.Context, u account.UserID) error {
	if s.cfg.Forget == nil {
		return nil
	}
	left, err := s.cfg.Forget(ctx, u)
	if err != nil {
		return fmt.Errorf("forgetting a person in the backups: %w", err)
	}
	if len(left) > 0 {
		s.log.Warn("backups that could not be changed still hold the key of somebody who was erased; delete them", "user", u, "backups", left)
	}
	return nil
}

// eraseHouseholds removes the households that nobody but u lives in.
func (s *Service) eraseHouseholds(ctx context.Context, u account.UserID) error {
	var alone []account.HouseholdID
	err := s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		alone, err = livesAlone(tx, u)
		return err
	})
	if err != nil {
		return err
	}
	for _, h := range alone {
		ev := account.Event{Actor: "hub", Action: "household.delete", Target: householdTarget(h), Detail: map[string]string{"why": "nobody lives there"}}
		err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
			if still, err := livesAlone(tx, u); err != nil {
				return err
			} else if !contains(still, h) {
				return nil // somebody moved in
			}
			return tx.DeleteHousehold(h)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func contains(all []account.HouseholdID, h account.HouseholdID) bool {
	for _, have := range all {
		if have == h {
			return true
		}
	}
	return false
}

// livesAlone lists the households that only u is a member of.
func livesAlone(tx account.Tx, u account.UserID) (alone []account.HouseholdID, err error) {
	mine, err := tx.Memberships(u)
	if err != nil {
		return nil, err
	}
	for _, m := range mine {
		all, err := tx.Members(m.Household)
		if err != nil {
			return nil, err
		}
		if len(all) == 1 {
			alone = append(alone, m.Household)
		}
	}
	return alone, nil
}

// resumeErasures goes on with what was interrupted, here or on another hub.
func (s *Service) resumeErasures(ctx context.Context) error {
	var due []account.UserID
	err := s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		due, err = tx.Erasures()
		return err
	})
	if err != nil {
		return fmt.Errorf("looking for erasures: %w", err)
	}
	var errs []error
	for _, u := range due {
		_, err := s.goOnErasing(ctx, u)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// scrubDue removes what was deleted from the store's files, if something was.
func (s *Service) scrubDue(ctx context.Context) error {
	if s.cfg.Scrub == nil || !s.scrub.CompareAndSwap(true, false) {
		return nil
	}
	if err := s.cfg.Scrub(ctx); err != nil {
		s.scrub.Store(true)
		return fmt.Errorf("scrubbing the store: %w", err)
	}
	return nil
}

// deleteSelf erases somebody who asks for it with their password, unless they
// leave something behind that others depend on.
func (s *Service) deleteSelf(ctx context.Context, c *services.Caller, password string) error {
	if err := s.reprove(ctx, c.Peer, c.User.ID, password); err != nil {
		return err
	}
	_, err := s.erase(ctx, c.Actor(), c.User.ID, func(tx account.Tx) error {
		mine, err := tx.Memberships(c.User.ID)
		if err != nil {
			return fmt.Errorf("finding households: %w", err)
		}
		for _, m := range mine {
			last, members, err := lastAdmin(tx, m.Household, c.User.ID)
			if err != nil {
				return err
			}
			if last {
				return conflict("You are the only admin of a household that others live in; make another member its admin first.")
			}
			nodes, err := tx.NodesOf(m.Household)
			if err != nil {
				return fmt.Errorf("finding nodes: %w", err)
			}
			for _, n := range nodes {
				if members == 1 && n.Active {
					return conflict("Your household has active nodes; remove them first.")
				}
			}
		}
		return nil
	})
	return lastSuperuser(err)
}

// lastSuperuser words the one conflict of Erase.
func lastSuperuser(err error) error {
	if errors.Is(err, account.ErrConflict) {
		return conflict("This is the only superuser; make somebody else one first.")
	}
	return err
}

// mayHandle judges who may export or erase a person: they themselves, or a
// superuser. Anybody else gets the same refusal, whether there is such a person
// or not.
func mayHandle(c *services.Caller, text string) (account.UserID, error) {
	id, err := account.ParseUserID(text)
	if c.As != services.AsUser || !c.User.Superuser && (err != nil || id != c.User.ID) {
		return 0, refuse(http.StatusForbidden, "A person's data is for them and for a superuser only.")
	}
	if err != nil {
		return 0, notFound("User")
	}
	return id, nil
}
