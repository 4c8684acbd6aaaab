package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// notMachineIDs are ids that no node, app or client has.
func notMachineIDs() []string {
	return append(hostileIDs(), "a:b", "a b", "küche", strings.Repeat("x", 65), "a/b", "a\n")
}

func TestNodes(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		n := account.Node{ID: "Kitchen_1.pi-a", Name: "Kitchen", Household: h.household.ID, RegisteredBy: h.ann.ID, Room: "Küche", Active: true,
			Services: []string{"tts", "stt", "tts"}}
		kept(t, h.a, func(tx account.Tx) error { return tx.CreateNode(n) })
		n.Services, n.Created = []string{"stt", "tts"}, c.in(0).UTC()
		read := func(want account.Node) {
			t.Helper()
			seen(t, h.a, func(tx account.Tx) error { got, err := tx.Node(n.ID); same(t, got, want); return err })
		}
		read(n)
		kept(t, h.a, func(tx account.Tx) error { return tx.BindNode(n.ID, "p-1") })
		kept(t, h.a, func(tx account.Tx) error { return tx.BindNode(n.ID, "p-1") })
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error { return tx.BindNode(n.ID, "p-2") })
		n.Peer = "p-1"
		read(n)
		// What an update cannot change stays.
		n.Name, n.Room, n.Active, n.Services = "Pantry", "", false, []string{}
		n.RegisteredBy, n.Rotated, n.Seen = h.bob.ID, c.in(time.Minute).UTC(), c.in(time.Hour).UTC()
		moved := n
		moved.Peer, moved.Household, moved.Created = "p-9", "nowhere", c.in(time.Hour)
		kept(t, h.a, func(tx account.Tx) error { return tx.UpdateNode(moved) })
		read(n)
		kept(t, h.a, func(tx account.Tx) error {
			return tx.CreateNode(account.Node{ID: "a", Household: h.household.ID, Peer: "p-3"})
		})
		seen(t, h.a, func(tx account.Tx) error {
			of, err := tx.NodesOf(h.household.ID)
			all, err2 := tx.AllNodes()
			none, err3 := tx.NodesOf("nowhere")
			if len(of) != 2 || len(all) != 2 || len(none) != 0 {
				t.Errorf("%d, %d and %d nodes", len(of), len(all), len(none))
			}
			return firstError(err, err2, err3)
		})
		turned(t, h.a, store.ErrExists, func(tx account.Tx) error { return tx.CreateNode(account.Node{ID: "a", Household: h.household.ID}) })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.CreateNode(account.Node{ID: "b", Household: "nowhere"}) })
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.BindNode("a", "") })
		kept(t, h.a, func(tx account.Tx) error { return tx.DeleteNode("a") })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.DeleteNode("a") })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.BindNode("a", "p-1") })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.UpdateNode(account.Node{ID: "a"}) })
		for _, bad := range notMachineIDs() {
			turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.CreateNode(account.Node{ID: bad, Household: h.household.ID}) })
			turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.UpdateNode(account.Node{ID: bad}) })
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.Node(bad); return err })
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.DeleteNode(bad) })
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.BindNode(bad, "p-1") })
		}
		for _, bad := range []account.Node{{Name: "a\nb"}, {Room: strings.Repeat("x", 300)}, {Services: []string{"a b"}}, {Services: []string{""}},
			{Services: strings.Split(strings.Repeat("x,", 70), ",")}, {Peer: "\x00"}} {
			bad.ID, bad.Household = "b", h.household.ID
			turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.CreateNode(bad) })
		}
	})
}

