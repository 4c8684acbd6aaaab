package hub_test

import (
	"net/http"
	"testing"

	"github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services"
)

// TestK04_AppThatServes: a machine that offers a service of its own still
// proves itself by its certificate when it calls.
func TestK04_AppThatServes(t *testing.T) {
	m := hubtest.New(t, func(_ *hub.InitConfig, c *hub.Config) { c.Apps = services.ByCertificate })
	m.Apply(open)
	box := m.Join("box", control.PeerSpec{Owner: "ann"})
	var key control.KeyReply
	m.Command("app/add", control.AppSpec{ID: "center", Peer: "box", Services: []string{"auth"}}, &key)
	before, err := box.Certificates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := offer(t, m, peer.Peer{ID: box.Membership().ID, Name: "box"}, "llm", 8080); err != nil {
		t.Fatal(err)
	}
	hubtest.Until(t, "it has certificates for what it serves", func() bool {
		now, err := box.Certificates(t.Context())
		return err == nil && now != before
	})
	got := hubtest.Call(t, box, hubtest.Request{Method: http.MethodGet, URL: "https://auth.warren.internal/internal/app-ping"})
	if got.Status != http.StatusOK {
		t.Errorf("status %d, want 200", got.Status)
	}
}
