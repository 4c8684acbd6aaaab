package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// The most of each.
const (
	maxRedirects = 32  // addresses of one client
	maxRequests  = 100 // authorizations that one machine has under way
)

// PutClient adds a client or changes one. Created is now if it is zero, and
// stays what it was.
func (tx *accountTx) PutClient(c account.Client) error {
	fail := func(err error) error { return fmt.Errorf("writing client: %w", err) }
	if err := checkMachineID(c.ID); err != nil {
		return fail(err)
	}
	if err := checkShort("client's name", c.Name); err != nil {
		return fail(err)
	}
	if len(c.Redirects) > maxRedirects {
		return fail(fmt.Errorf("%w: more than %d addresses", ErrInvalid, maxRedirects))
	}
	for _, r := range c.Redirects {
		if err := checkText("address", r); err != nil || r == "" {
			return fail(fmt.Errorf("%w: an address to return to is empty or too long", ErrInvalid))
		}
	}
	if len(c.SecretDigest) > 0 {
		if err := checkHash("secret's digest", c.SecretDigest); err != nil {
			return fail(err)
		}
	}
	if c.Created.IsZero() {
		c.Created = tx.now
	}
	redirects, err := json.Marshal(c.Redirects)
	if err != nil {
		return fail(err)
	}
	return tx.exec("writing client", `INSERT INTO oauth_clients (id, name, redirects, secret, device, first_party, created) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, redirects = excluded.redirects, secret = excluded.secret, device = excluded.device, first_party = excluded.first_party`,
		c.ID, c.Name, string(redirects), append([]byte{}, c.SecretDigest...), flag(c.Device), flag(c.FirstParty), nanos(c.Created))
}

const selectClients = `SELECT id, name, redirects, secret, device, first_party, created FROM oauth_clients`

// Client finds one by id.
func (tx *accountTx) Client(id string) (account.Client, error) {
	if checkMachineID(id) != nil {
		return account.Client{}, ErrNotFound
	}
	return only(tx.clients(selectClients+` WHERE id = $1`, id))
}

// Clients lists them by id.
func (tx *accountTx) Clients() ([]account.Client, error) {
	return tx.clients(selectClients + ` ORDER BY id`)
}

func (tx *accountTx) clients(query string, args ...any) ([]account.Client, error) {
	var list []account.Client
	err := tx.each("reading clients", query, args, func(scan func(...any) error) error {
		var c account.Client
		var redirects string
		var device, first, created int64
		if err := scan(&c.ID, &c.Name, &redirects, &c.SecretDigest, &device, &first, &created); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(redirects), &c.Redirects); err != nil {
			return fmt.Errorf("client: %w", ErrCorrupt)
		}
		if len(c.SecretDigest) == 0 {
			c.SecretDigest = nil // as a public client was given
		}
		c.Device, c.FirstParty, c.Created = device != 0, first != 0, fromNanos(created)
		list = append(list, c)
		return nil
	})
	return list, err
}

// DeleteClient removes a client with its authorizations, and ends the sessions
// that it holds.
func (tx *accountTx) DeleteClient(id string) error {
	if checkMachineID(id) != nil {
		return ErrNotFound
	}
	if err := tx.exec("ending sessions", `UPDATE sessions SET revoked = $1, why = 'client removed' WHERE client = $2 AND revoked = 0`, nanos(tx.now), id); err != nil {
		return err
	}
	return tx.must("removing client", `DELETE FROM oauth_clients WHERE id = $1`, id)
}

// CreateAuthRequest keeps an authorization request. Of those that one machine
// has under way the oldest go beyond a bound, so that nobody fills the store.
func (tx *accountTx) CreateAuthRequest(r account.AuthRequest) error {
	fail := func(err error) error { return fmt.Errorf("writing authorization: %w", err) }
	if err := tx.checkAuthRequest(r); err != nil {
		return fail(err)
	}
	if r.Created.IsZero() {
		r.Created = tx.now
	}
	if err := tx.exec("dropping old authorizations", `DELETE FROM auth_requests WHERE peer = $1 AND id NOT IN (
		SELECT id FROM auth_requests WHERE peer = $2 ORDER BY created DESC, id LIMIT $3)`, string(r.Peer), string(r.Peer), maxRequests-1); err != nil {
		return err
	}
	return tx.exec("writing authorization", `INSERT INTO auth_requests (id, client, redirect, state, nonce, scope, challenge, peer, peer_key, created, expires,
		user_id, household, auth_time, methods, code_hash, redeemed, session)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, '', 0, '', NULL, 0, '')`,
		r.ID, r.Client, r.Redirect, r.State, r.Nonce, r.Scope, r.Challenge, string(r.Peer), r.Key[:], nanos(r.Created), nanos(r.Expires))
}

func (tx *accountTx) checkAuthRequest(r account.AuthRequest) error {
	if err := checkLabel("id", r.ID); err != nil {
		return err
	}
	if err := checkMachine(r.Peer, r.Key); err != nil {
		return err
	}
	for _, f := range [...]struct{ what, text string }{{"address", r.Redirect}, {"state", r.State}, {"nonce", r.Nonce}, {"scope", r.Scope}, {"challenge", r.Challenge}} {
		if err := checkText(f.what, f.text); err != nil {
			return err
		}
	}
	if r.User != 0 || r.CodeHash != nil || !r.Redeemed.IsZero() {
		return fmt.Errorf("%w: nobody can have agreed to it yet", ErrInvalid)
	}
	if !r.Expires.After(tx.now) {
		return fmt.Errorf("%w: it would have expired already", ErrInvalid)
	}
	_, err := tx.Client(r.Client)
	return err
}

