package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/auth"
	"github.com/warrenmesh/warren/services/auth/token"
)

// revoke is the revocation endpoint.
func (s *Server) revoke(w http.ResponseWriter, r *http.Request, _ peer.Peer) {
	s.aboutToken(w, r, false)
}

// introspect is the introspection endpoint.
func (s *Server) introspect(w http.ResponseWriter, r *http.Request, _ peer.Peer) {
	s.aboutToken(w, r, true)
}

func (s *Server) aboutToken(w http.ResponseWriter, r *http.Request, secret bool) {
	v, f := clientForm(r)
	if f == nil && v.Get("token") == "" {
		f = invalid("token is missing.")
	}
	if _, basic, _ := r.BasicAuth(); f == nil && secret && basic == "" && v.Get("client_secret") == "" {
		f = &fault{http.StatusUnauthorized, "invalid_client", onlyConfidential}
	}
	if f != nil {
		f.write(w)
		return
	}
	s.handOn(w, r, only(v, "client_id", "client_secret", "token", "token_type_hint"))
}

const onlyConfidential = "Only clients with a secret may ask what a token is worth."

// found is what a token turned out to be: access or refresh, and of which
// session.
type found struct {
	access  *token.Claims
	refresh account.Refresh
	session account.Session
}

// find looks a token up. What is none is account.ErrNotFound. The ring is the
// caller's: it may come from the store, and a transaction must not wait for
// another.
func (s *Server) find(tx account.Tx, ring *token.Ring, raw string) (f found, err error) {
	claims, err := ring.Verify(raw, token.Expect{Issuer: s.cfg.Issuer, Audience: auth.Audience})
	if err == nil {
		f.access = &claims
		f.session, err = tx.Session(claims.Session)
	} else if f.refresh, err = tx.Refresh(hash(raw)); err == nil {
		f.session, err = tx.Session(f.refresh.Session)
	}
	if err != nil {
		return found{}, fmt.Errorf("finding a token's session: %w", err)
	}
	return f, nil
}

// Revocation implements op.Server. A refresh or access token ends the session
// it belongs to, and with it everything that came of the same grant. A token
// that is none, another client's or another machine's is worth nothing here and
// changes nothing; the answer is the same (RFC 7009, section 2.2).
func (p *protocol) Revocation(ctx context.Context, r *op.ClientRequest[oidc.RevocationRequest]) (*op.Response, error) {
	var f found
	ring := p.s.cfg.Accounts.Ring()
	err := p.s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		f, err = p.s.find(tx, ring, r.Data.Token)
		return err
	})
	if err != nil && !errors.Is(err, account.ErrNotFound) {
		return nil, p.failure("finding a token to revoke", err)
	}
	who, ok := peer.FromContext(ctx)
	own := ok && f.session.Client == r.Client.GetID() && f.session.Peer == who.ID && f.session.Key == who.PublicKey
	if err == nil && own {
		if err := p.s.cfg.Accounts.Revoke(ctx, f.session.ID, "its client ended it"); err != nil {
			return nil, p.failure("revoking a session", err)
		}
	}
	return op.NewResponse(nil), nil
}

// activity is what a token is worth (RFC 7662, section 2.2). cnf and did name
// the one machine that may present it: whoever asks, compares. role is the
// person's now, not when the token was made.
type activity struct {
	Active    bool          `json:"active"`
	Scope     string        `json:"scope,omitempty"`
	Client    string        `json:"client_id,omitempty"`
	Type      string        `json:"token_type,omitempty"`
	Expires   int64         `json:"exp,omitempty"`
	Issued    int64         `json:"iat,omitempty"`
	Subject   string        `json:"sub,omitempty"`
	Audience  string        `json:"aud,omitempty"`
	Issuer    string        `json:"iss,omitempty"`
	ID        string        `json:"jti,omitempty"`
	Session   string        `json:"sid,omitempty"`
	Device    peer.ID       `json:"did,omitempty"`
	Household string        `json:"household_id,omitempty"`
	Role      string        `json:"role,omitempty"`
	Confirm   *confirmation `json:"cnf,omitempty"`
}

type confirmation struct {
	WireGuard peer.PublicKey `json:"wg"`
}

