package hub

import (
	"context"
	"errors"
	"fmt"

	"github.com/warrenmesh/warren/peer/account"
)

// spokeClient is how `spoke login` is known to the authorization server. It has
// no secret, because every spoke would have it: what binds its tokens is the
// machine that they are issued to.
const spokeClient = "spoke"

// ownClients registers the hub's own OAuth clients. One that the admin removed
// is there again after the next start.
func (s *Server) ownClients(ctx context.Context) error {
	ev := account.Event{Actor: "hub", Action: "client.create", Target: "client:" + spokeClient}
	known := false
	err := s.store.Accounts().View(ctx, func(tx account.Tx) error {
		_, err := tx.Client(spokeClient)
		known = err == nil
		if errors.Is(err, account.ErrNotFound) {
			return nil
		}
		return err
	})
	if err == nil && !known {
		err = s.store.Accounts().Do(ctx, ev, func(tx account.Tx) error {
			return tx.PutClient(account.Client{ID: spokeClient, Name: "Warren spoke", Device: true, Created: tx.Now()})
		})
	}
	if err != nil {
		return fmt.Errorf("registering the hub's own OAuth clients: %w", err)
	}
	return nil
}
