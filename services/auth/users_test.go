package auth

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer/account"
)

// TestSetupOnce: the first account is made once, on the admin's own machine,
// however many try at once.
func TestSetupOnce(t *testing.T) {
	k := newKit(t, func(c *Config) { c.Passwords.Waiting = 50 })
	k.want(k.call("thief", "GET", "/auth/setup-status", "", nil), 200, `{"needs_setup":true}`)
	body := fields{"email": "ann@example.org", "password": secretWord}
	k.want(k.call("thief", "POST", "/auth/setup", "", body), 403, "admin's own machines")
	k.want(k.call("thief", "POST", "/auth/register", "", body), 403, "POST /auth/setup")
	replies := make([]reply, 32)
	var all sync.WaitGroup
	for i := range replies {
		all.Go(func() {
			replies[i] = k.call("ann-laptop", "POST", "/auth/setup", "", fields{"email": string(rune('a'+i%26)) + "@example.org", "password": secretWord})
		})
	}
	all.Wait()
	made := 0
	for _, r := range replies {
		if r.code == 201 {
			made++
		} else {
			k.want(r, 409, "Setup already completed")
		}
	}
	users, err := k.s.Users(t.Context())
	if made != 1 || len(users) != 1 || err != nil || !users[0].Superuser || users[0].Username != "ann" {
		t.Fatal(made, users, err)
	}
	k.want(k.call("ann-laptop", "GET", "/auth/setup-status", "", nil), 200, `{"needs_setup":false}`)
	k.want(k.call("thief", "POST", "/auth/setup", "", body), 403, "")
}

// TestSetupNeedsAnAdmin: without one that is configured nobody can.
func TestSetupNeedsAnAdmin(t *testing.T) {
	k := newKit(t, func(c *Config) { c.Admin = nil })
	k.want(k.call("ann-laptop", "POST", "/auth/setup", "", fields{"email": "ann@example.org", "password": secretWord}), 403, "")
}

// TestRegister: with an invite, once; and what the answers give away.
func TestRegister(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	invite := func() string {
		r := k.call("ann-laptop", "POST", "/households/"+string(first.HouseholdID)+"/invites", first.AccessToken, fields{})
		return get[struct {
			Code string `json:"code"`
		}](k, r, 201).Code
	}
	body := func(email string, more fields) fields {
		b := fields{"email": email, "password": secretWord, "username": nil}
		for name, v := range more {
			b[name] = v
		}
		return b
	}
	send := func(machine string, b fields) reply { return k.call(machine, "POST", "/auth/register", "", b) }
	k.want(send("box", body("cy@example.org", nil)), 400, "invite code")
	k.want(send("box", body("cy@example.org", fields{"invite_code": "AAAAAAAA"})), 400, "Invalid or expired invite code")
	// Whether an address is taken is said to who has an invite only.
	k.want(send("box", body("ann@example.org", fields{"invite_code": "AAAAAAAA"})), 400, "Invalid or expired invite code")
	code := invite()
	k.want(send("box", body("ann@example.org", fields{"invite_code": code})), 400, "already registered")
	k.want(send("box", body("ANN@Example.org", fields{"invite_code": code})), 400, "already registered")
	// Nobody becomes a person of the policy who does not sit at their machine.
	k.want(send("box", body("cy@example.org", fields{"invite_code": code, "username": "bob"})), 400, "already registered")
	k.want(send("box", body("cy@example.org", fields{"invite_code": code, "password": "short"})), 422, "")
	k.want(send("box", body("no address", fields{"invite_code": code})), 422, "ann@example.org")
	got := get[registerOut](k, send("box", body("Cy@Example.org", fields{"invite_code": strings.ToLower(code)})), 201)
	if got.HouseholdID != first.HouseholdID || got.User.Email != "cy@example.org" || got.User.Username != nil || got.User.Superuser || got.TokenType != "bearer" {
		t.Errorf("%+v", got)
	}
	k.want(k.call("box", "GET", "/auth/me", got.AccessToken, nil), 200, "cy@example.org")
	k.want(send("box", body("di@example.org", fields{"invite_code": code})), 400, "Invalid or expired invite code")
	for range freeMachine {
		send("thief", body("di@example.org", fields{"invite_code": "BBBBBBBB"}))
	}
	k.retryAfter(send("thief", body("di@example.org", fields{"invite_code": invite()})))
}

// TestChangePassword: all other sign-ins end, and a new one begins here.
func TestChangePassword(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	tablet, bob := k.signIn("ann", "ann-tablet"), k.signIn("bob", "bob-phone")
	change := func(current, next string) reply {
		return k.call("ann-laptop", "POST", "/auth/change-password", first.AccessToken, fields{"current_password": current, "new_password": next})
	}
	k.want(change("wrong password", "another password"), 401, "Invalid password")
	k.want(change(secretWord, "short"), 422, "")
	fresh := get[loginOut](k, change(secretWord, "another password"), 200)
	for machine, old := range map[string]string{"ann-laptop": first.AccessToken, "ann-tablet": tablet.AccessToken} {
		if k.alive(machine, old) {
			t.Errorf("a session on %s outlived the password", machine)
		}
	}
	k.want(k.refresh("ann-tablet", tablet.RefreshToken), 401, "Invalid refresh token")
	k.want(k.refresh("ann-laptop", first.RefreshToken), 401, "Invalid refresh token")
	if !k.alive("ann-laptop", fresh.AccessToken) || !k.alive("bob-phone", bob.AccessToken) {
		t.Error("too much ended")
	}
	k.want(k.login("ann-laptop", "ann", secretWord), 401, BadLogin)
	k.want(k.login("ann-laptop", "ann", "another password"), 200, "")
}

