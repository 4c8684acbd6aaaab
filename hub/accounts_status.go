package hub

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/peer/account"
)

// statusTimeout is how long status waits for the store.
const statusTimeout = 2 * time.Second

// oldKey is an age that no signing key reaches while rotation works.
const oldKey = 33 * 24 * time.Hour

// accountsStatus counts people and what acts for them.
func (s *Server) accountsStatus(ctx context.Context) (st control.AccountsStatus, err error) {
	if s.accounts.redis != nil {
		st.Redis = "away; each hub counts for itself"
		if s.accounts.redis.Shared() {
			st.Redis = "shared"
		}
	}
	err = s.store.Accounts().View(ctx, func(tx account.Tx) error {
		users, err := tx.Users()
		if err != nil {
			return err
		}
		if st.Superusers, err = tx.CountSuperusers(); err != nil {
			return err
		}
		homes, err := tx.AllHouseholds()
		if err != nil {
			return err
		}
		nodes, err := tx.AllNodes()
		if err != nil {
			return err
		}
		apps, err := tx.Apps()
		if err != nil {
			return err
		}
		if st.Erasing, err = tx.Erasures(); err != nil {
			return err
		}
		keys, err := tx.SigningKeys()
		if err != nil {
			return err
		}
		st.Users, st.Households, st.Nodes, st.Apps = len(users), len(homes), len(nodes), len(apps)
		st.KeyAge = signsSince(keys, s.cfg.Now())
		return nil
	})
	if err != nil {
		return st, fmt.Errorf("reading accounts: %w", err)
	}
	return st, nil
}

// signsSince is how long the newest key has signed.
func signsSince(keys []account.SigningKey, now time.Time) time.Duration {
	var newest time.Time
	for _, k := range keys {
		clear(k.Private)
		if k.Retires.IsZero() && k.NotBefore.After(newest) {
			newest = k.NotBefore
		}
	}
	if newest.IsZero() {
		return oldKey // none signs
	}
	return now.Sub(newest)
}

func (s *Server) checkAccounts(ctx context.Context) finding {
	st, err := s.accountsStatus(ctx)
	switch {
	case err != nil:
		return wrong("", "%v", err)
	case st.Users == 0:
		return fine("nobody yet; add somebody: hub user add EMAIL --name USER --superuser")
	case st.Superusers == 0:
		return odd("hub user add EMAIL --superuser", "%d accounts, and none of them a superuser", st.Users)
	case len(st.Erasing) > 0:
		return odd("see the hub's log; it goes on by itself", "the erasure of user %v is not finished", st.Erasing[0])
	}
	return fine("people: %d, households: %d, nodes: %d, apps: %d", st.Users, st.Households, st.Nodes, st.Apps)
}

func (s *Server) checkTokens(ctx context.Context) finding {
	st, err := s.accountsStatus(ctx)
	switch {
	case err != nil:
		return wrong("", "%v", err)
	case st.KeyAge >= oldKey:
		return odd("hub keys rotate", "the key that signs tokens should have been replaced after 30 days")
	case s.cfg.HS256:
		return odd("hub run without --hs256, as soon as no service needs it", "tokens are signed with a secret that others share")
	}
	return fine("signed with a key of %d days", int(st.KeyAge/(24*time.Hour)))
}

func (s *Server) checkLimits(context.Context) finding {
	switch {
	case s.accounts.redis == nil:
		return fine("counted by this hub")
	case !s.accounts.redis.Shared():
		return odd("start Redis, or see why it does not answer", "Redis is away; each hub counts for itself")
	}
	return fine("shared through Redis")
}

// checkBackups tells of files with an erased person's key that the hub could
// not change.
func (s *Server) checkBackups(context.Context) finding {
	stray := s.stray.Load()
	if stray == nil || len(*stray) == 0 {
		return fine("nothing of erased people in those that were made")
	}
	return odd("destroy it, then: hub backup --destroyed FILE", "may still hold the key of somebody who was erased: %s", strings.Join(*stray, ", "))
}

// forgetInBackups takes a person, and all who were erased before, out of the
// people files of backups, and remembers which could not be changed.
func (s *Server) forgetInBackups(ctx context.Context, u account.UserID) ([]string, error) {
	stray, err := s.store.ForgetInBackups(ctx, u)
	if err == nil {
		s.stray.Store(&stray)
	}
	return stray, err
}

// tidyBackups does the same when the hub starts: it may have been stopped in
// between, and a stick that was away may be back.
func (s *Server) tidyBackups(ctx context.Context) error {
	if _, err := s.forgetInBackups(ctx, 0); err != nil && ctx.Err() == nil {
		s.log.Error("looking after backups", "err", err)
	}
	return nil
}
