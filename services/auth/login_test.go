package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// hashes is how many hashes were computed.
func (k *kit) hashes() int64 { return k.s.hasher.done.Load() }

// retryAfter is the header's value.
func (k *kit) retryAfter(r reply) time.Duration {
	k.Helper()
	n, err := strconv.Atoi(r.header.Get("Retry-After"))
	if r.code != 429 || err != nil || n <= 0 {
		k.Fatalf("%d, Retry-After %q", r.code, r.header.Get("Retry-After"))
	}
	return time.Duration(n) * time.Second
}

// TestJ16_OneMachineGuesses: ten thousand wrong passwords from one machine cost
// a handful of hashes, whoever they are tried on; and it passes.
func TestJ16_OneMachineGuesses(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	before := k.hashes()
	refused := 0
	for i := range 10_000 {
		name := []string{"ann", "bob", "nobody"}[i%3]
		_, _, err := k.s.Authenticate(t.Context(), k.peer("thief"), Login{Email: name + "@example.org", Password: "guess" + strconv.Itoa(i)})
		var why *services.Refusal
		if !errors.As(err, &why) {
			t.Fatal(err)
		}
		if why.Status == http.StatusTooManyRequests {
			refused++
		}
	}
	if n := k.hashes() - before; n != freeMachine {
		t.Errorf("%d hashes, want %d", n, freeMachine)
	}
	if refused != 10_000-freeMachine {
		t.Errorf("%d were refused", refused)
	}
	// The right password does not help there, and does everywhere else.
	wait := k.retryAfter(k.login("thief", "ann", secretWord))
	k.signIn("ann", "ann-laptop")
	k.signIn("bob", "bob-phone")
	k.clock.pass(wait)
	k.signIn("ann", "thief")
	if n := k.audited("signin.backoff"); n != 1 {
		t.Errorf("back-off was recorded %d times", n)
	}
}

// TestJ16_BackOffGrowsAndEnds: twice as long each time, never longer than the
// longest, and from the beginning after an hour of peace.
func TestJ16_BackOffGrowsAndEnds(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	for range freeMachine {
		k.want(k.login("thief", "ann", "wrong password"), 401, BadLogin)
	}
	for _, want := range []time.Duration{30, 60, 120, 240, 480, 900, 900, 900} {
		wait := k.retryAfter(k.login("thief", "bob", "wrong password"))
		if wait != want*time.Second {
			t.Errorf("waits %v, want %v", wait, want*time.Second)
		}
		k.clock.pass(wait - time.Second)
		k.retryAfter(k.login("thief", "bob", "wrong password"))
		k.clock.pass(time.Second)
		k.want(k.login("thief", "bob", "wrong password"), 401, BadLogin)
	}
	k.clock.pass(failuresCount)
	for range freeMachine {
		k.want(k.login("thief", "ann", "wrong password"), 401, BadLogin)
	}
	k.retryAfter(k.login("thief", "ann", "wrong password"))
}

// TestJ16_ManyMachinesGuessOnePerson: a hundred machines together get as many
// guesses at one person as is free, and the person still signs in, where they
// are known and on machines of their own.
func TestJ16_ManyMachinesGuessOnePerson(t *testing.T) {
	k := newKit(t, nil)
	names := []string{"ann-laptop", "ann-tablet", "bob-phone", "box"}
	for i := range 100 {
		names = append(names, "bot"+strconv.Itoa(i))
	}
	k.machines(names...)
	k.setUp()
	k.signIn("ann", "box") // a machine of nobody's, on which ann is known
	for _, target := range []string{"ann", "nobody"} {
		before, refused := k.hashes(), 0
		for _, bot := range names[4:] {
			for range 3 {
				if r := k.login(bot, target, "wrong password"); r.code == 429 {
					refused++
				} else {
					k.want(r, 401, BadLogin)
				}
			}
		}
		// Somebody who does not exist is guessed at with the same effort, and
		// the same answers.
		if n := k.hashes() - before; n != freePerson || refused != 300-freePerson {
			t.Errorf("%s: %d hashes, %d refused", target, n, refused)
		}
	}
	for _, machine := range []string{"ann-laptop", "ann-tablet", "box"} {
		k.signIn("ann", machine)
	}
	k.retryAfter(k.login("bot99", "ann", secretWord))
	k.signIn("bob", "bob-phone")
	k.clock.pass(longestWait)
	k.signIn("ann", "bot99")
}

