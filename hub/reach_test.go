package hub_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/spoke"
)

// stranger is a machine on the mesh whose own end holds nothing back.
func stranger(t *testing.T, m *hubtest.Mesh, name string, spec control.PeerSpec) *hubtest.Stranger {
	t.Helper()
	key := newKey(t)
	spec.Name = name
	reply, err := m.Hub.Phone(t.Context(), "test", control.PhoneRequest{PeerSpec: spec, PublicKey: key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	psk, err := peer.ParsePresharedKey(reply.PSK)
	if err != nil {
		t.Fatal(err)
	}
	return m.Stranger(key, psk, reply.Peer.V4, reply.Peer.V6)
}

// TestS05_NoWayToTheHost: under a policy that allows everything, a machine
// tries the port of a server on the hub's own machine, on every address of the
// hub, through every form of loopback and of the host's own addresses. The
// server hears of none of it.
func TestS05_NoWayToTheHost(t *testing.T) {
	var heard atomic.Int64
	secret, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	go func() {
		for {
			c, err := secret.Accept()
			if err != nil {
				return
			}
			heard.Add(1)
			c.Close()
		}
	}()
	port := uint16(secret.Addr().(*net.TCPAddr).Port)
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	m := hubtest.New(t)
	m.Apply(open)
	publish(t, m, "page", page.URL)
	s := stranger(t, m, "phone", control.PeerSpec{Owner: "ann"})
	var list []netip.Addr
	for i := uint32(1); i < 64; i++ {
		v4, v6 := m.At(i)
		list = append(list, v4, v6)
	}
	for _, a := range []string{"127.0.0.1", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "169.254.169.254", "64:ff9b::7f00:1",
		"2002:7f00:1::", "fe80::1", "255.255.255.255", "224.0.0.1", "10.77.255.255", "10.77.0.0", m.Endpoint.Addr().String()} {
		list = append(list, netip.MustParseAddr(a))
	}
	for _, a := range list {
		if err := dial(t, s, "tcp", netip.AddrPortFrom(a, port)); err == nil {
			t.Errorf("%v:%d answers", a, port)
		}
	}
	if n := heard.Load(); n != 0 {
		t.Errorf("the server on the host was reached %d times", n)
	}
	// The falsifier's falsifier: what is published is reached.
	v4, _ := m.At(10)
	if err := dial(t, s, "tcp", netip.AddrPortFrom(v4, 80)); err != nil {
		t.Errorf("the published page: %v", err)
	}
}

// TestMeshF35_IdentityCannotBeForged: what a client says about itself is
// replaced by what the tunnel knows.
func TestMeshF35_IdentityCannotBeForged(t *testing.T) {
	seen := make(chan http.Header, 1)
	page := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header }))
	defer page.Close()
	m := hubtest.New(t)
	m.Apply(open)
	publish(t, m, "page", page.URL)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	hubtest.Until(t, "kitchen reaches the page", func() bool { return reaches(t, kitchen, "page.warren.internal:80") })
	req, err := http.NewRequest(http.MethodGet, "http://page.warren.internal/", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{"X-Warren-Peer", "x-warren-user", "X_Warren_Peer", "X-Warren-Tags", "X-WARREN-ADMIN", "X-Forwarded-For", "Forwarded"} {
		req.Header[h] = []string{"eve"}
	}
	resp, err := kitchen.HTTPClient().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	h := <-seen
	if h.Get("X-Warren-Peer") != "kitchen" || h.Get("X-Warren-User") != "ann" || h.Get("X-Warren-Household") != "home" {
		t.Errorf("the page is told %v", h)
	}
	for k, v := range h {
		if strings.Contains(strings.Join(v, " "), "eve") {
			t.Errorf("a forged %s reaches the page", k)
		}
	}
}

