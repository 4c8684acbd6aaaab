package spoke

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/netstack/udp/udptest"
	"github.com/warrenmesh/warren/peer/invite"
	"github.com/warrenmesh/warren/spoke/vault"
)

func get1(t testing.TB, c *Client, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	hc := c.HTTPClient()
	defer hc.CloseIdleConnections()
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestJoinAndTalk(t *testing.T) {
	h := newMiniHub(t)
	c, cfg := h.join(t, "kitchen", "198.51.100.1")
	for _, url := range []string{"http://stt.warren.internal/a", "http://stt/a", "http://STT.Warren.Internal./a", "http://10.77.0.10/a"} {
		if got := get1(t, c, url); got != "hello /a\n" {
			t.Errorf("%s: %q", url, got)
		}
	}
	conn, err := c.Dial(t.Context(), "udp", "stt:7")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 10)
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "ping" {
		t.Errorf("UDP echo: %q, %v", buf[:n], err)
	}
	if _, _, err := c.Ping(t.Context(), "stt"); err != nil {
		t.Error(err)
	}
	s := c.Status()
	if !s.Connected || !s.Told || s.Name != "kitchen" || s.HubAddress != hubAt.String() || s.RxBytes == 0 {
		t.Errorf("status = %+v", s)
	}
	if _, err := Join(t.Context(), h.invite("again"), cfg); !errors.Is(err, ErrBusy) {
		t.Errorf("joining in a running spoke's directory: %v, want ErrBusy", err)
	}
	if info, err := os.Stat(cfg.Dir + "/vault.key"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("vault.key: %v, %v", info.Mode(), err)
	}
}

func TestDialRefusesWhatIsNotAllowed(t *testing.T) {
	h := newMiniHub(t)
	c, _ := h.join(t, "kitchen", "198.51.100.1")
	for address, want := range map[string]error{
		"console.warren.internal:80": ErrNoName,
		"10.77.0.4:80":               ErrPolicy,
		"stt:22":                     ErrPolicy,
		"10.77.0.2:443":              ErrPolicy,
		"[fd77:1:2:3::4]:80":         ErrPolicy,
		"example.org:80":             ErrNotMesh,
		"localhost:80":               ErrNotMesh,
		"127.0.0.1:80":               ErrNotMesh,
		"169.254.169.254:80":         ErrNotMesh,
		"[::1]:80":                   ErrNotMesh,
		"[::ffff:10.77.0.10]:80":     ErrNotMesh,
		"[fd77:1:2:3::a%eth0]:80":    ErrNotMesh,
		"192.0.2.1:51820":            ErrNotMesh,
		"stt.evil.example:80":        ErrNotMesh,
	} {
		conn, err := c.Dial(t.Context(), "tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", address, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: not one sentence: %q", address, err)
		}
	}
	for _, address := range []string{"", "stt", "stt:0", "stt:99999", "stt:http", ":80"} {
		if _, err := c.Dial(t.Context(), "tcp", address); err == nil {
			t.Errorf("%q was dialed", address)
		}
	}
	if _, err := c.Dial(t.Context(), "unix", "stt:80"); err == nil {
		t.Error("a unix socket was dialed")
	}
}

