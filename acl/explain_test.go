package acl

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer"
)

func TestExplain(t *testing.T) {
	w := homeWorld()
	f := mustCompile(t, homePolicy, w)
	for _, tt := range []struct {
		src, dst string
		proto    Proto
		port     uint16
		says     []string
	}{
		{"ann-phone", "svc:stt", ProtoTCP, 443, []string{"allowed: ann-phone (10.77.1.45) to svc:stt (10.77.0.10), tcp/443", "rule at line 8: {\"action\": \"accept\", \"src\": [\"autogroup:member\"]"}},
		{"ann-phone", "svc:stt", ProtoICMP, 0, []string{"allowed", "icmp\n", "rule at line 9"}},
		{"bob-phone", "kitchen", ProtoTCP, 80, []string{"refused", "no rule allows it; nearest: the rule at line 8 allows tcp:22"}},
		{"bob-phone", "svc:notes", ProtoTCP, 80, []string{"no rule allows it; nearest: the rule at line 9 allows it from group:admin"}},
		{"kitchen", "bob-phone", ProtoTCP, 80, []string{"nearest: the rule at line 11 allows tcp:5353"}},
		{"bob-phone", "svc:stt", ProtoTCP, 22, []string{"does not offer that port; svc:stt offers tcp:443, udp:6000-6010, icmp"}},
		{"guest-phone", "svc:console", ProtoTCP, 80, []string{"a never rule forbids it; never at line 20: {\"src\": [\"household:guests\"]"}},
		{"guest-phone", "kitchen", ProtoTCP, 22, []string{"different households", `guest-phone is in household "guests", kitchen in "home"`}},
		{"kitchen", "svc:sync", ProtoTCP, 80, []string{"allowed", "built-in rule: every machine reaches svc:sync"}},
		{"invite-1", "svc:enrol", ProtoTCP, 443, []string{"allowed", "built-in rule: an invite reaches"}},
		{"invite-1", "svc:dns", ProtoUDP, 53, []string{"an invite reaches the enrol service and nothing else"}},
		{"ann-phone", "lost-phone", ProtoTCP, 22, []string{"quarantined"}},
	} {
		e := f.Explain(where(t, w, tt.src), where(t, w, tt.dst), tt.proto, tt.port)
		for _, s := range tt.says {
			if !strings.Contains(e.String(), s) {
				t.Errorf("%s to %s %v/%d:\n%swants %q", tt.src, tt.dst, tt.proto, tt.port, e, s)
			}
		}
		if v := judge(f, where(t, w, tt.src), where(t, w, tt.dst), tt.proto, tt.port); v.Allow != e.Allowed {
			t.Errorf("%s to %s: explain says %v, the packet path %v", tt.src, tt.dst, e.Allowed, v.Allow)
		}
	}
	if e := f.Explain(w.Peers[0].V4, netip.MustParseAddr("8.8.8.8"), ProtoTCP, 53); e.Allowed || !strings.Contains(e.String(), "no machine or service of this mesh") {
		t.Errorf("an address outside: %v", e)
	}
	var none *Filter
	if e := none.Explain(w.Peers[0].V4, w.Peers[1].V4, ProtoTCP, 53); e.Allowed || !strings.Contains(e.String(), "no policy is loaded") {
		t.Errorf("no filter: %v", e)
	}
}

func TestResolve(t *testing.T) {
	w := homeWorld()
	f := mustCompile(t, homePolicy, w)
	for name, want := range map[string]string{
		"kitchen": "10.77.1.48 fd77:1:2:3::130", "peer:gpu": "10.77.1.50 fd77:1:2:3::132", "svc:stt": "10.77.0.10 fd77:1:2:3::a", "stt": "10.77.0.10 fd77:1:2:3::a",
		"bob@": "10.77.1.46 fd77:1:2:3::12e", "printer-pi": "10.77.1.48 fd77:1:2:3::130", "10.77.1.50": "10.77.1.50 fd77:1:2:3::132",
		"fd77:1:2:3::132": "10.77.1.50 fd77:1:2:3::132", "household:guests": "10.77.1.47 fd77:1:2:3::12f 10.77.1.51 fd77:1:2:3::133",
	} {
		list, err := f.Resolve(name)
		var got []string
		for _, a := range list {
			got = append(got, a.String())
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v %v, want %s", name, got, err, want)
		}
	}
	for _, name := range []string{"", "nobody", "svc:none", "10.9.9.9", "autogroup:self", "A", "zoe@", "\x00", "invite-1"} {
		if list, err := f.Resolve(name); err == nil || list != nil {
			t.Errorf("%q resolves to %v", name, list)
		}
	}
	for text, want := range map[string]string{"svc:stt:443": "svc:stt tcp 443", "kitchen:6000/udp": "kitchen udp 6000", "svc:hub/icmp": "svc:hub icmp 0", "[fd77::1]:80/tcp": "[fd77::1] tcp 80"} {
		name, proto, port, err := ParseDestination(text)
		if got := strings.Join([]string{name, proto.String(), json.Number(itoa(port)).String()}, " "); err != nil || got != want {
			t.Errorf("%s: %q %v", text, got, err)
		}
	}
	for _, text := range []string{"", "kitchen", "kitchen:0", "kitchen:80/sctp", "kitchen:80-90", "kitchen:http"} {
		if _, _, _, err := ParseDestination(text); err == nil {
			t.Errorf("%q is a destination", text)
		}
	}
}

