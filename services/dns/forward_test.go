package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// S-01 as far as it concerns names: a public name never leads to an address
// that is not public, in whatever form it is written.
func TestS01_PrivateAnswersAreDropped(t *testing.T) {
	w := newWorld(t)
	s := newServer(t, config(t, w))
	private := []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "10.77.0.10", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.255", "169.254.169.254", "172.16.0.1", "172.31.255.255",
		"192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "168.63.129.16",
		"::", "::1", "::127.0.0.1", "::169.254.169.254", "::ffff:169.254.169.254", "::ffff:10.77.0.10", "::ffff:192.168.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::a4d:a", "64:ff9b:1::1", "64:ff9b:1:1::a9fe:a9fe",
		"100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1", "2001:db8::1", "2002:a9fe:a9fe::1", "2002:7f00:1::", "2002:a4d:a::", "3fff::1", "5f00::1",
		"fc00::1", "fd00:ec2::254", "fd77:1:2:3::a", "fe80::1", "fec0::1", "ff02::1", "2a00::5efe:192.168.1.1", "2a00::200:5efe:a9fe:a9fe", "4000::1",
	}
	for i, text := range private {
		a := netip.MustParseAddr(text)
		name := fmt.Sprintf("p%d.example.", i)
		qtype, rr := dns.TypeA, dns.RR(&dns.A{Hdr: head(name, dns.TypeA, 60), A: a.AsSlice()})
		if !a.Is4() {
			qtype, rr = dns.TypeAAAA, &dns.AAAA{Hdr: head(name, dns.TypeAAAA, 60), AAAA: a.AsSlice()}
		}
		out := s.clean(key{name: name, qtype: qtype}, &dns.Msg{Answer: []dns.RR{rr}})
		if len(out.answer) != 0 || !out.filtered {
			t.Errorf("%s passed: %v", text, out.answer)
		}
	}
	for _, text := range []string{"8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "169.253.0.1", "192.0.1.1", "198.17.0.1", "223.255.255.255",
		"2a00:1450::1", "2001:4860:4860::8888", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1"} {
		a := netip.MustParseAddr(text)
		rr := dns.RR(&dns.A{Hdr: head("x.example.", dns.TypeA, 60), A: a.AsSlice()})
		qtype := dns.TypeA
		if a.Is6() {
			qtype, rr = dns.TypeAAAA, &dns.AAAA{Hdr: head("x.example.", dns.TypeAAAA, 60), AAAA: a.AsSlice()}
		}
		if out := s.clean(key{name: "x.example.", qtype: qtype}, &dns.Msg{Answer: []dns.RR{rr}}); len(out.answer) != 1 {
			t.Errorf("%s was dropped", text)
		}
	}
}

