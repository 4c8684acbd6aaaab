package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// remember gives somebody n records of a kind in a household.
func (k *kit) remember(h account.HouseholdID, u account.UserID, kind account.Kind, n int, text string) {
	k.Helper()
	k.ok(k.cfg.Data.Keep(k.Context(), account.NewScope(h, u), func(tx account.Scoped) error {
		for i := range n {
			body, _ := json.Marshal(fields{"text": text, "n": i})
			r := account.Record{Kind: kind, ID: fmt.Sprintf("%s-%s-%06d-%d", kind, u, i, k.clock.now().Unix()), User: u, At: k.clock.now(), Body: body}
			if err := tx.PutRecord(r); err != nil {
				return err
			}
		}
		return nil
	}))
}

// household is the only one that somebody lives in.
func (k *kit) household(name string) (account.UserID, account.HouseholdID) {
	k.Helper()
	u, err := k.s.User(k.Context(), name+"@example.org")
	k.ok(err)
	var h account.HouseholdID
	k.view(func(tx account.Tx) error {
		all, err := tx.Memberships(u.ID)
		h = all[0].Household
		return err
	})
	return u.ID, h
}

// files are those that the store keeps.
func (k *kit) files() []string {
	k.Helper()
	dir := filepath.Dir(k.path)
	all, err := filepath.Glob(filepath.Join(dir, "*"))
	k.ok(err)
	return all
}

// TestG01_NothingReadableIsLeft: after an erasure nothing of the person is in
// the store, whatever is asked for, nor as plain text in its files.
func TestG01_NothingReadableIsLeft(t *testing.T) {
	k := newKit(t, nil)
	k.setUp()
	in := k.signIn("bob", "bob-phone")
	bob, h := k.household("bob")
	const canary = "canary-of-bob"
	for _, kind := range []account.Kind{account.Chat, account.Behaviour, account.Memory} {
		k.remember(h, bob, kind, 20, canary)
	}
	r := k.call("bob-phone", "DELETE", "/gdpr/users/"+bob.String()+"/data", in.AccessToken, nil)
	got := get[erasedOut](k, r, 200)
	if got.Status != "erased" || got.Records != 60 || got.Vectors != 0 || !got.Timestamp.Equal(k.clock.now()) {
		t.Errorf("%+v", got)
	}
	if k.alive("bob-phone", in.AccessToken) {
		t.Error("the session lives")
	}
	k.want(k.refresh("bob-phone", in.RefreshToken), 401, "")
	k.want(k.login("bob-phone", "bob", secretWord), 401, BadLogin)
	k.view(func(tx account.Tx) error {
		if _, err := tx.User(bob); !errors.Is(err, account.ErrNotFound) {
			t.Error(err)
		}
		if _, err := tx.UserByEmail("bob@example.org"); !errors.Is(err, account.ErrNotFound) {
			t.Error(err)
		}
		if _, err := tx.Household(h); !errors.Is(err, account.ErrNotFound) {
			t.Error("the household of nobody is left")
		}
		all, err := tx.AllRecords(bob, "", 10)
		if len(all) > 0 || err == nil && all != nil {
			t.Error(all)
		}
		return nil
	})
	for _, name := range k.files() {
		text, err := os.ReadFile(name)
		k.ok(err)
		if bytes.Contains(text, []byte(canary)) || bytes.Contains(text, []byte("bob@example.org")) {
			t.Errorf("%s is readable in %s", canary, filepath.Base(name))
		}
	}
	// The address is free again, for somebody else of another number.
	next, err := k.s.CreateUser(t.Context(), "hub", NewUser{Email: "bob@example.org", Password: secretWord})
	if err != nil || next.ID == bob {
		t.Error(next.ID, err)
	}
}

// TestG02_AuditStaysWhole: the chain verifies after an erasure, and names nobody.
func TestG02_AuditStaysWhole(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	in := k.signIn("bob", "bob-phone")
	for range freeMachine + 1 {
		k.login("thief", "bob", "wrong password")
	}
	k.want(k.call("bob-phone", "DELETE", "/auth/me", in.AccessToken, fields{"password": "wrong password"}), 401, "Invalid password")
	k.want(k.call("bob-phone", "DELETE", "/auth/me", in.AccessToken, fields{"password": secretWord}), 204, "")
	k.enrol(first.AccessToken)
	if n, err := k.store.VerifyAudit(t.Context()); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	k.ok(k.store.View(t.Context(), func(tx *store.Tx) error {
		all, err := tx.AuditEntries(0, 10_000)
		text, _ := json.Marshal(all)
		for _, name := range []string{"example.org", secretWord, in.AccessToken, in.RefreshToken} {
			if strings.Contains(string(text), name) {
				t.Errorf("the audit log says %q", name)
			}
		}
		return err
	}))
	if k.audited("user.erase") != 1 || k.audited("user.erased") != 1 {
		t.Error("the erasure was not recorded as it should be")
	}
}

// failing is a store whose n-th transaction that writes fails.
type failing struct {
	account.Store
	left atomic.Int64
}

var errBroken = errors.New("the store is broken")

