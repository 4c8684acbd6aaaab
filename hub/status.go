package hub

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services/console"
)

// shown is how many refusals fit on one screen.
const shown = 12

// Status answers "is it up, who is here, what was refused and why".
func (s *Server) Status() control.Status {
	snap := s.snap.Load()
	st := control.Status{
		Version: s.cfg.Version, Started: s.started, Endpoint: s.set.endpoint, Listening: "udp " + s.ListenAddr().String(),
		PublicKey: s.key.Public(), Domain: s.set.domain, Networks: s.networks(), Generation: snap.policy.Generation,
		Recovery: snap.recovery, ConfirmBy: snap.policy.ConfirmBy, Peers: s.Peers(), Services: s.Services(),
		Refused: s.refusals(snap, shown, netip.Addr{}), Drops: make(map[string]uint64), Problems: snap.problems,
	}
	ctx, cancel := context.WithTimeout(s.ctx, statusTimeout)
	defer cancel()
	var err error
	if st.Accounts, err = s.accountsStatus(ctx); err != nil {
		st.Problems = append(slices.Clone(st.Problems), err.Error())
	}
	for reason, n := range s.gate.Stats().Reasons {
		if n > 0 {
			st.Drops[acl.Reason(reason).String()] = n
		}
	}
	return st
}

// refusals are the latest lines of the ledger that were refused, as far as
// they are the caller's business; the zero caller is the admin's command line.
func (s *Server) refusals(snap *snapshot, limit int, caller netip.Addr) []control.Refusal {
	flows := slices.DeleteFunc(s.gate.Flows(), func(f acl.Flow) bool {
		return f.Allowed || caller.IsValid() && (snap.filter.Strangers(caller, f.Src) || snap.filter.Strangers(caller, f.Dst))
	})
	slices.SortFunc(flows, func(a, b acl.Flow) int { return b.Last.Compare(a.Last) })
	out := make([]control.Refusal, 0, min(limit, len(flows)))
	for _, f := range flows[:min(limit, len(flows))] {
		out = append(out, control.Refusal{Src: snap.nameOf(f.Src), Dst: target(snap, f.Dst, f.Proto, f.Port),
			Why: f.Reason.String(), Count: f.Count, Last: f.Last})
	}
	return out
}

func target(snap *snapshot, dst netip.Addr, proto acl.Proto, port uint16) string {
	if proto == acl.ProtoICMP {
		return snap.nameOf(dst) + "/icmp"
	}
	return fmt.Sprintf("%s:%d/%s", snap.nameOf(dst), port, proto)
}

func (s *Server) flowText(snap *snapshot, f acl.Flow) string {
	return snap.nameOf(f.Src) + " -> " + target(snap, f.Dst, f.Proto, f.Port)
}

// recent says what happened to this very flow the last time, "" if nothing did.
func (s *Server) recent(src, dst netip.Addr, proto acl.Proto, port uint16) string {
	var last acl.Flow
	for _, f := range s.gate.Flows() {
		if f.Src == src && f.Dst == dst && f.Proto == proto && f.Port == port && !f.Last.Before(last.Last) {
			last = f
		}
	}
	if last.Count == 0 {
		return ""
	}
	did, times := "refused", fmt.Sprintf("%d times, last", last.Count)
	if last.Allowed {
		did = "allowed"
	}
	if last.Count == 1 {
		times = "once,"
	}
	return fmt.Sprintf("%s %s %s ago", did, times, s.cfg.Now().Sub(last.Last).Round(time.Second))
}

// flowLine tells the lines of the ledger apart; its counts only grow.
type flowLine struct {
	src, dst netip.Addr
	proto    acl.Proto
	port     uint16
	allowed  bool
}

