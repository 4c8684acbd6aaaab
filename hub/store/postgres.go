package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// connections is how many a hub holds to PostgreSQL at once.
const connections = 8

// turn is the advisory lock that makes writers take turns: the same rule that
// SQLite has, and across hubs. The number only has to be the same everywhere.
const turn = `SELECT pg_advisory_xact_lock(7305804402566946866)`

func postgresEngine() engine {
	return engine{
		name:      "postgresql",
		hasTable:  `SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = $1`,
		begin:     turn,
		system:    becomeSystem,
		tenant:    becomeTenant,
		confine:   confineTenant,
		unlimited: `SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0`,
		snapshot:  &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true},
		classify:  classifyPostgres,
		dead:      isDead,
		prepare:   prepareRoles,
		granted:   grantSystem,
	}
}

// connectPostgres opens the pool and makes sure that the server answers.
func connectPostgres(ctx context.Context, cfg Config) (*Store, error) {
	if !strings.HasPrefix(cfg.DSN, "postgres://") && !strings.HasPrefix(cfg.DSN, "postgresql://") {
		return nil, ErrDSN
	}
	conn, err := pgx.ParseConfig(cfg.DSN)
	if err != nil {
		// The parser's error quotes the address.
		return nil, ErrDSN
	}
	conn.ConnectTimeout = min(max(conn.ConnectTimeout, time.Second), timeout/2)
	if conn.ConnectTimeout == time.Second {
		conn.ConnectTimeout = timeout / 2
	}
	for name, value := range map[string]string{
		"application_name": "warren",
		// A server that stalls gives up by itself, so that it does not go on
		// with what nobody waits for any more.
		"statement_timeout":                   "10s",
		"lock_timeout":                        "10s",
		"idle_in_transaction_session_timeout": "60s",
		"timezone":                            "UTC",
	} {
		conn.RuntimeParams[name] = value
	}
	s, err := newStore(cfg, postgresEngine())
	if err != nil {
		return nil, err
	}
	s.write = stdlib.OpenDB(*conn, stdlib.OptionAfterConnect(pinSchema))
	s.write.SetMaxOpenConns(connections)
	s.write.SetMaxIdleConns(connections)
	s.write.SetConnMaxIdleTime(5 * time.Minute)
	s.read = s.write
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := s.write.PingContext(ctx); err != nil {
		return nil, errors.Join(s.fault("connecting", err), s.write.Close())
	}
	return s, nil
}

// classifyPostgres turns PostgreSQL's error codes into our errors. The server's
// words are left out where they can quote a value or the address.
func classifyPostgres(err error) error {
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		switch {
		case e.Code == "23505": // unique_violation
			return ErrExists
		case e.Code == "23503": // foreign_key_violation: what it belongs to
			return ErrNotFound
		case e.Code == "28P01" || e.Code == "28000": // invalid_password, invalid_authorization
			return fmt.Errorf("%w: the server refuses the user or the password", ErrUnavailable)
		case e.Code == "3D000": // invalid_catalog_name
			return fmt.Errorf("%w: the server has no such database", ErrUnavailable)
		case e.Code == "53100": // disk_full
			return ErrStorage
		case e.Code == "57014" || e.Code == "55P03": // query_canceled, lock_not_available
			return fmt.Errorf("%w: it took too long", ErrUnavailable)
		case e.Code == "42501": // insufficient_privilege
			return fmt.Errorf("%w: the user may not do this in the database", ErrUnavailable)
		case strings.HasPrefix(e.Code, "XX"): // internal error, data corrupted
			return ErrCorrupt
		case strings.HasPrefix(e.Code, "08"), strings.HasPrefix(e.Code, "53"), strings.HasPrefix(e.Code, "57"), strings.HasPrefix(e.Code, "40"):
			return fmt.Errorf("%w (code %s)", ErrUnavailable, e.Code)
		}
		return fmt.Errorf("the database refused (code %s)", e.Code)
	}
	var connecting *pgconn.ConnectError
	var network net.Error
	var dial *net.OpError
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return fmt.Errorf("%w (%s)", ErrUnavailable, errno.Error())
	case errors.As(err, &connecting), errors.As(err, &network), errors.As(err, &dial),
		errors.Is(err, sql.ErrConnDone), pgconn.SafeToRetry(err), isBroken(err):
		return ErrUnavailable
	}
	return nil
}

// isDead reports whether a connection from the pool turned out to be dead, as
// opposed to a server that cannot be reached.
func isDead(err error) bool {
	var connecting *pgconn.ConnectError
	return !errors.As(err, &connecting) && errors.Is(classifyPostgres(err), ErrUnavailable)
}

// isBroken recognises a connection that ended in the middle.
func isBroken(err error) bool {
	s := err.Error()
	return strings.Contains(s, "unexpected EOF") || strings.Contains(s, "conn closed") || strings.Contains(s, "bad connection")
}
