package acl

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer"
)

// nothing checks that a filter allows no packet between any two machines, but
// for what except says.
func nothing(t *testing.T, f *Filter, w *World, except func(src, dst string, port Port) bool) {
	t.Helper()
	names := []string{}
	for _, p := range w.Peers {
		names = append(names, p.Name)
	}
	for _, s := range w.Services {
		names = append(names, "svc:"+s.Name)
	}
	for _, src := range names {
		for _, dst := range names {
			for _, port := range []Port{tcpPort(80), tcpPort(443), tcpPort(22), udpPort(53), {Proto: ProtoICMP}} {
				v := judge(f, where(t, w, src), where(t, w, dst), port.Proto, port.First)
				if want := except != nil && except(src, dst, port); v.Allow != want {
					t.Errorf("%s to %s %v: %+v, want allowed %v", src, dst, port, v, want)
				}
			}
		}
	}
}

func TestA01_NoPolicy(t *testing.T) {
	w := homeWorld()
	admin := func(src, dst string, port Port) bool {
		return (src == "ann-laptop" || src == "ann-phone") && dst == "svc:console" && port == tcpPort(80)
	}
	t.Run("nil filter", func(t *testing.T) {
		var f *Filter
		nothing(t, f, w, nil)
		if r := f.lookup(1, 2, ProtoTCP, 80).Reason; r != ReasonNoPolicy {
			t.Errorf("reason %v", r)
		}
		if f.Slice("id-kitchen") != nil || f.Grants(w.Peers[0].V4, w.Peers[1].V4) != nil || f.Reaches(w.Peers[0].V4, w.Peers[1].V4) {
			t.Error("a nil filter gives something away")
		}
	})
	t.Run("zero filter", func(t *testing.T) { nothing(t, &Filter{}, w, nil) })
	t.Run("recovery", func(t *testing.T) { nothing(t, Recovery(w), w, admin) })
	t.Run("recovery without an admin", func(t *testing.T) {
		w := homeWorld()
		w.Admin = ""
		nothing(t, Recovery(w), w, nil)
	})
	t.Run("no policy", func(t *testing.T) {
		if f, err := Compile(nil, w); err == nil || f != nil {
			t.Errorf("Compile(nil) gave %v, %v", f, err)
		}
		f, problems := Recompile(nil, w)
		if len(problems) != 1 {
			t.Errorf("problems %v", problems)
		}
		nothing(t, f, w, admin)
	})
	t.Run("empty policy", func(t *testing.T) {
		nothing(t, mustCompile(t, "{}", w), w, func(src, dst string, port Port) bool {
			return src == "invite-1" && dst == "svc:enrol" && port == tcpPort(443) ||
				dst == "svc:sync" && port == tcpPort(80) && !strings.HasPrefix(src, "svc:") && src != "invite-1" && src != "lost-phone"
		})
	})
	t.Run("no world", func(t *testing.T) {
		if f, problems := Recompile(mustParse(t, "{}"), nil); f != nil || len(problems) == 0 {
			t.Error("a filter for no world")
		}
		if f, problems := Recompile(mustParse(t, "{}"), &World{}); f != nil || len(problems) == 0 {
			t.Error("a filter for a world without addresses")
		}
		if Recovery(nil) != nil || Recovery(&World{}) != nil {
			t.Error("a recovery filter for no world")
		}
	})
	t.Run("a peer that calls its service console", func(t *testing.T) {
		w := homeWorld()
		for i := range w.Services {
			if w.Services[i].Name == "console" {
				w.Services[i].Host = "id-gpu"
			}
		}
		nothing(t, Recovery(w), w, nil)
	})
}

