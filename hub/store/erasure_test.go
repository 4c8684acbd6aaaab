package store_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer/account"
)

// canary is in everything that the person who is erased has.
const canary = "xq7canary"

// nest puts the canary into every place for something personal.
func nest(t testing.TB, s *store.Store, h house) {
	t.Helper()
	soon := time.Now().Add(time.Hour)
	key, _ := newKeys(t)
	kept(t, s.Accounts(), func(tx account.Tx) error {
		u, err := tx.User(h.person)
		if err != nil {
			return err
		}
		u.Email, u.Username = canary+"@example.org", canary
		return errors.Join(tx.UpdateUser(u), tx.SetPassword(u.ID, "$argon2id$"+canary),
			tx.SetTOTP(u.ID, []byte(canary+" totp"), true, [][]byte{hashOf(canary)}),
			tx.PutPasskey(account.Passkey{ID: []byte("random id"), User: u.ID, Name: canary, Record: []byte(canary)}),
			tx.Know(u.ID, canary+"-laptop"),
			tx.PutAccess(account.Record{Kind: account.Access, ID: "a1", User: u.ID, Body: []byte(canary)}),
			tx.PutClient(account.Client{ID: "console", Name: "Console"}),
			tx.CreateSession(account.Session{ID: "s1", User: u.ID, Peer: "p", Key: key, Nonce: canary, Scope: canary, Expires: soon}),
			tx.CreateAuthRequest(account.AuthRequest{ID: "r1", Client: "console", Redirect: "https://a.example/", State: canary, Peer: "p", Key: key, Expires: soon}),
			tx.Agree("r1", u.ID, h.id, time.Now(), nil),
			tx.PutEnrolment(account.Enrolment{Hash: hashOf("e"), Node: canary, Household: h.id, By: u.ID, Expires: soon}))
	})
	change(t, s, h.scope(), func(sc account.Scoped) error {
		var errs []error
		for _, kind := range []account.Kind{account.Chat, account.Behaviour, account.Memory} {
			for i := range 30 {
				body := strings.Repeat(canary+" ", 1+i*40)
				errs = append(errs, sc.PutRecord(account.Record{Kind: kind, ID: fmt.Sprint("n", i), User: h.person, Body: []byte(body)}))
			}
		}
		return errors.Join(errs...)
	})
}

// erase goes through all steps.
func erase(t testing.TB, s *store.Store, u account.UserID) (unreachable []string) {
	t.Helper()
	kept(t, s.Accounts(), func(tx account.Tx) error { return tx.BeginErasure(u) })
	for n := 1; n > 0; {
		kept(t, s.Accounts(), func(tx account.Tx) (err error) {
			n, err = tx.EraseRecords(u, 25)
			return err
		})
	}
	kept(t, s.Accounts(), func(tx account.Tx) error { return tx.FinishErasure(u) })
	unreachable, err := s.ForgetInBackups(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	scrub(t, s)
	return unreachable
}

// TestG01_NothingIsLeft: a person whose every trace holds a canary is erased;
// afterwards it is in no table, no page of the file or its log, and nothing
// opens what is left in a backup.
func TestG01_NothingIsLeft(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		ann, bob := village(t, s)
		nest(t, s, ann)
		people := filepath.Join(t.TempDir(), "people")
		saved := backup(t, s, passphrase)
		if err := s.BackupPeopleTo(t.Context(), people, passphrase); err != nil {
			t.Fatal(err)
		}
		old := read(t, people)
		key, err := store.SealedPersonKey(t.Context(), s, ann.person)
		if err != nil {
			t.Fatal(err)
		}
		for where, text := range everywhere(t, s, cfg) {
			if !bytes.Contains(text, key) && where != "log" {
				t.Fatalf("the person's key is not in the %s before: the test looks in the wrong place", where)
			}
		}
		kept := bob.state(t, s)

		if left := erase(t, s, ann.person); len(left) != 0 {
			t.Errorf("not reached: %v", left)
		}
		for where, text := range everywhere(t, s, cfg) {
			if bytes.Contains(text, []byte(canary)) || bytes.Contains(text, hashOf(canary)) {
				t.Errorf("the canary is in the %s", where)
			}
			if bytes.Contains(text, key) {
				t.Errorf("the person's key is in the %s", where)
			}
		}
		if after := bob.state(t, s); after != kept {
			t.Errorf("bob's household was\n%s\nand is\n%s", kept, after)
		}
		inBackup(t, saved)
		now := read(t, people)
		if len(now) != len(old) || bytes.Contains(now, old[len(old)-2*68+8:len(old)-68]) {
			t.Error("the key is in the file with people's keys")
		}
		// What the old key would have opened is the proof that it matters.
		for name, file := range map[string][]byte{"old": old, "new": now} {
			to := storetest.Config(t)
			done, err := store.RestoreFrom(t.Context(), to, store.From{Backup: bytes.NewReader(saved), People: bytes.NewReader(file), Passphrase: passphrase})
			if err != nil {
				t.Fatal(err)
			}
			s, err := store.Open(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			err = s.Accounts().View(t.Context(), func(tx account.Tx) error {
				_, err := tx.UserByEmail(canary + "@example.org")
				return err
			})
			if name == "old" && (err != nil || done.People != 2) || name == "new" && (!errors.Is(err, account.ErrNotFound) || done.People != 1) {
				t.Errorf("with the %s file: %+v, %v", name, done, err)
			}
			if bob.state(t, s) != kept {
				t.Error("the backup lost something of bob's")
			}
		}
	})
}

