package hub

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/store"
)

// Limits of the time an admin has to confirm a policy.
const (
	minConfirm = 5 * time.Second
	maxConfirm = time.Hour
)

// autoRevert is the author of a policy that came back by itself.
const autoRevert = "hub: not confirmed"

// CheckPolicy compiles a candidate against the mesh as it is, runs its tests
// and proves its never rules. Nothing changes.
func (s *Server) CheckPolicy(text []byte) (*acl.Filter, []string, error) {
	policy, err := acl.Parse(text)
	if err != nil {
		return nil, nil, refused("", "%v", err)
	}
	snap := s.snap.Load()
	filter, err := acl.Compile(policy, snap.world)
	if err != nil {
		return nil, nil, refused("", "%v", err)
	}
	return filter, nil, nil
}

// ApplyPolicy stores a candidate and puts it in force. When it returns without
// error, nothing that only the old policy allowed is delivered any more.
func (s *Server) ApplyPolicy(ctx context.Context, actor string, req control.PolicyRequest) (control.Change, error) {
	if req.Confirm != 0 && (req.Confirm < minConfirm || req.Confirm > maxConfirm) {
		return control.Change{}, refused("", "the time to confirm is from 5s to 1h, not %v", req.Confirm)
	}
	judged := s.snap.Load()
	_, warnings, err := s.CheckPolicy([]byte(req.Text))
	if err != nil {
		return control.Change{}, err
	}
	if err := s.lockout(req); err != nil {
		return control.Change{}, err
	}
	change, err := s.put(ctx, actor, req, judged)
	change.Warnings = warnings
	return change, err
}

// put stores a policy that was found good for the mesh as it was in judged.
// The transaction checks the base, so of two admins who started from the same
// policy the second is refused.
func (s *Server) put(ctx context.Context, actor string, req control.PolicyRequest, judged *snapshot) (control.Change, error) {
	var by time.Time
	if req.Confirm > 0 {
		by = s.cfg.Now().Add(req.Confirm)
	}
	var generation uint64
	base, detail := req.Base, make(map[string]string)
	cut, err := s.change(ctx, audit.Event{Actor: actor, Action: "policy.apply", Target: "policy", Detail: detail}, func(tx *store.Tx) (err error) {
		live, err := tx.CurrentPolicy()
		if err != nil && !errors.Is(err, store.ErrNotFound) && base == 0 {
			return err
		}
		if base == 0 {
			base = live.Generation
		}
		if !live.ConfirmBy.IsZero() {
			return refused("confirm it (hub acl confirm) or take it back (hub acl rollback)",
				"generation %d waits for its confirmation until %s", live.Generation, live.ConfirmBy.Local().Format(time.TimeOnly))
		}
		// Since the check a machine may have come or a name gone, so that a
		// proof no longer holds. From here on nothing moves: the lock is held.
		if s.snap.Load() != judged {
			if _, _, err := s.CheckPolicy([]byte(req.Text)); err != nil {
				return err
			}
		}
		generation, err = tx.PutPolicy([]byte(req.Text), actor, base, by)
		detail["generation"] = strconv.FormatUint(generation, 10)
		return err
	})
	if errors.Is(err, store.ErrConflict) {
		return control.Change{}, refused("look at it (hub acl show), merge yours into it, and apply again",
			"somebody saved another policy since generation %d", base)
	}
	if err != nil {
		return control.Change{}, err
	}
	s.log.Info("policy in force", "generation", generation, "author", actor, "cut", cut.Connections, "took", cut.Took)
	return control.Change{Generation: generation, Cut: cut.Connections, Took: cut.Took, ConfirmBy: by}, nil
}

// lockout refuses a policy after which nobody is an admin, unless the admin
// insists: the control socket would be the only way back.
func (s *Server) lockout(req control.PolicyRequest) error {
	policy, err := acl.Parse([]byte(req.Text))
	if err != nil {
		return err
	}
	if req.Lockout || req.Confirm > 0 || policy.HasAdmin() {
		return nil
	}
	return refused("add somebody to group:admin, or say --lockout if you mean it", "this policy leaves nobody in group:admin")
}

// revertAgain is how long the hub waits when a policy could not be taken back,
// because the disk is full or the database away, before it tries again.
const revertAgain = 5 * time.Second

// arm sets the clock for the policy that is in force: it is part of putting it
// there, so a policy that waits for its confirmation always has one. The caller
// holds s.mu.
func (s *Server) arm(live store.Policy) {
	if s.revert != nil {
		s.revert.Stop()
		s.revert = nil
	}
	if !live.Pending() || s.ctx.Err() != nil {
		return
	}
	s.revert = time.AfterFunc(live.ConfirmBy.Sub(s.cfg.Now()), func() { s.takeBack(live.Generation) })
}

