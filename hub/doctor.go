package hub

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/cpu"

	"github.com/warrenmesh/warren/hub/confine"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/services/publish"
)

// check is one question about the hub's health. Each returns what it found
// and what to do; a check whose After failed is not asked.
type check struct {
	name, after string
	run         func(context.Context) finding
}

type finding struct {
	bad, warn bool
	note, fix string
}

func fine(format string, args ...any) finding { return finding{note: fmt.Sprintf(format, args...)} }

func wrong(fix, format string, args ...any) finding {
	return finding{bad: true, fix: fix, note: fmt.Sprintf(format, args...)}
}

func odd(fix, format string, args ...any) finding {
	return finding{warn: true, fix: fix, note: fmt.Sprintf(format, args...)}
}

// Doctor asks what could be wrong, in an order in which the first failure
// explains the ones after it.
func (s *Server) Doctor(ctx context.Context) []control.Check {
	checks := []check{
		{"state directory", "", s.checkDir},
		{"store", "state directory", s.checkStore},
		{"audit log", "store", s.checkAudit},
		{"policy", "store", s.checkPolicy},
		{"accounts", "store", s.checkAccounts},
		{"tokens", "accounts", s.checkTokens},
		{"rate limits", "", s.checkLimits},
		{"backups", "store", s.checkBackups},
		{"outer socket", "", s.checkSocket},
		{"endpoint", "outer socket", s.checkEndpoint},
		{"services", "policy", s.checkServices},
		{"names", "services", s.checkNames},
		{"machines", "endpoint", s.checkPeers},
		{"clock", "", s.checkClock},
		{"processor", "", s.checkCPU},
		{"confinement", "", s.checkConfined},
	}
	failed := make(map[string]bool)
	out := make([]control.Check, 0, len(checks))
	for _, c := range checks {
		row := control.Check{Name: c.name, After: c.after}
		if failed[c.after] {
			row.Note, failed[c.name] = "not asked: "+c.after+" failed", true
			out = append(out, row)
			continue
		}
		limited, cancel := context.WithTimeout(ctx, 10*time.Second)
		f := c.run(limited)
		cancel()
		row.OK, row.Warn, row.Note, row.Fix = !f.bad, f.warn, f.note, f.fix
		failed[c.name] = f.bad
		out = append(out, row)
	}
	return out
}

func (s *Server) checkDir(context.Context) finding {
	info, err := os.Stat(s.cfg.Dir)
	if err != nil {
		return wrong("restore it from a backup: hub restore FILE", "%v", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return wrong("chmod 700 "+s.cfg.Dir, "others may look into %s", s.cfg.Dir)
	}
	key := filepath.Join(s.cfg.Dir, keyFile)
	if info, err := os.Stat(key); err == nil && info.Mode().Perm()&0o077 != 0 {
		return wrong("chmod 600 "+key, "others may read the store's key")
	}
	probe, err := os.CreateTemp(s.cfg.Dir, ".probe-*")
	if err != nil {
		return wrong("free some space, or mount it writable again", "nothing can be written: %v", err)
	}
	defer os.Remove(probe.Name())
	defer probe.Close()
	// A full disk lets an empty file be made, but not filled.
	if _, err := probe.Write(make([]byte, 64<<10)); err != nil {
		return wrong("free some space", "nothing can be written: %v", err)
	}
	return fine("%s", s.cfg.Dir)
}

func (s *Server) checkStore(ctx context.Context) finding {
	if err := s.store.Check(ctx); err != nil {
		return wrong("stop the hub and restore a backup: hub restore FILE", "%v", err)
	}
	return fine("%s, whole", s.store.Engine())
}

func (s *Server) checkAudit(ctx context.Context) finding {
	reply, err := s.VerifyAudit(ctx, "")
	switch {
	case err != nil:
		return wrong("", "%v", err)
	case reply.Bad != nil:
		return wrong("find out who could write to the store; keep a copy of it", "entry %d: %s", *reply.Bad, reply.Why)
	}
	return fine("%d entries, head %s", reply.Entries, reply.Head)
}

func (s *Server) checkPolicy(context.Context) finding {
	snap := s.snap.Load()
	switch {
	case snap.recovery != "":
		return wrong("hub acl history, then hub acl rollback N", "%s", snap.recovery)
	case len(snap.problems) > 0:
		return odd("hub acl show > p; edit p; hub acl apply p", "generation %d: %s", snap.policy.Generation, snap.problems[0])
	case !snap.policy.ConfirmBy.IsZero():
		return odd("hub acl confirm", "generation %d goes back at %s unless confirmed", snap.policy.Generation, snap.policy.ConfirmBy.Local().Format(time.TimeOnly))
	}
	return fine("generation %d by %s", snap.policy.Generation, snap.policy.Author)
}

func (s *Server) checkSocket(context.Context) finding {
	offload := "no offload: the kernel lacks UDP GSO or GRO"
	st := s.bind.Stats()
	for _, sock := range []udp.SocketStats{st.V4, st.V6} {
		if sock.ReadBuffer > 0 && sock.ReadBuffer < 1<<20 {
			return odd("sysctl -w net.core.rmem_max=7340032 net.core.wmem_max=7340032",
				"udp %s, but the kernel grants only %d KiB of receive buffer: bursts will be lost", s.ListenAddr(), sock.ReadBuffer>>10)
		}
		if sock.GRO && sock.GSO {
			offload = "with UDP GSO and GRO"
		}
	}
	return fine("udp %s, %s", s.ListenAddr(), offload)
}

func (s *Server) checkEndpoint(ctx context.Context) finding {
	host, port, err := net.SplitHostPort(s.set.endpoint)
	if err != nil {
		return wrong("", "%v", err)
	}
	if _, err := netip.ParseAddr(host); err != nil {
		addrs, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			return wrong("make a DNS record for it; machines cannot find the hub without", "%s does not resolve", host)
		}
		host = addrs[0]
	}
	if port != fmt.Sprint(s.ListenAddr().Port()) {
		return odd("forward that UDP port to this one, or run with --listen", "machines are told port %s, the hub listens on %d", port, s.ListenAddr().Port())
	}
	return fine("%s (%s)", s.set.endpoint, host)
}

