package store

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// metaUsers is the highest number that a person ever had here.
const metaUsers = metaPrefix + "users"

// maxEmail is the longest address that mail can have, in bytes (RFC 5321,
// section 4.5.3.1.3, without the angle brackets).
const maxEmail = 254

// maxPassword is the longest encoded password hash, in bytes.
const maxPassword = 1024

// checkPerson refuses addresses and names that cannot be anybody's.
func checkPerson(u account.User) error {
	local, domain, ok := strings.Cut(u.Email, "@")
	if !ok || local == "" || domain == "" || !storable(u.Email, maxEmail) ||
		strings.ContainsFunc(u.Email, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }) {
		return fmt.Errorf("%w: an address looks like ann@example.org and has at most %d bytes", ErrInvalid, maxEmail)
	}
	if u.Username != "" {
		if err := peer.ValidUser(u.Username); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	return nil
}

// CreateUser adds a person and makes their key. ID is chosen by the store, and
// Created is now if it is zero.
func (tx *accountTx) CreateUser(u account.User, password string) (account.User, error) {
	fail := func(err error) (account.User, error) { return account.User{}, fmt.Errorf("adding person: %w", err) }
	if err := checkPerson(u); err != nil {
		return fail(err)
	}
	if err := checkPasswordHash(password); err != nil {
		return fail(err)
	}
	if err := tx.claimPerson(u); err != nil {
		return fail(err)
	}
	id, err := tx.nextUser()
	if err != nil {
		return fail(err)
	}
	if u.ID = id; u.Created.IsZero() {
		u.Created = tx.now
	}
	if err := tx.newPersonKey(id); err != nil {
		return fail(err)
	}
	c, err := tx.sealPerson(id, u.Email, u.Username, password, "")
	if err != nil {
		return fail(err)
	}
	if err := tx.exec("writing person", `INSERT INTO users (id, email, email_idx, name, name_idx, superuser, change, temp_until, disabled, created, password, totp, confirmed, last_step)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, 0)`,
		int64(id), c[0], tx.emailIndex(u.Email), c[1], tx.nameIndex(u), flag(u.Superuser), flag(u.MustChange), nanos(u.TempUntil),
		flag(u.Disabled), nanos(u.Created), c[2], c[3]); err != nil {
		return fail(err)
	}
	return tx.User(id)
}

// nextUser takes the next number. The counter is not the highest row: who was
// erased stays in the audit log as a number that must never mean another. In a
// store that was restored the counter is an old one, and the ledger knows more.
func (tx *accountTx) nextUser() (account.UserID, error) {
	last := int64(0)
	b, err := tx.meta(metaUsers)
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return 0, err
	default:
		if last, err = strconv.ParseInt(string(b), 10, 64); err != nil || last < 0 {
			return 0, fmt.Errorf("counting people: %w", ErrCorrupt)
		}
	}
	erased, err := tx.count("counting people", `SELECT COALESCE(MAX(user_id), 0) FROM erased`)
	if err != nil {
		return 0, err
	}
	last = max(last, erased) + 1
	return account.UserID(last), tx.setMeta(metaUsers, strconv.AppendInt(nil, last, 10))
}

// personColumns are what is sealed for a person in table users, in the order
// of sealPerson's arguments.
func personColumns() [4]string { return [...]string{"email", "name", "password", "totp"} }

func (tx *accountTx) sealPerson(u account.UserID, values ...string) (out [4][]byte, err error) {
	for i, v := range values {
		if out[i], err = tx.sealFor(u, "users", personColumns()[i], u.String(), []byte(v)); err != nil {
			return out, err
		}
	}
	return out, nil
}

func (tx *accountTx) emailIndex(email string) []byte { return tx.index("users.email", fold(email)) }

// nameIndex is unique for who has no name, too: the column has no NULL.
func (tx *accountTx) nameIndex(u account.User) []byte {
	if u.Username == "" {
		return tx.index("users.id", u.ID.String())
	}
	return tx.index("users.name", fold(u.Username))
}

