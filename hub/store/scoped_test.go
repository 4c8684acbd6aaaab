package store_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer/account"
)

// TestT02_ForeignIDs uses each method with what belongs to another household:
// nothing is found and nothing changes there.
func TestT02_ForeignIDs(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		ann, bob := village(t, s)
		before := ann.state(t, s)
		if strings.Contains(before, "bob") || !strings.Contains(before, ann.node) {
			t.Errorf("ann's household holds %s", before)
		}
		soon := time.Now().Add(time.Hour)
		for name, c := range map[string]struct {
			want error
			fn   func(account.Scoped) error
		}{
			"Node": {account.ErrNotFound, func(sc account.Scoped) error { _, err := sc.Node(ann.node); return err }},
			"PutBlob": {account.ErrNotFound, func(sc account.Scoped) error {
				return sc.PutBlob(account.Blob{Kind: account.BlobPush, ID: "x", Node: ann.node})
			}},
			"RaiseVersion": {account.ErrNotFound, func(sc account.Scoped) error { return sc.RaiseVersion(ann.node, "wifi", 99) }},
			"PutRecord": {account.ErrNotFound, func(sc account.Scoped) error {
				return sc.PutRecord(account.Record{Kind: account.Chat, ID: "x", User: ann.person})
			}},
			"PutRecord nobody": {account.ErrInvalid, func(sc account.Scoped) error { return sc.PutRecord(account.Record{Kind: account.Chat, ID: "x"}) }},
			"Hook":             {account.ErrNotFound, func(sc account.Scoped) error { _, err := sc.Hook(ann.hook); return err }},
			"PutHook":          {account.ErrExists, func(sc account.Scoped) error { return sc.PutHook(account.Hook{Name: ann.hook, Secret: []byte("mine")}) }},
			"DeleteHook":       {account.ErrNotFound, func(sc account.Scoped) error { return sc.DeleteHook(ann.hook) }},
			"Accept":           {account.ErrNotFound, func(sc account.Scoped) error { return sc.Accept(ann.hook, []byte("id-2"), soon) }},
			"PutDelivery":      {account.ErrNotFound, func(sc account.Scoped) error { return sc.PutDelivery(account.Delivery{Hook: ann.hook}) }},
		} {
			if err := s.Data().Keep(t.Context(), bob.scope(), c.fn); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		}
		change(t, s, bob.scope(), func(sc account.Scoped) error {
			blobs, err1 := sc.Blobs(account.BlobPush, ann.node)
			version, err2 := sc.Version(ann.node, "wifi")
			records, err3 := sc.Records(account.Chat, ann.person, time.Time{}, 10)
			list, err4 := sc.Deliveries(ann.hook, 0, 10)
			if len(blobs)+int(version)+len(records)+len(list) != 0 {
				t.Errorf("bob sees %v %v %v %v", blobs, version, records, list)
			}
			// The ids of the one are the ids of the other too; each gets his own.
			err5 := sc.MoveBlob(account.BlobPush, "b1", "waiting", "done", []byte(`"bob"`))
			err6 := sc.DeleteRecord(account.Chat, "r1")
			return errors.Join(err1, err2, err3, err4, err5, err6)
		})
		if after := ann.state(t, s); after != before {
			t.Errorf("ann's household was\n%s\nand is\n%s", before, after)
		}
	})
}

// TestT02_NoScope: a scope that names no household reaches nothing.
func TestT02_NoScope(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		ann, _ := village(t, s)
		never := func(account.Scoped) error { t.Error("it was called"); return nil }
		for _, in := range []account.Scope{{}, account.NewScope("", ann.person), account.NewScope(account.HouseholdID("a/b"), 0),
			account.NewScope("a\x00", 0), account.NewScope(account.HouseholdID(strings.Repeat("x", 1000)), 0), account.NewScope(ann.id, -1)} {
			if err := s.Data().View(t.Context(), in, never); !errors.Is(err, account.ErrNotFound) {
				t.Errorf("View in %+v: %v", in, err)
			}
			if err := s.Data().Keep(t.Context(), in, never); !errors.Is(err, account.ErrInvalid) {
				t.Errorf("Keep in %+v: %v", in, err)
			}
			if err := s.Data().Do(t.Context(), in, account.Event{Actor: "hub", Action: "x"}, never); !errors.Is(err, account.ErrInvalid) {
				t.Errorf("Do in %+v: %v", in, err)
			}
		}
		// One that names a household that is none finds and writes nothing.
		in := account.NewScope("%", 0)
		fails(t, s, in, account.ErrNotFound, func(sc account.Scoped) error {
			nodes, err := sc.Nodes()
			members, err2 := sc.Members()
			if len(nodes)+len(members) > 0 || err != nil || err2 != nil {
				t.Error(nodes, members, err, err2)
			}
			return sc.PutHook(account.Hook{Name: "nowhere", Secret: []byte("x")})
		})
	})
}

