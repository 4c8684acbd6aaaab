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

// request is the payload of a BlobRequest.
type request struct {
	IncludeValues bool      `json:"include_values"`
	Expires       time.Time `json:"expires_at"` // of the request; the blob stays longer
	Snapshot      *snapshot `json:"snapshot,omitempty"`
}

// snapshot is what a node uploads: sealed, with the parts of its label that the
// phone cannot know.
type snapshot struct {
	ID      string    `json:"snapshot_id"`
	Sealed  k2.Sealed `json:"sealed"`
	AAD     AAD       `json:"aad"`
	Created time.Time `json:"created_at"`
}

// AAD are numbers or texts that the node makes up; they are carried as they
// came.
type AAD struct {
	Schema   any `json:"schema_version"`
	Commands any `json:"commands_schema_version"`
	Revision any `json:"revision"`
}

func (a AAD) check() error {
	for _, v := range []any{a.Schema, a.Commands, a.Revision} {
		switch v := v.(type) {
		case nil, float64, json.Number:
		case string:
			if len(v) > 128 {
				return refusal(http.StatusUnprocessableEntity, "The versions of a snapshot have at most 128 characters.")
			}
		default:
			return refusal(http.StatusUnprocessableEntity, "The versions of a snapshot are numbers or strings.")
		}
	}
	return nil
}

func (s *Service) registerRequests(r *router.Router) {
	const at = "/api/v0/nodes/{id}/settings/requests"
	router.Handle(r, created(route(http.MethodPost, at, "Ask a node for a snapshot of its settings.", tenantScope, asUser(account.PowerUser))), s.ask)
	router.Handle(r, route(http.MethodGet, at+"/{rid}", "What is asked of the calling node.", tenantNode, asNode()), s.asked)
	router.Handle(r, created(route(http.MethodPut, at+"/{rid}/snapshot", "Upload the snapshot, sealed.", tenantNode, asNode())), s.upload)
	router.Handle(r, route(http.MethodGet, at+"/{rid}/result", "Fetch the snapshot: 202 while there is none.", tenantScope, asUser(account.Member)), s.result)
}

// RequestPath is the path of one settings request.
type RequestPath struct {
	NodePath
	Request string `path:"rid" maxLength:"64" doc:"The request's id."`
}

type requestBody struct {
	RequestID     string    `json:"request_id"`
	NodeID        string    `json:"node_id"`
	Status        string    `json:"status"`
	IncludeValues bool      `json:"include_values"`
	CreatedAt     time.Time `json:"created_at"`
	ExpiresAt     time.Time `json:"expires_at"`
}

type requestOut struct{ Body requestBody }

func requestReply(b account.Blob, q request) *requestOut {
	return &requestOut{requestBody{b.ID, b.Node, b.State, q.IncludeValues, stamp(b.Created), stamp(q.Expires)}}
}

type askIn struct {
	NodePath
	IncludeValues bool `query:"include_values" doc:"Ask for the values as well."`
}

func (s *Service) ask(ctx context.Context, c *services.Caller, in *askIn) (*requestOut, error) {
	q := request{IncludeValues: in.IncludeValues}
	b := account.Blob{Kind: account.BlobRequest, ID: newID(), Node: in.ID, By: c.User.ID, State: statePending}
	err := s.cfg.Data.Do(ctx, c.Scope(), event(c, "settings.ask", in.ID, map[string]string{"request": b.ID}), func(sc account.Scoped) error {
		b.Created, b.Expires = sc.Now(), sc.Now().Add(SnapshotLife)
		q.Expires = sc.Now().Add(RequestLife)
		var err error
		if b.Payload, err = json.Marshal(q); err != nil {
			return err
		}
		return s.put(sc, b)
	})
	if err != nil {
		return nil, err
	}
	s.wake()
	return requestReply(b, q), nil
}

// load finds a request of a node: 404, then 410.
func load(sc account.Scoped, node, id string) (account.Blob, request, error) {
	b, err := find(sc, account.BlobRequest, node, id, "Request not found")
	if err != nil {
		return b, request{}, err
	}
	var q request
	if err := json.Unmarshal(b.Payload, &q); err != nil {
		return b, q, fmt.Errorf("reading a stored request: %w", err)
	}
	if b.State == statePending && !sc.Now().Before(q.Expires) {
		return b, q, refusal(http.StatusGone, "Request expired")
	}
	return b, q, nil
}

