package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer/account"
)

func TestHouseholds(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		same(t, h.household, account.Household{ID: h.household.ID, Name: "Home", Label: "home", Created: c.in(0).UTC()})
		if len(h.household.ID) != 36 || strings.ToLower(string(h.household.ID)) != string(h.household.ID) {
			t.Errorf("its id is %s", h.household.ID)
		}
		c.pass(time.Second)
		var plain account.Household
		kept(t, h.a, func(tx account.Tx) (err error) {
			plain, err = tx.CreateHousehold(account.Household{Name: "Zweites Zuhause äöü"})
			return err
		})
		// No label is not a label that two can clash over.
		kept(t, h.a, func(tx account.Tx) error {
			third, err := tx.CreateHousehold(account.Household{Name: "Third"})
			return firstError(err, tx.DeleteHousehold(third.ID))
		})
		seen(t, h.a, func(tx account.Tx) error {
			got, err := tx.Household(plain.ID)
			same(t, got, plain)
			labelled, err2 := tx.HouseholdByLabel("home")
			same(t, labelled, h.household)
			all, err3 := tx.AllHouseholds()
			same(t, all, []account.Household{h.household, plain})
			return firstError(err, err2, err3)
		})
		changed := plain
		changed.Name, changed.Label = "Office", "office"
		kept(t, h.a, func(tx account.Tx) error { return tx.UpdateHousehold(changed) })
		seen(t, h.a, func(tx account.Tx) error {
			got, err := tx.Household(plain.ID)
			same(t, got, changed)
			return err
		})
		changed.Label = "home"
		turned(t, h.a, store.ErrExists, func(tx account.Tx) error { return tx.UpdateHousehold(changed) })
		turned(t, h.a, store.ErrExists, func(tx account.Tx) error {
			_, err := tx.CreateHousehold(account.Household{Name: "x", Label: "home"})
			return err
		})
		for _, bad := range []account.Household{{}, {Name: "a\x00"}, {Name: strings.Repeat("x", 201)}, {Name: "a\nb"}, {Name: "x", Label: "Ho me"}} {
			turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { _, err := tx.CreateHousehold(bad); return err })
			bad.ID = plain.ID
			turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.UpdateHousehold(bad) })
		}
		for _, bad := range hostileIDs() {
			id := account.HouseholdID(bad)
			for _, try := range []func(account.Tx) error{
				func(tx account.Tx) error { _, err := tx.Household(id); return err },
				func(tx account.Tx) error { _, err := tx.HouseholdByLabel(bad); return err },
				func(tx account.Tx) error { return tx.DeleteHousehold(id) },
				func(tx account.Tx) error { return tx.UpdateHousehold(account.Household{ID: id, Name: "x"}) },
				func(tx account.Tx) error { return tx.DeleteMembership(id, h.ann.ID) },
				func(tx account.Tx) error { _, err := tx.Membership(id, h.ann.ID); return err },
				func(tx account.Tx) error {
					return tx.PutMembership(account.Membership{Household: id, User: h.ann.ID, Role: account.Member})
				},
				func(tx account.Tx) error { return tx.DeleteInvitation(h.household.ID, bad) },
			} {
				turned(t, h.a, store.ErrNotFound, try)
			}
		}
	})
}

func TestMemberships(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		c.pass(time.Second)
		var second account.Household
		kept(t, h.a, func(tx account.Tx) (err error) {
			if second, err = tx.CreateHousehold(account.Household{Name: "Second"}); err != nil {
				return err
			}
			return tx.PutMembership(account.Membership{Household: second.ID, User: h.ann.ID, Role: account.PowerUser})
		})
		joined := c.in(-time.Second).UTC()
		c.pass(time.Second)
		// A change of role is no new arrival.
		kept(t, h.a, func(tx account.Tx) error {
			return tx.PutMembership(account.Membership{Household: h.household.ID, User: h.ann.ID, Role: account.Member})
		})
		annHome := account.Membership{Household: h.household.ID, User: h.ann.ID, Role: account.Member, Joined: joined}
		seen(t, h.a, func(tx account.Tx) error {
			got, err := tx.Membership(h.household.ID, h.ann.ID)
			same(t, got, annHome)
			list, err2 := tx.Memberships(h.ann.ID)
			same(t, list, []account.Membership{annHome, {Household: second.ID, User: h.ann.ID, Role: account.PowerUser, Joined: joined.Add(time.Second)}})
			members, err3 := tx.Members(h.household.ID)
			same(t, members, []account.Membership{annHome, {Household: h.household.ID, User: h.bob.ID, Role: account.Member, Joined: joined}})
			return firstError(err, err2, err3)
		})
		for _, role := range []account.Role{account.None, account.Admin + 1, 255} {
			turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error {
				return tx.PutMembership(account.Membership{Household: second.ID, User: h.bob.ID, Role: role})
			})
		}
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error {
			return tx.PutMembership(account.Membership{Household: second.ID, User: 99, Role: account.Member})
		})
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.DeleteMembership(second.ID, h.bob.ID) })
		kept(t, h.a, func(tx account.Tx) error { return tx.DeleteMembership(h.household.ID, h.ann.ID) })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.Membership(h.household.ID, h.ann.ID); return err })
	})
}

