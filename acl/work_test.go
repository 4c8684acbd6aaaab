package acl

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestTestsReference holds the tests' short cuts against asking about every pair
// of machines, on random policies and worlds.
func TestTestsReference(t *testing.T) {
	sels := []string{
		"*", "autogroup:member", "autogroup:admin", "u0@", "u1@", "u2@", "group:g0", "tag:a", "tag:b", "household:h0",
		"household:h1", "household:h2", "p0", "p1", "p2", "p3", "svc:*", "svc:sync", "svc:console", "10.77.1.0/24",
	}
	ports := []string{"80", "443", "*", "22", "1-100", "65535"}
	held := 0
	for seed := range uint64(120) {
		r := rand.New(rand.NewPCG(seed, 3))
		c := &compiler{p: mustParse(t, randomPolicy(r, 12, 1+r.IntN(12))), world: randomWorld(r, 12)}
		if err := c.compile(); err != nil {
			t.Fatal(err)
		}
		for range 150 {
			src, err := parseSelector(sels[r.IntN(len(sels))])
			if err != nil {
				t.Fatal(err)
			}
			to, err := parseTarget(sels[r.IntN(len(sels))]+":"+ports[r.IntN(len(ports))], nil)
			if err != nil {
				t.Fatal(err)
			}
			from, accept := c.standIns(src), r.IntN(2) == 0
			met, ok := false, true
			for _, s := range from {
				for _, d := range c.standIns(to.sel) {
					if s == d && !s.ghost() || accept && !compatible(s, d) {
						continue
					}
					met = true
					ok = ok && c.runPair(s, d, to, accept) == nil
				}
			}
			if accept {
				ok = ok && met
			}
			if len(from) == 0 {
				continue
			}
			if got := c.runTarget(from, to, accept); (got == nil) != ok {
				t.Fatalf("seed %d: %v to %v, accept %v: the test says %v, every pair says %v\n%s", seed, src, to.sel, accept, got, ok, c.p.Text())
			}
			if ok {
				held++
			}
		}
	}
	if held < 1000 {
		t.Errorf("only %d of the random tests held", held)
	}
}

// TestD06_TestsAtSize: what a hub does at every change must not take long
// because somebody wrote a test about everybody.
func TestD06_TestsAtSize(t *testing.T) {
	w, text := benchWorld(10000), string(benchPolicy(10000, 200))
	tests := `{"tests":[{"src":"household:h1","deny":["autogroup:member:9999"]},{"src":"*","deny":["tag:t2:9998"]}],`
	c := &compiler{p: mustParse(t, strings.Replace(text, `{`, tests, 1)), world: w, strict: true}
	if err := c.compile(); err != nil {
		t.Fatal(err)
	}
	if err := c.runTests(); err != nil {
		t.Fatal(err)
	}
	if c.work > maxWork/16 {
		t.Errorf("the tests cost %d, %d is the most for the worst policy", c.work, maxWork)
	}
}

// TestD06_EndlessProofs: a policy whose proofs would take hours is refused when
// somebody writes it; if the world made it so, the nevers hold unproven.
func TestD06_EndlessProofs(t *testing.T) {
	const n = 10000
	w := &World{V4: testV4, V6: testV6, Admin: "a", Services: builtinServices()}
	var rules []string
	for i := range n {
		owner, household := "a", "x"
		if i%2 == 1 {
			owner, household = "b", "y"
			rules = append(rules, fmt.Sprintf(`{"action":"accept","src":["p%d"],"dst":["p%d:1"]}`, i-1, i))
		}
		w.Peers = append(w.Peers, testPeer(uint16(256+i), fmt.Sprintf("p%d", i), owner, household))
	}
	never := strings.Repeat(`,{"src":["household:x"],"dst":["household:y:1"]}`, 40)
	p := mustParse(t, `{"households":{"x":["a@"],"y":["b@"]},"acls":[`+strings.Join(rules, ",")+`],"never":[`+never[1:]+`]}`)
	if _, err := Compile(p, w); err == nil || !strings.Contains(err.Error(), "cannot be proven") {
		t.Errorf("compiling says %v", err)
	}
	f, problems := Recompile(p, w)
	if f == nil || len(problems) == 0 {
		t.Fatalf("recompiling gives %v, %v", f, problems)
	}
	if v := judge(f, testAddr4(256), testAddr4(257), ProtoTCP, 1); v.Allow {
		t.Error("what a never forbids is allowed because it was not proven")
	}
}

// TestA02_OverlapsAtSize: texts within the size limit that would cost gigabytes
// or many seconds are refused soon.
func TestA02_OverlapsAtSize(t *testing.T) {
	w := &World{V4: testV4, V6: testV6, Admin: "a", Services: builtinServices()}
	for i := range 10000 {
		w.Peers = append(w.Peers, testPeer(uint16(256+i), fmt.Sprintf("p%d", i), "a", ""))
	}
	for i := range 40 {
		w.Services = append(w.Services, testService(uint16(60+i), fmt.Sprintf("s%d", i), Port{ProtoTCP, uint16(1 + i), uint16(65535 - i)}))
	}
	var nested, groups, members []string
	for i := range 11000 {
		nested = append(nested, fmt.Sprintf(`{"action":"accept","src":["*"],"dst":["*:%d-%d"]}`, 1+i, 65535-i))
		groups = append(groups, fmt.Sprintf(`"group:%d":["a@"]`, i))
		members = append(members, fmt.Sprintf(`{"action":"accept","src":["group:%d"],"dst":["group:%d:1"]}`, i, i))
	}
	for name, text := range map[string]string{
		"nested ranges": `{"acls":[` + strings.Join(nested, ",") + `]}`,
		"equal groups":  `{"groups":{` + strings.Join(groups, ",") + `},"acls":[` + strings.Join(members, ",") + `]}`,
	} {
		if _, err := Compile(mustParse(t, text), w); !errors.Is(err, errMatrix) {
			t.Errorf("%s: compiling says %v", name, err)
		}
	}
}
