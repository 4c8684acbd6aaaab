package auth

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/descope/virtualwebauthn"
)

// device is an authenticator with a passkey for the service.
type device struct {
	rp   virtualwebauthn.RelyingParty
	auth virtualwebauthn.Authenticator
	cred virtualwebauthn.Credential
}

func newDevice() *device {
	return &device{
		rp:   virtualwebauthn.RelyingParty{ID: "auth.warren.internal", Name: "Warren", Origin: "https://auth.warren.internal"},
		auth: virtualwebauthn.NewAuthenticator(),
		cred: virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2),
	}
}

// make answers a registration.
func (d *device) make(k *kit, c ceremonyOut) fields {
	k.Helper()
	options, err := virtualwebauthn.ParseAttestationOptions(string(c.Options))
	k.ok(err)
	d.auth.Options.UserHandle = []byte(options.UserID)
	text := virtualwebauthn.CreateAttestationResponse(d.rp, d.auth, d.cred, *options)
	return fields{"ceremony": c.Ceremony, "name": "Phone", "credential": json.RawMessage(text)}
}

// sign answers a sign-in.
func (d *device) sign(k *kit, c ceremonyOut) fields {
	k.Helper()
	options, err := virtualwebauthn.ParseAssertionOptions(string(c.Options))
	k.ok(err)
	d.cred.Counter++
	text := virtualwebauthn.CreateAssertionResponse(d.rp, d.auth, d.cred, *options)
	return fields{"ceremony": c.Ceremony, "credential": json.RawMessage(text)}
}

func (k *kit) beginRegister(access string) ceremonyOut {
	k.Helper()
	return get[ceremonyOut](k, k.call("ann-laptop", "POST", "/auth/passkeys/begin", access, fields{"password": secretWord}), 200)
}

func (k *kit) beginLogin(machine string) ceremonyOut {
	k.Helper()
	return get[ceremonyOut](k, k.call(machine, "POST", "/auth/passkeys/login/begin", "", nil), 200)
}

func (k *kit) passkeyLogin(machine string, answer fields) reply {
	k.Helper()
	return k.call(machine, "POST", "/auth/passkeys/login", "", answer)
}

// registered sets up ann with a passkey.
func registered(t *testing.T) (*kit, *device, string) {
	k := newKit(t, nil)
	access := k.setUp().AccessToken
	d := newDevice()
	k.want(k.call("ann-laptop", "POST", "/auth/passkeys", access, d.make(k, k.beginRegister(access))), 201, `"name":"Phone"`)
	return k, d, access
}

// TestPasskey: register, sign in on another machine, and what is bound to whom.
func TestPasskey(t *testing.T) {
	k, d, access := registered(t)
	in := get[loginOut](k, k.passkeyLogin("ann-tablet", d.sign(k, k.beginLogin("ann-tablet"))), 200)
	k.want(k.call("ann-tablet", "GET", "/auth/me", in.AccessToken, nil), 200, "ann@example.org")
	k.want(k.call("ann-laptop", "GET", "/auth/me", in.AccessToken, nil), 401, "")
	list := get[passkeysOut](k, k.call("ann-laptop", "GET", "/auth/passkeys", access, nil), 200).Passkeys
	if len(list) != 1 || list[0].LastUsed == nil {
		t.Fatalf("%+v", list)
	}

	answer := d.sign(k, k.beginLogin("ann-tablet"))
	k.want(k.passkeyLogin("thief", answer), 400, "begin again") // another machine's ceremony
	k.want(k.passkeyLogin("ann-tablet", answer), 200, "")
	k.want(k.passkeyLogin("ann-tablet", answer), 400, "begin again") // once
	late := d.sign(k, k.beginLogin("ann-tablet"))
	k.clock.pass(ceremonyLife)
	k.want(k.passkeyLogin("ann-tablet", late), 400, "begin again")

	bob := k.signIn("bob", "bob-phone").AccessToken
	k.want(k.call("bob-phone", "DELETE", "/auth/passkeys/"+list[0].ID, bob, nil), 404, "Passkey not found")
	ann := k.signIn("ann", "ann-laptop").AccessToken
	k.want(k.call("ann-laptop", "DELETE", "/auth/passkeys/"+list[0].ID, ann, nil), 204, "")
	k.want(k.passkeyLogin("ann-tablet", d.sign(k, k.beginLogin("ann-tablet"))), 401, "Invalid passkey")
}