func TestInvitations(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		v := account.Invitation{ID: "v1", Household: h.household.ID, CodeHash: hashOf("CODE"), Role: account.PowerUser, By: h.ann.ID, Expires: c.in(time.Hour).UTC()}
		kept(t, h.a, func(tx account.Tx) error { return tx.CreateInvitation(v) })
		v.Created = c.in(0).UTC()
		seen(t, h.a, func(tx account.Tx) error {
			got, err := tx.InvitationByCode(hashOf("CODE"))
			same(t, got, v)
			list, err2 := tx.Invitations(h.household.ID)
			listed := v
			listed.CodeHash = nil
			same(t, list, []account.Invitation{listed})
			return firstError(err, err2)
		})
		// In the same transaction another code can be tried.
		kept(t, h.a, func(tx account.Tx) error {
			again := v
			again.ID = "v2"
			if err := tx.CreateInvitation(again); err == nil {
				t.Error("two invitations have one code")
			}
			again.CodeHash = hashOf("CODE2")
			return tx.CreateInvitation(again)
		})
		kept(t, h.a, func(tx account.Tx) error {
			got, err := tx.UseInvitation(hashOf("CODE"), h.bob.ID)
			want := v
			want.UsedBy, want.UsedAt = h.bob.ID, c.in(0).UTC()
			same(t, got, want)
			return err
		})
		use := func(hash []byte, by account.UserID) func(account.Tx) error {
			return func(tx account.Tx) error { _, err := tx.UseInvitation(hash, by); return err }
		}
		turned(t, h.a, store.ErrConflict, use(hashOf("CODE"), h.bob.ID))
		turned(t, h.a, store.ErrConflict, use(hashOf("CODE"), h.ann.ID))
		turned(t, h.a, store.ErrNotFound, use(hashOf("OTHER"), h.bob.ID))
		turned(t, h.a, store.ErrNotFound, use(nil, h.bob.ID))
		turned(t, h.a, store.ErrInvalid, use(hashOf("CODE2"), 0))
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.DeleteInvitation("other", "v2") })
		c.pass(time.Hour)
		turned(t, h.a, store.ErrConflict, use(hashOf("CODE2"), h.bob.ID))
		seen(t, h.a, func(tx account.Tx) error {
			list, err := tx.Invitations(h.household.ID)
			same(t, len(list), 0)
			return err
		})
		kept(t, h.a, func(tx account.Tx) error { return tx.DeleteInvitation(h.household.ID, "v2") })
		for name, bad := range map[string]func(*account.Invitation){
			"no id":      func(v *account.Invitation) { v.ID = "" },
			"short hash": func(v *account.Invitation) { v.CodeHash = v.CodeHash[1:] },
			"admin":      func(v *account.Invitation) { v.Role = account.Admin },
			"no role":    func(v *account.Invitation) { v.Role = account.None },
			"expired":    func(v *account.Invitation) { v.Expires = c.in(0) },
		} {
			t.Run(name, func(t *testing.T) {
				v := account.Invitation{ID: "v3", Household: h.household.ID, CodeHash: hashOf("CODE3"), Role: account.Member, Expires: c.in(time.Hour)}
				bad(&v)
				turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.CreateInvitation(v) })
			})
		}
	})
}

// TestUseInvitationOnce: of 32 who come with one code, one gets in.
func TestUseInvitationOnce(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		kept(t, h.a, func(tx account.Tx) error {
			return tx.CreateInvitation(account.Invitation{ID: "v", Household: h.household.ID, CodeHash: hashOf("CODE"), Role: account.Member, Expires: c.in(time.Hour)})
		})
		same(t, race(t, h.a, func(tx account.Tx, i int) error {
			_, err := tx.UseInvitation(hashOf("CODE"), account.UserID(i+1))
			return err
		}), 1)
	})
}

