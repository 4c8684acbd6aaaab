package store

import (
	"fmt"

	"github.com/warrenmesh/warren/peer/account"
)

// maxEnrolments is how many enrolments that have not ended a household has.
const maxEnrolments = 256

// PutEnrolment keeps an enrolment; ErrConflict if the household has too many
// that wait. What ended is removed on the way.
func (tx *accountTx) PutEnrolment(e account.Enrolment) error {
	fail := func(err error) error { return fmt.Errorf("writing enrolment: %w", err) }
	if err := checkHash("token's hash", e.Hash); err != nil {
		return fail(err)
	}
	if err := checkMachineID(e.Node); err != nil {
		return fail(err)
	}
	if err := checkShort("node's name", e.Name); err != nil {
		return fail(err)
	}
	if err := checkShort("room", e.Room); err != nil {
		return fail(err)
	}
	if !e.Expires.After(tx.now) {
		return fail(fmt.Errorf("%w: it would have expired already", ErrInvalid))
	}
	if err := tx.householdThere(e.Household); err != nil {
		return fail(err)
	}
	if err := tx.exec("removing old enrolments", `DELETE FROM enrolments WHERE expires <= $1`, nanos(tx.now)); err != nil {
		return err
	}
	n, err := tx.count("counting enrolments", `SELECT COUNT(*) FROM enrolments WHERE household = $1 AND used_at = 0`, string(e.Household))
	if err != nil {
		return fail(err)
	}
	if n >= maxEnrolments {
		return fail(fmt.Errorf("%d wait already: %w", n, ErrConflict))
	}
	return tx.exec("writing enrolment", `INSERT INTO enrolments (hash, node, household, name, room, by_user, expires, used_at) VALUES ($1, $2, $3, $4, $5, $6, $7, 0)`,
		e.Hash, e.Node, string(e.Household), e.Name, e.Room, int64(e.By), nanos(e.Expires))
}

// UseEnrolment uses one up, in one statement.
func (tx *accountTx) UseEnrolment(hash []byte) (account.Enrolment, error) {
	if len(hash) == 0 {
		return account.Enrolment{}, ErrNotFound
	}
	there := func() error { _, err := tx.enrolment(hash); return err }
	if err := tx.once("using enrolment", there, `UPDATE enrolments SET used_at = $1 WHERE hash = $2 AND used_at = 0 AND expires > $3`,
		nanos(tx.now), hash, nanos(tx.now)); err != nil {
		return account.Enrolment{}, err
	}
	return tx.enrolment(hash)
}

func (tx *accountTx) enrolment(hash []byte) (account.Enrolment, error) {
	var e account.Enrolment
	var h string
	var by, expires, used int64
	if err := tx.one("reading enrolment", `SELECT hash, node, household, name, room, by_user, expires, used_at FROM enrolments WHERE hash = $1`, []any{hash},
		&e.Hash, &e.Node, &h, &e.Name, &e.Room, &by, &expires, &used); err != nil {
		return account.Enrolment{}, err
	}
	e.Household, e.By, e.Expires, e.UsedAt = account.HouseholdID(h), account.UserID(by), fromNanos(expires), fromNanos(used)
	return e, nil
}

// HookHousehold finds whose hook a name is.
func (tx *accountTx) HookHousehold(hook string) (account.HouseholdID, error) {
	if !storable(hook, maxLabel) {
		return "", ErrNotFound
	}
	var h string
	err := tx.one("looking for hook", `SELECT household FROM hooks WHERE name = $1`, []any{hook}, &h)
	return account.HouseholdID(h), err
}
