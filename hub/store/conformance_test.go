package store_test

import (
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
)

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

func TestSmoke(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		pub, psk := newKeys(t)
		inv, bpsk := newKeys(t)
		err := s.Do(t.Context(), audit.Event{Actor: "hub", Action: "peer.add", Target: "kitchen"}, func(tx *store.Tx) error {
			v, err := tx.AddInvite(store.Invite{PublicKey: inv, PSK: bpsk, Name: "kitchen", Owner: "ann", Expires: time.Now().Add(time.Hour)})
			if err != nil {
				return err
			}
			v, fresh, err := tx.ConsumeInvite(v.ID, pub)
			if err != nil || !fresh {
				t.Errorf("fresh %v err %v", fresh, err)
			}
			p, err := tx.AddPeer(store.NewPeer{Name: "kitchen", PublicKey: pub, PSK: psk, Kind: peer.KindSpoke, Tags: []string{"tag:b", "tag:a"}, Invite: v.ID})
			t.Log(p, v, err)
			if err != nil {
				return err
			}
			if _, err := tx.PutPolicy([]byte("{}"), "ann", 0, time.Time{}); err != nil {
				return err
			}
			if _, err := tx.PutService(store.Service{Name: "stt", Target: "http://127.0.0.1:1", Ports: []store.Port{{6, 80, 80}}}); err != nil {
				return err
			}
			return tx.MergeFlows([]store.FlowRecord{{Src: "a", Dst: "b", Count: 3, Last: time.Now()}})
		})
		if err != nil {
			t.Fatal(err)
		}
		n, err := s.VerifyAudit(t.Context())
		if n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s, err = store.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.View(t.Context(), func(tx *store.Tx) error { p, err := tx.Peers(); t.Log(p); return err }); err != nil {
			t.Fatal(err)
		}
	})
}
