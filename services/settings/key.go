package settings

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
	"github.com/warrenmesh/warren/services/settings/k2"
)

// KeyLife is how long a sealed K2 waits for its node.
const KeyLife = 24 * time.Hour

func (s *Service) registerKeys(r *router.Router) {
	const at = "/api/v0/nodes/{id}"
	router.Handle(r, route(http.MethodGet, at+"/key", "The public key of a node that K2 is sealed to.", tenantScope, services.Requirement{
		Any: []services.Credential{services.AsNode, services.AsUser}, Role: account.Member}), s.key)
	router.Handle(r, route(http.MethodPut, at+"/key", "Publish the calling node's public key.", tenantNode, asNode()), s.publish)
	router.Handle(r, route(http.MethodPost, at+"/key/approve", "Approve the key whose fingerprint was compared.", tenantScope, asUser(account.PowerUser)), s.approve)

	accepted := route(http.MethodPost, at+"/k2", "Send K2 to a node, sealed to the node's key.", tenantScope, asUser(account.PowerUser))
	accepted.Status = http.StatusAccepted
	router.Handle(r, accepted, s.sendKey)
	router.Handle(r, route(http.MethodGet, at+"/k2/pending", "The sealed K2s that wait for the calling node.", tenantNode, asNode()), s.pendingKeys)
	router.Handle(r, route(http.MethodPost, at+"/k2/ack/{push_id}", "Say that the calling node took or refused a K2.", tenantNode, asNode()), s.ackKey)
	router.Handle(r, route(http.MethodGet, at+"/k2/sent/{push_id}", "What became of a K2 that was sent.", tenantScope, asUser(account.Member)), s.keyState)
}

// The states of a node's public key.
const (
	keyNone    = "none"
	keyFirst   = "first"   // as the node sent it; nobody has compared it
	keyPinned  = "pinned"  // a person has approved it
	keyChanged = "changed" // the node has sent another one since
)

// pin is the payload of a BlobPin; the blob's id is the node's.
type pin struct {
	Key      string    `json:"key"`
	Since    time.Time `json:"since"`
	Approved bool      `json:"approved"`
	// Proposed is another key that the node sent later.
	Proposed string    `json:"proposed,omitempty"`
	At       time.Time `json:"at,omitzero"`
}

func (p pin) state() string {
	switch {
	case p.Key == "":
		return keyNone
	case p.Proposed != "":
		return keyChanged
	case p.Approved:
		return keyPinned
	}
	return keyFirst
}

type keyOut struct {
	Body struct {
		NodeID              string     `json:"node_id"`
		State               string     `json:"state" enum:"none,first,pinned,changed" doc:"first: not compared by anybody yet; changed: the node has sent another key, which waits for a person."`
		PublicKey           string     `json:"public_key,omitempty"`
		Fingerprint         string     `json:"fingerprint,omitempty"`
		Since               *time.Time `json:"since,omitempty"`
		Proposed            string     `json:"proposed,omitempty"`
		ProposedFingerprint string     `json:"proposed_fingerprint,omitempty"`
		ProposedAt          *time.Time `json:"proposed_at,omitempty"`
	}
}

func keyReply(node string, p pin) *keyOut {
	out := new(keyOut)
	out.Body.NodeID, out.Body.State = node, p.state()
	for _, part := range []struct {
		text        string
		at          time.Time
		key, finger *string
		when        **time.Time
	}{
		{p.Key, p.Since, &out.Body.PublicKey, &out.Body.Fingerprint, &out.Body.Since},
		{p.Proposed, p.At, &out.Body.Proposed, &out.Body.ProposedFingerprint, &out.Body.ProposedAt},
	} {
		pub, err := k2.ParsePublicKey(part.text)
		if err != nil {
			continue
		}
		at := stamp(part.at)
		*part.key, *part.finger, *part.when = part.text, pub.Fingerprint(), &at
	}
	return out
}

// readPin is the zero pin for a node that has published nothing.
func readPin(sc account.Scoped, node string) (p pin, there bool, err error) {
	if _, err := sc.Node(node); err != nil {
		return pin{}, false, missing(err, "Node not found")
	}
	b, err := sc.Blob(account.BlobPin, node)
	if errors.Is(err, account.ErrNotFound) {
		return pin{}, false, nil
	}
	if err != nil {
		return pin{}, false, fmt.Errorf("reading a node's key: %w", err)
	}
	if err := json.Unmarshal(b.Payload, &p); err != nil {
		return pin{}, false, fmt.Errorf("reading a node's key: %w", err)
	}
	return p, true, nil
}