// Introspect implements op.Server. It is for confidential clients, such as a
// service on a spoke that people call with their access tokens. A refresh token
// is nobody's business but its own client's.
func (p *protocol) Introspect(ctx context.Context, r *op.Request[op.IntrospectionRequest]) (*op.Response, error) {
	c, err := p.s.proveClient(ctx, r.Data.ClientCredentials)
	if err != nil {
		return nil, p.refusal("authenticating a client", err)
	}
	if len(c.SecretDigest) == 0 {
		return nil, op.NewStatusError(oidc.ErrInvalidClient().WithDescription(onlyConfidential), http.StatusUnauthorized)
	}
	answer := activity{}
	ring := p.s.cfg.Accounts.Ring()
	err = p.s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		answer, err = p.s.worth(tx, ring, c, r.Data.Token)
		return err
	})
	if errors.Is(err, account.ErrNotFound) {
		answer, err = activity{}, nil
	}
	if err != nil {
		return nil, p.failure("introspecting a token", err)
	}
	return op.NewResponse(answer), nil
}

// worth looks at everything that a gate would look at if the token's own
// machine presented it now.
func (s *Server) worth(tx account.Tx, ring *token.Ring, c account.Client, raw string) (activity, error) {
	f, err := s.find(tx, ring, raw)
	if err != nil {
		return activity{}, err
	}
	sess := f.session
	owner, ok := s.cfg.Roster().ByID(sess.Peer)
	if !sess.Revoked.IsZero() || !ok || owner.Quarantined || owner.Kind != peer.KindSpoke && owner.Kind != peer.KindPhone || owner.PublicKey != sess.Key {
		return activity{}, nil
	}
	u, err := tx.User(sess.User)
	if err != nil {
		return activity{}, err
	}
	now := tx.Now()
	tempOver := u.MustChange && !u.TempUntil.IsZero() && !now.Before(u.TempUntil)
	if u.Disabled || tempOver || !now.Before(sess.Expires) {
		return activity{}, nil
	}
	a := activity{
		Active: true, Scope: sess.Scope, Client: sess.Client, Subject: u.ID.String(), Issuer: s.cfg.Issuer,
		Session: sess.ID, Device: sess.Peer, Confirm: &confirmation{sess.Key},
	}
	if f.access == nil {
		if sess.Client != c.ID || f.refresh.Successor != nil || !now.Before(f.refresh.Expires) {
			return activity{}, nil
		}
		a.Type, a.Issued, a.Expires = "refresh_token", f.refresh.Issued.Unix(), f.refresh.Expires.Unix()
		return a, nil
	}
	t := f.access
	if t.Subject != a.Subject || t.Device != sess.Peer || t.Peer != sess.Key || t.Client != sess.Client {
		return activity{}, nil
	}
	if t.Household != "" {
		// Who has left the household has no token for it any more, nor has a
		// machine that the policy puts elsewhere.
		h, err := tx.Household(account.HouseholdID(t.Household))
		if err != nil {
			return activity{}, err
		}
		if owner.Household != "" && h.Label != "" && owner.Household != h.Label {
			return activity{}, nil
		}
		m, err := tx.Membership(h.ID, u.ID)
		if err != nil {
			return activity{}, err
		}
		a.Household, a.Role = t.Household, m.Role.String()
	}
	a.Type, a.ID, a.Audience = oidc.BearerToken, t.ID, auth.Audience
	a.Issued, a.Expires = t.Issued.Unix(), t.Expires.Unix()
	return a, nil
}

// userinfo says who the token's person is, as much as its scope tells. It is not
// behind the gate's own judgement of tokens: one that opens nothing else is good
// here.
func (s *Server) userinfo(w http.ResponseWriter, r *http.Request, who peer.Peer) {
	raw, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	why := &services.Refusal{Status: http.StatusUnauthorized, Detail: "Missing or invalid Authorization header", Challenge: "Bearer"}
	if !ok || len(r.Header.Values("Authorization")) != 1 {
		services.WriteProblem(w, r, why)
		return
	}
	u, sess, err := s.cfg.Accounts.Bearer(r.Context(), who, raw)
	if err != nil {
		if !errors.As(err, &why) {
			s.log.Error("authorization server failed", "doing", "judging an access token", "error", err)
			why = &services.Refusal{Status: http.StatusServiceUnavailable, Detail: "The token could not be checked; try again."}
		}
		services.WriteProblem(w, r, why)
		return
	}
	claims := map[string]any{"sub": u.ID.String()}
	about(claims, u, sess.Scope)
	writeJSON(w, claims)
}
