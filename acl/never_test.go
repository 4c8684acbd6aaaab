package acl

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer"
)

// TestNever proves over classes, machines to come included.
func TestNever(t *testing.T) {
	policy := func(rule, never string) string {
		return `{"households":{"home":["ann@"],"guests":["zoe@"]},"groups":{"group:admin":["ann@"]},"tagOwners":{"tag:speaker":["ann@"]},
"acls":[` + rule + `],
"never":[` + never + `]}`
	}
	accept := func(src, dst string) string {
		return fmt.Sprintf(`{"action":"accept","src":[%q],"dst":[%q]}`, src, dst)
	}
	guests := `{"src":["household:guests"],"dst":["svc:console:*"]}`
	for _, tt := range []struct{ rule, never, says string }{
		{accept("ann@", "svc:console"), guests, ""},
		{accept("autogroup:member", "svc:notes"), guests, ""},
		{accept("autogroup:member", "svc:console"), guests, "would reach svc:console on tcp:80 by the rule at line 2"},
		{accept("zoe@", "svc:*"), guests, "a new machine of zoe@ would reach svc:console"},
		{accept("*", "10.77.0.0/24:1-79"), guests, ""},
		{accept("*", "10.77.0.0/24:1-80"), guests, "svc:console"},
		{accept("bob@", "ann@:22"), `{"src":["bob@"],"proto":"udp","dst":["ann@:22"]}`, "on udp:22"},
		{accept("bob@", "ann@:22"), `{"src":["bob@"],"proto":"tcp","dst":["ann@:23-65535"]}`, ""},
		{accept("autogroup:member", "autogroup:self:22"), `{"src":["ann@"],"dst":["ann-laptop:22"]}`, "ann-laptop on tcp:22"},
		{accept("autogroup:member", "autogroup:self:22"), `{"src":["bob@"],"dst":["ann@:22"]}`, ""},
		{accept("*", "autogroup:same-household:22"), `{"src":["tag:speaker"],"dst":["bob@:22"]}`, "kitchen would reach bob-phone on tcp:22"},
		{accept("*", "autogroup:same-household:22"), `{"src":["household:home"],"dst":["household:guests:22"]}`, ""},
		{accept("*", "*:*"), `{"src":["household:home"],"dst":["household:guests:*"]}`, ""}, // structural
		{accept("*", "*:*"), `{"src":["gpu"],"dst":["kitchen:*"]}`, "gpu would reach kitchen on tcp:1"},
		{accept("kitchen", "*:*"), `{"src":["tag:speaker"],"dst":["kitchen:*"]}`, ""}, // kitchen is not another machine, guest-pi is not let in
		{accept("tag:speaker", "kitchen:9"), `{"src":["tag:speaker"],"dst":["kitchen:9"]}`, "a new machine with tag:speaker would reach kitchen on tcp:9"},
	} {
		p := mustParse(t, policy(tt.rule, tt.never))
		f, err := Compile(p, homeWorld())
		if tt.says == "" {
			if err != nil {
				t.Errorf("%s never %s: %v", tt.rule, tt.never, err)
			}
			continue
		}
		var e *Error
		if f != nil || !errors.As(err, &e) || !strings.Contains(e.Msg, tt.says) || e.Line != 3 {
			t.Errorf("%s never %s: %v, want %q", tt.rule, tt.never, err, tt.says)
		}
		// Once in force, the never wins until somebody puts it right.
		f, problems := Recompile(p, homeWorld())
		if len(problems) != 1 {
			t.Errorf("%s never %s: problems %v", tt.rule, tt.never, problems)
		}
		agree(t, f, p, homeWorld())
	}
}

// TestNeverProperty compares the proof with the reference: a never that is
// proven is never broken by machines that exist, with the nevers taken out.
func TestNeverProperty(t *testing.T) {
	proven, refuted := 0, 0
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 3))
		w := randomWorld(r, 10)
		p := mustParse(t, randomPolicy(r, 10, 3))
		bare := *p
		bare.nevers = nil
		for i := range p.nevers {
			one := *p
			one.nevers = p.nevers[i : i+1]
			_, err := Compile(&one, w)
			if err != nil {
				refuted++
				continue
			}
			proven++
			for _, src := range everyone(w) {
				for _, dst := range everyone(w) {
					for _, port := range []Port{tcpPort(80), tcpPort(441), udpPort(51), {Proto: ProtoICMP}} {
						s, d := refFind(p, w, src), refFind(p, w, dst)
						if s == nil || d == nil || s.peer != nil && s.peer == d.peer || s.service != nil && s.service == d.service {
							continue
						}
						if refAllowed(&bare, w, src, dst, port.Proto, port.First) && !refAllowed(&one, w, src, dst, port.Proto, port.First) {
							t.Fatalf("seed %d: %v to %v %v breaks a never that was proven\n%s", seed, src, dst, port, p.Text())
						}
					}
				}
			}
		}
	}
	if proven < 20 || refuted < 20 {
		t.Errorf("%d proven and %d refuted show little", proven, refuted)
	}
}

// TestRecompileNeverWidens takes machines, users and services away and asks
// whether anybody got more.
func TestRecompileNeverWidens(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 4))
		w := randomWorld(r, 12)
		p := mustParse(t, randomPolicy(r, 12, 8))
		before, _ := Recompile(p, w)
		less := *w
		less.Peers = slices.DeleteFunc(slices.Clone(w.Peers), func(peer.Peer) bool { return r.IntN(4) == 0 })
		less.Services = slices.DeleteFunc(slices.Clone(w.Services), func(Service) bool { return r.IntN(4) == 0 })
		after, _ := Recompile(p, &less)
		for _, src := range everyone(w) {
			for _, dst := range everyone(w) {
				for _, port := range []Port{tcpPort(80), tcpPort(22), udpPort(51), {Proto: ProtoICMP}} {
					if judge(after, src, dst, port.Proto, port.First).Allow && !judge(before, src, dst, port.Proto, port.First).Allow {
						t.Fatalf("seed %d: %v to %v %v opened when machines went\n%s", seed, src, dst, port, p.Text())
					}
				}
			}
		}
	}
}
