package hub_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/hub/store/storetest"
)

// TestPostgres: the main job with the store in PostgreSQL, over a restart.
func TestPostgres(t *testing.T) {
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	dsn := storetest.PostgresConfig(t).DSN
	m := hubtest.New(t, func(i *hub.InitConfig, _ *hub.Config) { i.DSN = dsn })
	m.Apply(open)
	publish(t, m, "page", page.URL)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	hubtest.Until(t, "kitchen reaches the page", func() bool { return reaches(t, kitchen, "page.warren.internal:80") })
	m.Stop()
	m.Start()
	hubtest.Until(t, "kitchen reaches the page again", func() bool { return reaches(t, kitchen, "page.warren.internal:80") })
	v, err := m.Hub.VerifyAudit(t.Context(), "")
	if err != nil || v.Bad != nil {
		t.Errorf("audit log: %v %v", err, v.Why)
	}
}
