package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The two roles that Warren's transactions take on PostgreSQL. They belong to
// the server, so that all databases on it share them; they cannot log in, own
// nothing, and row-level security holds for them. Who may log in to the
// server and is a member of them can use them in every database that lets him
// connect: a second hub gets a server of its own, or CONNECT is revoked from
// PUBLIC on each database.
const (
	roleSystem = "warren_system"
	roleTenant = "warren_tenant"
)

const (
	becomeSystem  = `SET LOCAL ROLE ` + roleSystem
	becomeTenant  = `SET LOCAL ROLE ` + roleTenant
	confineTenant = `SELECT set_config('warren.household', $1, true)`
)

// grantSystem runs after each migration, so that its new tables are within
// reach. What the tenant role may do is said by the migration itself: nothing,
// unless it says so.
const grantSystem = `DO $$ BEGIN
	EXECUTE format('GRANT USAGE ON SCHEMA %I TO ` + roleSystem + `, ` + roleTenant + `', current_schema());
	EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO ` + roleSystem + `', current_schema());
END $$`

// pinSchema fixes where a connection looks for tables. "$user", which the
// search path begins with unless told otherwise, is another one as soon as a
// role is taken; and nobody's temporary table comes before ours.
func pinSchema(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, `SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', false) WHERE current_schema() IS NOT NULL`)
	return err
}

// ErrRoles: the PostgreSQL user may neither use nor make the two roles. The
// error goes on with what an administrator has to run.
var ErrRoles = errors.New("the database user cannot take the roles that keep households apart; have an administrator of the server run")

// attempts is how often making a role is tried: another hub, of another
// database on the server, may be making the same one in the same moment.
const attempts = 5

// prepareRoles makes sure that both roles exist, are harmless and can be taken
// by the login.
func prepareRoles(ctx context.Context, s *Store) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, role := range []string{roleSystem, roleTenant} {
		var err error
		for range attempts {
			if err = s.prepareRole(ctx, role); err == nil || !racing(err) {
				break
			}
		}
		if code(err) == "42501" || code(err) == "0LP01" { // may not create it, may not grant it
			return s.missingRoles(ctx)
		}
		if err != nil {
			return s.fault("preparing the database's roles", err)
		}
	}
	return nil
}

func (s *Store) prepareRole(ctx context.Context, role string) error {
	exists, err := s.checkRole(ctx, role)
	if err != nil {
		return err
	}
	if !exists {
		if _, err := s.write.ExecContext(ctx, `CREATE ROLE `+role+` NOLOGIN`); err != nil {
			return err
		}
	}
	if err := s.takeRole(ctx, role); code(err) != "42501" {
		return err
	}
	if _, err := s.write.ExecContext(ctx, `GRANT `+role+` TO CURRENT_USER`); err != nil {
		return err
	}
	return s.takeRole(ctx, role)
}

// checkRole reports whether a role exists. One that could look around the
// rules is worse than none.
func (s *Store) checkRole(ctx context.Context, role string) (exists bool, err error) {
	var n, strong int64
	err = s.write.QueryRowContext(ctx, `SELECT COUNT(*), COUNT(*) FILTER (WHERE rolsuper OR rolbypassrls OR rolcanlogin OR rolcreaterole)
		FROM pg_roles WHERE rolname = $1`, role).Scan(&n, &strong)
	if err == nil && strong > 0 {
		err = fmt.Errorf("%w: ALTER ROLE %s NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE;", ErrRoles, role)
	}
	return n > 0, err
}

// takeRole tries whether the login can take a role.
func (s *Store) takeRole(ctx context.Context, role string) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `SET LOCAL ROLE `+role)
	return errors.Join(err, tx.Rollback())
}

// missingRoles is ErrRoles with what is missing.
func (s *Store) missingRoles(ctx context.Context) error {
	var user string
	if err := s.write.QueryRowContext(ctx, `SELECT quote_ident(current_user)`).Scan(&user); err != nil {
		return s.fault("preparing the database's roles", err)
	}
	var run []string
	for _, role := range []string{roleSystem, roleTenant} {
		exists, err := s.checkRole(ctx, role)
		if err != nil {
			return s.fault("preparing the database's roles", err)
		}
		if !exists {
			run = append(run, "CREATE ROLE "+role+" NOLOGIN;")
		}
	}
	run = append(run, "GRANT "+roleSystem+", "+roleTenant+" TO "+user+";")
	return fmt.Errorf("%w: %s", ErrRoles, strings.Join(run, " "))
}

func code(err error) string {
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// racing recognises that somebody else changed the same role just now.
func racing(err error) bool {
	e := code(err)
	return e == "42710" || e == "23505" || e == "XX000" // duplicate, unique, "tuple concurrently updated"
}
