// Package webhook takes events from programs on the mesh for a household.
//
// A hook has a name and a secret. Its sender posts to /hooks/NAME and proves
// itself with a signature over the time and the body:
//
//	X-Jarvis-Timestamp: 1767225600
//	X-Jarvis-Signature: sha256=<hex of HMAC-SHA256(secret, "1767225600." + body)>
//
// With X-Jarvis-Id the signature covers "{id}.{timestamp}.{body}", and the id is
// what is accepted once, for a day: a sender that heard no answer sends the same
// id again, with a new time, and does not do its work twice. Without an id the
// signature itself is what is accepted once.
//
// The time may be off by Window in either direction, both ends included. The
// order of the checks, and the answers: a time that is none 400 "Invalid
// timestamp", one that is off 400 "Timestamp expired", an id that is none 400
// "Invalid id", a wrong signature 401 "Invalid signature", a hook that does not
// exist the same 401, a repetition 409 "Already accepted". What was accepted is
// noted in the same transaction as the delivery: it holds after a restart and
// for all hubs on one database.
//
// The secret is a text of at least MinSecret characters, whose bytes are the key
// of the HMAC. It comes from the store and from nowhere else: nothing in the request
// takes part in choosing it but the hook's name.
//
// Senders are machines of the mesh; which of them reach the service is the
// policy's to say. Limits: a body has at most MaxBody bytes; of each hook the
// store keeps the last deliveries only, and members of the household read them.
package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// MaxBody is the size of a delivery's body in bytes.
const MaxBody = 128 << 10

// How long an id and a signature are remembered. A signature is worth nothing
// once its time has left the window on the far side; the rest is for clocks that
// are set.
const (
	rememberID        = 24 * time.Hour
	rememberSignature = 4 * Window
)

// Config says what a Service works with. Store and Data are needed.
type Config struct {
	Store  account.Store
	Data   account.Data
	Logger *slog.Logger
	Now    func() time.Time
}

// Service takes and shows deliveries. Any number of goroutines may use it.
type Service struct{ cfg Config }

// New returns a service.
func New(cfg Config) *Service {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg}
}

// Register adds the routes.
func (s *Service) Register(r *router.Router) {
	router.Raw(r, router.Route{
		Method: http.MethodPost, Path: "/hooks/{name}", Summary: "Deliver an event, signed.", Group: "webhooks", Shape: router.Jarvis, Status: http.StatusAccepted,
		Need: services.Requirement{Any: []services.Credential{services.AsPeer}}, MaxBody: MaxBody,
		Tenant: "The hook's name says whose it is, and only its secret signs for it; a sender reads nothing.",
	}, s.deliver)
	router.Handle(r, router.Route{
		Method: http.MethodGet, Path: "/hooks/{name}/deliveries", Summary: "Read what was delivered.", Group: "webhooks",
		Need:   services.Requirement{Any: []services.Credential{services.AsUser}, Role: account.Member},
		Tenant: "The scope of the token: a hook of another household is not found in it.",
	}, s.deliveries)
}

// answers are the refusals of Verify.
func answer(err error) *services.Refusal {
	for _, a := range []struct {
		err    error
		status int
	}{{ErrTimestamp, http.StatusBadRequest}, {ErrExpired, http.StatusBadRequest}, {ErrID, http.StatusBadRequest}, {ErrSignature, http.StatusUnauthorized}} {
		if errors.Is(err, a.err) {
			return &services.Refusal{Status: a.status, Detail: a.err.Error()}
		}
	}
	return nil
}

