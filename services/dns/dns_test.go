package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services"
)

// world is a real DNS server on loopback that stands for everything outside.
type world struct {
	addr      netip.AddrPort
	asked     atomic.Int64
	overTCP   atomic.Int64
	mu        sync.Mutex
	answers   map[string][]string // lower-case name -> records
	questions []string
	hook      func(w dns.ResponseWriter, r *dns.Msg) bool // true: it answered
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{answers: make(map[string][]string)}
	u, l := onePort(t)
	w.addr = u.LocalAddr().(*net.UDPAddr).AddrPort()
	for _, srv := range []*dns.Server{{PacketConn: u, Handler: w}, {Listener: l, Handler: w}} {
		ready := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(ready) }
		done := make(chan error, 1)
		go func() { done <- srv.ActivateAndServe() }()
		<-ready
		t.Cleanup(func() {
			_ = srv.Shutdown()
			<-done
		})
	}
	return w
}

func (w *world) set(name string, records ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[dns.CanonicalName(name)] = records
}

// hooked lets f answer instead, when it returns true.
func (w *world) hooked(f func(w dns.ResponseWriter, r *dns.Msg) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hook = f
}

func (w *world) ServeDNS(rw dns.ResponseWriter, r *dns.Msg) {
	w.asked.Add(1)
	if _, tcp := rw.LocalAddr().(*net.TCPAddr); tcp {
		w.overTCP.Add(1)
	}
	w.mu.Lock()
	hook := w.hook
	records, ok := w.answers[dns.CanonicalName(r.Question[0].Name)]
	w.questions = append(w.questions, r.Question[0].Name)
	w.mu.Unlock()
	if hook != nil && hook(rw, r) {
		return
	}
	m := new(dns.Msg)
	m.SetReply(r)
	soa, _ := dns.NewRR("example. 60 IN SOA ns.example. h.example. 1 2 3 4 60")
	if !ok {
		m.Rcode = dns.RcodeNameError
		m.Ns = append(m.Ns, soa)
	}
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		if rr.Header().Rrtype == r.Question[0].Qtype || rr.Header().Rrtype == dns.TypeCNAME || strings.Contains(text, "; any") {
			m.Answer = append(m.Answer, rr)
		}
	}
	if _, tcp := rw.LocalAddr().(*net.TCPAddr); !tcp {
		m.Truncate(dns.MinMsgSize)
	}
	_ = rw.WriteMsg(m)
}

var (
	overlay4 = netip.MustParsePrefix("10.77.0.0/16")
	overlay6 = netip.MustParsePrefix("fd77:1:2:3::/64")
	kitchen  = peer.Peer{ID: "p1", Name: "kitchen", Kind: peer.KindSpoke, PublicKey: peer.PublicKey{9}, V4: netip.MustParseAddr("127.0.0.1"), V6: netip.MustParseAddr("::1")}
)

func rosterOf(t testing.TB, peers ...peer.Peer) func() *peer.Roster {
	t.Helper()
	r, err := peer.NewRoster(peers)
	if err != nil {
		t.Fatal(err)
	}
	return func() *peer.Roster { return r }
}

func config(t testing.TB, w *world) Config {
	c := Config{Domain: "warren.internal", Networks: []netip.Prefix{overlay4, overlay6}, Roster: rosterOf(t, kitchen), ResolvConf: "/nonexistent"}
	if w != nil {
		c.Upstreams = []netip.AddrPort{w.addr}
	}
	return c
}

