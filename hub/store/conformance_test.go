package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
)

var someEvent = audit.Event{Actor: "local:1000", Action: "test"}

func newKeys(t testing.TB) (peer.PublicKey, peer.PresharedKey) {
	t.Helper()
	k, err := peer.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	psk, err := peer.NewPresharedKey()
	if err != nil {
		t.Fatal(err)
	}
	return k.Public(), psk
}

// do runs fn as an audited action that must succeed.
func do(t testing.TB, s *store.Store, fn func(tx *store.Tx) error) {
	t.Helper()
	if err := s.Do(t.Context(), someEvent, fn); err != nil {
		t.Fatal(err)
	}
}

// refused runs fn as an action that must fail with want and change nothing.
func refused(t testing.TB, s *store.Store, want error, fn func(tx *store.Tx) error) {
	t.Helper()
	err := s.Do(t.Context(), someEvent, fn)
	if !errors.Is(err, want) {
		t.Errorf("got %.300v, want %v", err, want)
	}
	if err != nil && len(err.Error()) > 400 {
		t.Errorf("the error is %d bytes long", len(err.Error()))
	}
}

func addPeer(t testing.TB, s *store.Store, name string) store.Peer {
	t.Helper()
	key, psk := newKeys(t)
	var p store.Peer
	do(t, s, func(tx *store.Tx) (err error) {
		p, err = tx.AddPeer(store.NewPeer{Name: name, PublicKey: key, PSK: psk, Kind: peer.KindSpoke})
		return err
	})
	return p
}

// clock is a time that a test moves by hand.
type clock struct{ at atomic.Int64 }

func newClock(cfg *store.Config) *clock {
	c := new(clock)
	c.at.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	cfg.Now = func() time.Time { return time.Unix(0, c.at.Load()) }
	return c
}
func (c *clock) pass(d time.Duration) { c.at.Add(int64(d)) }
func (c *clock) in(d time.Duration) time.Time {
	return time.Unix(0, c.at.Load()).Add(d)
}

func TestPeers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		key, psk := newKeys(t)
		var p store.Peer
		do(t, s, func(tx *store.Tx) (err error) {
			p, err = tx.AddPeer(store.NewPeer{Name: "kitchen", PublicKey: key, PSK: psk, Kind: peer.KindPhone, Owner: "ann@example.org", Household: "home", Tags: []string{"tag:b", "tag:a", "tag:b"}})
			return err
		})
		if p.V4 != netip.MustParseAddr("10.77.1.0") || p.V6 != netip.MustParseAddr("fd77:7777:7777:7777::100") {
			t.Errorf("the first peer has %v and %v", p.V4, p.V6)
		}
		second := addPeer(t, s, "study")
		do(t, s, func(tx *store.Tx) error {
			p.Name, p.Quarantined, p.Tags = "pantry", true, []string{"tag:c"}
			p.PSK = peer.PresharedKey{} // zero keeps the old one
			if err := tx.UpdatePeer(p); err != nil {
				return err
			}
			return tx.SaveEndpoint(p.ID, netip.MustParseAddrPort("[2001:db8::1]:5"), time.Unix(7, 8))
		})
		if err := s.View(t.Context(), func(tx *store.Tx) error {
			got, err := tx.PeerByName("pantry")
			if err != nil {
				return err
			}
			byKey, err := tx.PeerByKey(key)
			if err != nil || byKey.ID != p.ID {
				t.Errorf("PeerByKey: %v, %v", byKey.ID, err)
			}
			if got.PSK.Reveal() != psk.Reveal() || got.Kind != peer.KindPhone || got.Owner != "ann@example.org" || got.Household != "home" ||
				!slices.Equal(got.Tags, []string{"tag:c"}) || !got.Quarantined || got.PublicKey != key ||
				got.Endpoint.String() != "[2001:db8::1]:5" || !got.LastHandshake.Equal(time.Unix(7, 8)) || !got.Created.Equal(p.Created) {
				t.Errorf("got %+v", got)
			}
			all, err := tx.Peers()
			if err != nil || len(all) != 2 || all[1].ID != second.ID {
				t.Errorf("Peers: %v, %v", all, err)
			}
			_, err = tx.PeerByName("kitchen")
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("the old name: %v", err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		refused(t, s, store.ErrExists, func(tx *store.Tx) error { second.Name = "pantry"; return tx.UpdatePeer(second) })
		refused(t, s, store.ErrExists, func(tx *store.Tx) error {
			second.Name, second.PublicKey = "study", key
			return tx.UpdatePeer(second)
		})
		refused(t, s, store.ErrInvalid, func(tx *store.Tx) error { p.V4 = p.V4.Next(); return tx.UpdatePeer(p) })
		refused(t, s, store.ErrExists, func(tx *store.Tx) error {
			_, err := tx.AddPeer(store.NewPeer{Name: "other", PublicKey: key, Kind: peer.KindSpoke})
			return err
		})
		do(t, s, func(tx *store.Tx) error { return tx.RemovePeer(p.ID) })
		refused(t, s, store.ErrNotFound, func(tx *store.Tx) error { return tx.RemovePeer(p.ID) })
	})
}

