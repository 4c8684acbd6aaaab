package services

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// Credential is what a caller proves itself with, besides its tunnel address.
type Credential uint8

// The credentials. The machine's address is proved before any of them is
// looked at.
const (
	// AsPeer: the tunnel address alone, nothing more is asked.
	AsPeer Credential = iota + 1
	// AsUser: Authorization: Bearer, an access token of this very machine.
	AsUser
	// AsNode: X-API-Key: node:key, from the node's own machine.
	AsNode
	// AsApp: X-Jarvis-App-Id and X-Jarvis-App-Key, or a client certificate of
	// the hub's own CA, or both, as the gate is configured.
	AsApp
	// AsAdmin: X-API-Key, X-Jarvis-Admin-Token or X-Admin-Token with the key
	// of an app that has Admin.
	AsAdmin
)

// Requirement is what a route asks of its caller. The zero Requirement lets
// nobody in.
type Requirement struct {
	// Any lists the credentials that will do; the first one that the request
	// carries is judged, and no other.
	Any []Credential
	// Capability is a capability that the policy must grant the peer for the
	// service; "" asks for none.
	Capability string
	// Role is the least role of a person in the household.
	Role account.Role
	// Superuser asks for one, or for AsAdmin.
	Superuser bool
	// Household names the path parameter that says which household is meant.
	// A caller who does not belong there gets 404, as if there were none. ""
	// means the caller's own: that of the token, or of the node.
	Household string
	// Rate is the class of the rate limit, Usual if it is "".
	Rate string
	// Stream says that the answer may go on for long: it ends within a second
	// of the caller's losing what let it in.
	Stream bool
}

// Caller is who calls and what was proved about them. It is made by the gate
// only; the zero Caller is nobody and has an empty scope.
type Caller struct {
	// Peer is the machine. It is always known.
	Peer peer.Peer
	// As is the credential that was judged.
	As      Credential
	User    account.User    // AsUser
	Session account.Session // AsUser
	Role    account.Role    // AsUser, in the household of the scope
	Node    account.Node    // AsNode
	App     account.App     // AsApp, AsAdmin

	scope  account.Scope
	grants map[string][]json.RawMessage
}

// Scope is whose data the caller may have. It is empty for AsPeer, and for an
// app or admin unless the route names a household.
func (c *Caller) Scope() account.Scope { return c.scope }

// Actor is the caller in the audit log: "user:ID", "node:ID", "app:ID" or
// "peer:NAME".
func (c *Caller) Actor() string {
	switch c.As {
	case AsUser:
		return "user:" + c.User.ID.String()
	case AsNode:
		return "node:" + c.Node.ID
	case AsApp, AsAdmin:
		return "app:" + c.App.ID
	}
	return "peer:" + c.Peer.Name
}

// Grants are the values that the policy grants the calling peer for the
// service under a capability, nil if there are none.
func (c *Caller) Grants(capability string) []json.RawMessage { return c.grants[capability] }

// Authority judges credentials. Each call looks at what is stored now; nothing
// is cached. What is returned without an error is bound to p: the gate looks
// again and refuses a session, node or app that names another machine or none.
// An error that is no *Refusal means that the check could not run, and the
// caller is refused with 503.
type Authority interface {
	// User judges an access token that peer p presents.
	User(ctx context.Context, p peer.Peer, token string) (account.User, account.Session, error)
	// Node judges node:key that p presents for a service.
	Node(ctx context.Context, p peer.Peer, id, key, service string) (account.Node, error)
	// App judges an app's key that p presents for a service.
	App(ctx context.Context, p peer.Peer, id, key, service string) (account.App, error)
	// AppByPeer finds the app that is bound to p, for callers that prove
	// themselves with a certificate.
	AppByPeer(ctx context.Context, p peer.Peer, service string) (account.App, error)
	// Admin judges an admin key, which says its own id: "ID.SECRET".
	Admin(ctx context.Context, p peer.Peer, key string) (account.App, error)
	// Role is a person's role in a household, None if they do not belong.
	Role(ctx context.Context, u account.UserID, h account.HouseholdID) (account.Role, error)
	// Household finds one; ErrNotFound if there is none.
	Household(ctx context.Context, h account.HouseholdID) (account.Household, error)
}

// Refusal is an answer of "no" with the words for it.
type Refusal struct {
	Status int // HTTP
	// Detail is one sentence for a person; on routes of the seed, its words.
	Detail string
	// Challenge is the WWW-Authenticate header, "" for none.
	Challenge string
	// Retry is the Retry-After header, rounded up to seconds; 0 for none.
	Retry time.Duration
}

// Error implements error.
func (r *Refusal) Error() string { return r.Detail }

// refusal makes one that is given to many; like an error of errors.New, nobody
// changes it.
func refusal(r Refusal) *Refusal { return &r }

// AppProof is how an app proves itself.
type AppProof uint8

// The proofs. The zero value asks for the key.
const (
	ByKey AppProof = iota
	ByCertificate
	ByBoth
	ByEither
)

// GateConfig says how a Gate judges. Everything but Domain, Apps, Access, Logger
// and Now is needed; a Gate without it refuses everybody.
type GateConfig struct {
	// Service is the name of the service, as in svc:NAME.
	Service string
	// Authority judges credentials.
	Authority Authority
	// Roster says who is on the mesh now, with the household that the policy
	// puts a machine into.
	Roster func() *peer.Roster
	// Grants are the capabilities that the policy grants a peer for this
	// service.
	Grants func(p peer.Peer, service string) map[string][]json.RawMessage
	// Limit counts requests.
	Limit Limiter
	// Live are the requests that are running; it may be shared by services.
	Live *Live
	// Apps says how apps prove themselves.
	Apps AppProof
	// Domain is the mesh's: a certificate may say NAME.DOMAIN for a peer's NAME.
	Domain string
	// Access is told of each request of a person that was let in; nil for
	// nobody. It must not block.
	Access func(c *Caller, method, route string, status int)
	// Logger; nil discards.
	Logger *slog.Logger
	// Now is the clock that certificates are judged by; nil is time.Now.
	Now func() time.Time
}

// Gate stands in front of every route of a service. It is safe for concurrent
// use.
type Gate struct{ cfg GateConfig }

// NewGate returns a gate.
func NewGate(cfg GateConfig) *Gate {
	cfg.Logger = orDiscard(cfg.Logger)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Gate{cfg}
}

// Refuser writes a refusal in the words and the form of a route.
type Refuser func(w http.ResponseWriter, r *http.Request, why *Refusal)
