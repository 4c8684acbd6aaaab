package services

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// checkTimeout is how long the checks of one request may take.
const checkTimeout = 5 * time.Second

// maxHousehold is the longest name of a household that is looked up, bytes.
const maxHousehold = 64

// The refusals that are the same for everybody.
var (
	refuseClosed  = refusal(Refusal{Status: http.StatusForbidden, Detail: "Nobody is let in here."})
	refuseUnready = refusal(Refusal{Status: http.StatusServiceUnavailable, Detail: "This service is not set up to let anybody in; the admin has to look."})
	refusePeer    = refusal(Refusal{Status: http.StatusForbidden, Detail: "This machine is not an active peer of the mesh; ask the admin to release or invite it."})
	refuseGrant   = refusal(Refusal{Status: http.StatusForbidden, Detail: "The policy does not grant this machine what the route needs; ask the admin for the capability."})
	refuseRole    = refusal(Refusal{Status: http.StatusForbidden, Detail: "Your role in the household does not allow this; ask one of its admins."})
	refuseSuper   = refusal(Refusal{Status: http.StatusForbidden, Detail: "Only a superuser may do this."})
	refuseHome    = refusal(Refusal{Status: http.StatusNotFound, Detail: "Household not found"})
	refuseCheck   = refusal(Refusal{Status: http.StatusServiceUnavailable, Detail: "Who is calling could not be checked; try again.", Retry: time.Second})
	refuseCount   = refusal(Refusal{Status: http.StatusServiceUnavailable, Detail: "Requests cannot be counted just now; try again.", Retry: time.Second})
)