// everywhere is what the store holds, by place.
func everywhere(t testing.TB, s *store.Store, cfg store.Config) map[string][]byte {
	t.Helper()
	tables, err := store.Tables(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	places := map[string][]byte{"tables": tables}
	if cfg.DSN == "" {
		if places["pages"], err = store.Decrypted(cfg); err != nil {
			t.Fatal(err)
		}
		for _, f := range files(t, filepath.Dir(cfg.Path)) {
			places["log"] = append(places["log"], f...)
		}
		return places
	}
	// PostgreSQL's data files; its log is its administrator's matter.
	if err := store.Raw(t.Context(), s, `CHECKPOINT`); err != nil {
		t.Fatal(err)
	}
	where, err := store.RawText(t.Context(), s, `SELECT current_setting('data_directory') || '/base/' || oid FROM pg_database WHERE datname = current_database()`)
	if err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(where, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		places["data files"] = append(places["data files"], b...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return places
}

// inBackup opens a backup and looks for the canary in it: it is there only
// sealed under the person's key.
func inBackup(t testing.TB, saved []byte) {
	t.Helper()
	text, err := store.OpenedBackup(saved, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte("kitchen")) {
		t.Fatal("the backup was not opened")
	}
	text = append(text, decoded(text)...)
	for name, form := range map[string]string{"as text": canary, "as a digest": string(hashOf(canary))} {
		if bytes.Contains(text, []byte(form)) {
			t.Errorf("the canary is in the backup %s", name)
		}
	}
	if bytes.Contains(text, []byte("email_idx")) || bytes.Contains(text, []byte(`"person_keys"`)) {
		t.Error("the backup holds indexes or keys of people")
	}
}

// decoded is all that is base64 in a backup.
func decoded(text []byte) (out []byte) {
	for _, part := range bytes.Split(text, []byte(`"`)) {
		if b, err := base64.StdEncoding.DecodeString(string(part)); err == nil {
			out = append(append(out, b...), '\n')
		}
	}
	return out
}

// TestG02_AuditChain: the audit log names persons by number alone, and it is
// whole after one of them was erased.
func TestG02_AuditChain(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		ann, _ := village(t, s)
		nest(t, s, ann)
		change(t, s, ann.personal(), func(sc account.Scoped) error { return sc.DeleteRecord(account.Chat, "n0") })
		var outside audit.Checkpoint
		view(t, s, func(tx *store.Tx) (err error) {
			outside, err = tx.AuditHead()
			return err
		})
		erase(t, s, ann.person)
		n, err := s.VerifyAudit(t.Context(), outside)
		if err != nil || n <= outside.Count {
			t.Errorf("%d entries are good, %v", n, err)
		}
		view(t, s, func(tx *store.Tx) error {
			list, err := tx.AuditEntries(1, 1000)
			if text := fmt.Sprintf("%+v", list); strings.Contains(text, canary) || !strings.Contains(text, "user:1") {
				t.Errorf("the audit log says %s", text)
			}
			return err
		})
	})
}

func view(t testing.TB, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.View(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// TestG03_BrokenOff stops an erasure at each step, opens the store again and
// goes on; doing a step twice changes nothing.
func TestG03_BrokenOff(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken off")
	steps := []func(account.Tx, account.UserID) error{
		func(tx account.Tx, u account.UserID) error { return tx.BeginErasure(u) },
		func(tx account.Tx, u account.UserID) error { _, err := tx.EraseRecords(u, 40); return err },
		func(tx account.Tx, u account.UserID) error { _, err := tx.EraseRecords(u, 1000); return err },
		func(tx account.Tx, u account.UserID) error { return tx.FinishErasure(u) },
	}
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		ann, bob := village(t, s)
		nest(t, s, ann)
		turned(t, s.Accounts(), account.ErrNotFound, func(tx account.Tx) error { return tx.BeginErasure(99) })
		turned(t, s.Accounts(), account.ErrConflict, func(tx account.Tx) error { return tx.FinishErasure(ann.person) })
		for i, step := range steps {
			if err := s.Accounts().Keep(t.Context(), func(tx account.Tx) error { return errors.Join(step(tx, ann.person), broken) }); !errors.Is(err, broken) {
				t.Fatal(err)
			}
			again, err := reopen(t.Context(), s, cfg)
			if err != nil {
				t.Fatal(err)
			}
			s = again
			defer again.Close()
			for range 2 {
				kept(t, s.Accounts(), func(tx account.Tx) error { return step(tx, ann.person) })
			}
			seen(t, s.Accounts(), func(tx account.Tx) error {
				waiting, err := tx.Erasures()
				if (i < 3) != (len(waiting) == 1) || err != nil {
					t.Errorf("after step %d: %v wait, %v", i, waiting, err)
				}
				u, err := tx.User(ann.person)
				if i == 3 && !errors.Is(err, account.ErrNotFound) || i < 3 && (err != nil || !u.Disabled) {
					t.Errorf("after step %d: %+v, %v", i, u, err)
				}
				list, err := tx.SessionsOf(ann.person)
				if len(list) != 0 {
					t.Errorf("after step %d sessions live: %v", i, list)
				}
				return err
			})
		}
		seen(t, s.Accounts(), func(tx account.Tx) error {
			_, err := tx.User(bob.person)
			return err
		})
		// Nobody gets the number again.
		kept(t, s.Accounts(), func(tx account.Tx) error {
			u, err := tx.CreateUser(account.User{Email: canary + "@example.org"}, "")
			if u.ID <= bob.person {
				t.Errorf("the next person is %v", u.ID)
			}
			return err
		})
	})
}

func reopen(ctx context.Context, s *store.Store, cfg store.Config) (*store.Store, error) {
	if err := s.Close(); err != nil {
		return nil, err
	}
	return store.Open(ctx, cfg)
}

// TestG03_OldBackup: what was erased does not come back with a backup from
// before: not by the people file that was reached, and not by one that was not,
// if the restore is told.
func TestG03_OldBackup(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		ann, bob := village(t, s)
		saved := backup(t, s, passphrase)
		var people, later bytes.Buffer
		if err := s.BackupPeople(t.Context(), &people, passphrase); err != nil {
			t.Fatal(err)
		}
		last := settle(t, s, "eve") // comes and goes after the backup
		erase(t, s, ann.person)
		erase(t, s, last.person)
		if err := s.BackupPeople(t.Context(), &later, passphrase); err != nil {
			t.Fatal(err)
		}
		var ledger []account.UserID
		view(t, s, func(tx *store.Tx) (err error) {
			ledger, err = tx.Erased()
			return err
		})
		for name, from := range map[string]store.From{
			"the ledger":          {People: bytes.NewReader(people.Bytes()), Erased: ledger},
			"a later people file": {People: bytes.NewReader(later.Bytes())},
		} {
			from.Backup, from.Passphrase = bytes.NewReader(saved), passphrase
			to := storetest.Config(t)
			done, err := store.RestoreFrom(t.Context(), to, from)
			if err != nil || done.People != 1 || fmt.Sprint(done.Lost) != fmt.Sprint(ledger[:1]) {
				t.Fatalf("with %s: %+v, %v", name, done, err)
			}
			s, err := store.Open(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			kept(t, s.Accounts(), func(tx account.Tx) error {
				if _, err := tx.User(ann.person); !errors.Is(err, account.ErrNotFound) {
					t.Errorf("with %s: %v", name, err)
				}
				if err := tx.BeginErasure(ann.person); err != nil {
					t.Errorf("with %s, erasing again: %v", name, err)
				}
				// A number from the ledger is not given to anybody.
				next, err := tx.CreateUser(account.User{Email: "next@example.org"}, "")
				if next.ID <= last.person {
					t.Errorf("with %s the next person is %v", name, next.ID)
				}
				_, err2 := tx.UserByEmail("bob@example.org")
				return errors.Join(err, err2)
			})
			if !strings.Contains(bob.state(t, s), "bob-kitchen") {
				t.Errorf("with %s bob's household is empty", name)
			}
		}
	})
}