const statePin = "pin"

func writePin(sc account.Scoped, node string, p pin, there bool) error {
	payload, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if there {
		return sc.MoveBlob(account.BlobPin, node, statePin, statePin, payload)
	}
	return sc.PutBlob(account.Blob{Kind: account.BlobPin, ID: node, Node: node, State: statePin, Payload: payload, Created: sc.Now()})
}

func (s *Service) key(ctx context.Context, c *services.Caller, in *NodePath) (out *keyOut, err error) {
	if c.As == services.AsNode {
		if err := in.own(c, "Cannot access other node's key"); err != nil {
			return nil, err
		}
	}
	err = s.cfg.Data.View(ctx, c.Scope(), func(sc account.Scoped) error {
		p, _, err := readPin(sc, in.ID)
		out = keyReply(in.ID, p)
		return err
	})
	return out, err
}

type publicKeyIn struct {
	NodePath
	Body struct {
		PublicKey string `json:"public_key" maxLength:"64" doc:"X25519, 32 bytes in base64url without padding."`
	}
}

// parse returns the key in its one spelling.
func (in *publicKeyIn) parse() (string, error) {
	pub, err := k2.ParsePublicKey(in.Body.PublicKey)
	if err != nil {
		return "", refusal(http.StatusUnprocessableEntity, "This is no X25519 public key in base64url without padding.")
	}
	return pub.String(), nil
}

func (s *Service) publish(ctx context.Context, c *services.Caller, in *publicKeyIn) (out *keyOut, err error) {
	if err := in.own(c, "Cannot publish other node's key"); err != nil {
		return nil, err
	}
	key, err := in.parse()
	if err != nil {
		return nil, err
	}
	err = s.cfg.Data.Do(ctx, c.Scope(), event(c, "node.key.publish", in.ID, map[string]string{"key": key}), func(sc account.Scoped) error {
		p, there, err := readPin(sc, in.ID)
		if err != nil {
			return err
		}
		switch key {
		case p.Key:
			p.Proposed, p.At = "", time.Time{} // it has found its key again
		case p.Proposed:
		default:
			if p.Key == "" {
				p = pin{Key: key, Since: sc.Now()}
			} else {
				p.Proposed, p.At = key, sc.Now()
			}
		}
		out = keyReply(in.ID, p)
		return writePin(sc, in.ID, p, there)
	})
	return out, err
}

func (s *Service) approve(ctx context.Context, c *services.Caller, in *publicKeyIn) (out *keyOut, err error) {
	key, err := in.parse()
	if err != nil {
		return nil, err
	}
	err = s.cfg.Data.Do(ctx, c.Scope(), event(c, "node.key.approve", in.ID, map[string]string{"key": key}), func(sc account.Scoped) error {
		p, there, err := readPin(sc, in.ID)
		if err != nil {
			return err
		}
		switch {
		case key == p.Key:
			p.Approved = true
		case key == p.Proposed && key != "":
			p = pin{Key: key, Since: sc.Now(), Approved: true}
		default:
			return refusal(http.StatusConflict, "The node has not published this key; compare the fingerprint again.")
		}
		out = keyReply(in.ID, p)
		return writePin(sc, in.ID, p, there)
	})
	return out, err
}

// sentKey is the payload of a BlobKey.
type sentKey struct {
	KID    string        `json:"kid"`
	Sealed *k2.SealedKey `json:"sealed,omitempty"` // nil once the node has it
	Why    string        `json:"why,omitempty"`
}

type sendKeyIn struct {
	NodePath
	Body struct {
		Sealed *k2.SealedKey `json:"sealed,omitempty" doc:"K2, sealed to the node's public key with HPKE."`
		KID    string        `json:"kid,omitempty" maxLength:"64" doc:"The id of the K2; it is in sealed as well."`
		// Clear is what Jarvis' clients send; it is looked at only to say no.
		Clear     any `json:"k2,omitempty" doc:"Refused: the hub must never have a K2."`
		CreatedAt any `json:"created_at,omitempty" doc:"Not looked at: it is inside sealed."`
	}
}

type keyStateOut struct {
	Body struct {
		RequestID string    `json:"request_id"`
		NodeID    string    `json:"node_id"`
		KID       string    `json:"kid"`
		Status    string    `json:"status" doc:"pending, acknowledged or refused"`
		Why       string    `json:"why,omitempty"`
		CreatedAt time.Time `json:"created_at"`
		ExpiresAt time.Time `json:"expires_at"`
	}
}