// records turns what the ledger has gained since the last time into what the
// store keeps: names instead of addresses, because an address may be somebody
// else's tomorrow. counts is what s.kept becomes once they are written. The
// caller holds s.keeping.
func (s *Server) records(snap *snapshot) (out []store.FlowRecord, counts map[flowLine]uint64) {
	ledger := s.gate.Flows()
	counts = make(map[flowLine]uint64, len(ledger))
	for _, f := range ledger {
		line := flowLine{f.Src, f.Dst, f.Proto, f.Port, f.Allowed}
		counts[line] = f.Count
		// A line that was overwritten and came back counts from the beginning.
		if known := s.kept[line]; known <= f.Count {
			f.Count -= known
		}
		if f.Count == 0 {
			continue
		}
		src, okSrc := snap.party(f.Src)
		dst, okDst := snap.party(f.Dst)
		if !okSrc || !okDst {
			continue // no machine of ours: counted in the drops, of no use to a policy
		}
		out = append(out, store.FlowRecord{Src: src, Dst: dst, Proto: uint8(f.Proto), Port: f.Port, Allowed: f.Allowed,
			Reason: f.Reason.String(), Count: f.Count, First: f.First, Last: f.Last})
	}
	return out, counts
}

// party names one end of a flow for the store: a peer's ID or a service.
func (s *snapshot) party(addr netip.Addr) (string, bool) {
	if p, ok := s.roster.ByAddr(addr); ok {
		return "peer:" + string(p.ID), true
	}
	for _, svc := range s.services {
		if svc.local() && (svc.V4 == addr || svc.V6 == addr) {
			return "svc:" + svc.Name, true
		}
	}
	return "", false
}

// recorded reads the kept flows back, as far as both ends still exist.
func (s *Server) recorded(ctx context.Context, snap *snapshot) ([]acl.Flow, error) {
	s.keepFlows(ctx)
	where := make(map[string]netip.Addr, len(snap.peers)+len(snap.services))
	for _, p := range snap.peers {
		where["peer:"+string(p.ID)] = p.V4
	}
	for _, svc := range snap.services {
		if svc.local() {
			where["svc:"+svc.Name] = svc.V4
		}
	}
	var out []acl.Flow
	err := s.store.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Flows(maxRecorded)
		if err != nil {
			return fmt.Errorf("reading recorded flows: %w", err)
		}
		for _, r := range rows {
			src, ok1 := where[r.Src]
			dst, ok2 := where[r.Dst]
			if ok1 && ok2 {
				out = append(out, acl.Flow{Src: src, Dst: dst, Proto: acl.Proto(r.Proto), Port: r.Port, Allowed: r.Allowed,
					Count: r.Count, First: r.First, Last: r.Last})
			}
		}
		return nil
	})
	slices.SortFunc(out, func(a, b acl.Flow) int { return cmp.Compare(b.Count, a.Count) })
	return out, err
}

// maxRecorded is how many kept flows a diff looks at.
const maxRecorded = 20000

// visible reports whether a machine may learn of a name: of everything that is
// not another household's. That a name exists says nothing about whether the
// policy lets anybody there; refusing is the policy's, with its own answer.
func (s *Server) visible(p peer.Peer, name string) bool {
	snap := s.snap.Load()
	addrs, ok := snap.names[name]
	return ok && !snap.filter.Strangers(p.V4, addrs[0])
}

// page is what the console shows to the peer that asks.
func (s *Server) page(_ context.Context, caller peer.Peer) (console.Page, error) {
	st := s.Status()
	page := console.Page{You: caller, Now: s.cfg.Now(), Started: st.Started, Endpoint: st.Endpoint, Domain: st.Domain,
		Generation: st.Generation, Recovery: st.Recovery, Problems: st.Problems}
	snap := s.snap.Load()
	for _, p := range st.Peers {
		if snap.filter.Strangers(caller.V4, p.V4) {
			continue
		}
		page.Peers = append(page.Peers, console.Peer{Peer: p.Peer, Handshake: p.Handshake,
			RxBytes: p.RxBytes, TxBytes: p.TxBytes, Refused: p.Refused})
	}
	for _, svc := range st.Services {
		if snap.filter.Strangers(caller.V4, svc.Addrs[0]) {
			continue
		}
		page.Services = append(page.Services, console.Service{Name: svc.Name, FQDN: svc.FQDN, Addrs: svc.Addrs,
			Ports: svc.Ports, Host: svc.Host, Note: svc.Note})
	}
	for _, r := range s.refusals(snap, shown, caller.V4) {
		page.Refused = append(page.Refused, console.Refusal(r))
	}
	return page, nil
}