// claimPerson makes sure that nobody else has the address or the name.
func (tx *accountTx) claimPerson(u account.User) error {
	n, err := tx.count("looking for the address", `SELECT COUNT(*) FROM users WHERE email_idx = $1 AND id <> $2`, tx.emailIndex(u.Email), int64(u.ID))
	if err != nil {
		return err
	}
	if n > 0 {
		return fmt.Errorf("somebody has the address: %w", ErrExists)
	}
	if u.Username == "" {
		return nil
	}
	n, err = tx.count("looking for the name", `SELECT COUNT(*) FROM users WHERE name_idx = $1 AND id <> $2`, tx.nameIndex(u), int64(u.ID))
	if err == nil && n > 0 {
		err = fmt.Errorf("somebody has the name: %w", ErrExists)
	}
	return err
}

const selectUsers = `SELECT id, email, name, superuser, change, temp_until, disabled, created FROM users`

// User finds a person by number.
func (tx *accountTx) User(id account.UserID) (account.User, error) {
	return only(tx.users(selectUsers+` WHERE id = $1`, int64(id)))
}

// UserByEmail finds a person by address; upper and lower case are one.
func (tx *accountTx) UserByEmail(email string) (account.User, error) {
	if !storable(email, maxEmail) {
		return account.User{}, ErrNotFound
	}
	return only(tx.users(selectUsers+` WHERE email_idx = $1`, tx.emailIndex(email)))
}

// UserByName finds a person by what the policy calls them; upper and lower
// case are one.
func (tx *accountTx) UserByName(username string) (account.User, error) {
	if username == "" || !storable(username, maxEmail) {
		return account.User{}, ErrNotFound
	}
	return only(tx.users(selectUsers+` WHERE name_idx = $1`, tx.nameIndex(account.User{Username: username})))
}

// Users lists everybody by number. Somebody whose key is gone has neither
// address nor name any more.
func (tx *accountTx) Users() ([]account.User, error) { return tx.users(selectUsers + ` ORDER BY id`) }

func (tx *accountTx) users(query string, args ...any) ([]account.User, error) {
	type row struct {
		account.User
		email, name []byte
	}
	var rows []row
	err := tx.each("reading people", query, args, func(scan func(...any) error) error {
		var r row
		var id, superuser, change, temp, disabled, created int64
		if err := scan(&id, &r.email, &r.name, &superuser, &change, &temp, &disabled, &created); err != nil {
			return err
		}
		r.User = account.User{ID: account.UserID(id), Superuser: superuser != 0, MustChange: change != 0,
			TempUntil: fromNanos(temp), Disabled: disabled != 0, Created: fromNanos(created)}
		rows = append(rows, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	// Opened after the rows are read: reading a key is a query of its own.
	var people []account.User
	for _, r := range rows {
		email, err := tx.openFor(r.ID, "users", "email", r.ID.String(), r.email)
		if err != nil && !errors.Is(err, errErased) {
			return nil, fmt.Errorf("reading person %v: %w", r.ID, err)
		}
		name, err := tx.openFor(r.ID, "users", "name", r.ID.String(), r.name)
		if err != nil && !errors.Is(err, errErased) {
			return nil, fmt.Errorf("reading person %v: %w", r.ID, err)
		}
		r.Email, r.Username = string(email), string(name)
		people = append(people, r.User)
	}
	return people, nil
}

// CountSuperusers counts those who are not disabled.
func (tx *accountTx) CountSuperusers() (int, error) {
	n, err := tx.count("counting superusers", `SELECT COUNT(*) FROM users WHERE superuser = 1 AND disabled = 0`)
	return int(n), err
}

// UpdateUser changes everything but ID, Created and the secrets.
func (tx *accountTx) UpdateUser(u account.User) error {
	fail := func(err error) error { return fmt.Errorf("changing person: %w", err) }
	if err := checkPerson(u); err != nil {
		return fail(err)
	}
	if _, err := tx.User(u.ID); err != nil {
		return fail(err)
	}
	if err := tx.claimPerson(u); err != nil {
		return fail(err)
	}
	c, err := tx.sealPerson(u.ID, u.Email, u.Username)
	if err != nil {
		return fail(err)
	}
	return tx.must("changing person", `UPDATE users SET email = $1, email_idx = $2, name = $3, name_idx = $4, superuser = $5, change = $6, temp_until = $7, disabled = $8 WHERE id = $9`,
		c[0], tx.emailIndex(u.Email), c[1], tx.nameIndex(u), flag(u.Superuser), flag(u.MustChange), nanos(u.TempUntil), flag(u.Disabled), int64(u.ID))
}
