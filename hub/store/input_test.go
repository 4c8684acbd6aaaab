package store_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
)

// hostile are names that no field takes.
var hostile = []string{
	"", " ", "'", "x'; DROP TABLE peers; --", `"; DELETE FROM audit; --`, "%", "_", "a%", "\\", "$1", "?", "a\x00b", "\x00", "\xff\xfe", "\xed\xa0\x80",
	"a\nb", "a\tb", "Kitchen", "kitchen.", "-a", "a-", "ki\u200btchen", "kіtchen" /* Cyrillic */, "ä", "\u202egnp", strings.Repeat("a", 64),
	strings.Repeat("k", 10_000), strings.Repeat("k", 1<<20), strings.Repeat("\x00", 1<<20), strings.Repeat("'", 1<<20),
}

// TestH07_HostileNames writes and looks for hostile text in every field.
func TestH07_HostileNames(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Create(t, cfg)
		good := addPeer(t, s, "kitchen")
		web := []store.Port{{Proto: 6, First: 80, Last: 80}}
		for _, bad := range hostile {
			key, _ := newKeys(t)
			spoke := store.NewPeer{Name: "other", PublicKey: key, Kind: peer.KindSpoke}
			open := store.Invite{Name: "other", PublicKey: key, Expires: time.Now().Add(time.Hour)}
			with := func(change func(*store.NewPeer, *store.Invite)) (store.NewPeer, store.Invite) {
				p, v := spoke, open
				change(&p, &v)
				return p, v
			}
			fields := []func(*store.NewPeer, *store.Invite){
				func(p *store.NewPeer, v *store.Invite) { p.Name, v.Name = bad, bad },
				func(p *store.NewPeer, v *store.Invite) { p.Tags, v.Tags = []string{bad}, []string{bad} },
				func(p *store.NewPeer, v *store.Invite) {
					p.Tags, v.Tags = []string{"tag:" + bad}, []string{"tag:" + bad}
				},
			}
			if bad != "" {
				fields = append(fields, func(p *store.NewPeer, v *store.Invite) { p.Household, v.Household = bad, bad })
				if peer.ValidUser(bad) != nil {
					fields = append(fields, func(p *store.NewPeer, v *store.Invite) { p.Owner, v.Owner = bad, bad })
				}
			}
			for _, change := range fields {
				p, v := with(change)
				refused(t, s, store.ErrInvalid, func(tx *store.Tx) error { _, err := tx.AddPeer(p); return err })
				refused(t, s, store.ErrInvalid, func(tx *store.Tx) error { _, err := tx.AddInvite(v); return err })
			}
			refused(t, s, store.ErrInvalid, func(tx *store.Tx) error {
				_, err := tx.PutService(store.Service{Name: bad, Target: "x", Ports: web})
				return err
			})
			refused(t, s, store.ErrInvalid, func(tx *store.Tx) error { p := good; p.Name = bad; return tx.UpdatePeer(p) })
			refused(t, s, store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.PeerByName(bad); return err })
			refused(t, s, store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.Peer(peer.ID(bad)); return err })
			refused(t, s, store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.Service(bad); return err })
			refused(t, s, store.ErrNotFound, func(tx *store.Tx) error { _, err := tx.Invite(bad); return err })
			refused(t, s, store.ErrNotFound, func(tx *store.Tx) error { return tx.RevokeInvite(bad) })
			refused(t, s, store.ErrNotFound, func(tx *store.Tx) error { return tx.RemovePeer(peer.ID(bad)) })
			refused(t, s, store.ErrNotFound, func(tx *store.Tx) error { return tx.RemoveService(bad) })
			refused(t, s, store.ErrInviteSpent, func(tx *store.Tx) error { _, _, err := tx.ConsumeInvite(bad, key); return err })
		}
		for _, name := range []string{"hub", "dns", "enrol", "sync", "console"} {
			key, _ := newKeys(t)
			refused(t, s, store.ErrInvalid, func(tx *store.Tx) error {
				_, err := tx.AddPeer(store.NewPeer{Name: name, PublicKey: key, Kind: peer.KindSpoke})
				return err
			})
		}
		for _, kind := range []peer.Kind{"", peer.KindInvite, "x'"} {
			key, _ := newKeys(t)
			refused(t, s, store.ErrInvalid, func(tx *store.Tx) error {
				_, err := tx.AddPeer(store.NewPeer{Name: "other", PublicKey: key, Kind: kind})
				return err
			})
		}
		refused(t, s, store.ErrInvalid, func(tx *store.Tx) error {
			_, err := tx.AddPeer(store.NewPeer{Name: "other", Kind: peer.KindSpoke})
			return err
		})
		// Numbers out of their range are no rows, not an error of the database.
		if err := s.View(t.Context(), func(tx *store.Tx) error {
			for _, n := range []int{-1, 0, 1 << 40} {
				_, err1 := tx.Policies(n)
				_, err2 := tx.Flows(n)
				_, err3 := tx.AuditEntries(1<<64-1, n)
				if err := errors.Join(err1, err2, err3); err != nil {
					t.Error(err)
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		// What the audit log is told is kept literally, but for what is not text.
		told := "it's; DROP TABLE audit; --%_\\\x00\u202e"
		if err := s.Do(t.Context(), audit.Event{Actor: told, Action: told, Target: told, Detail: map[string]string{told: told}}, func(*store.Tx) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if err := s.View(t.Context(), func(tx *store.Tx) error {
			head, err := tx.AuditHead()
			if err != nil {
				return err
			}
			list, err := tx.AuditEntries(head.Count, 1)
			if len(list) != 1 || list[0].Actor != told || list[0].Detail[told] != told {
				t.Errorf("got %+v", list)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		if _, err := s.VerifyAudit(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestH07_NoSQLIsBuilt reads this package's source: every statement is written
// out in it, none is put together from values.
func TestH07_NoSQLIsBuilt(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	// Which argument of each method is the statement.
	methods := map[string]int{"exec": 1, "change": 1, "one": 1, "each": 1, "count": 1, "peers": 0, "invites": 0, "policies": 0, "services": 0,
		"ExecContext": 1, "QueryContext": 1, "QueryRowContext": 1, "PrepareContext": 1, "Exec": 0, "Query": 0, "QueryRow": 0, "Prepare": 0}
	set := token.NewFileSet()
	found := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			at, ok := methods[sel.Sel.Name]
			if !ok || len(call.Args) <= at {
				return true
			}
			found++
			ast.Inspect(call.Args[at], func(n ast.Node) bool {
				switch n.(type) {
				case *ast.CallExpr, *ast.IndexExpr:
					t.Errorf("%v: the statement is computed", set.Position(n.Pos()))
				}
				return true
			})
			return true
		})
	}
	if found < 40 {
		t.Errorf("only %d statements were looked at", found)
	}
}

// TestBadDSN: a sentence, and nothing of the address in it.
func TestBadDSN(t *testing.T) {
	key, err := store.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	const canary = "s3cret-canary"
	for _, dsn := range []string{
		canary, "mysql://u:" + canary + "@h/d", "postgres://u:" + canary + "@h:port/d", "postgres://u:" + canary + "%zz@h/d",
		"postgres://u:" + canary + "@[::1/d", "postgres://u:" + canary + "\x00@h/d", "postgres://u:" + canary + "@h/d?sslmode=" + canary,
		"postgres://u:" + canary + "@h/d?connect_timeout=" + canary, "postgres://" + strings.Repeat(canary, 100_000),
		"postgres://u:" + canary + "@127.0.0.1:1/" + canary, "postgres://" + canary + ":x@" + canary + ".invalid/d",
		"postgres://u:" + canary + "@/d?host=/nowhere/" + canary,
	} {
		for name, call := range map[string]func() (*store.Store, error){
			"Open":   func() (*store.Store, error) { return store.Open(t.Context(), store.Config{DSN: dsn, Key: key}) },
			"Create": func() (*store.Store, error) { return store.Create(t.Context(), store.Config{DSN: dsn, Key: key}) },
		} {
			_, err := call()
			if !errors.Is(err, store.ErrDSN) && !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%s(%.60s): %v", name, dsn, err)
			}
			if text := fmt.Sprintf("%v %+v", err, err); strings.Contains(text, canary) || len(text) > 600 {
				t.Errorf("%s(%.60s) says %.600s", name, dsn, text)
			}
		}
	}
	if _, err := store.Open(t.Context(), store.Config{DSN: storetest.PostgresConfig(t).DSN}); !errors.Is(err, store.ErrKeyFile) {
		t.Errorf("without a key: %v", err)
	}
}

func TestMasterKey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new", "hub.key")
	k, err := store.CreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s %x %d %q", k, k, k, k, k, k, k), k.LogValue().String()} {
		if strings.Contains(printed, string(text[:8])) || !strings.Contains(printed, "redacted") {
			t.Errorf("printed as %s", printed)
		}
	}
	if _, err := k.MarshalText(); err == nil {
		t.Error("the key can be marshalled")
	}
	if _, err := store.CreateKey(path); !errors.Is(err, store.ErrExists) {
		t.Errorf("overwriting: %v", err)
	}
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o644: false, 0o620: false, 0o700: true} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := store.LoadKey(path); (err == nil) != ok || (err != nil && !errors.Is(err, store.ErrKeyFile)) {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	hex := strings.TrimSpace(string(text))
	for name, content := range map[string]string{"empty": "", "short": hex[1:], "long": hex + "0", "31 bytes": hex[2:], "not hex": "zz" + hex[2:],
		"two lines": hex + "\n\n", "blank before": " " + hex, "zero": strings.Repeat("0", 64), "a megabyte": strings.Repeat(hex, 1<<14)} {
		bad := filepath.Join(dir, "bad")
		if err := errors.Join(os.WriteFile(bad, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
		_, err := store.LoadKey(bad)
		if !errors.Is(err, store.ErrKeyFile) || (len(content) > 9 && strings.Contains(err.Error(), content[:9])) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := store.LoadKey(dir); !errors.Is(err, store.ErrKeyFile) {
		t.Errorf("a directory: %v", err)
	}
	if _, err := store.LoadKey(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString(hex + "\n"); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	defer r.Close()
	fd, err := syscall.Dup(int(r.Fd())) // KeyFromFD closes it
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.KeyFromFD(uintptr(fd)); err != nil {
		t.Errorf("from a descriptor: %v", err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if err := os.WriteFile(filepath.Join(dir, "warren-key"), []byte(hex), 0o440); err != nil {
		t.Fatal(err)
	}
	if _, err := store.KeyFromCredential("warren-key"); err != nil {
		t.Errorf("from a credential: %v", err)
	}
	for _, name := range []string{"", ".", "..", "../hub.key", "new/hub.key", "none"} {
		if _, err := store.KeyFromCredential(name); !errors.Is(err, store.ErrKeyFile) {
			t.Errorf("credential %q: %v", name, err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := store.KeyFromCredential("warren-key"); !errors.Is(err, store.ErrKeyFile) {
		t.Errorf("without systemd: %v", err)
	}
}

func TestPlan(t *testing.T) {
	for prefix, want := range map[string][3]store.Range{
		"10.77.0.0/16":   {{1, 255}, {256, 65022}, {65023, 65534}},
		"172.16.16.0/20": {{1, 63}, {64, 4062}, {4063, 4094}},
		"100.64.4.0/23":  {{1, 63}, {64, 478}, {479, 510}},
		"192.168.5.0/24": {{1, 63}, {64, 222}, {223, 254}},
	} {
		p, err := store.NewPlan(netip.MustParsePrefix(prefix))
		if err != nil {
			t.Errorf("%s: %v", prefix, err)
		}
		if got := [3]store.Range{p.Services(), p.Peers(), p.Invites()}; got != want {
			t.Errorf("%s: %v, want %v", prefix, got, want)
		}
		for i := store.Index(0); i < 70_000; i++ {
			v4, v6 := p.Addrs(i)
			in := i > 0 && i <= p.Invites().Last
			if in != v4.IsValid() || in != v6.IsValid() || in && (!p.V4.Contains(v4) || !p.V6.Contains(v6) || p.Index(v4) != i || p.Index(v6) != i) {
				t.Fatalf("%s: index %d gives %v, %v", prefix, i, v4, v6)
			}
		}
		other, _ := store.NewPlan(p.V4)
		if other.V6 == p.V6 {
			t.Error("two meshes have the same IPv6 network")
		}
		for _, a := range []string{"10.78.0.1", "::1", "127.0.0.1", "::ffff:10.77.1.1", p.V6.Addr().Next().WithZone("eth0").String()} {
			if i := p.Index(netip.MustParseAddr(a)); i != 0 {
				t.Errorf("%s: %s has index %d", prefix, a, i)
			}
		}
		far := p.V6.Addr().As16()
		far[9], far[15] = 1, 5
		if i := p.Index(netip.AddrFrom16(far)); i != 0 {
			t.Errorf("an interface id beyond 32 bits has index %d", i)
		}
	}
	for _, bad := range []string{"10.0.0.0/8", "10.0.0.0/25", "10.77.0.1/16", "8.8.0.0/16", "169.254.0.0/16", "127.0.0.0/16", "fd00::/64", "::ffff:10.0.0.0/112"} {
		if _, err := store.NewPlan(netip.MustParsePrefix(bad)); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := store.NewPlan(netip.Prefix{}); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("no prefix: %v", err)
	}
	if v4, _ := (store.Plan{}).Addrs(1); v4.IsValid() {
		t.Error("no plan gives addresses")
	}
}
