package oauth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// authorize judges an authorization request. Until client and redirect are
// known to be right, what is wrong is told to the person, on a page; after that
// to the client, at its redirect.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request, _ peer.Peer) {
	if to := r.Header.Get("Sec-Fetch-Dest"); to != "" && to != "document" {
		// Of the requests of one machine the oldest make room for new ones: a
		// page full of images must not take a person's sign-in away.
		s.pages.failed(w, http.StatusForbidden, "Signing in begins with a page of its own, and not with a part of another one.")
		return
	}
	if len(r.URL.RawQuery) > maxQuery {
		s.pages.failed(w, http.StatusRequestURITooLong, "The request of the program that sent you here is too long.")
		return
	}
	v, f := parse(r.URL.RawQuery)
	if f != nil {
		s.pages.failed(w, http.StatusBadRequest, "The request of the program that sent you here cannot be used. "+f.detail)
		return
	}
	c, err := s.client(r.Context(), v.Get("client_id"))
	if errors.Is(err, account.ErrNotFound) {
		s.pages.failed(w, http.StatusBadRequest, "The program that sent you here is not known to this hub; ask the admin to add it.")
		return
	}
	if err != nil {
		s.broken(w, "finding a client", err)
		return
	}
	redirect := v.Get("redirect_uri")
	if !mayRedirect(c.Redirects, redirect) {
		s.pages.failed(w, http.StatusBadRequest, "The program that sent you here asks for an answer at an address that is not its own (redirect_uri).")
		return
	}
	if code, detail := badRequest(v); code != "" {
		http.Redirect(w, r, s.answerAt(redirect, echo(v.Get("state")), "error", code, "error_description", detail), http.StatusSeeOther)
		return
	}
	judged := only(v, "client_id", "redirect_uri", "response_type", "state", "nonce", "code_challenge", "code_challenge_method")
	judged.Set("scope", strings.Join(knownScopes(v.Get("scope")), " "))
	s.handOn(w, r, judged)
}

// badRequest is what is wrong with an authorization request of a client that
// is known, as an error code and a sentence.
func badRequest(v url.Values) (code, detail string) {
	switch {
	case v.Get("response_type") == "":
		return "invalid_request", "response_type is missing; it is code."
	case v.Get("response_type") != string(oidc.ResponseTypeCode):
		return "unsupported_response_type", "There is the code flow only: response_type=code."
	case v.Has("response_mode") && v.Get("response_mode") != string(oidc.ResponseModeQuery):
		return "invalid_request", "Answers come in the query: response_mode=query."
	case v.Has("request"):
		return "request_not_supported", "Request objects are not supported."
	case v.Has("request_uri"):
		return "request_uri_not_supported", "Request objects are not supported."
	case v.Has("registration"):
		return "registration_not_supported", "Clients are added by the admin."
	case len(v.Get("state")) > maxValue || len(v.Get("nonce")) > maxValue:
		return "invalid_request", "state or nonce is too long."
	case slices.Contains(strings.Split(v.Get("prompt"), " "), oidc.PromptNone):
		return "login_required", "The person has to sign in."
	case len(knownScopes(v.Get("scope"))) == 0:
		return "invalid_scope", "Ask for one of: " + strings.Join(scopes, " ") + "."
	}
	if wrong := pkce(v.Get("code_challenge"), v.Get("code_challenge_method")); wrong != "" {
		return "invalid_request", wrong
	}
	return "", ""
}

// echo is a state that is given back with a refusal.
func echo(state string) string {
	if len(state) > maxValue {
		return ""
	}
	return state
}

// client finds a client; an id that is none's is account.ErrNotFound.
func (s *Server) client(ctx context.Context, id string) (c account.Client, err error) {
	if id == "" {
		return c, account.ErrNotFound
	}
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		c, err = tx.Client(id)
		return err
	})
	return c, err
}