func TestA03_UnknownNames(t *testing.T) {
	rule := func(src, dst string) string {
		return fmt.Sprintf(`{"tagOwners":{"tag:speaker":["ann@"]},"hosts":{"kitchen":"10.77.1.48"},"acls":[{"action":"accept","src":[%q],"dst":[%q]}]}`, src, dst)
	}
	for _, tt := range []struct{ src, dst, says string }{
		{"nobody@", "svc:stt", "user nobody@ is unknown"},
		{"ann@example.org", "svc:stt", "user ann@example.org is unknown"},
		{"group:none", "svc:stt", "group:none is unknown"},
		{"autogroup:admin", "svc:stt", "group:admin, which is not declared"},
		{"tag:gpu", "svc:stt", "tag:gpu is unknown"}, // a machine has it, the policy does not
		{"household:none", "svc:stt", "household:none is unknown"},
		{"ann@", "svc:none", "svc:none is no service"},
		{"ann@", "peer:none:80", "peer:none is no machine"},
		{"ann@", "none:80", "none is no machine or host alias"},
		{"ann@", "kitchen:80", `write "peer:kitchen"`}, // both a machine and an alias
		{"ann@", "8.8.8.8:53", "outside the overlay"},
		{"ann@", "[fd88::1]:53", "outside the overlay"},
		{"invite-1", "svc:stt", "invite-1 is no machine"},
	} {
		f, err := Compile(mustParse(t, rule(tt.src, tt.dst)), homeWorld())
		var e *Error
		if f != nil || !errors.As(err, &e) || !strings.Contains(e.Msg, tt.says) || e.Line != 1 || e.Column < 2 {
			t.Errorf("%s to %s: %v, want %q", tt.src, tt.dst, err, tt.says)
		}
		if f, problems := Recompile(mustParse(t, rule(tt.src, tt.dst)), homeWorld()); f == nil || len(problems) == 0 {
			t.Errorf("%s to %s: recompiling reports %v", tt.src, tt.dst, problems)
		}
	}
	for _, text := range []string{
		`{"groups":{"group:a":["nobody@"]}}`, `{"tagOwners":{"tag:a":["group:none"]}}`,
		`{"tests":[{"src":"nobody@","deny":["svc:stt:443"]}]}`, `{"never":[{"src":["nobody@"],"dst":["svc:stt:443"]}]}`,
		`{"tests":[{"src":"ann@","deny":["svc:none:443"]}]}`, `{"hosts":{"x":"172.16.0.1"}}`,
	} {
		if f, err := Compile(mustParse(t, text), homeWorld()); err == nil || f != nil {
			t.Errorf("%s: accepted", text)
		}
	}
}

