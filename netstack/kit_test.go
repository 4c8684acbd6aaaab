package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/netstack/udp/udptest"
	"github.com/warrenmesh/warren/peer"
)

var (
	net4 = netip.MustParsePrefix("10.77.0.0/16")
	net6 = netip.MustParsePrefix("fd77:1:2:3::/64")
)

// allowAll lets every machine reach every other.
const allowAll = `{"acls":[{"action":"accept","src":["*"],"dst":["*:*"]}]}`

func addr4(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)})
}

func addr6(i int) netip.Addr {
	b := net6.Addr().As16()
	binary.BigEndian.PutUint16(b[14:], uint16(i))
	return netip.AddrFrom16(b)
}

// allPorts is what a machine's own address offers in tests.
var allPorts = []acl.Port{
	{Proto: acl.ProtoTCP, First: 1, Last: 65535}, {Proto: acl.ProtoUDP, First: 1, Last: 65535},
}

// filter compiles policy for the machine at index self in a mesh of the
// machines at the other indexes. They are called m1, m2 … by their index; its
// own address is svc:self.
func filter(t testing.TB, policy string, self int, others ...int) *acl.Filter {
	t.Helper()
	w := &acl.World{V4: net4, V6: net6, Services: []acl.Service{{
		Name: "self", V4: addr4(self), V6: addr6(self), Ports: allPorts,
	}}}
	for _, i := range others {
		key, err := peer.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		w.Peers = append(w.Peers, peer.Peer{
			ID: peer.ID(fmt.Sprint(i)), Name: fmt.Sprintf("m%d", i), PublicKey: key.Public(),
			V4: addr4(i), V6: addr6(i), Kind: peer.KindSpoke,
		})
	}
	p, err := acl.Parse([]byte(policy))
	if err != nil {
		t.Fatalf("parsing policy: %v", err)
	}
	f, err := acl.Compile(p, w)
	if err != nil {
		t.Fatalf("compiling policy: %v", err)
	}
	return f
}

// node is one machine of a test mesh.
type node struct {
	*Stack
	key   peer.PrivateKey
	index int
	psk   peer.PresharedKey
}

func (n *node) v4() netip.Addr { return addr4(n.index) }
func (n *node) v6() netip.Addr { return addr6(n.index) }

// mesh is a hub and its spokes, all in this process.
type mesh struct {
	t      testing.TB
	net    *udptest.Network // nil: loopback UDP
	hub    *node
	spokes []*node
}

const hubIndex = 10

// options change how a mesh is opened.
type options struct {
	loopback bool // real UDP sockets
	small    bool
	policy   string
	logger   *slog.Logger
	change   func(*Config)
}

// newMesh opens a hub and n spokes that know each other. Every node starts with
// allowAll unless the options say otherwise for the hub.
func newMesh(t testing.TB, n int, o options) *mesh {
	t.Helper()
	m := &mesh{t: t}
	if !o.loopback {
		m.net = udptest.New(t)
	}
	m.hub = m.open(hubIndex, true, o)
	indexes := make([]int, n)
	for i := range n {
		indexes[i] = 257 + i
		m.spokes = append(m.spokes, m.open(indexes[i], false, o))
	}
	policy := o.policy
	if policy == "" {
		policy = allowAll
	}
	m.hub.SetFilter(filter(t, policy, hubIndex, indexes...))
	peers := make([]PeerConfig, n)
	for i, s := range m.spokes {
		peers[i] = m.peerOf(s)
		if err := s.SetPeers(context.Background(), []PeerConfig{m.hubFor(s)}); err != nil {
			t.Fatal(err)
		}
		s.SetFilter(filter(t, allowAll, s.index, others(s.index, append(indexes, hubIndex))...))
	}
	if err := m.hub.SetPeers(context.Background(), peers); err != nil {
		t.Fatal(err)
	}
	return m
}

func others(self int, all []int) []int {
	var out []int
	for _, i := range all {
		if i != self {
			out = append(out, i)
		}
	}
	return out
}

