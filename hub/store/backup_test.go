package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
)

var passphrase = []byte("correct horse battery staple")

// furnish fills a store with one of everything.
func furnish(t testing.TB, s *store.Store) {
	t.Helper()
	p := addPeer(t, s, "kitchen")
	gone := addPeer(t, s, "gone")
	invite(t, s, "study")
	do(t, s, func(tx *store.Tx) error {
		_, err1 := tx.PutPolicy([]byte("{} // \x00\xff"), "ann", 0, time.Time{})
		_, err2 := tx.PutService(store.Service{Name: "llm", Target: "127.0.0.1:8080", Ports: []store.Port{{6, 443, 443}}, Host: p.ID})
		return errors.Join(err1, err2, tx.RemovePeer(gone.ID), tx.SetMeta("empty", ""), tx.SetMeta("domain", "warren.internal"),
			tx.SetSecret("hub.key", []byte("canary-secret")), tx.SetSecret("nul", []byte{0}),
			tx.MergeFlows([]store.FlowRecord{{Src: "a", Dst: "b", Proto: 6, Port: 80, Count: 3, First: time.Unix(1, 0), Last: time.Unix(2, 0)}}),
			tx.SaveEndpoint(p.ID, p.Endpoint, time.Unix(5, 0)))
	})
}

// contents describes all that a backup must bring back.
func contents(t testing.TB, s *store.Store) (text string) {
	t.Helper()
	if err := s.View(t.Context(), func(tx *store.Tx) error {
		plan, err1 := tx.Plan()
		peers, err2 := tx.Peers()
		policies, err3 := tx.Policies(10)
		services, err4 := tx.Services()
		flows, err5 := tx.Flows(10)
		empty, err6 := tx.Meta("empty")
		domain, err7 := tx.Meta("domain")
		secret, err8 := tx.Secret("hub.key")
		nul, err9 := tx.Secret("nul")
		for _, p := range peers {
			text += p.PSK.RevealText() + " "
		}
		text += fmt.Sprintf("%v %+v %+v %+v %+v %q %q %q %q", plan, peers, policies, services, flows, empty, domain, secret, nul)
		return errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9)
	}); err != nil {
		t.Fatal(err)
	}
	return text
}

func backup(t testing.TB, s *store.Store, passphrase []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Backup(t.Context(), &b, passphrase); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestR08_BackupAcrossEngines takes a backup on each engine and restores it on
// each, under another master key.
func TestR08_BackupAcrossEngines(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, from store.Config) {
		s := storetest.Create(t, from)
		furnish(t, s)
		want := contents(t, s)
		saved := backup(t, s, passphrase)
		if bytes.Contains(saved, []byte("canary")) || bytes.Contains(saved, []byte("kitchen")) {
			t.Error("the backup is readable")
		}
		storetest.Each(t, func(t *testing.T, to store.Config) {
			done, err := store.Restore(t.Context(), to, bytes.NewReader(saved), passphrase)
			if err != nil {
				t.Fatal(err)
			}
			if done.Epoch != 2 || strings.Join(done.Peers, " ") != "kitchen" || done.Audit != 3 || time.Since(done.Created) > time.Hour {
				t.Errorf("restored %+v", done)
			}
			s, err := store.Open(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if got := contents(t, s); got != want {
				t.Errorf("restored\n%s\nfrom\n%s", got, want)
			}
			if n, err := s.VerifyAudit(t.Context()); n != 4 || err != nil {
				t.Errorf("%d audit entries, %v", n, err)
			}
			if err := s.View(t.Context(), func(tx *store.Tx) error {
				invites, err := tx.Invites()
				epoch, err2 := tx.Epoch()
				if len(invites) != 0 || epoch != 2 {
					t.Errorf("%d invites came back to life, epoch %d", len(invites), epoch)
				}
				return errors.Join(err, err2)
			}); err != nil {
				t.Error(err)
			}
			// The freed address still rests, and so does the invite's.
			key, _ := newKeys(t)
			do(t, s, func(tx *store.Tx) error {
				p, err := tx.AddPeer(store.NewPeer{Name: "next", PublicKey: key, Kind: peer.KindSpoke})
				if p.V4.String() != "10.77.1.2" {
					t.Errorf("the next peer has %v", p.V4)
				}
				return err
			})
			if _, err := store.Restore(t.Context(), to, bytes.NewReader(saved), passphrase); !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrLocked) {
				t.Errorf("restoring on top: %v", err)
			}
			again := backup(t, s, nil)
			for _, cfg := range []store.Config{storetest.Config(t)} {
				cfg.Key = to.Key
				if done, err := store.Restore(t.Context(), cfg, bytes.NewReader(again), nil); err != nil || done.Epoch != 3 {
					t.Errorf("with the master key: %+v, %v", done, err)
				}
			}
		})
	})
}

