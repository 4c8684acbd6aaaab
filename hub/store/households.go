package store

import (
	"crypto/rand"
	"fmt"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// newUUID makes a random UUID (RFC 9562, version 4), lower case.
func newUUID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("making identifier: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

func checkHousehold(h account.Household) error {
	if err := checkLabel("household's name", h.Name); err != nil {
		return err
	}
	if h.Label != "" {
		if err := peer.ValidName(h.Label); err != nil {
			return fmt.Errorf("%w: label: %w", ErrInvalid, err)
		}
	}
	return nil
}

// CreateHousehold adds a household. ID is made by the store, and Created is now
// if it is zero. ErrExists: another one has the label.
func (tx *accountTx) CreateHousehold(h account.Household) (account.Household, error) {
	fail := func(err error) (account.Household, error) {
		return account.Household{}, fmt.Errorf("adding household: %w", err)
	}
	if err := checkHousehold(h); err != nil {
		return fail(err)
	}
	id, err := newUUID()
	if err != nil {
		return fail(err)
	}
	if h.ID = account.HouseholdID(id); h.Created.IsZero() {
		h.Created = tx.now
	}
	if err := tx.claimLabel(h); err != nil {
		return fail(err)
	}
	if err := tx.exec("writing household", `INSERT INTO households (id, name, label, created) VALUES ($1, $2, $3, $4)`,
		id, h.Name, h.Label, nanos(h.Created)); err != nil {
		return fail(err)
	}
	return tx.Household(h.ID)
}

func (tx *accountTx) claimLabel(h account.Household) error {
	if h.Label == "" {
		return nil
	}
	n, err := tx.count("looking for label", `SELECT COUNT(*) FROM households WHERE label = $1 AND id <> $2`, h.Label, string(h.ID))
	if err == nil && n > 0 {
		err = fmt.Errorf("another household has the label: %w", ErrExists)
	}
	return err
}

const selectHouseholds = `SELECT id, name, label, created FROM households`

// Household finds one by id.
func (tx *accountTx) Household(id account.HouseholdID) (account.Household, error) {
	if !storable(string(id), maxLabel) {
		return account.Household{}, ErrNotFound
	}
	return only(tx.households(selectHouseholds+` WHERE id = $1`, string(id)))
}

// HouseholdByLabel finds the one that the packet policy calls so.
func (tx *accountTx) HouseholdByLabel(label string) (account.Household, error) {
	if label == "" || !storable(label, maxLabel) {
		return account.Household{}, ErrNotFound
	}
	return only(tx.households(selectHouseholds+` WHERE label = $1`, label))
}

// AllHouseholds lists them, oldest first.
func (tx *accountTx) AllHouseholds() ([]account.Household, error) {
	return tx.households(selectHouseholds + ` ORDER BY created, id`)
}

func (tx *accountTx) households(query string, args ...any) ([]account.Household, error) {
	var list []account.Household
	err := tx.each("reading households", query, args, func(scan func(...any) error) error {
		var h account.Household
		var id string
		var created int64
		if err := scan(&id, &h.Name, &h.Label, &created); err != nil {
			return err
		}
		h.ID, h.Created = account.HouseholdID(id), fromNanos(created)
		list = append(list, h)
		return nil
	})
	return list, err
}

// householdThere is ErrNotFound if there is no such household.
func (tx *accountTx) householdThere(id account.HouseholdID) error {
	_, err := tx.Household(id)
	return err
}

// UpdateHousehold changes name and label.
func (tx *accountTx) UpdateHousehold(h account.Household) error {
	fail := func(err error) error { return fmt.Errorf("changing household: %w", err) }
	if err := checkHousehold(h); err != nil {
		return fail(err)
	}
	if err := tx.householdThere(h.ID); err != nil {
		return fail(err)
	}
	if err := tx.claimLabel(h); err != nil {
		return fail(err)
	}
	return tx.must("changing household", `UPDATE households SET name = $1, label = $2 WHERE id = $3`, h.Name, h.Label, string(h.ID))
}

// DeleteHousehold removes a household with all that belongs to it: memberships,
// invitations, nodes and their keys, enrolments, what its members signed in to
// do there, and its data. Apps that may ask about it keep it in their list: an
// empty list would mean all.
func (tx *accountTx) DeleteHousehold(id account.HouseholdID) error {
	if err := tx.householdThere(id); err != nil {
		return fmt.Errorf("removing household: %w", err)
	}
	for _, query := range []string{
		`DELETE FROM machine_keys WHERE owner IN (SELECT 'node:' || id FROM nodes WHERE household = $1)`,
		`DELETE FROM auth_requests WHERE household = $1`,
		`DELETE FROM devices WHERE household = $1`,
		`UPDATE sessions SET household = '' WHERE household = $1`,
		// The rest refers to it and goes with it.
		`DELETE FROM households WHERE id = $1`,
	} {
		if err := tx.exec("removing household", query, string(id)); err != nil {
			return err
		}
	}
	return nil
}

const selectMemberships = `SELECT household, user_id, role, joined FROM memberships`

// Memberships are a person's, oldest first.
func (tx *accountTx) Memberships(u account.UserID) ([]account.Membership, error) {
	return tx.memberships(selectMemberships+` WHERE user_id = $1 ORDER BY joined, household`, int64(u))
}

// Members are a household's, oldest first.
func (tx *accountTx) Members(h account.HouseholdID) ([]account.Membership, error) {
	if !storable(string(h), maxLabel) {
		return nil, nil
	}
	return tx.memberships(selectMemberships+` WHERE household = $1 ORDER BY joined, user_id`, string(h))
}

// Membership is a person's place in a household, ErrNotFound without one.
func (tx *accountTx) Membership(h account.HouseholdID, u account.UserID) (account.Membership, error) {
	if !storable(string(h), maxLabel) {
		return account.Membership{}, ErrNotFound
	}
	return only(tx.memberships(selectMemberships+` WHERE household = $1 AND user_id = $2`, string(h), int64(u)))
}

func (tx *Tx) memberships(query string, args ...any) ([]account.Membership, error) {
	var list []account.Membership
	err := tx.each("reading members", query, args, func(scan func(...any) error) error {
		var h string
		var user, role, joined int64
		if err := scan(&h, &user, &role, &joined); err != nil {
			return err
		}
		if role < int64(account.Member) || role > int64(account.Admin) {
			return fmt.Errorf("role of person %d: %w", user, ErrCorrupt)
		}
		list = append(list, account.Membership{Household: account.HouseholdID(h), User: account.UserID(user),
			Role: account.Role(role), Joined: fromNanos(joined)})
		return nil
	})
	return list, err
}

// PutMembership lets a person in, or changes the role of somebody who is.
func (tx *accountTx) PutMembership(m account.Membership) error {
	fail := func(err error) error { return fmt.Errorf("writing membership: %w", err) }
	if m.Role < account.Member || m.Role > account.Admin {
		return fail(fmt.Errorf("%w: a role is member, power_user or admin", ErrInvalid))
	}
	if err := tx.householdThere(m.Household); err != nil {
		return fail(err)
	}
	if err := tx.userThere(m.User); err != nil {
		return fail(err)
	}
	if m.Joined.IsZero() {
		m.Joined = tx.now
	}
	return tx.exec("writing membership", `INSERT INTO memberships (household, user_id, role, joined) VALUES ($1, $2, $3, $4)
		ON CONFLICT (household, user_id) DO UPDATE SET role = excluded.role`, string(m.Household), int64(m.User), int64(m.Role), nanos(m.Joined))
}

// DeleteMembership ends a membership.
func (tx *accountTx) DeleteMembership(h account.HouseholdID, u account.UserID) error {
	if !storable(string(h), maxLabel) {
		return ErrNotFound
	}
	return tx.must("removing membership", `DELETE FROM memberships WHERE household = $1 AND user_id = $2`, string(h), int64(u))
}

// CreateInvitation keeps an invitation; ErrExists if its code or id is taken.
// The code is short enough to be found by trying, so not even its hash is kept:
// only an index of it.
func (tx *accountTx) CreateInvitation(v account.Invitation) error {
	fail := func(err error) error { return fmt.Errorf("writing invitation: %w", err) }
	if err := checkLabel("invitation's id", v.ID); err != nil {
		return fail(err)
	}
	if err := checkHash("code's hash", v.CodeHash); err != nil {
		return fail(err)
	}
	if v.Role != account.Member && v.Role != account.PowerUser {
		return fail(fmt.Errorf("%w: one is invited as member or power_user", ErrInvalid))
	}
	if !v.Expires.After(tx.now) {
		return fail(fmt.Errorf("%w: it would have expired already", ErrInvalid))
	}
	if err := tx.householdThere(v.Household); err != nil {
		return fail(err)
	}
	if v.Created.IsZero() {
		v.Created = tx.now
	}
	n, err := tx.change("writing invitation", `INSERT INTO invitations (id, household, code_idx, role, by_user, created, expires, used_by, used_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0) ON CONFLICT DO NOTHING`,
		v.ID, string(v.Household), tx.codeIndex(v.CodeHash), int64(v.Role), int64(v.By), nanos(v.Created), nanos(v.Expires))
	if err == nil && n == 0 {
		err = fail(ErrExists)
	}
	return err
}

func (tx *accountTx) codeIndex(hash []byte) []byte { return tx.index("invitations", string(hash)) }

const selectInvitations = `SELECT id, household, role, by_user, created, expires, used_by, used_at FROM invitations`

// Invitations are a household's, neither used nor expired, oldest first; their
// CodeHash is nil.
func (tx *accountTx) Invitations(h account.HouseholdID) ([]account.Invitation, error) {
	if !storable(string(h), maxLabel) {
		return nil, nil
	}
	return tx.invitations(selectInvitations+` WHERE household = $1 AND used_by = 0 AND expires > $2 ORDER BY created, id`, string(h), nanos(tx.now))
}

// InvitationByCode finds one by its code's hash, whatever became of it.
func (tx *accountTx) InvitationByCode(hash []byte) (account.Invitation, error) {
	v, err := only(tx.invitations(selectInvitations+` WHERE code_idx = $1`, tx.codeIndex(hash)))
	if err == nil {
		v.CodeHash = hash
	}
	return v, err
}

func (tx *accountTx) invitations(query string, args ...any) ([]account.Invitation, error) {
	var list []account.Invitation
	err := tx.each("reading invitations", query, args, func(scan func(...any) error) error {
		var v account.Invitation
		var h string
		var role, by, created, expires, usedBy, usedAt int64
		if err := scan(&v.ID, &h, &role, &by, &created, &expires, &usedBy, &usedAt); err != nil {
			return err
		}
		if role != int64(account.Member) && role != int64(account.PowerUser) {
			return fmt.Errorf("role of an invitation: %w", ErrCorrupt)
		}
		v.Household, v.Role, v.By, v.UsedBy = account.HouseholdID(h), account.Role(role), account.UserID(by), account.UserID(usedBy)
		v.Created, v.Expires, v.UsedAt = fromNanos(created), fromNanos(expires), fromNanos(usedAt)
		list = append(list, v)
		return nil
	})
	return list, err
}

// UseInvitation uses one up: however many come with the code, one gets in.
func (tx *accountTx) UseInvitation(hash []byte, by account.UserID) (account.Invitation, error) {
	fail := func(err error) (account.Invitation, error) { return account.Invitation{}, err }
	if by <= 0 {
		return fail(fmt.Errorf("using invitation: %w: somebody must", ErrInvalid))
	}
	there := func() error { _, err := tx.InvitationByCode(hash); return err }
	if err := tx.once("using invitation", there, `UPDATE invitations SET used_by = $1, used_at = $2 WHERE code_idx = $3 AND used_by = 0 AND expires > $4`,
		int64(by), nanos(tx.now), tx.codeIndex(hash), nanos(tx.now)); err != nil {
		return fail(err)
	}
	return tx.InvitationByCode(hash)
}

// DeleteInvitation withdraws one of a household's.
func (tx *accountTx) DeleteInvitation(h account.HouseholdID, id string) error {
	if !storable(id, maxLabel) || !storable(string(h), maxLabel) {
		return ErrNotFound
	}
	return tx.must("removing invitation", `DELETE FROM invitations WHERE household = $1 AND id = $2`, string(h), id)
}
