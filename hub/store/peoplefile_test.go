package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer/account"
)

// people takes a people file.
func people(t testing.TB, s *store.Store, passphrase []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.BackupPeople(t.Context(), &b, passphrase); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestR08_AccountsAcrossEngines restores accounts and households' data on each
// engine: all of it is there, and nobody is signed in or invited any more.
func TestR08_AccountsAcrossEngines(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, from store.Config) {
		s := storetest.Create(t, from)
		ann, bob := village(t, s)
		nest(t, s, ann)
		later := time.Now().Add(time.Hour)
		kept(t, s.Accounts(), func(tx account.Tx) error {
			return errors.Join(
				tx.CreateInvitation(account.Invitation{ID: "i1", Household: ann.id, CodeHash: hashOf("code"), Role: account.Member, By: ann.person, Expires: later}),
				tx.CreateApp(account.App{ID: "app", Name: "App", Active: true, Services: []string{"*"}, Households: []account.HouseholdID{bob.id}}),
				tx.AddKey("app:app", account.Key{Digest: tx.Digest("key", []byte("key"))}, time.Time{}))
		})
		saved, keys := backup(t, s, passphrase), people(t, s, passphrase)
		want := ann.state(t, s) + bob.state(t, s) + accountsOf(t, s, ann)
		storetest.Each(t, func(t *testing.T, to store.Config) {
			done, err := store.RestoreFrom(t.Context(), to, store.From{Backup: bytes.NewReader(saved), People: bytes.NewReader(keys), Passphrase: passphrase})
			if err != nil || done.People != 2 || done.Lost != nil {
				t.Fatalf("restored %+v, %v", done, err)
			}
			s, err := store.Open(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if got := ann.state(t, s) + bob.state(t, s) + accountsOf(t, s, ann); got != want {
				t.Errorf("restored\n%s\nfrom\n%s", got, want)
			}
			kept(t, s.Accounts(), func(tx account.Tx) error {
				if _, err := tx.Session("s1"); !errors.Is(err, account.ErrNotFound) {
					t.Errorf("a session is back: %v", err)
				}
				if _, err := tx.InvitationByCode(hashOf("code")); !errors.Is(err, account.ErrNotFound) {
					t.Errorf("an invitation is back: %v", err)
				}
				if list, err := tx.SigningKeys(); len(list) != 0 || err != nil {
					t.Errorf("signing keys are back: %v, %v", list, err)
				}
				if n := len(tx.Digest("key", nil)); n != 32 {
					t.Error("no digest")
				}
				return tx.UseRecovery(ann.person, hashOf(canary))
			})
			// A webhook that was accepted before is not accepted again.
			fails(t, s, ann.scope(), account.ErrExists, func(sc account.Scoped) error { return sc.Accept(ann.hook, []byte("id-1"), later) })
		})
	})
}

// accountsOf describes a person and what is not any household's.
func accountsOf(t testing.TB, s *store.Store, h house) (text string) {
	t.Helper()
	seen(t, s.Accounts(), func(tx account.Tx) error {
		u, err1 := tx.UserByEmail(canary + "@example.org")
		v, err2 := tx.UserByName(canary)
		secrets, err3 := tx.Secrets(u.ID)
		passkeys, err4 := tx.Passkeys(u.ID)
		records, err5 := tx.AllRecords(u.ID, "", 1000)
		homes, err6 := tx.Memberships(u.ID)
		apps, err7 := tx.Apps()
		keys, err8 := tx.Keys("app:app")
		clients, err9 := tx.Clients()
		text = fmt.Sprintf("%+v %+v %+v %+v %+v %+v %+v %+v %+v %x", u, v, secrets, passkeys, records, homes, apps, keys, clients, tx.Digest("key", []byte("key")))
		return errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9)
	})
	return text
}

