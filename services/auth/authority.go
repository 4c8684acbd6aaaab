package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/auth/token"
)

// ScopeAccount is the OAuth scope that covers the whole account, as a sign-in
// with the password does. Tokens without it say who somebody is, at the
// userinfo endpoint, and open nothing else.
const ScopeAccount = "warren"

// authority is services.Authority on the store.
type authority struct{ s *Service }

// Authority judges credentials for the gates of all services. It looks at the
// store for every call.
func (s *Service) Authority() services.Authority { return authority{s} }

// The refusals of a person's token, in Jarvis' words.

func errToken() error {
	return &services.Refusal{Status: http.StatusUnauthorized, Detail: "Invalid token", Challenge: `Bearer error="invalid_token"`}
}

func errTokenExpired() error {
	return &services.Refusal{Status: http.StatusUnauthorized, Detail: "Token has expired", Challenge: `Bearer error="invalid_token", error_description="expired"`}
}

// User implements services.Authority. A token that an OAuth client got without
// ScopeAccount is refused with 403.
func (a authority) User(ctx context.Context, p peer.Peer, raw string) (account.User, account.Session, error) {
	u, sess, err := a.s.Bearer(ctx, p, raw)
	if err != nil {
		return account.User{}, account.Session{}, err
	}
	if sess.Client != "" && !hasScope(sess.Scope, ScopeAccount) {
		return account.User{}, account.Session{}, &services.Refusal{
			Status: http.StatusForbidden, Detail: "This token says who you are and opens nothing; sign in with the scope " + ScopeAccount + ".",
			Challenge: `Bearer error="insufficient_scope", scope="` + ScopeAccount + `"`,
		}
	}
	return u, sess, nil
}

// Bearer judges an access token that machine p presents, whatever its scope:
// for the userinfo endpoint. The session's Household and Scope are those of the
// token; whether the person still belongs there is for the gate to ask.
func (s *Service) Bearer(ctx context.Context, p peer.Peer, raw string) (account.User, account.Session, error) {
	none := func(err error) (account.User, account.Session, error) {
		return account.User{}, account.Session{}, err
	}
	c, err := s.claims(ctx, p, raw)
	if err != nil {
		return none(err)
	}
	id, err := account.ParseUserID(c.Subject)
	// The token says whose machine it is, and the session below says so again:
	// either alone would do.
	if err != nil || p.ID == "" || c.Device != p.ID || p.PublicKey.IsZero() || c.Peer != p.PublicKey {
		return none(errToken())
	}
	var u account.User
	var sess account.Session
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		if sess, err = tx.Session(c.Session); err != nil {
			return err
		}
		u, err = tx.User(sess.User)
		return err
	})
	if errors.Is(err, account.ErrNotFound) {
		return none(errToken())
	} else if err != nil {
		return none(fmt.Errorf("judging a token: %w", err))
	}
	now := s.cfg.Now()
	if sess.User != id || sess.Peer != p.ID || sess.Key != p.PublicKey || sess.Client != c.Client ||
		!sess.Revoked.IsZero() || !now.Before(sess.Expires) || u.Disabled || passwordEnded(u, now) {
		return none(errToken())
	}
	sess.Household, sess.Scope = account.HouseholdID(c.Household), c.Scope
	return u, sess, nil
}

// claims reads a token in either form.
func (s *Service) claims(ctx context.Context, p peer.Peer, raw string) (token.Claims, error) {
	ring, err := s.ring(ctx)
	if err != nil {
		return token.Claims{}, err
	}
	want := token.Expect{Issuer: s.cfg.Issuer, Audience: Audience}
	c, err := ring.Verify(raw, want)
	if err != nil && !errors.Is(err, token.ErrExpired) && s.cfg.HS256 {
		c, err = s.jarvisClaims(ctx, p, raw)
	}
	if errors.Is(err, token.ErrInvalid) {
		// Another hub may have made the key a moment ago, and the caller has
		// done nothing wrong.
		if ring, err = s.ringWithin(ctx, 0); err != nil {
			return token.Claims{}, err
		}
		c, err = ring.Verify(raw, want)
	}
	switch {
	case errors.Is(err, token.ErrExpired):
		return token.Claims{}, errTokenExpired()
	case errors.Is(err, token.ErrInvalid):
		return token.Claims{}, errToken()
	case err != nil:
		return token.Claims{}, fmt.Errorf("judging a token: %w", err)
	}
	return c, nil
}