// TestAddressesRest: an address never goes from one machine to the next within
// a day, and never-used ones go first.
func TestAddressesRest(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		c := newClock(&cfg)
		s, err := store.Create(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		plan := storetest.Plan()
		plan.V4 = netip.MustParsePrefix("192.168.7.0/24")
		do(t, s, func(tx *store.Tx) error { return tx.SetPlan(plan) })
		size := int(plan.Peers().Last - plan.Peers().First + 1)
		first := addPeer(t, s, "p0")
		do(t, s, func(tx *store.Tx) error { return tx.RemovePeer(first.ID) })
		c.pass(48 * time.Hour) // rested, and still others go first
		seen := map[netip.Addr]bool{first.V4: true}
		var last store.Peer
		for i := 1; i < size; i++ {
			last = addPeer(t, s, fmt.Sprint("p", i))
			if seen[last.V4] || plan.Index(last.V4) != plan.Index(last.V6) || !plan.Peers().Has(plan.Index(last.V4)) {
				t.Fatalf("peer %d has %v, %v", i, last.V4, last.V6)
			}
			seen[last.V4] = true
		}
		if p := addPeer(t, s, "again"); p.V4 != first.V4 {
			t.Errorf("the rested address is %v, got %v", first.V4, p.V4)
		}
		do(t, s, func(tx *store.Tx) error { return tx.RemovePeer(last.ID) })
		c.pass(store.RestPeer - time.Second)
		key, _ := newKeys(t)
		add := func(tx *store.Tx) error {
			_, err := tx.AddPeer(store.NewPeer{Name: "early", PublicKey: key, Kind: peer.KindSpoke})
			return err
		}
		refused(t, s, store.ErrFull, add)
		c.pass(time.Second)
		do(t, s, add)
		refused(t, s, store.ErrConflict, func(tx *store.Tx) error { return tx.SetPlan(storetest.Plan()) })
	})
}

