package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// The lives of tokens.
const (
	AccessLife  = 15 * time.Minute
	RefreshLife = 30 * 24 * time.Hour // from its last use
	// Grace is how long the same successor is given out again to a client that
	// did not hear the answer.
	Grace = 10 * time.Second
	// MaxSessions is how many sign-ins of one person live at once; a further
	// one ends the oldest.
	MaxSessions = 50
)

// Tokens are what a sign-in or a refresh gives out.
type Tokens struct {
	Access  string
	Refresh string
	Expires time.Time // of Access
	Session account.Session
}

func hashToken(raw string) []byte {
	sum := sha256.Sum256([]byte(raw))
	return sum[:]
}

// Start makes a session and its first tokens, in the caller's transaction.
// sess says who (User), on which machine (Peer, Key), how (Methods) and for
// what (Client, Scope, Nonce); the rest is filled in where it is empty.
// The household is the person's oldest that the machine may act in.
func (s *Service) Start(ctx context.Context, tx account.Tx, sess account.Session) (Tokens, error) {
	if sess.User == 0 || sess.Peer == "" || sess.Key.IsZero() {
		return Tokens{}, errors.New("starting a session: it needs a person and a machine")
	}
	u, err := tx.User(sess.User)
	if err != nil {
		return Tokens{}, fmt.Errorf("starting a session: %w", err)
	}
	if u.Disabled {
		return Tokens{}, refuse(http.StatusUnauthorized, "This account is disabled.")
	}
	if sess.ID == "" {
		sess.ID = rand.Text()
	}
	sess.Created = tx.Now()
	sess.Expires = sess.Created.Add(RefreshLife)
	if sess.AuthTime.IsZero() {
		sess.AuthTime = sess.Created
	}
	if sess.Household == "" {
		if sess.Household, err = s.firstHousehold(tx, sess); err != nil {
			return Tokens{}, err
		}
	}
	if err := makeRoom(tx, sess.User); err != nil {
		return Tokens{}, err
	}
	if err := tx.CreateSession(sess); err != nil {
		return Tokens{}, fmt.Errorf("starting a session: %w", err)
	}
	raw := newSecret()
	if err := tx.AddRefresh(account.Refresh{Hash: hashToken(raw), Session: sess.ID, Issued: sess.Created, Expires: sess.Expires}); err != nil {
		return Tokens{}, fmt.Errorf("starting a session: %w", err)
	}
	return s.tokens(tx, u, sess, raw)
}

// makeRoom ends the oldest sessions of somebody who has too many.
func makeRoom(tx account.Tx, u account.UserID) error {
	live, err := tx.SessionsOf(u)
	if err != nil {
		return fmt.Errorf("counting sessions: %w", err)
	}
	for i := MaxSessions - 1; i < len(live); i++ {
		if err := tx.RevokeSession(live[i].ID, "too many"); err != nil {
			return fmt.Errorf("ending the oldest session: %w", err)
		}
	}
	return nil
}

// firstHousehold is the one that a new session is for.
func (s *Service) firstHousehold(tx account.Tx, sess account.Session) (account.HouseholdID, error) {
	p, _ := s.cfg.Roster().ByID(sess.Peer)
	all, err := tx.Memberships(sess.User)
	if err != nil {
		return "", fmt.Errorf("finding a household for the session: %w", err)
	}
	for _, m := range all {
		h, err := tx.Household(m.Household)
		if err != nil {
			return "", fmt.Errorf("finding a household for the session: %w", err)
		}
		if mayActIn(p, h) {
			return h.ID, nil
		}
	}
	return "", nil
}

// tokens signs an access token for a session.
func (s *Service) tokens(tx account.Tx, u account.User, sess account.Session, refresh string) (Tokens, error) {
	access, expires, err := s.signAccess(tx, u, sess)
	if err != nil {
		return Tokens{}, err
	}
	return Tokens{Access: access, Refresh: refresh, Expires: expires, Session: sess}, nil
}

// The refusals of a refresh token, in Jarvis' words.
func badRefresh() error { return refuse(http.StatusUnauthorized, "Invalid refresh token") }
func oldRefresh() error { return refuse(http.StatusUnauthorized, "Refresh token expired") }

// rotation is what came of presenting a refresh token.
type rotation struct {
	tokens Tokens
	err    error  // the refusal, when something was stored nevertheless
	ended  bool   // the session was ended
	retry  bool   // somebody else was faster
	parent []byte // the hash of what was presented
}

