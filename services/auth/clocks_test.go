package auth

import (
	"fmt"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer/account"
)

// TestJ16_ClockSetBack: a clock that was a year ahead and was set right locks
// nobody out: neither who mistyped once, nor who had to wait.
func TestJ16_ClockSetBack(t *testing.T) {
	for _, mistakes := range []int{1, freeOwn, freeMachine, freePerson + 1} {
		t.Run(fmt.Sprint(mistakes), func(t *testing.T) {
			k := newKit(t, nil)
			k.setUp()
			k.clock.pass(365 * 24 * time.Hour)
			for range mistakes {
				k.login("ann-tablet", "ann", "wrong password")
				k.login("thief", "ann", "wrong password")
			}
			k.clock.pass(-365 * 24 * time.Hour)
			if r := k.login("thief", "ann", "wrong password"); r.code == 429 && k.retryAfter(r) > longestWait {
				t.Errorf("a stranger waits %v", k.retryAfter(r))
			}
			if r := k.login("ann-tablet", "ann", secretWord); r.code == 429 {
				if wait := k.retryAfter(r); wait > longestWait {
					t.Fatalf("waits %v", wait)
				}
				k.clock.pass(longestWait)
				r = k.login("ann-tablet", "ann", secretWord)
				k.want(r, 200, "")
			}
			// Guessing goes no faster for it.
			judged := 0
			for range 2 * freeMachine {
				if k.login("thief", "nobody", "wrong password").code == 401 {
					judged++
				}
			}
			if judged > freeMachine {
				t.Errorf("%d guesses were judged", judged)
			}
		})
	}
}

// TestJ16_ClocksOfTwoHubs: a hub whose clock is a little behind lets nobody
// guess whom the other has wait.
func TestJ16_ClocksOfTwoHubs(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	for range freeMachine {
		k.want(k.login("thief", "ann", "wrong password"), 401, "")
	}
	k.clock.pass(-2 * time.Second)
	if wait := k.retryAfter(k.login("thief", "ann", "wrong password")); wait > time.Minute {
		t.Errorf("waits %v", wait)
	}
}

// TestJ16_Spellings: an address has many spellings that are one to the store;
// guesses at all of them count as guesses at the one person, there or not.
func TestJ16_Spellings(t *testing.T) {
	for _, spellings := range [][]string{{"boss", "BOSS", "bo\u017fs", "bos\u017f", "BO\u017f\u017f"}, {"nobodys", "nobody\u017f", "NOBODYS"}} {
		k := newKit(t, nil)
		var bots []string
		for i := range 2 * freePerson {
			bots = append(bots, fmt.Sprint("bot", i))
		}
		k.machines(append([]string{"ann-laptop", "bob-phone"}, bots...)...)
		k.setUp()
		_, err := k.s.CreateUser(t.Context(), "hub", NewUser{Email: "boss@example.org", Password: secretWord})
		k.ok(err)
		judged := 0
		for i, bot := range bots {
			if k.login(bot, spellings[i%len(spellings)], "wrong password").code == 401 {
				judged++
			}
		}
		if judged != freePerson {
			t.Errorf("%s: %d guesses were judged, not %d", spellings[0], judged, freePerson)
		}
	}
}

// TestJ11_ClocksOfTwoHubs: the reply is lost and the client asks the other hub,
// whose clock is a little behind.
func TestJ11_ClocksOfTwoHubs(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	k.clock.pass(time.Minute)
	next := get[loginOut](k, k.refresh("ann-laptop", first.RefreshToken), 200)
	k.clock.pass(-2 * time.Second)
	if again := get[loginOut](k, k.refresh("ann-laptop", first.RefreshToken), 200); again.RefreshToken != next.RefreshToken {
		t.Error("there are two successors")
	}
	k.clock.pass(-Grace)
	k.want(k.refresh("ann-laptop", first.RefreshToken), 401, "")
	if k.alive("ann-laptop", next.AccessToken) {
		t.Error("long before it was used is not within the grace")
	}
}

// TestJ07_ClockSetBack: signing keys that were made while the clock was ahead
// do not keep anybody from signing in when it is right again.
func TestJ07_ClockSetBack(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	k.clock.pass(365 * 24 * time.Hour)
	k.s.Upkeep(t.Context())
	k.clock.pass(2 * keyOverlap)
	k.s.Upkeep(t.Context())
	k.clock.pass(-365*24*time.Hour - 2*keyOverlap)
	k.s.Upkeep(t.Context())
	in := k.signIn("ann", "ann-laptop")
	if !k.alive("ann-laptop", in.AccessToken) {
		t.Error("the token is not good")
	}
	// Another hub that is a little behind leaves a fresh key alone.
	k.ok(k.s.RotateSigningKey(t.Context(), "hub"))
	k.clock.pass(-2 * time.Second)
	due := true
	k.view(func(tx account.Tx) (err error) {
		due, err = keyDue(tx)
		return err
	})
	if due {
		t.Error("each hub replaces the other's key")
	}
}