func TestA04_PolicyTests(t *testing.T) {
	policy := func(tests string) string {
		return `{"households":{"home":["ann@","bob@","zoe@"],"guests":["eve@"],"attic":[]},"tagOwners":{"tag:speaker":["ann@"],"tag:new":["ann@"]},
"acls":[{"action":"accept","src":["ann@","zoe@","tag:new"],"dst":["svc:stt","tag:speaker:22"]},
{"action":"accept","src":["autogroup:member"],"dst":["autogroup:self:22"]}],
"tests":[` + tests + `]}`
	}
	for _, tt := range []struct{ test, says string }{
		{``, ""},
		{`{"src":"ann@","accept":["svc:stt:443"]}`, ""},
		{`{"src":"ann@","accept":["svc:stt:6000-6010"]}`, ""},
		{`{"src":"ann@","accept":["svc:stt"],"deny":["svc:notes:80","bob-phone:22"]}`, ""},
		{`{"src":"ann@","proto":"udp","accept":["svc:stt:6000"],"deny":["tag:speaker:23"]}`, ""},
		{`{"src":"ann@","proto":"icmp","accept":["svc:stt:*"],"deny":["svc:hub:*"]}`, ""},
		{`{"src":"zoe@","accept":["svc:stt:443","kitchen:22"]}`, ""}, // has no machine yet
		{`{"src":"tag:new","accept":["svc:stt:443"]}`, ""},           // nobody bears it yet
		{`{"src":"household:attic","deny":["svc:stt:443"]}`, ""},     // nobody lives there yet
		{`{"src":"ann-phone","accept":["ann-laptop:22"]}`, ""},       // autogroup:self
		{`{"src":"ann@","accept":["tag:speaker:22"]}`, ""},           // the guests' one is out of reach by design
		{`{"src":"lost-phone","accept":["svc:stt:443"]}`, ""},        // quarantine is no policy
		{`{"src":"bob@","accept":["svc:stt:443"]}`, "bob-phone does not reach svc:stt on tcp:443"},
		{`{"src":"ann@","accept":["svc:stt:444"]}`, "does not offer that port"},
		{`{"src":"ann@","proto":"udp","accept":["svc:stt:443"]}`, "does not offer that port"},
		{`{"src":"ann@","accept":["kitchen:20-22"]}`, "does not reach kitchen on tcp:20"},
		{`{"src":"ann@","deny":["svc:stt:443"]}`, "ann-laptop reaches svc:stt on tcp:443, which it should not, by the rule at line 2"},
		{`{"src":"ann@","deny":["svc:stt:*"]}`, "should not"},
		{`{"src":"ann@","deny":["kitchen:1-100"]}`, "reaches kitchen on tcp:22"},
		{`{"src":"ann@","accept":["guest-pi:22"]}`, "different households"},
		{`{"src":"zoe@","accept":["svc:notes:80"]}`, "a new machine of zoe@ does not reach"},
		{`{"src":"10.77.9.9","deny":["svc:stt:443"]}`, "is no machine"},
		{`{"src":"ann@","accept":["10.77.9.9:80"]}`, "is no machine"},
	} {
		p := mustParse(t, policy(tt.test))
		f, err := Compile(p, homeWorld())
		var e *Error
		switch {
		case tt.says == "" && err != nil:
			t.Errorf("%s: %v", tt.test, err)
		case tt.says != "" && (f != nil || !errors.As(err, &e) || !strings.Contains(e.Msg, tt.says) || e.Line != 4):
			t.Errorf("%s: %v, want %q", tt.test, err, tt.says)
		}
		again, problems := Recompile(p, homeWorld())
		if again == nil || (len(problems) > 0) != (tt.says != "") {
			t.Errorf("%s: recompiling reports %v", tt.test, problems)
		}
		agree(t, again, p, homeWorld())
	}
}

// TestA04_DeletedUser keeps a policy in force whose user is gone.
func TestA04_DeletedUser(t *testing.T) {
	text := `{"acls":[{"action":"accept","src":["eve@","bob@"],"dst":["svc:stt"]}],"tests":[{"src":"eve@","accept":["svc:stt:443"]}]}`
	w := homeWorld()
	mustCompile(t, text, w)
	w.Peers = slices.DeleteFunc(w.Peers, func(p peer.Peer) bool { return p.Owner == "eve" })
	if _, err := Compile(mustParse(t, text), w); err == nil {
		t.Error("accepted anew")
	}
	f, problems := Recompile(mustParse(t, text), w)
	if len(problems) != 2 || !strings.Contains(problems[0].Msg, "eve@ is unknown") || problems[0].Line != 1 {
		t.Errorf("problems: %v", problems)
	}
	if !judge(f, where(t, w, "bob-phone"), where(t, w, "svc:stt"), ProtoTCP, 443).Allow {
		t.Error("bob lost what is his")
	}
	agree(t, f, mustParse(t, text), w)
}

// TestA05_OneWholePolicy compares two policies pair by pair: X under the
// first, Y under the second, and no filter knows both. That packets meet one
// filter only is the gate's to show.
func TestA05_OneWholePolicy(t *testing.T) {
	w := homeWorld()
	rule := `{"acls":[{"action":"accept","src":["ann@"],"dst":["svc:%s"]}]}`
	x, y := mustCompile(t, fmt.Sprintf(rule, "stt"), w), mustCompile(t, fmt.Sprintf(rule, "notes"), w)
	for range 200 {
		for i, f := range []*Filter{x, y} {
			stt := judge(f, where(t, w, "ann-phone"), where(t, w, "svc:stt"), ProtoTCP, 443).Allow
			notes := judge(f, where(t, w, "ann-phone"), where(t, w, "svc:notes"), ProtoTCP, 80).Allow
			if stt != (i == 0) || notes != (i == 1) {
				t.Fatalf("filter %d: stt %v, notes %v", i, stt, notes)
			}
		}
	}
}

