package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services/auth/token"
)

// How signing keys change. The one that was replaced verifies until every token
// it signed has expired, and longer for who has fetched the public keys before.
const (
	keyLife    = 30 * 24 * time.Hour
	keyOverlap = time.Hour
	// ringLife is how old the keys in memory may be: a key that another hub
	// removed is gone here within that time. One that it made counts at once.
	ringLife = time.Second
)

// keyring is what is in memory of the signing keys. Service.ringMu guards it.
type keyring struct {
	ring   *token.Ring
	loaded time.Time
}

// firstSigningKey makes a signing key if there is none, and loads them.
func (s *Service) firstSigningKey(ctx context.Context) error {
	if err := s.rotateIfDue(ctx); err != nil {
		return err
	}
	_, err := s.ring(ctx)
	return err
}

// rotateIfDue makes a new signing key when there is none that signs or the one
// that does has had its time. Of two hubs at once one makes it.
func (s *Service) rotateIfDue(ctx context.Context) error {
	due := false
	err := s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		due, err = keyDue(tx)
		return err
	})
	if err != nil || !due {
		return err
	}
	return s.rotateKey(ctx, "hub", keyDue)
}

// keyDue says whether it is time for a new signing key.
func keyDue(tx account.Tx) (bool, error) {
	keys, err := tx.SigningKeys()
	if err != nil {
		return false, fmt.Errorf("reading signing keys: %w", err)
	}
	for _, k := range keys {
		// One that begins later was made by a clock that has been set back since,
		// or by another hub's, which is not quite ours.
		age := tx.Now().Sub(k.NotBefore)
		if k.Retires.IsZero() && k.Expires.IsZero() && age > -clockSkew && age < keyLife {
			return false, nil
		}
	}
	return true, nil
}

// RotateSigningKey makes a new signing key that signs from now on. The one
// before verifies for another hour.
func (s *Service) RotateSigningKey(ctx context.Context, actor string) error {
	return s.rotateKey(ctx, actor, func(account.Tx) (bool, error) { return true, nil })
}

var errNotDue = errors.New("another hub was faster")

func (s *Service) rotateKey(ctx context.Context, actor string, due func(account.Tx) (bool, error)) error {
	now := s.cfg.Now()
	key, stored, err := token.NewKey(now)
	if err != nil {
		return fmt.Errorf("rotating signing keys: %w", err)
	}
	ev := account.Event{Actor: actor, Action: "key.rotate", Target: "key:" + key.ID()}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if yes, err := due(tx); err != nil {
			return err
		} else if !yes {
			return errNotDue
		}
		if err := retireKeys(tx); err != nil {
			return err
		}
		return tx.PutSigningKey(stored)
	})
	if err != nil && !errors.Is(err, errNotDue) {
		return fmt.Errorf("rotating signing keys: %w", err)
	}
	s.ringMu.Lock()
	s.keys.loaded = time.Time{}
	s.ringMu.Unlock()
	return nil
}

// retireKeys ends the keys that sign, with an overlap.
func retireKeys(tx account.Tx) error {
	keys, err := tx.SigningKeys()
	if err != nil {
		return err
	}
	for _, k := range keys {
		if !k.Expires.IsZero() {
			continue
		}
		k.Retires, k.Expires = tx.Now(), tx.Now().Add(keyOverlap)
		if err := tx.PutSigningKey(k); err != nil {
			return err
		}
	}
	return nil
}

// removeExpiredKeys removes the keys whose overlap is over.
func removeExpiredKeys(tx account.Tx) error {
	keys, err := tx.SigningKeys()
	if err != nil {
		return fmt.Errorf("reading signing keys: %w", err)
	}
	for _, k := range keys {
		if !k.Expires.IsZero() && !tx.Now().Before(k.Expires) {
			if err := tx.DeleteSigningKey(k.ID); err != nil {
				return fmt.Errorf("removing a signing key: %w", err)
			}
		}
	}
	return nil
}

// ring returns the signing keys as they are stored now, or were within
// ringLife.
func (s *Service) ring(ctx context.Context) (*token.Ring, error) { return s.ringWithin(ctx, ringLife) }