// TestR08_BackupWhileWriting: a backup is one moment, also when writers go on.
func TestR08_BackupWhileWriting(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		furnish(t, s)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					addPeer(t, s, fmt.Sprint("p", i))
				}
			}
		})
		for range 3 {
			saved := backup(t, s, nil)
			to := storetest.Config(t)
			to.Key = cfg.Key
			done, err := store.Restore(t.Context(), to, bytes.NewReader(saved), nil)
			if err != nil {
				t.Error(err)
			}
			// Each peer came with one entry; furnish made one peer and three.
			if uint64(len(done.Peers)) != done.Audit-2 {
				t.Errorf("%d peers, %d entries", len(done.Peers), done.Audit)
			}
		}
		close(stop)
		wg.Wait()
	})
}

// TestR08_BadBackups: each is refused with the right sentence and leaves
// nothing behind.
func TestR08_BadBackups(t *testing.T) {
	t.Parallel()
	cfg := storetest.Config(t)
	s := storetest.Create(t, cfg)
	furnish(t, s)
	do(t, s, func(tx *store.Tx) error { // several chunks
		_, err := tx.PutPolicy(bytes.Repeat([]byte("policy "), 40_000), "ann", 1, time.Time{})
		return err
	})
	saved := backup(t, s, nil)
	locked := backup(t, s, passphrase)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	const header, chunk = 16 + 1 + 32 + 9 + 32, 64<<10 + 16
	if len(saved) < header+3*chunk {
		t.Fatalf("the backup has %d bytes", len(saved))
	}
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	one, two := saved[header:header+chunk], saved[header+chunk:header+2*chunk]
	for _, c := range []struct {
		name   string
		backup []byte
		pass   []byte
		want   string
	}{
		{"empty", nil, nil, "not a backup"},
		{"a letter", bytes.Repeat([]byte("dear ann "), 1000), nil, "not a backup"},
		{"half a header", saved[:40], nil, "truncated"},
		{"only a header", saved[:header], nil, "truncated"},
		{"one chunk", saved[:header+chunk], nil, "truncated"},
		{"cut in a chunk", saved[:header+chunk+100], nil, "truncated"},
		{"without its last byte", saved[:len(saved)-1], nil, "truncated"},
		{"without its last chunk", saved[:header+(len(saved)-header-1)/chunk*chunk], nil, "truncated"},
		{"one byte more", cat(saved, []byte{0}), nil, "altered"},
		{"twice", cat(saved, saved), nil, "altered"},
		{"bit of the magic", flip(saved, 0), nil, "not a backup"},
		{"bit of the salt", flip(saved, 20), nil, "not the one"},
		{"bit of the check", flip(saved, header-1), nil, "not the one"},
		{"bit of the first chunk", flip(saved, header+10), nil, "altered or truncated in chunk 1"},
		{"bit of the second chunk", flip(saved, header+chunk+10), nil, "altered or truncated in chunk 2"},
		{"bit at the end", flip(saved, len(saved)-1), nil, "altered"},
		{"chunks swapped", cat(saved[:header], two, one, saved[header+2*chunk:]), nil, "chunk 1"},
		{"chunk missing", cat(saved[:header], saved[header+chunk:]), nil, "chunk 1"},
		{"chunk doubled", cat(saved[:header], one, saved[header:]), nil, "chunk 2"},
		{"wrong passphrase", locked, []byte("incorrect horse"), "not the one"},
		{"passphrase missing", locked, nil, "passphrase, give that"},
		{"passphrase too many", saved, passphrase, "not with a passphrase"},
		{"unknown lock", func() []byte { b := bytes.Clone(saved); b[16] = 9; return b }(), nil, "does not know"},
		{"greedy work", func() []byte { b := bytes.Clone(locked); b[53] = 0xff; return b }(), passphrase, "unreasonable"},
		{"no work", func() []byte { b := bytes.Clone(locked); clear(b[49:58]); return b }(), passphrase, "unreasonable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := storetest.Config(t)
			to.Key = cfg.Key
			_, err := store.Restore(t.Context(), to, bytes.NewReader(c.backup), c.pass)
			if !errors.Is(err, store.ErrBackup) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if left := files(t, filepath.Dir(to.Path)); len(left) != 0 {
				t.Errorf("left behind: %d files", len(left))
			}
			if _, err := store.Open(t.Context(), to); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Open: %v", err)
			}
		})
	}
	pg := storetest.PostgresConfig(t)
	pg.Key = cfg.Key
	if _, err := store.Restore(t.Context(), pg, bytes.NewReader(saved[:len(saved)-1]), nil); !errors.Is(err, store.ErrBackup) {
		t.Errorf("PostgreSQL: %v", err)
	}
	if _, err := store.Restore(t.Context(), pg, bytes.NewReader(saved), nil); err != nil {
		t.Errorf("PostgreSQL, after a bad one: %v", err)
	}
	wrong := storetest.Config(t)
	if _, err := store.Restore(t.Context(), wrong, bytes.NewReader(saved), nil); !errors.Is(err, store.ErrBackupKey) {
		t.Errorf("another master key: %v", err)
	}
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Backup(t.Context(), io.Discard, []byte("short")); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("a short passphrase: %v", err)
	}
	broken := errors.New("broken pipe")
	if err := s.Backup(t.Context(), writerFunc(func([]byte) (int, error) { return 0, broken }), nil); !errors.Is(err, broken) {
		t.Errorf("a writer that fails: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestR09_SchemaVersions goes from one version to the next and back.
func TestR09_SchemaVersions(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		furnish(t, s)
		want := contents(t, s)
		before := backup(t, s, passphrase)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		next := store.WithMigrations(cfg, nextSchema())

		// A migration that fails half-way is as if it had not begun.
		if _, err := store.Open(t.Context(), store.WithMigrations(cfg, brokenSchema())); err == nil {
			t.Fatal("a broken migration passed")
		}
		s, err := store.Open(t.Context(), cfg)
		if err != nil {
			t.Fatalf("after a broken migration: %v", err)
		}
		if got := contents(t, s); got != want {
			t.Error("a broken migration changed something")
		}
		if err := store.Raw(t.Context(), s, `SELECT note FROM peers`); err == nil {
			t.Error("half a migration is there")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}

		// Up.
		if s, err = store.Open(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, s); got != want {
			t.Error("the migration lost something")
		}
		after := backup(t, s, passphrase)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}

		// Down: refused, and not a byte changed.
		var untouched map[string]string
		if cfg.DSN == "" {
			untouched = files(t, filepath.Dir(cfg.Path))
		}
		if _, err := store.Open(t.Context(), cfg); !errors.Is(err, store.ErrNewer) {
			t.Errorf("an older program: %v", err)
		}
		if cfg.DSN == "" && fmt.Sprint(files(t, filepath.Dir(cfg.Path))) != fmt.Sprint(untouched) {
			t.Error("a refused store was changed")
		}
		if s, err = store.Open(t.Context(), next); err != nil {
			t.Fatalf("the newer program afterwards: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}

		// The documented way down is the backup from before; the one from
		// after is refused. An old backup can be restored by a new program.
		old := storetest.Config(t)
		if _, err := store.Restore(t.Context(), old, bytes.NewReader(after), passphrase); !errors.Is(err, store.ErrNewer) {
			t.Errorf("a newer backup: %v", err)
		}
		if _, err := os.Stat(old.Path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a newer backup left something: %v", err)
		}
		for _, to := range []store.Config{old, store.WithMigrations(storetest.Config(t), nextSchema())} {
			if _, err := store.Restore(t.Context(), to, bytes.NewReader(before), passphrase); err != nil {
				t.Fatal(err)
			}
			s, err := store.Open(t.Context(), to)
			if err != nil {
				t.Fatal(err)
			}
			if got := contents(t, s); got != want {
				t.Error("the backup lost something")
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