func (m *mesh) outer(index int) netip.AddrPort {
	if m.net == nil {
		return netip.MustParseAddrPort("127.0.0.1:0")
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(index >> 8), byte(index)}), 51820)
}

func (m *mesh) open(index int, forward bool, o options) *node {
	m.t.Helper()
	key, err := peer.NewPrivateKey()
	if err != nil {
		m.t.Fatal(err)
	}
	psk, err := peer.NewPresharedKey()
	if err != nil {
		m.t.Fatal(err)
	}
	c := Config{
		Key: key, V4: net4, V6: net6, Addresses: []netip.Addr{addr4(index), addr6(index)},
		Forward: forward, Small: o.small, Gate: acl.NewGate(acl.GateConfig{Small: o.small}),
		Listen: m.outer(index), Logger: o.logger,
	}
	if m.net != nil {
		c.Bind = m.bind(index, o.small)
	}
	if o.change != nil {
		o.change(&c)
	}
	s, err := Open(c)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = s.Close() })
	return &node{Stack: s, key: key, index: index, psk: psk}
}

func (m *mesh) bind(index int, small bool) conn.Bind {
	c := m.net.Config(m.outer(index))
	c.Small = small
	return udpNew(c)
}

// peerOf is what the hub is told about a spoke.
func (m *mesh) peerOf(s *node) PeerConfig {
	return PeerConfig{
		Key: s.key.Public(), PSK: s.psk, Addresses: []netip.Addr{s.v4(), s.v6()},
		Endpoint: netip.AddrPortFrom(m.outer(s.index).Addr(), s.Port()),
	}
}

// hubFor is what a spoke is told about the hub.
func (m *mesh) hubFor(s *node) PeerConfig {
	at := m.outer(hubIndex)
	return PeerConfig{
		Key: m.hub.key.Public(), PSK: s.psk, Routes: []netip.Prefix{net4, net6},
		Endpoint: netip.AddrPortFrom(at.Addr(), m.hub.Port()),
	}
}

// setPolicy puts policy in force on the hub.
func (m *mesh) setPolicy(policy string) Cut {
	m.t.Helper()
	indexes := make([]int, len(m.spokes))
	for i, s := range m.spokes {
		indexes[i] = s.index
	}
	return m.hub.SetFilter(filter(m.t, policy, hubIndex, indexes...))
}

// dial connects or fails the test.
func (n *node) dial(t testing.TB, network string, to netip.AddrPort) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := n.Dial(ctx, network, netip.Addr{}, to)
	if err != nil {
		t.Fatalf("dialling %v: %v", to, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (n *node) listen(t testing.TB, at netip.AddrPort) net.Listener {
	t.Helper()
	l, err := n.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// serveEcho answers every connection with what it is sent.
func (n *node) serveEcho(t testing.TB, at netip.AddrPort) {
	t.Helper()
	l := n.listen(t, at)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// echo sends text and wants it back.
func echo(t testing.TB, c net.Conn, text string) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	defer c.SetDeadline(time.Time{})
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("writing: %v", err)
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatalf("reading: %v", err)
	}
	if !bytes.Equal(b, []byte(text)) {
		t.Fatalf("got %q, want %q", b, text)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// noLeak fails the test if goroutines of this module or of its stacks are left
// when it ends. Register it first.
func noLeak(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		var left string
		deadline := time.Now().Add(10 * time.Second)
		for {
			if left = ours(); left == "" {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("goroutines left behind:\n%s", left)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}

// ours returns the stacks of goroutines that a Stack has started.
func ours() string {
	b := make([]byte, 1<<20)
	b = b[:runtime.Stack(b, true)]
	var out []string
	for i, g := range strings.Split(string(b), "\n\n") {
		if i == 0 || strings.Contains(g, "testing.(*T).Run") || strings.Contains(g, "udptest") {
			continue
		}
		for _, mine := range []string{"warren/netstack.", "golang.zx2c4.com/wireguard/", "gvisor.dev/gvisor/"} {
			if strings.Contains(g, mine) {
				out = append(out, g)
				break
			}
		}
	}
	return strings.Join(out, "\n\n")
}
