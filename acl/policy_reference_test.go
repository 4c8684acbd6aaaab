package acl

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer"
)

// refSide is one end of a packet as the reference sees it.
type refSide struct {
	peer      *peer.Peer
	service   *Service
	host      *peer.Peer
	owner     string
	household string
	tags      []string
}

func refFind(p *Policy, w *World, a netip.Addr) *refSide {
	if !a.IsValid() {
		return nil
	}
	person := func(q *peer.Peer) *refSide {
		s := &refSide{peer: q, household: q.Household, tags: q.Tags}
		if len(q.Tags) == 0 && q.Kind != peer.KindInvite {
			s.owner = q.Owner
			if s.household == "" {
				for _, h := range p.households {
					for _, m := range h.members {
						if m.name == q.Owner && q.Owner != "" {
							s.household = h.name
						}
					}
				}
			}
		}
		return s
	}
	for i := range w.Peers {
		if w.Peers[i].Has(a) {
			return person(&w.Peers[i])
		}
	}
	for i := range w.Services {
		v := &w.Services[i]
		if v.V4 != a && v.V6 != a {
			continue
		}
		s := &refSide{service: v}
		if v.Host == "" {
			return s
		}
		for j := range w.Peers {
			if w.Peers[j].ID == v.Host {
				s.host = &w.Peers[j]
				s.household = person(s.host).household
			}
		}
		return s
	}
	return nil
}

// v4 is the address that stands for the machine.
func (s *refSide) addrs() (netip.Addr, netip.Addr) {
	if s.peer != nil {
		return s.peer.V4, s.peer.V6
	}
	return s.service.V4, s.service.V6
}

func (s *refSide) dead() bool {
	switch {
	case s.peer != nil:
		return s.peer.Quarantined
	case s.service.Host != "":
		return s.host == nil || s.host.Quarantined || s.host.Kind == peer.KindInvite
	}
	return false
}

func refMatches(p *Policy, w *World, sel selector, s, other *refSide) bool {
	isUser := func(owner, group string) bool {
		for _, g := range p.groups {
			for _, m := range g.members {
				if g.name == group && m.name == owner {
					return true
				}
			}
		}
		return false
	}
	named := 0
	for i := range w.Peers {
		if w.Peers[i].Name == sel.name && w.Peers[i].Kind != peer.KindInvite {
			named++
		}
	}
	within := func(pre netip.Prefix) bool {
		four, six := s.addrs()
		return pre.Contains(four) || pre.Contains(six)
	}
	switch sel.kind {
	case selAll:
		return true
	case selMember:
		return s.owner != ""
	case selAdmin:
		return s.owner != "" && isUser(s.owner, "group:admin")
	case selGroup:
		return s.owner != "" && isUser(s.owner, sel.name)
	case selUser:
		return s.owner != "" && s.owner == sel.name
	case selTag:
		return slices.Contains(s.tags, sel.name)
	case selHousehold:
		return s.peer != nil && s.household == sel.name
	case selService:
		return s.service != nil && (sel.name == "" || s.service.Name == sel.name)
	case selPeer:
		return s.peer != nil && s.peer.Name == sel.name && named == 1
	case selWord:
		for _, h := range p.hosts {
			if h.name == sel.name {
				return named == 0 && within(h.sel.prefix)
			}
		}
		return s.peer != nil && s.peer.Name == sel.name && named == 1
	case selPrefix:
		return within(sel.prefix)
	case selSelf:
		return s.peer != nil && s.owner != "" && s.owner == other.owner
	case selSameHousehold:
		return s.peer != nil && s.household != "" && s.household == other.household
	}
	return false
}

