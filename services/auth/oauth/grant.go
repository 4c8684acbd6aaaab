package oauth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/auth"
)

// token is the token endpoint.
func (s *Server) token(w http.ResponseWriter, r *http.Request, _ peer.Peer) {
	v, f := tokenForm(r)
	if f != nil {
		f.write(w)
		return
	}
	s.handOn(w, r, only(v, "grant_type", "client_id", "client_secret", "code", "redirect_uri", "code_verifier", "refresh_token", "device_code", "scope"))
}

// badCode refuses a code for whatever reason: who tries codes learns nothing.
func badCode() error {
	return grantError(oidc.ErrInvalidGrant(), "The code is not valid: it is over, was used, or is another client's or machine's.")
}

// CodeExchange implements op.Server. Client, redirect, PKCE and peer are judged
// before the code is touched: only who could have redeemed it can end what came
// of it by presenting it again (RFC 6749, section 4.1.2).
func (p *protocol) CodeExchange(ctx context.Context, r *op.ClientRequest[oidc.AccessTokenRequest]) (*op.Response, error) {
	who, ok := peer.FromContext(ctx)
	if !ok {
		return nil, badCode()
	}
	var out grant
	err := p.s.cfg.Store.Keep(ctx, func(tx account.Tx) (err error) {
		out = grant{}
		return p.redeem(ctx, tx, who, r, &out)
	})
	if errors.Is(err, account.ErrConflict) {
		p.replayed(ctx, r.Data.Code)
		return nil, badCode()
	}
	if err != nil {
		return nil, p.grantRefusal("redeeming a code", err)
	}
	return p.granted(out)
}

// grant is what came of a redemption.
type grant struct {
	tokens auth.Tokens
	user   account.User
}

func (p *protocol) redeem(ctx context.Context, tx account.Tx, who peer.Peer, r *op.ClientRequest[oidc.AccessTokenRequest], out *grant) error {
	code := hash(r.Data.Code)
	a, err := tx.AuthRequestByCode(code)
	if errors.Is(err, account.ErrNotFound) {
		return badCode()
	} else if err != nil {
		return fmt.Errorf("finding a code: %w", err)
	}
	right := a.Client == r.Client.GetID() && a.Redirect == r.Data.RedirectURI && a.User != 0 &&
		oidc.VerifyCodeChallenge(&oidc.CodeChallenge{Challenge: a.Challenge, Method: oidc.CodeChallengeMethodS256}, r.Data.CodeVerifier) &&
		a.Peer == who.ID && a.Key == who.PublicKey
	if !right {
		return badCode()
	}
	sess := account.Session{
		ID: newSecret(), User: a.User, Peer: a.Peer, Key: a.Key, Household: a.Household, Client: a.Client,
		Scope: a.Scope, Nonce: a.Nonce, AuthTime: a.AuthTime, Methods: a.Methods,
	}
	if err := tx.RedeemCode(code, sess.ID); err != nil {
		return fmt.Errorf("redeeming a code: %w", err)
	}
	return p.start(ctx, tx, sess, "oauth.code", out)
}

// start makes the session of a grant and records it.
func (p *protocol) start(ctx context.Context, tx account.Tx, sess account.Session, action string, out *grant) (err error) {
	if out.user, err = tx.User(sess.User); err != nil {
		return fmt.Errorf("finding a grant's person: %w", err)
	}
	if out.tokens, err = p.s.cfg.Accounts.Start(ctx, tx, sess); err != nil {
		return err
	}
	return tx.Record(account.Event{
		Actor: "user:" + sess.User.String(), Action: action, Target: "session:" + sess.ID,
		Detail: map[string]string{"client": sess.Client, "peer": string(sess.Peer)},
	})
}

// replayed ends the session that a code was redeemed for, if it was. One that
// is merely over was redeemed for none.
func (p *protocol) replayed(ctx context.Context, code string) {
	// Hanging up does not keep what was stolen.
	ctx = context.WithoutCancel(ctx)
	var a account.AuthRequest
	err := p.s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		a, err = tx.AuthRequestByCode(hash(code))
		return err
	})
	if err == nil && a.Session != "" && !a.Redeemed.IsZero() {
		p.s.log.Warn("an authorization code came twice; its session ends", "client", a.Client, "peer", a.Peer, "session", a.Session)
		err = p.s.cfg.Accounts.Revoke(ctx, a.Session, "its code was used twice")
	}
	if err != nil {
		p.s.log.Error("authorization server failed", "doing", "ending the session of a code that came twice", "error", err)
	}
}

