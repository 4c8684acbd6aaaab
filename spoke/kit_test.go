package spoke

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	gosync "sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/netstack"
	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/netstack/udp/udptest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
	"github.com/warrenmesh/warren/services/sync"
)

// patience bounds hangs; nothing is asserted about how much of it is used.
const patience = 20 * time.Second

var (
	net4  = netip.MustParsePrefix("10.77.0.0/16")
	net6  = netip.MustParsePrefix("fd77:1:2:3::/64")
	hubAt = netip.MustParseAddrPort("192.0.2.1:51820")
)

// at returns the addresses of a place in the address plan.
func at(i int) (netip.Addr, netip.Addr) {
	v4, v6 := net4.Addr().As4(), net6.Addr().As16()
	v4[2], v4[3], v6[14], v6[15] = byte(i>>8), byte(i), byte(i>>8), byte(i)
	return netip.AddrFrom4(v4), netip.AddrFrom16(v6)
}

func v4(i int) netip.Addr { a, _ := at(i); return a }

// miniHub is what a spoke needs of a hub: a forwarding tunnel, enrolment and
// sync, and one service, "stt", that greets on TCP 80 and echoes on UDP 7. The
// rest of a hub is tested where it is.
type miniHub struct {
	t     testing.TB
	net   *udptest.Network
	key   peer.PrivateKey
	ident *invite.Identity

	mu       gosync.Mutex
	peers    []peer.Peer
	psks     map[peer.PublicKey]peer.PresharedKey
	used     map[peer.ID]peer.PublicKey
	names    map[peer.ID]string
	services []acl.Service
	policy   string
	changed  chan struct{}
	epoch    uint64
	stack    *netstack.Stack
	gate     *acl.Gate
	stop     func()
	calls    []string // what spokes asked of sync, but Self
}

func newMiniHub(t testing.TB) *miniHub {
	t.Helper()
	h := &miniHub{t: t, net: udptest.New(t), key: newKey(t), changed: make(chan struct{}),
		psks: map[peer.PublicKey]peer.PresharedKey{}, used: map[peer.ID]peer.PublicKey{}, names: map[peer.ID]string{},
		policy: `{"acls": [{"action": "accept", "src": ["*"], "dst": ["svc:stt:*", "svc:dns:*"]}]}`,
	}
	var err error
	if h.ident, err = invite.NewIdentity(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		name  string
		index int
		ports []acl.Port
	}{
		{"enrol", 2, []acl.Port{{Proto: acl.ProtoTCP, First: 443, Last: 443}}},
		{"sync", 3, []acl.Port{{Proto: acl.ProtoTCP, First: 80, Last: 80}}},
		{"dns", 53, []acl.Port{{Proto: acl.ProtoUDP, First: 53, Last: 53}}},
		{"stt", 10, []acl.Port{{Proto: acl.ProtoTCP, First: 80, Last: 80}, {Proto: acl.ProtoUDP, First: 7, Last: 7}, {Proto: acl.ProtoICMP}}},
		{"console", 4, []acl.Port{{Proto: acl.ProtoTCP, First: 80, Last: 80}}},
	} {
		v4, v6 := at(s.index)
		h.services = append(h.services, acl.Service{Name: s.name, V4: v4, V6: v6, Ports: s.ports})
	}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func newKey(t testing.TB) peer.PrivateKey {
	t.Helper()
	k, err := peer.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// start brings the hub up, as a new process would: sessions are not kept.
func (h *miniHub) start() {
	h.t.Helper()
	h.gate = acl.NewGate(acl.GateConfig{})
	var own []netip.Addr
	for _, s := range h.services {
		own = append(own, s.V4, s.V6)
	}
	bind := h.net.Config(hubAt)
	bind.Key = h.key.Public()
	bind.Knocks = &udp.Knocks{Hub: h.key, Lookup: h.lookup, OnKnock: h.knocked}
	stack, err := netstack.Open(netstack.Config{
		Key: h.key, Listen: hubAt, V4: net4, V6: net6, Addresses: own, Forward: true, Gate: h.gate, Bind: udp.New(bind),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.stack = stack
	h.apply()
	var wg gosync.WaitGroup
	var closers []io.Closer
	serve := func(index int, port uint16, srv *http.Server, secure bool) {
		ln, err := stack.Listen(netip.AddrPortFrom(v4(index), port))
		if err != nil {
			h.t.Fatal(err)
		}
		closers = append(closers, srv)
		wg.Go(func() {
			if secure {
				_ = srv.ServeTLS(ln, "", "")
				return
			}
			_ = srv.Serve(ln)
		})
	}
	serve(2, 443, &http.Server{Handler: invite.Handler(h.key, h, nil), TLSConfig: h.ident.TLSConfig(), ConnContext: h.caller, ErrorLog: quiet()}, true)
	serve(3, 80, &http.Server{Handler: sync.Handler(h, nil), ConnContext: h.caller, ErrorLog: quiet()}, false)
	greet := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s\n", r.URL.Path) })
	serve(10, 80, &http.Server{Handler: greet}, false)
	echo, err := stack.ListenPacket(netip.AddrPortFrom(v4(10), 7))
	if err != nil {
		h.t.Fatal(err)
	}
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			if _, err := echo.WriteTo(buf[:n], from); err != nil {
				h.t.Log("echo", err)
			}
		}
	})
	h.stop = gosync.OnceFunc(func() {
		for _, c := range closers {
			_ = c.Close()
		}
		_ = stack.Close()
		wg.Wait()
	})
}

// Certificate is not what these tests are about; hub's are.
func (h *miniHub) Certificate(context.Context, peer.Peer, sync.CertificateRequest) (sync.CertificateReply, error) {
	return sync.CertificateReply{}, sync.Forbidden("This hub vouches for nobody.")
}

func quiet() *log.Logger { return slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug) }