func TestApps(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		a := account.App{ID: "command", Name: "Command", Active: true, Services: []string{"*"}, Households: []account.HouseholdID{h.household.ID}, Admin: true}
		kept(t, h.a, func(tx account.Tx) error { return tx.CreateApp(a) })
		a.Created = c.in(0).UTC()
		read := func(want account.App) {
			t.Helper()
			seen(t, h.a, func(tx account.Tx) error { got, err := tx.App(a.ID); same(t, got, want); return err })
		}
		read(a)
		seen(t, h.a, func(tx account.Tx) error { got, err := tx.Apps(); same(t, got, []account.App{a}); return err })
		kept(t, h.a, func(tx account.Tx) error { return firstError(tx.BindApp(a.ID, "p-1"), tx.BindApp(a.ID, "p-1")) })
		turned(t, h.a, store.ErrConflict, func(tx account.Tx) error { return tx.BindApp(a.ID, "p-2") })
		a.Peer, a.Name, a.Active, a.Admin, a.Services, a.Households, a.Rotated = "p-1", "Other", false, false, []string{}, nil, c.in(time.Minute).UTC()
		moved := a
		moved.Peer = "p-2"
		kept(t, h.a, func(tx account.Tx) error { return tx.UpdateApp(moved) })
		read(a)
		turned(t, h.a, store.ErrExists, func(tx account.Tx) error { return tx.CreateApp(account.App{ID: a.ID}) })
		kept(t, h.a, func(tx account.Tx) error { return tx.DeleteApp(a.ID) })
		for _, try := range []func(account.Tx) error{
			func(tx account.Tx) error { return tx.DeleteApp(a.ID) },
			func(tx account.Tx) error { return tx.UpdateApp(a) },
			func(tx account.Tx) error { return tx.BindApp(a.ID, "p-1") },
			func(tx account.Tx) error { _, err := tx.App(a.ID); return err },
		} {
			turned(t, h.a, store.ErrNotFound, try)
		}
		for _, bad := range notMachineIDs() {
			turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.CreateApp(account.App{ID: bad}) })
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.App(bad); return err })
		}
		// A household that is no text must not turn into the list that means all.
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error {
			return tx.CreateApp(account.App{ID: "x", Households: []account.HouseholdID{""}})
		})
	})
}

func TestMachineKeys(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		kept(t, h.a, func(tx account.Tx) error {
			return firstError(tx.CreateNode(account.Node{ID: "n", Household: h.household.ID}), tx.CreateApp(account.App{ID: "n"}))
		})
		add := func(owner, key string, overlap time.Duration) {
			t.Helper()
			kept(t, h.a, func(tx account.Tx) error { return tx.AddKey(owner, account.Key{Digest: hashOf(key)}, c.in(overlap)) })
		}
		valid := func(owner string, want ...string) {
			t.Helper()
			seen(t, h.a, func(tx account.Tx) error {
				keys, err := tx.Keys(owner)
				if len(keys) != len(want) {
					t.Errorf("%s has %d keys, want %v", owner, len(keys), want)
					return err
				}
				for i, k := range keys {
					same(t, k.Digest, hashOf(want[i]))
				}
				return err
			})
		}
		add("app:n", "app", 0)
		add("node:n", "one", 0)
		c.pass(time.Minute)
		add("node:n", "two", time.Hour)
		valid("node:n", "two", "one")
		c.pass(time.Minute)
		add("node:n", "three", time.Hour) // never three at once
		valid("node:n", "three", "two")
		c.pass(time.Hour)
		valid("node:n", "three")
		add("node:n", "four", time.Hour)
		add("node:n", "five", 0) // at once
		valid("node:n", "five")
		// An overlap gives a key that is about to end no longer life.
		kept(t, h.a, func(tx account.Tx) error {
			return tx.AddKey("node:n", account.Key{Digest: hashOf("six"), Expires: c.in(time.Minute)}, c.in(0))
		})
		add("node:n", "seven", time.Hour)
		valid("node:n", "seven", "six")
		c.pass(time.Minute)
		valid("node:n", "seven")
		valid("app:n", "app")
		valid("n")
		valid("\x00")
		for _, owner := range []string{"", "n", "node:", "node:other", "app:other", "peer:n", "node:\x00", "node:n\x00"} {
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error {
				return tx.AddKey(owner, account.Key{Digest: hashOf("x")}, time.Time{})
			})
		}
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error {
			return tx.AddKey("node:n", account.Key{Digest: []byte("short")}, time.Time{})
		})
		kept(t, h.a, func(tx account.Tx) error { return tx.DeleteNode("n") })
		valid("node:n")
		valid("app:n", "app")
		kept(t, h.a, func(tx account.Tx) error { return tx.DeleteApp("n") })
		valid("app:n")
	})
}

