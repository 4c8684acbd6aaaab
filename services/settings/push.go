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

// push is the payload of a BlobPush.
type push struct {
	Type    string    `json:"config_type"`
	Version uint64    `json:"version,omitempty"`
	Sealed  k2.Sealed `json:"sealed"`
	// Why the node refused it: a class of failure, in one word.
	Why string `json:"why,omitempty"`
}

func (s *Service) registerPushes(r *router.Router) {
	const at = "/api/v0/nodes/{id}/config"
	router.Handle(r, created(route(http.MethodPost, at+"/push", "Send a sealed setting to a node.", tenantScope, asUser(account.Member))), s.push)
	router.Handle(r, route(http.MethodGet, at+"/pending", "The settings that wait for the calling node, oldest first.", tenantNode, asNode()), s.pending)
	router.Handle(r, route(http.MethodPost, at+"/{push_id}/ack", "Say that the calling node took or refused a setting.", tenantNode, asNode()), s.ackPush)
	router.Handle(r, route(http.MethodGet, at+"/pushes/{push_id}", "What became of a setting that was sent.", tenantScope, asUser(account.Member)), s.pushState)
	router.Handle(r, route(http.MethodGet, at+"/version", "The highest version that the hub was told of one type of setting.", tenantScope, asUser(account.Member)), s.version)
}

type pushIn struct {
	NodePath
	Body struct {
		Type string `json:"config_type" maxLength:"128" doc:"The type of setting: node_config, auth:PROVIDER, …"`
		k2.Sealed
		Version uint64 `json:"version,omitempty" doc:"The version that is sealed inside, for the form that has one."`
	}
}

type pushOut struct {
	Body struct {
		ID        string    `json:"id"`
		PushID    string    `json:"push_id"`
		NodeID    string    `json:"node_id"`
		Type      string    `json:"config_type"`
		Version   uint64    `json:"version,omitempty"`
		Status    string    `json:"status" doc:"pending, acknowledged or refused"`
		Why       string    `json:"why,omitempty" doc:"Why the node refused it, in one word."`
		CreatedAt time.Time `json:"created_at"`
		ExpiresAt time.Time `json:"expires_at"`
	}
}

func pushReply(b account.Blob, p push) *pushOut {
	out := new(pushOut)
	out.Body.ID, out.Body.PushID, out.Body.NodeID, out.Body.Status = b.ID, b.ID, b.Node, b.State
	out.Body.Type, out.Body.Version, out.Body.Why = p.Type, p.Version, p.Why
	out.Body.CreatedAt, out.Body.ExpiresAt = stamp(b.Created), stamp(b.Expires)
	return out
}

// checkPush refuses what no node could take. The version is what the phone
// says: only the node can see whether it is the one inside.
func checkPush(p push) error {
	if !k2.ValidType(p.Type) || p.Type == k2.Snapshot {
		return refusal(http.StatusUnprocessableEntity, "This is no type of setting that is sent to a node.")
	}
	if err := p.Sealed.Valid(); err != nil {
		return refusal(http.StatusUnprocessableEntity, "The setting is not sealed in the form of K2: %v.", err)
	}
	if p.Sealed.Versioned() != (p.Version > 0) {
		return refusal(http.StatusUnprocessableEntity, "A setting with a nonce of 24 bytes says its version, one with 12 has none.")
	}
	return nil
}

func (s *Service) push(ctx context.Context, c *services.Caller, in *pushIn) (*pushOut, error) {
	p := push{Type: in.Body.Type, Version: in.Body.Version, Sealed: in.Body.Sealed}
	if err := checkPush(p); err != nil {
		return nil, err
	}
	payload, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	b := account.Blob{Kind: account.BlobPush, ID: newID(), Node: in.ID, By: c.User.ID, State: statePending, Payload: payload}
	detail := map[string]string{"push": b.ID, "type": p.Type}
	err = s.cfg.Data.Do(ctx, c.Scope(), event(c, "settings.push", in.ID, detail), func(sc account.Scoped) error {
		b.Created, b.Expires = sc.Now(), sc.Now().Add(PushLife)
		if err := s.put(sc, b); err != nil {
			return err
		}
		return raise(sc, in.ID, p)
	})
	if err != nil {
		return nil, err
	}
	s.wake()
	return pushReply(b, p), nil
}

// maxStep is how far a version may be above the last one, or above the time in
// milliseconds since 1970, whichever is more. Phones count in either way; and
// who has no K2 can still say a version, and must not use all of them up.
const maxStep = 1 << 32

// raise refuses what the node would refuse as well, while the phone can still
// do something about it. It is a service to the phone: the node does not rely
// on it.
func raise(sc account.Scoped, node string, p push) error {
	known, err := sc.Version(node, p.Type)
	if err != nil && !errors.Is(err, account.ErrNotFound) {
		return fmt.Errorf("reading the version: %w", err)
	}
	if most := max(known, uint64(max(sc.Now().UnixMilli(), 0))) + maxStep; p.Version > most {
		return refusal(http.StatusUnprocessableEntity, "The version is too far above the last one; the highest that is taken now is %d.", most)
	}
	if p.Version > known {
		err = sc.RaiseVersion(node, p.Type, p.Version)
		if err == nil || !errors.Is(err, account.ErrConflict) {
			return err
		}
	} else if known == 0 {
		return nil
	}
	return refusal(http.StatusConflict, "The node has been sent version %d of this setting; send a higher one.", max(known, p.Version))
}