// TestJ16_OwnMistakes: on a machine of their own a person has a few.
func TestJ16_OwnMistakes(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	for range freeOwn - 1 {
		k.want(k.login("ann-laptop", "ann", "wrong password"), 401, BadLogin)
	}
	k.signIn("ann", "ann-laptop") // which starts the count anew
	for range freeOwn {
		k.want(k.login("ann-laptop", "ann", "wrong password"), 401, BadLogin)
	}
	k.retryAfter(k.login("ann-laptop", "ann", secretWord))
	k.signIn("ann", "ann-tablet") // counted apart
	k.signIn("bob", "ann-laptop")
}

// TestJ16_SurvivesRestartAndOtherHub: the counts are stored.
func TestJ16_SurvivesRestartAndOtherHub(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	for range freeMachine {
		k.want(k.login("thief", "ann", "wrong password"), 401, BadLogin)
	}
	_, other := k.open(k.cfg)
	r := k.callOn(other, "thief", "POST", "/auth/login", "", fields{"email": "ann@example.org", "password": secretWord})
	k.retryAfter(r)
}

// TestJ16_ManyAtOnce: a volley does not get past a count that each of it reads
// before any has written.
func TestJ16_ManyAtOnce(t *testing.T) {
	k := newKit(t, func(c *Config) { c.Passwords.Waiting = 100 })
	k.setUp()
	before := k.hashes()
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() { k.login("thief", "ann", "wrong password") })
	}
	all.Wait()
	if n := k.hashes() - before; n != freeMachine {
		t.Errorf("%d hashes", n)
	}
}

// TestJ16_FewHashesAtOnce: never more than are configured, and who finds the
// queue full is told to come again and has not failed.
func TestJ16_FewHashesAtOnce(t *testing.T) {
	k := newKit(t, func(c *Config) {
		c.Passwords = PasswordParams{Memory: 8 << 10, Passes: 4, Lanes: 1, AtOnce: 2, Waiting: 3}
	})
	k.setUp()
	replies := make([]reply, 40)
	begin := make(chan struct{})
	var all sync.WaitGroup
	for i := range replies {
		all.Go(func() {
			<-begin
			replies[i] = k.login("ann-laptop", "ann", secretWord)
		})
	}
	close(begin)
	all.Wait()
	if peak := k.s.hasher.peak.Load(); peak > 2 {
		t.Errorf("%d hashes at once", peak)
	}
	got := map[int]int{}
	for _, r := range replies {
		if got[r.code]++; r.code == 429 && k.retryAfter(r) != time.Second {
			t.Errorf("Retry-After %q", r.header.Get("Retry-After"))
		}
	}
	if got[200] == 0 || got[200]+got[429] != len(replies) {
		t.Errorf("%v", got)
	}
	k.signIn("ann", "ann-laptop")
}

// TestQueueOfHashes: the queue is bounded, a place in it ends with its context,
// and both are given back.
func TestQueueOfHashes(t *testing.T) { synctest.Test(t, testQueue) }

func testQueue(t *testing.T) {
	h, err := newHasher(PasswordParams{Memory: 64, Passes: 1, Lanes: 1, AtOnce: 1, Waiting: 1})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		first, err := h.turn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		waits := make(chan error)
		go func() { _, err := h.turn(ctx); waits <- err }()
		synctest.Wait()
		var why *services.Refusal
		if _, err := h.turn(t.Context()); !errors.As(err, &why) || why.Status != 429 || why.Retry == 0 {
			t.Fatal(err)
		}
		cancel()
		if err := <-waits; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		first.end()
	}
}

// TestJ16_UnknownPerson: who does not exist, is disabled or has no password
// costs one hash of the same kind, and gets the same answer.
func TestJ16_UnknownPerson(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	k.ok(k.cfg.Store.Keep(t.Context(), func(tx account.Tx) error {
		_, err := tx.CreateUser(account.User{Email: "mute@example.org"}, "")
		return err
	}))
	gone, err := k.s.CreateUser(t.Context(), "hub", NewUser{Email: "gone@example.org", Password: secretWord})
	k.ok(err)
	k.ok(k.cfg.Store.Keep(t.Context(), func(tx account.Tx) error {
		gone.Disabled = true
		return tx.UpdateUser(gone)
	}))
	for _, name := range []string{"ann", "nobody", "mute"} {
		before := k.hashes()
		k.want(k.login("box", name, "wrong password"), 401, `{"detail":"Invalid email or password"}`)
		if n := k.hashes() - before; n != 1 {
			t.Errorf("%s: %d hashes", name, n)
		}
	}
	before := k.hashes()
	k.want(k.login("box", "gone", secretWord), 401, `{"detail":"Invalid email or password"}`)
	if n := k.hashes() - before; n != 1 {
		t.Errorf("disabled: %d hashes", n)
	}
}