func (s *Service) asked(ctx context.Context, c *services.Caller, in *RequestPath) (out *requestOut, err error) {
	if err := in.own(c, "Cannot access other node's requests"); err != nil {
		return nil, err
	}
	err = s.cfg.Data.View(ctx, c.Scope(), func(sc account.Scoped) error {
		b, q, err := load(sc, in.ID, in.Request)
		out = requestReply(b, q)
		return err
	})
	return out, err
}

type uploadIn struct {
	RequestPath
	Body struct {
		k2.Sealed
		Schema   any `json:"aad_schema_version,omitempty" doc:"A number or a text of the node's."`
		Commands any `json:"aad_commands_schema_version,omitempty" doc:"A number or a text of the node's."`
		Revision any `json:"aad_revision,omitempty" doc:"A number or a text of the node's."`
	}
}

type uploadOut struct {
	Body struct {
		SnapshotID string    `json:"snapshot_id"`
		NodeID     string    `json:"node_id"`
		CreatedAt  time.Time `json:"created_at"`
	}
}

func (s *Service) upload(ctx context.Context, c *services.Caller, in *uploadIn) (*uploadOut, error) {
	if err := in.own(c, "Cannot upload to other node's requests"); err != nil {
		return nil, err
	}
	snap := &snapshot{ID: newID(), Sealed: in.Body.Sealed, AAD: AAD{in.Body.Schema, in.Body.Commands, in.Body.Revision}}
	if err := snap.AAD.check(); err != nil {
		return nil, err
	}
	if err := snap.Sealed.Valid(); err != nil {
		return nil, refusal(http.StatusUnprocessableEntity, "The snapshot is not sealed in the form of K2: %v.", err)
	}
	err := s.cfg.Data.Do(ctx, c.Scope(), event(c, "settings.snapshot", in.ID, map[string]string{"request": in.Request}), func(sc account.Scoped) error {
		b, q, err := load(sc, in.ID, in.Request)
		if err != nil {
			return err
		}
		if b.State != statePending {
			return refusal(http.StatusConflict, "Request is not pending")
		}
		snap.Created = stamp(sc.Now())
		q.Snapshot = snap
		payload, err := json.Marshal(q)
		if err != nil {
			return err
		}
		return sc.MoveBlob(b.Kind, b.ID, statePending, stateFulfilled, payload)
	})
	if errors.Is(err, account.ErrConflict) {
		err = refusal(http.StatusConflict, "Request is not pending")
	}
	if err != nil {
		return nil, err
	}
	out := new(uploadOut)
	out.Body.SnapshotID, out.Body.NodeID, out.Body.CreatedAt = snap.ID, in.ID, snap.Created
	return out, nil
}

type resultAAD struct {
	NodeID string `json:"node_id"`
	AAD
	RequestID string `json:"request_id"`
}

type resultSnapshot struct {
	ID string `json:"snapshot_id"`
	k2.Sealed
	AAD     resultAAD `json:"aad"`
	Created time.Time `json:"created_at"`
}

type resultOut struct {
	Status int
	Body   struct {
		Status    string          `json:"status"`
		RequestID string          `json:"request_id"`
		Message   string          `json:"message,omitempty"`
		Snapshot  *resultSnapshot `json:"snapshot,omitempty"`
	}
}

func (s *Service) result(ctx context.Context, c *services.Caller, in *RequestPath) (*resultOut, error) {
	out := &resultOut{Status: http.StatusOK}
	err := s.cfg.Data.View(ctx, c.Scope(), func(sc account.Scoped) error {
		b, q, err := load(sc, in.ID, in.Request)
		if err != nil {
			return err
		}
		out.Body.Status, out.Body.RequestID = b.State, b.ID
		if q.Snapshot == nil {
			out.Status, out.Body.Message = http.StatusAccepted, "The node has not answered yet."
			return nil
		}
		out.Body.Snapshot = &resultSnapshot{q.Snapshot.ID, q.Snapshot.Sealed, resultAAD{b.Node, q.Snapshot.AAD, b.ID}, q.Snapshot.Created}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
