package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer/account"
)

// asUser is a DSN with another user in it.
func asUser(t testing.TB, dsn, user string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("user", user)
	u.RawQuery = q.Encode()
	return u.String()
}

// onServer runs statements as the server's administrator.
func onServer(t testing.TB, dsn string, statements ...string) {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// eachLogin runs a test as a superuser, whom row-level security does not hold
// by itself, and as a plain owner of the database.
func eachLogin(t *testing.T, test func(t *testing.T, s *store.Store, admin string)) {
	t.Run("superuser", func(t *testing.T) {
		cfg := storetest.PostgresConfig(t)
		test(t, storetest.Create(t, cfg), cfg.DSN)
	})
	t.Run("owner", func(t *testing.T) {
		cfg := storetest.PostgresConfig(t)
		admin := cfg.DSN
		u, err := url.Parse(admin)
		if err != nil {
			t.Fatal(err)
		}
		name := "plain_" + strings.TrimPrefix(u.Path, "/") // roles are the server's
		onServer(t, admin, `CREATE ROLE `+name+` LOGIN CREATEROLE`, `GRANT ALL ON SCHEMA public TO `+name)
		cfg.DSN = asUser(t, admin, name)
		test(t, storetest.Create(t, cfg), admin)
	})
}

// TestT03_EveryTableIsForced asks PostgreSQL itself what holds: for each table
// with a household in it, for each that a tenant can touch, and for the roles.
func TestT03_EveryTableIsForced(t *testing.T) {
	eachLogin(t, func(t *testing.T, _ *store.Store, admin string) {
		db, err := sql.Open("pgx", admin)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		// What breaks a rule, by name; a row is a table or role that does.
		for rule, query := range map[string]string{
			"a table with a household is not forced": `SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
				WHERE c.relkind IN ('r', 'p') AND a.attname = 'household' AND NOT a.attisdropped AND c.relnamespace = 'public'::regnamespace
				AND NOT (c.relrowsecurity AND c.relforcerowsecurity)`,
			"a tenant can touch a table without a household, or one that is not forced": `SELECT c.relname FROM pg_class c
				WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relnamespace = 'public'::regnamespace
				AND has_any_column_privilege('warren_tenant', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES')
				AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'household'))`,
			"a tenant may delete from, truncate or put triggers on what it should not": `SELECT c.relname FROM pg_class c
				WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND (has_table_privilege('warren_tenant', c.oid, 'TRUNCATE, TRIGGER')
				OR (has_table_privilege('warren_tenant', c.oid, 'DELETE') AND NOT c.relforcerowsecurity))`,
			"a policy for tenants is not the household's, both ways": `SELECT tablename || ': ' || coalesce(qual, 'none') || ' / ' || coalesce(with_check, 'none') FROM pg_policies
				WHERE NOT (roles = '{warren_system}') AND NOT (roles = '{warren_tenant}' AND cmd = 'ALL' AND permissive = 'PERMISSIVE' AND qual = with_check
				AND qual = $$(household = NULLIF(current_setting('warren.household'::text, true), ''::text))$$)`,
			"a table that a tenant can touch has no policy for it": `SELECT c.relname FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
				AND has_table_privilege('warren_tenant', c.oid, 'SELECT')
				AND NOT EXISTS (SELECT FROM pg_policies p WHERE p.tablename = c.relname AND p.roles = '{warren_tenant}')`,
			"a role could look around the rules": `SELECT rolname FROM pg_roles WHERE rolname IN ('warren_tenant', 'warren_system')
				AND (rolsuper OR rolbypassrls OR rolcanlogin OR rolcreaterole OR rolcreatedb OR rolreplication)`,
			"a role owns something":                   `SELECT relname FROM pg_class JOIN pg_roles r ON r.oid = relowner WHERE rolname IN ('warren_tenant', 'warren_system')`,
			"a role is missing":                       `SELECT n FROM unnest(ARRAY['warren_tenant', 'warren_system']) n WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = n)`,
			"a role is a member of another":           `SELECT m.rolname FROM pg_auth_members JOIN pg_roles m ON m.oid = member WHERE m.rolname IN ('warren_tenant', 'warren_system')`,
			"a function runs with its owner's rights": `SELECT proname FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace`,
			"an ordinary table is out of the hub's reach": `SELECT c.relname FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
				AND NOT has_table_privilege('warren_system', c.oid, 'SELECT')`,
		} {
			if broken := column(t, db, query); len(broken) > 0 {
				t.Errorf("%s: %v", rule, broken)
			}
		}
		tables := column(t, db, `SELECT tablename FROM pg_policies WHERE roles = '{warren_tenant}' ORDER BY tablename`)
		want := []string{"accepted", "blobs", "deliveries", "enrolments", "hooks", "invitations", "memberships", "nodes", "records", "versions"}
		if !slices.Equal(tables, want) {
			t.Errorf("tenants' tables are %v", tables)
		}
	})
}

func column(t testing.TB, db *sql.DB, query string) (values []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			t.Fatal(err)
		}
		values = append(values, v)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return values
}