func (s *Server) checkServices(ctx context.Context) finding {
	for _, svc := range s.Services() {
		if svc.Host == "hub" && svc.Note != "" {
			return wrong("", "%s: %s", svc.Name, svc.Note)
		}
	}
	if hidden := s.snap.Load().shadowed; len(hidden) > 0 {
		return odd("hub unpublish "+hidden[0]+" and publish it under another name; a machine: hub peer rename "+hidden[0]+" NAME",
			"%s is a name of the hub's own by now: what had it before is not found under it", hidden[0])
	}
	silent := s.silentTargets(ctx)
	if len(silent) > 0 {
		return odd("start it, or take the name away: hub unpublish "+silent[0].Name, "nothing answers where %s leads: %s", silent[0].Name, silent[0].Target)
	}
	return fine("%d names, every target answers", len(s.Services()))
}

// silentTargets asks every target that is published, all at once.
func (s *Server) silentTargets(ctx context.Context) []control.ServiceInfo {
	services := s.Services()
	answers := make([]bool, len(services))
	var wg sync.WaitGroup
	for i, svc := range services {
		t, err := publish.ParseTarget(svc.Target)
		if err != nil {
			answers[i] = true // no target of ours: the hub itself, or a machine
			continue
		}
		wg.Go(func() {
			answers[i] = t.Probe(ctx, s.networks()) == nil
		})
	}
	wg.Wait()
	var silent []control.ServiceInfo
	for i, svc := range services {
		if !answers[i] {
			silent = append(silent, svc)
		}
	}
	return silent
}

func (s *Server) checkNames(ctx context.Context) finding {
	if err := s.dns.Check(ctx); err != nil {
		return odd("set another resolver: hub run --resolver ADDR", "names outside the tunnel are not answered: %v", err)
	}
	return fine("own names answered, others forwarded")
}

func (s *Server) checkPeers(context.Context) finding {
	peers := s.Peers()
	seen := 0
	for _, p := range peers {
		if s.cfg.Now().Sub(p.Handshake) < sessionAge {
			seen++
		}
	}
	if len(peers) > 0 && seen == 0 {
		return odd("check that UDP "+s.set.endpoint+" reaches this machine through its firewall", "%d known, none heard from in the last 3 minutes", len(peers))
	}
	return fine("%d known, %d here", len(peers), seen)
}

func (s *Server) checkClock(context.Context) finding {
	// Nothing of Warren existed before; a clock that is earlier is one that
	// was never set, and every expiry would be wrong.
	if s.cfg.Now().Before(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) {
		return wrong("set the clock, or install an NTP client", "it says %s", s.cfg.Now().Format(time.RFC3339))
	}
	return fine("%s", s.cfg.Now().UTC().Format(time.RFC3339))
}

func (s *Server) checkCPU(context.Context) finding {
	if runtime.GOARCH == "amd64" && !(cpu.X86.HasSSSE3 && cpu.X86.HasAVX2 && cpu.X86.HasBMI2) {
		return odd("choose a host type that does not mask AVX2 and BMI2", "encryption runs at about half its speed on this processor")
	}
	return fine("%s, %d cores", runtime.GOARCH, runtime.NumCPU())
}

func (s *Server) checkConfined(ctx context.Context) finding {
	if err := confine.Check(ctx); err != nil {
		return odd("run it with: hub run, on Linux with seccomp", "%v", err)
	}
	return fine("the kernel lets this process open no listener, start no program, load nothing")
}

// Healthy reports whether no check failed.
func Healthy(checks []control.Check) bool {
	return !slices.ContainsFunc(checks, func(c control.Check) bool { return !c.OK })
}

// sessionAge is how long WireGuard uses a session at the most (whitepaper,
// 6.2: REJECT-AFTER-TIME): a machine heard from within it is here.
const sessionAge = 3 * time.Minute