// Rotate exchanges a refresh token that client ("" for a sign-in with a
// password) presents from machine p for the next pair of tokens, once. A token
// that was exchanged within Grace, for a successor that was not used, gets the
// same successor. Any other second use ends the session with everything that
// came from it, and is recorded. A token from another machine is refused and
// recorded; it ends nothing, since it is worth nothing there. The error is a
// *services.Refusal unless the store failed.
func (s *Service) Rotate(ctx context.Context, p peer.Peer, refresh, client string) (Tokens, account.Session, error) {
	if refresh == "" || len(refresh) > maxKey {
		return Tokens{}, account.Session{}, badRefresh()
	}
	// A thief who hangs up must not keep alive what they have stolen. The store
	// has a time limit of its own.
	ctx = context.WithoutCancel(ctx)
	for range 2 {
		out := rotation{parent: hashToken(refresh)}
		err := s.cfg.Store.Keep(ctx, func(tx account.Tx) (err error) {
			out = rotation{parent: out.parent}
			return s.rotate(tx, p, client, &out)
		})
		if out.retry && errors.Is(err, account.ErrConflict) {
			continue
		}
		if err != nil {
			return Tokens{}, account.Session{}, err
		}
		if out.ended {
			s.changed()
		}
		return out.tokens, out.tokens.Session, out.err
	}
	return Tokens{}, account.Session{}, badRefresh()
}

func (s *Service) rotate(tx account.Tx, p peer.Peer, client string, out *rotation) error {
	r, err := tx.Refresh(out.parent)
	if errors.Is(err, account.ErrNotFound) {
		return badRefresh()
	} else if err != nil {
		return fmt.Errorf("finding a refresh token: %w", err)
	}
	sess, err := tx.Session(r.Session)
	if err != nil && !errors.Is(err, account.ErrNotFound) {
		return fmt.Errorf("finding a session: %w", err)
	}
	if err != nil || !sess.Revoked.IsZero() || sess.Client != client {
		return badRefresh()
	}
	if sess.Peer != p.ID || sess.Key != p.PublicKey {
		out.err = badRefresh()
		return recordSession(tx, "session.stranger", "peer:"+p.Name, sess)
	}
	u, err := tx.User(sess.User)
	if err != nil {
		return fmt.Errorf("finding a session's person: %w", err)
	}
	if u.Disabled {
		return badRefresh()
	}
	next, err := successor(tx, out.parent)
	if err != nil {
		return err
	}
	if r.Successor != nil {
		again, err := mayRepeat(tx, r)
		if err != nil {
			return err
		}
		if !again {
			out.err, out.ended = badRefresh(), true
			return endFamily(tx, p, sess)
		}
	} else {
		if !tx.Now().Before(r.Expires) {
			return oldRefresh()
		}
		if err := exchange(tx, r, &sess, next); err != nil {
			out.retry = true
			return err
		}
	}
	if err := s.settle(tx, &sess); err != nil {
		return err
	}
	out.tokens, err = s.tokens(tx, u, sess, next)
	return err
}

// settle gives a session whose person has left its household, or had none, the
// next that there is.
func (s *Service) settle(tx account.Tx, sess *account.Session) error {
	role, err := roleIn(tx, sess.User, sess.Household)
	if err != nil || role != account.None {
		return err
	}
	h, err := s.firstHousehold(tx, *sess)
	if err != nil || h == sess.Household {
		return err
	}
	sess.Household = h
	if err := tx.SetSessionHousehold(sess.ID, h); err != nil {
		return fmt.Errorf("changing a session: %w", err)
	}
	return nil
}

