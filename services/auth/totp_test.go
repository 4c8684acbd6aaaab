package auth

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
)

// enrol turns on ann's second factor from her laptop.
func (k *kit) enrol(access string) (secret string, codes []string) {
	k.Helper()
	made := get[totpSecretOut](k, k.call("ann-laptop", "POST", "/auth/totp", access, fields{"password": secretWord}), 201)
	if !strings.HasPrefix(made.URI, "otpauth://totp/Warren:ann@example.org?") {
		k.Error(made.URI)
	}
	codes = get[recoveryOut](k, k.call("ann-laptop", "POST", "/auth/totp/confirm", access, fields{"code": k.code(made.Secret)}), 200).Codes
	return made.Secret, codes
}

func (k *kit) code(secret string) string {
	k.Helper()
	code, err := totp.GenerateCode(secret, k.clock.now())
	k.ok(err)
	return code
}

func (k *kit) loginWith(machine, field, code string) reply {
	k.Helper()
	return k.call(machine, "POST", "/auth/login", "", fields{"email": "ann@example.org", "password": secretWord, field: code})
}

// TestSecondFactor: a code counts once, within a step of its time.
func TestSecondFactor(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	k.want(k.call("ann-laptop", "POST", "/auth/totp", first.AccessToken, fields{"password": "wrong password"}), 401, "Invalid password")
	k.want(k.call("ann-laptop", "POST", "/auth/totp/confirm", first.AccessToken, fields{"code": "123456"}), 409, "")
	secret, _ := k.enrol(first.AccessToken)
	k.want(k.call("ann-laptop", "GET", "/auth/totp", first.AccessToken, nil), 200, `"enabled":true`)
	k.want(k.call("ann-laptop", "POST", "/auth/totp", first.AccessToken, fields{"password": secretWord}), 409, "")

	k.want(k.login("ann-laptop", "ann", secretWord), 401, CodeNeeded)
	k.want(k.login("ann-laptop", "ann", "wrong password"), 401, BadLogin)
	k.want(k.loginWith("ann-laptop", "totp", k.code(secret)), 401, CodeWrong) // confirmed with it
	k.clock.pass(30 * time.Second)
	code := k.code(secret)
	k.want(k.loginWith("ann-laptop", "totp", code[:3]+" "+code[3:]), 200, "")
	k.want(k.loginWith("ann-laptop", "totp", code), 401, CodeWrong)

	k.clock.pass(2 * time.Minute)
	old := k.code(secret)
	k.clock.pass(30 * time.Second)
	k.want(k.loginWith("ann-laptop", "totp", old), 200, "")
	k.clock.pass(2 * time.Minute)
	old = k.code(secret)
	k.clock.pass(60 * time.Second)
	k.want(k.loginWith("ann-laptop", "totp", old), 401, CodeWrong)

	k.want(k.call("ann-laptop", "DELETE", "/auth/totp", first.AccessToken, fields{"password": "wrong password"}), 401, "")
	k.want(k.call("ann-laptop", "DELETE", "/auth/totp", first.AccessToken, fields{"password": secretWord}), 204, "")
	k.signIn("ann", "ann-laptop")
}

// TestSecondFactorOnce: of many who come with one code one gets in.
func TestSecondFactorOnce(t *testing.T) {
	k := newKit(t, func(c *Config) { c.Passwords.Waiting = 50 })
	secret, _ := k.enrol(k.setUp().AccessToken)
	k.clock.pass(time.Minute)
	code := k.code(secret)
	var in int
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if r := k.loginWith("ann-laptop", "totp", code); r.code == 200 {
				mu.Lock()
				in++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if in != 1 {
		t.Errorf("%d got in", in)
	}
}

// TestRecoveryCodes: each good once, and guessing them is slowed down.
func TestRecoveryCodes(t *testing.T) {
	k := newKit(t, nil)
	_, codes := k.enrol(k.setUp().AccessToken)
	if len(codes) != recoverySize {
		t.Fatal(codes)
	}
	k.want(k.loginWith("ann-laptop", "recovery_code", codes[3]), 200, "")
	k.want(k.loginWith("ann-laptop", "recovery_code", codes[3]), 401, CodeWrong)
	k.want(k.loginWith("ann-laptop", "recovery_code", strings.ToLower(codes[4])), 200, "")
	for range freeOwn {
		k.want(k.loginWith("ann-laptop", "recovery_code", "AAAA-BBBB-CCCC-DDDD"), 401, CodeWrong)
	}
	k.retryAfter(k.loginWith("ann-laptop", "recovery_code", codes[5]))
}