// TestDeleteHousehold removes all that belongs to it, and nothing else.
func TestDeleteHousehold(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		var other account.Household
		kept(t, h.a, func(tx account.Tx) (err error) {
			if other, err = tx.CreateHousehold(account.Household{Name: "Other"}); err != nil {
				return err
			}
			if err := tx.CreateApp(account.App{ID: "app", Households: []account.HouseholdID{h.household.ID}}); err != nil {
				return err
			}
			for i, id := range []account.HouseholdID{h.household.ID, other.ID} {
				if err := equip(tx, h, id, fmt.Sprint(i), c.in(time.Hour)); err != nil {
					return err
				}
			}
			return nil
		})
		kept(t, h.a, func(tx account.Tx) error { return tx.DeleteHousehold(h.household.ID) })
		for i, want := range []error{store.ErrNotFound, nil} {
			for name, look := range lookAround([]account.HouseholdID{h.household.ID, other.ID}[i], h, fmt.Sprint(i)) {
				if err := h.a.Do(t.Context(), someAccountEvent, look); (err == nil) != (want == nil) {
					t.Errorf("household %d: %s: %v", i, name, err)
				}
			}
		}
		seen(t, h.a, func(tx account.Tx) error {
			gone, err := tx.Session("session0")
			same(t, gone.Household, account.HouseholdID(""))
			stays, err2 := tx.Session("session1")
			same(t, stays.Household, other.ID)
			app, err3 := tx.App("app")
			same(t, app.Households, []account.HouseholdID{h.household.ID}) // none would mean all
			keys, err4 := tx.Keys("node:node0")
			same(t, len(keys), 0)
			members, err5 := tx.Members(h.household.ID)
			same(t, len(members), 0)
			return firstError(err, err2, err3, err4, err5)
		})
	})
}

// equip puts one of each into a household.
func equip(tx account.Tx, h *home, id account.HouseholdID, n string, later time.Time) error {
	device := account.Device{Hash: hashOf("device" + n), UserCode: "CODE" + n, Client: "console", Peer: "p-1", Key: h.key, Expires: later}
	request := account.AuthRequest{ID: "request" + n, Client: "console", Peer: "p-1", Key: h.key, Expires: later}
	return firstError(
		tx.PutMembership(account.Membership{Household: id, User: h.ann.ID, Role: account.Admin}),
		tx.CreateInvitation(account.Invitation{ID: "v" + n, Household: id, CodeHash: hashOf("v" + n), Role: account.Member, Expires: later}),
		tx.CreateNode(account.Node{ID: "node" + n, Household: id}),
		tx.AddKey("node:node"+n, account.Key{Digest: hashOf("key" + n)}, time.Time{}),
		tx.PutEnrolment(account.Enrolment{Hash: hashOf("e" + n), Node: "x" + n, Household: id, Expires: later}),
		tx.CreateSession(account.Session{ID: "session" + n, User: h.ann.ID, Peer: "p-1", Key: h.key, Household: id, Expires: later}),
		tx.CreateDevice(device), tx.DecideDevice(device.UserCode, h.ann.ID, id, false, later, nil),
		tx.CreateAuthRequest(request), tx.Agree(request.ID, h.ann.ID, id, later, nil),
	)
}

// lookAround finds, or does not, what equip put.
func lookAround(id account.HouseholdID, h *home, n string) map[string]func(account.Tx) error {
	return map[string]func(account.Tx) error{
		"household":  func(tx account.Tx) error { _, err := tx.Household(id); return err },
		"membership": func(tx account.Tx) error { _, err := tx.Membership(id, h.ann.ID); return err },
		"invitation": func(tx account.Tx) error { _, err := tx.InvitationByCode(hashOf("v" + n)); return err },
		"node":       func(tx account.Tx) error { _, err := tx.Node("node" + n); return err },
		"enrolment":  func(tx account.Tx) error { _, err := tx.UseEnrolment(hashOf("e" + n)); return err },
		"device":     func(tx account.Tx) error { _, err := tx.Device(hashOf("device" + n)); return err },
		"request":    func(tx account.Tx) error { _, err := tx.AuthRequest("request" + n); return err },
	}
}