// S-02: the tricks around the address, through the whole server.
func TestS02_RebindingTricks(t *testing.T) {
	w := newWorld(t)
	s := newServer(t, config(t, w))
	w.set("mix.example", "mix.example. 0 IN A 8.8.8.8", "mix.example. 0 IN A 127.0.0.1")
	w.set("cname.example", "cname.example. 60 IN CNAME meta.example.", "meta.example. 60 IN A 169.254.169.254; any")
	w.set("mesh.example", "mesh.example. 60 IN CNAME console.warren.internal.", "console.warren.internal. 60 IN A 8.8.8.8; any")
	w.set("extra.example", "extra.example. 60 IN A 8.8.8.8", "stt.warren.internal. 60 IN A 6.6.6.6", "other.example. 60 IN A 6.6.6.6")
	w.set("svc.example", "svc.example. 60 IN HTTPS 1 . ipv4hint=10.77.0.10", `svc.example. 60 IN HTTPS 2 . alpn="h2"`, "svc.example. 60 IN HTTPS 3 . ipv6hint=fd77:1:2:3::a",
		"svc.example. 60 IN HTTPS 4 console.warren.internal.")
	for _, tt := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"mix.example", dns.TypeA, "NOERROR A 8.8.8.8"},
		{"cname.example", dns.TypeA, "NOERROR CNAME meta.example."},
		{"mesh.example", dns.TypeA, "NOERROR"},
		{"extra.example", dns.TypeA, "NOERROR A 8.8.8.8"},
		{"svc.example", dns.TypeHTTPS, `NOERROR HTTPS 2 . alpn="h2"`},
	} {
		m := ask(t, s, tt.name, tt.qtype)
		if got := summary(m); got != tt.want || strings.Contains(m.String(), "warren.internal") {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	// TTL 0 buys an attacker nothing: the answer stays as it was.
	w.set("mix.example", "mix.example. 0 IN A 9.9.9.9")
	if got := summary(ask(t, s, "mix.example", dns.TypeA)); got != "NOERROR A 8.8.8.8" {
		t.Errorf("a name that lives no time: %s", got)
	}
	if m := ask(t, s, "cname.example", dns.TypeA); !strings.Contains(m.String(), "Blocked") {
		t.Errorf("the client is not told why: %s", m)
	}
	if n := s.Stats().Private; n < 4 {
		t.Errorf("%d filtered answers were counted", n)
	}
}

func TestPrivateDomainsMayLeadHomeButNoFurther(t *testing.T) {
	w := newWorld(t)
	c := config(t, w)
	c.PrivateDomains = []string{"lan", "1.168.192.in-addr.arpa"}
	s := newServer(t, c)
	w.set("nas.lan", "nas.lan. 60 IN A 192.168.1.5", "nas.lan. 60 IN A 127.0.0.1", "nas.lan. 60 IN A 169.254.169.254", "nas.lan. 60 IN A 10.77.0.10")
	w.set("5.1.168.192.in-addr.arpa", "5.1.168.192.in-addr.arpa. 60 IN PTR nas.lan.")
	if got := summary(ask(t, s, "nas.lan", dns.TypeA)); got != "NOERROR A 192.168.1.5" {
		t.Error(got)
	}
	if got := summary(ask(t, s, "5.1.168.192.in-addr.arpa", dns.TypePTR)); got != "NOERROR PTR nas.lan." {
		t.Error(got)
	}
	if got := summary(ask(t, s, "5.2.168.192.in-addr.arpa", dns.TypePTR)); !strings.HasPrefix(got, "NXDOMAIN") {
		t.Error(got)
	}
}

func TestCache(t *testing.T) {
	w := newWorld(t)
	c := config(t, w)
	now := time.Unix(1_000_000, 0)
	c.Now = func() time.Time { return now }
	s := newServer(t, c)
	w.set("a.example", "a.example. 100 IN A 8.8.8.8")
	w.set("long.example", "long.example. 999999 IN A 8.8.8.8")
	ttl := func(name string) uint32 {
		t.Helper()
		m := ask(t, s, name, dns.TypeA)
		if len(m.Answer) != 1 || m.Answer[0].Header().Name != dns.Fqdn(name) {
			t.Fatalf("%s: %s", name, summary(m))
		}
		return m.Answer[0].Header().Ttl
	}
	if got := ttl("a.example"); got != 100 {
		t.Errorf("TTL %d", got)
	}
	now = now.Add(40 * time.Second)
	if got := ttl("A.Example"); got != 60 || w.asked.Load() != 1 {
		t.Errorf("TTL %d after 40 s, asked %d times", got, w.asked.Load())
	}
	now = now.Add(60 * time.Second)
	if ttl("a.example"); w.asked.Load() != 2 {
		t.Errorf("asked %d times after the answer ended", w.asked.Load())
	}
	if got := ttl("long.example"); got != 3600 {
		t.Errorf("a TTL of %d s", got)
	}
	// "No" is kept as long as the SOA says, and not asked for again.
	before := w.asked.Load()
	for range 3 {
		if got := summary(ask(t, s, "no.example", dns.TypeA)); got != "NXDOMAIN soa=example." {
			t.Error(got)
		}
	}
	if w.asked.Load() != before+1 {
		t.Errorf("asked %d times for what is not there", w.asked.Load()-before)
	}
	now = now.Add(-time.Hour) // a clock set back
	if ttl("a.example"); w.asked.Load() != before+2 {
		t.Error("an answer from the future was used")
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache()
	now := time.Now()
	for i := range 3 * maxEntries {
		c.put(key{name: fmt.Sprint(i)}, &answer{ttl: time.Minute, size: 200}, now, 0)
	}
	if c.order.Len() != maxEntries || len(c.byKey) != maxEntries {
		t.Errorf("%d entries", c.order.Len())
	}
	for i := range 1000 {
		c.put(key{name: fmt.Sprint("big", i)}, &answer{ttl: time.Minute, size: maxEntry}, now, 0)
	}
	if c.bytes > maxBytes {
		t.Errorf("%d bytes", c.bytes)
	}
	c.put(key{name: "giant"}, &answer{ttl: time.Minute, size: maxEntry + 1}, now, 0)
	if _, _, ok := c.get(key{name: "giant"}, now); ok {
		t.Error("a giant is kept")
	}
	c.flush()
	c.put(key{name: "late"}, &answer{ttl: time.Minute, size: 1}, now, 0)
	if c.order.Len() != 0 || c.bytes != 0 {
		t.Error("an answer from before the flush was stored after it")
	}
}

func TestSameQuestionIsAskedOnce(t *testing.T) {
	w := newWorld(t)
	s := newServer(t, config(t, w))
	w.set("slow.example", "slow.example. 60 IN A 8.8.8.8")
	release := make(chan struct{})
	w.hooked(func(dns.ResponseWriter, *dns.Msg) bool { <-release; return false })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got := summary(ask(t, s, "slow.example", dns.TypeA)); got != "NOERROR A 8.8.8.8" {
				t.Error(got)
			}
		})
	}
	for w.asked.Load() == 0 || s.Stats().Queries < 20 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if n := w.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// A forger off the path must guess id, port and spelling; what does not fit is