// TestSpokeEnforcesItsSlice: the hub is not needed to say no. When the policy
// changes, a connection that it no longer allows is reset.
func TestSpokeEnforcesItsSlice(t *testing.T) {
	h := newMiniHub(t)
	c, _ := h.join(t, "kitchen", "198.51.100.1")
	conn, err := c.Dial(t.Context(), "tcp", "stt:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	h.setPolicy(`{}`)
	_ = conn.SetDeadline(time.Now().Add(patience))
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v; want a reset", n, err)
	}
	until(t, "the slice without stt", func() bool {
		_, err := c.Dial(t.Context(), "tcp", "stt:80")
		return errors.Is(err, ErrNoName)
	})
	if _, err := c.Dial(t.Context(), "tcp", "10.77.0.10:80"); !errors.Is(err, ErrPolicy) {
		t.Errorf("by address: %v, want ErrPolicy", err)
	}
	h.setPolicy(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["svc:stt:80"]}]}`)
	until(t, "the slice with stt", func() bool {
		conn, err := c.Dial(t.Context(), "tcp", "stt:80")
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// TestSpokeDoesNotTrustTheHub: with a hub that lets everything through, the
// spoke's own slice still refuses, in both directions.
func TestSpokeDoesNotTrustTheHub(t *testing.T) {
	h := newMiniHub(t)
	c, _ := h.join(t, "kitchen", "198.51.100.1")
	ln, err := c.Listen("tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan struct{}, 16)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- struct{}{}
			_ = conn.Close()
		}
	}()
	const open = `{"acls": [
		{"action": "accept", "src": ["svc:stt"], "dst": ["kitchen:8080"]},
		{"action": "accept", "src": ["kitchen"], "dst": ["svc:*"]}]}`
	own := c.state.reply.V4
	dialIn := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		conn, err := h.stack.Dial(ctx, "tcp", v4(10), netip.AddrPortFrom(own, 8080))
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	dialOut := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		// Past Dial's own question: what do the packets meet?
		conn, err := c.stack.Dial(ctx, "tcp", own, netip.AddrPortFrom(v4(10), 80))
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	h.setPolicy(open)
	until(t, "the slice that allows both", func() bool { return dialIn() == nil && dialOut() == nil })
	<-accepted
	h.setPolicy(`{}`)
	until(t, "the slice that allows nothing", func() bool { return !c.view.Load().filter.Explain(own, v4(10), acl.ProtoTCP, 80).Allowed })
	h.mu.Lock()
	h.policy = open
	h.stack.SetFilter(h.compile())
	h.mu.Unlock()
	for len(accepted) > 0 {
		<-accepted
	}
	if err := dialIn(); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dialing the spoke: %v, want an immediate refusal", err)
	}
	if err := dialOut(); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dialing from the spoke: %v, want an immediate refusal", err)
	}
	if len(accepted) > 0 {
		t.Error("the spoke accepted a connection that its slice does not allow")
	}
}

// TestFirstPolicy: until the hub has spoken, sync and DNS and nothing else; and
// after a restart the last slice is in force before the hub has spoken again.
func TestFirstPolicy(t *testing.T) {
	h := newMiniHub(t)
	cfg := h.config(t, "198.51.100.1")
	if _, err := Join(t.Context(), h.invite("kitchen"), cfg); err != nil {
		t.Fatal(err)
	}
	h.net.Filter(func(udptest.Datagram) bool { return false })
	c, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := c.view.Load().filter
	own := c.state.reply.V4
	for _, tc := range []struct {
		src, dst netip.Addr
		proto    acl.Proto
		port     uint16
		want     bool
	}{
		{own, v4(3), acl.ProtoTCP, 80, true},
		{own, v4(53), acl.ProtoUDP, 53, true},
		{own, v4(53), acl.ProtoTCP, 53, true},
		{own, v4(3), acl.ProtoTCP, 22, false},
		{own, v4(10), acl.ProtoTCP, 80, false},
		{own, v4(1), acl.ProtoTCP, 80, false},
		{v4(3), own, acl.ProtoTCP, 80, false},
		{v4(10), own, acl.ProtoTCP, 22, false},
		{v4(300), own, acl.ProtoTCP, 22, false},
	} {
		if got := f.Explain(tc.src, tc.dst, tc.proto, tc.port).Allowed; got != tc.want {
			t.Errorf("%v -> %v %v %d: %v, want %v", tc.src, tc.dst, tc.proto, tc.port, got, tc.want)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	h.net.Filter(nil)
	c, err = Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	h.stop() // nobody is there to ask
	if c, err = Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !c.view.Load().filter.Explain(own, v4(10), acl.ProtoTCP, 80).Allowed || c.names("stt") == nil {
		t.Error("the last slice was forgotten")
	}
}

// TestMeshG39_HubRestartForReal: the hub loses its sessions and its memory of
// endpoints; the spoke is back within two seconds of its return.
func TestMeshG39_HubRestartForReal(t *testing.T) {
	h := newMiniHub(t)
	c, _ := h.join(t, "kitchen", "198.51.100.1")
	if got := get1(t, c, "http://stt/x"); got != "hello /x\n" {
		t.Fatal(got)
	}
	h.stop()
	// Long enough for the spoke to have noticed and to be in its retries.
	down := c.observe("").tx
	until(t, "the spoke's attempts", func() bool { return c.observe("").tx != down })
	h.start()
	back := time.Now()
	until(t, "an answer", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		conn, err := c.Dial(ctx, "tcp", "stt:80")
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	took := time.Since(back)
	t.Logf("back after %v", took)
	if took > 3*time.Second {
		t.Errorf("back after %v, want at most 2 s (3 s on a busy machine)", took)
	}
}

// TestW14_ClockBehindForReal: the hub has seen a later timestamp from this key
// than the spoke's clock can make. The knock makes the hub call.
func TestW14_ClockBehindForReal(t *testing.T) {
	h := newMiniHub(t)
	cfg := h.config(t, "198.51.100.1")
	if _, err := Join(t.Context(), h.invite("kitchen"), cfg); err != nil {
		t.Fatal(err)
	}
	// The wire eats the spoke's initiations: for the spoke that is the same as
	// a hub that refuses them for their timestamp.
	h.net.Filter(func(d udptest.Datagram) bool { return d.To != hubAt || d.Data[0] != 1 })
	c := open(t, cfg)
	if got := get1(t, c, "http://stt/x"); got != "hello /x\n" {
		t.Error(got)
	}
	if !slices.Contains(h.called(), "knock") {
		t.Error("connected without a knock")
	}
}

func TestNetworkChange(t *testing.T) {
	h := newMiniHub(t)
	c, _ := h.join(t, "kitchen", "198.51.100.1")
	get1(t, c, "http://stt/x")
	from := netip.AddrPortFrom(c.cfg.Listen.Addr(), c.stack.Port())
	to := netip.MustParseAddrPort("203.0.113.9:4000")
	if err := h.net.Move(from, to); err != nil {
		t.Fatal(err)
	}
	if got := get1(t, c, "http://stt/y"); got != "hello /y\n" {
		t.Error(got)
	}
}

func TestLeave(t *testing.T) {
	h := newMiniHub(t)
	cfg := h.config(t, "198.51.100.1")
	if _, err := Join(t.Context(), h.invite("kitchen"), cfg); err != nil {
		t.Fatal(err)
	}
	c, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Leave(ctx); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, ErrLeft) {
		t.Errorf("Run: %v, want ErrLeft", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrNotJoined) {
		t.Errorf("after leaving: %v, want ErrNotJoined", err)
	}
	if !slices.Contains(h.called(), "leave kitchen") {
		t.Error("the hub was not told")
	}
	if _, err := Join(t.Context(), h.invite("pantry"), cfg); err != nil {
		t.Errorf("joining again after leaving: %v", err)
	}
}

func TestJoinErrors(t *testing.T) {
	h := newMiniHub(t)
	code := h.invite("kitchen")
	cfg := h.config(t, "198.51.100.1")
	if _, err := Join(t.Context(), code[:50], cfg); err == nil || !strings.Contains(err.Error(), "copy it again") {
		t.Errorf("half a code: %v", err)
	}
	if _, err := os.Stat(cfg.Dir + "/vault.key"); err == nil {
		t.Error("a bad code left a vault")
	}
	if _, err := Join(t.Context(), code, cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := Join(t.Context(), h.invite("other"), cfg); !errors.Is(err, ErrJoined) {
		t.Errorf("joining twice: %v, want ErrJoined", err)
	}
	if _, err := Join(t.Context(), code, h.config(t, "198.51.100.2")); !errors.Is(err, invite.ErrRefused) {
		t.Errorf("a used code on another machine: %v, want ErrRefused", err)
	}
	if _, err := Open(t.Context(), Config{Dir: t.TempDir()}); !errors.Is(err, ErrNotJoined) {
		t.Errorf("opening an empty directory: %v, want ErrNotJoined", err)
	}
}

// TestE03_JoinInterrupted: the hub did what was asked and the machine died before
// it could store the answer. The same code works again, for the same key.
func TestE03_JoinInterrupted(t *testing.T) {
	h := newMiniHub(t)
	code := h.invite("kitchen")
	cfg := h.config(t, "198.51.100.1")
	first, err := Join(t.Context(), code, cfg)
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(v.Delete(keyReply), v.Close()); err != nil {
		t.Fatal(err)
	}
	second, err := Join(t.Context(), code, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if first.V4 != second.V4 || first.PublicKey != second.PublicKey {
		t.Errorf("joined as %+v, then as %+v", first, second)
	}
}

// TestJoinTriesEveryAddress: the endpoint's name has three addresses, and the hub
// is at the last one.
func TestJoinTriesEveryAddress(t *testing.T) {
	h := newMiniHub(t)
	c, err := invite.Parse(h.invite("kitchen"))
	if err != nil {
		t.Fatal(err)
	}
	c.Endpoint = "hub.example.org:51820"
	cfg := h.config(t, "198.51.100.1")
	cfg.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != "hub.example.org" {
			return nil, errors.New("no such host")
		}
		return []netip.Addr{netip.MustParseAddr("192.0.2.77"), hubAt.Addr()}, nil
	}
	if _, err := Join(t.Context(), c.Reveal(), cfg); err != nil {
		t.Fatal(err)
	}
	cfg.Resolve = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no network") }
	if _, err := Join(t.Context(), c.Reveal(), Config{Dir: t.TempDir(), Resolve: cfg.Resolve}); err == nil {
		t.Error("joined without an address")
	}
}

func TestServeToOtherSpoke(t *testing.T) {
	h := newMiniHub(t)
	local, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "the model\n") })}
	go func() { _ = srv.Serve(local) }()
	defer srv.Close()
	gpu, _ := h.join(t, "gpu", "198.51.100.1")
	offer, err := ParseOffer("llm:8080=" + local.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- gpu.Serve(ctx, offer) }()
	until(t, "the offer", func() bool { return slices.Contains(gpu.Status().Serves, "llm") })
	h.setPolicy(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["svc:llm:8080"]}]}`)
	laptop, _ := h.join(t, "laptop", "198.51.100.2")
	if got := get1(t, laptop, "http://llm.warren.internal:8080/"); got != "the model\n" {
		t.Error(got)
	}
	if _, err := laptop.Dial(t.Context(), "tcp", "llm:22"); !errors.Is(err, ErrPolicy) {
		t.Errorf("another port of the name: %v, want ErrPolicy", err)
	}
	if _, err := laptop.Dial(t.Context(), "tcp", "gpu:8080"); !errors.Is(err, ErrNoName) {
		t.Errorf("the machine behind the name: %v, want ErrNoName", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	taken := Offer{Name: "stt", Port: 81, Target: "127.0.0.1:1"}
	if err := gpu.Serve(t.Context(), taken); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("a taken name: %v", err)
	}
}