// refAllowed is the policy language said slowly: no classes, no matrix, every
// rule looked at for every packet. It must agree with Filter.lookup always.
func refAllowed(p *Policy, w *World, src, dst netip.Addr, proto Proto, port uint16) bool {
	s, d := refFind(p, w, src), refFind(p, w, dst)
	if s == nil || d == nil || s.dead() || d.dead() {
		return false
	}
	fromInvite := s.peer != nil && s.peer.Kind == peer.KindInvite
	toEnrol := d.service != nil && d.service.Name == "enrol" && d.service.Host == ""
	if fromInvite || toEnrol {
		return fromInvite && toEnrol && proto == ProtoTCP && port == 443
	}
	if d.peer != nil && d.peer.Kind == peer.KindInvite || s.service != nil && s.service.Name == "enrol" && s.service.Host == "" {
		return false
	}
	if s.household != "" && d.household != "" && s.household != d.household {
		return false
	}
	covers := func(ports []Port) bool {
		return slices.ContainsFunc(ports, func(q Port) bool {
			return q.Proto == proto && (proto == ProtoICMP || q.First <= port && port <= q.Last)
		})
	}
	if d.service != nil && proto != ProtoICMP && !covers(d.service.Ports) {
		return false
	}
	hits := func(r *rule, s *refSide) bool {
		if !slices.ContainsFunc(r.src, func(sel selector) bool { return refMatches(p, w, sel, s, d) }) {
			return false
		}
		return slices.ContainsFunc(r.dst, func(t target) bool { return refMatches(p, w, t.sel, d, s) && covers(t.ports) })
	}
	for i := range p.nevers {
		// What a machine offers has an address of its own, and the machine
		// speaks from it.
		if hits(&p.nevers[i], s) || s.host != nil && hits(&p.nevers[i], refFind(p, w, s.host.V4)) {
			return false
		}
	}
	if s.peer != nil && d.service != nil && d.service.Name == "sync" && d.service.Host == "" && proto == ProtoTCP && port == 80 {
		return true
	}
	for i := range p.rules {
		if hits(&p.rules[i], s) {
			return true
		}
	}
	return false
}

// randomWorld makes a mesh of n peers in which everything may be odd.
func randomWorld(r *rand.Rand, n int) *World {
	w := &World{V4: testV4, V6: testV6, Admin: "u0", Services: builtinServices()}
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	for i := range n {
		p := testPeer(uint16(300+i*3), fmt.Sprintf("p%d", i), pick("", "u0", "u1", "u2", "u3"), pick("", "", "h0", "h1", "h2"))
		for _, tag := range []string{"tag:a", "tag:b", "tag:c"} {
			if r.IntN(4) == 0 {
				p.Tags = append(p.Tags, tag)
			}
		}
		switch r.IntN(12) {
		case 0:
			p.Quarantined = true
		case 1:
			p.Kind = peer.KindInvite
		}
		w.Peers = append(w.Peers, p)
	}
	for i := range 4 {
		s := testService(uint16(10+i), fmt.Sprintf("s%d", i), tcpPort(80), Port{ProtoTCP, 440, uint16(440 + i)}, udpPort(uint16(50+i)))
		if r.IntN(2) == 0 {
			s.Host = peer.ID(fmt.Sprintf("id-p%d", r.IntN(n+1)))
		}
		w.Services = append(w.Services, s)
	}
	return w
}

