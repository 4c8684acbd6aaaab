package hub_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// TestJ08_StolenCredentials: what was taken from one machine is refused on
// another, the owner's own other machine included; at home it goes on working.
func TestJ08_StolenCredentials(t *testing.T) {
	h := newHome(t)
	laptop := h.Join("laptop", control.PeerSpec{Owner: "ann"})
	ann := hubtest.SignIn(t, h.kitchen, "ann")
	me := hubtest.Request{Method: http.MethodGet, URL: hubtest.AuthURL + "/auth/me", Header: []string{ann.Bearer()}}
	refuses(t, laptop, me, 401, "Invalid token")
	refuses(t, laptop, hubtest.Request{Method: http.MethodGet, URL: hubtest.CommandURL + "/api/v0/nodes/kitchen/config/pending",
		Header: []string{h.node()}}, 401, "Invalid API Key")
	refuses(t, laptop, hubtest.Request{Method: http.MethodGet, URL: hubtest.AuthURL + "/internal/app-ping", Header: h.app()}, 401, "Invalid app credentials")
	refuses(t, laptop, hubtest.Request{Method: http.MethodGet, URL: hubtest.AuthURL + "/admin/app-clients",
		Header: []string{"X-Jarvis-Admin-Token: " + h.adminKey}}, 401, "Unauthorized")
	if a := hubtest.Call(t, h.kitchen, me); a.Status != 200 || a.String("email") != "ann@example.org" {
		t.Errorf("at home: %d %s", a.Status, a.Text)
	}
	// A stolen refresh token does nothing, and does not tell who it was.
	refresh := hubtest.Request{Method: http.MethodPost, URL: hubtest.AuthURL + "/auth/refresh", Body: map[string]string{"refresh_token": ann.Refresh}}
	refuses(t, laptop, refresh, 401, "Invalid refresh token")
}

// stream is an answer that goes on until it ends.
type stream struct {
	ended chan struct{}
	at    time.Time
}

// begin opens a stream and waits until it has begun.
func begin(t *testing.T, c hubtest.Machine, path string, header ...string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, hubtest.CommandURL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := c.HTTPClient().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(resp.Body)
	first, err := lines.ReadString('\n')
	if err != nil || first != "begun\n" {
		t.Fatalf("the stream does not begin: %d %q %v", resp.StatusCode, first, err)
	}
	s := &stream{ended: make(chan struct{})}
	go func() {
		defer resp.Body.Close()
		_, _ = lines.ReadByte() // returns when the stream ends
		s.at = time.Now()
		close(s.ended)
	}()
	return s
}

func (s *stream) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// endsSoon expects that a stream ends because of what took its right, and logs
// how soon. That it is a second at the most is shown where the clock is a
// test's own: TestLive in services.
func (s *stream) endsSoon(t *testing.T, what string, since time.Time) {
	t.Helper()
	select {
	case <-s.ended:
		t.Logf("%s: the stream ended after %v", what, s.at.Sub(since).Round(time.Millisecond))
	case <-time.After(hubtest.Patience):
		t.Errorf("%s: the stream goes on", what)
	}
}