// not believed, and when there is much of it the question goes over TCP.
func TestForgedAnswersAreNotBelieved(t *testing.T) {
	for name, forge := range map[string]func(m *dns.Msg){
		"id":         func(m *dns.Msg) { m.Id++ },
		"name":       func(m *dns.Msg) { m.Question[0].Name = "other.example." },
		"spelling":   func(m *dns.Msg) { m.Question[0].Name = flip(m.Question[0].Name) },
		"type":       func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
		"class":      func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"a question": func(m *dns.Msg) { m.Response = false },
		"none":       func(m *dns.Msg) { m.Question = nil },
		"opcode":     func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify },
	} {
		w := newWorld(t)
		w.set("bank.example", "bank.example. 60 IN A 8.8.8.8")
		w.hooked(func(rw dns.ResponseWriter, r *dns.Msg) bool {
			if _, udp := rw.LocalAddr().(*net.UDPAddr); udp {
				for range maxForeign + 4 {
					m := new(dns.Msg)
					m.SetReply(r)
					evil, _ := dns.NewRR("bank.example. 60 IN A 6.6.6.6")
					m.Answer = []dns.RR{evil}
					forge(m)
					_ = rw.WriteMsg(m)
				}
				return true
			}
			return false
		})
		s := newServer(t, config(t, w))
		if got := summary(ask(t, s, "bank.example", dns.TypeA)); got != "NOERROR A 8.8.8.8" || w.overTCP.Load() != 1 {
			t.Errorf("%s: %s, %d times over TCP", name, got, w.overTCP.Load())
		}
	}
}

// flip changes the case of the first letter.
func flip(s string) string {
	if s[0] >= 'a' {
		return strings.ToUpper(s[:1]) + s[1:]
	}
	return strings.ToLower(s[:1]) + s[1:]
}

func TestQuestionsToUpstreamsAreUnguessable(t *testing.T) {
	ids, spellings := map[uint16]bool{}, map[string]bool{}
	for range 200 {
		q := question(key{name: "a-longer-name.example.", qtype: dns.TypeA}, true)
		ids[q.Id] = true
		spellings[q.Question[0].Name] = true
		if !strings.EqualFold(q.Question[0].Name, "a-longer-name.example.") || q.IsEdns0().UDPSize() != maxUDP {
			t.Fatal(q)
		}
	}
	if len(ids) < 190 || len(spellings) < 190 {
		t.Errorf("%d ids and %d spellings in 200 questions", len(ids), len(spellings))
	}
	if odd := question(key{name: `a\097\\b.example.`, qtype: dns.TypeA}, false); !strings.EqualFold(odd.Question[0].Name, `a\097\\b.example.`) {
		t.Error(odd.Question[0].Name)
	}
}

func TestUpstreamsThatFailAreSkipped(t *testing.T) {
	good, bad := newWorld(t), newWorld(t)
	good.set("a.example", "a.example. 60 IN A 8.8.8.8")
	good.set("b.example", "b.example. 60 IN A 8.8.8.8")
	bad.hooked(func(rw dns.ResponseWriter, r *dns.Msg) bool {
		m := new(dns.Msg)
		m.SetRcode(r, dns.RcodeServerFailure)
		_ = rw.WriteMsg(m)
		return true
	})
	c := config(t, good)
	c.Upstreams = []netip.AddrPort{bad.addr, good.addr}
	s := newServer(t, c)
	for _, name := range []string{"a.example", "b.example"} {
		if got := summary(ask(t, s, name, dns.TypeA)); got != "NOERROR A 8.8.8.8" {
			t.Error(got)
		}
	}
	if n := bad.asked.Load(); n != 1 {
		t.Errorf("the failing one was asked %d times; the one that answered is to be first", n)
	}
	c.Upstreams = []netip.AddrPort{bad.addr}
	if m := ask(t, newServer(t, c), "a.example", dns.TypeA); m.Rcode != dns.RcodeServerFailure || !strings.Contains(m.String(), "no upstream resolver answered") {
		t.Errorf("%s", m)
	}
}

