package account

import (
	"context"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// Store keeps accounts. All access is by transaction: Do runs a change and
// writes its audit entry, both or neither. Methods may be called by any number
// of goroutines; the function given must not call Do or Keep itself.
type Store interface {
	Do(ctx context.Context, ev Event, fn func(Tx) error) error
	Keep(ctx context.Context, fn func(Tx) error) error
	View(ctx context.Context, fn func(Tx) error) error
}

// Tx is a running transaction over all households: for signing in and for the
// admin, never for a household's data. It belongs to one goroutine and is dead
// when the function that got it returns. In a View what changes fails.
type Tx interface {
	Now() time.Time
	// Record adds a further audit entry to the transaction.
	Record(Event) error
	// Digest is HMAC-SHA256 of a secret under a key of the store, for keys
	// with at least 128 random bits.
	Digest(purpose string, secret []byte) []byte
	// Secret returns a random 32-byte secret of the store's own; the same for
	// the same name. It makes one in a Do or Keep if there is none.
	Secret(name string) ([]byte, error)

	People
	Households
	Sessions
	Machines
	OAuth
	Erasure
}

// People are the methods about persons and how they prove themselves.
type People interface {
	CreateUser(u User, password string) (User, error) // ErrExists: email or username
	User(UserID) (User, error)
	UserByEmail(email string) (User, error) // case-folded
	UserByName(username string) (User, error)
	Users() ([]User, error)
	CountSuperusers() (int, error) // without those disabled
	// UpdateUser changes everything but ID, Created and the secrets.
	UpdateUser(User) error

	Secrets(UserID) (Secrets, error)
	SetPassword(u UserID, hash string) error
	SetTOTP(u UserID, secret []byte, confirmed bool, recovery [][]byte) error // nil secret removes it; recovery: SHA-256 each
	// UseStep marks a time step used; ErrConflict if it or a later one was.
	UseStep(u UserID, step int64) error
	// UseRecovery uses up one recovery code; ErrNotFound if it is not one.
	UseRecovery(u UserID, hash []byte) error
	Passkeys(UserID) ([]Passkey, error)
	PasskeyByID(id []byte) (Passkey, error)
	PutPasskey(Passkey) error
	DeletePasskey(u UserID, id []byte) error

	// Failures counts failed sign-ins under a key since the last Forgive.
	Failures(key string) (n int, last time.Time, err error)
	Fail(key string) error
	Forgive(key string) error
	// ForgetFailures removes counts whose last failure is older.
	ForgetFailures(before time.Time) error
	// Know notes that a person signed in from a machine.
	Know(u UserID, p peer.ID) error
	Knows(u UserID, p peer.ID) (bool, error)
}

// Households are the methods about households and who lives there.
type Households interface {
	CreateHousehold(Household) (Household, error) // makes the ID
	Household(HouseholdID) (Household, error)
	HouseholdByLabel(label string) (Household, error)
	AllHouseholds() ([]Household, error)
	UpdateHousehold(Household) error
	// DeleteHousehold removes it with everything that belongs to it.
	DeleteHousehold(HouseholdID) error

	Memberships(UserID) ([]Membership, error) // oldest first
	Members(HouseholdID) ([]Membership, error)
	Membership(HouseholdID, UserID) (Membership, error)
	PutMembership(Membership) error
	DeleteMembership(HouseholdID, UserID) error

	CreateInvitation(Invitation) error
	Invitations(HouseholdID) ([]Invitation, error) // unused and not expired
	InvitationByCode(hash []byte) (Invitation, error)
	// UseInvitation uses it up; ErrConflict if it is used or expired.
	UseInvitation(hash []byte, by UserID) (Invitation, error)
	DeleteInvitation(h HouseholdID, id string) error
}

// Sessions are the methods about sign-ins.
type Sessions interface {
	CreateSession(Session) error
	Session(id string) (Session, error)
	SessionsOf(UserID) ([]Session, error) // live ones, newest first
	SetSessionHousehold(id string, h HouseholdID) error
	// ExtendSession sets when the newest refresh token ends.
	ExtendSession(id string, expires time.Time) error
	// RevokeSession ends one; revoking it again changes nothing.
	RevokeSession(id, why string) error
	// RevokeSessions ends all of a person's but one ("" for none) and says how
	// many. Codes and devices that they agreed to and that were not redeemed
	// are removed.
	RevokeSessions(u UserID, except, why string) (int, error)

	AddRefresh(Refresh) error
	Refresh(hash []byte) (Refresh, error)
	// UseRefresh marks a token exchanged for successor, once: ErrConflict if it
	// was used before.
	UseRefresh(hash, successor []byte) error
	// PruneSessions removes what ended before.
	PruneSessions(before time.Time) error
}

// Machines are the methods about nodes, apps and their keys.
type Machines interface {
	CreateNode(Node) error
	Node(id string) (Node, error)
	NodesOf(HouseholdID) ([]Node, error)
	AllNodes() ([]Node, error)
	UpdateNode(Node) error // everything but ID, Household, Created, Peer
	// BindNode makes a machine the one a node's keys work from; ErrConflict if
	// it is another already.
	BindNode(id string, p peer.ID) error
	DeleteNode(id string) error

	CreateApp(App) error
	App(id string) (App, error)
	Apps() ([]App, error)
	UpdateApp(App) error
	BindApp(id string, p peer.ID) error
	DeleteApp(id string) error

	// AddKey gives an owner ("node:ID" or "app:ID") a further key; the ones
	// there are end at overlap at the latest, zero: at once.
	AddKey(owner string, k Key, overlap time.Time) error
	Keys(owner string) ([]Key, error) // unexpired

	PutEnrolment(Enrolment) error
	// UseEnrolment uses it up; ErrConflict if it is used or expired,
	// ErrNotFound if there is none.
	UseEnrolment(hash []byte) (Enrolment, error)
	// HookHousehold finds whose hook a name is.
	HookHousehold(hook string) (HouseholdID, error)
}

// OAuth are the methods about clients, authorizations and signing keys.
type OAuth interface {
	PutClient(Client) error
	Client(id string) (Client, error)
	Clients() ([]Client, error)
	DeleteClient(id string) error // ends the sessions it holds

	CreateAuthRequest(AuthRequest) error
	AuthRequest(id string) (AuthRequest, error)
	AuthRequestByCode(hash []byte) (AuthRequest, error)
	// Agree sets who agreed, once; ErrConflict if somebody did or it expired.
	Agree(id string, u UserID, h HouseholdID, at time.Time, methods []string) error
	// SetCode sets the code's hash and when it ends, once.
	SetCode(id string, hash []byte, expires time.Time) error
	// RedeemCode marks the code exchanged for a session, once: ErrConflict if
	// it was or if it expired.
	RedeemCode(hash []byte, session string) error
	DeleteAuthRequest(id string) error

	CreateDevice(Device) error // ErrExists: the user code is taken
	Device(hash []byte) (Device, error)
	DeviceByUserCode(code string) (Device, error)
	PollDevice(hash []byte) error // sets LastPoll
	// DecideDevice sets who decided what, once; ErrConflict otherwise.
	DecideDevice(code string, u UserID, h HouseholdID, denied bool, at time.Time, methods []string) error
	RedeemDevice(hash []byte) error // once
	PruneOAuth(before time.Time) error

	SigningKeys() ([]SigningKey, error)
	PutSigningKey(SigningKey) error
	DeleteSigningKey(id string) error
}

// Erasure are the methods that end what is known about a person.
type Erasure interface {
	// BeginErasure notes that a person is to be erased, disables them and ends
	// their sessions; again it changes nothing.
	BeginErasure(UserID) error
	// Erasures lists who is to be erased and not done with.
	Erasures() ([]UserID, error)
	// EraseRecords removes up to limit records of the person, in all
	// households, and says how many; 0 when none is left.
	EraseRecords(u UserID, limit int) (int, error)
	// FinishErasure removes the person and destroys their key.
	FinishErasure(UserID) error
	// AllRecords are a person's records in all households, for their export.
	AllRecords(u UserID, after string, limit int) ([]Record, error)
	// Expire removes records of a kind from before a time, up to limit.
	Expire(kind Kind, before time.Time, limit int) (int, error)
	// PutAccess adds a line to a person's access log.
	PutAccess(Record) error
}
