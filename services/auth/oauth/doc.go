// Package oauth is the authorization server of the mesh: how the console, phone
// apps, third-party programs and headless machines get a person's tokens
// without seeing the person's password.
//
// It follows OAuth 2.0 with its best current practice (RFC 9700) and is aligned
// with the OAuth 2.1 draft: the code grant with PKCE (RFC 7636, S256 only), the
// refresh grant, the device grant (RFC 8628), and nothing else. There is no
// implicit, hybrid, password, client-credentials, JWT-bearer or token-exchange
// grant, no request object, no dynamic registration. Around it: metadata
// (RFC 8414 and OpenID Connect Discovery), keys, revocation (RFC 7009),
// introspection (RFC 7662), the iss parameter (RFC 9207), id_tokens and
// userinfo (OpenID Connect Core).
//
// # What is ours and what is the library's
//
// Requests are parsed and dispatched, clients authenticated and errors written
// by zitadel/oidc, through its Server interface, which the type protocol
// implements. In front of it stands a filter of our own, which hands on only
// parameters that it has judged itself. It closes what the library leaves open:
//
//   - A challenge method other than S256, or none, would be compared in
//     plaintext. Only S256 passes, and the challenge must be one: 32 bytes.
//   - A verifier of any length and alphabet would do.
//   - Redirects would be unescaped before they are compared, and a loopback
//     address in one would stand for any other host that is one. They are
//     compared as text, with the port of 127.0.0.1 and [::1] as the one
//     exception (RFC 8252, section 7.3).
//   - Parameters that come twice, or in the URL where a body is meant, would be
//     taken. Secrets in URLs end up in logs; they are refused.
//
// # What holds
//
// The machine matters as much as the code. An authorization request belongs to
// the peer that opened it: no other peer can see its page, finish it or redeem
// its code, and the tokens are bound to that peer as those of any sign-in. With
// the device grant it is the machine that asks for the code, not the one that
// the person agrees on.
//
// A code is redeemed by one conditional statement, in the transaction that makes
// the session. One that comes again ends that session, but only when client,
// redirect, PKCE and peer were right: otherwise anybody who had seen a code
// could sign somebody out.
//
// Tokens themselves are made, rotated and revoked by package auth. A refresh
// token is given with every grant and used as often as auth allows: once.
//
// There is no sign-in that outlives its request. Whoever authorizes a client
// types a password, which is why prompt=none is always refused and max_age is
// always met. The pages are plain HTML without scripts; what they post carries
// a token that is bound to the peer, the browser and the request.
//
// The library writes its own lines to slog's default logger; the program may
// wish to send them elsewhere.
package oauth
