package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
)

// files returns the content of every file below dir, to see what changed. The
// lock file holds nothing.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".lock") {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestR03_ThreeErrors damages a SQLCipher store in each way, asks for the right
// error, and for files that are byte for byte what they were.
func TestR03_ThreeErrors(t *testing.T) {
	t.Parallel()
	other, err := store.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	damage := func(change func(b []byte) []byte) func(*testing.T, *store.Config) {
		return func(t *testing.T, cfg *store.Config) { write(t, cfg.Path, change(read(t, cfg.Path))) }
	}
	flip := func(at int) func(*testing.T, *store.Config) {
		return damage(func(b []byte) []byte { b[(at+len(b))%len(b)] ^= 4; return b })
	}
	for name, c := range map[string]struct {
		do   func(*testing.T, *store.Config)
		want error
	}{
		"wrong key":            {func(_ *testing.T, cfg *store.Config) { cfg.Key = other }, store.ErrWrongKey},
		"no key":               {func(_ *testing.T, cfg *store.Config) { cfg.Key = store.Key{} }, store.ErrKeyFile},
		"plaintext":            {damage(func(b []byte) []byte { return append([]byte("SQLite format 3\x00"), make([]byte, 8176)...) }), store.ErrPlaintext},
		"bit of the salt":      {flip(3), store.ErrCorrupt},
		"bit of page 1":        {flip(100), store.ErrCorrupt},
		"page 1 gone":          {damage(func(b []byte) []byte { clear(b[:4096]); return b }), store.ErrCorrupt},
		"page 1 random":        {damage(func(b []byte) []byte { copy(b, bytes.Repeat([]byte("rAnDoM"), 683)); return b }), store.ErrCorrupt},
		"bit of page 2":        {flip(4096 + 50), store.ErrCorrupt},
		"bit of the last page": {flip(-1), store.ErrCorrupt},
		"last page cut off":    {damage(func(b []byte) []byte { return b[:len(b)-4096] }), store.ErrCorrupt},
		"half a page":          {damage(func(b []byte) []byte { return b[:len(b)-2000] }), store.ErrCorrupt},
		"only the salt":        {damage(func(b []byte) []byte { return b[:16] }), store.ErrCorrupt},
		"empty":                {damage(func(b []byte) []byte { return nil }), store.ErrCorrupt},
		"pages swapped": {damage(func(b []byte) []byte {
			return append(append(b[:4096:4096], b[8192:12288]...), append(b[4096:8192:8192], b[12288:]...)...)
		}), store.ErrCorrupt},
		"something else":        {damage(func(b []byte) []byte { return bytes.Repeat([]byte("a letter to ann\n"), 1000) }), store.ErrWrongKey},
		"log of something else": {func(t *testing.T, cfg *store.Config) { write(t, cfg.Path+"-wal", []byte("x")); cfg.Key = other }, store.ErrWrongKey},
		"missing":               {func(t *testing.T, cfg *store.Config) { _ = os.Remove(cfg.Path) }, store.ErrNotFound},
		"only the log is there": {func(t *testing.T, cfg *store.Config) { _ = os.Rename(cfg.Path, cfg.Path+"-wal") }, store.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := storetest.Config(t)
			s := storetest.Create(t, cfg)
			addPeer(t, s, "kitchen")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			c.do(t, &cfg)
			before := files(t, filepath.Dir(cfg.Path))
			_, err := store.Open(t.Context(), cfg)
			if !errors.Is(err, c.want) {
				t.Errorf("Open: %v, want %v", err, c.want)
			}
			if name == "bit of page 2" && !strings.Contains(err.Error(), "page 2 of ") {
				t.Errorf("it does not say where: %v", err)
			}
			for _, not := range []error{store.ErrWrongKey, store.ErrPlaintext, store.ErrCorrupt} {
				if not != c.want && errors.Is(err, not) {
					t.Errorf("Open says %v as well", not)
				}
			}
			if c.want != store.ErrNotFound || name == "only the log is there" {
				if _, err := store.Create(t.Context(), cfg); !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrKeyFile) {
					t.Errorf("Create on top of it: %v", err)
				}
			}
			if after := files(t, filepath.Dir(cfg.Path)); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Error("the files were changed")
			}
		})
	}
}