// TestK02_RunningStreamsEnd: a running answer ends within a second of its
// caller's losing what let it in, and nobody else's does.
func TestK02_RunningStreamsEnd(t *testing.T) {
	h := newHome(t)
	h.Hub.Stream("/test/node", services.Requirement{Any: []services.Credential{services.AsNode}})
	h.Hub.Stream("/test/app", services.Requirement{Any: []services.Credential{services.AsApp}})
	h.Hub.Stream("/test/power", services.Requirement{Any: []services.Credential{services.AsUser}, Role: account.PowerUser})
	h.Hub.Stream("/test/member", services.Requirement{Any: []services.Credential{services.AsUser}, Role: account.Member})
	h.Person("bob", h.id, "power_user")
	laptop := h.Join("laptop", control.PeerSpec{Owner: "bob"})
	bob := hubtest.SignIn(t, laptop, "bob")
	ann := hubtest.SignIn(t, h.kitchen, "ann")
	others := begin(t, h.kitchen, "/test/member", ann.Bearer())
	power := begin(t, laptop, "/test/power", bob.Bearer())
	node, app := begin(t, h.kitchen, "/test/node", h.node()), begin(t, h.kitchen, "/test/app", h.app()...)

	at := time.Now()
	h.Command("household/member", control.MemberSpec{Household: h.id, User: "bob", Role: "member"}, nil)
	power.endsSoon(t, "a lesser role", at)
	member := begin(t, laptop, "/test/member", bob.Bearer())
	at = time.Now()
	h.Command("node/rm", "kitchen", nil)
	node.endsSoon(t, "a removed node", at)
	at = time.Now()
	h.Command("app/revoke", "centre", nil)
	app.endsSoon(t, "a revoked app", at)
	if member.over() {
		t.Error("the person's stream ended with the app's")
	}
	at = time.Now()
	var n int
	h.Command("user/logout", control.UserRequest{User: "bob"}, &n)
	member.endsSoon(t, "signed out", at)
	if others.over() {
		t.Error("the stream of somebody else ended as well")
	}
	refuses(t, laptop, hubtest.Request{Method: http.MethodGet, URL: hubtest.AuthURL + "/auth/me", Header: []string{bob.Bearer()}}, 401, "Invalid token")
}

// TestK02_RemovedMachines: quarantine and removal of a machine end what runs on
// it, and what was issued to it is worth nothing when it comes back.
func TestK02_RemovedMachines(t *testing.T) {
	h := newHome(t)
	h.Hub.Stream("/test/member", services.Requirement{Any: []services.Credential{services.AsUser}, Role: account.Member})
	h.Hub.Stream("/test/node", services.Requirement{Any: []services.Credential{services.AsNode}})
	ann := hubtest.SignIn(t, h.kitchen, "ann")
	begin(t, h.kitchen, "/test/member", ann.Bearer())
	begin(t, h.kitchen, "/test/node", h.node())
	live := h.Hub.Running()
	if live != 2 {
		t.Fatalf("%d requests are running, want 2", live)
	}
	// The tunnel is closed as well, so the far end may hear of it late: what
	// counts is that the hub stops.
	at := time.Now()
	if _, err := h.Hub.EditPeer(t.Context(), "test", control.PeerEdit{Name: "kitchen", Quarantine: true}); err != nil {
		t.Fatal(err)
	}
	hubtest.Until(t, "nothing runs for the machine", func() bool { return h.Hub.Running() == 0 })
	t.Logf("it took %v", time.Since(at).Round(time.Millisecond))
	if _, err := h.Hub.EditPeer(t.Context(), "test", control.PeerEdit{Name: "kitchen", Release: true}); err != nil {
		t.Fatal(err)
	}
	// Quarantine holds; it does not sign out.
	me := hubtest.Request{Method: http.MethodGet, URL: hubtest.AuthURL + "/auth/me", Header: []string{ann.Bearer()}}
	hubtest.Until(t, "the machine is itself again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		a, err := hubtest.Try(ctx, h.kitchen, me)
		return err == nil && a.Status == http.StatusOK
	})
	if _, err := h.Hub.EditPeer(t.Context(), "test", control.PeerEdit{Name: "kitchen", Remove: true}); err != nil {
		t.Fatal(err)
	}
	again := h.Join("kitchen", control.PeerSpec{Owner: "ann"})
	refuses(t, again, hubtest.Request{Method: http.MethodGet, URL: hubtest.AuthURL + "/auth/me", Header: []string{ann.Bearer()}}, 401, "Invalid token")
	refuses(t, again, hubtest.Request{Method: http.MethodGet, URL: hubtest.CommandURL + "/api/v0/nodes/kitchen/config/pending",
		Header: []string{h.node()}}, 401, "Invalid API Key")
}