// TestT03_TheDatabaseHolds runs queries that forget the household: PostgreSQL
// keeps them inside it.
func TestT03_TheDatabaseHolds(t *testing.T) {
	eachLogin(t, func(t *testing.T, s *store.Store, _ string) {
		ann, bob := village(t, s)
		before := ann.state(t, s)
		ctx := t.Context()
		for _, table := range []string{"nodes", "memberships", "records", "blobs", "versions", "hooks", "accepted", "deliveries"} {
			if n, err := store.CountWithin(ctx, s, bob.scope(), `SELECT COUNT(*) FROM `+table); n != 1 || err != nil {
				t.Errorf("bob's household sees %d rows of %s, %v", n, table, err)
			}
			for _, in := range []account.Scope{{}, account.NewScope("nowhere", 0), account.NewScope("%", 0)} {
				if n, err := store.CountWithin(ctx, s, in, `SELECT COUNT(*) FROM `+table); n != 0 || err != nil {
					t.Errorf("%+v sees %d rows of %s, %v", in, n, table, err)
				}
			}
		}
		for _, c := range []string{
			`UPDATE records SET at = 0`, `UPDATE hooks SET created = 0`, `DELETE FROM blobs`, `DELETE FROM deliveries`,
			`UPDATE records SET at = 1 WHERE id = 'r1'`, `DELETE FROM accepted WHERE id IS NOT NULL`,
		} {
			if n, err := store.ChangeWithin(ctx, s, bob.scope(), c); n > 1 || err != nil {
				t.Errorf("%s hit %d rows, %v", c, n, err)
			}
		}
		for _, c := range []string{
			`UPDATE records SET household = '` + string(ann.id) + `'`,
			`INSERT INTO versions (household, node, config_type, version) VALUES ('` + string(ann.id) + `', 'n', 't', 1)`,
			`INSERT INTO nodes (id) VALUES ('x')`, `UPDATE nodes SET name = ''`, `UPDATE memberships SET role = 3`,
			`TRUNCATE records`, `ALTER TABLE records DISABLE ROW LEVEL SECURITY`, `DROP POLICY within ON records`,
		} {
			if _, err := store.ChangeWithin(ctx, s, bob.scope(), c); err == nil {
				t.Errorf("%s passed", c)
			}
		}
		for _, table := range []string{"users", "person_keys", "sessions", "secrets", "meta", "audit", "machine_keys", "access_log", "households",
			"invitations", "enrolments", "peers", "policies", "erased", "people_files", "migrations", "pg_authid"} {
			if _, err := store.CountWithin(ctx, s, bob.scope(), `SELECT COUNT(*) FROM `+table); err == nil {
				t.Errorf("a tenant reads %s", table)
			}
		}
		if after := ann.state(t, s); after != before {
			t.Errorf("ann's household was\n%s\nand is\n%s", before, after)
		}
	})
}

// TestT03_NobodyWithoutARole: the tables' owner himself, with no role taken,
// finds nothing.
func TestT03_NobodyWithoutARole(t *testing.T) {
	eachLogin(t, func(t *testing.T, s *store.Store, _ string) {
		village(t, s)
		n, err := store.RawText(t.Context(), s, `SELECT COUNT(*) FROM records`)
		// A superuser is above the rules; it is for him that a role is taken.
		if want := map[bool]string{true: "2", false: "0"}[strings.HasSuffix(t.Name(), "superuser")]; err != nil || n != want {
			t.Errorf("without a role %s rows are seen, want %s; %v", n, want, err)
		}
	})
}

// TestT03_PooledConnection: whatever becomes of a transaction, the connection
// goes back without its role and household.
func TestT03_PooledConnection(t *testing.T) {
	eachLogin(t, func(t *testing.T, s *store.Store, _ string) {
		ann, bob := village(t, s)
		store.OneConnection(s)
		login, err := store.RawText(t.Context(), s, `SELECT session_user`)
		if err != nil {
			t.Fatal(err)
		}
		broken := errors.New("broken")
		for name, fn := range map[string]func(context.Context, context.CancelFunc) error{
			"success": func(ctx context.Context, _ context.CancelFunc) error {
				return s.Data().Keep(ctx, ann.scope(), func(account.Scoped) error { return nil })
			},
			"an error": func(ctx context.Context, _ context.CancelFunc) error {
				return s.Data().Keep(ctx, ann.scope(), func(account.Scoped) error { return broken })
			},
			"an error of the database": func(ctx context.Context, _ context.CancelFunc) error {
				_, err := store.CountWithin(ctx, s, ann.scope(), `SELECT COUNT(*) FROM users`)
				return err
			},
			"an end in the middle": func(ctx context.Context, cancel context.CancelFunc) error {
				return s.Data().Keep(ctx, ann.scope(), func(sc account.Scoped) error {
					cancel()
					_, err := sc.Nodes()
					return err
				})
			},
			"a panic": func(ctx context.Context, _ context.CancelFunc) (err error) {
				defer func() { err = fmt.Errorf("%v", recover()) }()
				return s.Data().Keep(ctx, ann.scope(), func(account.Scoped) error { panic("help") })
			},
		} {
			ctx, cancel := context.WithCancel(t.Context())
			err := fn(ctx, cancel)
			cancel()
			if (err == nil) != (name == "success") {
				t.Errorf("%s: %v", name, err)
			}
			left, err := store.RawText(t.Context(), s, `SELECT current_user || '/' || COALESCE(current_setting('warren.household', true), '')`)
			if left != login+"/" || err != nil {
				t.Errorf("after %s the connection is %s, %v", name, left, err)
			}
			if text := bob.state(t, s); !strings.Contains(text, "bob-kitchen") || strings.Contains(text, "ann") {
				t.Errorf("after %s bob sees %s", name, text)
			}
		}
	})
}