const selectAuthRequests = `SELECT id, client, redirect, state, nonce, scope, challenge, peer, peer_key, created, expires,
	user_id, household, auth_time, methods, code_hash, redeemed, session FROM auth_requests`

// AuthRequest finds one by id, expired ones too until they are pruned.
func (tx *accountTx) AuthRequest(id string) (account.AuthRequest, error) {
	if !storable(id, maxLabel) {
		return account.AuthRequest{}, ErrNotFound
	}
	return only(tx.authRequests(selectAuthRequests+` WHERE id = $1`, id))
}

// AuthRequestByCode finds one by its code's hash, redeemed ones too: a code
// that comes again says whose session to end.
func (tx *accountTx) AuthRequestByCode(hash []byte) (account.AuthRequest, error) {
	if len(hash) == 0 {
		return account.AuthRequest{}, ErrNotFound
	}
	return only(tx.authRequests(selectAuthRequests+` WHERE code_hash = $1`, hash))
}

func (tx *accountTx) authRequests(query string, args ...any) ([]account.AuthRequest, error) {
	var list []account.AuthRequest
	err := tx.each("reading authorizations", query, args, func(scan func(...any) error) error {
		var r account.AuthRequest
		var id, h, methods string
		var key []byte
		var created, expires, user, auth, redeemed int64
		err := scan(&r.ID, &r.Client, &r.Redirect, &r.State, &r.Nonce, &r.Scope, &r.Challenge, &id, &key, &created, &expires,
			&user, &h, &auth, &methods, &r.CodeHash, &redeemed, &r.Session)
		if err != nil {
			return err
		}
		if r.Key, err = scanPeerKey(key); err != nil {
			return fmt.Errorf("authorization: %w", err)
		}
		r.Peer, r.User, r.Household, r.Methods = peer.ID(id), account.UserID(user), account.HouseholdID(h), strings.Fields(methods)
		r.Created, r.Expires, r.AuthTime, r.Redeemed = fromNanos(created), fromNanos(expires), fromNanos(auth), fromNanos(redeemed)
		list = append(list, r)
		return nil
	})
	return list, err
}

// Agree sets who agreed, in one statement: the first one stays.
func (tx *accountTx) Agree(id string, u account.UserID, h account.HouseholdID, at time.Time, methods []string) error {
	words, err := tx.checkDecision(u, h, methods)
	if err != nil {
		return fmt.Errorf("agreeing: %w", err)
	}
	there := func() error { _, err := tx.AuthRequest(id); return err }
	if !storable(id, maxLabel) {
		return ErrNotFound
	}
	return tx.once("agreeing", there, `UPDATE auth_requests SET user_id = $1, household = $2, auth_time = $3, methods = $4 WHERE id = $5 AND user_id = 0 AND expires > $6`,
		int64(u), string(h), nanos(at), words, id, nanos(tx.now))
}

// checkDecision refuses one by nobody or for a household that is not there; it
// returns the methods as they are kept.
func (tx *accountTx) checkDecision(u account.UserID, h account.HouseholdID, methods []string) (string, error) {
	if err := tx.userThere(u); err != nil {
		return "", err
	}
	if h != "" {
		if err := tx.householdThere(h); err != nil {
			return "", err
		}
	}
	return joinWords("methods", methods)
}

// SetCode sets the code's hash and when it ends, once, of a request that
// somebody agreed to.
func (tx *accountTx) SetCode(id string, hash []byte, expires time.Time) error {
	if err := checkHash("code's hash", hash); err != nil {
		return fmt.Errorf("writing code: %w", err)
	}
	if !storable(id, maxLabel) {
		return ErrNotFound
	}
	there := func() error { _, err := tx.AuthRequest(id); return err }
	return tx.once("writing code", there, `UPDATE auth_requests SET code_hash = $1, expires = $2 WHERE id = $3 AND user_id <> 0 AND code_hash IS NULL AND expires > $4`,
		hash, nanos(expires), id, nanos(tx.now))
}

// RedeemCode marks a code exchanged, in one statement: of any number who come
// with it one gets a session.
func (tx *accountTx) RedeemCode(hash []byte, session string) error {
	if err := checkLabel("session's id", session); err != nil {
		return fmt.Errorf("redeeming code: %w", err)
	}
	if len(hash) == 0 {
		return ErrNotFound
	}
	there := func() error { _, err := tx.AuthRequestByCode(hash); return err }
	return tx.once("redeeming code", there, `UPDATE auth_requests SET redeemed = $1, session = $2 WHERE code_hash = $3 AND redeemed = 0 AND expires > $4`,
		nanos(tx.now), session, hash, nanos(tx.now))
}

// DeleteAuthRequest removes one; that it is gone already is no error.
func (tx *accountTx) DeleteAuthRequest(id string) error {
	if !storable(id, maxLabel) {
		return nil
	}
	return tx.exec("removing authorization", `DELETE FROM auth_requests WHERE id = $1`, id)
}

// PruneOAuth removes authorizations, devices and enrolments that ended before.
func (tx *accountTx) PruneOAuth(before time.Time) error {
	for _, query := range []string{
		`DELETE FROM auth_requests WHERE expires < $1`,
		`DELETE FROM devices WHERE expires < $1`,
		`DELETE FROM enrolments WHERE expires < $1`,
	} {
		if err := tx.exec("removing what ended", query, nanos(before)); err != nil {
			return err
		}
	}
	return nil
}