// jarvisClaims reads a token in Jarvis' form, which names no machine: what it
// counts for is what its session says, which names one.
func (s *Service) jarvisClaims(ctx context.Context, p peer.Peer, raw string) (token.Claims, error) {
	var secret []byte
	err := s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		secret, err = shared(tx)
		return err
	})
	if errors.Is(err, account.ErrNotFound) {
		return token.Claims{}, token.ErrInvalid
	} else if err != nil {
		return token.Claims{}, err
	}
	j, err := token.VerifyHS256(secret, raw, s.cfg.Now())
	if err != nil {
		return token.Claims{}, err
	}
	sid, _, ok := strings.Cut(j.ID, ".")
	if !ok {
		return token.Claims{}, token.ErrInvalid
	}
	return token.Claims{Subject: j.Subject, Session: sid, Household: j.Household, Device: p.ID, Peer: p.PublicKey}, nil
}

// Role implements services.Authority.
func (a authority) Role(ctx context.Context, u account.UserID, h account.HouseholdID) (role account.Role, err error) {
	err = a.s.cfg.Store.View(ctx, func(tx account.Tx) error {
		role, err = roleIn(tx, u, h)
		return err
	})
	return role, err
}

// roleIn is a person's role in a household, None if they do not belong.
func roleIn(tx account.Tx, u account.UserID, h account.HouseholdID) (account.Role, error) {
	if u == 0 || h == "" {
		return account.None, nil
	}
	m, err := tx.Membership(h, u)
	if errors.Is(err, account.ErrNotFound) {
		return account.None, nil
	} else if err != nil {
		return account.None, fmt.Errorf("looking for a member: %w", err)
	}
	return m.Role, nil
}

// Household implements services.Authority.
func (a authority) Household(ctx context.Context, id account.HouseholdID) (h account.Household, err error) {
	err = a.s.cfg.Store.View(ctx, func(tx account.Tx) error {
		h, err = tx.Household(id)
		return err
	})
	return h, err
}

// The reasons why a node is not let in, in Jarvis' words.
const (
	nodeUnknown  = "Node not found"
	nodeInactive = "Node is inactive"
	nodeWrong    = "Invalid node credentials"
)

func nodeNoService(service string) string {
	return "Node is not authorized to access service '" + service + "'"
}

// judgeNode judges a node's key for a service, wherever it was presented. why
// is "" if it will do. The key is compared before anything is said about the
// node, but for its being there.
func judgeNode(tx account.Tx, id, key, service string) (n account.Node, why string, err error) {
	n, err = tx.Node(id)
	if errors.Is(err, account.ErrNotFound) {
		// As much work as for a node that is there.
		_ = subtle.ConstantTimeCompare(keyDigest(tx, nodeOwner(id), key), make([]byte, 32))
		return account.Node{}, nodeUnknown, nil
	} else if err != nil {
		return account.Node{}, "", fmt.Errorf("finding a node: %w", err)
	}
	ok, err := keyMatches(tx, nodeOwner(id), key)
	switch {
	case err != nil:
		return account.Node{}, "", err
	case !n.Active:
		return account.Node{}, nodeInactive, nil
	case !ok:
		return account.Node{}, nodeWrong, nil
	case !mayCall(n.Services, service):
		return account.Node{}, nodeNoService(service), nil
	}
	return n, "", nil
}

// mayCall says whether a service is in a list of what may be called.
func mayCall(list []string, service string) bool {
	return service != "" && (slices.Contains(list, service) || slices.Contains(list, "*"))
}

func errNode() error { return refuse(http.StatusUnauthorized, "Invalid API Key") }

// Node implements services.Authority. The first machine that proves a key of a
// node without a machine becomes it.
func (a authority) Node(ctx context.Context, p peer.Peer, id, key, service string) (account.Node, error) {
	if checkID("a node's id", id) != nil || key == "" || len(key) > maxKey || p.ID == "" {
		return account.Node{}, errNode()
	}
	var n account.Node
	var why string
	err := a.s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		n, why, err = judgeNode(tx, id, key, service)
		return err
	})
	switch {
	case err != nil:
		return account.Node{}, err
	case why != "" || n.Peer != "" && n.Peer != p.ID:
		return account.Node{}, errNode()
	case n.Peer == p.ID:
		return n, nil
	}
	ev := account.Event{Actor: "node:" + id, Action: "node.bind", Target: nodeTarget(id), Detail: map[string]string{"peer": p.Name}}
	err = a.s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		// Judged again: what the View saw may be gone by now.
		h, err := tx.Household(n.Household)
		if err != nil {
			return fmt.Errorf("finding a node's household: %w", err)
		}
		if n, why, err = judgeNode(tx, id, key, service); err != nil {
			return err
		}
		if why != "" || !mayActIn(p, h) {
			return errNode()
		}
		n.Peer = p.ID
		return tx.BindNode(id, p.ID)
	})
	if err = bound(err, errNode()); err != nil {
		return account.Node{}, err
	}
	return n, nil
}

// bound turns the failure to bind a machine into a refusal, when another was
// faster.
func bound(err, refusal error) error {
	if errors.Is(err, account.ErrConflict) || errors.Is(err, account.ErrNotFound) {
		return refusal
	}
	return err
}
