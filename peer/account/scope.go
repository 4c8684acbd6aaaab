package account

import (
	"context"
	"encoding/json"
	"time"
)

// Scope says whose data is meant: one household and, where it matters, one
// person. The zero Scope is nobody's and finds nothing. Only the gate in front
// of the services, and the hub's own jobs, make one.
type Scope struct {
	household HouseholdID
	user      UserID
}

// NewScope is for the gate, which has proved that the caller belongs there.
func NewScope(h HouseholdID, u UserID) Scope { return Scope{h, u} }

// Household is whose data the scope reaches.
func (s Scope) Household() HouseholdID { return s.household }

// User is the person in the scope, 0 for a node or app.
func (s Scope) User() UserID { return s.user }

// Data is everything that belongs to households. The store confines each call
// to the scope it is given; on PostgreSQL the database does as well.
type Data interface {
	// Do changes something and records ev, both or neither.
	Do(ctx context.Context, in Scope, ev Event, fn func(Scoped) error) error
	// Keep is Do without a record, for bookkeeping that nobody decided.
	Keep(ctx context.Context, in Scope, fn func(Scoped) error) error
	// View reads one picture.
	View(ctx context.Context, in Scope, fn func(Scoped) error) error
}

// Scoped is a transaction inside one household. What belongs to another is
// ErrNotFound. It is dead when the function that got it returns.
type Scoped interface {
	Now() time.Time

	Nodes() ([]Node, error)
	Node(id string) (Node, error)
	Members() ([]Membership, error)

	// Blobs carry what the hub cannot read: settings sealed for a node.
	PutBlob(Blob) error // ErrExists if the id is taken
	Blob(kind BlobKind, id string) (Blob, error)
	Blobs(kind BlobKind, node string) ([]Blob, error) // oldest first, unexpired
	// MoveBlob changes the state from one to another and sets its payload if
	// that is not nil; ErrConflict if the state is not from.
	MoveBlob(kind BlobKind, id, from, to string, payload []byte) error
	DeleteBlob(kind BlobKind, id string) error
	// RaiseVersion sets the highest version of one kind of setting of a node;
	// ErrConflict unless it is above the last one. Versions outlive the blobs.
	RaiseVersion(node, configType string, version uint64) error
	Version(node, configType string) (uint64, error)

	// Records are a person's data, sealed under the person's own key.
	PutRecord(Record) error
	Record(kind Kind, id string) (Record, error)
	Records(kind Kind, user UserID, since time.Time, limit int) ([]Record, error) // newest first
	DeleteRecord(kind Kind, id string) error

	// Hooks are those who may send webhooks to the household.
	PutHook(Hook) error
	Hook(name string) (Hook, error)
	Hooks() ([]Hook, error)
	DeleteHook(name string) error
	// Accept notes an id of a hook until expires; ErrExists if it is noted.
	Accept(hook string, id []byte, expires time.Time) error
	PutDelivery(Delivery) error // the oldest beyond a bound go
	Deliveries(hook string, after int64, limit int) ([]Delivery, error)
}

// BlobKind is what a blob is for.
type BlobKind string

// The kinds of blobs of the settings sync.
const (
	BlobRequest BlobKind = "request" // a settings request and its snapshot
	BlobPush    BlobKind = "push"    // settings on their way to a node
	BlobKey     BlobKind = "key"     // K2, sealed to a node's pinned key
	BlobPin     BlobKind = "pin"     // a node's public key that K2 is sealed to
	BlobCommand BlobKind = "command" // something a node is told to do
)

// Blob is something sealed on its way between a person's phone and a node.
type Blob struct {
	Kind    BlobKind
	ID      string
	Node    string
	By      UserID
	State   string
	Payload json.RawMessage // at most MaxBlob bytes; ciphertext and its envelope
	Created time.Time
	Expires time.Time // zero: never
}

// MaxBlob is the size of a blob's payload in bytes.
const MaxBlob = 256 << 10

// Kind is a kind of personal data; each has its own retention.
type Kind string

// The kinds of records, with how long they are kept unless told otherwise.
const (
	Chat      Kind = "chat"      // 90 days
	Behaviour Kind = "behaviour" // 30 days
	Access    Kind = "access"    // 12 months; written by the gate
	Memory    Kind = "memory"    // until erased
)

// Record is one piece of personal data. Body is sealed at rest under a key of
// User's own.
type Record struct {
	Kind Kind
	ID   string
	User UserID
	At   time.Time
	Body []byte // at most MaxBlob bytes
}

// Hook is a sender of webhooks.
type Hook struct {
	Name    string // one DNS label
	Secret  []byte // sealed at rest
	Created time.Time
}

// Delivery is one webhook that was accepted.
type Delivery struct {
	Seq  int64 // rises; made by the store
	Hook string
	At   time.Time
	Body []byte // at most MaxBlob bytes
}