// successor is the token that comes after the one with this hash. It is derived
// so that it can be given out again without being stored.
func successor(tx account.Tx, parent []byte) (string, error) {
	key, err := tx.Secret("refresh")
	if err != nil {
		return "", fmt.Errorf("deriving a refresh token: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(parent)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), nil
}

// exchange marks r used for next and stores next.
func exchange(tx account.Tx, r account.Refresh, sess *account.Session, next string) error {
	now := tx.Now()
	sess.Expires = now.Add(RefreshLife)
	hash := hashToken(next)
	if err := tx.UseRefresh(r.Hash, hash); err != nil {
		return fmt.Errorf("using a refresh token: %w", err)
	}
	if err := tx.AddRefresh(account.Refresh{Hash: hash, Session: sess.ID, Issued: now, Expires: sess.Expires}); err != nil {
		return fmt.Errorf("storing a refresh token: %w", err)
	}
	if err := tx.ExtendSession(sess.ID, sess.Expires); err != nil {
		return fmt.Errorf("extending a session: %w", err)
	}
	return nil
}

// mayRepeat says whether the answer to a used token may be given once more: it
// was used within Grace and what it was exchanged for was not. Grace counts in
// both directions: the hub that exchanged it may have a clock a little ahead of
// this one's.
func mayRepeat(tx account.Tx, r account.Refresh) (bool, error) {
	if age := tx.Now().Sub(r.Used); age < -Grace || age > Grace {
		return false, nil
	}
	next, err := tx.Refresh(r.Successor)
	if errors.Is(err, account.ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("finding a successor: %w", err)
	}
	return next.Successor == nil, nil
}

// endFamily ends a session whose refresh token was used twice: either of the
// two who used it has stolen it, and nobody can tell which. The person finds it
// in their access log, the admin in the audit log.
func endFamily(tx account.Tx, p peer.Peer, sess account.Session) error {
	if err := tx.RevokeSession(sess.ID, "reuse"); err != nil {
		return fmt.Errorf("ending a session: %w", err)
	}
	body, err := json.Marshal(accessLine{Event: "session.reuse", Machine: p.Name, Household: sess.Household})
	if err != nil {
		return fmt.Errorf("telling a person that a session was ended: %w", err)
	}
	line := account.Record{Kind: account.Access, ID: rand.Text(), User: sess.User, At: tx.Now(), Body: body}
	if err := tx.PutAccess(line); err != nil {
		return fmt.Errorf("telling a person that a session was ended: %w", err)
	}
	return recordSession(tx, "session.reuse", "peer:"+p.Name, sess)
}

func recordSession(tx account.Tx, action, actor string, sess account.Session) error {
	ev := account.Event{Actor: actor, Action: action, Target: "session:" + sess.ID, Detail: map[string]string{"user": sess.User.String(), "peer": string(sess.Peer)}}
	if err := tx.Record(ev); err != nil {
		return fmt.Errorf("recording what happened to a session: %w", err)
	}
	return nil
}

// Revoke ends a session and what runs on it. Ending it again changes nothing.
func (s *Service) Revoke(ctx context.Context, sessionID, why string) error {
	return s.revoke(ctx, "hub", sessionID, why)
}

func (s *Service) revoke(ctx context.Context, actor, sessionID, why string) error {
	ev := account.Event{Actor: actor, Action: "session.end", Target: "session:" + sessionID, Detail: map[string]string{"why": why}}
	if err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error { return tx.RevokeSession(sessionID, why) }); err != nil {
		return fmt.Errorf("ending a session: %w", err)
	}
	s.changed()
	return nil
}

// logout ends the session of a refresh token that p presents, or all of its
// person's. A token that is not known, or not p's, ends nothing.
func (s *Service) logout(ctx context.Context, p peer.Peer, refresh string, all bool) error {
	var sess account.Session
	err := s.cfg.Store.View(ctx, func(tx account.Tx) error {
		r, err := tx.Refresh(hashToken(refresh))
		if err != nil {
			return err
		}
		sess, err = tx.Session(r.Session)
		return err
	})
	if errors.Is(err, account.ErrNotFound) || err == nil && (sess.Peer != p.ID || sess.Key != p.PublicKey || !sess.Revoked.IsZero()) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signing out: %w", err)
	}
	actor := "user:" + sess.User.String()
	if !all {
		return s.revoke(ctx, actor, sess.ID, "signed out")
	}
	ev := account.Event{Actor: actor, Action: "session.endall", Target: actor}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		_, err := tx.RevokeSessions(sess.User, "", "signed out everywhere")
		return err
	})
	if err != nil {
		return fmt.Errorf("signing out everywhere: %w", err)
	}
	s.changed()
	return nil
}

// hasScope says whether a scope, separated by blanks, contains one.
func hasScope(scope, want string) bool {
	for f := range strings.FieldsSeq(scope) {
		if f == want {
			return true
		}
	}
	return false
}

// refuse is a refusal without a challenge.
func refuse(status int, detail string) error {
	return &services.Refusal{Status: status, Detail: detail}
}
