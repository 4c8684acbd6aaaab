// Package account is the shared noun for people and what acts for them:
// households and their members, sessions, nodes, apps, OAuth clients, and the
// keys that each of these proves itself with.
//
// A peer is a machine, and WireGuard proves which one calls. An account says
// whom or what the machine speaks for. Every credential here names the peer it
// was issued to: what is stolen from one machine is worth nothing on another.
//
// The package holds types and no behaviour, and knows neither HTTP nor SQL.
// Store is what keeps them; the hub's store is the one there is. What belongs
// to one household is reached through Data and a Scope only, so that code which
// forgets to say whose data it wants does not compile.
//
// People are named by a number, the UserID. It is a pseudonym: logs and the
// audit log carry it, and once a person is erased it leads nowhere.
package account

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// The errors that callers of Store and Data tell apart with errors.Is.
var (
	// ErrNotFound: there is no such thing, or not in this scope. The two are
	// one answer, so that nobody learns what others have.
	ErrNotFound = errors.New("there is none")
	// ErrConflict: somebody else changed it first, or it is not in a state
	// that allows the change.
	ErrConflict = errors.New("it cannot be done as things are now")
	// ErrExists: the name, address or key is taken.
	ErrExists = errors.New("it exists already")
	// ErrInvalid: the value is refused; nothing was changed.
	ErrInvalid = errors.New("not acceptable")
)

// UserID numbers people from 1; 0 is nobody. Numbers are never used again.
type UserID int64

// String is the decimal form, as in a token's sub.
func (id UserID) String() string { return strconv.FormatInt(int64(id), 10) }

// ParseUserID reads what String wrote: digits only, no sign, no leading zero.
func ParseUserID(s string) (UserID, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("a user is named by a number: %w", ErrInvalid)
	}
	return UserID(n), nil
}

// HouseholdID names a household: a random UUID, lower case.
type HouseholdID string

// Role is what a member may do in one household. The zero Role is none.
type Role uint8

// Roles in rising order; each may do what the one before may.
const (
	None Role = iota
	Member
	PowerUser
	Admin
)

var roleNames = [...]string{"none", "member", "power_user", "admin"}

// String is the role's name in answers and tokens.
func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return roleNames[None]
}

// MarshalText implements encoding.TextMarshaler.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Role) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRole(string(b))
	return err
}

// ParseRole reads a role's name; "none" and anything unknown is ErrInvalid.
func ParseRole(s string) (Role, error) {
	for i, name := range roleNames {
		if s == name && Role(i) != None {
			return Role(i), nil
		}
	}
	return None, fmt.Errorf("a role is member, power_user or admin: %w", ErrInvalid)
}

// User is a person.
type User struct {
	ID    UserID
	Email string
	// Username is what the policy calls the person, as in ann@; "" if the
	// policy does not know them.
	Username  string
	Superuser bool
	// MustChange is set while the password is one that somebody else chose; it
	// ends at TempUntil if that is not zero.
	MustChange bool
	TempUntil  time.Time
	Disabled   bool
	Created    time.Time
}

// Secrets are what a person proves themselves with. They are never part of a
// User, so that they are not printed, logged or exported with one.
type Secrets struct {
	// Password is the encoded hash, Argon2id in the PHC string format or
	// bcrypt ($2a$, $2b$, $2y$) of an imported account; "" if there is none.
	Password string
	// TOTP is the RFC 6238 secret, nil without one. It counts once Confirmed.
	TOTP      []byte
	Confirmed bool
	// LastStep is the last time step that was used: a code counts once.
	LastStep int64
}

// Passkey is a WebAuthn credential. Record is the library's own encoding of it.
type Passkey struct {
	ID       []byte // the credential id
	User     UserID
	Name     string
	Record   []byte
	Created  time.Time
	LastUsed time.Time
}

// Household is people who live together and what belongs to them.
type Household struct {
	ID   HouseholdID
	Name string
	// Label is what the packet policy calls the household; "" if it does not
	// know it. A machine that the policy puts into another household never
	// acts in this one, whoever sits at it.
	Label   string
	Created time.Time
}

// Membership is a person's place in a household.
type Membership struct {
	Household HouseholdID
	User      UserID
	Role      Role
	Joined    time.Time
}

// Invitation lets whoever holds its code join a household, once. It is not
// the invite that lets a machine join the mesh.
type Invitation struct {
	ID        string
	Household HouseholdID
	CodeHash  []byte // keyed digest (Tx.Digest) of the upper-case code: 40 bits are too few for a plain hash
	Role      Role   // Member or PowerUser
	By        UserID
	Created   time.Time
	Expires   time.Time
	UsedBy    UserID // 0 until then
	UsedAt    time.Time
}

// Event is what is recorded together with a change. Its fields are those of the
// audit log. Actor is "user:ID", "node:ID", "app:ID", "peer:NAME", "local:UID"
// or "hub". Names and addresses of people are in none of the fields: people are
// numbers here.
type Event struct {
	Actor  string
	Action string
	Target string
	Detail map[string]string
}

// Session is one sign-in: a family of refresh tokens and the access tokens that
// came from them, on one machine.
type Session struct {
	ID   string // random, the token's sid
	User UserID
	// Peer and Key are the machine that signed in; no other may use it.
	Peer peer.ID
	Key  peer.PublicKey
	// Household is the one that tokens are for now; "" before there is one.
	Household HouseholdID
	// Client is the OAuth client, "" for a sign-in with a password.
	Client string
	// Scope is what OAuth granted, separated by blanks.
	Scope    string
	Nonce    string // of an OpenID sign-in
	AuthTime time.Time
	Methods  []string // RFC 8176: pwd, otp, hwk
	Created  time.Time
	Expires  time.Time // of the newest refresh token
	Revoked  time.Time // zero while it lives
	Why      string    // it was revoked
}

// Refresh is one refresh token of a session. The token itself is not kept.
type Refresh struct {
	Hash    []byte // SHA-256 of the token
	Session string
	Issued  time.Time
	Expires time.Time
	// Successor is the hash of the token this one was exchanged for, nil until
	// then; Used is when.
	Successor []byte
	Used      time.Time
}