// TestT02_OwnRecords: a scope with a person in it reaches that person's records
// and not those of others in the household.
func TestT02_OwnRecords(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		ann, bob := village(t, s)
		kept(t, s.Accounts(), func(tx account.Tx) error {
			return tx.PutMembership(account.Membership{Household: ann.id, User: bob.person, Role: account.Member})
		})
		asBob := account.NewScope(ann.id, bob.person)
		change(t, s, asBob, func(sc account.Scoped) error {
			if _, err := sc.Record(account.Chat, "r1"); !errors.Is(err, account.ErrNotFound) {
				t.Errorf("bob reads ann's record: %v", err)
			}
			if err := sc.DeleteRecord(account.Chat, "r1"); !errors.Is(err, account.ErrNotFound) {
				t.Errorf("bob removes ann's record: %v", err)
			}
			if err := sc.PutRecord(account.Record{Kind: account.Chat, ID: "r2", User: ann.person}); !errors.Is(err, account.ErrNotFound) {
				t.Errorf("bob writes for ann: %v", err)
			}
			if err := sc.PutRecord(account.Record{Kind: account.Chat, ID: "r1", User: bob.person}); !errors.Is(err, account.ErrExists) {
				t.Errorf("bob takes ann's id: %v", err)
			}
			for _, u := range []account.UserID{0, ann.person} {
				if list, err := sc.Records(account.Chat, u, time.Time{}, 10); len(list) != 0 || err != nil {
					t.Errorf("bob lists %v: %v, %v", u, list, err)
				}
			}
			return sc.PutRecord(account.Record{Kind: account.Chat, ID: "r3", User: bob.person, Body: []byte("bob's")})
		})
		change(t, s, ann.scope(), func(sc account.Scoped) error {
			list, err := sc.Records(account.Chat, 0, time.Time{}, 10)
			if len(list) != 2 {
				t.Errorf("the household has %+v", list)
			}
			return err
		})
	})
}

// TestBlobs goes through a blob's life.
func TestBlobs(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		clock := newClock(&cfg)
		s := storetest.Create(t, cfg)
		ann, _ := village(t, s)
		blob := account.Blob{Kind: account.BlobRequest, ID: "q", Node: ann.node, State: "new", Payload: []byte(`{"a":1}`), Expires: clock.in(time.Hour)}
		change(t, s, ann.scope(), func(sc account.Scoped) error { return sc.PutBlob(blob) })
		fails(t, s, ann.scope(), account.ErrExists, func(sc account.Scoped) error { return sc.PutBlob(blob) })
		for _, bad := range []account.Blob{
			{Kind: "other", ID: "x", Node: ann.node}, {Kind: account.BlobPush, Node: ann.node}, {Kind: account.BlobPush, ID: "a/b", Node: ann.node},
			{Kind: account.BlobPush, ID: "x", Node: ann.node, Payload: []byte(`{`)}, {Kind: account.BlobPush, ID: "x", Node: ann.node, By: -1},
			{Kind: account.BlobPush, ID: "x", Node: ann.node, Payload: []byte(`"` + strings.Repeat("x", account.MaxBlob) + `"`)},
			{Kind: account.BlobPush, ID: "x", Node: ann.node, State: "\x00"},
		} {
			fails(t, s, ann.scope(), account.ErrInvalid, func(sc account.Scoped) error { return sc.PutBlob(bad) })
		}
		fails(t, s, ann.scope(), account.ErrConflict, func(sc account.Scoped) error {
			return sc.MoveBlob(account.BlobRequest, "q", "other", "done", nil)
		})
		fails(t, s, ann.scope(), account.ErrNotFound, func(sc account.Scoped) error {
			return sc.MoveBlob(account.BlobPush, "q", "new", "done", nil)
		})
		change(t, s, ann.scope(), func(sc account.Scoped) error {
			return errors.Join(sc.MoveBlob(account.BlobRequest, "q", "new", "seen", nil),
				sc.MoveBlob(account.BlobRequest, "q", "seen", "done", []byte(`{"b":2}`)))
		})
		change(t, s, ann.scope(), func(sc account.Scoped) error {
			list, err := sc.Blobs(account.BlobRequest, ann.node)
			if len(list) != 1 || list[0].State != "done" || string(list[0].Payload) != `{"b":2}` || !list[0].Expires.Equal(blob.Expires) {
				t.Errorf("got %+v", list)
			}
			return err
		})
		clock.pass(2 * time.Hour)
		change(t, s, ann.scope(), func(sc account.Scoped) error {
			list, err1 := sc.Blobs(account.BlobRequest, ann.node)
			_, err2 := sc.Blob(account.BlobRequest, "q")
			if len(list) != 0 || err2 != nil {
				t.Errorf("after it expired: %+v, %v", list, err2)
			}
			err3 := sc.PutBlob(account.Blob{Kind: account.BlobRequest, ID: "next", Node: ann.node})
			if _, err := sc.Blob(account.BlobRequest, "q"); !errors.Is(err, account.ErrNotFound) {
				t.Errorf("it was not cleared away: %v", err)
			}
			return errors.Join(err1, err3)
		})
	})
}