func (h *miniHub) caller(ctx context.Context, c net.Conn) context.Context {
	h.mu.Lock()
	defer h.mu.Unlock()
	from := netip.MustParseAddrPort(c.RemoteAddr().String()).Addr()
	for _, p := range h.peers {
		if p.Has(from) {
			return peer.NewContext(ctx, p)
		}
	}
	return ctx
}

func (h *miniHub) lookup(key peer.PublicKey) (peer.PresharedKey, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	psk, ok := h.psks[key]
	return psk, ok
}

func (h *miniHub) knocked(key peer.PublicKey, from conn.Endpoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, "knock")
	h.set(key, netip.MustParseAddrPort(from.DstToString()))
	if err := h.stack.Handshake(key); err != nil {
		h.t.Error(err)
	}
}

// apply compiles policy and peers into the running hub and wakes who waits.
func (h *miniHub) apply() {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stack.SetFilter(h.compile())
	h.set(peer.PublicKey{}, netip.AddrPort{})
	h.epoch++
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *miniHub) compile() *acl.Filter {
	p, err := acl.Parse([]byte(h.policy))
	if err != nil {
		h.t.Fatal(err)
	}
	f, err := acl.Compile(p, &acl.World{V4: net4, V6: net6, Peers: h.peers, Services: h.services})
	if err != nil {
		h.t.Fatal(err)
	}
	return f
}

// set gives the device its peers, key at an endpoint.
func (h *miniHub) set(key peer.PublicKey, ep netip.AddrPort) {
	var list []netstack.PeerConfig
	for _, p := range h.peers {
		c := netstack.PeerConfig{Key: p.PublicKey, PSK: h.psks[p.PublicKey], Addresses: []netip.Addr{p.V4, p.V6}}
		for _, s := range h.services {
			if s.Host == p.ID {
				c.Addresses = append(c.Addresses, s.V4, s.V6)
			}
		}
		if p.PublicKey == key {
			c.Endpoint = ep
		}
		list = append(list, c)
	}
	if err := h.stack.SetPeers(context.Background(), list); err != nil {
		h.t.Error(err)
	}
}

// setPolicy changes the policy as an admin would.
func (h *miniHub) setPolicy(text string) {
	h.mu.Lock()
	h.policy = text
	h.mu.Unlock()
	h.apply()
}

// remove takes a peer off the mesh.
func (h *miniHub) remove(id peer.ID) {
	h.mu.Lock()
	h.peers = slices.DeleteFunc(h.peers, func(p peer.Peer) bool {
		if p.ID == id {
			delete(h.psks, p.PublicKey)
		}
		return p.ID == id
	})
	h.mu.Unlock()
	h.apply()
}

// invite makes a code for a machine of that name.
func (h *miniHub) invite(name string) string {
	h.t.Helper()
	h.mu.Lock()
	n := len(h.names)
	h.mu.Unlock()
	key := newKey(h.t)
	psk, err := peer.NewPresharedKey()
	if err != nil {
		h.t.Fatal(err)
	}
	a, b := at(65023 + n)
	e4, e6 := at(2)
	code := invite.Code{Endpoint: hubAt.String(), Hub: h.key.Public(), Key: key, PSK: psk, V4: a, V6: b, EnrolV4: e4, EnrolV6: e6,
		Pin: h.ident.Pin(), Expires: time.Now().Add(time.Hour), ID: fmt.Sprintf("inv-%d", n)}
	h.mu.Lock()
	h.names[peer.ID(code.ID)] = name
	h.psks[key.Public()] = psk
	h.peers = append(h.peers, peer.Peer{ID: peer.ID(code.ID), Name: code.ID, Kind: peer.KindInvite, PublicKey: key.Public(), V4: a, V6: b})
	h.mu.Unlock()
	h.apply()
	return code.Reveal()
}