// TestMeshE27_AbsentMeansRevoked builds the same world in any order, by
// snapshot and step by step, and finds the same filter.
func TestMeshE27_AbsentMeansRevoked(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 27))
		w := randomWorld(r, 14)
		p := mustParse(t, randomPolicy(r, 14, 8))
		full, _ := Recompile(p, w)
		shuffled := *w
		shuffled.Peers, shuffled.Services = slices.Clone(w.Peers), slices.Clone(w.Services)
		r.Shuffle(len(w.Peers), func(i, j int) { shuffled.Peers[i], shuffled.Peers[j] = shuffled.Peers[j], shuffled.Peers[i] })
		r.Shuffle(len(w.Services), func(i, j int) {
			shuffled.Services[i], shuffled.Services[j] = shuffled.Services[j], shuffled.Services[i]
		})
		if again, _ := Recompile(p, &shuffled); !reflect.DeepEqual(full, again) {
			t.Fatalf("seed %d: the order of the world makes a difference", seed)
		}
		// One peer comes and goes; others come and go around it.
		less := *w
		gone := r.IntN(len(w.Peers))
		less.Peers = slices.Delete(slices.Clone(w.Peers), gone, gone+1)
		without, _ := Recompile(p, &less)
		back, _ := Recompile(p, w)
		if !reflect.DeepEqual(full, back) {
			t.Fatalf("seed %d: a peer that went and came back makes a difference", seed)
		}
		agree(t, without, p, &less)
		for _, a := range everyone(w) {
			for _, addr := range []struct{ src, dst bool }{{true, false}, {false, true}} {
				src, dst := a, w.Peers[gone].V4
				if addr.src {
					src, dst = dst, src
				}
				if judge(without, src, dst, ProtoTCP, 80).Allow {
					t.Fatalf("seed %d: %s is absent and still reached", seed, w.Peers[gone].Name)
				}
			}
		}
	}
}

// TestMeshE28_BadPolicy shows that a bad policy leaves nothing behind that
// could be put in force.
func TestMeshE28_BadPolicy(t *testing.T) {
	good := []byte(homePolicy)
	for cut := 1; cut < len(good)-1; cut += 7 {
		if p, err := Parse(good[:len(good)-1-cut]); err == nil || p != nil {
			t.Errorf("a policy cut to %d bytes is accepted", len(good)-1-cut)
		}
	}
	failing := strings.Replace(homePolicy, `"deny": ["svc:console:80"]`, `"accept": ["svc:console:80"]`, 1)
	if f, err := Compile(mustParse(t, failing), homeWorld()); err == nil || f != nil {
		t.Error("a failing test does not block the policy")
	}
	breaking := strings.Replace(homePolicy, `"src": ["group:admin"], "dst": ["svc:*"`, `"src": ["autogroup:member"], "dst": ["svc:*"`, 1)
	f, err := Compile(mustParse(t, breaking), homeWorld())
	if f != nil || err == nil || !strings.Contains(err.Error(), "never") && !strings.Contains(err.Error(), "should not") {
		t.Errorf("a broken never does not block the policy: %v", err)
	}
}