// TestC06_VersionsRise: a version is raised only, also when its blobs are gone.
func TestC06_VersionsRise(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		ann, _ := village(t, s)
		for _, v := range []uint64{0, 1, 6, 7} {
			fails(t, s, ann.scope(), account.ErrConflict, func(sc account.Scoped) error { return sc.RaiseVersion(ann.node, "wifi", v) })
		}
		fails(t, s, ann.scope(), account.ErrInvalid, func(sc account.Scoped) error { return sc.RaiseVersion(ann.node, "wifi", math.MaxUint64) })
		change(t, s, ann.scope(), func(sc account.Scoped) error {
			return errors.Join(sc.RaiseVersion(ann.node, "wifi", 8), sc.RaiseVersion(ann.node, "wifi", 1<<40), sc.RaiseVersion(ann.node, "voice", 1))
		})
		change(t, s, ann.scope(), func(sc account.Scoped) error {
			a, err1 := sc.Version(ann.node, "wifi")
			b, err2 := sc.Version(ann.node, "voice")
			c, err3 := sc.Version(ann.node, "none")
			if fmt.Sprint(a, b, c) != fmt.Sprint(1<<40, 1, 0) {
				t.Errorf("versions %d %d %d", a, b, c)
			}
			return errors.Join(err1, err2, err3)
		})
	})
}

// TestK06_AcceptedOnce: a webhook's id is accepted once, also after a restart,
// and forgotten when it expires.
func TestK06_AcceptedOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		clock := newClock(&cfg)
		s := storetest.Create(t, cfg)
		ann, bob := village(t, s)
		accept := func(h house, id string) error {
			return s.Data().Keep(t.Context(), h.scope(), func(sc account.Scoped) error { return sc.Accept(h.hook, []byte(id), clock.in(10*time.Minute)) })
		}
		if err := errors.Join(accept(ann, "a"), accept(bob, "a")); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if s, err = store.Open(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := accept(ann, "a"); !errors.Is(err, account.ErrExists) {
			t.Errorf("again: %v", err)
		}
		// Nor does removing the hook and making it anew open the door.
		change(t, s, ann.scope(), func(sc account.Scoped) error {
			return errors.Join(sc.DeleteHook(ann.hook), sc.PutHook(account.Hook{Name: ann.hook, Secret: []byte("new")}))
		})
		if err := accept(ann, "a"); !errors.Is(err, account.ErrExists) {
			t.Errorf("after the hook was made anew: %v", err)
		}
		clock.pass(11 * time.Minute)
		if err := accept(ann, "a"); err != nil {
			t.Errorf("after it expired: %v", err)
		}
		for _, id := range []string{"", strings.Repeat("x", 300)} {
			if err := accept(ann, id); !errors.Is(err, account.ErrInvalid) {
				t.Errorf("an id of %d bytes: %v", len(id), err)
			}
		}
	})
}

// TestDeliveries: the last of each hook are kept, in order.
func TestDeliveries(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		ann, _ := village(t, s)
		change(t, s, ann.scope(), func(sc account.Scoped) error {
			for i := range store.MaxDeliveries + 5 {
				if err := sc.PutDelivery(account.Delivery{Hook: ann.hook, Body: []byte(fmt.Sprint(i))}); err != nil {
					return err
				}
			}
			list, err := sc.Deliveries(ann.hook, 0, 10_000)
			if len(list) != store.MaxDeliveries || list[0].Seq != 7 || string(list[len(list)-1].Body) != fmt.Sprint(store.MaxDeliveries+4) {
				t.Errorf("%d deliveries, from %d", len(list), list[0].Seq)
			}
			if list, err := sc.Deliveries(ann.hook, list[3].Seq, 2); len(list) != 2 || list[0].Seq != 11 || err != nil {
				t.Errorf("the next two are %+v, %v", list, err)
			}
			return err
		})
		fails(t, s, ann.scope(), account.ErrInvalid, func(sc account.Scoped) error {
			return sc.PutDelivery(account.Delivery{Hook: ann.hook, Body: make([]byte, account.MaxBlob+1)})
		})
	})
}
