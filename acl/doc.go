// Package acl decides which packets pass.
//
// It has two halves. The policy half turns a text that a person writes into a
// Filter: Parse reads it, Compile holds it against the World of peers and
// services. The packet half, Gate, reads a packet's header, asks the filter of
// the moment, and remembers the flows that need remembering. Nothing here
// opens a socket: the package is pure code, and whatever runs packets through
// it, on the hub or on a spoke, decides alike.
//
// # The policy
//
// A policy is HuJSON with the keys households, groups, tagOwners, hosts, acls,
// grants, tests and never. It says only what is allowed; everything else is
// refused. The language is described in docs/policy.md. Three things hold
// whatever a policy says:
//
//   - Machines of two different households never reach each other. A machine's
//     household is the one it was given; an untagged machine that was given
//     none has its owner's.
//   - An invite reaches the enrol service on tcp/443 and nothing else, and
//     nobody else reaches that.
//   - A quarantined machine reaches nothing and nobody reaches it.
//
// One rule is built in: every machine reaches the sync service on tcp/80, which
// is how it learns its names and its slice of the policy.
//
// Selectors pick machines, not addresses: a rule about 10.77.1.9 is about the
// machine with that address and holds for its IPv6 address too.
//
// # Compile, Recompile, Recovery
//
// Compile is for a policy that somebody wants to put in force. It refuses
// every name it does not know, every failing test and every never it cannot
// prove, and then returns no filter.
//
// Recompile is for a policy in force, when the world has changed. It cannot
// refuse, so it never widens: what is gone matches nothing, what never forbids
// is forbidden by the filter itself, and all that is amiss is reported.
//
// Recovery is for a hub without a policy: the admin's own untagged machines
// reach the console, and that is all.
//
// A nil *Filter, and a zero one, drop everything. So does a Gate that was
// given none.
//
// # Classes
//
// Machines that every rule treats alike are one class. A verdict is then two
// array look-ups, one for the class of the source and one for that of the
// destination, a search for the port among the destination's few segments, and
// a test whether any rule there is about the source. It takes tens of
// nanoseconds at any size of the mesh and allocates nothing. Explain, Diff, the
// tests and the proofs read the same tables, so they cannot disagree with what
// happens to packets.
//
// Proofs and tests also see a machine that does not exist yet for each known
// user, each tag and each household. "No guest ever reaches the console" is
// therefore refuted before the first guest joins. A test whose src selects
// nothing that exists speaks of that machine; one on an unknown user, group,
// tag or name is an error.
//
// # Limits
//
// A policy text has at most 1 MiB, 32 levels of brackets and 200,000 values. A
// mesh has at most 65,534 addresses, because an address is an index of 16 bits.
// The policy half keeps no state and takes no lock; everything it returns is
// immutable.
package acl