// TestTemporaryPassword: it ends, and what was signed in with it as well.
func TestTemporaryPassword(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	old := k.signIn("bob", "bob-phone")
	bob, err := k.s.User(t.Context(), "bob")
	k.ok(err)
	word, until, err := k.s.TempPassword(t.Context(), "local:0", bob.ID)
	k.ok(err)
	if k.alive("bob-phone", old.AccessToken) || until != k.clock.now().Add(TempLife) {
		t.Error("the old sign-in lives")
	}
	in := get[loginOut](k, k.login("bob-phone", "bob", word), 200)
	if !in.MustChange || !in.User.MustChange {
		t.Errorf("%+v", in)
	}
	k.clock.pass(TempLife - time.Minute)
	in = get[loginOut](k, k.refresh("bob-phone", in.RefreshToken), 200)
	k.clock.pass(time.Minute)
	k.want(k.login("bob-phone", "bob", word), 401, `{"detail":"Temporary password expired"}`)
	if k.alive("bob-phone", in.AccessToken) {
		t.Error("a sign-in outlived its temporary password")
	}
	k.ok(k.s.SetPassword(t.Context(), "local:0", bob.ID, "one of my own", false))
	if in := get[loginOut](k, k.login("bob-phone", "bob", "one of my own"), 200); in.MustChange {
		t.Error("it must be changed once more")
	}
}

// TestSetPasswordForgives: who was locked out by somebody's guessing.
func TestSetPasswordForgives(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	k.ok(k.cfg.Store.Keep(t.Context(), func(tx account.Tx) error {
		for range freePerson {
			k.ok(tx.Fail(personLimit(tx, "bob@example.org").key))
		}
		return nil
	}))
	k.retryAfter(k.login("box", "bob", secretWord))
	bob, err := k.s.User(t.Context(), "bob@example.org")
	k.ok(err)
	k.ok(k.s.SetPassword(t.Context(), "local:0", bob.ID, secretWord, false))
	k.signIn("bob", "box")
}

// TestSwitchHousehold: to one of the caller's own.
func TestSwitchHousehold(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	ann := first.User.ID
	second, err := k.s.CreateHousehold(t.Context(), "hub", "Cottage", "", ann)
	k.ok(err)
	bobs := get[[]householdItem](k, k.call("bob-phone", "GET", "/households", k.signIn("bob", "bob-phone").AccessToken, nil), 200)[0].ID
	to := func(access string, h account.HouseholdID) reply {
		return k.call("ann-laptop", "POST", "/auth/switch-household", access, fields{"household_id": h})
	}
	refusal := k.want(to(first.AccessToken, bobs), 403, "Not a member")
	if other := k.want(to(first.AccessToken, "none"), 403, ""); other.text != refusal.text {
		t.Error("one learns which households there are")
	}
	got := get[switchOut](k, to(first.AccessToken, second.ID), 200)
	if got.HouseholdID != second.ID || !k.alive("ann-laptop", got.AccessToken) || !k.alive("ann-laptop", first.AccessToken) {
		t.Errorf("%+v", got)
	}
	_, sess, err := k.s.Bearer(t.Context(), k.peer("ann-laptop"), got.AccessToken)
	if err != nil || sess.Household != second.ID {
		t.Error(sess.Household, err)
	}
	next := get[loginOut](k, k.refresh("ann-laptop", first.RefreshToken), 200)
	if _, sess, err := k.s.Bearer(t.Context(), k.peer("ann-laptop"), next.AccessToken); err != nil || sess.Household != second.ID {
		t.Error(sess.Household, err)
	}
}

// TestManySessions: the oldest goes when somebody has too many.
func TestManySessions(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	for range MaxSessions {
		k.clock.pass(time.Second)
		k.signIn("ann", "ann-tablet")
	}
	all, err := k.s.Sessions(t.Context(), first.User.ID)
	if err != nil || len(all) != MaxSessions || k.alive("ann-laptop", first.AccessToken) {
		t.Error(len(all), err)
	}
}

// TestStrictBodies: what Jarvis never sent is refused in Jarvis' shape.
func TestStrictBodies(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	for _, body := range []fields{{}, {"email": "ann@example.org"}, {"email": "ann@example.org", "password": secretWord, "admin": true}, {"email": 1, "password": secretWord}} {
		r := k.want(k.call("ann-laptop", "POST", "/auth/login", "", body), http.StatusUnprocessableEntity, `{"detail":[{"loc":["body"`)
		if strings.Contains(r.text, secretWord) {
			t.Error("the password came back")
		}
	}
	if _, err := k.s.CreateUser(t.Context(), "hub", NewUser{Email: "x@example.org", Password: "short"}); !errors.Is(err, account.ErrInvalid) {
		t.Error(err)
	}
}

// TestCreationSaysWho: the audit log says which number a new person has.
func TestCreationSaysWho(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	u, err := k.s.CreateUser(t.Context(), "hub", NewUser{Email: "another@example.org", Password: secretWord})
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	err = k.store.View(t.Context(), func(tx *store.Tx) error {
		all, err := tx.AuditEntries(0, 100)
		for _, e := range all {
			said[e.Action] = e.Detail["id"]
		}
		return err
	})
	if err != nil || said["user.create"] != u.ID.String() || said["user.setup"] != "1" {
		t.Errorf("%v, %v", said, err)
	}
}
