package hub_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
)

// spoil puts something in the store that the hub cannot put in force, and
// returns what takes it away again: a machine with the name of a throw-away
// identity.
func spoil(t *testing.T, m *hubtest.Mesh) (mend func()) {
	t.Helper()
	var id peer.ID
	err := m.Hub.Store().Keep(t.Context(), func(tx *store.Tx) error {
		key := newKey(t).Public()
		if _, err := tx.AddInvite(store.Invite{ID: "x", Name: "spoilt", PublicKey: key, Expires: time.Now().Add(time.Hour)}); err != nil {
			return err
		}
		p, err := tx.AddPeer(store.NewPeer{Name: "invite-x", PublicKey: newKey(t).Public(), Kind: peer.KindPhone})
		id = p.ID
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := m.Hub.Store().Keep(t.Context(), func(tx *store.Tx) error { return tx.RemovePeer(id) }); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUnenforceableDeniesAndRecovers: while what is stored cannot be put in
// force nothing passes; when it can, the hub notices by itself.
func TestUnenforceableDeniesAndRecovers(t *testing.T) {
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	m := hubtest.New(t)
	m.Apply(open)
	publish(t, m, "page", page.URL)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	hubtest.Until(t, "kitchen reaches the page", func() bool { return reaches(t, kitchen, "page.warren.internal:80") })
	m.Apply(open) // the invite has done its work: the sweep has nothing else to do
	mend := spoil(t, m)
	if _, err := m.Hub.ApplyPolicy(t.Context(), "test", control.PolicyRequest{Text: open}); err == nil {
		t.Fatal("what could not be put in force was reported as done")
	}
	if reaches(t, kitchen, "page.warren.internal:80") {
		t.Error("something passes although the stored state is not in force")
	}
	mend()
	hubtest.Until(t, "the page is back", func() bool { return reaches(t, kitchen, "page.warren.internal:80") })
}

// TestChangedElsewhere: what another hub on the same database revoked is revoked
// here as well.
func TestChangedElsewhere(t *testing.T) {
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	m := hubtest.New(t)
	m.Apply(open)
	publish(t, m, "page", page.URL)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	hubtest.Until(t, "kitchen reaches the page", func() bool { return reaches(t, kitchen, "page.warren.internal:80") })
	m.Apply(open) // the invite has done its work: the sweep has nothing else to do
	err := m.Hub.Store().Do(t.Context(), audit.Event{Actor: "test", Action: "peer.quarantine"}, func(tx *store.Tx) error {
		p, err := tx.PeerByName("kitchen")
		if err != nil {
			return err
		}
		p.Quarantined = true
		return tx.UpdatePeer(p)
	})
	if err != nil {
		t.Fatal(err)
	}
	hubtest.Until(t, "the quarantine is in force", func() bool { return !reaches(t, kitchen, "page.warren.internal:80") })
}

// TestUnconfirmedAlwaysGoesBack: the way out of a mistake holds although the
// policy could not be put in force at once, and although it could not be taken
// back at the first try.
func TestUnconfirmedAlwaysGoesBack(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	mend := spoil(t, m)
	if _, err := m.Hub.ApplyPolicy(t.Context(), "test", control.PolicyRequest{Text: shut, Confirm: 5 * time.Second}); err == nil {
		t.Fatal("what could not be put in force was reported as done")
	}
	mend()
	hubtest.Until(t, "the unconfirmed policy is in force", func() bool { return !m.Hub.Status().ConfirmBy.IsZero() })
	hubtest.Until(t, "it goes back", func() bool { return live(t, m).Text == open })
}

func live(t *testing.T, m *hubtest.Mesh) control.PolicyReply {
	t.Helper()
	h, err := m.Hub.History(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return h[0]
}

// TestRollbackSkipsUnconfirmed: after a policy that nobody confirmed went
// back, going back once more does not bring it in for good.
func TestRollbackSkipsUnconfirmed(t *testing.T) {
	m := hubtest.New(t)
	first := strings.Replace(open, "{", "{ // first\n", 1)
	m.Apply(first)
	m.Apply(open)
	if _, err := m.Hub.ApplyPolicy(t.Context(), "test", control.PolicyRequest{Text: shut, Confirm: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Hub.Rollback(t.Context(), "test", 0); err != nil {
		t.Fatal(err)
	}
	if live(t, m).Text != open {
		t.Fatal("the unconfirmed policy did not go back to the one before it")
	}
	if _, err := m.Hub.Rollback(t.Context(), "test", 0); err != nil {
		t.Fatal(err)
	}
	if now := live(t, m); now.Text == shut || !now.ConfirmBy.IsZero() {
		t.Error("the policy that nobody confirmed is in force for good")
	}
}

// TestPolicyIsJudgedAgain: a policy that was good when it was checked, and no
// longer is when it is stored, is refused.
func TestPolicyIsJudgedAgain(t *testing.T) {
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	m := hubtest.New(t)
	m.Apply(open)
	publish(t, m, "page", page.URL)
	text := strings.Replace(open, `"*:*"`, `"svc:page:80"`, 1)
	apply, err := m.Hub.Stale(t.Context(), control.PolicyRequest{Text: text})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Hub.Unpublish(t.Context(), "test", "page"); err != nil {
		t.Fatal(err)
	}
	before := live(t, m).Generation
	if _, ok := errors.AsType[*control.Error](apply()); !ok || live(t, m).Generation != before {
		t.Errorf("it was stored as generation %d, although svc:page is gone", live(t, m).Generation)
	}
}