// takeBack ends the time of a policy that nobody confirmed. It is the admin's
// way out of a mistake, so it does not give up.
func (s *Server) takeBack(generation uint64) {
	_, err := s.rollback(s.ctx, autoRevert, 0, generation)
	if err == nil || errors.Is(err, errConfirmed) || s.ctx.Err() != nil {
		return
	}
	s.log.Error("taking back a policy that nobody confirmed; trying again", "generation", generation, "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if snap := s.snap.Load(); s.ctx.Err() == nil && snap.policy.Generation == generation && snap.policy.Pending() {
		s.revert = time.AfterFunc(revertAgain, func() { s.takeBack(generation) })
	}
}

// overdue takes back a policy whose time to be confirmed passed while no hub
// ran. The caller holds s.mu, before anything is in force. If it cannot be
// done now, takeBack does it later: a hub with a full disk starts all the same.
func (s *Server) overdue(ctx context.Context) {
	var live store.Policy
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		live, err = tx.CurrentPolicy()
		return err
	})
	if err != nil || !live.Pending() || live.ConfirmBy.After(s.cfg.Now()) {
		return // an unreadable policy is dealt with when it is compiled
	}
	err = s.store.Do(ctx, audit.Event{Actor: "hub", Action: "policy.revert", Target: strconv.FormatUint(live.Generation, 10)},
		func(tx *store.Tx) error {
			_, err := restorePolicy(tx, autoRevert, live, 0)
			return err
		})
	if err != nil {
		s.log.Error("taking back a policy that nobody confirmed; trying again", "generation", live.Generation, "err", err)
	}
}

// ConfirmPolicy keeps a policy that waits for it.
func (s *Server) ConfirmPolicy(ctx context.Context, actor string) (uint64, error) {
	generation := s.snap.Load().policy.Generation
	if s.snap.Load().policy.ConfirmBy.IsZero() {
		return 0, refused("", "no policy waits to be confirmed")
	}
	_, err := s.change(ctx, audit.Event{Actor: actor, Action: "policy.confirm", Target: strconv.FormatUint(generation, 10)},
		func(tx *store.Tx) error { return tx.ConfirmPolicy(generation) })
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return 0, refused("apply it again", "too late: generation %d was taken back", generation)
	}
	if err != nil {
		return 0, err
	}
	return generation, nil
}

// Rollback puts an older generation in force again, as a new one: history is
// never rewritten. Zero means the one before the live one that was not itself
// taken back for want of a confirmation.
func (s *Server) Rollback(ctx context.Context, actor string, to uint64) (control.Change, error) {
	return s.rollback(ctx, actor, to, 0)
}

// rollback is Rollback; pending, unless it is 0, is the generation that must
// still be live and unconfirmed, else nothing happens: errConfirmed.
func (s *Server) rollback(ctx context.Context, actor string, to, pending uint64) (control.Change, error) {
	var generation uint64
	detail := make(map[string]string)
	if to != 0 {
		detail["as"] = strconv.FormatUint(to, 10)
	}
	cut, err := s.change(ctx, audit.Event{Actor: actor, Action: "policy.rollback", Target: "policy", Detail: detail},
		func(tx *store.Tx) error {
			live, err := tx.CurrentPolicy()
			if err != nil {
				return err
			}
			if pending != 0 && (live.Generation != pending || !live.Pending()) {
				return errConfirmed
			}
			generation, err = restorePolicy(tx, actor, live, to)
			detail["generation"] = strconv.FormatUint(generation, 10)
			return err
		})
	if err != nil {
		return control.Change{}, err
	}
	s.log.Info("policy in force", "generation", generation, "author", actor, "cut", cut.Connections, "took", cut.Took)
	return control.Change{Generation: generation, Cut: cut.Connections, Took: cut.Took}, nil
}

var errConfirmed = errors.New("confirmed already")

// restorePolicy stores an older generation's text as the newest. One that was
// itself never confirmed, or cannot be read any more, is skipped when the admin
// did not name it.
func restorePolicy(tx *store.Tx, actor string, live store.Policy, to uint64) (uint64, error) {
	if to != 0 {
		old, err := tx.Policy(to)
		if errors.Is(err, store.ErrNotFound) {
			return 0, refused("see which there are: hub acl history", "there is no generation %d", to)
		}
		if err != nil {
			return 0, err
		}
		if _, err := acl.Parse(old.Text); err != nil {
			return 0, refused("choose another: hub acl history", "generation %d cannot be used: %v", to, err)
		}
		return tx.PutPolicy(old.Text, actor, live.Generation, time.Time{})
	}
	for n := live.Generation - 1; n > 0; n-- {
		old, err := tx.Policy(n)
		if errors.Is(err, store.ErrNotFound) {
			break
		}
		if err != nil {
			return 0, err
		}
		if _, err := acl.Parse(old.Text); err == nil && !old.Pending() {
			return tx.PutPolicy(old.Text, actor, live.Generation, time.Time{})
		}
	}
	return 0, refused("see which there are: hub acl history", "there is no generation before %d to go back to", live.Generation)
}

// History lists the stored generations, newest first.
func (s *Server) History(ctx context.Context, limit int) ([]control.PolicyReply, error) {
	var out []control.PolicyReply
	err := s.store.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Policies(limit)
		if err != nil {
			return err
		}
		live := s.snap.Load().policy.Generation
		for _, p := range rows {
			out = append(out, control.PolicyReply{Generation: p.Generation, Author: p.Author, At: p.At,
				Text: string(p.Text), Live: p.Generation == live, ConfirmBy: p.ConfirmBy})
		}
		return nil
	})
	return out, err
}