type pendingPush struct {
	ID      string `json:"id"`
	Type    string `json:"config_type"`
	Version uint64 `json:"version,omitempty"`
	k2.Sealed
	CreatedAt time.Time `json:"created_at"`
}

type pendingOut struct {
	Body struct {
		Pending []pendingPush `json:"pending"`
	}
}

func (s *Service) pending(ctx context.Context, c *services.Caller, in *NodePath) (*pendingOut, error) {
	if err := in.own(c, "Cannot access other node's config"); err != nil {
		return nil, err
	}
	out := new(pendingOut)
	out.Body.Pending = []pendingPush{}
	err := s.cfg.Data.View(ctx, c.Scope(), func(sc account.Scoped) error {
		all, err := sc.Blobs(account.BlobPush, in.ID)
		if err != nil {
			return err
		}
		for _, b := range all {
			if b.State != statePending || expired(sc, b) {
				continue
			}
			var p push
			if err := json.Unmarshal(b.Payload, &p); err != nil {
				return fmt.Errorf("reading a stored setting: %w", err)
			}
			out.Body.Pending = append(out.Body.Pending, pendingPush{b.ID, p.Type, p.Version, p.Sealed, stamp(b.Created)})
		}
		return nil
	})
	return out, err
}

// verdict is what a node says about something that it was sent. An empty body
// means that it took it.
type verdict struct {
	Success *bool  `json:"success,omitempty" doc:"Whether the node took it; it did if this is missing."`
	Error   string `json:"error,omitempty" maxLength:"200" doc:"Why not."`
}

// state is the state that a verdict leads to, and the class of the failure.
func (v *verdict) state() (state, why string) {
	if v == nil || v.Success == nil && v.Error == "" || v.Success != nil && *v.Success {
		return stateAcked, ""
	}
	for _, class := range []string{"malformed", "forged", "rollback", "conflict", "unproven", "no_key"} {
		if v.Error == class {
			return stateRefused, class
		}
	}
	return stateRefused, "other"
}

type ackIn struct {
	NodePath
	Push string `path:"push_id" maxLength:"64" doc:"The id of what was sent."`
	Body *verdict
}

type ackOut struct {
	Body struct {
		ID     string `json:"id"`
		Status string `json:"status"`
	}
}

func (s *Service) ackPush(ctx context.Context, c *services.Caller, in *ackIn) (*ackOut, error) {
	if err := in.own(c, "Cannot access other node's config"); err != nil {
		return nil, err
	}
	return s.ack(ctx, c, account.BlobPush, in.ID, in.Push, in.Body, func(payload []byte, why string) ([]byte, error) {
		var p push
		if err := json.Unmarshal(payload, &p); err != nil {
			return nil, fmt.Errorf("reading a stored setting: %w", err)
		}
		p.Why = why
		// What the node has taken is not kept here any longer.
		p.Sealed = k2.Sealed{}
		return json.Marshal(p)
	})
}

// ack moves a blob on. Saying it again changes nothing and is answered with
// what was said first.
func (s *Service) ack(ctx context.Context, c *services.Caller, kind account.BlobKind, node, id string, v *verdict, rewrite func(payload []byte, why string) ([]byte, error)) (*ackOut, error) {
	out := new(ackOut)
	out.Body.ID = id
	state, why := v.state()
	err := s.cfg.Data.Do(ctx, c.Scope(), event(c, "settings.ack", node, map[string]string{"id": id, "state": state}), func(sc account.Scoped) error {
		b, err := find(sc, kind, node, id, "Push not found")
		if err != nil {
			return err
		}
		if out.Body.Status = b.State; b.State != statePending {
			return nil
		}
		payload, err := rewrite(b.Payload, why)
		if err != nil {
			return err
		}
		out.Body.Status = state
		return sc.MoveBlob(kind, id, statePending, state, payload)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

type pushPath struct {
	NodePath
	Push string `path:"push_id" maxLength:"64" doc:"The id of what was sent."`
}

func (s *Service) pushState(ctx context.Context, c *services.Caller, in *pushPath) (out *pushOut, err error) {
	err = s.cfg.Data.View(ctx, c.Scope(), func(sc account.Scoped) error {
		b, err := find(sc, account.BlobPush, in.ID, in.Push, "Push not found")
		if err != nil {
			return err
		}
		var p push
		if err := json.Unmarshal(b.Payload, &p); err != nil {
			return fmt.Errorf("reading a stored setting: %w", err)
		}
		out = pushReply(b, p)
		return nil
	})
	return out, err
}

type versionIn struct {
	NodePath
	Type string `query:"config_type" required:"true" maxLength:"128" doc:"The type of setting."`
}

type versionOut struct {
	Body struct {
		NodeID  string `json:"node_id"`
		Type    string `json:"config_type"`
		Version uint64 `json:"version" doc:"0 if there was none with a version."`
	}
}

func (s *Service) version(ctx context.Context, c *services.Caller, in *versionIn) (*versionOut, error) {
	out := new(versionOut)
	out.Body.NodeID, out.Body.Type = in.ID, in.Type
	err := s.cfg.Data.View(ctx, c.Scope(), func(sc account.Scoped) (err error) {
		if _, err := sc.Node(in.ID); err != nil {
			return missing(err, "Node not found")
		}
		if out.Body.Version, err = sc.Version(in.ID, in.Type); errors.Is(err, account.ErrNotFound) {
			err = nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