// TestPasskeyRefuses: another origin, another challenge, nobody verified, a
// count that went back.
func TestPasskeyRefuses(t *testing.T) {
	k, d, access := registered(t)
	answer := func(change func(*device)) reply {
		bad := *d
		change(&bad)
		return k.passkeyLogin("ann-tablet", bad.sign(k, k.beginLogin("ann-tablet")))
	}
	k.want(answer(func(d *device) { d.rp.Origin = "https://auth.warren.internal.evil.example" }), 401, "Invalid passkey")
	k.want(answer(func(d *device) { d.rp.ID = "warren.internal" }), 401, "Invalid passkey")
	k.want(answer(func(d *device) { d.auth.Options.UserNotVerified = true }), 401, "Invalid passkey")
	k.want(answer(func(d *device) { d.auth.Options.UserNotPresent = true }), 401, "Invalid passkey")
	k.want(answer(func(d *device) { d.auth.Options.UserHandle = []byte("bob") }), 401, "Invalid passkey")
	k.want(answer(func(d *device) {
		id := d.cred.ID
		d.cred = virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2)
		d.cred.ID = id
	}), 401, "Invalid passkey")
	swapped := d.sign(k, k.beginLogin("ann-tablet"))
	swapped["ceremony"] = k.beginLogin("ann-tablet").Ceremony
	k.want(k.passkeyLogin("ann-tablet", swapped), 401, "Invalid passkey")

	k.want(answer(func(d *device) { d.cred.Counter = 40 }), 200, "")
	k.want(answer(func(d *device) { d.cred.Counter = 40 }), 401, "Invalid passkey") // 41 again
	if n := k.audited("passkey.cloned"); n != 1 {
		t.Errorf("a copy was recorded %d times", n)
	}

	// Registering: the password, the person verified, once.
	k.want(k.call("ann-laptop", "POST", "/auth/passkeys/begin", access, fields{"password": "wrong password"}), 401, "Invalid password")
	other := newDevice()
	other.auth.Options.UserNotVerified = true
	k.want(k.call("ann-laptop", "POST", "/auth/passkeys", access, other.make(k, k.beginRegister(access))), 400, "")
	k.want(k.call("ann-laptop", "POST", "/auth/passkeys", access, d.make(k, k.beginRegister(access))), 409, "registered already")
}

// TestPasskeyGuessing: wrong answers are counted by machine.
func TestPasskeyGuessing(t *testing.T) {
	k, d, _ := registered(t)
	bad := *d
	bad.rp.Origin = "https://evil.example"
	for range freeMachine {
		k.want(k.passkeyLogin("thief", bad.sign(k, k.beginLogin("thief"))), 401, "")
	}
	k.retryAfter(k.passkeyLogin("thief", d.sign(k, k.beginLogin("thief"))))
	k.clock.pass(time.Minute)
	k.want(k.passkeyLogin("thief", d.sign(k, k.beginLogin("thief"))), 200, "")
}

// TestCeremoniesAreBounded: one machine cannot fill the room of others.
func TestCeremoniesAreBounded(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	mine := k.beginLogin("ann-laptop")
	for range 100 {
		k.beginLogin("thief")
	}
	if n := len(k.s.ceremonies.open); n != 1+maxCeremoniesOne {
		t.Errorf("%d are open", n)
	}
	if _, ok := k.s.ceremonies.finish(mine.Ceremony, k.peer("ann-laptop"), 0); !ok {
		t.Error("somebody else's went")
	}
}