// TestR03_DamagedLog: what the write-ahead log lost is gone, what was in the
// file is not, and nothing false is read.
func TestR03_DamagedLog(t *testing.T) {
	cfg := storetest.Config(t)
	s := storetest.Create(t, cfg)
	addPeer(t, s, "kitchen")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	addPeer(t, s, "study")
	main, log := read(t, cfg.Path), read(t, cfg.Path+"-wal") // as kill -9 would leave them
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if len(log) < 4096 {
		t.Fatalf("the log has %d bytes", len(log))
	}
	for name, c := range map[string]struct {
		log   []byte
		peers int
	}{
		"whole":       {log, 2},
		"bit":         {append(append(bytes.Clone(log[:60]), log[60]^1), log[61:]...), 1},
		"header":      {append([]byte{0}, log[1:]...), 1},
		"torn":        {log[:len(log)-100], 1},
		"torn header": {log[:20], 1},
		"empty":       {nil, 1},
	} {
		cfg.Path = filepath.Join(t.TempDir(), "hub.db")
		write(t, cfg.Path, main)
		write(t, cfg.Path+"-wal", c.log)
		s, err := store.Open(t.Context(), cfg)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := s.View(t.Context(), func(tx *store.Tx) error {
			peers, err := tx.Peers()
			if len(peers) != c.peers {
				t.Errorf("%s: %d peers, want %d", name, len(peers), c.peers)
			}
			return err
		}); err != nil {
			t.Error(name, err)
		}
		if _, err := s.VerifyAudit(t.Context()); err != nil {
			t.Error(name, err)
		}
		if err := s.Close(); err != nil {
			t.Error(name, err)
		}
	}
}

// TestR03_PostgresKeys: the same distinctions where there is no file.
func TestR03_PostgresKeys(t *testing.T) {
	cfg := storetest.PostgresConfig(t)
	if _, err := store.Open(t.Context(), cfg); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an empty database: %v", err)
	}
	s := storetest.Create(t, cfg)
	if _, err := store.Create(t.Context(), cfg); !errors.Is(err, store.ErrExists) {
		t.Errorf("Create on top of it: %v", err)
	}
	wrong := cfg
	wrong.Key, _ = store.NewKey()
	if _, err := store.Open(t.Context(), wrong); !errors.Is(err, store.ErrWrongKey) {
		t.Errorf("wrong key: %v", err)
	}
	for _, q := range []string{`UPDATE meta SET value = '' WHERE key = 'store.key-check'`, `DELETE FROM meta WHERE key = 'store.key-check'`, `DROP TABLE meta`} {
		if err := store.Raw(t.Context(), s, q); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(t.Context(), cfg); err == nil || (!errors.Is(err, store.ErrCorrupt) && !strings.HasPrefix(q, "DROP")) {
			t.Errorf("after %s: %v", q, err)
		}
	}
}

// TestSealedValuesStayInTheirPlace: whoever can write to the database can
// neither move a sealed value nor blank it.
func TestSealedValuesStayInTheirPlace(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		a, b := addPeer(t, s, "a"), addPeer(t, s, "b")
		do(t, s, func(tx *store.Tx) error {
			return errors.Join(tx.SetSecret("x", []byte("1")), tx.SetSecret("y", []byte("2")))
		})
		for _, q := range []string{
			`UPDATE peers SET psk = (SELECT psk FROM peers WHERE name = 'b') WHERE name = 'a'`,
			`UPDATE peers SET psk = '' WHERE name = 'a'`,
			`UPDATE secrets SET value = (SELECT value FROM secrets WHERE name = 'y') WHERE name = 'x'`,
		} {
			if err := store.Raw(t.Context(), s, q); err != nil {
				t.Fatal(err)
			}
			if err := s.View(t.Context(), func(tx *store.Tx) error {
				_, err1 := tx.Peer(a.ID)
				_, err2 := tx.Secret("x")
				if !errors.Is(err1, store.ErrCorrupt) && !errors.Is(err2, store.ErrCorrupt) {
					t.Errorf("after %s: %v, %v", q, err1, err2)
				}
				_, err := tx.Peer(b.ID)
				return err
			}); err != nil {
				t.Error(err)
			}
		}
	})
}

