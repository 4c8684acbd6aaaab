package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer/account"
)

// house is a household with one person and one node in it.
type house struct {
	id     account.HouseholdID
	person account.UserID
	node   string
	hook   string
}

// scope is what a service gets for the house: for its person, or for a node.
func (h house) scope() account.Scope    { return account.NewScope(h.id, 0) }
func (h house) personal() account.Scope { return account.NewScope(h.id, h.person) }

// village is two households on one store that know nothing of each other.
func village(t testing.TB, s *store.Store) (ann, bob house) {
	t.Helper()
	return settle(t, s, "ann"), settle(t, s, "bob")
}

func settle(t testing.TB, s *store.Store, name string) house {
	t.Helper()
	h := house{node: name + "-kitchen", hook: name + "-doorbell"}
	kept(t, s.Accounts(), func(tx account.Tx) error {
		u, err := tx.CreateUser(account.User{Email: name + "@example.org", Username: name}, "$argon2id$"+name)
		if err != nil {
			return err
		}
		home, err := tx.CreateHousehold(account.Household{Name: name + "'s home"})
		if err != nil {
			return err
		}
		h.id, h.person = home.ID, u.ID
		return errors.Join(
			tx.PutMembership(account.Membership{Household: h.id, User: u.ID, Role: account.Admin}),
			tx.CreateNode(account.Node{ID: h.node, Name: "Kitchen", Household: h.id, Active: true}))
	})
	change(t, s, h.scope(), func(sc account.Scoped) error { return h.fill(sc, name+"'s") })
	return h
}

// fill puts one of everything into the household, the same ids in each.
func (h house) fill(sc account.Scoped, text string) error {
	return errors.Join(
		sc.PutBlob(account.Blob{Kind: account.BlobPush, ID: "b1", Node: h.node, By: h.person, State: "waiting", Payload: []byte(fmt.Sprintf("%q", text))}),
		sc.RaiseVersion(h.node, "wifi", 7),
		sc.PutRecord(account.Record{Kind: account.Chat, ID: "r1", User: h.person, Body: []byte(text)}),
		sc.PutHook(account.Hook{Name: h.hook, Secret: []byte(text + " secret")}),
		sc.Accept(h.hook, []byte("id-1"), sc.Now().Add(time.Hour)),
		sc.PutDelivery(account.Delivery{Hook: h.hook, Body: []byte(text)}))
}

// state describes all that is in the household.
func (h house) state(t testing.TB, s *store.Store) (text string) {
	t.Helper()
	if err := s.Data().View(t.Context(), h.scope(), func(sc account.Scoped) error {
		nodes, err1 := sc.Nodes()
		members, err2 := sc.Members()
		records, err3 := sc.Records(account.Chat, 0, time.Time{}, 100)
		hooks, err4 := sc.Hooks()
		text = fmt.Sprintf("%+v %+v %+v %+v", nodes, members, records, hooks)
		errs := []error{err1, err2, err3, err4}
		for _, n := range nodes {
			blobs, err1 := sc.Blobs(account.BlobPush, n.ID)
			version, err2 := sc.Version(n.ID, "wifi")
			text += fmt.Sprintf(" %+v %d", blobs, version)
			errs = append(errs, err1, err2)
		}
		for _, hook := range hooks {
			list, err := sc.Deliveries(hook.Name, 0, 100)
			text += fmt.Sprintf(" %+v", list)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}); err != nil {
		t.Fatal(err)
	}
	return text
}

// change runs fn inside a household and must succeed.
func change(t testing.TB, s *store.Store, in account.Scope, fn func(account.Scoped) error) {
	t.Helper()
	if err := s.Data().Do(t.Context(), in, account.Event{Actor: "user:1", Action: "test"}, fn); err != nil {
		t.Fatal(err)
	}
}

// fails runs fn inside a household, which must fail with want.
func fails(t testing.TB, s *store.Store, in account.Scope, want error, fn func(account.Scoped) error) {
	t.Helper()
	if err := s.Data().Keep(t.Context(), in, fn); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}