// Enrol implements invite.Registry.
func (h *miniHub) Enrol(_ context.Context, inv peer.Peer, req invite.Request) (invite.Reply, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	name := h.names[inv.ID]
	if by, ok := h.used[inv.ID]; ok && by != req.PublicKey || name == "" {
		return invite.Reply{}, invite.ErrRefused
	}
	i := slices.IndexFunc(h.peers, func(p peer.Peer) bool { return p.PublicKey == req.PublicKey })
	if i < 0 {
		psk, err := peer.NewPresharedKey()
		if err != nil {
			return invite.Reply{}, err
		}
		h.psks[req.PublicKey] = psk
		a, b := at(256 + len(h.peers))
		i = len(h.peers)
		h.peers = append(h.peers, peer.Peer{ID: peer.ID("p-" + name), Name: name, Kind: peer.KindSpoke, Owner: "ann",
			PublicKey: req.PublicKey, V4: a, V6: b})
	}
	h.used[inv.ID] = req.PublicKey
	p := h.peers[i]
	d4, d6 := at(53)
	go h.apply()
	return invite.Reply{ID: p.ID, Name: p.Name, V4: p.V4, V6: p.V6, PSK: h.psks[req.PublicKey], Hub: h.key.Public(),
		Endpoint: hubAt.String(), NetV4: net4, NetV6: net6, Domain: "warren.internal", DNS: []netip.Addr{d4, d6},
		Sync: netip.AddrPortFrom(v4(3), 80), MTU: 1280, Owner: p.Owner, Kind: p.Kind}, nil
}

// Self, Serve, Unserve and Leave implement sync.Source.
func (h *miniHub) Self(_ context.Context, p peer.Peer) (sync.Self, <-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.peers, func(q peer.Peer) bool { return q.ID == p.ID })
	if i < 0 {
		return sync.Self{}, nil, sync.Forbidden("This machine is not an active peer of the mesh.")
	}
	f := h.compile()
	slice, err := json.Marshal(f.Slice(p.ID))
	if err != nil {
		return sync.Self{}, nil, err
	}
	d4, d6 := at(53)
	self := sync.Self{Peer: h.peers[i], Domain: "warren.internal", Endpoint: hubAt.String(), DNS: []netip.Addr{d4, d6},
		Network: []netip.Prefix{net4, net6}, MTU: 1280, Epoch: h.epoch, Slice: slice, Serves: []string{}, Names: map[string][]netip.Addr{}}
	for _, s := range h.services {
		if f.Reaches(p.V4, s.V4) || s.Host == p.ID {
			self.Names[s.Name] = []netip.Addr{s.V4, s.V6}
		}
		if s.Host == p.ID {
			self.Serves = append(self.Serves, s.Name)
		}
	}
	for _, q := range h.peers {
		if q.ID == p.ID || f.Reaches(p.V4, q.V4) {
			self.Names[q.Name] = []netip.Addr{q.V4, q.V6}
		}
	}
	return self, h.changed, nil
}

func (h *miniHub) Serve(_ context.Context, p peer.Peer, r sync.ServeRequest) (sync.ServeReply, error) {
	h.mu.Lock()
	h.calls = append(h.calls, "serve "+r.Name)
	if r.Name == "stt" {
		h.mu.Unlock()
		return sync.ServeReply{}, sync.Conflict("The name \"stt\" is taken; choose another.")
	}
	if !slices.ContainsFunc(h.services, func(s acl.Service) bool { return s.Name == r.Name }) {
		a, b := at(100 + len(h.services))
		h.services = append(h.services, acl.Service{Name: r.Name, V4: a, V6: b, Host: p.ID,
			Ports: []acl.Port{{Proto: acl.ProtoTCP, First: r.Port, Last: r.Port}}})
	}
	h.mu.Unlock()
	h.apply()
	return sync.ServeReply{Name: r.Name, FQDN: r.Name + ".warren.internal"}, nil
}

func (h *miniHub) Unserve(context.Context, peer.Peer, string) error { return nil }

func (h *miniHub) Leave(_ context.Context, p peer.Peer) error {
	h.mu.Lock()
	h.calls = append(h.calls, "leave "+p.Name)
	h.mu.Unlock()
	go h.remove(p.ID)
	return nil
}

// called reports what was asked so far.
func (h *miniHub) called() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

// config is a spoke's, on a host of its own on the test network.
func (h *miniHub) config(t testing.TB, host string) Config {
	return Config{Dir: t.TempDir(), Listen: netip.AddrPortFrom(netip.MustParseAddr(host), 0), Outer: h.net.Listen, Size: Small, Logger: testLogger(t)}
}

// join makes a running client on the mesh.
func (h *miniHub) join(t testing.TB, name, host string) (*Client, Config) {
	t.Helper()
	cfg := h.config(t, host)
	if _, err := Join(t.Context(), h.invite(name), cfg); err != nil {
		t.Fatal(err)
	}
	return open(t, cfg), cfg
}

// open opens and runs a client until the test ends.
func open(t testing.TB, cfg Config) *Client {
	t.Helper()
	c, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	run(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

func run(t testing.TB, c *Client) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for: %s", patience, what)
		}
	}
}

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
