package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// registerOwn adds what Jarvis has no routes for: sessions, second factors and
// passkeys.
func (s *Service) registerOwn(r *router.Router) {
	route := func(method, path, summary string, status int) router.Route {
		return router.Route{Method: method, Path: path, Summary: summary, Group: "sign-in", Status: status, Need: byUser(), Tenant: tenantSelf}
	}
	router.Handle(r, route("GET", "/auth/sessions", "The caller's sign-ins.", 200), s.listSessions)
	router.Handle(r, route("DELETE", "/auth/sessions/{id}", "End one of the caller's sign-ins.", 204), s.deleteSession)

	router.Handle(r, route("GET", "/auth/totp", "Whether the caller has a second factor.", 200), s.getTOTP)
	router.Handle(r, route("POST", "/auth/totp", "Make a secret for an authenticator app; it counts once it is confirmed.", 201), s.postTOTP)
	router.Handle(r, route("POST", "/auth/totp/confirm", "Turn the second factor on with a first code; recovery codes are shown this once.", 200), s.confirmTOTPRoute)
	router.Handle(r, route("DELETE", "/auth/totp", "Turn the second factor off.", 204), s.deleteTOTP)

	router.Handle(r, route("GET", "/auth/passkeys", "The caller's passkeys.", 200), s.listPasskeys)
	router.Handle(r, route("POST", "/auth/passkeys/begin", "Begin to register a passkey.", 200), s.postPasskeyBegin)
	router.Handle(r, route("POST", "/auth/passkeys", "Register the passkey that the browser made.", 201), s.postPasskey)
	router.Handle(r, route("DELETE", "/auth/passkeys/{id}", "Remove one of the caller's passkeys.", 204), s.deletePasskey)

	signIn := func(path, summary string) router.Route {
		return router.Route{Method: "POST", Path: path, Summary: summary, Group: "sign-in", Need: byPeer()}
	}
	router.Handle(r, signIn("/auth/passkeys/login/begin", "Begin to sign in with a passkey."), s.postPasskeyLoginBegin)
	router.Handle(r, signIn("/auth/passkeys/login", "Sign in with what the passkey answered."), s.postPasskeyLogin)
}

// problem writes an error of a raw route.
func (s *Service) problem(w http.ResponseWriter, r *http.Request, err error) {
	var why *services.Refusal
	if !errors.As(err, &why) {
		s.log.Error("handler failed", "path", r.URL.Path, "error", err)
		why = &services.Refusal{Status: http.StatusInternalServerError, Detail: "Something went wrong here; the admin finds it in the log."}
	}
	services.WriteProblem(w, r, why)
}

type sessionOut struct {
	ID        string              `json:"id"`
	Machine   string              `json:"machine" doc:"The name of the machine, or its number if it is gone."`
	Client    string              `json:"client,omitempty"`
	Scope     string              `json:"scope,omitempty"`
	Methods   []string            `json:"methods"`
	Household account.HouseholdID `json:"household_id,omitempty"`
	Created   time.Time           `json:"created"`
	Expires   time.Time           `json:"expires"`
	Current   bool                `json:"current"`
}

type sessionsOut struct {
	Sessions []sessionOut `json:"sessions"`
}

func (s *Service) listSessions(ctx context.Context, c *services.Caller, _ *struct{}) (*out[sessionsOut], error) {
	all, err := s.Sessions(ctx, c.User.ID)
	o := &out[sessionsOut]{sessionsOut{[]sessionOut{}}}
	for _, v := range all {
		machine := string(v.Peer)
		if p, ok := s.cfg.Roster().ByID(v.Peer); ok {
			machine = p.Name
		}
		o.Body.Sessions = append(o.Body.Sessions, sessionOut{v.ID, machine, v.Client, v.Scope, v.Methods, v.Household, v.Created, v.Expires, v.ID == c.Session.ID})
	}
	return o, err
}

type byID struct {
	ID string `path:"id" maxLength:"2048"`
}

func (s *Service) deleteSession(ctx context.Context, c *services.Caller, v *byID) (*struct{}, error) {
	err := s.cfg.Store.View(ctx, func(tx account.Tx) error {
		sess, err := tx.Session(v.ID)
		if err == nil && (sess.User != c.User.ID || !sess.Revoked.IsZero()) {
			err = account.ErrNotFound
		}
		return missing(err, "Session", "finding a session")
	})
	if err != nil {
		return nil, err
	}
	return nil, s.revoke(ctx, c.Actor(), v.ID, "by its person")
}

type totpOut struct {
	Enabled bool `json:"enabled"`
}

func (s *Service) getTOTP(ctx context.Context, c *services.Caller, _ *struct{}) (*out[totpOut], error) {
	on, err := s.secondFactor(ctx, c.User.ID)
	return &out[totpOut]{totpOut{on}}, err
}

type totpSecretOut struct {
	Secret string `json:"secret" doc:"In base32, to be typed."`
	URI    string `json:"uri" doc:"otpauth://, to be shown as a QR code."`
}

func (s *Service) postTOTP(ctx context.Context, c *services.Caller, v *in[passwordIn]) (*out[totpSecretOut], error) {
	secret, uri, err := s.enrolTOTP(ctx, c.Peer, c.User, v.Body.Password)
	return &out[totpSecretOut]{totpSecretOut{secret, uri}}, err
}