// TestUnpublishCuts: a name that is taken away stops answering at once.
func TestUnpublishCuts(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	m := hubtest.New(t)
	m.Apply(open)
	if _, err := m.Hub.Publish(t.Context(), "test", control.PublishRequest{Name: "echo", Target: "tcp://" + echo.Addr().String(), Port: 7}); err != nil {
		t.Fatal(err)
	}
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	c := connect(t, kitchen, "echo.warren.internal:7")
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Hub.Unpublish(t.Context(), "test", "echo"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err == nil {
		t.Error("the connection lives on")
	}
	if reaches(t, kitchen, net.JoinHostPort("10.77.0.10", strconv.Itoa(7))) {
		t.Error("the address still answers")
	}
}

// connect dials until the name is known.
func connect(t *testing.T, c *spoke.Client, addr string) net.Conn {
	t.Helper()
	var conn net.Conn
	hubtest.Until(t, addr+" answers", func() bool {
		var err error
		conn, err = c.Dial(t.Context(), "tcp", addr)
		return err == nil
	})
	return conn
}

// TestMeshC15_RemovedPeer: a machine that was removed is gone from the next
// packet on, its connections are reset, and its address is nobody's.
func TestMeshC15_RemovedPeer(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	}))
	defer page.Close()
	m := hubtest.New(t)
	m.Apply(open)
	publish(t, m, "page", page.URL)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	c := connect(t, kitchen, "page.warren.internal:80")
	defer c.Close()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: page.warren.internal\r\n\r\n")
	if _, err := io.ReadFull(c, make([]byte, 1<<16)); err != nil {
		t.Fatal(err)
	}
	change, err := m.Hub.EditPeer(t.Context(), "test", control.PeerEdit{Name: "kitchen", Remove: true})
	if err != nil {
		t.Fatal(err)
	}
	if change.Cut == 0 {
		t.Error("nothing was cut")
	}
	// Nothing new arrives: the hub has no session with it any more.
	hall := m.Join("hall", control.PeerSpec{Owner: "bob"})
	if hall.Membership().V4 == kitchen.Membership().V4 {
		t.Error("the address is somebody else's already")
	}
	if reaches(t, kitchen, "10.77.0.10:80") {
		t.Error("a removed machine still reaches the page")
	}
}

// TestQuarantine: a quarantined machine reaches nothing and comes back with
// its name and addresses.
func TestQuarantine(t *testing.T) {
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	m := hubtest.New(t)
	m.Apply(open)
	publish(t, m, "page", page.URL)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	hubtest.Until(t, "kitchen reaches the page", func() bool { return reaches(t, kitchen, "page.warren.internal:80") })
	edit := func(e control.PeerEdit) {
		t.Helper()
		e.Name = "kitchen"
		if _, err := m.Hub.EditPeer(t.Context(), "test", e); err != nil {
			t.Fatal(err)
		}
	}
	edit(control.PeerEdit{Quarantine: true})
	if reaches(t, kitchen, "10.77.0.10:80") || reaches(t, kitchen, "10.77.0.3:80") {
		t.Error("a quarantined machine reaches something")
	}
	edit(control.PeerEdit{Release: true})
	hubtest.Until(t, "kitchen is back", func() bool { return reaches(t, kitchen, "page.warren.internal:80") })
}

// TestT01_NamesOfOthers: one household's machines do not resolve for another,
// and are not on the console that another is shown.
func TestT01_NamesOfOthers(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	bob := m.Join("hall", control.PeerSpec{Owner: "bob"})
	eve := m.Join("eve", control.PeerSpec{Owner: "eve"})
	ask := func(c *spoke.Client) bool {
		conn := connect(t, c, "10.77.0.53:53")
		defer conn.Close()
		q := new(dns.Msg).SetQuestion("kitchen.warren.internal.", dns.TypeA)
		r, _, err := (&dns.Client{Net: "tcp"}).ExchangeWithConn(q, &dns.Conn{Conn: conn})
		if err != nil {
			t.Fatal(err)
		}
		return len(r.Answer) > 0
	}
	if !ask(bob) {
		t.Error("the name does not resolve in its own household")
	}
	if ask(eve) {
		t.Error("the name resolves in another household")
	}
	if page := get(t, eve, "http://console.warren.internal/api/status"); strings.Contains(page, "kitchen") {
		t.Errorf("the console shows another household's machine: %s", page)
	}
}

// TestLeave: a machine that says farewell hears the answer, and is gone.
func TestLeave(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	key := kitchen.Membership().PublicKey
	if err := kitchen.Leave(t.Context()); err != nil {
		t.Errorf("leaving: %v", err)
	}
	hubtest.Until(t, "the hub has forgotten the machine", func() bool {
		return !slices.ContainsFunc(m.Hub.Peers(), func(p control.PeerInfo) bool { return p.PublicKey == key })
	})
	audit, err := m.Hub.Audit(t.Context(), 0, 10)
	if err != nil || !slices.ContainsFunc(audit.Rows, func(r control.AuditRow) bool { return r.Action == "peer.leave" }) {
		t.Errorf("the farewell is not on record: %v", err)
	}
}
