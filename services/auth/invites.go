package auth

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// An invite into a household is a code of eight letters that a person can read
// out. It is good once and for days. The code is made from the invite's random
// number and a secret of the store, and is stored as a keyed digest: forty bits
// are too few for a plain hash.
const (
	inviteAlphabet = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789" // no I, O, 0, 1
	inviteLength   = 8
	inviteDays     = 7
	maxInviteDays  = 90
	maxInvites     = 100 // open ones of a household
)

// errInvite is the one answer to a code that will not do, whatever is wrong
// with it.
func errInvite() error {
	return &services.Refusal{Status: 400, Detail: "Invalid or expired invite code"}
}

// inviteCode is the code of the invite with this id.
func inviteCode(tx account.Tx, id string) string {
	sum := tx.Digest("invite code", []byte(id))
	code := make([]byte, inviteLength)
	for i := range code {
		code[i] = inviteAlphabet[sum[i]%byte(len(inviteAlphabet))]
	}
	return string(code)
}

// inviteHash is what is stored of a code. People type it in any case.
func inviteHash(tx account.Tx, code string) []byte {
	return tx.Digest("invite", []byte(strings.ToUpper(code)))
}

// newInviteID is a random number that JSON numbers can hold, as clients expect.
func newInviteID() string {
	return strconv.FormatUint(binary.BigEndian.Uint64(randomBytes(8))>>12|1, 10)
}

// findInvite finds an invite that can be used from machine p, and its
// household. Whatever is wrong with the code is the same refusal.
func (s *Service) findInvite(tx account.Tx, p peer.Peer, code string) (account.Invitation, account.Household, error) {
	none := func(err error) (account.Invitation, account.Household, error) {
		if err != nil && !errors.Is(err, account.ErrNotFound) {
			return account.Invitation{}, account.Household{}, fmt.Errorf("finding an invite: %w", err)
		}
		return account.Invitation{}, account.Household{}, errInvite()
	}
	if len(code) != inviteLength {
		return none(nil)
	}
	in, err := tx.InvitationByCode(inviteHash(tx, code))
	if err != nil {
		return none(err)
	}
	if in.UsedBy != 0 || !in.UsedAt.IsZero() || !tx.Now().Before(in.Expires) {
		return none(nil)
	}
	// Who was put out does not come back with an invite of their own.
	if role, err := roleIn(tx, in.By, in.Household); err != nil || role < max(account.PowerUser, in.Role) {
		return none(err)
	}
	h, err := tx.Household(in.Household)
	if err != nil || !mayActIn(p, h) {
		return none(err)
	}
	return in, h, nil
}

// checkInvite is findInvite for whoever comes with a code, before anything else
// is said to them. Wrong codes are counted, and a right one makes up for none:
// who has one may not guess at others for it. h, if it is not "", is the
// household that they think it is of.
func (s *Service) checkInvite(ctx context.Context, p peer.Peer, code string, h account.HouseholdID) (house account.Household, err error) {
	good := errors.New("the attempt is not counted")
	var why *services.Refusal
	err = s.cfg.Store.Keep(ctx, func(tx account.Tx) error {
		if err := attempt(tx, p, []limit{machineLimit("invite", p)}); err != nil {
			return err
		}
		var in account.Invitation
		if in, house, err = s.findInvite(tx, p, code); err == nil && h != "" && in.Household != h {
			err = badRequest("Household not found")
		}
		if errors.As(err, &why) {
			return nil
		} else if err != nil {
			return err
		}
		return good
	})
	switch {
	case errors.Is(err, good):
		return house, nil
	case err != nil:
		return account.Household{}, err
	}
	return account.Household{}, why
}

// acceptInvite uses an invite up and makes u a member of its household, in the
// caller's transaction. It is for joining and for registering with a code.
func (s *Service) acceptInvite(tx account.Tx, p peer.Peer, u account.UserID, code string) (account.Membership, account.Household, error) {
	in, h, err := s.findInvite(tx, p, code)
	if err != nil {
		return account.Membership{}, account.Household{}, err
	}
	switch _, err := tx.Membership(h.ID, u); {
	case err == nil:
		return account.Membership{}, h, &services.Refusal{Status: 400, Detail: "Already a member of this household"}
	case !errors.Is(err, account.ErrNotFound):
		return account.Membership{}, h, fmt.Errorf("finding a member: %w", err)
	}
	if err := roomFor(tx, h.ID, u); err != nil {
		return account.Membership{}, h, err
	}
	// Of many who come at once one gets past here.
	if in, err = tx.UseInvitation(in.CodeHash, u); err != nil {
		if errors.Is(err, account.ErrConflict) || errors.Is(err, account.ErrNotFound) {
			err = errInvite()
		}
		return account.Membership{}, h, err
	}
	m := account.Membership{Household: h.ID, User: u, Role: min(in.Role, account.PowerUser), Joined: tx.Now()}
	if err := tx.PutMembership(m); err != nil {
		return account.Membership{}, h, fmt.Errorf("adding a member: %w", err)
	}
	ev := account.Event{Actor: "user:" + u.String(), Action: "household.member", Target: householdTarget(h.ID), Detail: map[string]string{"user": u.String(), "role": m.Role.String(), "invite": in.ID}}
	if err := tx.Record(ev); err != nil {
		return account.Membership{}, h, fmt.Errorf("recording a member: %w", err)
	}
	return m, h, nil
}

// mayActIn says whether a machine that the policy puts into a household may
// act in h.
func mayActIn(p peer.Peer, h account.Household) bool {
	return p.Household == "" || h.Label == "" || p.Household == h.Label
}

// createInvite makes an invite, good for some days, on behalf of a member who
// may invite.
func (s *Service) createInvite(ctx context.Context, c *services.Caller, h account.HouseholdID, role account.Role, days int) (account.Invitation, string, error) {
	switch {
	case role == account.Admin:
		return account.Invitation{}, "", &services.Refusal{Status: 400, Detail: "Invite codes cannot assign admin role"}
	case role != account.Member && role != account.PowerUser, days < 1, days > maxInviteDays:
		return account.Invitation{}, "", fmt.Errorf("an invite is for a member or power_user and for 1 to %d days: %w", maxInviteDays, account.ErrInvalid)
	}
	in := account.Invitation{ID: newInviteID(), Household: h, Role: role, By: c.User.ID}
	var code string
	ev := account.Event{Actor: c.Actor(), Action: "household.invite", Target: "household:" + string(h), Detail: map[string]string{"invite": in.ID, "role": role.String()}}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if err := s.allow(tx, c, h, role, account.PowerUser); err != nil {
			return err
		}
		open, err := tx.Invitations(h)
		if err != nil {
			return fmt.Errorf("counting invites: %w", err)
		}
		if len(open) >= maxInvites {
			return conflict("There are %d open invites already; withdraw one first.", maxInvites)
		}
		code = inviteCode(tx, in.ID)
		in.CodeHash = inviteHash(tx, code)
		in.Created = tx.Now()
		in.Expires = tx.Now().Add(time.Duration(days) * 24 * time.Hour)
		if err := tx.CreateInvitation(in); err != nil {
			return fmt.Errorf("creating an invite: %w", err)
		}
		return nil
	})
	return in, code, err
}