// broken tells a person that something went wrong, and the log what.
func (s *Server) broken(w http.ResponseWriter, doing string, err error) {
	s.log.Error("authorization server failed", "doing", doing, "error", err)
	s.pages.failed(w, http.StatusInternalServerError, "Something went wrong here; the admin finds it in the log.")
}

// protocol is the server as the library calls it. Every request it sees has
// been through the filter.
type protocol struct {
	op.UnimplementedServer
	s *Server
}

// VerifyAuthRequest implements op.Server.
func (p *protocol) VerifyAuthRequest(ctx context.Context, r *op.Request[oidc.AuthRequest]) (*op.ClientRequest[oidc.AuthRequest], error) {
	c, err := p.s.client(ctx, r.Data.ClientID)
	if err != nil {
		return nil, p.failure("finding a client", err)
	}
	return &op.ClientRequest[oidc.AuthRequest]{Request: r, Client: client{c}}, nil
}

// Authorize implements op.Server: it notes the request with the machine that
// made it, and sends the person to the sign-in page.
func (p *protocol) Authorize(ctx context.Context, r *op.ClientRequest[oidc.AuthRequest]) (*op.Redirect, error) {
	who, ok := peer.FromContext(ctx)
	if !ok {
		return nil, p.failure("beginning an authorization", errors.New("nobody is calling"))
	}
	a := account.AuthRequest{
		ID: rand.Text(), Client: r.Client.GetID(), Redirect: r.Data.RedirectURI, State: r.Data.State, Nonce: r.Data.Nonce,
		Scope: strings.Join(r.Data.Scopes, " "), Challenge: r.Data.CodeChallenge, Peer: who.ID, Key: who.PublicKey,
	}
	err := p.s.cfg.Store.Keep(ctx, func(tx account.Tx) error {
		a.Created = tx.Now()
		a.Expires = a.Created.Add(RequestLife)
		return tx.CreateAuthRequest(a)
	})
	if err != nil {
		return nil, p.failure("beginning an authorization", err)
	}
	return op.NewRedirect(r.Client.LoginURL(a.ID)), nil
}

// failure is what a client is told when the server is at fault; the log is told
// the rest.
func (p *protocol) failure(doing string, err error) error {
	p.s.log.Error("authorization server failed", "doing", doing, "error", err)
	return op.NewStatusError(oidc.ErrServerError().WithDescription("Something went wrong here; the admin finds it in the log."), http.StatusInternalServerError)
}

// VerifyClient implements op.Server.
func (p *protocol) VerifyClient(ctx context.Context, r *op.Request[op.ClientCredentials]) (op.Client, error) {
	c, err := p.s.proveClient(ctx, r.Data)
	if err != nil {
		return nil, p.refusal("authenticating a client", err)
	}
	return client{c}, nil
}

// grantError is a refusal that the library writes.
func grantError(e *oidc.Error, detail string) error {
	return op.NewStatusError(e.WithDescription("%s", detail), http.StatusBadRequest)
}

// refusal passes on what is an answer already, and hides what is a failure.
func (p *protocol) refusal(doing string, err error) error {
	var answer op.StatusError
	if errors.As(err, &answer) {
		return answer
	}
	return p.failure(doing, err)
}

// requestOf finds an authorization request that a peer opened and that waits
// for its person. Somebody else's is account.ErrNotFound, like none.
func requestOf(tx account.Tx, who peer.Peer, id string) (account.AuthRequest, account.Client, error) {
	a, err := tx.AuthRequest(id)
	if err != nil {
		return a, account.Client{}, fmt.Errorf("finding an authorization request: %w", err)
	}
	if a.Peer != who.ID || a.Key != who.PublicKey || a.User != 0 || !tx.Now().Before(a.Expires) {
		return a, account.Client{}, account.ErrNotFound
	}
	c, err := tx.Client(a.Client)
	if err != nil {
		return a, c, fmt.Errorf("finding its client: %w", err)
	}
	return a, c, nil
}