func keyStateReply(b account.Blob, k sentKey) *keyStateOut {
	out := new(keyStateOut)
	out.Body.RequestID, out.Body.NodeID, out.Body.KID, out.Body.Status, out.Body.Why = b.ID, b.Node, k.KID, b.State, k.Why
	out.Body.CreatedAt, out.Body.ExpiresAt = stamp(b.Created), stamp(b.Expires)
	return out
}

func (s *Service) sendKey(ctx context.Context, c *services.Caller, in *sendKeyIn) (*keyStateOut, error) {
	sealed := in.Body.Sealed
	switch {
	case in.Body.Clear != nil:
		return nil, refusal(http.StatusUnprocessableEntity, "A K2 in the clear is refused, because whoever carries it could read the node's settings: seal it to the node's public key (GET …/key) and send it as sealed, or show it to the node as a QR code. Make a new K2 now; this one was sent in the clear.")
	case sealed == nil:
		return nil, refusal(http.StatusUnprocessableEntity, "There is no K2 here: send it as sealed.")
	case sealed.Valid() != nil || in.Body.KID != "" && in.Body.KID != sealed.KID:
		return nil, refusal(http.StatusUnprocessableEntity, "This is no sealed K2.")
	}
	payload, err := json.Marshal(sentKey{KID: sealed.KID, Sealed: sealed})
	if err != nil {
		return nil, err
	}
	b := account.Blob{Kind: account.BlobKey, ID: newID(), Node: in.ID, By: c.User.ID, State: statePending, Payload: payload}
	err = s.cfg.Data.Do(ctx, c.Scope(), event(c, "k2.send", in.ID, map[string]string{"request": b.ID, "kid": sealed.KID}), func(sc account.Scoped) error {
		p, _, err := readPin(sc, in.ID)
		if err != nil {
			return err
		}
		if sealed.To != p.Key {
			return refusal(http.StatusConflict, "This K2 is sealed to another key than the node's; fetch the node's key and compare its fingerprint.")
		}
		b.Created, b.Expires = sc.Now(), sc.Now().Add(KeyLife)
		return s.put(sc, b)
	})
	if err != nil {
		return nil, err
	}
	s.wake()
	return keyStateReply(b, sentKey{KID: sealed.KID}), nil
}

type pendingKey struct {
	RequestID string        `json:"request_id"`
	Sealed    *k2.SealedKey `json:"sealed"`
	CreatedAt time.Time     `json:"created_at"`
}

type pendingKeysOut struct {
	Body struct {
		Pending []pendingKey `json:"pending"`
	}
}

func (s *Service) pendingKeys(ctx context.Context, c *services.Caller, in *NodePath) (*pendingKeysOut, error) {
	if err := in.own(c, "Cannot access other node's keys"); err != nil {
		return nil, err
	}
	out := new(pendingKeysOut)
	out.Body.Pending = []pendingKey{}
	err := s.cfg.Data.View(ctx, c.Scope(), func(sc account.Scoped) error {
		all, err := sc.Blobs(account.BlobKey, in.ID)
		if err != nil {
			return err
		}
		for _, b := range all {
			var k sentKey
			if err := json.Unmarshal(b.Payload, &k); err != nil {
				return fmt.Errorf("reading a stored key: %w", err)
			}
			if b.State == statePending {
				out.Body.Pending = append(out.Body.Pending, pendingKey{b.ID, k.Sealed, stamp(b.Created)})
			}
		}
		return nil
	})
	return out, err
}

func (s *Service) ackKey(ctx context.Context, c *services.Caller, in *ackIn) (*ackOut, error) {
	if err := in.own(c, "Cannot access other node's keys"); err != nil {
		return nil, err
	}
	return s.ack(ctx, c, account.BlobKey, in.ID, in.Push, in.Body, func(payload []byte, why string) ([]byte, error) {
		var k sentKey
		if err := json.Unmarshal(payload, &k); err != nil {
			return nil, fmt.Errorf("reading a stored key: %w", err)
		}
		k.Sealed, k.Why = nil, why
		return json.Marshal(k)
	})
}

func (s *Service) keyState(ctx context.Context, c *services.Caller, in *pushPath) (out *keyStateOut, err error) {
	err = s.cfg.Data.View(ctx, c.Scope(), func(sc account.Scoped) error {
		b, err := find(sc, account.BlobKey, in.ID, in.Push, "Request not found")
		if err != nil {
			return err
		}
		var k sentKey
		if err := json.Unmarshal(b.Payload, &k); err != nil {
			return fmt.Errorf("reading a stored key: %w", err)
		}
		out = keyStateReply(b, k)
		return nil
	})
	return out, err
}
