package control

import (
	"time"

	"github.com/warrenmesh/warren/peer/account"
)

// People are named by their number, e-mail address or username wherever a
// request has a field User, and households by their id, label or name.

// UserSpec is a person who is to be added. Password is a secret.
type UserSpec struct {
	Email     string `json:"email"`
	Username  string `json:"username,omitempty"`
	Superuser bool   `json:"superuser,omitempty"`
	Password  string `json:"password"`
}

// UserRequest names one person.
type UserRequest struct {
	User string `json:"user"`
	// Password is a secret; only user/passwd reads it, and Temporary.
	Password  string `json:"password,omitempty"`
	Temporary bool   `json:"temporary,omitempty"`
	// Session is one of theirs, "" for all; only user/logout reads it.
	Session string `json:"session,omitempty"`
}

// UserInfo is one row of `hub user list`.
type UserInfo struct {
	ID         account.UserID  `json:"id"`
	Email      string          `json:"email"`
	Username   string          `json:"username,omitempty"`
	Superuser  bool            `json:"superuser,omitempty"`
	Disabled   bool            `json:"disabled,omitempty"`
	MustChange bool            `json:"must_change_password,omitempty"`
	Households []HouseholdRole `json:"households,omitempty"`
	Sessions   int             `json:"sessions"`
	Created    time.Time       `json:"created"`
}

// HouseholdRole is a person's place in a household.
type HouseholdRole struct {
	Household account.HouseholdID `json:"household"`
	Name      string              `json:"name"`
	Role      account.Role        `json:"role"`
}

// SessionInfo is one sign-in that lives.
type SessionInfo struct {
	ID      string         `json:"id"`
	User    account.UserID `json:"user"`
	Email   string         `json:"email"`
	Peer    string         `json:"peer"` // its name, its ID if it is gone
	Client  string         `json:"client,omitempty"`
	Methods []string       `json:"methods"`
	Created time.Time      `json:"created"`
	Expires time.Time      `json:"expires"`
}

// ImportRequest carries accounts of another system, one JSON object a line.
type ImportRequest struct {
	Document []byte `json:"document"`
}

// ImportReply says what came of an import.
type ImportReply struct {
	Added int `json:"added"`
}

// HouseholdSpec is a household that is to be added or changed.
type HouseholdSpec struct {
	Household string `json:"household,omitempty"` // to change; "" to add
	Name      string `json:"name,omitempty"`
	Label     string `json:"label,omitempty"`
}

// MemberSpec seats a person in a household; Role account.None unseats them.
type MemberSpec struct {
	Household string `json:"household"`
	User      string `json:"user"`
	Role      string `json:"role,omitempty"`
}

// HouseholdInfo is one row of `hub household list`.
type HouseholdInfo struct {
	ID      account.HouseholdID `json:"id"`
	Name    string              `json:"name"`
	Label   string              `json:"label,omitempty"`
	Members []HouseholdMember   `json:"members"`
	Nodes   int                 `json:"nodes"`
	Created time.Time           `json:"created"`
}

// HouseholdMember is one who lives there.
type HouseholdMember struct {
	User  account.UserID `json:"user"`
	Email string         `json:"email"`
	Role  account.Role   `json:"role"`
}

// NodeSpec is a node that is to be added.
type NodeSpec struct {
	ID        string   `json:"id"`
	Household string   `json:"household"`
	Peer      string   `json:"peer,omitempty"` // a peer's name
	Services  []string `json:"services,omitempty"`
}

// NodeInfo is one row of `hub node list`.
type NodeInfo struct {
	ID        string              `json:"id"`
	Name      string              `json:"name"`
	Household account.HouseholdID `json:"household"`
	Home      string              `json:"household_name"`
	Peer      string              `json:"peer,omitempty"` // "" until the first machine proves a key
	Room      string              `json:"room,omitempty"`
	Active    bool                `json:"active"`
	Services  []string            `json:"services"`
	Created   time.Time           `json:"created"`
	Rotated   time.Time           `json:"rotated,omitzero"`
	Seen      time.Time           `json:"seen,omitzero"`
}

// AppSpec is an app that is to be added.
type AppSpec struct {
	ID       string   `json:"id"`
	Peer     string   `json:"peer,omitempty"`
	Services []string `json:"services,omitempty"`
	Admin    bool     `json:"admin,omitempty"`
}

// AppInfo is one row of `hub app list`.
type AppInfo struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Peer     string    `json:"peer,omitempty"`
	Active   bool      `json:"active"`
	Admin    bool      `json:"admin,omitempty"`
	Services []string  `json:"services"`
	Created  time.Time `json:"created"`
	Rotated  time.Time `json:"rotated,omitzero"`
}

// KeyReply carries a new key or secret. It is shown once.
type KeyReply struct {
	ID  string `json:"id"`
	Key string `json:"key,omitempty"`
	// Overlap is until when the key before it works as well; zero: not at all.
	Overlap time.Time `json:"overlap,omitzero"`
}

// ClientSpec is an OAuth client that is to be added.
type ClientSpec struct {
	Name      string   `json:"name"`
	Redirects []string `json:"redirects,omitempty"`
	Device    bool     `json:"device,omitempty"`
	Secret    bool     `json:"secret,omitempty"` // make one
}

// ClientInfo is one row of `hub client list`.
type ClientInfo struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Redirects []string  `json:"redirects"`
	Device    bool      `json:"device,omitempty"`
	Secret    bool      `json:"secret,omitempty"`
	Own       bool      `json:"first_party,omitempty"`
	Created   time.Time `json:"created"`
}

// WebhookSpec names a sender of webhooks and whose it is.
type WebhookSpec struct {
	Name      string `json:"name"`
	Household string `json:"household,omitempty"`
}

// WebhookInfo is one row of `hub webhook list`.
type WebhookInfo struct {
	Name      string              `json:"name"`
	Household account.HouseholdID `json:"household"`
	Home      string              `json:"household_name"`
	URL       string              `json:"url"`
	Created   time.Time           `json:"created"`
}

// WebhookReply carries the secret of a new webhook, shown once.
type WebhookReply struct {
	WebhookInfo
	Secret string `json:"secret"`
}

// RootInfo is a root of the certificate authority that was announced.
type RootInfo struct {
	Signs time.Time `json:"signs"`
}

// SigningKeyInfo is one row of `hub keys list`.
type SigningKeyInfo struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Signs   time.Time `json:"signs_from"`
	Retires time.Time `json:"retires,omitzero"`
	Expires time.Time `json:"verifies_until,omitzero"`
}

// AccountsStatus is the part of Status about people and what acts for them.
type AccountsStatus struct {
	Users      int `json:"users"`
	Superusers int `json:"superusers"`
	Households int `json:"households"`
	Nodes      int `json:"nodes"`
	Apps       int `json:"apps"`
	// Erasing are people whose erasure is not finished.
	Erasing []account.UserID `json:"erasing,omitempty"`
	// KeyAge is how long the newest token signing key has signed.
	KeyAge time.Duration `json:"key_age"`
	// Redis says how the shared rate limits are: "" without Redis.
	Redis string `json:"redis,omitempty"`
}