func itoa(n uint16) string { b, _ := json.Marshal(n); return string(b) }

func TestGrants(t *testing.T) {
	w := homeWorld()
	f := mustCompile(t, homePolicy, w)
	got := f.Grants(where(t, w, "ann-phone"), where(t, w, "svc:notes"))
	if len(got) != 1 || len(got["warren.internal/cap/notes"]) != 1 || string(got["warren.internal/cap/notes"][0]) != `{"write":true}` {
		t.Errorf("ann has %s", got)
	}
	for _, pair := range [][2]string{{"bob-phone", "svc:notes"}, {"ann-phone", "svc:stt"}, {"lost-phone", "svc:notes"}, {"invite-1", "svc:notes"}} {
		if got := f.Grants(where(t, w, pair[0]), where(t, w, pair[1])); got != nil {
			t.Errorf("%v: %s", pair, got)
		}
	}
	f = mustCompile(t, `{"grants":[{"src":["autogroup:member"],"dst":["autogroup:self"],"app":{"a.b/c":[1, 2.50 /* two and a half */]}}]}`, w)
	if got := f.Grants(where(t, w, "ann-phone"), where(t, w, "ann-laptop")); len(got["a.b/c"]) != 2 || string(got["a.b/c"][1]) != "2.50" {
		t.Errorf("self: %s", got)
	}
	if got := f.Grants(where(t, w, "ann-phone"), where(t, w, "bob-phone")); got != nil {
		t.Errorf("not self: %s", got)
	}
	if judge(f, where(t, w, "ann-phone"), where(t, w, "ann-laptop"), ProtoTCP, 80).Allow {
		t.Error("a capability opened a port")
	}
}

func TestDefaultPolicy(t *testing.T) {
	empty := &World{V4: testV4, V6: testV6}
	for _, admin := range []string{"ann", "ann@example.org", ""} {
		text := string(DefaultPolicy(admin))
		mustCompile(t, text, empty)
		w := homeWorld()
		w.Admin = admin
		p := mustParse(t, text)
		f, problems := Recompile(p, w)
		if len(problems) > 0 {
			t.Errorf("%q: %v", admin, problems)
		}
		agree(t, f, p, w)
	}
	w := homeWorld()
	f := mustCompile(t, string(DefaultPolicy("ann")), w)
	for _, tt := range []struct {
		src, dst string
		port     Port
		allow    bool
	}{
		{"ann-phone", "svc:console", tcpPort(80), true}, {"ann-phone", "svc:stt", tcpPort(443), true}, {"bob-phone", "svc:console", tcpPort(80), false},
		{"bob-phone", "svc:stt", tcpPort(443), false}, {"bob-phone", "svc:dns", udpPort(53), true}, {"guest-pi", "svc:dns", udpPort(53), true},
		{"guest-phone", "svc:console", tcpPort(80), false}, {"kitchen", "svc:hub", Port{Proto: ProtoICMP}, true}, {"ann-phone", "ann-laptop", tcpPort(22), true},
		{"ann-phone", "bob-phone", tcpPort(22), false},
		{"bob-phone", "svc:auth", tcpPort(7701), true}, {"bob-phone", "svc:command", tcpPort(443), true}, {"guest-phone", "svc:auth", tcpPort(80), true},
		{"kitchen", "svc:command", tcpPort(7703), true}, {"kitchen", "svc:auth", tcpPort(7701), false}, {"gpu", "svc:auth", tcpPort(443), false},
		{"bob-phone", "svc:hooks", tcpPort(80), false}, {"kitchen", "svc:hooks", tcpPort(443), false}, {"ann-phone", "svc:hooks", tcpPort(443), true},
	} {
		if v := judge(f, where(t, w, tt.src), where(t, w, tt.dst), tt.port.Proto, tt.port.First); v.Allow != tt.allow {
			t.Errorf("%s to %s %v: %+v", tt.src, tt.dst, tt.port, v)
		}
	}
}

