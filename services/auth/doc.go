// Package auth is the account service: who people are, how they prove it, and
// what acts for them.
//
// # What it promises
//
// A credential is worth something on the machine it was issued to, and nowhere
// else. An access token names the WireGuard key of the machine that asked for
// it, a session names machine and key, a node or app key is bound to the first
// machine that proves it. Nothing is cached: Authority looks at what is stored
// for every request, so that whatever was taken away is gone with the next one.
//
// A password is never kept: what is stored is its Argon2id hash (RFC 9106). Not
// more than a few hashes are computed at once, and whoever finds the queue full
// is asked to come again, so that signing in cannot be used to exhaust the
// machine. Who does not exist costs as much as who does.
//
// Guessing is slowed down per machine and per person, for a time that grows and
// ends by itself; the counts are stored, so that neither a restart nor a second
// hub forgets them. From a machine that a person has signed in on before, or
// that the policy says is theirs, only their own mistakes there count: somebody
// else's guessing does not lock them out.
//
// A refresh token is good once. Its successor is derived from it under a secret
// of the store, so that a client that did not hear the answer gets the same one
// again within Grace; any other second use ends the session and everything that
// came from it.
//
// # What it does not
//
// A password is compared as the bytes that were sent, which must be UTF-8:
// there is no normalisation, as with Jarvis. Somebody whose keyboards compose
// an accent differently has to type it as when they chose it. The first sign-in
// of an imported account takes as long as bcrypt does, which differs from
// Argon2id: until then, a clock can tell that there is such an account.
//
// With Config.HS256, access tokens have Jarvis' form, for services that know
// no other. Who holds the shared secret can then make tokens: see the package
// token. Here they still count on the session's own machine only.
//
// The routes are Jarvis' where Jarvis has them, with its words and its shapes,
// and our own where it has none.
package auth
