package hub_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
)

// TestE08_Guessing: without the throw-away key of an invite there is nobody to
// guess at: a made-up identity gets no session, a wrong pre-shared key gets
// none, and a machine that is on the mesh already does not reach the enrolment
// at all.
func TestE08_Guessing(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	text := m.Invite("kitchen", control.PeerSpec{})
	code, err := invite.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	enrol := netip.AddrPortFrom(code.EnrolV4, 443)
	try := func(what string, s *hubtest.Stranger) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if c, err := s.Dial(ctx, "tcp", netip.Addr{}, enrol); err == nil {
			c.Close()
			t.Errorf("%s reaches the enrolment", what)
		}
	}
	psk, err := peer.NewPresharedKey()
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		try("a made-up identity", m.Stranger(newKey(t), code.PSK, code.V4, code.V6))
	}
	try("a wrong pre-shared key", m.Stranger(code.Key, psk, code.V4, code.V6))
	try("a machine of the mesh", stranger(t, m, "phone", control.PeerSpec{Owner: "ann"}))
	if got := len(code.Key.Reveal()) * 8; got < 128 {
		t.Errorf("an invite's key has %d bits", got)
	}
	if _, err := redeem(t, m, text, newKey(t)); err != nil {
		t.Errorf("the real invite: %v", err)
	}
}

// TestMeshF34_ConsoleAndSecrets: the console answers only to its own names and
// only to reading, and no answer of the hub and no line of its log holds a
// secret.
func TestMeshF34_ConsoleAndSecrets(t *testing.T) {
	log := new(lockedBuffer)
	m := hubtest.New(t, func(_ *hub.InitConfig, c *hub.Config) {
		c.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	m.Apply(open)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	key := newKey(t)
	phone, err := m.Hub.Phone(t.Context(), "test", control.PhoneRequest{PeerSpec: control.PeerSpec{Name: "phone"}, PublicKey: key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	text := m.Invite("hall", control.PeerSpec{})
	code, err := invite.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	get(t, kitchen, "http://console.warren.internal/")
	for _, c := range []struct {
		method, host string
		header       http.Header
		want         int
	}{
		{"GET", "evil.example", nil, http.StatusMisdirectedRequest},
		{"GET", "10.77.0.5", nil, http.StatusMisdirectedRequest},
		{"GET", "console.warren.internal:8080", nil, http.StatusMisdirectedRequest},
		{"POST", "console.warren.internal", nil, http.StatusMethodNotAllowed},
		{"DELETE", "console.warren.internal", http.Header{"Origin": {"http://evil.example"}}, http.StatusMethodNotAllowed},
	} {
		req, err := http.NewRequest(c.method, "http://console.warren.internal/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host, req.Header = c.host, c.header
		resp, err := kitchen.HTTPClient().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s with host %s: %d, want %d", c.method, c.host, resp.StatusCode, c.want)
		}
	}
	audit, err := m.Hub.Audit(t.Context(), 1, 1000)
	if err != nil {
		t.Fatal(err)
	}
	page := get(t, kitchen, "http://console.warren.internal/api/status")
	said, err := json.Marshal([]any{m.Hub.Status(), m.Hub.Peers(), m.Hub.Services(), audit, page, m.Hub.Doctor(t.Context())})
	if err != nil {
		t.Fatal(err)
	}
	for where, what := range map[string]string{"an answer": string(said), "the log": log.String()} {
		for name, secret := range map[string]string{
			"a phone's pre-shared key": phone.PSK, "an invite": text, "an invite's key": code.Key.RevealText(), "an invite's pre-shared key": code.PSK.RevealText(),
		} {
			if strings.Contains(what, secret) {
				t.Errorf("%s holds %s", where, name)
			}
		}
	}
}

// lockedBuffer is a log that many write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