// DiffPolicy says what a candidate would open and close, and which flows that
// were really seen would be treated otherwise.
func (s *Server) DiffPolicy(ctx context.Context, text []byte) (control.DiffReply, error) {
	candidate, warnings, err := s.CheckPolicy(text)
	if err != nil {
		return control.DiffReply{}, err
	}
	snap := s.snap.Load()
	recorded, err := s.recorded(ctx, snap)
	if err != nil {
		return control.DiffReply{}, err
	}
	delta := acl.Diff(snap.filter, candidate, recorded)
	reply := control.DiffReply{Opened: []string{}, Closed: []string{}, Hit: []control.FlowHit{}, Warnings: warnings}
	for _, o := range delta.Opened {
		reply.Opened = append(reply.Opened, o.String())
	}
	for _, c := range delta.Closed {
		reply.Closed = append(reply.Closed, c.String())
	}
	if delta.MoreOpened > 0 {
		reply.Opened = append(reply.Opened, fmt.Sprintf("and %d more", delta.MoreOpened))
	}
	if delta.MoreClosed > 0 {
		reply.Closed = append(reply.Closed, fmt.Sprintf("and %d more", delta.MoreClosed))
	}
	for _, h := range delta.Flows {
		reply.Hit = append(reply.Hit, control.FlowHit{
			Flow: s.flowText(snap, h.Flow), Count: h.Count, Last: h.Last, WouldOpen: h.Allows,
		})
	}
	return reply, nil
}

// Explain says what the live policy makes of one connection.
func (s *Server) Explain(req control.ExplainRequest) (control.ExplainReply, error) {
	snap := s.snap.Load()
	src, err := snap.resolve(req.Src)
	if err != nil {
		return control.ExplainReply{}, refused("give a peer's or service's name or address", "source %.80q: %v", req.Src, err)
	}
	host, port, proto, err := splitDst(req.Dst)
	if err != nil {
		return control.ExplainReply{}, err
	}
	dst, err := snap.resolve(host)
	if err != nil {
		return control.ExplainReply{}, refused("give a peer's or service's name or address", "destination %.80q: %v", host, err)
	}
	if src.Is4() != dst.Is4() { // only one of them was given as an address
		src, dst = snap.sameFamily(src, dst)
	}
	ex := snap.filter.Explain(src, dst, proto, port)
	return control.ExplainReply{Allowed: ex.Allowed, Text: strings.TrimSpace(ex.String()), Recent: s.recent(src, dst, proto, port)}, nil
}

// splitDst reads NAME:PORT[/proto]; ICMP needs no port.
func splitDst(s string) (host string, port uint16, proto acl.Proto, err error) {
	hint := "write it as stt:443, 10.77.1.4:22/tcp, dns:53/udp or kitchen/icmp"
	rest, word, _ := strings.Cut(s, "/")
	switch word {
	case "", "tcp":
		proto = acl.ProtoTCP
	case "udp":
		proto = acl.ProtoUDP
	case "icmp":
		return strings.TrimSuffix(rest, ":0"), 0, acl.ProtoICMP, nil
	default:
		return "", 0, 0, refused(hint, "destination %.80q: there is no protocol %.20q", s, word)
	}
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return "", 0, 0, refused(hint, "destination %.80q has no port", s)
	}
	n, err := strconv.ParseUint(rest[i+1:], 10, 16)
	if err != nil || n == 0 {
		return "", 0, 0, refused(hint, "destination %.80q: the port is a number from 1 to 65535", s)
	}
	return rest[:i], uint16(n), proto, nil
}

// resolve turns a name or address into one address, IPv4 if there is a choice.
func (s *snapshot) resolve(name string) (netip.Addr, error) {
	name = strings.Trim(name, "[]")
	if addr, err := netip.ParseAddr(name); err == nil {
		return addr, nil
	}
	if svc, ok := s.service(strings.TrimPrefix(name, "svc:")); ok {
		return svc.V4, nil
	}
	if p, ok := s.roster.ByName(strings.TrimPrefix(name, "peer:")); ok {
		return p.V4, nil
	}
	addrs, err := s.filter.Resolve(name)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(addrs) == 0 {
		return netip.Addr{}, fmt.Errorf("nobody is %s at the moment", name)
	}
	return addrs[0], nil
}

// sameFamily moves the IPv4 one of two addresses to IPv6.
func (s *snapshot) sameFamily(src, dst netip.Addr) (netip.Addr, netip.Addr) {
	to6 := func(a netip.Addr) netip.Addr {
		if p, ok := s.roster.ByAddr(a); ok {
			return p.V6
		}
		for _, svc := range s.services {
			if svc.V4 == a {
				return svc.V6
			}
		}
		return a
	}
	if src.Is4() {
		return to6(src), dst
	}
	return src, to6(dst)
}