// TestG01_WithoutTheirKeys: a backup without its people file brings back the
// households and nobody in them.
func TestG01_WithoutTheirKeys(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	ann, _ := village(t, s)
	to := storetest.Config(t)
	done, err := store.Restore(t.Context(), to, bytes.NewReader(backup(t, s, passphrase)), passphrase)
	if err != nil || done.People != 0 || len(done.Lost) != 2 {
		t.Fatalf("restored %+v, %v", done, err)
	}
	r, err := store.Open(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	kept(t, r.Accounts(), func(tx account.Tx) error {
		list, err1 := tx.Users()
		homes, err2 := tx.AllHouseholds()
		if len(list) != 0 || len(homes) != 2 {
			t.Errorf("%v live in %v", list, homes)
		}
		next, err3 := tx.CreateUser(account.User{Email: "ann@example.org"}, "")
		if next.ID != 3 {
			t.Errorf("the next person is %v", next.ID)
		}
		return errors.Join(err1, err2, err3)
	})
	change(t, r, ann.scope(), func(sc account.Scoped) error {
		list, err := sc.Records(account.Chat, 0, time.Time{}, 10)
		if len(list) != 0 {
			t.Errorf("records are back: %v", list)
		}
		return err
	})
}

// TestPeopleFile_Bad: each is refused with a sentence, and nothing is restored.
func TestPeopleFile_Bad(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	village(t, s)
	saved, good := backup(t, s, passphrase), people(t, s, passphrase)
	const header, size = 16 + 1 + 32 + 9 + 32 + 8, 68
	if len(good) != header+2*size {
		t.Fatalf("the file has %d bytes", len(good))
	}
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	one, two := good[header:header+size], good[header+size:]
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":                      {nil, "not a file with people's keys"},
		"a backup":                   {saved, "not a file with people's keys"},
		"only a header":              {good[:header-1], "truncated"},
		"one person short":           {good[:header+size], "truncated"},
		"one byte short":             {good[:len(good)-1], "truncated"},
		"one byte more":              {join(good, []byte{0}), "has grown"},
		"a person twice":             {join(good[:header], one, one), "altered"},
		"keys exchanged":             {join(good[:header], one[:8], two[8:], two[:8], one[8:]), "key of person 1"},
		"a number changed":           {flip(header + 7), "altered"},
		"a key changed":              {flip(header + 40), "key of person 1"},
		"the salt changed":           {flip(20), "not the one"},
		"the lock changed":           {flip(16), "locked with the master key"},
		"more people than is sane":   {flip(header - 8), "truncated"},
		"of another passphrase":      {people(t, s, []byte("incorrect horse")), "not the one"},
		"of the key, not passphrase": {people(t, s, nil), "not with a passphrase"},
	} {
		to := storetest.Config(t)
		_, err := store.RestoreFrom(t.Context(), to, store.From{Backup: bytes.NewReader(saved), People: bytes.NewReader(c.file), Passphrase: passphrase})
		if !errors.Is(err, store.ErrBackup) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if left := files(t, filepath.Dir(to.Path)); len(left) != 0 {
			t.Errorf("%s: left behind: %d files", name, len(left))
		}
	}
	if err := s.BackupPeople(t.Context(), io.Discard, []byte("short")); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a short passphrase: %v", err)
	}
}

// TestG01_OutOfReach: files that the hub cannot see to are named, and the way to
// see to one by hand works without its passphrase.
func TestG01_OutOfReach(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	ann, _ := village(t, s)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"here", "moved", "spoiled", "linked", "folder"} {
		if err := s.BackupPeopleTo(t.Context(), path(name), passphrase); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.BackupPeopleTo(t.Context(), filepath.Join(dir, "nowhere", "x"), passphrase); err == nil {
		t.Error("a folder that is none")
	}
	moved := read(t, path("moved"))
	if err := errors.Join(os.Remove(path("moved")), os.WriteFile(path("spoiled"), []byte("dear ann"), 0o600),
		os.Rename(path("linked"), path("target")), os.Symlink("target", path("linked")), os.Chmod(path("target"), 0o640),
		os.Remove(path("folder")), os.Mkdir(path("folder"), 0o700)); err != nil {
		t.Fatal(err)
	}
	before := read(t, path("here"))
	left := erase(t, s, ann.person)
	if want := []string{path("folder"), path("moved"), filepath.Join(dir, "nowhere", "x"), path("spoiled")}; fmt.Sprint(left) != fmt.Sprint(want) {
		t.Errorf("out of reach are %v", left)
	}
	var byHand bytes.Buffer
	if err := store.DropFromPeople(bytes.NewReader(moved), &byHand, ann.person); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"here": read(t, path("here")), "linked": read(t, path("target")), "by hand": byHand.Bytes()} {
		if len(b) != len(before) || !bytes.Equal(b[98+8:98+68], make([]byte, 60)) || bytes.Equal(b[98+68+8:], make([]byte, 60)) {
			t.Errorf("%s: %x", name, b[98:])
		}
	}
	if info, err := os.Lstat(path("linked")); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", info, err)
	}
	if info, err := os.Stat(path("target")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file is %v, %v", info, err)
	}
	// Once the others are destroyed, the hub need not look for them any more.
	do(t, s, func(tx *store.Tx) error {
		return errors.Join(tx.ForgetPeopleFile(path("moved")), tx.ForgetPeopleFile(path("spoiled")), tx.ForgetPeopleFile(path("folder")),
			tx.ForgetPeopleFile(filepath.Join(dir, "nowhere", "x")))
	})
	if left, err := s.ForgetInBackups(t.Context(), 0); len(left) != 0 || err != nil {
		t.Errorf("out of reach are still %v, %v", left, err)
	}
	refused(t, s, store.ErrInvalid, func(tx *store.Tx) error { return tx.RememberPeopleFile("people") })
	for _, f := range files(t, dir) {
		if strings.Contains(f, canary) {
			t.Error("a canary")
		}
	}
}