// Old home routers do not know EDNS and say so in their way.
func TestUpstreamWithoutEDNS(t *testing.T) {
	w := newWorld(t)
	w.set("a.example", "a.example. 60 IN A 8.8.8.8")
	w.hooked(func(rw dns.ResponseWriter, r *dns.Msg) bool {
		if r.IsEdns0() == nil {
			return false
		}
		m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: r.Id, Response: true, Rcode: dns.RcodeFormatError}}
		_ = rw.WriteMsg(m)
		return true
	})
	if got := summary(ask(t, newServer(t, config(t, w)), "a.example", dns.TypeA)); got != "NOERROR A 8.8.8.8" {
		t.Error(got)
	}
}

func TestLargeAnswers(t *testing.T) {
	w := newWorld(t)
	s := newServer(t, config(t, w))
	var many []string
	for i := range 300 {
		many = append(many, fmt.Sprintf("big.example. 60 IN A 8.8.%d.%d", i/250, i%250))
	}
	w.set("big.example", many...)
	for _, size := range []uint16{0, 512, 1232, 4096, 65535} {
		q := new(dns.Msg)
		q.SetQuestion("big.example.", dns.TypeA)
		limit := 512
		if size > 0 {
			q.SetEdns0(size, false)
			limit = min(int(size), maxUDP)
		}
		wire, _ := q.Pack()
		over := s.handle(t.Context(), kitchen.V4, wire, true)
		m := new(dns.Msg)
		if err := m.Unpack(over); err != nil || len(over) > limit || !m.Truncated {
			t.Errorf("EDNS size %d: %d bytes, tc=%v, %v", size, len(over), m.Truncated, err)
		}
		full := s.handle(t.Context(), kitchen.V4, wire, false)
		if err := m.Unpack(full); err != nil || m.Truncated || len(m.Answer) != 300 {
			t.Errorf("over TCP: %d records, tc=%v, %v", len(m.Answer), m.Truncated, err)
		}
	}
	for i := range maxRecords {
		many = append(many, fmt.Sprintf("huge.example. 60 IN A 9.8.%d.%d", i/250, i%250))
	}
	w.set("huge.example", append(many, "huge.example. 60 IN A 9.9.9.9")...)
	if m := ask(t, s, "huge.example", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("an absurd answer: %s", dns.RcodeToString[m.Rcode])
	}
}

func TestResolvConfIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	own := []netip.Prefix{overlay4, overlay6}
	u := upstreams{path: path, own: own}
	now := time.Unix(1000, 0)
	if _, _, err := u.get(now); err == nil || !strings.Contains(err.Error(), "resolvers") {
		t.Errorf("no file: %v", err)
	}
	write("# comment\nsearch lan\nnameserver 192.168.1.1\nnameserver nonsense\nnameserver 10.77.0.53\nnameserver ::ffff:10.77.0.53\nnameserver fe80::1%eth0\nnameserver\noptions edns0\n")
	now = now.Add(rereadAfter)
	got, changed, err := u.get(now)
	want := []netip.AddrPort{netip.MustParseAddrPort("192.168.1.1:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53")}
	if err != nil || !changed || !slices.Equal(got, want) {
		t.Errorf("%v %v %v", got, changed, err)
	}
	write("nameserver 9.9.9.9\n")
	if got, changed, _ := u.get(now.Add(time.Second)); changed || !slices.Equal(got, want) {
		t.Errorf("looked again too soon: %v", got)
	}
	now = now.Add(rereadAfter)
	if got, changed, err := u.get(now); err != nil || !changed || got[0] != netip.MustParseAddrPort("9.9.9.9:53") {
		t.Errorf("%v %v %v", got, changed, err)
	}
	write("nameserver 10.77.0.53\n")
	if _, _, err := u.get(now.Add(rereadAfter)); err == nil || !strings.Contains(err.Error(), "no resolver") {
		t.Errorf("only ourselves: %v", err)
	}
}

func TestNoUpstreamIsSaid(t *testing.T) {
	s := newServer(t, config(t, nil))
	if m := ask(t, s, "a.example", dns.TypeA); m.Rcode != dns.RcodeServerFailure || !strings.Contains(m.String(), "reading the host's resolvers") {
		t.Errorf("%s", m)
	}
}

