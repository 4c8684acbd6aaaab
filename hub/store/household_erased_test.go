package store_test

import (
	"bytes"
	"testing"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer/account"
)

// TestG01_HouseholdThatGoesToo: the household of somebody who lived alone goes
// with them, and what they called it and their rooms is nowhere afterwards.
func TestG01_HouseholdThatGoesToo(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		ann, bob := village(t, s)
		kept(t, s.Accounts(), func(tx account.Tx) error {
			if err := tx.UpdateHousehold(account.Household{ID: ann.id, Name: canary + " home", Label: canary}); err != nil {
				return err
			}
			n, err := tx.Node(ann.node)
			if err != nil {
				return err
			}
			n.Name, n.Room = canary+" node", canary+" room"
			return tx.UpdateNode(n)
		})
		kept(t, s.Accounts(), func(tx account.Tx) error { return tx.DeleteHousehold(ann.id) })
		erase(t, s, ann.person)
		for where, text := range everywhere(t, s, cfg) {
			if i := bytes.Index(text, []byte(canary)); i >= 0 {
				t.Errorf("in the %s: %.60q", where, text[max(0, i-20):])
			}
		}
		if bob.state(t, s) == "" {
			t.Error("bob's household is gone")
		}
	})
}
