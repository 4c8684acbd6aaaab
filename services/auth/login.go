package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// Login is what somebody signs in with. Code is one of their authenticator app
// or a recovery code, "" if they sent none.
type Login struct {
	Email, Password, Code string
}

// The refusals of a sign-in. The first is Jarvis'; CodeNeeded is how a client
// knows to ask for a code.
const (
	BadLogin     = "Invalid email or password"
	TempExpired  = "Temporary password expired"
	CodeNeeded   = "A code of your authenticator app is needed"
	CodeWrong    = "Invalid code"
	methodPwd    = "pwd" // RFC 8176
	methodOTP    = "otp"
	methodMFA    = "mfa"
	methodKey    = "hwk"
	methodUser   = "user"
	recoverySize = 10 // codes
)

func errLogin() error       { return refuse(http.StatusUnauthorized, BadLogin) }
func errTempExpired() error { return refuse(http.StatusUnauthorized, TempExpired) }

// passwordEnded says whether a password that somebody else chose has ended.
func passwordEnded(u account.User, now time.Time) bool {
	return u.MustChange && !u.TempUntil.IsZero() && !now.Before(u.TempUntil)
}

// Authenticate judges a sign-in from machine p. It returns who it is and how
// they proved it (RFC 8176). Everything else is a *services.Refusal, unless the
// store failed: 401, or 429 with Retry for who has to wait.
func (s *Service) Authenticate(ctx context.Context, p peer.Peer, l Login) (account.User, []string, error) {
	return s.signIn(ctx, p, l, account.Event{Action: "signin.password"}, func(account.Tx, account.User, []string) error { return nil })
}

// signIn is Authenticate with what follows in the same transaction: between the
// proof and what it is good for nothing can change.
func (s *Service) signIn(ctx context.Context, p peer.Peer, l Login, ev account.Event, then func(account.Tx, account.User, []string) error) (account.User, []string, error) {
	none := func(err error) (account.User, []string, error) { return account.User{}, nil, err }
	email := foldEmail(l.Email)
	if p.ID == "" || email == "" || len(email) > 254 || len(l.Password) > 4*MaxPassword {
		return none(errLogin())
	}
	// The turn comes first: who finds no place has not failed.
	t, err := s.hasher.turn(ctx)
	if err != nil {
		return none(err)
	}
	defer t.end()
	a, err := s.attemptLogin(ctx, p, email)
	if err != nil {
		return none(err)
	}
	ok, stale, err := t.verify(a.secrets.Password, l.Password)
	if err != nil {
		return none(err)
	}
	if !ok || a.user.ID == 0 || a.user.Disabled {
		return none(errLogin())
	}
	if passwordEnded(a.user, s.cfg.Now()) {
		return none(errTempExpired())
	}
	upgrade := ""
	if stale {
		upgrade = t.hash(l.Password)
	}
	var methods []string
	ev.Actor, ev.Target = "user:"+a.user.ID.String(), "peer:"+p.Name
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if methods, err = s.admit(tx, p, a, l.Code, upgrade); err != nil {
			return err
		}
		return then(tx, a.user, methods)
	})
	if err != nil {
		return none(err)
	}
	return a.user, methods, nil
}

// attempted is a sign-in that was counted and is to be judged.
type attempted struct {
	user    account.User // ID 0 if there is none
	secrets account.Secrets
	limits  []limit
}

// attemptLogin finds who is meant and counts the attempt.
func (s *Service) attemptLogin(ctx context.Context, p peer.Peer, email string) (a attempted, err error) {
	err = s.cfg.Store.Keep(ctx, func(tx account.Tx) error {
		a = attempted{}
		u, err := tx.UserByEmail(email)
		switch {
		case errors.Is(err, account.ErrNotFound):
		case err != nil:
			return fmt.Errorf("finding a person: %w", err)
		default:
			a.user = u
			if a.secrets, err = tx.Secrets(u.ID); err != nil {
				return fmt.Errorf("finding a person: %w", err)
			}
		}
		if a.limits, err = limitsFor(tx, p, email, a.user); err != nil {
			return err
		}
		return attempt(tx, p, a.limits)
	})
	return a, err
}

// admit judges the code of somebody whose password was right, and lets them in.
func (s *Service) admit(tx account.Tx, p peer.Peer, a attempted, code, upgrade string) ([]string, error) {
	u, err := tx.User(a.user.ID)
	if err != nil {
		return nil, fmt.Errorf("finding a person: %w", err)
	}
	now, err := tx.Secrets(u.ID)
	if err != nil {
		return nil, fmt.Errorf("finding a person: %w", err)
	}
	// What was compared must still be what is stored.
	if u.Disabled || now.Password != a.secrets.Password {
		return nil, errLogin()
	}
	methods := []string{methodPwd}
	if now.Confirmed && now.TOTP != nil {
		if code == "" {
			return nil, refuse(http.StatusUnauthorized, CodeNeeded)
		}
		if err := useCode(tx, u.ID, now, code); err != nil {
			return nil, err
		}
		methods = append(methods, methodOTP, methodMFA)
	}
	if upgrade != "" {
		if err := tx.SetPassword(u.ID, upgrade); err != nil {
			return nil, fmt.Errorf("upgrading a password: %w", err)
		}
	}
	if err := forgive(tx, a.limits); err != nil {
		return nil, err
	}
	if err := tx.Know(u.ID, p.ID); err != nil {
		return nil, fmt.Errorf("remembering a machine: %w", err)
	}
	return methods, nil
}

// login signs somebody in and starts a session on machine p.
func (s *Service) login(ctx context.Context, p peer.Peer, l Login) (account.User, Tokens, error) {
	var out Tokens
	u, _, err := s.signIn(ctx, p, l, account.Event{Action: "session.start"}, func(tx account.Tx, u account.User, methods []string) (err error) {
		out, err = s.Start(ctx, tx, account.Session{User: u.ID, Peer: p.ID, Key: p.PublicKey, Methods: methods})
		return err
	})
	return u, out, err
}

// reprove asks somebody who is signed in for their password once more, before a
// change that would outlast a machine that was left open.
func (s *Service) reprove(ctx context.Context, p peer.Peer, u account.UserID, password string) error {
	t, err := s.hasher.turn(ctx)
	if err != nil {
		return err
	}
	defer t.end()
	own := ownLimit(u, p)
	var secrets account.Secrets
	err = s.cfg.Store.Keep(ctx, func(tx account.Tx) (err error) {
		if secrets, err = tx.Secrets(u); err != nil {
			return fmt.Errorf("finding a person: %w", err)
		}
		return attempt(tx, p, []limit{own})
	})
	if err != nil {
		return err
	}
	ok, _, err := t.verify(secrets.Password, password)
	if err != nil {
		return err
	}
	if !ok {
		return refuse(http.StatusUnauthorized, "Invalid password")
	}
	return s.forgiveAlone(ctx, own)
}