func TestDiff(t *testing.T) {
	w := homeWorld()
	old := mustCompile(t, homePolicy, w)
	text := strings.Replace(homePolicy, `["svc:stt:443", "tag:speaker:10700-10710,22"]`, `["svc:stt:443", "tag:speaker:22-23", "svc:notes:80"]`, 1)
	next := mustCompile(t, text, w)
	seen := func(src, dst string, port uint16, allowed bool) Flow {
		return Flow{Src: where(t, w, src), Dst: where(t, w, dst), Proto: ProtoTCP, Port: port, Allowed: allowed, Count: 412, Last: time.Unix(1e9, 0)}
	}
	d := Diff(old, next, []Flow{seen("ann-phone", "kitchen", 10705, true), seen("ann-phone", "kitchen", 22, true), seen("bob-phone", "svc:notes", 80, false)})
	got := d.String()
	for _, line := range []string{
		"opens   autogroup:member to tag:speaker on tcp:23",
		"closes  autogroup:member to tag:speaker on tcp:10700-10710",
		"seen    ann-phone to kitchen tcp:10705, 412 times, last 2001-09-09 01:46: would be refused",
		"seen    bob-phone to svc:notes tcp:80, 412 times, last 2001-09-09 01:46: would be allowed",
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("no %q in\n%s", line, got)
		}
	}
	if strings.Contains(got, "kitchen tcp:22,") || strings.Contains(got, "svc:stt") || !strings.Contains(got, "svc:notes on tcp:80") || strings.Contains(got, "autogroup:admin to svc:notes") {
		t.Errorf("too much or too little in\n%s", got)
	}
	if d := Diff(old, old, nil); !d.Empty() || d.String() != "nothing opens and nothing closes\n" {
		t.Errorf("no change: %v", d)
	}
	if d := Diff(nil, old, nil); len(d.Opened) == 0 || len(d.Closed) != 0 {
		t.Errorf("from nothing: %v", d)
	}
	self := mustCompile(t, strings.Replace(homePolicy, "autogroup:self:*", "autogroup:self:22", 1), w)
	if got := Diff(old, self, nil).String(); !strings.Contains(got, "closes  autogroup:admin to autogroup:self on tcp:1-21, tcp:23-5352, tcp:5354-65535, udp:1-21") {
		t.Errorf("own machines:\n%s", got)
	}
	// A machine that goes is a change as well.
	less := homeWorld()
	less.Peers = slices.DeleteFunc(less.Peers, func(p peer.Peer) bool { return p.Name == "gpu" })
	less.Services = slices.DeleteFunc(less.Services, func(s Service) bool { return s.Name == "llm" })
	f, _ := Recompile(mustParse(t, homePolicy), less)
	if got := Diff(old, f, nil).String(); !strings.Contains(got, "svc:llm") || strings.Contains(got, "opens") {
		t.Errorf("a machine less:\n%s", got)
	}
}

// TestDiffProperty: nothing is listed exactly if no pair fares differently,
// and opening is closing the other way round.
func TestDiffProperty(t *testing.T) {
	same := 0
	for seed := range uint64(120) {
		r := rand.New(rand.NewPCG(seed, 5))
		w := randomWorld(r, 8)
		a, b := randomPolicy(r, 8, 2), randomPolicy(r, 8, 2)
		if seed%3 == 0 {
			b = a
		}
		old, _ := Recompile(mustParse(t, a), w)
		next, _ := Recompile(mustParse(t, b), w)
		d, back := Diff(old, next, nil), Diff(next, old, nil)
		if len(d.Opened) != len(back.Closed) || len(d.Closed) != len(back.Opened) {
			t.Fatalf("seed %d: one way\n%vthe other\n%v", seed, d, back)
		}
		opened, closed := false, false
		for _, src := range everyone(w) {
			for _, dst := range everyone(w) {
				for _, port := range []Port{tcpPort(80), tcpPort(443), tcpPort(22), tcpPort(441), tcpPort(65535), udpPort(51), udpPort(80), {Proto: ProtoICMP}} {
					was, is := judge(old, src, dst, port.Proto, port.First).Allow, judge(next, src, dst, port.Proto, port.First).Allow
					if src != dst {
						opened, closed = opened || !was && is, closed || was && !is
					}
				}
			}
		}
		if opened && len(d.Opened) == 0 || closed && len(d.Closed) == 0 {
			t.Fatalf("seed %d: opened %v closed %v, but\n%v", seed, opened, closed, d)
		}
		if seed%3 == 0 {
			same++
			if !d.Empty() {
				t.Fatalf("seed %d: the same policy differs:\n%v", seed, d)
			}
		}
	}
	if same == 0 {
		t.Error("nothing compared")
	}
}

