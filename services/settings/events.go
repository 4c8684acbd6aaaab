package settings

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

func (s *Service) registerEvents(r *router.Router) {
	need := asNode()
	need.Stream = true
	router.Handle(r, route(http.MethodGet, "/api/v0/nodes/{id}/events", "What waits for the calling node, held until there is something new.", tenantNode, need), s.events)
	router.Handle(r, route(http.MethodPost, "/api/v0/nodes/{id}/commands/{push_id}/ack", "Say that the calling node carried a command out.", tenantNode, asNode()), s.ackCommand)
}

type eventsIn struct {
	NodePath
	Wait  int    `query:"wait" minimum:"0" maximum:"50" doc:"Hold the answer for so many seconds at most."`
	After string `query:"after" maxLength:"64" doc:"The cursor of the last answer: nothing is said again before it changes."`
}

type nodeEvent struct {
	Type          string `json:"type" enum:"settings_request,config_push,k2,command"`
	ID            string `json:"id" doc:"Of the request, the setting, the key or the command."`
	IncludeValues bool   `json:"include_values,omitempty" doc:"Of a settings_request."`
	Command       string `json:"command,omitempty" doc:"Of a command: factory-reset."`
}

type eventsOut struct {
	Body struct {
		Events []nodeEvent `json:"events" doc:"All that waits, by type, each oldest first."`
		Cursor string      `json:"cursor"`
	}
}

// events answers with everything that waits, as soon as that is not what the
// node knows already. What a node could not deal with does not make it ask
// again and again, and nothing is lost when an answer is.
func (s *Service) events(ctx context.Context, c *services.Caller, in *eventsIn) (*eventsOut, error) {
	if err := in.own(c, "Cannot access other node's events"); err != nil {
		return nil, err
	}
	// A node that polls is up; that is written down once a minute.
	if s.cfg.Now().Sub(c.Node.Seen) > time.Minute {
		if _, err := s.seen(ctx, c.Node.ID); err != nil {
			return nil, err
		}
	}
	deadline := time.NewTimer(min(time.Duration(in.Wait)*time.Second, MaxWait))
	defer deadline.Stop()
	look := time.NewTicker(pollEvery)
	defer look.Stop()
	for over := in.Wait <= 0; ; {
		changed := s.waiting() // before looking, or a change could slip by
		out, err := s.look(ctx, c.Scope(), in.ID)
		if err != nil || over || out.Body.Cursor != in.After {
			return out, err
		}
		select {
		case <-changed:
		case <-look.C:
		case <-deadline.C:
			over = true
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for events: %w", context.Cause(ctx))
		}
	}
}

func (s *Service) look(ctx context.Context, in account.Scope, node string) (*eventsOut, error) {
	out := new(eventsOut)
	out.Body.Events = []nodeEvent{}
	err := s.cfg.Data.View(ctx, in, func(sc account.Scoped) error {
		for _, kind := range []struct {
			kind account.BlobKind
			name string
		}{{account.BlobCommand, "command"}, {account.BlobKey, "k2"}, {account.BlobPush, "config_push"}, {account.BlobRequest, "settings_request"}} {
			all, err := sc.Blobs(kind.kind, node)
			if err != nil {
				return err
			}
			for _, b := range all {
				if b.State != statePending || expired(sc, b) {
					continue
				}
				e := nodeEvent{Type: kind.name, ID: b.ID}
				if due, err := e.fill(sc, b); err != nil {
					return err
				} else if due {
					out.Body.Events = append(out.Body.Events, e)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	for _, e := range out.Body.Events {
		fmt.Fprintln(sum, e.Type, e.ID)
	}
	out.Body.Cursor = hex.EncodeToString(sum.Sum(nil)[:16])
	return out, nil
}

// fill reads what a node is told of a request or command, and whether it still
// matters.
func (e *nodeEvent) fill(sc account.Scoped, b account.Blob) (bool, error) {
	switch b.Kind {
	case account.BlobRequest:
		var q request
		if err := json.Unmarshal(b.Payload, &q); err != nil {
			return false, fmt.Errorf("reading a stored request: %w", err)
		}
		e.IncludeValues = q.IncludeValues
		return sc.Now().Before(q.Expires), nil
	case account.BlobCommand:
		var cmd command
		if err := json.Unmarshal(b.Payload, &cmd); err != nil {
			return false, fmt.Errorf("reading a stored command: %w", err)
		}
		e.Command = cmd.Command
	}
	return true, nil
}

// command is the payload of a BlobCommand.
type command struct {
	Command string `json:"command"`
	Why     string `json:"why,omitempty"`
}

const factoryReset = "factory-reset"

func (s *Service) ackCommand(ctx context.Context, c *services.Caller, in *ackIn) (*ackOut, error) {
	if err := in.own(c, "Cannot access other node's commands"); err != nil {
		return nil, err
	}
	return s.ack(ctx, c, account.BlobCommand, in.ID, in.Push, in.Body, func(payload []byte, why string) ([]byte, error) {
		var cmd command
		if err := json.Unmarshal(payload, &cmd); err != nil {
			return nil, fmt.Errorf("reading a stored command: %w", err)
		}
		cmd.Why = why
		return json.Marshal(cmd)
	})
}
