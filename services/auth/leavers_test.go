package auth

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer/account"
)

// TestInviteOfWhoMayNotInvite: who was put out or demoted does not come back,
// and lets nobody in, with an invite that they made before.
func TestInviteOfWhoMayNotInvite(t *testing.T) {
	for name, after := range map[string]func(k *stand){
		"put out": func(k *stand) {
			k.want(k.as("ann", "DELETE", k.url("/households/%s/members/%d", k.h1, k.users["amy"]), ""), 204, "")
		},
		"demoted": func(k *stand) {
			k.want(k.as("ann", "PATCH", k.url("/households/%s/members/%d", k.h1, k.users["amy"]), `{"role":"member"}`), 200, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newStand(t)
			k.ok(k.s.SetMember(t.Context(), "hub", k.h2, k.users["amy"], account.Member))
			made := k.want(k.as("amy", "POST", k.url("/households/%s/invites", k.h1), `{"default_role":"power_user","expires_in_days":90}`), 201, "").json(t)
			code := made["code"].(string)
			after(k)
			k.want(k.from("thief", "GET", "/invites/"+code+"/validate", ""), 200, `{"valid":false,"household_name":null}`)
			for _, who := range []string{"amy", "bob"} {
				k.want(k.as(who, "POST", "/households/join", k.url(`{"invite_code":%q}`, code)), 400, "Invalid or expired invite code")
			}
		})
	}
}

// TestGuessingInvites: wrong codes are counted wherever they are tried, and a
// right one in between makes up for none.
func TestGuessingInvites(t *testing.T) {
	k := newStand(t)
	own := k.want(k.as("bob", "POST", k.url("/households/%s/invites", k.h2), `{}`), 201, "").json(t)["code"].(string)
	code := k.want(k.as("amy", "POST", k.url("/households/%s/invites", k.h1), `{}`), 201, "").json(t)["code"].(string)
	guess := func(i int) answer {
		if i%2 == 0 {
			return k.as("bob", "POST", "/households/join", k.url(`{"invite_code":"AAAAAA%02d"}`, i+22))
		}
		return k.from("bob-phone", "GET", k.url("/invites/AAAAAA%02d/validate", i+22), "")
	}
	for i := range freeMachine {
		if a := guess(i); a.code == 429 {
			t.Fatalf("the %d. waits", i+1)
		}
		if i < freeMachine-1 {
			k.want(k.from("bob-phone", "GET", "/invites/"+own+"/validate", ""), 200, `"valid":true`)
		}
	}
	for i := range 2 {
		k.want(guess(i), 429, "")
	}
	k.want(k.as("bob", "POST", "/households/join", k.url(`{"invite_code":%q}`, code)), 429, "")
	k.want(k.from("thief", "GET", "/invites/"+code+"/validate", ""), 200, `"valid":true`)
	k.later.Add(int64(firstWait))
	k.want(k.as("bob", "POST", "/households/join", k.url(`{"invite_code":%q}`, code)), 200, "")
}

// TestGuessingAddresses: who has an invite does not find out with it who has an
// account.
func TestGuessingAddresses(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	var code string
	k.ok(k.cfg.Store.Keep(t.Context(), func(tx account.Tx) error {
		in := account.Invitation{ID: newInviteID(), Household: first.HouseholdID, Role: account.Member, By: first.User.ID, Expires: k.clock.now().Add(time.Hour)}
		code = inviteCode(tx, in.ID)
		in.CodeHash = inviteHash(tx, code)
		return tx.CreateInvitation(in)
	}))
	register := func(email string) reply {
		return k.call("thief", "POST", "/auth/register", "", fields{"email": email, "password": secretWord, "invite_code": code})
	}
	for range freeMachine {
		k.want(register("bob@example.org"), 400, "already registered")
	}
	k.want(register("bob@example.org"), 429, "")
	k.want(register("nobody@example.org"), 429, "")
	k.clock.pass(firstWait)
	k.want(register("cy@example.org"), 201, "")
}

