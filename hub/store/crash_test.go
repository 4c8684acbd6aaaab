package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
)

// The environment that a child of these tests is told by what to do.
const (
	envAction = "STORE_TEST_ACTION"
	envPath   = "STORE_TEST_PATH"
	envDSN    = "STORE_TEST_DSN"
	envKey    = "STORE_TEST_KEY"
	envName   = "STORE_TEST_NAME"
)

// TestCrashChild is not a test: it is what the children run.
func TestCrashChild(t *testing.T) {
	if !storetest.Child() {
		return
	}
	key, err := store.LoadKey(os.Getenv(envKey))
	if err != nil {
		t.Fatal(err)
	}
	cfg := store.Config{Path: os.Getenv(envPath), DSN: os.Getenv(envDSN), Key: key}
	name := os.Getenv(envName)
	switch os.Getenv(envAction) {
	case "create":
		storetest.Begin()
		s, err := store.Create(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("acknowledged")
		_ = s.Close()
	case "restore":
		backup, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		storetest.Begin()
		if _, err := store.Restore(t.Context(), cfg, bytes.NewReader(backup), nil); err != nil {
			t.Fatal(err)
		}
		fmt.Println("acknowledged")
	case "migrate":
		storetest.Begin()
		s, err := store.Open(t.Context(), store.WithMigrations(cfg, nextSchema()))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("acknowledged")
		_ = s.Close()
	case "enrol":
		s, err := store.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		storetest.Begin()
		if err := enrol(t, s, name); err != nil {
			t.Fatal(err)
		}
		fmt.Println("acknowledged")
		_ = s.Close()
	}
}

// enrol does in one action what an enrolment and a policy edit do: every table
// that must agree with another changes.
func enrol(t testing.TB, s *store.Store, name string) error {
	key, psk := newKeys(t)
	ev := audit.Event{Actor: "hub", Action: "enrol", Target: name}
	return s.Do(t.Context(), ev, func(tx *store.Tx) error {
		v, fresh, err := tx.ConsumeInvite(name, key)
		if err != nil || !fresh {
			return fmt.Errorf("consuming: fresh %v: %w", fresh, err)
		}
		if _, err := tx.AddPeer(store.NewPeer{Name: v.Name, PublicKey: key, PSK: psk, Kind: peer.KindSpoke, Invite: v.ID}); err != nil {
			return err
		}
		current, err := tx.CurrentPolicy()
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		_, err = tx.PutPolicy([]byte("// "+name), "ann", current.Generation, time.Time{})
		return err
	})
}

func invite(t testing.TB, s *store.Store, name string) {
	t.Helper()
	key, psk := newKeys(t)
	if err := s.Keep(t.Context(), func(tx *store.Tx) error {
		_, err := tx.AddInvite(store.Invite{ID: name, Name: name, PublicKey: key, PSK: psk, Expires: time.Now().Add(time.Hour)})
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// whole checks that the action for name happened altogether or not at all.
func whole(t testing.TB, s *store.Store, name string) (done bool) {
	t.Helper()
	if _, err := s.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.View(t.Context(), func(tx *store.Tx) error {
		v, err := tx.Invite(name)
		if err != nil {
			return err
		}
		_, err = tx.PeerByName(name)
		isPeer := err == nil
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		p, err := tx.CurrentPolicy()
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		isPolicy := string(p.Text) == "// "+name
		head, err := tx.AuditHead()
		if err != nil {
			return err
		}
		last, err := tx.AuditEntries(head.Count, 1)
		if err != nil {
			return err
		}
		isEntry := len(last) == 1 && last[0].Target == name
		done = isPeer
		if used := !v.UsedBy.IsZero(); used != isPeer || isPolicy != isPeer || isEntry != isPeer || (v.PeerID != "") != isPeer {
			t.Errorf("%s: half an action: used %v, peer %v (%q), policy %v, entry %v", name, used, isPeer, v.PeerID, isPolicy, isEntry)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	return done
}

// child returns the environment for a child that works on cfg.
func child(t testing.TB, cfg store.Config, key, action, name string) []string {
	t.Helper()
	return []string{envAction + "=" + action, envPath + "=" + cfg.Path, envDSN + "=" + cfg.DSN, envKey + "=" + key, envName + "=" + name}
}

// withKeyFile replaces cfg's key by one that a child can load.
func withKeyFile(t testing.TB, cfg *store.Config) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "hub.key")
	key, err := store.CreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Key = key
	return path
}

// mostCalls is where a loop over n gives up: no action makes as many.
const mostCalls = 300

// TestR01_E09_KillAtEveryWrite kills a process in the middle of an enrolment,
// at each of its writes in turn, and looks at what is left.
func TestR01_E09_KillAtEveryWrite(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		t.Parallel()
		key := withKeyFile(t, &cfg)
		s := storetest.Create(t, cfg)
		for n := 1; ; n++ {
			name := "k" + strconv.Itoa(n)
			invite(t, s, name)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			killed, output := storetest.KillAtWrite(t, n, "TestCrashChild", child(t, cfg, key, "enrol", name)...)
			var err error
			if s, err = store.Open(t.Context(), cfg); err != nil {
				t.Fatalf("after a kill at write %d: %v", n, err)
			}
			done := whole(t, s, name)
			if strings.Contains(output, "acknowledged") && !done {
				t.Errorf("write %d: acknowledged, and lost", n)
			}
			// What was begun can be brought to its end.
			if !done {
				if err := enrol(t, s, name); err != nil {
					t.Errorf("write %d: trying again: %v", n, err)
				}
				whole(t, s, name)
			}
			if !killed {
				t.Logf("%d writes", n-1)
				break
			}
			if n > mostCalls {
				t.Fatal("no end")
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestR01_KillAtEveryWriteOfCreation does the same to the making of a store, to
// a restore and to a migration: afterwards there is a whole one or none.
func TestR01_KillAtEveryWriteOfCreation(t *testing.T) {
	t.Parallel()
	for _, action := range []string{"create", "restore", "migrate"} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			cfg := storetest.Config(t)
			key := withKeyFile(t, &cfg)
			s := storetest.Create(t, cfg)
			invite(t, s, "kept")
			if err := enrol(t, s, "kept"); err != nil {
				t.Fatal(err)
			}
			backup := filepath.Join(t.TempDir(), "backup")
			var b bytes.Buffer
			if err := errors.Join(s.Backup(t.Context(), &b, nil), os.WriteFile(backup, b.Bytes(), 0o600), s.Close()); err != nil {
				t.Fatal(err)
			}
			old, err := os.ReadFile(cfg.Path)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			// Every fifth write: creation has over a hundred of them, most
			// alike, and all of them happen before the one rename.
			for n := 1 + len(action)%3; ; n += 5 {
				cfg.Path = filepath.Join(dir, strconv.Itoa(n), "hub.db")
				if action == "migrate" {
					if err := errors.Join(os.Mkdir(filepath.Dir(cfg.Path), 0o700), os.WriteFile(cfg.Path, old, 0o600)); err != nil {
						t.Fatal(err)
					}
				}
				killed, output := storetest.KillAtWrite(t, n, "TestCrashChild", child(t, cfg, key, action, backup)...)
				s, err := store.Open(t.Context(), cfg)
				switch {
				case errors.Is(err, store.ErrNotFound) && action != "migrate" && !strings.Contains(output, "acknowledged"):
					if s, err = store.Create(t.Context(), cfg); err != nil {
						t.Fatalf("write %d: trying again: %v", n, err)
					}
				case errors.Is(err, store.ErrNewer) && action == "migrate":
					s, err = store.Open(t.Context(), store.WithMigrations(cfg, nextSchema()))
				}
				if err != nil {
					t.Fatalf("write %d: %v", n, err)
				}
				if _, err := s.VerifyAudit(t.Context()); err != nil {
					t.Errorf("write %d: %v", n, err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				if !killed {
					t.Logf("%d writes", n-1)
					return
				}
				if n > 3*mostCalls {
					t.Fatal("no end")
				}
			}
		})
	}
}