// TestT03_RolesAreMissing: a login that may not make the roles is told what an
// administrator has to run, and that is all it takes.
func TestT03_RolesAreMissing(t *testing.T) {
	server := storetest.NewServer(t)
	admin := server.DSN(t)
	onServer(t, admin, `CREATE ROLE "Plain" LOGIN`, `GRANT ALL ON SCHEMA public TO "Plain"`)
	key, err := store.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cfg := store.Config{DSN: asUser(t, admin, "Plain"), Key: key}
	_, err = store.Create(t.Context(), cfg)
	_, run, ok := strings.Cut(fmt.Sprint(err), " run: ")
	if !errors.Is(err, store.ErrRoles) || !ok {
		t.Fatalf("got %v", err)
	}
	if want := `CREATE ROLE warren_system NOLOGIN; CREATE ROLE warren_tenant NOLOGIN; GRANT warren_system, warren_tenant TO "Plain";`; run != want {
		t.Errorf("it says %s", run)
	}
	onServer(t, admin, run)
	s, err := store.Create(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	village(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// A role that could look around the rules is refused.
	onServer(t, admin, `ALTER ROLE warren_tenant BYPASSRLS`)
	if _, err := store.Open(t.Context(), cfg); !errors.Is(err, store.ErrRoles) || !strings.Contains(err.Error(), "ALTER ROLE warren_tenant") {
		t.Errorf("with a role that bypasses: %v", err)
	}
}

// TestT03_ManyAtOnce: several databases on a new server make the same roles in
// the same moment, as a superuser and as logins of their own.
func TestT03_ManyAtOnce(t *testing.T) {
	server := storetest.NewServer(t)
	key, err := store.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 6 {
		dsn := server.DSN(t)
		if i%2 == 0 {
			name := fmt.Sprint("plain", i)
			onServer(t, dsn, `CREATE ROLE `+name+` LOGIN CREATEROLE`, `GRANT ALL ON SCHEMA public TO `+name)
			dsn = asUser(t, dsn, name)
		}
		wg.Go(func() {
			s, err := store.Create(t.Context(), store.Config{DSN: dsn, Key: key})
			if err != nil {
				t.Errorf("database %d: %v", i, err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestT03_TheSameMoment holds the making of a role until another hub is about
// to make it as well.
func TestT03_TheSameMoment(t *testing.T) {
	server := storetest.NewServer(t)
	key, err := store.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	first, err := sql.Open("pgx", server.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	tx, err := first.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), `CREATE ROLE warren_system NOLOGIN`); err != nil {
		t.Fatal(err)
	}
	second := server.DSN(t)
	done := make(chan error, 1)
	go func() {
		s, err := store.Create(t.Context(), store.Config{DSN: second, Key: key})
		if err == nil {
			err = s.Close()
		}
		done <- err
	}()
	for waiting := 0; waiting == 0; {
		select {
		case err := <-done:
			t.Fatalf("it did not wait: %v", err)
		case <-t.Context().Done():
			t.Fatal("nobody waits")
		default:
		}
		if err := first.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'warren'`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestT03_PlainLogin does under each login what goes through many tables: the
// database's own deletions along references pass the rules as well.
func TestT03_PlainLogin(t *testing.T) {
	eachLogin(t, func(t *testing.T, s *store.Store, admin string) {
		ann, bob := village(t, s)
		nest(t, s, bob)
		erase(t, s, bob.person)
		kept(t, s.Accounts(), func(tx account.Tx) error { return tx.DeleteHousehold(ann.id) })
		saved := backup(t, s, nil)
		if len(saved) == 0 {
			t.Error("the backup is empty")
		}
		db, err := sql.Open("pgx", admin)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for table, want := range map[string]string{"nodes": "1", "memberships": "0", "records": "0", "blobs": "1", "versions": "1", "hooks": "1", "accepted": "1", "deliveries": "1", "users": "1"} {
			if n := column(t, db, `SELECT COUNT(*) FROM `+table); n[0] != want {
				t.Errorf("%s has %s rows, want %s", table, n[0], want)
			}
		}
	})
}
