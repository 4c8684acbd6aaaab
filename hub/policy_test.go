package hub_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/spoke"
)

// scribble puts a text in the store that no hub would have accepted.
func scribble(t *testing.T, m *hubtest.Mesh, text string) {
	t.Helper()
	key, err := store.LoadKey(filepath.Join(m.Dir, "hub.key"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), store.Config{Path: filepath.Join(m.Dir, "hub.db"), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	err = st.Do(t.Context(), audit.Event{Actor: "test", Action: "test.scribble"}, func(tx *store.Tx) error {
		live, err := tx.CurrentPolicy()
		if err != nil {
			return err
		}
		_, err = tx.PutPolicy([]byte(text), "test", live.Generation, time.Time{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// reaches dials and reports whether somebody answered. A refusal comes at
// once, by the spoke's own slice or by the hub.
func reaches(t *testing.T, c *spoke.Client, addr string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	conn, err := c.Dial(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// TestA01_UnreadablePolicyAtBoot: a hub whose stored policy cannot be used
// starts, and lets the admin's own machines reach the console and nobody
// anything else.
func TestA01_UnreadablePolicyAtBoot(t *testing.T) {
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	m := hubtest.New(t)
	m.Apply(open)
	publish(t, m, "page", page.URL)
	admin := m.Join("desk", control.PeerSpec{Owner: "admin"})
	guest := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	hubtest.Until(t, "both reach the page", func() bool {
		return reaches(t, admin, "page.warren.internal:80") && reaches(t, guest, "page.warren.internal:80")
	})
	for _, text := range []string{"", "{", `{"acls": "everything"}`, strings.Repeat("[", 100_000)} {
		m.Stop()
		scribble(t, m, text)
		m.Start()
		if st := m.Hub.Status(); st.Recovery == "" {
			t.Fatalf("policy %.20q: status does not say that only recovery is open", text)
		}
		hubtest.Until(t, "the admin reaches the console", func() bool { return reaches(t, admin, "10.77.0.4:80") })
		if reaches(t, admin, "page.warren.internal:80") || reaches(t, guest, "page.warren.internal:80") || reaches(t, guest, "10.77.0.4:80") {
			t.Errorf("policy %.20q: more than the recovery path is open", text)
		}
	}
	// The way out: an older generation.
	if _, err := m.Hub.Rollback(t.Context(), "test", 2); err != nil {
		t.Fatalf("rolling back: %v", err)
	}
	hubtest.Until(t, "the page is back", func() bool { return reaches(t, guest, "page.warren.internal:80") })
}

// TestA04_FailingPolicyIsRefused: what fails its own tests, breaks a never or
// cannot be read leaves the live policy untouched.
func TestA04_FailingPolicyIsRefused(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	before := m.Hub.Status().Generation
	for name, text := range map[string]string{
		"test fails":   strings.Replace(open, `"acls"`, `"tests": [{"src": "ann@", "deny": ["svc:console:80"]}], "acls"`, 1),
		"never fails":  strings.Replace(open, `"acls"`, `"never": [{"src": ["ann@"], "dst": ["svc:console:*"]}], "acls"`, 1),
		"no JSON":      "{",
		"unknown name": strings.Replace(open, `"src": ["*"]`, `"src": ["tag:nobody"]`, 1),
		"unknown key":  strings.Replace(open, `"acls"`, `"acl"`, 1),
		"too large":    open + "// " + strings.Repeat("x", 1<<20),
	} {
		_, err := m.Hub.ApplyPolicy(t.Context(), "test", control.PolicyRequest{Text: text})
		if _, ok := errors.AsType[*control.Error](err); !ok {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	if now := m.Hub.Status().Generation; now != before {
		t.Errorf("generation %d is live, want %d", now, before)
	}
}

// TestA11_TwoAdmins: the second who saves from the same base is refused, and
// so is a policy that leaves no admin.
func TestA11_TwoAdmins(t *testing.T) {
	m := hubtest.New(t)
	base := m.Apply(open).Generation
	if _, err := m.Hub.ApplyPolicy(t.Context(), "one", control.PolicyRequest{Text: shut, Base: base}); err != nil {
		t.Fatal(err)
	}
	_, err := m.Hub.ApplyPolicy(t.Context(), "two", control.PolicyRequest{Text: open, Base: base})
	if _, ok := errors.AsType[*control.Error](err); !ok {
		t.Errorf("second save: %v, want a refusal", err)
	}
	nobody := strings.Replace(open, `"group:admin": ["admin@"]`, `"group:admin": []`, 1)
	if _, err := m.Hub.ApplyPolicy(t.Context(), "one", control.PolicyRequest{Text: nobody}); err == nil {
		t.Error("a policy that leaves nobody in group:admin was accepted without a word")
	}
	if _, err := m.Hub.ApplyPolicy(t.Context(), "one", control.PolicyRequest{Text: nobody, Lockout: true}); err != nil {
		t.Errorf("and with one: %v", err)
	}
}

// TestMeshE29_ConfirmOrRevert: a policy that nobody confirms goes back, also
// when the hub is restarted meanwhile; a confirmed one stays.
func TestMeshE29_ConfirmOrRevert(t *testing.T) {
	// The clock is the test's, so that nothing depends on how long it takes.
	start := time.Now()
	skew := make(chan time.Duration, 1)
	skew <- 0
	clock := func() time.Time {
		d := <-skew
		skew <- d
		return time.Now().Add(d)
	}
	jump := func(d time.Duration) { skew <- <-skew + d }
	m := hubtest.New(t, func(i *hub.InitConfig, c *hub.Config) { i.Now, c.Now = clock, clock })
	m.Apply(open)
	apply := func() uint64 {
		c, err := m.Hub.ApplyPolicy(t.Context(), "test", control.PolicyRequest{Text: shut, Confirm: 5 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		return c.Generation
	}
	text := func() string {
		h, err := m.Hub.History(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		return h[0].Text
	}
	apply()
	m.Stop()
	jump(6 * time.Minute)
	m.Start()
	if text() != open {
		t.Error("a policy whose time passed while the hub was down is in force")
	}
	apply()
	if _, err := m.Hub.ConfirmPolicy(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	m.Stop()
	jump(6 * time.Minute)
	m.Start()
	if text() != shut {
		t.Error("a confirmed policy went back")
	}
	m.Apply(open)
	c, err := m.Hub.ApplyPolicy(t.Context(), "test", control.PolicyRequest{Text: shut, Confirm: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	hubtest.Until(t, "the policy goes back by itself", func() bool {
		return m.Hub.Status().Generation > c.Generation && text() == open
	})
	if took := time.Since(start); took > hubtest.Patience+10*time.Second {
		t.Logf("took %v", took)
	}
}

// TestMeshE30_EnforcedIsStored: an apply that cannot be written changes
// nothing, neither in the store nor on the wire.
func TestMeshE30_EnforcedIsStored(t *testing.T) {
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	m := hubtest.New(t)
	m.Apply(open)
	publish(t, m, "page", page.URL)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	hubtest.Until(t, "kitchen reaches the page", func() bool { return reaches(t, kitchen, "page.warren.internal:80") })
	before := m.Hub.Status().Generation
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the store refuses to begin
	if _, err := m.Hub.ApplyPolicy(ctx, "test", control.PolicyRequest{Text: shut}); err == nil {
		t.Fatal("an apply that could not be written was reported as done")
	}
	if now := m.Hub.Status().Generation; now != before {
		t.Errorf("generation %d is live, want %d", now, before)
	}
	if !reaches(t, kitchen, "page.warren.internal:80") {
		t.Error("an apply that failed took effect")
	}
	if _, err := os.Stat(m.Dir); err != nil {
		t.Fatal(err)
	}
}

// TestDiffUsesRecordedFlows: a diff names what was really seen and would be
// treated otherwise, also after a restart.
func TestDiffUsesRecordedFlows(t *testing.T) {
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	m := hubtest.New(t)
	m.Apply(open)
	publish(t, m, "page", page.URL)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	hubtest.Until(t, "kitchen reaches the page", func() bool { return reaches(t, kitchen, "page.warren.internal:80") })
	for range 2 {
		d, err := m.Hub.DiffPolicy(t.Context(), []byte(shut))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, h := range d.Hit {
			found = found || h.Flow == "kitchen -> svc:page:80/tcp" && h.Count > 0 && !h.WouldOpen
		}
		if !found {
			t.Errorf("the diff does not name the flow: %+v", d.Hit)
		}
		if len(d.Closed) == 0 {
			t.Error("the diff closes nothing")
		}
		m.Stop()
		m.Start()
	}
	m.Apply(shut)
	if reaches(t, kitchen, "10.77.0.10:80") {
		t.Fatal("reachable under a policy that allows nothing")
	}
}