func TestParseOffer(t *testing.T) {
	if o, err := ParseOffer("llm=127.0.0.1:8080"); err != nil || o != (Offer{"llm", 8080, "127.0.0.1:8080"}) {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range []string{"", "llm", "llm=", "llm=8080", "llm=127.0.0.1", "LLM=127.0.0.1:80", "l m=127.0.0.1:80",
		"llm:0=127.0.0.1:80", "llm=127.0.0.1:0", "llm=:80", "llm=127.0.0.1:65536", "llm:x=127.0.0.1:1"} {
		if o, err := ParseOffer(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, o)
		}
	}
}

func TestControlSocket(t *testing.T) {
	h := newMiniHub(t)
	c, cfg := h.join(t, "kitchen", "198.51.100.1")
	if _, err := Attach(cfg.Dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("before Control: %v, want ErrNotRunning", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Control(ctx) }()
	var r *Remote
	until(t, "the socket", func() (ok bool) { r2, err := Attach(cfg.Dir); r = r2; return err == nil })
	defer r.Close()
	if info, err := os.Stat(cfg.Dir + "/spoke.sock"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode: %v, %v", info.Mode(), err)
	}
	if s, err := r.Status(t.Context()); err != nil || s.Name != "kitchen" || !s.Connected {
		t.Errorf("status: %+v, %v", s, err)
	}
	if _, addr, err := r.Ping(t.Context(), "stt"); err != nil || addr != v4(10) {
		t.Errorf("ping: %v, %v", addr, err)
	}
	if _, _, err := r.Ping(t.Context(), "example.org"); !errors.Is(err, ErrNotMesh) {
		t.Errorf("ping outside: %v", err)
	}
	hc := &http.Client{Transport: &http.Transport{DialContext: r.Dial}}
	defer hc.CloseIdleConnections()
	resp, err := hc.Get("http://stt/z")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != "hello /z\n" {
		t.Errorf("through the socket: %q, %v", body, err)
	}
	if _, err := r.Dial(t.Context(), "tcp", "10.77.0.4:80"); !errors.Is(err, ErrPolicy) || !strings.Contains(err.Error(), "ask the admin") {
		t.Errorf("refused: %v", err)
	}
	if _, err := r.Dial(t.Context(), "tcp", "127.0.0.1:22"); !errors.Is(err, ErrNotMesh) {
		t.Errorf("outside: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Control: %v", err)
	}
}
