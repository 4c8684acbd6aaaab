package acl

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/warrenmesh/warren/peer"
)

// benchWorld is a mesh of n machines as a large company might have it: a user
// for each 30 machines (at least 5), a third of the machines tagged with one
// or two of 60 tags, 5 households, 40 services.
func benchWorld(n int) *World {
	r := rand.New(rand.NewPCG(7, uint64(n)))
	w := &World{V4: testV4, V6: testV6, Admin: "u0", Services: builtinServices()}
	users := max(5, n/30)
	for i := range n {
		owner, household := fmt.Sprintf("u%d", r.IntN(users)), ""
		if r.IntN(2) == 0 {
			household = fmt.Sprintf("h%d", i%5)
		}
		p := testPeer(uint16(256+i), fmt.Sprintf("p%d", i), owner, household)
		if r.IntN(3) == 0 {
			p.Tags = []string{fmt.Sprintf("tag:t%d", r.IntN(60))}
			if r.IntN(2) == 0 {
				p.Tags = append(p.Tags, fmt.Sprintf("tag:t%d", r.IntN(60)))
			}
		}
		p.PublicKey = peer.PublicKey{byte(i), byte(i >> 8), 1}
		w.Peers = append(w.Peers, p)
	}
	for i := range 40 {
		w.Services = append(w.Services, testService(uint16(60+i), fmt.Sprintf("s%d", i), tcpPort(443), tcpPort(uint16(8000+i))))
	}
	return w
}

// benchPolicy has rules of every kind, each with ports of its own.
func benchPolicy(n, rules int) []byte {
	r := rand.New(rand.NewPCG(8, uint64(n)))
	users := max(5, n/30)
	user := func() string { return fmt.Sprintf("u%d@", r.IntN(users)) }
	groups := map[string][]string{"group:admin": {"u0@"}}
	for i := range 50 {
		for range 1 + users/40 {
			name := fmt.Sprintf("group:g%d", i)
			groups[name] = append(groups[name], user())
		}
	}
	tags := map[string][]string{}
	for i := range 60 {
		tags[fmt.Sprintf("tag:t%d", i)] = []string{"group:admin"}
	}
	src := func() string {
		switch r.IntN(10) {
		case 0:
			return "autogroup:member"
		case 1, 2, 3:
			return fmt.Sprintf("group:g%d", r.IntN(50))
		case 4, 5:
			return user()
		case 6, 7:
			return fmt.Sprintf("tag:t%d", r.IntN(60))
		case 8:
			return fmt.Sprintf("household:h%d", r.IntN(5))
		}
		return fmt.Sprintf("p%d", r.IntN(n))
	}
	dst := func() string {
		switch r.IntN(10) {
		case 0, 1, 2:
			return fmt.Sprintf("svc:s%d", r.IntN(40))
		case 3, 4, 5:
			return fmt.Sprintf("tag:t%d", r.IntN(60))
		case 6:
			return fmt.Sprintf("group:g%d", r.IntN(50))
		case 7:
			return "autogroup:self"
		case 8:
			return fmt.Sprintf("10.77.%d.0/24", r.IntN(1+n/256))
		}
		return fmt.Sprintf("p%d", r.IntN(n))
	}
	var acls []map[string]any
	for range rules {
		port := 1 + r.IntN(9000)
		acls = append(acls, map[string]any{
			"action": "accept", "src": []string{src(), src()},
			"dst": []string{fmt.Sprintf("%s:%d-%d", dst(), port, port+r.IntN(20)), fmt.Sprintf("%s:443", dst())},
		})
	}
	text, err := json.Marshal(map[string]any{
		"groups": groups, "tagOwners": tags, "acls": acls,
		"households": map[string][]string{"h0": {"u0@", "u1@"}, "h1": {"u2@"}, "h2": {}, "h3": {}, "h4": {}},
		"never":      []map[string]any{{"src": []string{"household:h4"}, "dst": []string{"svc:console:*"}}},
	})
	if err != nil {
		panic(err)
	}
	return text
}

var benchSizes = []int{10, 1000, 10000}

const benchRules = 1000

// BenchmarkLookup draws pairs at random from the whole mesh, so that caches
// help no more than they would.
func BenchmarkLookup(b *testing.B) {
	for _, n := range benchSizes {
		w := benchWorld(n)
		f, _ := Recompile(mustParse(b, string(benchPolicy(n, benchRules))), w)
		type ask struct {
			src, dst uint16
			port     uint16
		}
		var asks [2][]ask
		r := rand.New(rand.NewPCG(9, 9))
		placed := f.placed()
		for len(asks[0]) < 4096 || len(asks[1]) < 4096 {
			a := ask{placed[r.IntN(len(placed))].index, placed[r.IntN(len(placed))].index, uint16(443)}
			if r.IntN(2) == 0 {
				a.port = uint16(1 + r.IntN(9000))
			}
			k := 1
			if f.lookup(a.src, a.dst, ProtoTCP, a.port).Allow {
				k = 0
			}
			if len(asks[k]) < 4096 {
				asks[k] = append(asks[k], a)
			}
		}
		for k, name := range []string{"allowed", "refused", "allowed-busy", "refused-busy"} {
			mask := 4095
			if k > 1 {
				mask = 63 // as many conversations as are busy at one moment
			}
			k %= 2
			b.Run(fmt.Sprintf("%s/peers=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				i, list := 0, asks[k]
				for b.Loop() {
					a := &list[i&mask]
					i++
					if f.lookup(a.src, a.dst, ProtoTCP, a.port).Allow != (k == 0) {
						b.Fatal("the verdict changed")
					}
				}
			})
		}
	}
}

// BenchmarkCompile includes proofs; the text is parsed beforehand, as it is
// when the world changes.
func BenchmarkCompile(b *testing.B) {
	for _, n := range benchSizes {
		w := benchWorld(n)
		p := mustParse(b, string(benchPolicy(n, benchRules)))
		b.Run(fmt.Sprintf("peers=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Compile(p, w); err != nil {
					b.Fatal(err)
				}
			}
			f, _ := Compile(p, w)
			b.ReportMetric(float64(len(f.sources)/f.words), "sources")
			b.ReportMetric(float64(len(f.dsts)), "destinations")
			b.ReportMetric(float64(len(f.segments)), "segments")
		})
	}
}

func BenchmarkParsePolicy(b *testing.B) {
	text := benchPolicy(10000, benchRules)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSlice(b *testing.B) {
	for _, n := range benchSizes {
		w := benchWorld(n)
		f, _ := Recompile(mustParse(b, string(benchPolicy(n, benchRules))), w)
		b.Run(fmt.Sprintf("peers=%d", n), func(b *testing.B) {
			for b.Loop() {
				if f.Slice("id-p3") == nil {
					b.Fatal("no slice")
				}
			}
		})
	}
}