func TestInvites(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		c := newClock(&cfg)
		s := storetest.Create(t, cfg)
		throwaway, psk := newKeys(t)
		mine, _ := newKeys(t)
		thief, _ := newKeys(t)
		var v store.Invite
		do(t, s, func(tx *store.Tx) (err error) {
			v, err = tx.AddInvite(store.Invite{Name: "kitchen", PublicKey: throwaway, PSK: psk, Owner: "ann", Tags: []string{"tag:x"}, Household: "home", Expires: c.in(time.Hour)})
			return err
		})
		if v.V4 != netip.MustParseAddr("10.77.253.255") || v.PSK.Reveal() != psk.Reveal() || v.Owner != "ann" || v.Household != "home" || len(v.Tags) != 1 {
			t.Errorf("got %+v", v)
		}
		// The name and the key are taken from now on.
		refused(t, s, store.ErrExists, func(tx *store.Tx) error {
			_, err := tx.AddPeer(store.NewPeer{Name: "kitchen", PublicKey: mine, Kind: peer.KindSpoke})
			return err
		})
		refused(t, s, store.ErrExists, func(tx *store.Tx) error {
			_, err := tx.AddPeer(store.NewPeer{Name: "other", PublicKey: throwaway, Kind: peer.KindSpoke})
			return err
		})
		refused(t, s, store.ErrInviteSpent, func(tx *store.Tx) error { _, _, err := tx.ConsumeInvite("nonsense\x00", mine); return err })
		var p store.Peer
		do(t, s, func(tx *store.Tx) error {
			got, fresh, err := tx.ConsumeInvite(v.ID, mine)
			if err != nil || !fresh {
				return fmt.Errorf("fresh %v: %w", fresh, err)
			}
			p, err = tx.AddPeer(store.NewPeer{Name: got.Name, PublicKey: mine, Kind: peer.KindSpoke, Invite: v.ID})
			return err
		})
		do(t, s, func(tx *store.Tx) error {
			got, fresh, err := tx.ConsumeInvite(v.ID, mine)
			if err != nil || fresh || got.PeerID != p.ID {
				t.Errorf("the same key again: %v, fresh %v, %v", got.PeerID, fresh, err)
			}
			return err
		})
		refused(t, s, store.ErrInviteSpent, func(tx *store.Tx) error { _, _, err := tx.ConsumeInvite(v.ID, thief); return err })
		refused(t, s, store.ErrInviteSpent, func(tx *store.Tx) error { _, _, err := tx.ConsumeInvite(v.ID, peer.PublicKey{}); return err })

		// One that nobody used in time.
		var late store.Invite
		key, _ := newKeys(t)
		do(t, s, func(tx *store.Tx) (err error) {
			late, err = tx.AddInvite(store.Invite{Name: "late", PublicKey: key, Expires: c.in(2 * time.Hour)})
			return err
		})
		c.pass(2 * time.Hour)
		refused(t, s, store.ErrInviteSpent, func(tx *store.Tx) error { _, _, err := tx.ConsumeInvite(late.ID, thief); return err })
		do(t, s, func(tx *store.Tx) error {
			gone, err := tx.ExpireInvites()
			if len(gone) != 2 || gone[0].PublicKey != throwaway {
				t.Errorf("expired %v", gone)
			}
			return err
		})
		refused(t, s, store.ErrNotFound, func(tx *store.Tx) error { return tx.RevokeInvite(late.ID) })
		refused(t, s, store.ErrInvalid, func(tx *store.Tx) error {
			_, err := tx.AddInvite(store.Invite{Name: "past", PublicKey: thief, Expires: c.in(0)})
			return err
		})
	})
}