// canaries puts recognisable secrets into every place for them.
func canaries(t testing.TB, s *store.Store) (secrets [][]byte) {
	t.Helper()
	do(t, s, func(tx *store.Tx) error {
		return errors.Join(tx.SetSecret("hub.key", []byte("canary-secret-one")), tx.SetSecret("old", []byte("canary-secret-two")), tx.SetSecret("old", nil))
	})
	p := addPeer(t, s, "kitchen")
	psk := p.PSK.Reveal()
	key, inviteKey := newKeys(t)
	b := inviteKey.Reveal()
	do(t, s, func(tx *store.Tx) error {
		_, err := tx.AddInvite(store.Invite{ID: "i", Name: "study", PublicKey: key, PSK: inviteKey, Expires: time.Now().Add(time.Hour)})
		return err
	})
	return [][]byte{[]byte("canary-secret"), psk[:], b[:], []byte(fmt.Sprintf("%x", psk)), []byte(p.PSK.RevealText())}
}

func search(t testing.TB, when, dir string, secrets [][]byte) {
	t.Helper()
	for path, content := range files(t, dir) {
		for _, secret := range secrets {
			if strings.Contains(content, string(secret)) {
				t.Errorf("%s: %s holds %.8q…", when, path, secret)
			}
		}
	}
}

// TestNothingReadableAtRest searches the bytes on the disk for planted secrets:
// on SQLCipher for everything else that was written too.
func TestNothingReadableAtRest(t *testing.T) {
	t.Parallel()
	t.Run("sqlcipher", func(t *testing.T) {
		cfg := storetest.Config(t)
		dir := filepath.Dir(cfg.Path)
		s := storetest.Create(t, cfg)
		secrets := append(canaries(t, s), []byte("kitchen"), []byte("CREATE TABLE"), []byte("SQLite format 3"))
		if _, err := os.Stat(cfg.Path + "-wal"); err != nil {
			t.Fatal(err)
		}
		search(t, "open", dir, secrets)
		for path := range files(t, dir) {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
		}
		var backup bytes.Buffer
		if err := s.Backup(t.Context(), &backup, []byte("correct horse battery")); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "backup"), backup.Bytes())
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		search(t, "closed", dir, secrets)
		if _, err := os.Stat(cfg.Path + "-wal"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the log is still there: %v", err)
		}
	})
	t.Run("postgresql", func(t *testing.T) {
		server := storetest.NewServer(t)
		cfg := storetest.Config(t)
		cfg.Path, cfg.DSN = "", server.DSN(t)
		s := storetest.Create(t, cfg)
		secrets := canaries(t, s)
		if err := store.Raw(t.Context(), s, `CHECKPOINT`); err != nil {
			t.Fatal(err)
		}
		search(t, "running", server.Dir(), secrets)
	})
}

func TestNewDirectoriesArePrivate(t *testing.T) {
	cfg := storetest.Config(t)
	dir := filepath.Join(filepath.Dir(cfg.Path), "a", "b # ? %20 ü")
	cfg.Path = filepath.Join(dir, "hub?mode=memory&x#y%41.db")
	s := storetest.Create(t, cfg)
	defer s.Close()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := os.Stat(cfg.Path); err != nil {
		t.Errorf("the file has another name: %v", err)
	}
}

// TestLockedAgainstASecond: one process at a time on a file.
func TestLockedAgainstASecond(t *testing.T) {
	cfg := storetest.Config(t)
	key := withKeyFile(t, &cfg)
	s := storetest.Create(t, cfg)
	for _, open := range []func() (*store.Store, error){
		func() (*store.Store, error) { return store.Open(t.Context(), cfg) },
		func() (*store.Store, error) { return store.Create(t.Context(), cfg) },
	} {
		if _, err := open(); !errors.Is(err, store.ErrLocked) {
			t.Errorf("in this process: %v", err)
		}
	}
	if _, output := storetest.RunChild(t, "TestCrashChild", child(t, cfg, key, "enrol", "x")...); !strings.Contains(output, store.ErrLocked.Error()) {
		t.Errorf("another process: %s", output)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.View(t.Context(), func(*store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}
