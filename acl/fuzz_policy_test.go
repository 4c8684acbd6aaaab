package acl

import (
	"errors"
	"strings"
	"testing"

	"github.com/tailscale/hujson"
)

// FuzzPolicy holds three laws for every text. An error is an *Error with a
// place, in one short sentence, and nothing comes with it. What parses parses
// again from Text, and in the layout a formatter would give it, to a filter
// with the same verdicts. And every filter agrees with the reference.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(homePolicy))
	f.Add(DefaultPolicy("ann"))
	f.Add([]byte("{}"))
	for _, tt := range refusals {
		if len(tt.text) < 4096 {
			f.Add([]byte(tt.text))
		}
	}
	f.Add([]byte(`{"acls":[{"action":"accept","src":["*"],"dst":["*:*","autogroup:self:1","[fd77:1:2:3::130]:7"]}],"never":[{"src":["*"],"dst":["*:5"]}]}`))
	w := homeWorld()
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err != nil {
			var e *Error
			if p != nil || !errors.As(err, &e) || e.Line < 1 || e.Column < 1 || len(e.Msg) > 500 || strings.ContainsRune(e.Msg, '\n') {
				t.Fatalf("policy %v, error %q", p != nil, err)
			}
			return
		}
		filter, _ := Recompile(p, w)
		if strict, err := Compile(p, w); err != nil && strict != nil {
			t.Fatal("a filter beside an error")
		}
		again, err := Parse(p.Text())
		if err != nil {
			t.Fatalf("the text of a policy does not parse: %v", err)
		}
		pretty, err := hujson.Format(p.Text())
		if err != nil {
			t.Fatal(err)
		}
		formatted, err := Parse(pretty)
		if err != nil && len(pretty) <= MaxPolicy {
			t.Fatalf("a formatted policy does not parse: %v\n%s", err, pretty)
		}
		for _, q := range []*Policy{again, formatted} {
			if q == nil {
				continue
			}
			g, _ := Recompile(q, w)
			if d := Diff(filter, g, nil); !d.Empty() {
				t.Fatalf("the same policy differs:\n%v", d)
			}
		}
		if len(text) < 4096 {
			sample(t, filter, p, w)
		}
	})
}

// sample is agree on fewer pairs.
func sample(t *testing.T, f *Filter, p *Policy, w *World) {
	for i := range w.Peers {
		for j := range w.Services {
			src, dst := w.Peers[i].V4, w.Services[j].V4
			for _, pair := range [][2]int{{i, (i + j) % len(w.Peers)}} {
				a, b := w.Peers[pair[0]].V6, w.Peers[pair[1]].V6
				for _, port := range []Port{tcpPort(443), udpPort(53), {Proto: ProtoICMP}} {
					if got, want := judge(f, src, dst, port.Proto, port.First).Allow, refAllowed(p, w, src, dst, port.Proto, port.First); got != want {
						t.Fatalf("%v to %v %v: filter %v, reference %v\n%s", src, dst, port, got, want, p.Text())
					}
					if got, want := judge(f, a, b, port.Proto, port.First).Allow, refAllowed(p, w, a, b, port.Proto, port.First); got != want {
						t.Fatalf("%v to %v %v: filter %v, reference %v\n%s", a, b, port, got, want, p.Text())
					}
				}
			}
		}
	}
}

// FuzzSelector: what parses is printed so that it parses to the same.
func FuzzSelector(f *testing.F) {
	for _, s := range []string{"*", "ann@", "ann@example.org", "user:ann", "group:a", "tag:a", "household:a", "svc:a", "svc:*", "peer:a", "a", "10.77.0.0/16", "fd77::/64", "[fd77::1]", "autogroup:self", "autogroup:member", "::ffff:1.2.3.4", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSelector(text)
		if err != nil {
			if s != (selector{}) || len(err.Error()) > 500 {
				t.Fatalf("%v beside %q", s, err)
			}
			return
		}
		again, err := parseSelector(s.String())
		if err != nil || again != s {
			t.Fatalf("%q is %v, which reads as %v, %v", text, s, again, err)
		}
	})
}

// FuzzPorts: ranges stay inside 1 to 65535 and in order, and merging them
// changes no port.
func FuzzPorts(f *testing.F) {
	for _, s := range []string{"*", "80", "80,443", "10700-10710,22", "0", "65536", "80-20", "1-65535", "1-,2", " 1"} {
		f.Add(s, uint16(80))
	}
	f.Fuzz(func(t *testing.T, text string, port uint16) {
		list, err := parsePorts(text, nil)
		if err != nil {
			if list != nil || len(err.Error()) > 500 {
				t.Fatalf("%v beside %q", list, err)
			}
			return
		}
		covered := false
		for _, p := range list {
			if p.Proto != ProtoICMP && (p.First == 0 || p.Last < p.First) {
				t.Fatalf("%q gives %v", text, p)
			}
			covered = covered || p.Proto == ProtoTCP && p.First <= port && port <= p.Last
		}
		merged := rangesOf(list, 1)
		for i := 1; i < len(merged); i++ {
			if merged[i].first <= merged[i-1].last {
				t.Fatalf("%q gives overlapping %v", text, merged)
			}
		}
		if got := searchRanges(merged, portKey(ProtoTCP, port)) != nil; got != covered {
			t.Fatalf("%q and port %d: merged %v, listed %v", text, port, got, covered)
		}
	})
}