// One peer with a thousand questions under way does not keep another waiting.
func TestD01_OnePeerCannotTakeAllPlaces(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	w.hooked(func(dns.ResponseWriter, *dns.Msg) bool { <-release; return false })
	s := newServer(t, config(t, w))
	addr := start(t, s)
	defer close(release)
	greedy, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer greedy.Close()
	for i := 0; s.Stats().Limited == 0; i++ {
		q := new(dns.Msg)
		q.SetQuestion(fmt.Sprintf("n%d.example.", i), dns.TypeA)
		wire, _ := q.Pack()
		_, _ = greedy.Write(wire)
	}
	s.clients.mu.Lock()
	under := s.clients.total
	s.clients.mu.Unlock()
	if under > maxPerClient {
		t.Errorf("%d under way", under)
	}
	if other := netip.MustParseAddr("127.0.0.2"); !s.clients.enter(other) {
		t.Error("another peer found no place")
	} else {
		s.clients.leave(other)
	}
}

func TestServeEndsWithQuestionsUnderWay(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	defer close(release)
	w.hooked(func(dns.ResponseWriter, *dns.Msg) bool { <-release; return false })
	s := newServer(t, config(t, w))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	q := new(dns.Msg)
	q.SetQuestion("slow.example.", dns.TypeA)
	wire, _ := q.Pack()
	go func() { defer close(done); s.handle(ctx, kitchen.V4, wire, true) }()
	for w.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	cancel()
	<-done
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// Law: what is sent is nothing, or a DNS answer with the query's id that fits
// the limit, and a panic never happens.
func FuzzHandle(f *testing.F) {
	for _, qtype := range []uint16{dns.TypeA, dns.TypePTR, dns.TypeANY, dns.TypeSOA} {
		for _, name := range []string{"stt.warren.internal.", "10.0.77.10.in-addr.arpa.", "localhost.", "a.example.", "."} {
			q := new(dns.Msg)
			q.SetQuestion(name, qtype)
			q.SetEdns0(4096, true)
			wire, _ := q.Pack()
			f.Add(wire, true)
		}
	}
	s := newServer(f, config(f, nil))
	f.Fuzz(func(t *testing.T, query []byte, udp bool) {
		reply := s.handle(t.Context(), kitchen.V4, query, udp)
		if s.counts.panics.Load() != 0 {
			t.Fatal("panic")
		}
		if reply == nil {
			return
		}
		limit := 65535
		if udp {
			limit = maxUDP
		}
		if len(reply) < 12 || len(reply) > limit || reply[2]&0x80 == 0 || [2]byte(reply) != [2]byte(query) {
			t.Fatalf("%x", reply)
		}
		if err := new(dns.Msg).Unpack(reply); err != nil {
			t.Fatalf("%x: %v", reply, err)
		}
	})
}

// Law: whatever an upstream says, no private address and no own name leaves.
func FuzzClean(f *testing.F) {
	for _, text := range []string{"x.example. 1 IN A 10.0.0.1", "x.example. 1 IN AAAA ::1", "x.example. 1 IN HTTPS 1 . ipv4hint=10.1.1.1", "x.example. 1 IN CNAME a.warren.internal."} {
		m := new(dns.Msg)
		m.SetQuestion("x.example.", dns.TypeA)
		rr, err := dns.NewRR(text)
		if err != nil {
			f.Fatal(err)
		}
		m.Question[0].Qtype = rr.Header().Rrtype
		m.Answer = append(m.Answer, rr)
		wire, _ := m.Pack()
		f.Add(wire, rr.Header().Rrtype)
	}
	s := newServer(f, config(f, nil))
	f.Fuzz(func(t *testing.T, wire []byte, qtype uint16) {
		m := new(dns.Msg)
		if m.Unpack(wire) != nil {
			return
		}
		req := new(dns.Msg)
		req.SetQuestion("x.example.", qtype)
		resp := new(dns.Msg)
		resp.SetReply(req)
		fill(resp, s.clean(key{name: "x.example.", qtype: qtype}, m), time.Second)
		out := new(dns.Msg)
		b := pack(resp, req, nil, true)
		if b == nil {
			return
		}
		if err := out.Unpack(b); err != nil || len(b) > 512 {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		for _, rr := range slices.Concat(out.Answer, out.Ns, out.Extra) {
			if s.forbidden(rr, false) || dns.IsSubDomain(s.domain, dns.CanonicalName(rr.Header().Name)) {
				t.Fatalf("%v", rr)
			}
		}
	})
}