// Admit judges one request. It returns the caller and a context that ends when
// the request loses what let it in, with a *Refusal as its cause; done must be
// called, once, when the request has been answered. param gives the value of a
// path parameter. limits are headers for the answer, whatever it is. An error is
// always a *Refusal.
//
// The order is: the machine, its capability, its rate, the credential, the
// person's rate, role, household and the policy's word on it. Nothing is looked
// up for a machine that may not call, and nobody learns of a household that they
// do not belong to.
func (g *Gate) Admit(r *http.Request, route string, need Requirement, param func(string) string) (c *Caller, ctx context.Context, limits http.Header, done func(status int), err error) {
	limits = make(http.Header)
	c, q, mark, err := g.question(r, need, param, limits)
	if err != nil {
		return nil, nil, limits, nil, err
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	run := &running{peer: c.Peer.ID, about: *q, caller: c, stream: need.Stream, began: time.Now(), cancel: cancel}
	run.judge = func(ctx context.Context) (*Caller, error) { return g.judge(ctx, q) }
	missed, err := g.cfg.Live.enter(run, mark)
	if err == nil && missed {
		// Something was taken away while we looked, perhaps this, or a part of it.
		again, stop := context.WithTimeout(ctx, checkTimeout)
		now, wrong := run.judge(again)
		stop()
		if wrong != nil {
			g.cfg.Live.leave(run)
			err = g.refusal(r.Context(), q, wrong)
		}
		c = now
	}
	if err != nil {
		cancel(err)
		return nil, nil, limits, nil, err
	}
	done = func(status int) {
		g.cfg.Live.leave(run)
		cancel(nil)
		if c.As == AsUser && g.cfg.Access != nil {
			g.cfg.Access(c, r.Method, route, status)
		}
	}
	return c, ctx, limits, done, nil
}

// question is what is judged, again and again, while a request runs. Two equal
// ones have the same answer.
type question struct {
	gate       *Gate
	peer       peer.ID
	key        peer.PublicKey
	capability string
	role       account.Role
	superuser  bool
	named      bool // the household is that of the path
	household  account.HouseholdID
	proof      proof
}

// question judges a request for the first time, and counts it.
func (g *Gate) question(r *http.Request, need Requirement, param func(string) string, limits http.Header) (*Caller, *question, uint64, error) {
	if g == nil || g.cfg.Authority == nil || g.cfg.Roster == nil || g.cfg.Grants == nil || g.cfg.Limit == nil || g.cfg.Live == nil {
		return nil, nil, 0, refuseUnready
	}
	if len(need.Any) == 0 {
		return nil, nil, 0, refuseClosed
	}
	mark := g.cfg.Live.mark()
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	p, _ := peer.FromContext(ctx)
	q := &question{gate: g, peer: p.ID, key: p.PublicKey, capability: need.Capability, role: need.Role, superuser: need.Superuser}
	c, err := g.machine(q)
	if err != nil {
		return nil, nil, 0, err
	}
	if err := g.count(ctx, limits, "peer:"+string(p.ID), need.Rate); err != nil {
		return nil, nil, 0, err
	}
	if q.proof, err = g.proofOf(r, need.Any); err != nil {
		return nil, nil, 0, err
	}
	if need.Household != "" {
		q.named, q.household = true, account.HouseholdID(param(need.Household))
	}
	if err := g.identify(ctx, q, c); err != nil {
		return nil, nil, 0, g.refusal(ctx, q, err)
	}
	if c.As == AsUser {
		if err := g.count(ctx, limits, "user:"+c.User.ID.String(), need.Rate); err != nil {
			return nil, nil, 0, err
		}
	}
	if err := g.place(ctx, q, c); err != nil {
		return nil, nil, 0, g.refusal(ctx, q, err)
	}
	return c, q, mark, nil
}

// judge answers a question anew, without counting.
func (g *Gate) judge(ctx context.Context, q *question) (*Caller, error) {
	c, err := g.machine(q)
	if err != nil {
		return nil, err
	}
	if err := g.identify(ctx, q, c); err != nil {
		return nil, err
	}
	if err := g.place(ctx, q, c); err != nil {
		return nil, err
	}
	return c, nil
}

// machine looks at the peer as it is now, and at what the policy grants it.
func (g *Gate) machine(q *question) (*Caller, error) {
	p, ok := g.cfg.Roster().ByID(q.peer)
	if !ok || q.peer == "" || p.PublicKey != q.key || p.Quarantined || p.Kind != peer.KindSpoke && p.Kind != peer.KindPhone {
		return nil, refusePeer
	}
	grants := g.cfg.Grants(p, g.cfg.Service)
	if _, granted := grants[q.capability]; q.capability != "" && !granted {
		return nil, refuseGrant
	}
	return &Caller{Peer: p, grants: grants}, nil
}

// place judges superuser, role and household, and makes the scope.
func (g *Gate) place(ctx context.Context, q *question, c *Caller) error {
	if q.superuser && c.As != AsAdmin && (c.As != AsUser || !c.User.Superuser) {
		return refuseSuper
	}
	h := q.household
	if !q.named {
		h = own(c)
	}
	if h == "" && !q.named {
		// An app or a machine without a household in the path, or a person
		// without one at all: they have no role and no scope.
		if q.role != account.None && (c.As == AsUser || c.As == AsPeer) {
			return refuseRole
		}
		return nil
	}
	err := g.belongs(ctx, q, c, h)
	if err == refuseHome && !q.named && c.As == AsUser && q.role == account.None {
		// The session's household is not theirs any more. They may still switch
		// to another one, and see nothing until then.
		c.Role = account.None
		return nil
	}
	if err != nil {
		return err
	}
	if c.As == AsUser && c.Role < q.role {
		return refuseRole
	}
	c.scope = account.NewScope(h, c.User.ID)
	return nil
}

// own is the household that a caller is in by itself.
func own(c *Caller) account.HouseholdID {
	switch c.As {
	case AsUser:
		return c.Session.Household
	case AsNode:
		return c.Node.Household
	}
	return ""
}

// belongs reports with refuseHome that the caller has no place in a household,
// whether there is one or not.
func (g *Gate) belongs(ctx context.Context, q *question, c *Caller, h account.HouseholdID) error {
	if h == "" || len(h) > maxHousehold {
		return refuseHome
	}
	switch c.As {
	case AsUser:
		role, err := g.cfg.Authority.Role(ctx, c.User.ID, h)
		if err != nil && !errors.Is(err, account.ErrNotFound) {
			return err
		}
		if err != nil || role == account.None {
			return refuseHome
		}
		c.Role = role
	case AsNode:
		if c.Node.Household != h {
			return refuseHome
		}
	case AsApp, AsAdmin:
		if !mayAsk(c.App, h) {
			return refuseHome
		}
	default:
		return refuseHome
	}
	household, err := g.cfg.Authority.Household(ctx, h)
	if errors.Is(err, account.ErrNotFound) {
		return refuseHome
	}
	if err != nil {
		return err
	}
	if label := c.Peer.Household; label != "" && household.Label != "" && label != household.Label {
		return refuseHome
	}
	return nil
}

func mayAsk(a account.App, h account.HouseholdID) bool {
	for _, one := range a.Households {
		if one == h {
			return true
		}
	}
	return len(a.Households) == 0
}

// count counts one request against a key, and tells the caller how it stands.
func (g *Gate) count(ctx context.Context, limits http.Header, key, class string) error {
	rates, ok := ratesOf(class)
	if !ok {
		return refuseClosed
	}
	a, err := g.cfg.Limit.Take(ctx, key, rates...)
	if err != nil {
		if ctx.Err() == nil {
			g.cfg.Logger.Error("counting requests", "service", g.cfg.Service, "error", err)
		}
		return refuseCount
	}
	setLimits(limits, a)
	if !a.Allowed {
		wait := max(a.Retry, time.Second)
		return &Refusal{Status: http.StatusTooManyRequests, Detail: "Too many requests; try again in " + seconds(wait) + " s.", Retry: wait}
	}
	return nil
}

// refusal makes a refusal of whatever a check failed with. What the caller
// presented is kept out of the log, wherever the error got it from.
func (g *Gate) refusal(ctx context.Context, q *question, err error) *Refusal {
	var why *Refusal
	if errors.As(err, &why) {
		return why
	}
	if ctx.Err() != context.Canceled {
		text := err.Error()
		for _, secret := range []string{q.proof.key, q.proof.id + ":" + q.proof.key} {
			if secret != "" && secret != ":" {
				text = strings.ReplaceAll(text, secret, "(redacted)")
			}
		}
		g.cfg.Logger.Error("checking a caller", "service", g.cfg.Service, "peer", q.peer, "error", text)
	}
	return refuseCheck
}