func newServer(t testing.TB, c Config) *Server {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	err = s.SetRecords(map[string][]netip.Addr{
		"stt":     {netip.MustParseAddr("10.77.0.10"), netip.MustParseAddr("fd77:1:2:3::a")},
		"kitchen": {netip.MustParseAddr("10.77.1.9"), netip.MustParseAddr("fd77:1:2:3::109")},
		"only4":   {netip.MustParseAddr("10.77.1.10")},
		"a.deep":  {netip.MustParseAddr("10.77.1.11")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// onePort opens a port of loopback that is free for both UDP and TCP: the one that
// the kernel gives for the first may be in use for the second by anybody.
func onePort(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 50 {
		u, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", u.LocalAddr().String())
		if err == nil {
			return u, l
		}
		_ = u.Close()
	}
	t.Fatal("no port is free for UDP and TCP")
	return nil, nil
}

// start serves s on loopback and returns its address.
func start(t testing.TB, s *Server) string {
	t.Helper()
	u, l := onePort(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, services.Listeners{TCP: []net.Listener{l}, UDP: []net.PacketConn{u}}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return u.LocalAddr().String()
}

// ask sends one question to the handler, without a network.
func ask(t testing.TB, s *Server, name string, qtype uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(1232, false)
	return askMsg(t, s, q)
}

func askMsg(t testing.TB, s *Server, q *dns.Msg) *dns.Msg {
	t.Helper()
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	reply := s.handle(t.Context(), kitchen.V4, wire, true)
	if reply == nil {
		return nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil {
		t.Fatalf("reading our own answer: %v", err)
	}
	return m
}

func summary(m *dns.Msg) string {
	if m == nil {
		return "nothing"
	}
	out := dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		f := strings.Fields(rr.String())
		out += " " + strings.Join(f[3:], " ")
	}
	if len(m.Answer) == 0 && len(m.Ns) == 1 && m.Ns[0].Header().Rrtype == dns.TypeSOA {
		out += " soa=" + m.Ns[0].Header().Name
	}
	return out
}

func TestOwnNames(t *testing.T) {
	w := newWorld(t)
	s := newServer(t, config(t, w))
	for _, tt := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"stt.warren.internal", dns.TypeA, "NOERROR A 10.77.0.10"},
		{"STT.Warren.INTERNAL", dns.TypeA, "NOERROR A 10.77.0.10"},
		{"stt.warren.internal", dns.TypeAAAA, "NOERROR AAAA fd77:1:2:3::a"},
		{"only4.warren.internal", dns.TypeAAAA, "NOERROR soa=warren.internal."},
		{"stt.warren.internal", dns.TypeHTTPS, "NOERROR soa=warren.internal."},
		{"stt.warren.internal", dns.TypeTXT, "NOERROR soa=warren.internal."},
		{"stt.warren.internal", dns.TypePTR, "NOERROR soa=warren.internal."},
		{"stt.warren.internal", dns.TypeDS, "NOERROR soa=warren.internal."},
		{"nobody.warren.internal", dns.TypeA, "NXDOMAIN soa=warren.internal."},
		{"x.stt.warren.internal", dns.TypeA, "NXDOMAIN soa=warren.internal."},
		{"deep.warren.internal", dns.TypeA, "NOERROR soa=warren.internal."},
		{"a.deep.warren.internal", dns.TypeA, "NOERROR A 10.77.1.11"},
		{"warren.internal", dns.TypeA, "NOERROR soa=warren.internal."},
		{"warren.internal", dns.TypeNS, "NOERROR NS dns.warren.internal."},
		{"warren.internal", dns.TypeSOA, "NOERROR SOA dns.warren.internal. hostmaster.warren.internal. 2 3600 600 86400 10"},
		{"10.0.77.10.in-addr.arpa", dns.TypePTR, "NOERROR PTR stt.warren.internal."},
		{"99.0.77.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN soa=77.10.in-addr.arpa."},
		{"10.0.77.10.in-addr.arpa", dns.TypeA, "NOERROR soa=77.10.in-addr.arpa."},
		{"0.77.10.in-addr.arpa", dns.TypePTR, "NOERROR soa=77.10.in-addr.arpa."},
		{"9.77.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN soa=77.10.in-addr.arpa."},
		{"77.10.in-addr.arpa", dns.TypeNS, "NOERROR NS dns.warren.internal."},
		{"a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.7.7.d.f.ip6.arpa", dns.TypePTR, "NOERROR PTR stt.warren.internal."},
		{"b.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.7.7.d.f.ip6.arpa", dns.TypePTR, "NXDOMAIN soa=3.0.0.0.2.0.0.0.1.0.0.0.7.7.d.f.ip6.arpa."},
	} {
		m := ask(t, s, tt.name, tt.qtype)
		if got := summary(m); got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.name, dns.Type(tt.qtype), got, tt.want)
		}
		if !m.Authoritative || m.AuthenticatedData || m.Question[0].Name != dns.Fqdn(tt.name) {
			t.Errorf("%s: aa=%v ad=%v question %q", tt.name, m.Authoritative, m.AuthenticatedData, m.Question[0].Name)
		}
	}
	if n := w.asked.Load(); n != 0 {
		t.Errorf("%d questions about own names left the mesh: %q", n, w.questions)
	}
}

// RFC 6303, 6761 and kin: what has no place outside stays inside.
func TestSpecialNames(t *testing.T) {
	w := newWorld(t)
	s := newServer(t, config(t, w))
	for _, tt := range []struct{ name, want string }{
		{"localhost", "NOERROR A 127.0.0.1"},
		{"x.localhost", "NOERROR A 127.0.0.1"},
		{"printer.local", "NXDOMAIN soa=local."},
		{"a.invalid", "NXDOMAIN soa=invalid."},
		{"a.test", "NXDOMAIN soa=test."},
		{"abc.onion", "NXDOMAIN soa=onion."},
		{"metadata.google.internal", "NXDOMAIN soa=internal."},
		{"nas.home.arpa", "NXDOMAIN soa=home.arpa."},
		{"use-application-dns.net", "NXDOMAIN soa=use-application-dns.net."},
		{"router", "NXDOMAIN soa=router."},
		{"1.1.168.192.in-addr.arpa", "NXDOMAIN soa=1.1.168.192.in-addr.arpa."},
		{"1.0.0.127.in-addr.arpa", "NXDOMAIN soa=1.0.0.127.in-addr.arpa."},
		{"1.0.16.172.in-addr.arpa", "NXDOMAIN soa=1.0.16.172.in-addr.arpa."},
		{"1.0.64.100.in-addr.arpa", "NXDOMAIN soa=1.0.64.100.in-addr.arpa."},
		{"254.169.254.169.in-addr.arpa", "NXDOMAIN soa=254.169.254.169.in-addr.arpa."},
		{"10.in-addr.arpa", "NXDOMAIN soa=10.in-addr.arpa."},
		{"d.f.ip6.arpa", "NXDOMAIN soa=d.f.ip6.arpa."},
		{"8.e.f.ip6.arpa", "NXDOMAIN soa=8.e.f.ip6.arpa."},
	} {
		if got := summary(ask(t, s, tt.name, dns.TypeA)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if n := w.asked.Load(); n != 0 {
		t.Errorf("%d questions left: %q", n, w.questions)
	}
	// Public reverse zones are asked for, also those that begin like a private one.
	for _, name := range []string{"8.8.8.8.in-addr.arpa", "172.in-addr.arpa", "1.1.15.172.in-addr.arpa", "192.in-addr.arpa", "2.ip6.arpa", "0.0.a.2.ip6.arpa"} {
		before := w.asked.Load()
		ask(t, s, name, dns.TypePTR)
		if w.asked.Load() == before {
			t.Errorf("%s was not forwarded", name)
		}
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	s := newServer(t, config(t, w))
	for _, tt := range []struct {
		name  string
		qtype uint16
		class uint16
	}{
		{"stt.warren.internal.", dns.TypeANY, dns.ClassINET}, {"example.com.", dns.TypeANY, dns.ClassINET},
		{"warren.internal.", dns.TypeAXFR, dns.ClassINET}, {"warren.internal.", dns.TypeIXFR, dns.ClassINET},
		{"version.bind.", dns.TypeTXT, dns.ClassCHAOS}, {"example.com.", dns.TypeA, dns.ClassANY},
		{"example.com.", dns.TypeMAILB, dns.ClassINET},
	} {
		q := new(dns.Msg)
		q.SetQuestion(tt.name, tt.qtype)
		q.Question[0].Qclass = tt.class
		if m := askMsg(t, s, q); m == nil || m.Rcode != dns.RcodeRefused || len(m.Answer) != 0 {
			t.Errorf("%s %s %s: %s", tt.name, dns.Type(tt.qtype), dns.Class(tt.class), summary(m))
		}
	}
	badvers := new(dns.Msg)
	badvers.SetQuestion("stt.warren.internal.", dns.TypeA)
	badvers.SetEdns0(1232, false)
	badvers.IsEdns0().SetVersion(1)
	if m := askMsg(t, s, badvers); m.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS version 1: %s", summary(m))
	}
	update := new(dns.Msg)
	update.SetUpdate("warren.internal.")
	if m := askMsg(t, s, update); m.Rcode != dns.RcodeNotImplemented {
		t.Errorf("update: %s", summary(m))
	}
	norecurse := new(dns.Msg)
	norecurse.SetQuestion("example.com.", dns.TypeA)
	norecurse.RecursionDesired = false
	if m := askMsg(t, s, norecurse); m.Rcode != dns.RcodeRefused {
		t.Errorf("cache snooping: %s", summary(m))
	}
	if w.asked.Load() != 0 {
		t.Errorf("asked outside: %q", w.questions)
	}
}

func TestMalformed(t *testing.T) {
	s := newServer(t, config(t, nil))
	good := func(change func(*dns.Msg)) []byte {
		q := new(dns.Msg)
		q.SetQuestion("stt.warren.internal.", dns.TypeA)
		change(q)
		b, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT, Class: 1232}}
	for name, tt := range map[string]struct {
		query []byte
		want  int // rcode, -1: nothing
	}{
		"empty":          {nil, -1},
		"short":          {make([]byte, 11), -1},
		"an answer":      {good(func(m *dns.Msg) { m.Response = true }), -1},
		"no question":    {make([]byte, 12), dns.RcodeFormatError},
		"two questions":  {good(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		"answer section": {good(func(m *dns.Msg) { m.Answer = []dns.RR{&dns.A{Hdr: head("x.", dns.TypeA, 1), A: net.IPv4zero}} }), dns.RcodeFormatError},
		"two OPT":        {good(func(m *dns.Msg) { m.Extra = []dns.RR{opt, opt} }), dns.RcodeFormatError},
		"not an OPT": {good(func(m *dns.Msg) {
			m.Extra = []dns.RR{&dns.A{Hdr: head("x.", dns.TypeA, 1), A: net.IPv4zero}}
		}), dns.RcodeFormatError},
		"cut off":      {good(func(*dns.Msg) {})[:20], dns.RcodeFormatError},
		"pointer loop": {append(make([]byte, 0), 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
		"count lies":   {append(good(func(*dns.Msg) {})[:10], 0xff, 0xff), dns.RcodeFormatError},
	} {
		reply := s.handle(t.Context(), kitchen.V4, tt.query, true)
		if tt.want < 0 {
			if reply != nil {
				t.Errorf("%s: answered %x", name, reply)
			}
			continue
		}
		if len(reply) < 12 || int(reply[3]&15) != tt.want || reply[2]&0x80 == 0 || [2]byte(reply[:2]) != [2]byte(tt.query[:2]) {
			t.Errorf("%s: %x, want rcode %d", name, reply, tt.want)
		}
	}
}

func TestStrangersGetNothing(t *testing.T) {
	away := kitchen
	away.Quarantined = true
	invite := peer.Peer{ID: "i", Name: "i", Kind: peer.KindInvite, PublicKey: peer.PublicKey{8}, V4: netip.MustParseAddr("127.0.0.9"), V6: netip.MustParseAddr("::9")}
	c := config(t, nil)
	c.Roster = rosterOf(t, away, invite)
	s := newServer(t, c)
	q := new(dns.Msg)
	q.SetQuestion("stt.warren.internal.", dns.TypeA)
	wire, _ := q.Pack()
	for _, from := range []netip.Addr{away.V4, away.V6, invite.V4, netip.MustParseAddr("10.77.9.9"), {}} {
		if reply := s.handle(t.Context(), from, wire, true); reply != nil {
			t.Errorf("%v was answered", from)
		}
	}
}

func TestHiddenNamesDoNotExist(t *testing.T) {
	c := config(t, nil)
	c.Visible = func(p peer.Peer, name string) bool { return name != "stt" }
	s := newServer(t, c)
	for name, want := range map[string]string{
		"stt.warren.internal":     "NXDOMAIN soa=warren.internal.",
		"kitchen.warren.internal": "NOERROR A 10.77.1.9",
		"10.0.77.10.in-addr.arpa": "NXDOMAIN soa=77.10.in-addr.arpa.",
	} {
		if got := summary(ask(t, s, name, dns.TypeA)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestSetRecordsRefusesAsAWhole(t *testing.T) {
	s := newServer(t, config(t, nil))
	a := netip.MustParseAddr("10.77.0.11")
	for _, bad := range []map[string][]netip.Addr{
		{"ok": {a}, "": {a}}, {"ok": {a}, "UP": {a}}, {"ok": {a}, "a..b": {a}}, {"ok": {a}, "x\n": {a}}, {"ok": {a}, strings.Repeat("a", 64): {a}},
		{"ok": {{}}}, {"ok": {netip.MustParseAddr("::ffff:10.77.0.1")}}, {"ok": {netip.MustParseAddr("fe80::1%eth0")}},
	} {
		if err := s.SetRecords(bad); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
	if got := summary(ask(t, s, "stt.warren.internal", dns.TypeA)); got != "NOERROR A 10.77.0.10" {
		t.Errorf("after refused records: %s", got)
	}
	for _, bad := range []Config{{}, {Domain: "."}, {Domain: "UP!"}, {Domain: "a_b.c", Roster: func() *peer.Roster { return nil }}, {Domain: "warren.internal"}} {
		if _, err := New(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

// An independent client, over real sockets: dig.
func TestWithDig(t *testing.T) {
	dig, err := exec.LookPath("dig")
	if err != nil {
		t.Fatal("dig is needed: apt-get install bind9-dnsutils")
	}
	w := newWorld(t)
	w.set("www.example", "www.example. 60 IN CNAME web.example.", "web.example. 60 IN A 8.8.4.4; any")
	var big []string
	for i := range 200 {
		big = append(big, fmt.Sprintf("big.example. 60 IN A 8.8.%d.%d", i/250, i%250))
	}
	w.set("big.example", big...)
	host, port, _ := net.SplitHostPort(start(t, newServer(t, config(t, w))))
	for _, tt := range []struct{ args, want string }{
		{"stt.warren.internal A +short", "10.77.0.10\n"},
		{"stt.warren.internal AAAA +short +tcp", "fd77:1:2:3::a\n"},
		{"-x 10.77.0.10 +short", "stt.warren.internal.\n"},
		{"www.example A", "web.example.\t\t60\tIN\tA\t8.8.4.4"},
		{"nobody.warren.internal A", "status: NXDOMAIN"},
		{"stt.warren.internal ANY", "status: REFUSED"},
		{"warren.internal AXFR", "Transfer failed."},
		{"big.example A +ignore", "flags: qr tc rd ra;"},
		{"big.example A", "ANSWER: 200"}, // dig comes again over TCP
		{"version.bind TXT CH", "status: REFUSED"},
		{"stt.warren.internal A +noedns +short", "10.77.0.10\n"},
	} {
		args := append([]string{"@" + host, "-p", port, "+timeout=5", "+tries=1"}, strings.Fields(tt.args)...)
		out, err := exec.CommandContext(t.Context(), dig, args...).CombinedOutput()
		if err != nil && tt.want != "Transfer failed." || !strings.Contains(string(out), tt.want) {
			t.Errorf("dig %s: %v\n%s\nwant %q", tt.args, err, out, tt.want)
		}
	}
}

func BenchmarkOwnName(b *testing.B) {
	s := newServer(b, config(b, nil))
	q := new(dns.Msg)
	q.SetQuestion("stt.warren.internal.", dns.TypeA)
	q.SetEdns0(1232, false)
	wire, err := q.Pack()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if s.handle(b.Context(), kitchen.V4, wire, true) == nil {
			b.Fatal("no answer")
		}
	}
}

func BenchmarkCached(b *testing.B) {
	w := newWorld(b)
	w.set("a.example", "a.example. 3600 IN A 8.8.8.8")
	s := newServer(b, config(b, w))
	q := new(dns.Msg)
	q.SetQuestion("a.example.", dns.TypeA)
	q.SetEdns0(1232, false)
	wire, err := q.Pack()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if s.handle(b.Context(), kitchen.V4, wire, true) == nil {
			b.Fatal("no answer")
		}
	}
}