// TestSlice: on the spoke, the slice decides every packet to or from it as the
// hub's filter does.
func TestSlice(t *testing.T) {
	for seed := range uint64(80) {
		r := rand.New(rand.NewPCG(seed, 6))
		w := randomWorld(r, 10)
		p := mustParse(t, randomPolicy(r, 10, 8))
		hub, _ := Recompile(p, w)
		for i := range w.Peers {
			text, err := json.Marshal(hub.Slice(w.Peers[i].ID))
			if err != nil {
				t.Fatal(err)
			}
			var s Slice
			if err := json.Unmarshal(text, &s); err != nil {
				t.Fatal(err)
			}
			f, err := s.Filter()
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			own := []netip.Addr{w.Peers[i].V4, w.Peers[i].V6}
			for _, v := range w.Services {
				if v.Host == w.Peers[i].ID {
					own = append(own, v.V4)
				}
			}
			for _, a := range own {
				if !f.local(f.node(a)) {
					t.Fatalf("%v is not local on its own machine", a)
				}
				for _, b := range everyone(w) {
					if slices.Contains(own, b) || b == w.Peers[i].V6 || f.local(f.node(b)) {
						continue
					}
					for _, port := range []Port{tcpPort(80), tcpPort(443), tcpPort(441), udpPort(51), {Proto: ProtoICMP}} {
						for _, pair := range [][2]netip.Addr{{a, b}, {b, a}} {
							want := judge(hub, pair[0], pair[1], port.Proto, port.First)
							got := judge(f, pair[0], pair[1], port.Proto, port.First)
							if got.Allow != want.Allow || got.Allow && got.Rule == 0 {
								t.Fatalf("seed %d: %v to %v %v: the spoke says %+v, the hub %+v\n%s\n%s", seed, pair[0], pair[1], port, got, want, text, p.Text())
							}
						}
					}
				}
			}
		}
	}
}

func TestBadSlice(t *testing.T) {
	good := func() *Slice {
		return &Slice{V4: testV4, V6: testV6, Sets: [][]SlicePort{{}, {{Port: tcpPort(80), Rule: 1}}}, Nodes: []SliceNode{{Index: 300, Reach: []Reach{{First: 1, Last: 9, In: 1, Out: 0}, {First: 20, Last: 20, In: 0, Out: 1}}}}}
	}
	if _, err := good().Filter(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Slice){
		"no plan":        func(s *Slice) { s.V4 = netip.Prefix{} },
		"no node":        func(s *Slice) { s.Nodes = nil },
		"node 0":         func(s *Slice) { s.Nodes[0].Index = 0 },
		"broadcast":      func(s *Slice) { s.Nodes[0].Index = 65535 },
		"node twice":     func(s *Slice) { s.Nodes = append(s.Nodes, s.Nodes[0]) },
		"no such set":    func(s *Slice) { s.Nodes[0].Reach[0].In = 2 },
		"negative set":   func(s *Slice) { s.Nodes[0].Reach[0].Out = -1 },
		"backwards":      func(s *Slice) { s.Nodes[0].Reach[0].First = 10 },
		"overlap":        func(s *Slice) { s.Nodes[0].Reach[1].First = 9 },
		"reaches 0":      func(s *Slice) { s.Nodes[0].Reach[0].First = 0 },
		"reaches all":    func(s *Slice) { s.Nodes[0].Reach[1].Last = 65535 },
		"protocol":       func(s *Slice) { s.Sets[1][0].Proto = 99 },
		"ports":          func(s *Slice) { s.Sets[1][0].Last = 79 },
		"too many nodes": func(s *Slice) { s.Nodes = make([]SliceNode, maxSliceNodes+1) },
	} {
		s := good()
		change(s)
		if f, err := s.Filter(); err == nil || f != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	var none *Slice
	if f, err := none.Filter(); err == nil || f != nil {
		t.Error("no slice is accepted")
	}
}

func TestMayTag(t *testing.T) {
	p := mustParse(t, homePolicy)
	for _, tt := range []struct {
		owner, tag string
		want       bool
	}{{"ann", "tag:speaker", true}, {"ann", "tag:gpu", true}, {"bob", "tag:gpu", false}, {"ann", "tag:none", false}, {"", "tag:gpu", false}} {
		if got := p.MayTag(tt.owner, tt.tag); got != tt.want {
			t.Errorf("%s %s: %v", tt.owner, tt.tag, got)
		}
	}
}

// TestDocumentedPolicy keeps the example of docs/policy.md true.
func TestDocumentedPolicy(t *testing.T) {
	text, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "## A whole policy\n\n```\n")
	example, _, ok2 := strings.Cut(rest, "```")
	if !ok || !ok2 {
		t.Fatal("no example found")
	}
	w := homeWorld()
	p := mustParse(t, example)
	agree(t, mustCompile(t, example, w), p, w)
}
