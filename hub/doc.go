// Package hub puts the appliance together: one WireGuard endpoint that ends in
// this process, a packet policy in front of everything, and services that
// exist only inside the tunnel.
//
// A program makes a hub in three steps:
//
//	err := hub.Init(ctx, hub.InitConfig{Dir: dir, Endpoint: "hub.example.org:51820"})
//	srv, err := hub.New(ctx, hub.Config{Dir: dir, Logger: log})
//	err = srv.Run(ctx) // until ctx ends
//
// # What happens in which order
//
// New opens the store and checks that it is whole; then the packet path, with
// a filter that denies everything; then the services about people (auth,
// command, hooks), each with a table of routes that has been checked; then the
// services' listeners; and only then the peers and the policy. Run serves, does
// the upkeep of accounts and judges running requests, until its context ends; it
// closes in reverse. Nothing is reachable before the policy is in force, and a policy
// that cannot be read leaves only the recovery path open: the admin's own
// machines reach the console and nothing else.
//
// # How a change is made
//
// Everything an admin or a joining machine changes goes through one function,
// Server.change: the action and its audit entry are one transaction; then the
// state is read back from the store as one snapshot (who is on the mesh, which
// services there are, what the policy says), and that snapshot is put in force:
// the filter first, so that what is revoked is dead, then peers, names and
// listeners. What is enforced is always what is stored; if the store cannot be
// read back, everything is denied.
//
// # People
//
// Accounts are kept by services/auth in the same store; what changes there is
// recorded in the same audit log, and puts nothing in force: the packet path
// knows machines only. The two meet in three places. The gate of each service
// asks the snapshot who is calling and what the policy grants the machine. After
// each change of the mesh the requests that are running are judged again
// (services.Live), as they are after each change of an account. And where the
// audit log would name the owner of a machine it has the number of their
// account, if there is one: people are numbers there.
//
// Several hubs may share one PostgreSQL database. Each looks at what is stored
// for every request, so what one takes away the other refuses with the next
// one, and its running requests end within a second. Through a Redis they count
// requests together.
//
// A Server's methods may be called by any number of goroutines.
package hub
