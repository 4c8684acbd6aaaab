// Package control is how the admin's command line talks to a running hub: HTTP
// with JSON bodies over a Unix socket in the state directory.
//
// The socket is the admin's way in when everything else is closed, so it is
// protected by the file system and by nothing that policy could break: the
// directory is 0700, the socket 0600, and the kernel tells the hub which user
// is at the other end (SO_PEERCRED on Linux). Only the hub's own user and root
// are served. Nothing of it is reachable over a network.
//
// A reply with a status of 400 or more carries an Error, one sentence for a
// person. Command output types here are what `--json` prints.
package control

import (
	"net/netip"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// Socket is the socket's name in the state directory.
const Socket = "hub.sock"

// MaxBody bounds every request and reply but a backup, in bytes. It leaves
// room for a policy of the largest size with its JSON escapes.
const MaxBody = 8 << 20

// Error is a refusal: what is wrong and, if there is one, what to do next.
type Error struct {
	Message string `json:"error"`
	Hint    string `json:"hint,omitempty"`
	Status  int    `json:"-"`
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// PeerSpec is what an admin says about a machine that is to join.
type PeerSpec struct {
	Name      string        `json:"name"`
	Owner     string        `json:"owner,omitempty"`
	Tags      []string      `json:"tags,omitempty"`
	Household string        `json:"household,omitempty"`
	TTL       time.Duration `json:"ttl,omitempty"` // invites only; 0 means 24 h
}

// InviteReply carries the one line that lets a machine join. It is a secret.
type InviteReply struct {
	Code    string    `json:"code"`
	Expires time.Time `json:"expires"`
	Note    string    `json:"note,omitempty"` // what the admin may have overlooked
}

// PhoneRequest adds a machine that runs the stock WireGuard app. The key pair
// is made by the asker; the private half never reaches the hub.
type PhoneRequest struct {
	PeerSpec
	PublicKey peer.PublicKey `json:"public_key"`
}

// PhoneReply is everything a stock WireGuard configuration needs besides the
// private key. PSK is a secret, in base64.
type PhoneReply struct {
	Peer     peer.Peer      `json:"peer"`
	PSK      string         `json:"psk"`
	Hub      peer.PublicKey `json:"hub"`
	Endpoint string         `json:"endpoint"`
	Networks []netip.Prefix `json:"networks"`
	DNS      []netip.Addr   `json:"dns"`
	Domain   string         `json:"domain"`
	MTU      int            `json:"mtu"`
	Note     string         `json:"note,omitempty"` // what the admin may have overlooked
}

// PeerInfo is one row of `hub peers`.
type PeerInfo struct {
	peer.Peer
	Endpoint  string    `json:"endpoint,omitempty"`
	Handshake time.Time `json:"handshake,omitzero"`
	// RxBytes and TxBytes are as the hub sees them: received from and sent to
	// the peer since the hub started.
	RxBytes uint64 `json:"rx_bytes"`
	TxBytes uint64 `json:"tx_bytes"`
	Refused uint64 `json:"refused"`
	// Expires is set for an invite nobody has used yet.
	Expires time.Time `json:"expires,omitzero"`
}

// PeerEdit changes one peer. Exactly one of the fields besides Name is set.
type PeerEdit struct {
	Name       string   `json:"name"`
	Remove     bool     `json:"remove,omitempty"`
	Rename     string   `json:"rename,omitempty"`
	Tags       []string `json:"tags,omitempty"`
	SetTags    bool     `json:"set_tags,omitempty"`
	Quarantine bool     `json:"quarantine,omitempty"`
	Release    bool     `json:"release,omitempty"`
}

// Change says what an edit did to running traffic.
type Change struct {
	Generation uint64        `json:"generation,omitempty"`
	Cut        int           `json:"cut"`
	Took       time.Duration `json:"took"`
	// Warnings are sentences about what is accepted but looks unintended.
	Warnings []string `json:"warnings,omitempty"`
	// ConfirmBy is when the policy goes back unless it is confirmed.
	ConfirmBy time.Time `json:"confirm_by,omitzero"`
}

// PolicyRequest carries a policy's text.
type PolicyRequest struct {
	Text string `json:"text"`
	// Base is the generation the edit started from, 0 if unknown. Another
	// live generation means somebody else saved in between: refused.
	Base uint64 `json:"base,omitempty"`
	// Confirm is how long the admin has to confirm before it goes back.
	Confirm time.Duration `json:"confirm,omitempty"`
	// Lockout accepts a policy that leaves nobody in group:admin.
	Lockout bool `json:"lockout,omitempty"`
}

// PolicyReply is one stored generation.
type PolicyReply struct {
	Generation uint64    `json:"generation"`
	Author     string    `json:"author"`
	At         time.Time `json:"at"`
	Text       string    `json:"text,omitempty"`
	Live       bool      `json:"live"`
	ConfirmBy  time.Time `json:"confirm_by,omitzero"`
}

// DiffReply is what a candidate policy would open and close.
type DiffReply struct {
	Opened []string `json:"opened"`
	Closed []string `json:"closed"`
	// Hit are recorded flows whose verdict would change.
	Hit      []FlowHit `json:"hit"`
	Warnings []string  `json:"warnings,omitempty"`
}

// FlowHit is one recorded flow and what would become of it.
type FlowHit struct {
	Flow      string    `json:"flow"`
	Count     uint64    `json:"count"`
	Last      time.Time `json:"last"`
	WouldOpen bool      `json:"would_open"`
}

// ExplainRequest asks what the live policy says of one connection. Src is a
// peer, a service or an address; Dst is NAME:PORT, ADDRESS:PORT, with
// optional "/udp", "/tcp" or "/icmp".
type ExplainRequest struct {
	Src string `json:"src"`
	Dst string `json:"dst"`
}

// ExplainReply is the answer, from the same matrix as the packet path.
type ExplainReply struct {
	Allowed bool   `json:"allowed"`
	Text    string `json:"text"`
	Recent  string `json:"recent,omitempty"`
}

// PublishRequest names a service of the hub's own machine.
type PublishRequest struct {
	Name   string `json:"name"`
	Target string `json:"target"`
	Port   uint16 `json:"port,omitempty"` // 0: 80 for http, the target's own for tcp
}

// ServiceInfo is one row of `hub services`.
type ServiceInfo struct {
	Name    string       `json:"name"`
	FQDN    string       `json:"fqdn"`
	Addrs   []netip.Addr `json:"addrs"`
	Ports   []string     `json:"ports"`
	Target  string       `json:"target,omitempty"`
	Host    string       `json:"host"` // "hub" or a peer's name
	Builtin bool         `json:"builtin,omitempty"`
	Note    string       `json:"note,omitempty"`
}

// Refusal is one row of what was refused lately, and why.
type Refusal struct {
	Src   string    `json:"src"`
	Dst   string    `json:"dst"`
	Why   string    `json:"why"`
	Count uint64    `json:"count"`
	Last  time.Time `json:"last"`
}

// Status answers "is it up, who is here, what was refused and why".
type Status struct {
	Version    string            `json:"version"`
	Started    time.Time         `json:"started"`
	Endpoint   string            `json:"endpoint"`
	Listening  string            `json:"listening"`
	PublicKey  peer.PublicKey    `json:"public_key"`
	Domain     string            `json:"domain"`
	Networks   []netip.Prefix    `json:"networks"`
	Generation uint64            `json:"generation"`
	Recovery   string            `json:"recovery,omitempty"` // why only recovery is open, "" if it is not
	ConfirmBy  time.Time         `json:"confirm_by,omitzero"`
	Peers      []PeerInfo        `json:"peers"`
	Services   []ServiceInfo     `json:"services"`
	Refused    []Refusal         `json:"refused"`
	Drops      map[string]uint64 `json:"drops"`
	Accounts   AccountsStatus    `json:"accounts"`
	Problems   []string          `json:"problems,omitempty"`
}

// Check is one line of `hub doctor`. After names the check it depends on: when
// that one failed, this one says so instead of adding a second red light.
type Check struct {
	Name  string `json:"name"`
	After string `json:"after,omitempty"`
	OK    bool   `json:"ok"`
	Warn  bool   `json:"warn,omitempty"`
	Note  string `json:"note"`
	Fix   string `json:"fix,omitempty"`
}

// AuditRow is one entry of the audit log.
type AuditRow struct {
	Index  uint64            `json:"index"`
	Time   time.Time         `json:"time"`
	Actor  string            `json:"actor"`
	Action string            `json:"action"`
	Target string            `json:"target,omitempty"`
	Detail map[string]string `json:"detail,omitempty"`
	Hash   string            `json:"hash"`
}

// AuditReply is a page of the audit log, oldest first.
type AuditReply struct {
	Rows []AuditRow `json:"rows"`
}

// VerifyReply says whether the audit chain holds.
type VerifyReply struct {
	Entries uint64 `json:"entries"`
	Head    string `json:"head"`
	// Bad is the first entry that does not fit, with Why; nil if all do.
	Bad *uint64 `json:"bad,omitempty"`
	Why string  `json:"why,omitempty"`
}

// BackupRequest carries the passphrase that seals the backup. It travels over
// the Unix socket only, and is a secret.
type BackupRequest struct {
	Passphrase string `json:"passphrase"`
	// People is where the asker puts people's keys, an absolute path; only
	// backup/people reads it.
	People string `json:"people,omitempty"`
}