// ringWithin returns the signing keys as they were less than life ago.
func (s *Service) ringWithin(ctx context.Context, life time.Duration) (*token.Ring, error) {
	s.ringMu.Lock()
	defer s.ringMu.Unlock()
	now := s.cfg.Now()
	if age := now.Sub(s.keys.loaded); s.keys.ring != nil && age >= 0 && age < life {
		return s.keys.ring, nil
	}
	var keys []account.SigningKey
	err := s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		keys, err = tx.SigningKeys()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading signing keys: %w", err)
	}
	return s.setRing(keys, now)
}

// ringIn is ring for who is in a transaction already: SQLite has one writer,
// and a reader beside it may wait for a connection.
func (s *Service) ringIn(tx account.Tx) (*token.Ring, error) {
	keys, err := tx.SigningKeys()
	if err != nil {
		return nil, fmt.Errorf("reading signing keys: %w", err)
	}
	ring, err := token.NewRing(keys, s.cfg.Now)
	if err != nil {
		return nil, fmt.Errorf("reading signing keys: %w", err)
	}
	return ring, nil
}

func (s *Service) setRing(keys []account.SigningKey, now time.Time) (*token.Ring, error) {
	ring, err := token.NewRing(keys, s.cfg.Now)
	if err != nil {
		return nil, fmt.Errorf("reading signing keys: %w", err)
	}
	s.keys = keyring{ring, now}
	return ring, nil
}

// Ring returns the signing keys, at most a second old. When the store cannot be
// read it is one without keys, which trusts nothing.
func (s *Service) Ring() *token.Ring {
	ring, err := s.ring(context.Background())
	if err != nil {
		s.log.Error("cannot read the signing keys", "error", err)
		return nil
	}
	return ring
}

// signAccess signs an access token for a session, in the form that is
// configured, inside a transaction.
func (s *Service) signAccess(tx account.Tx, u account.User, sess account.Session) (string, time.Time, error) {
	now := tx.Now()
	expires := now.Add(AccessLife)
	role, err := roleIn(tx, u.ID, sess.Household)
	if err != nil {
		return "", expires, err
	}
	if s.cfg.HS256 && sess.Client == "" {
		raw, err := signJarvis(tx, u, sess, expires)
		return raw, expires, err
	}
	ring, err := s.ringIn(tx)
	if err != nil {
		return "", expires, err
	}
	c := token.Claims{
		Issuer: s.cfg.Issuer, Subject: u.ID.String(), ID: newSecret(), Device: sess.Peer, Peer: sess.Key, Session: sess.ID,
		Household: string(sess.Household), Client: sess.Client, Scope: sess.Scope, Audience: []string{Audience},
		Issued: now, Expires: expires, NotBefore: now,
	}
	if role != account.None {
		c.Role = role.String()
	}
	raw, err := ring.Sign(c)
	if err != nil {
		return "", expires, fmt.Errorf("signing an access token: %w", err)
	}
	return raw, expires, nil
}

// sharedSecret is the name of the secret that HS256 tokens are signed with.
const sharedSecret = "hs256"

// signJarvis signs a token in Jarvis' form. Its jti begins with the session, so
// that it counts here on the session's own machine only, like any other.
func signJarvis(tx account.Tx, u account.User, sess account.Session, expires time.Time) (string, error) {
	secret, err := shared(tx)
	if err != nil {
		return "", fmt.Errorf("reading the shared secret: %w", err)
	}
	raw, err := token.SignHS256(secret, token.Jarvis{
		Subject: u.ID.String(), Email: u.Email, Superuser: u.Superuser, Household: string(sess.Household),
		ID: sess.ID + "." + newSecret(), Issued: tx.Now(), Expires: expires,
	})
	if err != nil {
		return "", fmt.Errorf("signing an access token: %w", err)
	}
	return raw, nil
}

// shared is the secret as services outside take it, out of their environment:
// the bytes of a text.
func shared(tx account.Tx) ([]byte, error) {
	secret, err := tx.Secret(sharedSecret)
	if err != nil {
		return nil, err
	}
	return []byte(base64.RawURLEncoding.EncodeToString(secret)), nil
}

// SharedSecret returns the secret, a text, that services outside need to verify tokens
// in Jarvis' form. Who has it can make such tokens.
func (s *Service) SharedSecret(ctx context.Context, actor string) ([]byte, error) {
	var secret []byte
	ev := account.Event{Actor: actor, Action: "key.reveal", Target: "secret:" + sharedSecret}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) (err error) {
		secret, err = shared(tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the shared secret: %w", err)
	}
	return secret, nil
}