// RefreshToken implements op.Server.
func (p *protocol) RefreshToken(ctx context.Context, r *op.ClientRequest[oidc.RefreshTokenRequest]) (*op.Response, error) {
	who, ok := peer.FromContext(ctx)
	if !ok {
		return nil, grantError(oidc.ErrInvalidGrant(), "Nobody is calling.")
	}
	if err := p.sameScope(ctx, r); err != nil {
		return nil, p.grantRefusal("reading a session's scope", err)
	}
	tokens, sess, err := p.s.cfg.Accounts.Rotate(ctx, who, r.Data.RefreshToken, r.Client.GetID())
	if err != nil {
		return nil, p.grantRefusal("rotating a refresh token", err)
	}
	tokens.Session = sess
	return op.NewResponse(p.response(tokens)), nil
}

// sameScope refuses a refresh that asks for more than was granted, before the
// token is used. Asking for less is granted as a whole: a session has one scope.
func (p *protocol) sameScope(ctx context.Context, r *op.ClientRequest[oidc.RefreshTokenRequest]) error {
	if len(r.Data.Scopes) == 0 {
		return nil
	}
	return p.s.cfg.Store.View(ctx, func(tx account.Tx) error {
		old, err := tx.Refresh(hash(r.Data.RefreshToken))
		if errors.Is(err, account.ErrNotFound) {
			return nil // Rotate says so
		} else if err != nil {
			return fmt.Errorf("finding a refresh token: %w", err)
		}
		sess, err := tx.Session(old.Session)
		if err != nil && !errors.Is(err, account.ErrNotFound) {
			return fmt.Errorf("finding a session: %w", err)
		}
		granted := strings.Fields(sess.Scope)
		for _, want := range r.Data.Scopes {
			if sess.Client == r.Client.GetID() && !slices.Contains(granted, want) {
				return grantError(oidc.ErrInvalidScope(), "The scope is more than what was granted.")
			}
		}
		return nil
	})
}

// grantRefusal says why there are no tokens: a refusal of the account service
// is the grant's fault, whatever else is ours.
func (p *protocol) grantRefusal(doing string, err error) error {
	var why *services.Refusal
	if errors.As(err, &why) && why.Status < http.StatusInternalServerError {
		return grantError(oidc.ErrInvalidGrant(), why.Detail)
	}
	return p.refusal(doing, err)
}

func (p *protocol) response(t auth.Tokens) *oidc.AccessTokenResponse {
	left := max(t.Expires.Sub(p.s.cfg.Now()).Round(time.Second), 0)
	return &oidc.AccessTokenResponse{
		AccessToken: t.Access, TokenType: oidc.BearerToken, RefreshToken: t.Refresh,
		ExpiresIn: uint64(left / time.Second), Scope: strings.Fields(t.Session.Scope),
	}
}

// granted is the answer to a redemption.
func (p *protocol) granted(out grant) (*op.Response, error) {
	answer := p.response(out.tokens)
	if slices.Contains(answer.Scope, oidc.ScopeOpenID) {
		id, err := p.idToken(out)
		if err != nil {
			return nil, p.failure("making an id_token", err)
		}
		answer.IDToken = id
	}
	return op.NewResponse(answer), nil
}

// idToken tells the client who its person is (OpenID Connect Core, section 2).
func (p *protocol) idToken(out grant) (string, error) {
	sess := out.tokens.Session
	half := sha256.Sum256([]byte(out.tokens.Access))
	claims := map[string]any{
		"iss": p.s.cfg.Issuer, "sub": sess.User.String(), "aud": sess.Client, "azp": sess.Client, "sid": sess.ID,
		"iat": sess.Created.Unix(), "exp": sess.Created.Add(IDTokenLife).Unix(), "auth_time": sess.AuthTime.Unix(),
		"at_hash": base64.RawURLEncoding.EncodeToString(half[:len(half)/2]),
	}
	if len(sess.Methods) > 0 {
		claims["amr"] = sess.Methods
	}
	if sess.Nonce != "" {
		claims["nonce"] = sess.Nonce
	}
	about(claims, out.user, sess.Scope)
	raw, err := p.s.cfg.Accounts.Ring().SignID(claims)
	if err != nil {
		return "", fmt.Errorf("signing an id_token: %w", err)
	}
	return raw, nil
}

// about adds what a scope tells about a person. That an address was verified is
// not claimed: the admin typed it.
func about(claims map[string]any, u account.User, scope string) {
	granted := strings.Fields(scope)
	if slices.Contains(granted, oidc.ScopeEmail) && u.Email != "" {
		claims["email"], claims["email_verified"] = u.Email, false
	}
	if slices.Contains(granted, oidc.ScopeProfile) && u.Username != "" {
		claims["preferred_username"] = u.Username
	}
}