func (f *failing) broken() bool { return f.left.Add(-1) == 0 }

func (f *failing) Do(ctx context.Context, ev account.Event, fn func(account.Tx) error) error {
	if f.broken() {
		return errBroken
	}
	return f.Store.Do(ctx, ev, fn)
}

func (f *failing) Keep(ctx context.Context, fn func(account.Tx) error) error {
	if f.broken() {
		return errBroken
	}
	return f.Store.Keep(ctx, fn)
}

// TestG03_ErasureIsTakenUpAgain: wherever it is interrupted, the person is
// locked out from the first step on, and the next round takes it to its end.
func TestG03_ErasureIsTakenUpAgain(t *testing.T) {
	for step := int64(1); ; step++ {
		broken := &failing{}
		var scrubbed, forgotten atomic.Int64
		fail := errors.New("a full disk")
		k := newKit(t, func(c *Config) {
			broken.Store = c.Store
			c.Store = broken
			c.Scrub = func(context.Context) error {
				if broken.broken() {
					return fail
				}
				scrubbed.Add(1)
				return nil
			}
			c.Forget = func(context.Context, account.UserID) ([]string, error) {
				if broken.broken() {
					return nil, fail
				}
				forgotten.Add(1)
				return []string{"old.backup"}, nil
			}
		})
		k.setUp()
		in := k.signIn("bob", "bob-phone")
		bob, h := k.household("bob")
		k.remember(h, bob, account.Chat, eraseStep+10, "text")
		scrubbed.Store(0)
		broken.left.Store(step)
		_, err := k.s.Erase(t.Context(), "hub", bob)
		whole := broken.left.Load() > 0
		broken.left.Store(0)
		if err != nil && step > 1 && k.alive("bob-phone", in.AccessToken) {
			t.Fatalf("step %d: an erasure has begun and the person is still signed in", step)
		}
		if step == 1 { // nothing was begun
			if err == nil || !k.alive("bob-phone", in.AccessToken) {
				t.Fatal(err)
			}
			continue
		}
		// A restart, on the same store.
		s, _ := k.open(k.cfg)
		k.ok(s.resumeErasures(t.Context()))
		k.ok(s.scrubDue(t.Context()))
		k.view(func(tx account.Tx) error {
			left, err := tx.Erasures()
			if len(left) > 0 {
				t.Errorf("step %d: %v is still to be erased", step, left)
			}
			if _, err := tx.User(bob); !errors.Is(err, account.ErrNotFound) {
				t.Errorf("step %d: %v", step, err)
			}
			return err
		})
		if scrubbed.Load() == 0 || forgotten.Load() == 0 {
			t.Errorf("step %d: scrubbed %d, forgotten %d", step, scrubbed.Load(), forgotten.Load())
		}
		// Again changes nothing.
		if done, err := s.Erase(t.Context(), "hub", bob); err != nil || done.Records != 0 {
			t.Errorf("step %d: %+v %v", step, done, err)
		}
		if whole {
			if step < 8 {
				t.Errorf("only %d steps were broken", step)
			}
			return
		}
	}
}