func (s *Service) deliver(w http.ResponseWriter, r *http.Request, c *services.Caller) {
	refuse := func(status int, detail string) {
		services.WriteDetail(w, r, &services.Refusal{Status: status, Detail: detail})
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			refuse(http.StatusRequestEntityTooLarge, "Body too large")
			return
		}
		refuse(http.StatusBadRequest, "The body did not arrive whole.")
		return
	}
	err = s.accept(r.Context(), r.PathValue("name"), headersOf(r), body)
	switch why := answer(err); {
	case err == nil:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"status":"accepted"}`+"\n")
	case why != nil:
		s.cfg.Logger.Debug("webhook refused", "peer", c.Peer.Name, "why", why.Detail)
		services.WriteDetail(w, r, why)
	case errors.Is(err, errReplayed):
		refuse(http.StatusConflict, "Already accepted")
	default:
		// The store is away: the sender is to try again.
		s.cfg.Logger.Error("accepting a webhook", "peer", c.Peer.Name, "err", err)
		refuse(http.StatusServiceUnavailable, "The delivery could not be stored; try again.")
	}
}

// headers are the values of a delivery's headers.
type headers struct{ id, timestamp, signature string }

// headersOf reads the headers; a value that cannot be one where a header came
// twice, or was sent empty.
func headersOf(r *http.Request) headers {
	one := func(name, missing string) string {
		switch values := r.Header.Values(name); {
		case len(values) == 0:
			return missing
		case len(values) == 1 && values[0] != "":
			return values[0]
		}
		return "!"
	}
	return headers{one(HeaderID, ""), one(HeaderTimestamp, "!"), one(HeaderSignature, "!")}
}

// errReplayed: the delivery was accepted before.
var errReplayed = errors.New("already accepted")

// nobodysSecret is what a delivery to a hook that does not exist is verified
// with: the answer, and the work for it, are those of a wrong signature.
const nobodysSecret = "there is no such hook, and this signs nothing"

// accept verifies a delivery and notes it, once.
func (s *Service) accept(ctx context.Context, name string, h headers, body []byte) error {
	scope, secret, err := s.hook(ctx, name)
	if err != nil {
		return err
	}
	there := secret != nil
	if !there {
		secret = []byte(nobodysSecret)
	}
	now := s.cfg.Now()
	mark, err := Verify(secret, h.id, h.timestamp, h.signature, body, now)
	if err != nil {
		return err
	}
	if !there {
		return ErrSignature
	}
	life := rememberSignature
	if h.id != "" {
		life = rememberID
	}
	return s.cfg.Data.Keep(ctx, scope, func(sc account.Scoped) error {
		// The store's clock decides when a note ends, ours whether a delivery is
		// in time: the note outlives the window by either.
		until := sc.Now().Add(life)
		if late := now.Add(life); late.After(until) {
			until = late
		}
		if err := sc.Accept(name, mark, until); errors.Is(err, account.ErrExists) {
			return errReplayed
		} else if err != nil {
			return err
		}
		return sc.PutDelivery(account.Delivery{Hook: name, At: sc.Now(), Body: body})
	})
}

// hook finds whose hook a name is, and its secret; nil if there is none.
func (s *Service) hook(ctx context.Context, name string) (scope account.Scope, secret []byte, err error) {
	var h account.HouseholdID
	err = s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		h, err = tx.HookHousehold(name)
		return err
	})
	if errors.Is(err, account.ErrNotFound) {
		return scope, nil, nil
	}
	if err != nil {
		return scope, nil, fmt.Errorf("looking for a webhook: %w", err)
	}
	scope = account.NewScope(h, 0)
	err = s.cfg.Data.View(ctx, scope, func(sc account.Scoped) error {
		hook, err := sc.Hook(name)
		secret = hook.Secret
		return err
	})
	if errors.Is(err, account.ErrNotFound) {
		return scope, nil, nil // it went in between
	}
	if err != nil {
		return scope, nil, fmt.Errorf("reading a webhook: %w", err)
	}
	return scope, secret, nil
}

type deliveriesIn struct {
	Name  string `path:"name" maxLength:"63" doc:"The hook's name."`
	After int64  `query:"after" minimum:"0" doc:"Only what came after this one."`
	Limit int    `query:"limit" minimum:"1" maximum:"100" default:"50"`
}

type delivery struct {
	Seq        int64     `json:"seq" doc:"Rises; for after."`
	At         time.Time `json:"at"`
	JSON       any       `json:"json,omitempty" doc:"The body, if it is JSON."`
	Text       string    `json:"text,omitempty" doc:"The body, if it is other text."`
	BodyBase64 []byte    `json:"body_base64,omitempty" doc:"The body, if it is neither."`
}

type deliveriesOut struct {
	Body struct {
		Deliveries []delivery `json:"deliveries" doc:"Oldest first."`
	}
}

func (s *Service) deliveries(ctx context.Context, c *services.Caller, in *deliveriesIn) (*deliveriesOut, error) {
	out := new(deliveriesOut)
	out.Body.Deliveries = []delivery{}
	err := s.cfg.Data.View(ctx, c.Scope(), func(sc account.Scoped) error {
		if _, err := sc.Hook(in.Name); err != nil {
			if errors.Is(err, account.ErrNotFound) {
				return &services.Refusal{Status: http.StatusNotFound, Detail: "There is no such webhook."}
			}
			return err
		}
		list, err := sc.Deliveries(in.Name, in.After, in.Limit)
		if err != nil {
			return fmt.Errorf("reading deliveries: %w", err)
		}
		for _, d := range list {
			out.Body.Deliveries = append(out.Body.Deliveries, show(d))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func show(d account.Delivery) delivery {
	v := delivery{Seq: d.Seq, At: d.At.UTC()}
	switch {
	case json.Valid(d.Body):
		v.JSON = json.RawMessage(d.Body)
	case utf8.Valid(d.Body):
		v.Text = string(d.Body)
	default:
		v.BodyBase64 = d.Body
	}
	return v
}