func TestEnrolments(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		e := account.Enrolment{Hash: hashOf("prov"), Node: "pi", Household: h.household.ID, Name: "Pi", Room: "Hall", By: h.ann.ID, Expires: c.in(10 * time.Minute).UTC()}
		kept(t, h.a, func(tx account.Tx) error { return tx.PutEnrolment(e) })
		use := func(hash []byte) func(account.Tx) error {
			return func(tx account.Tx) error { _, err := tx.UseEnrolment(hash); return err }
		}
		turned(t, h.a, store.ErrNotFound, use(hashOf("other")))
		turned(t, h.a, store.ErrNotFound, use(nil))
		kept(t, h.a, func(tx account.Tx) error {
			got, err := tx.UseEnrolment(e.Hash)
			want := e
			want.UsedAt = c.in(0).UTC()
			same(t, got, want)
			return err
		})
		turned(t, h.a, store.ErrConflict, use(e.Hash))
		late := e
		late.Hash = hashOf("late")
		kept(t, h.a, func(tx account.Tx) error { return tx.PutEnrolment(late) })
		c.pass(10 * time.Minute)
		turned(t, h.a, store.ErrConflict, use(late.Hash))
		turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.PutEnrolment(late) })
		late.Expires = c.in(time.Minute)
		for name, bad := range map[string]func(*account.Enrolment){
			"hash": func(e *account.Enrolment) { e.Hash = nil },
			"node": func(e *account.Enrolment) { e.Node = "a b" },
			"name": func(e *account.Enrolment) { e.Name = "\x00" },
			"room": func(e *account.Enrolment) { e.Room = "\n" },
		} {
			t.Run(name, func(t *testing.T) {
				e := late
				bad(&e)
				turned(t, h.a, store.ErrInvalid, func(tx account.Tx) error { return tx.PutEnrolment(e) })
			})
		}
		late.Household = "nowhere"
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { return tx.PutEnrolment(late) })
	})
}

func TestHookHousehold(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		if err := store.Unwrap(h.a).Data().Do(t.Context(), account.NewScope(h.household.ID, h.ann.ID), someAccountEvent, func(sc account.Scoped) error {
			return sc.PutHook(account.Hook{Name: "door", Secret: []byte("secret of the door's webhooks")})
		}); err != nil {
			t.Fatal(err)
		}
		seen(t, h.a, func(tx account.Tx) error {
			got, err := tx.HookHousehold("door")
			same(t, got, h.household.ID)
			return err
		})
		for _, bad := range append(hostileIDs(), "window") {
			turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.HookHousehold(bad); return err })
		}
		// It goes with its household.
		kept(t, h.a, func(tx account.Tx) error { return tx.DeleteHousehold(h.household.ID) })
		turned(t, h.a, store.ErrNotFound, func(tx account.Tx) error { _, err := tx.HookHousehold("door"); return err })
	})
}

// TestBindOnce: of 32 machines that come with one key at once, one becomes the
// node.
func TestBindOnce(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		kept(t, h.a, func(tx account.Tx) error {
			return firstError(tx.CreateNode(account.Node{ID: "n", Household: h.household.ID}), tx.CreateApp(account.App{ID: "a"}),
				tx.PutEnrolment(account.Enrolment{Hash: hashOf("e"), Node: "x", Household: h.household.ID, Expires: c.in(time.Minute)}))
		})
		id := func(i int) peer.ID { return peer.ID(fmt.Sprint("p-", i)) }
		same(t, race(t, h.a, func(tx account.Tx, i int) error { return tx.BindNode("n", id(i)) }), 1)
		same(t, race(t, h.a, func(tx account.Tx, i int) error { return tx.BindApp("a", id(i)) }), 1)
		same(t, race(t, h.a, func(tx account.Tx, i int) error { _, err := tx.UseEnrolment(hashOf("e")); return err }), 1)
	})
}
