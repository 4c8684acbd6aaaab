package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// How long a password that a superuser sets is good for.
const (
	tempHours    = 24
	maxTempHours = 168
)

// resident is a person with the households they live in.
type resident struct {
	account.User
	places []place
}

type place struct {
	account.Membership
	name string
}

// residents lists everybody, by address.
func (s *Service) residents(ctx context.Context) (all []resident, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		names := make(map[account.HouseholdID]string)
		households, err := tx.AllHouseholds()
		if err != nil {
			return fmt.Errorf("reading households: %w", err)
		}
		for _, h := range households {
			names[h.ID] = h.Name
		}
		people, err := tx.Users()
		if err != nil {
			return fmt.Errorf("reading people: %w", err)
		}
		for _, u := range people {
			in, err := tx.Memberships(u.ID)
			if err != nil {
				return fmt.Errorf("reading households of a person: %w", err)
			}
			r := resident{User: u}
			for _, m := range in {
				r.places = append(r.places, place{m, names[m.Household]})
			}
			all = append(all, r)
		}
		return nil
	})
	slices.SortFunc(all, func(a, b resident) int { return strings.Compare(a.Email, b.Email) })
	return all, err
}

// superuser judges once more, in the transaction that changes something, that
// the caller may do it: a superuser in a sign-in of their own, or the key of
// the admin's tools.
func superuser(c *services.Caller) func(account.Tx) error {
	return func(tx account.Tx) error {
		switch c.As {
		case services.AsAdmin:
			app, err := tx.App(c.App.ID)
			if err != nil || !app.Admin || !app.Active {
				return &services.Refusal{Status: 401, Detail: "Unauthorized"}
			}
			return nil
		case services.AsUser:
			u, err := tx.User(c.User.ID)
			if err != nil || !u.Superuser || u.Disabled {
				return forbidden("Superuser access required")
			}
			return nil
		}
		return forbidden("Superuser access required")
	}
}

// tempPassword gives a person a password that they must change at their next
// sign-in, which must come before it ends. Their sign-ins end. password may be
// "": then one is made.
func (s *Service) tempPassword(ctx context.Context, c *services.Caller, id account.UserID, password string, hours int) (string, time.Time, error) {
	if password == "" {
		password = newTempPassword()
	}
	// Before the transaction: a hash takes its time, and writers take turns.
	hash, err := s.hashPassword(ctx, password)
	if err != nil {
		return "", time.Time{}, err
	}
	var until time.Time
	ev := account.Event{Actor: c.Actor(), Action: "user.temp-password", Target: "user:" + id.String()}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := superuser(c)(tx); err != nil {
			return err
		}
		u, err := tx.User(id)
		if err != nil {
			return missing(err, "User", "finding the person")
		}
		if u.Disabled {
			return conflict("User is deactivated; reactivate the account before issuing a temporary password")
		}
		until = tx.Now().Add(time.Duration(hours) * time.Hour)
		u.MustChange, u.TempUntil = true, until
		if err := tx.UpdateUser(u); err != nil {
			return fmt.Errorf("changing a person: %w", err)
		}
		if err := tx.SetPassword(id, hash); err != nil {
			return fmt.Errorf("setting a password: %w", err)
		}
		if _, err := tx.RevokeSessions(id, "", "temporary password"); err != nil {
			return fmt.Errorf("ending sessions: %w", err)
		}
		// Whoever was locked out by strangers' guessing gets in with it at once.
		if err := tx.Forgive(personLimit(tx, foldEmail(u.Email)).key); err != nil {
			return fmt.Errorf("forgetting failures: %w", err)
		}
		return nil
	})
	if err != nil {
		return "", time.Time{}, err
	}
	s.changed()
	return password, until, nil
}

// newTempPassword makes a password of 100 random bits that can be read out.
func newTempPassword() string {
	var b []byte
	for i, r := range randomBytes(20) {
		if i > 0 && i%5 == 0 {
			b = append(b, '-')
		}
		b = append(b, inviteAlphabet[r%byte(len(inviteAlphabet))])
	}
	return string(b)
}
