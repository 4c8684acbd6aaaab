package hub

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer/account"
)

// lastWord is how long the answer to somebody who erases themselves has to
// reach the machine they sit at.
const lastWord = 2 * time.Second

// forgetPerson takes somebody who is being erased out of what the hub itself
// knows, and out of the backups.
func (s *Server) forgetPerson(ctx context.Context, u account.UserID) ([]string, error) {
	if err := s.disown(ctx, u); err != nil {
		return nil, fmt.Errorf("taking a person's machines from them: %w", err)
	}
	return s.forgetInBackups(ctx, u)
}

// disown takes the machines of a person from them: they lose their names, which
// are often the person's, and their owner, and stay in quarantine until the
// admin removes them or gives them to somebody. Unused invites for further ones
// are withdrawn. The admin's name is a setting of the hub and stays.
func (s *Server) disown(ctx context.Context, u account.UserID) error {
	var person account.User
	err := s.store.Accounts().View(ctx, func(tx account.Tx) (err error) {
		person, err = tx.User(u)
		return err
	})
	if errors.Is(err, account.ErrNotFound) || err == nil && (person.Username == "" || person.Username == s.set.admin) {
		return nil
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	n := 0
	err = s.store.Keep(ctx, func(tx *store.Tx) (err error) {
		n, err = disownIn(tx, u, person.Username)
		return err
	})
	if err == nil && n > 0 {
		s.parting = time.Now().Add(lastWord)
	}
	s.mu.Unlock()
	if err != nil || n == 0 {
		return err
	}
	s.group.Go(func() error {
		select {
		case <-time.After(lastWord):
		case <-s.ctx.Done():
			return nil // the next start reads the store
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, err := s.enforce(s.ctx); err != nil {
			s.log.Error("holding the machines of somebody who was erased", "err", err)
		}
		return nil
	})
	return nil
}

// disownIn does it in one transaction and says how many machines there were.
func disownIn(tx *store.Tx, u account.UserID, username string) (n int, err error) {
	peers, err := tx.Peers()
	if err != nil {
		return 0, err
	}
	for _, p := range peers {
		if p.Owner != username {
			continue
		}
		n++
		// Not counted: somebody could have taken the next number, and this
		// would fail for ever.
		p.Name, p.Owner, p.Quarantined = fmt.Sprintf("erased-%d-%s", u, strings.ToLower(rand.Text()[:10])), "", true
		if err := tx.UpdatePeer(p); err != nil {
			return 0, err
		}
		ev := audit.Event{Actor: "hub", Action: "peer.disown", Target: p.Name, Detail: map[string]string{"id": string(p.ID), "user": u.String()}}
		if err := tx.Record(ev); err != nil {
			return 0, err
		}
	}
	invites, err := tx.Invites()
	if err != nil {
		return 0, err
	}
	for _, inv := range invites {
		if inv.Owner != username || !inv.UsedBy.IsZero() {
			continue
		}
		if err := tx.RevokeInvite(inv.ID); err != nil {
			return 0, err
		}
		if err := tx.Record(audit.Event{Actor: "hub", Action: "invite.revoke", Target: "invite:" + inv.ID, Detail: map[string]string{"user": u.String()}}); err != nil {
			return 0, err
		}
	}
	return n, nil
}