// TestImportedPasswords: bcrypt of each form signs in and is upgraded, Argon2id
// of other parameters as well.
func TestImportedPasswords(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	hash, err := bcrypt.GenerateFromPassword([]byte(secretWord), bcrypt.MinCost)
	k.ok(err)
	var lines []string
	for _, form := range []string{"2a", "2b", "2y"} {
		lines = append(lines, fmt.Sprintf(`{"email":"%s@example.org","password_hash":"$%s%s"}`, form, form, hash[3:]))
	}
	h, err := newHasher(PasswordParams{Memory: 128, Passes: 2, Lanes: 2})
	k.ok(err)
	foreign, err := h.turn(t.Context())
	k.ok(err)
	lines = append(lines, fmt.Sprintf(`{"email":"argon@example.org","username":"argon","superuser":true,"password_hash":%q}`, foreign.hash(secretWord)))
	n, err := k.s.ImportUsers(t.Context(), "local:0", strings.NewReader(strings.Join(lines, "\n")))
	if err != nil || n != 4 {
		t.Fatal(n, err)
	}
	for _, name := range []string{"2a", "2b", "2y", "argon"} {
		k.want(k.login("box", name, "wrong password"), 401, BadLogin)
		k.signIn(name, "box")
		k.view(func(tx account.Tx) error {
			u, err := tx.UserByEmail(name + "@example.org")
			k.ok(err)
			have, err := tx.Secrets(u.ID)
			if !strings.HasPrefix(have.Password, "$argon2id$v=19$m=64,t=1,p=1$") {
				t.Errorf("%s was not upgraded", name)
			}
			return err
		})
		before := k.hashes()
		k.signIn(name, "box")
		if n := k.hashes() - before; n != 1 {
			t.Errorf("%s: %d hashes for the second sign-in", name, n)
		}
	}
}

// TestImportRefuses: all or none, and errors do not say what was in the file.
func TestImportRefuses(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	good := `{"email":"new@example.org","password_hash":"$2b$04$abcdefghijklmnopqrstuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu"}`
	for _, bad := range []string{
		`{"email":"x@example.org","password_hash":"canary"}`,
		`{"email":"x@example.org","password_hash":"$2b$31$abcdefghijklmnopqrstuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu"}`,
		`{"email":"x@example.org","password_hash":"$argon2id$v=19$m=4194304,t=3,p=4$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA"}`,
		`{"email":"x@example.org","password":"canary"}`, `{"email":"canary"}`, `canary`, `{"email":"x@example.org"}`,
		`{"email":"ann@example.org","password_hash":"$2b$04$abcdefghijklmnopqrstuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu"}`,
		good,
	} {
		n, err := k.s.ImportUsers(t.Context(), "local:0", strings.NewReader(good+"\n"+bad))
		if err == nil || n != 0 || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %d %v", bad, n, err)
		}
	}
	if _, err := k.s.User(t.Context(), "new@example.org"); !errors.Is(err, account.ErrNotFound) {
		t.Error(err)
	}
}

// TestDefaultPasswordHash: the parameters of RFC 9106's second choice.
func TestDefaultPasswordHash(t *testing.T) {
	h, err := newHasher(PasswordParams{})
	if err != nil {
		t.Fatal(err)
	}
	turn, err := h.turn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer turn.end()
	text := turn.hash(secretWord)
	if !strings.HasPrefix(text, "$argon2id$v=19$m=65536,t=3,p=4$") {
		t.Error(text[:31])
	}
	if ok, stale, err := turn.verify(text, secretWord); !ok || stale || err != nil {
		t.Error(ok, stale, err)
	}
	if ok, _, err := turn.verify(text, secretWord+" "); ok || err != nil {
		t.Error(ok, err)
	}
}

// TestPasswordChangedMeanwhile: a password that was right when it was compared,
// and is not any more when the session would begin, starts none.
func TestPasswordChangedMeanwhile(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	p := k.peer("ann-laptop")
	a, err := k.s.attemptLogin(t.Context(), p, "ann@example.org")
	k.ok(err)
	k.ok(k.s.SetPassword(t.Context(), "hub", first.User.ID, "another password", false))
	k.refused(k.cfg.Store.Keep(t.Context(), func(tx account.Tx) error {
		_, err := k.s.admit(tx, p, a, "", "")
		return err
	}), 401)
}