// TestT01_Households tries everything a rule can say to join two households.
func TestT01_Households(t *testing.T) {
	w := homeWorld()
	text := `{"households":{"home":["ann@","bob@"],"guests":["eve@"]},"tagOwners":{"tag:speaker":["ann@"],"tag:gpu":["ann@"]},
	"acls":[{"action":"accept","src":["*","household:home","household:guests","0.0.0.0/0"],"dst":["*:*","household:home:*","household:guests:*","kitchen:*","autogroup:same-household:*"]}],
	"grants":[{"src":["*"],"dst":["*"],"ip":["*"],"app":{"a.b/c":[1]}}]}`
	// A service of the home's speaker belongs to the home.
	radio := testService(13, "radio", tcpPort(80))
	radio.Host = "id-kitchen"
	w.Services = append(w.Services, radio)
	f := mustCompile(t, text, w)
	home := []string{"ann-laptop", "ann-phone", "bob-phone", "kitchen", "svc:radio"}
	guests := []string{"guest-phone", "guest-pi"}
	for _, a := range home {
		for _, b := range guests {
			for _, pair := range [][2]string{{a, b}, {b, a}} {
				src, dst := where(t, w, pair[0]), where(t, w, pair[1])
				for _, proto := range []Proto{ProtoTCP, ProtoUDP, ProtoICMP} {
					for port := uint16(1); port < 65000; port += 79 {
						if v := judge(f, src, dst, proto, port); v.Allow || v.Reason != ReasonCrossHousehold {
							t.Fatalf("%s to %s %v/%d: %+v", pair[0], pair[1], proto, port, v)
						}
					}
				}
				if f.Grants(src, dst) != nil || f.Reaches(src, dst) {
					t.Errorf("%s has something on %s", pair[0], pair[1])
				}
			}
		}
	}
	// Not because nothing works.
	if !judge(f, where(t, w, "ann-phone"), where(t, w, "kitchen"), ProtoTCP, 1).Allow || !judge(f, where(t, w, "guest-pi"), where(t, w, "gpu"), ProtoTCP, 1).Allow {
		t.Error("within a household, or with a machine for all, the rule does not hold")
	}
	// A household of its own outranks where its owner lives.
	w.Peers[1].Household = "guests"
	f = mustCompile(t, text, w)
	if judge(f, where(t, w, "ann-phone"), where(t, w, "kitchen"), ProtoTCP, 1).Allow {
		t.Error("a machine in the guests' household reaches the home because its owner lives there")
	}
}

// TestOddWorlds: what does not fit its address plan is nobody.
func TestOddWorlds(t *testing.T) {
	for name, change := range map[string]func(*World){
		"two at one address": func(w *World) { w.Peers[0].V4, w.Peers[0].V6 = w.Peers[1].V4, w.Peers[1].V6 },
		"addresses disagree": func(w *World) { w.Peers[0].V6 = w.Peers[1].V6 },
		"outside": func(w *World) {
			w.Peers[0].V4 = where(t, &World{Peers: []peer.Peer{{Name: "x", V4: testV4.Addr()}}}, "x")
		},
		"peer at a service":      func(w *World) { w.Peers[0].V4, w.Peers[0].V6 = w.Services[3].V4, w.Services[3].V6 },
		"no address":             func(w *World) { w.Peers[0].V4 = w.Peers[0].V4.Prev(); w.Peers[0].V6 = w.Peers[0].V6.Next() },
		"the broadcast address":  func(w *World) { w.Peers[0].V4, w.Peers[0].V6 = testAddr4(65535), testAddr6(65535) },
		"an overlay of loopback": func(w *World) { w.Peers[0].V6 = w.Peers[0].V6.WithZone("eth0") },
	} {
		w := homeWorld()
		change(w)
		if f, err := Compile(mustParse(t, homePolicy), w); err == nil || f != nil {
			t.Errorf("%s: accepted", name)
		}
		f, problems := Recompile(mustParse(t, homePolicy), w)
		if f == nil || len(problems) == 0 {
			t.Fatalf("%s: problems %v", name, problems)
		}
		for _, m := range f.machines {
			if m.name == w.Peers[0].Name {
				t.Errorf("%s: %s is on the mesh all the same", name, m.name)
			}
		}
	}
}
