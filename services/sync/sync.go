// Package sync is how a spoke learns what it needs to know about the mesh,
// and says what it offers: a few JSON documents over HTTP/1.1, on the sync
// service's own address, tcp/80, inside the tunnel. There is no TLS below the
// tunnel's own encryption and no password: the source address is the caller.
//
//	GET    /v1/self         Self; with If-None-Match it waits for a change
//	POST   /v1/serve        ServeRequest -> ServeReply
//	DELETE /v1/serve/NAME   stop offering
//	POST   /v1/certificate  CertificateRequest -> CertificateReply
//	POST   /v1/leave        {}: the peer removes itself
//
// Every refusal is a Problem: a status and a sentence. Bodies are JSON objects
// of at most MaxRequest bytes; unknown fields are refused, so that a typo does
// not pass for an answer.
//
// The protocol is for programs. A browser on a peer's machine must not be able
// to speak it on behalf of a page it shows, so a request that carries Origin
// or Sec-Fetch-Site is refused, and what changes something needs the content
// type application/json, which no form can send.
package sync

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/warrenmesh/warren/peer"
)

const (
	// MaxRequest is the size of a request body, bytes.
	MaxRequest = 4 << 10
	// MaxSelf is the most that a client reads of an answer, bytes.
	MaxSelf = 8 << 20
	// Hold is how long the hub keeps a request waiting for a change.
	Hold = 50 * time.Second
	// MaxHeld is how many waiting requests one peer may have; for a further one
	// the oldest is answered at once, as if its time were up.
	MaxHeld = 4
	// MaxConns is how many connections one address may hold, MaxConnsAll how
	// many all of them: each spoke of a large mesh keeps one open and waits.
	MaxConns    = 2 * MaxHeld
	MaxConnsAll = 32 << 10
)

// Self is all that a spoke knows of the mesh.
type Self struct {
	// Peer is the spoke itself, as the hub has it.
	Peer   peer.Peer `json:"peer"`
	Domain string    `json:"domain"`
	// Endpoint is where the hub is reached from outside, host:port.
	Endpoint string         `json:"endpoint"`
	DNS      []netip.Addr   `json:"dns"`
	Network  []netip.Prefix `json:"network"`
	MTU      int            `json:"mtu"`
	// Epoch counts the filters the hub has put in force since it started.
	Epoch uint64 `json:"epoch"`
	// Names are those this peer may reach something on, and its own; without
	// the domain.
	Names map[string][]netip.Addr `json:"names"`
	// Slice is the part of the policy that this spoke enforces itself, an
	// acl.Slice. It is passed on as it is.
	Slice json.RawMessage `json:"slice,omitempty"`
	// Serves are the names of what this peer offers.
	Serves []string `json:"serves"`
}

// ServeRequest offers a port of the calling peer to the mesh under a name.
type ServeRequest struct {
	Name  string `json:"name"`
	Proto string `json:"proto"` // "tcp" or "udp"
	Port  uint16 `json:"port"`
}

// Validate says in one sentence what is wrong with the request.
func (r ServeRequest) Validate() error {
	if err := peer.ValidName(r.Name); err != nil {
		return err
	}
	if r.Proto != "tcp" && r.Proto != "udp" {
		return fmt.Errorf("the protocol is %.20q; it is tcp or udp", r.Proto)
	}
	if r.Port == 0 {
		return fmt.Errorf("the port is 0; it is 1 to 65535")
	}
	return nil
}

// ServeReply says under which name the offer can be found.
type ServeReply struct {
	Name string `json:"name"`
	FQDN string `json:"fqdn"`
}

// Problem is a refusal. A Source returns one to choose the status and the
// sentence that the peer sees, and a Client returns it as its error.
type Problem struct {
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

func (p *Problem) Error() string { return p.Detail }

// Conflict, Forbidden and NotFound make the refusals a Source needs.
func Conflict(detail string) error  { return &Problem{http.StatusConflict, detail} }
func Forbidden(detail string) error { return &Problem{http.StatusForbidden, detail} }
func NotFound(detail string) error  { return &Problem{http.StatusNotFound, detail} }
