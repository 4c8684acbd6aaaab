package hub_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
)

// TestEditsDoNotUndoEachOther: of two edits of one machine at the same moment
// both count. A quarantine must not be lifted by somebody who only renames.
func TestEditsDoNotUndoEachOther(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	for i := range 20 {
		name := fmt.Sprintf("m%d", i)
		id := phone(t, m, name, "ann").ID
		edits := []control.PeerEdit{{Quarantine: true}, {Rename: name + "-new"}, {SetTags: true, Tags: []string{"tag:x"}}}
		var together sync.WaitGroup
		begin := make(chan struct{})
		for _, e := range edits {
			e.Name = name
			together.Go(func() {
				<-begin
				// Whoever comes after the renaming finds no such name: refused,
				// and then the edit must not have counted.
				if _, err := m.Hub.EditPeer(t.Context(), "test", e); err != nil {
					e.Name = name + "-new"
					if _, err := m.Hub.EditPeer(t.Context(), "test", e); err != nil {
						t.Error(err)
					}
				}
			})
		}
		close(begin)
		together.Wait()
		var p peer.Peer
		for _, info := range m.Hub.Peers() {
			if info.ID == id {
				p = info.Peer
			}
		}
		if !p.Quarantined || p.Name != name+"-new" || len(p.Tags) != 1 {
			t.Fatalf("after all three edits: quarantined %v, name %s, tags %v", p.Quarantined, p.Name, p.Tags)
		}
	}
}

// TestRevokeOrJoin: of an invite that is withdrawn while a machine joins with
// it the admin is never told that it is gone while the machine is there.
func TestRevokeOrJoin(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	for i := range 40 {
		name := fmt.Sprintf("m%d", i)
		code, err := invite.Parse(m.Invite(name, control.PeerSpec{}))
		if err != nil {
			t.Fatal(err)
		}
		key := newKey(t).Public()
		var together sync.WaitGroup
		begin := make(chan struct{})
		var revokeErr error
		together.Go(func() {
			<-begin
			_, _ = m.Hub.Enrol(t.Context(), peer.Peer{PublicKey: code.Key.Public(), Kind: peer.KindInvite}, invite.Request{PublicKey: key})
		})
		together.Go(func() {
			<-begin
			for range i * 20 { // at another moment each time
				runtime.Gosched()
			}
			_, revokeErr = m.Hub.EditPeer(t.Context(), "test", control.PeerEdit{Name: name, Remove: true})
		})
		close(begin)
		together.Wait()
		there := slices.ContainsFunc(m.Hub.Peers(), func(p control.PeerInfo) bool { return p.PublicKey == key })
		if there && revokeErr == nil {
			t.Fatalf("the admin is told that the invite is withdrawn, but %s is on the mesh", name)
		}
	}
}

// TestAuditPageIsTheNewest: a long page of the audit log ends with the newest
// entry, like a short one.
func TestAuditPageIsTheNewest(t *testing.T) {
	m := hubtest.New(t)
	for range 1100 {
		err := m.Hub.Store().Do(t.Context(), audit.Event{Actor: "test", Action: "test.note"}, func(*store.Tx) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	short, err := m.Hub.Audit(t.Context(), 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	long, err := m.Hub.Audit(t.Context(), 0, 1050)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(long.Rows); n != 1050 || long.Rows[n-1].Index != short.Rows[0].Index {
		t.Errorf("%d entries up to %d, want 1050 up to %d", n, long.Rows[n-1].Index, short.Rows[0].Index)
	}
}
