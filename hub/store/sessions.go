package store

import (
	"fmt"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// CreateSession keeps a new sign-in. Created is now if it is zero.
func (tx *accountTx) CreateSession(v account.Session) error {
	fail := func(err error) error { return fmt.Errorf("writing session: %w", err) }
	methods, err := checkSession(v)
	if err != nil {
		return fail(err)
	}
	if !v.Expires.After(tx.now) || !v.Revoked.IsZero() {
		return fail(fmt.Errorf("%w: it would have ended already", ErrInvalid))
	}
	if err := tx.userThere(v.User); err != nil {
		return fail(err)
	}
	if v.Household != "" {
		if err := tx.householdThere(v.Household); err != nil {
			return fail(err)
		}
	}
	if v.Created.IsZero() {
		v.Created = tx.now
	}
	return tx.exec("writing session", `INSERT INTO sessions (id, user_id, peer, peer_key, household, client, scope, nonce, auth_time, methods, created, expires, revoked, why)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, '')`,
		v.ID, int64(v.User), string(v.Peer), v.Key[:], string(v.Household), v.Client, v.Scope, v.Nonce, nanos(v.AuthTime), methods, nanos(v.Created), nanos(v.Expires))
}

// checkSession refuses a session that is nobody's or no machine's; it returns
// the methods as they are kept.
func checkSession(v account.Session) (string, error) {
	if err := checkLabel("session's id", v.ID); err != nil {
		return "", err
	}
	if err := checkMachine(v.Peer, v.Key); err != nil {
		return "", err
	}
	if err := checkShort("client's id", v.Client); err != nil {
		return "", err
	}
	if err := checkText("scope", v.Scope); err != nil {
		return "", err
	}
	if err := checkText("nonce", v.Nonce); err != nil {
		return "", err
	}
	return joinWords("methods", v.Methods)
}

// checkMachine refuses what is not a machine: everything here is bound to one.
func checkMachine(p peer.ID, key peer.PublicKey) error {
	if err := checkLabel("machine's id", string(p)); err != nil {
		return err
	}
	if key.IsZero() {
		return fmt.Errorf("%w: the machine has no key", ErrInvalid)
	}
	return nil
}

const selectSessions = `SELECT id, user_id, peer, peer_key, household, client, scope, nonce, auth_time, methods, created, expires, revoked, why FROM sessions`

// Session finds one by id, also after it ended.
func (tx *accountTx) Session(id string) (account.Session, error) {
	if !storable(id, maxLabel) {
		return account.Session{}, ErrNotFound
	}
	return only(tx.sessions(selectSessions+` WHERE id = $1`, id))
}

// SessionsOf are a person's that live, newest first.
func (tx *accountTx) SessionsOf(u account.UserID) ([]account.Session, error) {
	return tx.sessions(selectSessions+` WHERE user_id = $1 AND revoked = 0 AND expires > $2 ORDER BY created DESC, id`, int64(u), nanos(tx.now))
}

func (tx *accountTx) sessions(query string, args ...any) ([]account.Session, error) {
	var list []account.Session
	err := tx.each("reading sessions", query, args, func(scan func(...any) error) error {
		var v account.Session
		var id, h, methods string
		var key []byte
		var user, auth, created, expires, revoked int64
		err := scan(&v.ID, &user, &id, &key, &h, &v.Client, &v.Scope, &v.Nonce, &auth, &methods, &created, &expires, &revoked, &v.Why)
		if err != nil {
			return err
		}
		if v.Key, err = scanPeerKey(key); err != nil {
			return fmt.Errorf("session: %w", err)
		}
		v.User, v.Peer, v.Household, v.Methods = account.UserID(user), peer.ID(id), account.HouseholdID(h), strings.Fields(methods)
		v.AuthTime, v.Created, v.Expires, v.Revoked = fromNanos(auth), fromNanos(created), fromNanos(expires), fromNanos(revoked)
		list = append(list, v)
		return nil
	})
	return list, err
}

// sessionThere is ErrNotFound if there is no such session.
func (tx *accountTx) sessionThere(id string) error {
	_, err := tx.Session(id)
	return err
}

// SetSessionHousehold says for which household tokens are from now on; "" for
// none. ErrConflict if the session has ended.
func (tx *accountTx) SetSessionHousehold(id string, h account.HouseholdID) error {
	if !storable(id, maxLabel) {
		return ErrNotFound
	}
	if h != "" {
		if err := tx.householdThere(h); err != nil {
			return err
		}
	}
	return tx.once("changing session", func() error { return tx.sessionThere(id) },
		`UPDATE sessions SET household = $1 WHERE id = $2 AND revoked = 0`, string(h), id)
}

// ExtendSession sets when the newest refresh token ends; ErrConflict if the
// session has ended.
func (tx *accountTx) ExtendSession(id string, expires time.Time) error {
	if !storable(id, maxLabel) {
		return ErrNotFound
	}
	return tx.once("extending session", func() error { return tx.sessionThere(id) },
		`UPDATE sessions SET expires = $1 WHERE id = $2 AND revoked = 0`, nanos(expires), id)
}

// RevokeSession ends a session; what it says is why is kept. Again it changes
// nothing.
func (tx *accountTx) RevokeSession(id, why string) error {
	if !storable(id, maxLabel) {
		return ErrNotFound
	}
	if err := checkShort("reason", why); err != nil {
		return err
	}
	n, err := tx.change("ending session", `UPDATE sessions SET revoked = $1, why = $2 WHERE id = $3 AND revoked = 0`, nanos(tx.now), why, id)
	if err != nil || n == 1 {
		return err
	}
	return tx.sessionThere(id)
}

// RevokeSessions ends all of a person's but one and says how many. What they
// agreed to and nobody has redeemed would still become a session: it goes too.
func (tx *accountTx) RevokeSessions(u account.UserID, except, why string) (int, error) {
	if !storable(except, maxLabel) {
		except = ""
	}
	if err := checkShort("reason", why); err != nil {
		return 0, err
	}
	n, err := tx.change("ending sessions", `UPDATE sessions SET revoked = $1, why = $2 WHERE user_id = $3 AND id <> $4 AND revoked = 0`,
		nanos(tx.now), why, int64(u), except)
	if err != nil {
		return 0, err
	}
	for _, query := range []string{
		`DELETE FROM auth_requests WHERE user_id = $1 AND redeemed = 0`,
		`DELETE FROM devices WHERE user_id = $1 AND redeemed = 0`,
	} {
		if err := tx.exec("removing what would become a session", query, int64(u)); err != nil {
			return 0, err
		}
	}
	return int(n), nil
}

// AddRefresh keeps a refresh token's hash; ErrConflict if its session has ended.
func (tx *accountTx) AddRefresh(r account.Refresh) error {
	fail := func(err error) error { return fmt.Errorf("writing refresh token: %w", err) }
	if err := checkHash("token's hash", r.Hash); err != nil {
		return fail(err)
	}
	if r.Successor != nil || !r.Used.IsZero() {
		return fail(fmt.Errorf("%w: it would have been used already", ErrInvalid))
	}
	v, err := tx.Session(r.Session)
	if err != nil {
		return fail(err)
	}
	if !v.Revoked.IsZero() {
		return fail(fmt.Errorf("the session has ended: %w", ErrConflict))
	}
	if r.Issued.IsZero() {
		r.Issued = tx.now
	}
	return tx.exec("writing refresh token", `INSERT INTO refresh_tokens (hash, session, issued, expires, successor, used_at) VALUES ($1, $2, $3, $4, NULL, 0)`,
		r.Hash, r.Session, nanos(r.Issued), nanos(r.Expires))
}

// Refresh finds a refresh token by its hash, used and expired ones too.
func (tx *accountTx) Refresh(hash []byte) (account.Refresh, error) {
	if len(hash) == 0 {
		return account.Refresh{}, ErrNotFound
	}
	var r account.Refresh
	var issued, expires, used int64
	if err := tx.one("reading refresh token", `SELECT hash, session, issued, expires, successor, used_at FROM refresh_tokens WHERE hash = $1`, []any{hash},
		&r.Hash, &r.Session, &issued, &expires, &r.Successor, &used); err != nil {
		return account.Refresh{}, err
	}
	r.Issued, r.Expires, r.Used = fromNanos(issued), fromNanos(expires), fromNanos(used)
	return r, nil
}

// UseRefresh marks a token exchanged, in one statement: of any number who come
// with it, at any number of hubs, one gets the successor.
func (tx *accountTx) UseRefresh(hash, successor []byte) error {
	if err := checkHash("successor's hash", successor); err != nil {
		return err
	}
	if len(hash) == 0 {
		return ErrNotFound
	}
	there := func() error { _, err := tx.Refresh(hash); return err }
	return tx.once("using refresh token", there, `UPDATE refresh_tokens SET successor = $1, used_at = $2 WHERE hash = $3 AND successor IS NULL`,
		successor, nanos(tx.now), hash)
}

// PruneSessions removes sessions that ended before, with their tokens, and
// tokens that ended before; and invitations, which nobody else prunes.
func (tx *accountTx) PruneSessions(before time.Time) error {
	for _, query := range []string{
		`DELETE FROM sessions WHERE expires < $1 OR (revoked <> 0 AND revoked < $1)`,
		`DELETE FROM refresh_tokens WHERE expires < $1`,
		`DELETE FROM invitations WHERE expires < $1`,
	} {
		if err := tx.exec("removing what ended", query, nanos(before)); err != nil {
			return err
		}
	}
	return nil
}