// TestLastAdminIsErased: of a household's two admins one is being erased; the
// other cannot leave it, demote themselves or go as well.
func TestLastAdminIsErased(t *testing.T) {
	stuck := errors.New("the backup is not to be reached")
	k := newKit(t, func(c *Config) {
		c.Forget = func(context.Context, account.UserID) ([]string, error) { return nil, stuck }
	})
	first := k.setUp()
	h := first.HouseholdID
	bob, _ := k.household("bob")
	cy, err := k.s.CreateUser(t.Context(), "hub", NewUser{Email: "cy@example.org", Password: secretWord})
	k.ok(err)
	k.ok(k.s.SetMember(t.Context(), "hub", h, bob, account.Admin))
	k.ok(k.s.SetMember(t.Context(), "hub", h, cy.ID, account.Member))
	root, err := k.s.CreateUser(t.Context(), "hub", NewUser{Email: "root@example.org", Password: secretWord, Superuser: true})
	k.ok(err)
	k.ok(k.s.SetMember(t.Context(), "hub", h, root.ID, account.Member))
	if _, err := k.s.Erase(t.Context(), "hub", bob); !errors.Is(err, stuck) {
		t.Fatal(err)
	}
	k.want(k.call("ann-laptop", "DELETE", "/auth/me", first.AccessToken, fields{"password": secretWord}), 409, "only admin")
	if err := k.s.SetMember(t.Context(), "hub", h, first.User.ID, account.Member); !errors.Is(err, account.ErrConflict) {
		t.Errorf("she was demoted: %v", err)
	}
}

// TestEraseLooksAgain: what keeps somebody from going is looked at in the
// transaction that begins it, and nothing can change in between.
func TestEraseLooksAgain(t *testing.T) {
	between := &after{action: "user.erase"}
	k := newKit(t, func(c *Config) { between.Store = c.Store; c.Store = between })
	first := k.setUp()
	h := first.HouseholdID
	bob, _ := k.household("bob")
	_, err := k.s.CreateUser(t.Context(), "hub", NewUser{Email: "root@example.org", Password: secretWord, Superuser: true})
	k.ok(err)
	k.ok(k.s.SetMember(t.Context(), "hub", h, bob, account.Admin))
	between.do = func() { k.ok(k.s.SetMember(context.Background(), "hub", h, bob, account.Member)) }
	k.want(k.call("ann-laptop", "DELETE", "/auth/me", first.AccessToken, fields{"password": secretWord}), 409, "only admin")
}

// after does something, as another hub could, before the next transaction that
// is recorded as action.
type after struct {
	account.Store
	action string
	do     func()
}

func (a *after) Do(ctx context.Context, ev account.Event, fn func(account.Tx) error) error {
	if do := a.do; do != nil && ev.Action == a.action {
		a.do = nil
		do()
	}
	return a.Store.Do(ctx, ev, fn)
}

// TestChangeOfAnEndedSession: while a thief's change of the password is being
// hashed the person takes the account back, at another hub; the thief's comes
// to nothing.
func TestChangeOfAnEndedSession(t *testing.T) {
	for name, end := range map[string]func(account.Tx, account.UserID) error{
		"signed out": func(tx account.Tx, u account.UserID) error {
			_, err := tx.RevokeSessions(u, "", "stolen")
			return err
		},
		"a new password": func(tx account.Tx, u account.UserID) error {
			_, err := tx.RevokeSessions(u, "", "password")
			return errors.Join(err, tx.SetPassword(u, "$2a$12$none"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			between := &after{action: "user.password"}
			k := newKit(t, func(c *Config) { between.Store = c.Store; c.Store = between })
			first := k.setUp()
			between.do = func() {
				k.ok(k.store.Accounts().Keep(context.Background(), func(tx account.Tx) error { return end(tx, first.User.ID) }))
			}
			k.want(k.call("ann-laptop", "POST", "/auth/change-password", first.AccessToken, fields{"current_password": secretWord, "new_password": "the password of a thief"}), 401, "Invalid token")
			if r := k.login("ann-tablet", "ann", "the password of a thief"); r.code == 200 {
				t.Error("the thief has the account")
			}
		})
	}
}
