// Package token makes and judges the access tokens of the mesh: JSON Web Tokens
// in the form of RFC 9068 (typ at+jwt), signed with ECDSA on P-256 (ES256) and
// nothing else.
//
// # What a token says
//
// Who (sub, household_id, role), by which sign-in (sid, jti), from which machine
// (did, and cnf.wg: the WireGuard key of the peer it was issued to), for whom
// (aud), by whom (iss, client_id, scope), and until when (exp, at most MaxLife
// after iat). A token is half of a proof: the other half is the tunnel address
// of the machine that presents it, which the caller of Verify compares with
// Claims.Peer. What is stolen from one machine is worth nothing on another.
//
// # What is promised
//
// Verify accepts what Sign of the same keys made, byte for byte, and nothing
// else. That is stricter than the standards ask:
//
//   - One algorithm. The key decides it, never the token: there is no "none",
//     no HMAC under a public key, no other curve (RFC 8725, sections 2.1, 3.1).
//   - Three header members, alg, typ and kid, each exactly once. jku, x5u, jwk,
//     x5c and crit are refused with everything else that is not known. A kid is
//     looked up in memory among the ring's own keys; nothing is opened, fetched
//     or queried because a token names it.
//   - One spelling. base64url must be the one that an encoder writes: no
//     padding, no line breaks, no stray bits. JSON may have no member twice, no
//     unknown member, none that differs in case, no data behind its end.
//   - One signature. Of the two signatures (r, s) and (r, n-s), which are equally
//     valid ECDSA, Sign writes the one with the smaller s and Verify refuses the
//     other. RFC 7518 allows both; a token that exists in one form only cannot
//     be altered without being broken. Revocation goes by sid and jti all the
//     same, never by the token's bytes.
//   - Whole seconds, as integers. Leeway for another machine's clock is 30 s.
//
// What Verify does not do is look at the present: whether the session lives,
// whether the person is still a member. The caller does, for each request.
//
// # HS256
//
// Services written for Jarvis know only its own form, HMAC-SHA256 under a shared
// secret. SignHS256 and VerifyHS256 speak it. It is weaker in every respect:
// whoever can check such a token can make one, it names no machine, no audience
// and no issuer, and it lasts until it expires. No Ring accepts it.
//
// A Ring may be used by any number of goroutines and never changes; when keys
// change there is a new one.
package token

import (
	"errors"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// Limits of tokens.
const (
	// Leeway is how far the clock of who signed may differ from ours.
	Leeway = 30 * time.Second
	// MaxLife is the longest time between a token's iat and its exp.
	MaxLife = time.Hour
	// MaxToken is the length of a token in bytes. A longer one is refused
	// before it is looked at.
	MaxToken = 4 << 10
)

// The errors of Verify. Neither says more: what exactly was wrong helps
// only who made the token up. The token is never part of them.
var (
	// ErrExpired: the token was good and is over.
	ErrExpired = errors.New("the token has expired; sign in again or use the refresh token")
	// ErrInvalid: it is no token of ours, or not for this.
	ErrInvalid = errors.New("the token is not valid; sign in again")
)

// Claims are what an access token says. All but Household, Role, Client, Scope
// and NotBefore are required.
type Claims struct {
	Issuer  string
	Subject string // account.UserID, in decimal
	ID      string // jti: of this very token
	// Device is the peer that the token was issued to, and Peer its WireGuard
	// key. Who presents the token from another has stolen it.
	Device    peer.ID
	Peer      peer.PublicKey
	Session   string // sid: the sign-in that it belongs to
	Household string
	Role      string // in Household
	Client    string // client_id; "" for a sign-in without OAuth
	Scope     string // separated by blanks
	Audience  []string
	// Times have whole seconds; what is below is cut off.
	Issued, Expires time.Time
	NotBefore       time.Time // zero: none
}

// Expect is what a token must be for. Both are compared exactly, and both are
// needed: with an empty one nothing is accepted.
type Expect struct {
	Issuer   string
	Audience string
}