// randomPolicy makes a policy that fits every randomWorld, as text.
func randomPolicy(r *rand.Rand, peers, rules int) string {
	sel := func(dst bool) string {
		list := []string{
			"*", "u0@", "user:u1", "u2@", "group:g0", "group:admin", "tag:a", "tag:b", "tag:c", "household:h0", "household:h1",
			"autogroup:member", "autogroup:admin", "svc:s0", "svc:s1", "svc:*", "svc:console", "svc:hub", "alias", "net",
			"10.77.1.44", "10.77.1.0/25", "fd77:1:2:3::130/124", "[fd77:1:2:3::1a0]", "0.0.0.0/0", "svc:enrol", "svc:sync",
			fmt.Sprintf("p%d", r.IntN(peers)), fmt.Sprintf("peer:p%d", r.IntN(peers)),
		}
		if dst {
			list = append(list, "autogroup:self", "autogroup:same-household")
		}
		return list[r.IntN(len(list))]
	}
	bracket := func(s string) string {
		if strings.Contains(s, "::") && !strings.HasPrefix(s, "[") {
			return "[" + s + "]"
		}
		return s
	}
	sels := func(dst bool) []string {
		var list []string
		for range 1 + r.IntN(3) {
			list = append(list, sel(dst))
		}
		return list
	}
	rule := func(dst bool) map[string]any {
		m := map[string]any{"src": sels(false)}
		var to []string
		ports := []string{"*", "80", "443", "1-100", "22,80,440-442", "50-52", "65535"}
		switch r.IntN(5) {
		case 0:
			m["proto"] = "tcp"
		case 1:
			m["proto"] = "udp"
		case 2:
			m["proto"], ports = "icmp", []string{"*"}
		}
		for range 1 + r.IntN(3) {
			to = append(to, bracket(sel(dst))+":"+ports[r.IntN(len(ports))])
		}
		m["dst"] = to
		return m
	}
	acls, grants, nevers := []map[string]any{}, []map[string]any{}, []map[string]any{}
	for range rules {
		if r.IntN(4) == 0 {
			ips := []string{"*", "tcp:80", "udp:*", "icmp", "443", "tcp:440-442"}
			grants = append(grants, map[string]any{"src": sels(false), "dst": sels(true), "ip": []string{ips[r.IntN(len(ips))]}})
			continue
		}
		m := rule(true)
		m["action"] = "accept"
		acls = append(acls, m)
	}
	for range r.IntN(3) {
		nevers = append(nevers, rule(false))
	}
	text, err := json.MarshalIndent(map[string]any{
		"households": map[string][]string{"h0": {"u0@", "u1@"}, "h1": {"u2@"}, "h2": {}},
		"groups":     map[string][]string{"group:admin": {"u0@"}, "group:g0": {"u1@", "u2@", "u3@"}},
		"tagOwners":  map[string][]string{"tag:a": {"group:admin"}, "tag:b": {"u1@"}, "tag:c": {"u1@"}},
		"hosts":      map[string]string{"alias": "10.77.1.59", "net": "fd77:1:2:3::120/123"},
		"acls":       acls, "grants": grants, "never": nevers,
	}, "", " ")
	if err != nil {
		panic(err)
	}
	return string(text)
}

// everyone lists an address of each machine, and some of nobody.
func everyone(w *World) []netip.Addr {
	list := []netip.Addr{
		{}, netip.MustParseAddr("10.77.200.200"), netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("::ffff:10.77.0.4"),
		netip.MustParseAddr("10.77.0.0"), netip.MustParseAddr("10.77.255.255"), netip.MustParseAddr("fd77:1:2:3:1::4"), netip.MustParseAddr("fd77:1:2:3::1:4"),
	}
	for i := range w.Peers {
		list = append(list, w.Peers[i].V4, w.Peers[i].V6)
	}
	for i := range w.Services {
		list = append(list, w.Services[i].V4, w.Services[i].V6)
	}
	return list
}

// agree compares a filter with the reference on every pair.
func agree(t *testing.T, f *Filter, p *Policy, w *World) {
	t.Helper()
	all := everyone(w)
	for _, src := range all {
		for _, dst := range all {
			for _, port := range []Port{tcpPort(80), tcpPort(443), tcpPort(22), tcpPort(441), tcpPort(65535), udpPort(51), udpPort(80), {Proto: ProtoICMP}} {
				want := refAllowed(p, w, src, dst, port.Proto, port.First)
				if got := judge(f, src, dst, port.Proto, port.First); got.Allow != want {
					t.Fatalf("%v to %v %v: the filter says %+v (%v, %s), the reference %v\n%s",
						src, dst, port, got, got.Reason, f.RuleText(got.Rule), want, p.Text())
				}
			}
		}
	}
}

// TestReference holds the compiled matrix against the obvious evaluator, on
// random policies and worlds. Recompile is used because random nevers seldom
// can be proven; what they forbid stays forbidden all the same.
func TestReference(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := randomWorld(r, 12)
		p := mustParse(t, randomPolicy(r, 12, 1+r.IntN(12)))
		f, _ := Recompile(p, w)
		agree(t, f, p, w)
	}
}
