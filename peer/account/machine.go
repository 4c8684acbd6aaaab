package account

import (
	"time"

	"github.com/warrenmesh/warren/peer"
)

// Node is a machine of a household that acts by itself, such as a voice
// satellite. It proves itself with a node key, from its own tunnel address.
type Node struct {
	// ID is the name that clients send, 1 to 64 of a-z A-Z 0-9 . _ -
	ID        string
	Name      string
	Household HouseholdID
	// Peer is the machine whose address the node's keys work from; "" until
	// the first machine that proves a key becomes it.
	Peer         peer.ID
	RegisteredBy UserID
	Room         string
	Active       bool
	Services     []string // what it may call, sorted
	Created      time.Time
	Rotated      time.Time
	Seen         time.Time
}

// App is a program that calls services, such as a command centre on a spoke.
type App struct {
	ID   string // as Node.ID
	Name string
	// Peer is as in Node.
	Peer   peer.ID
	Active bool
	// Services are what it may call, sorted; empty means none. "*" is every
	// service.
	Services []string
	// Households are those it may ask about; empty means all.
	Households []HouseholdID
	// Admin marks the key of the admin's own tools.
	Admin   bool
	Created time.Time
	Rotated time.Time
}

// Key is one key of a node or app: at least 128 random bits, of which only a
// keyed digest is stored. While it is rotated two are valid.
type Key struct {
	Digest  []byte // HMAC-SHA256 under a secret of the store
	Created time.Time
	Expires time.Time // zero: until it is replaced
}

// Enrolment lets a node register itself, once: the token of the seed's
// provisioning.
type Enrolment struct {
	Hash      []byte // SHA-256 of the token
	Node      string
	Household HouseholdID
	Name      string
	Room      string
	By        UserID
	Expires   time.Time
	UsedAt    time.Time
}

// Client is an OAuth client.
type Client struct {
	ID   string
	Name string
	// Redirects are compared exactly; only a loopback address may differ in
	// its port (RFC 8252, section 7.3).
	Redirects []string
	// SecretDigest is as Key.Digest; nil for a public client.
	SecretDigest []byte
	// Device says that it may use the device grant.
	Device bool
	// FirstParty clients are the hub's own and ask for no consent.
	FirstParty bool
	Created    time.Time
}

// AuthRequest is an authorization request that waits for its person.
type AuthRequest struct {
	ID        string
	Client    string
	Redirect  string
	State     string
	Nonce     string
	Scope     string
	Challenge string // S256
	// Peer opened the page; nobody else may finish it.
	Peer    peer.ID
	Key     peer.PublicKey
	Created time.Time
	Expires time.Time
	// User is 0 until the person has signed in and agreed.
	User      UserID
	Household HouseholdID
	AuthTime  time.Time
	Methods   []string
	// CodeHash is the SHA-256 of the code, nil until there is one; Redeemed is
	// when it was exchanged, for Session.
	CodeHash []byte
	Redeemed time.Time
	Session  string
}

// Device is a device authorization (RFC 8628).
type Device struct {
	Hash     []byte // SHA-256 of the device code
	UserCode string // upper case, without its dash
	Client   string
	Scope    string
	Peer     peer.ID // that asked; the tokens are bound to it
	Key      peer.PublicKey
	Created  time.Time
	Expires  time.Time
	LastPoll time.Time
	// User is who decided, 0 until then; Denied says how.
	User      UserID
	Household HouseholdID
	Denied    bool
	AuthTime  time.Time
	Methods   []string
	Redeemed  time.Time
}

// SigningKey signs access tokens from NotBefore until Retires, and verifies
// them until Expires.
type SigningKey struct {
	ID        string // kid: the RFC 7638 thumbprint
	Private   []byte // PKCS #8, sealed at rest
	Created   time.Time
	NotBefore time.Time
	Retires   time.Time // zero: not yet
	Expires   time.Time // zero: not yet
}
