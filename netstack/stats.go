package netstack

import "sync/atomic"

// counters count what happens on the packet path, in packets.
type counters struct {
	refusedIn     atomic.Uint64
	refusedOut    atomic.Uint64
	revoked       atomic.Uint64
	panics        atomic.Uint64
	noPeer        atomic.Uint64
	expired       atomic.Uint64
	tooBig        atomic.Uint64
	notForwarding atomic.Uint64
	openings      atomic.Uint64
	kernelErrors  atomic.Uint64
}

// Stats is what a Stack has counted since it was opened. All are packets.
type Stats struct {
	// Refused is what the policy refused, from peers and from our own stack.
	RefusedIn, RefusedOut uint64
	// Revoked was allowed when it was queued and no more when it was to leave.
	Revoked uint64
	// Late was allowed by a policy that is no longer in force, and left
	// WireGuard only now.
	Late uint64
	// Panics were dropped because they made the packet path panic.
	Panics uint64
	// NoPeer was for an address that no peer has.
	NoPeer uint64
	// Expired had no hop left; TooBig did not fit the MTU.
	Expired, TooBig uint64
	// NotForwarding was allowed between two peers, but this node is no hub.
	NotForwarding uint64
	// Openings were connections that a peer opened faster than it may.
	Openings uint64
	// KernelErrors are batches that the kernel's interface did not take.
	KernelErrors uint64
}

// Stats returns the counters. They are not of one instant.
func (s *Stack) Stats() Stats {
	c := &s.path.counts
	return Stats{
		RefusedIn: c.refusedIn.Load(), RefusedOut: c.refusedOut.Load(), Revoked: c.revoked.Load(),
		Late: s.bind.late.Load(), Panics: c.panics.Load(), NoPeer: c.noPeer.Load(), Expired: c.expired.Load(), TooBig: c.tooBig.Load(),
		NotForwarding: c.notForwarding.Load(), KernelErrors: c.kernelErrors.Load(),
		Openings: c.openings.Load(),
	}
}
