package hub_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services/sync"
)

// phone adds a machine to the mesh that nobody runs.
func phone(t *testing.T, m *hubtest.Mesh, name, owner string) peer.Peer {
	t.Helper()
	reply, err := m.Hub.Phone(t.Context(), "test", control.PhoneRequest{
		PeerSpec: control.PeerSpec{Name: name, Owner: owner}, PublicKey: newKey(t).Public()})
	if err != nil {
		t.Fatal(err)
	}
	return reply.Peer
}

func offer(t *testing.T, m *hubtest.Mesh, p peer.Peer, name string, port uint16) error {
	t.Helper()
	_, err := m.Hub.Serve(t.Context(), p, sync.ServeRequest{Name: name, Proto: "tcp", Port: port})
	return err
}

func status(err error) int {
	if p, ok := errors.AsType[*sync.Problem](err); ok {
		return p.Status
	}
	return 0
}

// TestOffersLeaveRoom: a machine that offers and withdraws name after name
// cannot use up the addresses that everybody's services share; an address that
// was given back rests for a day.
func TestOffersLeaveRoom(t *testing.T) {
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	m := hubtest.New(t)
	m.Apply(open)
	eve := phone(t, m, "eve", "eve")
	for i := range 300 {
		name := fmt.Sprintf("n%d", i)
		if offer(t, m, eve, name, 80) == nil {
			_ = m.Hub.Unserve(t.Context(), eve, name)
		}
	}
	publish(t, m, "page", page.URL)
	if err := offer(t, m, phone(t, m, "gpu", "ann"), "llm", 80); err != nil {
		t.Errorf("another machine has no room left: %v", err)
	}
}

// TestWithdrawnNameStays: a name that its machine withdraws answers nothing,
// and is nobody else's until the admin unpublishes it.
func TestWithdrawnNameStays(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	gpu, eve := phone(t, m, "gpu", "ann"), phone(t, m, "other", "bob")
	if err := offer(t, m, gpu, "llm", 8080); err != nil {
		t.Fatal(err)
	}
	before := service(t, m, "llm")
	if err := m.Hub.Unserve(t.Context(), gpu, "llm"); err != nil {
		t.Fatal(err)
	}
	if err := m.Hub.Unserve(t.Context(), gpu, "llm"); status(err) != http.StatusNotFound {
		t.Errorf("withdrawing twice: %v, want 404", err)
	}
	if err := offer(t, m, eve, "llm", 8080); status(err) != http.StatusConflict {
		t.Errorf("another machine takes the name: %v, want 409", err)
	}
	self, _, err := m.Hub.Self(t.Context(), gpu)
	if err != nil {
		t.Fatal(err)
	}
	if len(self.Serves) != 0 || self.Names["llm"] != nil {
		t.Errorf("its machine is still told to serve it: %v, %v", self.Serves, self.Names["llm"])
	}
	ex, err := m.Hub.Explain(control.ExplainRequest{Src: "other", Dst: before.Addrs[0].String() + ":8080"})
	if err != nil || ex.Allowed {
		t.Errorf("a withdrawn service is reached: %v, %v", ex, err)
	}
	if err := offer(t, m, gpu, "llm", 8080); err != nil {
		t.Errorf("its own machine cannot offer it again: %v", err)
	}
	if now := service(t, m, "llm"); !slices.Equal(now.Addrs, before.Addrs) {
		t.Errorf("it moved from %v to %v", before.Addrs, now.Addrs)
	}
	if _, err := m.Hub.Unpublish(t.Context(), "test", "llm"); err != nil {
		t.Fatal(err)
	}
	if err := offer(t, m, eve, "llm", 8080); err != nil {
		t.Errorf("after the admin gave it free: %v", err)
	}
}

func service(t *testing.T, m *hubtest.Mesh, name string) control.ServiceInfo {
	t.Helper()
	list := m.Hub.Services()
	i := slices.IndexFunc(list, func(s control.ServiceInfo) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("there is no service %s", name)
	}
	return list[i]
}

// TestOffersArePaced: each change of an offer is an audit entry and a filter
// compiled anew for the whole mesh, so one machine gets a handful and then has
// to wait; what it offers already costs nothing and is always confirmed.
func TestOffersArePaced(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	eve, gpu := phone(t, m, "eve", "eve"), phone(t, m, "gpu", "ann")
	done, limited := 0, 0
	for i := range 400 {
		switch err := offer(t, m, eve, "flap", uint16(1000+i)); {
		case err == nil:
			done++
		case status(err) == http.StatusTooManyRequests:
			limited++
		default:
			t.Fatal(err)
		}
	}
	if limited == 0 || done < 32 {
		t.Errorf("of 400 changes %d were made and %d held back", done, limited)
	}
	for range 100 {
		if err := offer(t, m, eve, "flap", uint16(1000+done-1)); err != nil {
			t.Fatalf("the offer that stands: %v", err)
		}
	}
	if err := offer(t, m, gpu, "llm", 80); err != nil {
		t.Errorf("another machine waits as well: %v", err)
	}
}