// TestE04_OneInviteOnePeer lets 64 machines use one invite at the same moment:
// one joins, 63 get the same refusal, and there is one peer.
func TestE04_OneInviteOnePeer(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		hubs := []*store.Store{storetest.Create(t, cfg)}
		if cfg.DSN != "" { // two hubs on one database
			second, err := store.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer second.Close()
			hubs = append(hubs, second)
		}
		invite(t, hubs[0], "kitchen")
		const machines = 64
		var fresh, spent atomic.Int64
		texts := make(chan string, machines)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range machines {
			key, psk := newKeys(t)
			wg.Go(func() {
				<-start
				err := hubs[i%len(hubs)].Do(t.Context(), someEvent, func(tx *store.Tx) error {
					v, first, err := tx.ConsumeInvite("kitchen", key)
					if err != nil {
						return err
					}
					if first {
						fresh.Add(1)
					}
					_, err = tx.AddPeer(store.NewPeer{Name: v.Name, PublicKey: key, PSK: psk, Kind: peer.KindSpoke, Invite: v.ID})
					return err
				})
				if err != nil {
					if errors.Is(err, store.ErrInviteSpent) {
						spent.Add(1)
					}
					texts <- err.Error()
				}
			})
		}
		close(start)
		wg.Wait()
		close(texts)
		if fresh.Load() != 1 || spent.Load() != machines-1 {
			t.Errorf("%d joined, %d were refused as spent", fresh.Load(), spent.Load())
		}
		for text := range texts {
			if text != store.ErrInviteSpent.Error() {
				t.Errorf("a refusal that differs: %s", text)
			}
		}
		if err := hubs[0].View(t.Context(), func(tx *store.Tx) error {
			peers, err := tx.Peers()
			if len(peers) != 1 {
				t.Errorf("%d peers", len(peers))
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		if n, err := hubs[0].VerifyAudit(t.Context()); n != 1 || err != nil {
			t.Errorf("%d audit entries, %v", n, err)
		}
	})
}

// TestWritersTakeTurns: concurrent actions, from two hubs where that can be,
// make one unbroken audit chain and lose nothing.
func TestWritersTakeTurns(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		hubs := []*store.Store{storetest.Create(t, cfg)}
		if cfg.DSN != "" {
			second, err := store.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer second.Close()
			hubs = append(hubs, second)
		}
		var wg sync.WaitGroup
		const writers, each = 8, 10
		for i := range writers {
			wg.Go(func() {
				for j := range each {
					name := fmt.Sprintf("p%d-%d", i, j)
					key, _ := newKeys(t)
					if err := hubs[(i+j)%len(hubs)].Do(t.Context(), audit.Event{Actor: "hub", Action: "add", Target: name}, func(tx *store.Tx) error {
						_, err := tx.AddPeer(store.NewPeer{Name: name, PublicKey: key, Kind: peer.KindSpoke})
						return err
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n, err := hubs[0].VerifyAudit(t.Context()); n != writers*each || err != nil {
			t.Errorf("%d entries, %v", n, err)
		}
		if err := hubs[0].View(t.Context(), func(tx *store.Tx) error {
			peers, err := tx.Peers()
			var list []peer.Peer
			for _, p := range peers {
				list = append(list, p.Peer)
			}
			if _, err := peer.NewRoster(list); err != nil || len(list) != writers*each {
				t.Errorf("%d peers: %v", len(list), err)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	})
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		c := newClock(&cfg)
		s := storetest.Create(t, cfg)
		refused(t, s, store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.CurrentPolicy(); return err })
		put := func(text string, base uint64, by time.Time) func(tx *store.Tx) error {
			return func(tx *store.Tx) error {
				n, err := tx.PutPolicy([]byte(text), "ann", base, by)
				if err == nil && n != base+1 {
					t.Errorf("generation %d after %d", n, base)
				}
				return err
			}
		}
		weird := "{}\x00\xff \n" + strings.Repeat("x", store.MaxPolicy-6)
		do(t, s, put(weird, 0, time.Time{}))
		refused(t, s, store.ErrConflict, put("{1}", 0, time.Time{}))
		refused(t, s, store.ErrConflict, put("{1}", 7, time.Time{}))
		refused(t, s, store.ErrInvalid, put(weird+"x", 1, time.Time{}))
		do(t, s, put("", 1, c.in(time.Minute)))
		if err := s.View(t.Context(), func(tx *store.Tx) error {
			now, err := tx.CurrentPolicy()
			if err != nil || !now.Pending() || now.Generation != 2 || len(now.Text) != 0 {
				t.Errorf("current: %+v, %v", now, err)
			}
			good, err := tx.LastConfirmed()
			if err != nil || string(good.Text) != weird || good.Author != "ann" || good.Pending() {
				t.Errorf("last confirmed: generation %d, %v", good.Generation, err)
			}
			all, err := tx.Policies(10)
			if err != nil || len(all) != 2 || all[0].Generation != 2 {
				t.Errorf("history: %d, %v", len(all), err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		refused(t, s, store.ErrConflict, func(tx *store.Tx) error { return tx.ConfirmPolicy(1) })
		do(t, s, func(tx *store.Tx) error { return tx.ConfirmPolicy(2) })
		do(t, s, func(tx *store.Tx) error { return tx.ConfirmPolicy(2) })
		do(t, s, put("{3}", 2, c.in(time.Minute)))
		c.pass(time.Minute)
		refused(t, s, store.ErrConflict, func(tx *store.Tx) error { return tx.ConfirmPolicy(3) })
		refused(t, s, store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.Policy(1 << 63); return err })
	})
}

func TestServices(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		host := addPeer(t, s, "gpu")
		web := []store.Port{{Proto: 6, First: 80, Last: 80}}
		var first store.Service
		do(t, s, func(tx *store.Tx) (err error) {
			first, err = tx.PutService(store.Service{Name: "ha", Target: "http://127.0.0.1:8123", Ports: web})
			return err
		})
		if first.V4 != netip.MustParseAddr("10.77.0.10") {
			t.Errorf("the first service has %v", first.V4)
		}
		do(t, s, func(tx *store.Tx) error {
			again, err := tx.PutService(store.Service{Name: "ha", Target: "tcp://127.0.0.1:22", Ports: []store.Port{{6, 22, 23}, {17, 1, 65535}}})
			if again.V4 != first.V4 || again.Target != "tcp://127.0.0.1:22" || len(again.Ports) != 2 {
				t.Errorf("changed to %+v", again)
			}
			return err
		})
		do(t, s, func(tx *store.Tx) error {
			_, err := tx.PutService(store.Service{Name: "llm", Target: "127.0.0.1:1", Ports: web, Host: host.ID})
			return err
		})
		for _, bad := range []struct {
			want error
			s    store.Service
		}{
			{store.ErrConflict, store.Service{Name: "llm", Target: "x", Ports: web}},
			{store.ErrExists, store.Service{Name: "gpu", Target: "x", Ports: web}},
			{store.ErrInvalid, store.Service{Name: "console", Target: "x", Ports: web}},
			{store.ErrInvalid, store.Service{Name: "x", Target: "", Ports: web}},
			{store.ErrInvalid, store.Service{Name: "x", Target: "a b", Ports: web}},
			{store.ErrInvalid, store.Service{Name: "x", Target: "a\x00", Ports: web}},
			{store.ErrInvalid, store.Service{Name: "x", Target: "a"}},
			{store.ErrInvalid, store.Service{Name: "x", Target: "a", Ports: []store.Port{{6, 0, 1}}}},
			{store.ErrInvalid, store.Service{Name: "x", Target: "a", Ports: []store.Port{{6, 9, 1}}}},
			{store.ErrInvalid, store.Service{Name: "x", Target: "a", Ports: []store.Port{{1, 1, 1}}}},
			{store.ErrNotFound, store.Service{Name: "x", Target: "a", Ports: web, Host: "p-nobody"}},
		} {
			refused(t, s, bad.want, func(tx *store.Tx) error { _, err := tx.PutService(bad.s); return err })
		}
		// Its machine withdraws it: the name stays, without a port.
		do(t, s, func(tx *store.Tx) error {
			if sv, err := tx.PutService(store.Service{Name: "llm", Host: host.ID}); err != nil || len(sv.Ports) != 0 {
				return fmt.Errorf("withdrawing: %v: %w", sv.Ports, err)
			}
			return nil
		})
		// Address 53 is the DNS service's.
		do(t, s, func(tx *store.Tx) error {
			for i := range 60 {
				if sv, err := tx.PutService(store.Service{Name: fmt.Sprint("s", i), Target: "x", Ports: web}); err != nil || sv.V4 == netip.MustParseAddr("10.77.0.53") {
					return fmt.Errorf("%v: %w", sv.V4, err)
				}
			}
			return nil
		})
		do(t, s, func(tx *store.Tx) error { return tx.RemovePeer(host.ID) })
		refused(t, s, store.ErrNotFound, func(tx *store.Tx) error { return tx.RemoveService("llm") })
		do(t, s, func(tx *store.Tx) error { return tx.RemoveService("ha") })
	})
}

func TestFlowsAreBounded(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		at := time.Unix(1_700_000_000, 0).UTC()
		merge := func(flows []store.FlowRecord) {
			t.Helper()
			if err := s.Keep(t.Context(), func(tx *store.Tx) error { return tx.MergeFlows(flows) }); err != nil {
				t.Fatal(err)
			}
		}
		one := store.FlowRecord{Src: "a", Dst: "b'\x00\xff;--", Proto: 6, Port: 80, Reason: "no rule", Count: 3, First: at, Last: at}
		merge([]store.FlowRecord{one})
		one.Count, one.First, one.Last, one.Reason = 4, at.Add(-time.Hour), at.Add(time.Hour), "other"
		merge([]store.FlowRecord{one})
		one.Allowed = true
		merge([]store.FlowRecord{one})
		list := flows(t, s, 10)
		if len(list) != 2 || list[1].Count != 7 || list[1].Reason != "other" || !list[1].First.Equal(at.Add(-time.Hour)) || !list[1].Last.Equal(at.Add(time.Hour)) {
			t.Errorf("got %+v", list)
		}
		// All at the same moment: even then only what is too many goes.
		var many []store.FlowRecord
		for i := range store.MaxFlows + 500 {
			many = append(many, store.FlowRecord{Src: fmt.Sprint("s", i), Dst: "d", Proto: 17, Count: 1, First: at, Last: at})
		}
		for part := range slices.Chunk(many, 5000) {
			merge(part)
		}
		if n := len(flows(t, s, store.MaxFlows*2)); n != store.MaxFlows {
			t.Errorf("%d records are kept", n)
		}
		if list := flows(t, s, 2); list[0].Src != "a" {
			t.Errorf("the newest are %+v", list)
		}
		if err := s.Keep(t.Context(), func(tx *store.Tx) error { return tx.ForgetFlows("a") }); err != nil {
			t.Fatal(err)
		}
	})
}

func flows(t testing.TB, s *store.Store, limit int) (list []store.FlowRecord) {
	t.Helper()
	if err := s.View(t.Context(), func(tx *store.Tx) (err error) { list, err = tx.Flows(limit); return err }); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestSettingsAndSecrets(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		binary := []byte("\x00\xff'; DROP TABLE secrets; --")
		do(t, s, func(tx *store.Tx) error {
			return errors.Join(tx.SetMeta("a", "1"), tx.SetMeta("a", string(binary)), tx.SetMeta("empty", ""),
				tx.SetSecret("k", []byte("old")), tx.SetSecret("k", binary), tx.SetSecret("gone", binary), tx.SetSecret("gone", nil))
		})
		if err := s.View(t.Context(), func(tx *store.Tx) error {
			a, err := tx.Meta("a")
			if err != nil || a != string(binary) {
				t.Errorf("Meta: %q, %v", a, err)
			}
			if e, err := tx.Meta("empty"); err != nil || e != "" {
				t.Errorf("Meta(empty): %q, %v", e, err)
			}
			k, err := tx.Secret("k")
			if err != nil || !bytes.Equal(k, binary) {
				t.Errorf("Secret: %q, %v", k, err)
			}
			for _, name := range []string{"gone", "never", "\x00", strings.Repeat("n", 1<<20), "store.key-check"} {
				if _, err := tx.Secret(name); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("Secret(%.20q): %v", name, err)
				}
				if _, err := tx.Meta(name); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("Meta(%.20q): %v", name, err)
				}
			}
			if err := tx.SetMeta("a", "2"); err == nil {
				t.Error("View can write")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"", "a b", "store.audit", "ä", strings.Repeat("n", 1<<20)} {
			refused(t, s, store.ErrInvalid, func(tx *store.Tx) error { return tx.SetMeta(name, "x") })
			refused(t, s, store.ErrInvalid, func(tx *store.Tx) error { return tx.SetSecret(name, []byte("x")) })
		}
		refused(t, s, store.ErrInvalid, func(tx *store.Tx) error { return tx.SetMeta("big", strings.Repeat("x", 1<<20+1)) })
	})
}