// TestG04_ExportIsTheirsAlone: all of theirs, nothing of others, for them and a
// superuser.
func TestG04_ExportIsTheirsAlone(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	in := k.signIn("bob", "bob-phone")
	bob, bobs := k.household("bob")
	ann := first.User.ID
	k.ok(k.s.SetMember(t.Context(), "hub", first.HouseholdID, bob, account.Member))
	k.remember(first.HouseholdID, ann, account.Chat, 5, "canary-of-ann")
	k.remember(first.HouseholdID, bob, account.Chat, exportPage+5, "canary-of-bob")
	k.remember(bobs, bob, account.Memory, 5, "second-canary-of-bob")
	export := func(machine, access string, u any) reply {
		return k.call(machine, "GET", fmt.Sprintf("/gdpr/users/%v/data", u), access, nil)
	}
	r := export("bob-phone", in.AccessToken, bob)
	var doc struct {
		exportHead
		Records []exportRecord
	}
	if err := json.Unmarshal([]byte(r.text), &doc); r.code != 200 || err != nil {
		t.Fatal(r.code, err)
	}
	if len(doc.Records) != exportPage+10 || doc.User.Email != "bob@example.org" || len(doc.Households) != 2 || len(doc.Sessions) != 1 {
		t.Errorf("%d records, %+v", len(doc.Records), doc.exportHead)
	}
	for _, want := range []string{"canary-of-bob", "second-canary-of-bob"} {
		if !strings.Contains(r.text, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, foreign := range []string{"canary-of-ann", "ann@example.org", "ann-laptop", "argon2", in.RefreshToken} {
		if strings.Contains(r.text, foreign) {
			t.Errorf("%s is in bob's export", foreign)
		}
	}
	// Anybody else's number is one refusal, whether there is somebody or not.
	refusal := k.want(export("bob-phone", in.AccessToken, ann), 403, "")
	for _, other := range []any{999, "0", "x", "-1", "01"} {
		if got := export("bob-phone", in.AccessToken, other); got.code != 403 || got.text != refusal.text {
			t.Errorf("%v: %d %s", other, got.code, got.text)
		}
		if got := k.call("bob-phone", "DELETE", fmt.Sprintf("/gdpr/users/%v/data", other), in.AccessToken, nil); got.code != 403 {
			t.Errorf("%v: %d %s", other, got.code, got.text)
		}
	}
	k.want(k.call("bob-phone", "DELETE", fmt.Sprintf("/gdpr/users/%v/data", ann), in.AccessToken, nil), 403, "")
	k.want(export("bob-phone", "", bob), 401, "")
	k.want(export("ann-laptop", first.AccessToken, bob), 200, "canary-of-bob")
	k.want(export("ann-laptop", first.AccessToken, 999), 404, "")
	if n := k.audited("user.export"); n != 2 {
		t.Errorf("%d exports were recorded", n)
	}
}

// TestLeavingPeopleBehind: who others depend on is asked to see to that first;
// the only superuser stays.
func TestLeavingPeopleBehind(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	bob, _ := k.household("bob")
	erase := func(access string) reply {
		return k.call("ann-laptop", "DELETE", "/auth/me", access, fields{"password": secretWord})
	}
	data := fmt.Sprintf("/gdpr/users/%d/data", first.User.ID)
	_, _, err := k.s.CreateNode(t.Context(), "hub", NewNode{ID: "n", Name: "N", Household: first.HouseholdID, Services: []string{"stt"}})
	k.ok(err)
	k.want(erase(first.AccessToken), 409, "active nodes")
	k.ok(k.s.RemoveNode(t.Context(), "hub", "n"))
	k.ok(k.s.SetMember(t.Context(), "hub", first.HouseholdID, bob, account.Member))
	k.want(erase(first.AccessToken), 409, "only admin")
	k.ok(k.s.SetMember(t.Context(), "hub", first.HouseholdID, bob, account.Admin))
	k.want(erase(first.AccessToken), 409, "only superuser")
	k.want(k.call("ann-laptop", "DELETE", data, first.AccessToken, nil), 409, "only superuser")
	if !k.alive("ann-laptop", first.AccessToken) {
		t.Fatal("she is locked out nevertheless")
	}
	_, err = k.s.CreateUser(t.Context(), "hub", NewUser{Email: "cy@example.org", Password: secretWord, Superuser: true})
	k.ok(err)
	k.want(erase(first.AccessToken), 204, "")
	k.view(func(tx account.Tx) error {
		_, err := tx.Household(first.HouseholdID)
		return err
	})
}

// TestRetention: each kind of record has its time, and the access log as well.
func TestRetention(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	ann, h := first.User.ID, first.HouseholdID
	caller := &services.Caller{Peer: k.peer("ann-laptop"), As: services.AsUser, User: account.User{ID: ann}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 { // days 0, 40 and 80
		for _, kind := range []account.Kind{account.Chat, account.Behaviour, account.Memory} {
			k.remember(h, ann, kind, 2, "text")
		}
		for range accessBatch + 1 {
			k.s.Access(caller, "GET", "/auth/me", 200)
		}
		k.s.writeAccess(ctx) // writes what is left although it ends
		k.clock.pass(40 * day)
	}
	count := func() map[account.Kind]int {
		k.Helper()
		k.ok(k.s.retain(t.Context()))
		got := map[account.Kind]int{}
		after := ""
		for {
			var page []account.Record
			k.view(func(tx account.Tx) (err error) {
				page, err = tx.AllRecords(ann, after, 500)
				return err
			})
			if len(page) == 0 {
				return got
			}
			for _, r := range page {
				got[r.Kind]++
			}
			after = page[len(page)-1].ID
		}
	}
	same := func(want map[account.Kind]int) {
		t.Helper()
		if got := count(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	// Some lines more: those of the requests that set this up.
	before := count()[account.Access]
	if before < 3*(accessBatch+1) {
		t.Errorf("%d lines", before)
	}
	same(map[account.Kind]int{account.Chat: 4, account.Memory: 6, account.Access: before})
	k.clock.pass(15 * day)
	same(map[account.Kind]int{account.Chat: 2, account.Memory: 6, account.Access: before})
	k.clock.pass(365*day - 55*day - time.Hour)
	same(map[account.Kind]int{account.Memory: 6, account.Access: accessBatch + 1})
	k.clock.pass(2 * time.Hour)
	same(map[account.Kind]int{account.Memory: 6})
}

// TestAccessNeverBlocks: lines are lost before a request waits.
func TestAccessNeverBlocks(t *testing.T) {
	k := newKit(t, nil)
	first := k.setUp()
	caller := &services.Caller{Peer: k.peer("ann-laptop"), As: services.AsUser, User: account.User{ID: first.User.ID}}
	for range accessQueue + 10 {
		k.s.Access(caller, "GET", "/auth/me", 200)
	}
	if n := k.s.lost.Load(); n < 10 {
		t.Errorf("%d lost", n)
	}
	k.s.Access(nil, "GET", "/", 200)
	k.s.Access(&services.Caller{As: services.AsNode}, "GET", "/", 200)
}