type codeIn struct {
	Code string `json:"code" maxLength:"64"`
}

type recoveryOut struct {
	Codes []string `json:"recovery_codes"`
}

func (s *Service) confirmTOTPRoute(ctx context.Context, c *services.Caller, v *in[codeIn]) (*out[recoveryOut], error) {
	codes, err := s.confirmTOTP(ctx, c.Peer, c.User.ID, v.Body.Code)
	return &out[recoveryOut]{recoveryOut{codes}}, err
}

func (s *Service) deleteTOTP(ctx context.Context, c *services.Caller, v *in[passwordIn]) (*struct{}, error) {
	return nil, s.disableTOTP(ctx, c.Peer, c.User.ID, v.Body.Password)
}

type passkeyOut struct {
	ID       string     `json:"id" doc:"The credential id, in base64url."`
	Name     string     `json:"name"`
	Created  time.Time  `json:"created"`
	LastUsed *time.Time `json:"last_used,omitempty"`
}

func passkeyAnswer(k account.Passkey) passkeyOut {
	o := passkeyOut{ID: base64.RawURLEncoding.EncodeToString(k.ID), Name: k.Name, Created: k.Created}
	if !k.LastUsed.IsZero() {
		o.LastUsed = &k.LastUsed
	}
	return o
}

type passkeysOut struct {
	Passkeys []passkeyOut `json:"passkeys"`
}

func (s *Service) listPasskeys(ctx context.Context, c *services.Caller, _ *struct{}) (*out[passkeysOut], error) {
	o := &out[passkeysOut]{passkeysOut{[]passkeyOut{}}}
	err := s.cfg.Store.View(ctx, func(tx account.Tx) error {
		all, err := tx.Passkeys(c.User.ID)
		for _, k := range all {
			o.Body.Passkeys = append(o.Body.Passkeys, passkeyAnswer(k))
		}
		return err
	})
	return o, err
}

type ceremonyOut struct {
	Ceremony string          `json:"ceremony" doc:"To be sent back with the answer, from this machine, within five minutes."`
	Options  json.RawMessage `json:"options" doc:"What navigator.credentials is given."`
}

func ceremonyAnswer(id string, options any, err error) (*out[ceremonyOut], error) {
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(options)
	if err != nil {
		return nil, fmt.Errorf("encoding a passkey's options: %w", err)
	}
	return &out[ceremonyOut]{ceremonyOut{id, text}}, nil
}

func (s *Service) postPasskeyBegin(ctx context.Context, c *services.Caller, v *in[passwordIn]) (*out[ceremonyOut], error) {
	id, options, err := s.beginPasskey(ctx, c, v.Body.Password)
	return ceremonyAnswer(id, options, err)
}

type passkeyIn struct {
	Ceremony   string          `json:"ceremony" maxLength:"64"`
	Name       string          `json:"name" minLength:"1" maxLength:"100"`
	Credential json.RawMessage `json:"credential" doc:"The browser's answer, as toJSON() gives it."`
}

func (s *Service) postPasskey(ctx context.Context, c *services.Caller, v *in[passkeyIn]) (*out[passkeyOut], error) {
	k, err := s.finishPasskey(ctx, c, v.Body.Ceremony, v.Body.Name, v.Body.Credential)
	return &out[passkeyOut]{passkeyAnswer(k)}, err
}

func (s *Service) deletePasskey(ctx context.Context, c *services.Caller, v *byID) (*struct{}, error) {
	return nil, s.removePasskey(ctx, c, v.ID)
}

func (s *Service) postPasskeyLoginBegin(_ context.Context, c *services.Caller, _ *struct{}) (*out[ceremonyOut], error) {
	id, options, err := s.beginPasskeyLogin(c.Peer)
	return ceremonyAnswer(id, options, err)
}

type assertionIn struct {
	Ceremony   string          `json:"ceremony" maxLength:"64"`
	Credential json.RawMessage `json:"credential" doc:"The browser's answer, as toJSON() gives it."`
}

func (s *Service) postPasskeyLogin(ctx context.Context, c *services.Caller, v *in[assertionIn]) (*out[loginOut], error) {
	u, t, err := s.finishPasskeyLogin(ctx, c.Peer, v.Body.Ceremony, v.Body.Credential)
	return loginAnswer(u, t, err)
}

type erasedOut struct {
	Status    string    `json:"status"`
	Vectors   int       `json:"deleted_vectors"`
	Records   int       `json:"deleted_records"`
	Timestamp time.Time `json:"timestamp"`
}

// deleteData answers in the shape that assistants' clients know. Vectors are
// records here like any other.
func (s *Service) deleteData(ctx context.Context, c *services.Caller, v *byID) (*out[erasedOut], error) {
	id, err := mayHandle(c, v.ID)
	if err != nil {
		return nil, err
	}
	done, err := s.Erase(ctx, c.Actor(), id)
	if err != nil {
		return nil, lastSuperuser(err)
	}
	return &out[erasedOut]{erasedOut{"erased", 0, done.Records, done.At}}, nil
}
