package hub_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/spoke"
)

// open lets everybody reach everything that has a name, which is what a test
// uses that is not about the policy.
const open = `{
	"households": {"home": ["admin@", "ann@", "bob@"], "next-door": ["eve@"]},
	"groups": {"group:admin": ["admin@"]},
	"tagOwners": {"tag:x": ["group:admin"]},
	"acls": [
		{"action": "accept", "src": ["*"], "dst": ["*:*"]},
	],
}`

// shut is the same mesh with everything closed.
const shut = `{
	"households": {"home": ["admin@", "ann@", "bob@"], "next-door": ["eve@"]},
	"groups": {"group:admin": ["admin@"]},
	"tagOwners": {"tag:x": ["group:admin"]},
}`

// TestMesh is the main job: a published page is fetched through the tunnel by
// a spoke that joined, and only as long as the policy allows it.
func TestMesh(t *testing.T) {
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello "+r.Header.Get("X-Warren-Peer")+" of "+r.Header.Get("X-Warren-User"))
	}))
	defer target.Close()
	m := hubtest.New(t)
	m.Apply(open)
	publish(t, m, "page", target.URL)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	if got := get(t, kitchen, "http://page.warren.internal/"); got != "hello kitchen of ann" {
		t.Errorf("page says %q", got)
	}
	m.Apply(shut)
	ctx, cancel := context.WithTimeout(t.Context(), hubtest.Patience)
	defer cancel()
	start := time.Now()
	c, err := kitchen.Dial(ctx, "tcp", "page.warren.internal:80")
	if err == nil {
		c.Close()
		t.Fatal("the page is reachable under a policy that allows nothing")
	}
	if ctx.Err() != nil {
		t.Errorf("the refusal took until the test's patience ended: %v after %v", err, time.Since(start))
	}
}

func publish(t *testing.T, m *hubtest.Mesh, name, target string) {
	t.Helper()
	if _, err := m.Hub.Publish(t.Context(), "test", control.PublishRequest{Name: name, Target: target}); err != nil {
		t.Fatalf("publishing %s: %v", name, err)
	}
}

// get fetches a page, waiting until the spoke knows its name.
func get(t *testing.T, c *spoke.Client, url string) string {
	t.Helper()
	var body string
	hubtest.Until(t, url+" is fetched", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), hubtest.Patience)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.HTTPClient().Do(req)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		body = string(b)
		return err == nil
	})
	return body
}

// TestA07_RevokeCutsADownload: when ApplyPolicy returns, a running download is
// dead on both sides, and one that is still allowed goes on.
func TestA07_RevokeCutsADownload(t *testing.T) {
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chunk := []byte(strings.Repeat("x", 32<<10))
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer target.Close()
	m := hubtest.New(t)
	m.Apply(open)
	publish(t, m, "page", target.URL)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	get1 := func() *http.Response {
		var resp *http.Response
		hubtest.Until(t, "the download starts", func() bool {
			var err error
			resp, err = kitchen.HTTPClient().Get("http://page.warren.internal/")
			return err == nil
		})
		return resp
	}
	resp := get1()
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
		t.Fatalf("the download does not run: %v", err)
	}
	change := m.Apply(shut)
	if change.Cut == 0 {
		t.Errorf("nothing was cut")
	}
	t.Logf("cut %d in %v", change.Cut, change.Took)
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, resp.Body)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the download ended as if complete: %v", err)
		}
	case <-time.After(hubtest.Patience):
		t.Error("the download goes on")
	}
}

// TestSpokeToSpoke: a machine offers a local service, another reaches it
// through the hub, and one of another household does not.
func TestT01_SpokeToSpoke(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	hall := m.Join("hall", control.PeerSpec{Owner: "bob"})
	eve := m.Join("eve", control.PeerSpec{Owner: "eve"})
	ln, err := kitchen.Listen("tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "kitchen here")
			c.Close()
		}
	}()
	var got string
	hubtest.Until(t, "hall reaches kitchen", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		c, err := hall.Dial(ctx, "tcp", "kitchen.warren.internal:8080")
		if err != nil {
			return false
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		got = string(b)
		return true
	})
	if got != "kitchen here" {
		t.Errorf("kitchen says %q", got)
	}
	for _, addr := range []string{"kitchen.warren.internal:8080", net.JoinHostPort(kitchen.Membership().V4.String(), "8080"), net.JoinHostPort(kitchen.Membership().V6.String(), "8080")} {
		ctx, cancel := context.WithTimeout(t.Context(), hubtest.Patience)
		c, err := eve.Dial(ctx, "tcp", addr)
		cancel()
		if err == nil {
			c.Close()
			t.Errorf("another household reaches %s", addr)
		}
	}
}

// TestRestart: after a restart of the hub, machines are back within two
// seconds, without having asked for it.
func TestR05_HubRestart(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	m.Stop()
	m.Start()
	start := time.Now()
	hubtest.Until(t, "kitchen is back", func() bool {
		for _, p := range m.Hub.Peers() {
			if p.Name == "kitchen" && p.RxBytes > 0 && p.Handshake.After(start.Add(-time.Second)) {
				return true
			}
		}
		return false
	})
	t.Logf("back after %v", time.Since(start))
	ctx, cancel := context.WithTimeout(t.Context(), hubtest.Patience)
	defer cancel()
	if _, _, err := kitchen.Ping(ctx, "hub.warren.internal"); err != nil {
		t.Errorf("pinging the hub: %v", err)
	}
}
