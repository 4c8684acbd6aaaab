// Package settings carries settings between people's phones and the nodes of
// their household, and provisions nodes. The hub has ciphertext only: what is
// sealed, and with what, is package k2.
//
// A phone asks for a snapshot of a node's settings and fetches it when the node
// has answered; it pushes a setting, which waits until the node takes it. A
// node learns that there is work by one long poll (events). All of it is blobs
// of a household: a node or person of another household finds nothing there.
//
// K2 passes through here only sealed to the node's own X25519 key, which the
// node publishes; a body with a clear K2 is refused before anything looks at
// it. The first key that a node publishes is taken as it is, in state "first",
// until a person has compared its fingerprint; another one after it waits for a
// person's approval.
//
// The routes, their order of checks and their words are those that Jarvis'
// clients know. There is no message broker.
//
// Limits: what the hub can do to settings is lose them, hold them back, or show
// a false node key to a phone on which nobody compares. Package k2 says how the
// two ends notice.
package settings

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// How long things wait.
const (
	RequestLife   = 30 * time.Minute // a settings request, for its snapshot
	SnapshotLife  = 24 * time.Hour   // the snapshot, to be fetched
	PushLife      = 30 * 24 * time.Hour
	EnrolmentLife = 10 * time.Minute
	// OnlineFor is how long after it was heard of a node counts as online.
	OnlineFor = 15 * time.Minute
	// MaxWait is the longest that a poll for events is held.
	MaxWait = 50 * time.Second
	// pollEvery is how often a held poll looks at the store: another hub on the
	// same database may have put something there.
	pollEvery = 5 * time.Second
	// maxPending is how many blobs of one kind may wait for one node, of which
	// maxPendingOne are one person's, so that nobody fills it alone; maxKept is
	// how many there may be before those that are done with go.
	maxPending    = 100
	maxPendingOne = 25
	maxKept       = 20
)

// NewNode is a node to be created.
type NewNode struct {
	ID           string
	Name         string
	Household    account.HouseholdID
	Peer         string // the name of its machine; "" for the one called like it
	RegisteredBy account.UserID
	Room         string
	Services     []string
}

// Config says what a Service works with. Store, Data and CreateNode are needed.
type Config struct {
	Store account.Store
	Data  account.Data
	// CreateNode makes a node with its first key, as the account service does;
	// a *services.Refusal is told to the caller.
	CreateNode func(ctx context.Context, actor string, n NewNode) (account.Node, string, error)
	// NodeServices are what a newly provisioned node may call, by the names of
	// the services; nil is command.
	NodeServices []string
	Logger       *slog.Logger
	Now          func() time.Time
}

// Service is the settings service. Any number of goroutines may use it.
type Service struct {
	cfg Config

	mu      sync.Mutex
	changed chan struct{} // closed, and made anew, when something waits
}

// New returns a service.
func New(cfg Config) *Service {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.NodeServices == nil {
		cfg.NodeServices = []string{"command"}
	}
	return &Service{cfg: cfg, changed: make(chan struct{})}
}

// Who keeps households apart on these routes.
const (
	tenantScope = "The scope of the token or node key: a node of another household is not found in it."
	tenantNode  = "The path names a node, and only that node's own key gets past the first check."
	tenantAdmin = "A person is confined to the household of the token; an admin key is for all."
)

// Register adds the routes to the command service.
func (s *Service) Register(r *router.Router) {
	s.registerRequests(r)
	s.registerPushes(r)
	s.registerKeys(r)
	s.registerEvents(r)
	s.registerNodes(r)
	s.registerProvisioning(r)
}

// route is a line of the table in Jarvis' shape.
func route(method, path, summary, tenant string, need services.Requirement) router.Route {
	return router.Route{Method: method, Path: path, Summary: summary, Group: "settings", Need: need, Shape: router.Jarvis, MaxBody: account.MaxBlob, Tenant: tenant}
}

func created(rt router.Route) router.Route {
	rt.Status = http.StatusCreated
	return rt
}

func asNode() services.Requirement {
	return services.Requirement{Any: []services.Credential{services.AsNode}}
}

func asUser(least account.Role) services.Requirement {
	return services.Requirement{Any: []services.Credential{services.AsUser}, Role: least}
}

func asAdminOr(least account.Role) services.Requirement {
	return services.Requirement{Any: []services.Credential{services.AsAdmin, services.AsUser}, Role: least}
}

// NodePath is the path of every route about one node.
type NodePath struct {
	ID string `path:"id" maxLength:"64" doc:"The node's id."`
}

// own refuses a node that names another one, before anything is looked up: it
// learns nothing of what others have.
func (p NodePath) own(c *services.Caller, detail string) error {
	if c.Node.ID == "" || c.Node.ID != p.ID {
		return refusal(http.StatusForbidden, "%s", detail)
	}
	return nil
}

func refusal(status int, format string, args ...any) error {
	return &services.Refusal{Status: status, Detail: fmt.Sprintf(format, args...)}
}

// missing turns ErrNotFound into Jarvis' words.
func missing(err error, detail string) error {
	if errors.Is(err, account.ErrNotFound) {
		return refusal(http.StatusNotFound, "%s", detail)
	}
	return err
}

func event(c *services.Caller, action, node string, detail map[string]string) account.Event {
	return account.Event{Actor: c.Actor(), Action: action, Target: "node:" + node, Detail: detail}
}

// wake ends the waiting of held polls.
func (s *Service) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Service) waiting() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// put stores a blob that waits for its node, as long as not too many do.
func (s *Service) put(sc account.Scoped, b account.Blob) error {
	if _, err := sc.Node(b.Node); err != nil {
		return missing(err, "Node not found")
	}
	all, err := sc.Blobs(b.Kind, b.Node)
	if err != nil {
		return fmt.Errorf("counting what waits: %w", err)
	}
	// What is done with makes room, the oldest first.
	waiting, own, over := 0, 0, len(all)-maxKept
	for _, other := range all {
		switch {
		case other.State == statePending:
			waiting++
			if other.By == b.By {
				own++
			}
		case over > 0:
			over--
			if err := sc.DeleteBlob(other.Kind, other.ID); err != nil {
				return fmt.Errorf("making room: %w", err)
			}
		}
	}
	if waiting >= maxPending {
		return refusal(http.StatusConflict, "%d of these wait for the node already; switch it on, or wait until they expire.", waiting)
	}
	if own >= maxPendingOne {
		return refusal(http.StatusConflict, "%d of yours wait for the node already; switch it on, or wait until they expire.", own)
	}
	return sc.PutBlob(b)
}

// find is a blob of a node, whatever became of it.
func find(sc account.Scoped, kind account.BlobKind, node, id, detail string) (account.Blob, error) {
	b, err := sc.Blob(kind, id)
	if err != nil {
		return b, missing(err, detail)
	}
	if b.Node != node {
		return account.Blob{}, refusal(http.StatusNotFound, "%s", detail)
	}
	return b, nil
}

func expired(sc account.Scoped, b account.Blob) bool {
	return !b.Expires.IsZero() && !sc.Now().Before(b.Expires)
}

// The states of blobs.
const (
	statePending   = "pending"
	stateFulfilled = "fulfilled"
	stateAcked     = "acknowledged"
	stateRefused   = "refused"
)

// newID is a random UUID (RFC 9562, version 4), as Jarvis' clients expect.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails: crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// stamp is a time as it is sent: UTC, to the second.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
