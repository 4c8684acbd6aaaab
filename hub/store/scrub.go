package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Scrub clears what the database keeps of rows that were deleted. In a
// SQLCipher file they are overwritten as they are deleted (secure_delete), but
// the write-ahead log still has the pages from before; it is moved into the
// file and cut to nothing. On PostgreSQL, where deleted rows stay in their
// pages, the tables with people's keys, homes and whereabouts are written anew, which
// locks each for as long as that takes; records, which nothing opens any more,
// are only vacuumed. What that server keeps elsewhere (its log and an archive of
// it, replicas, dumps) is out of reach: keep it no longer than an erasure may
// take.
func (s *Store) Scrub(ctx context.Context) error {
	if s.closed.Load() {
		return ErrClosed
	}
	scrub := s.scrubSQLite
	if s.lock == nil {
		scrub = s.scrubPostgres
	}
	if err := scrub(ctx); err != nil {
		return fmt.Errorf("clearing deleted rows: %w", err)
	}
	return nil
}

func (s *Store) scrubSQLite(ctx context.Context) error {
	var busy, frames, moved int64
	// It waits as long as busy_timeout for readers of an older picture.
	if err := s.write.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &frames, &moved); err != nil {
		return s.fault("cutting the write-ahead log", err)
	}
	if busy != 0 {
		return fmt.Errorf("cutting the write-ahead log: somebody reads in it, try again: %w", ErrLocked)
	}
	return nil
}

// scrubPatience is how long scrubPostgres waits for those who still look at an
// older picture.
const scrubPatience = 10 * time.Second

func (s *Store) scrubPostgres(ctx context.Context) error {
	c, err := s.write.Conn(ctx)
	if err != nil {
		return s.fault("taking a connection", err)
	}
	defer c.Close()
	run := func(query string) error {
		_, err := c.ExecContext(ctx, query)
		return s.fault("vacuuming", err)
	}
	if err := s.alone(ctx, c); err != nil {
		return err
	}
	if err := run(`SET statement_timeout = 0`); err != nil {
		return err
	}
	err = run(`VACUUM (FULL, ANALYZE) person_keys, users, recovery_codes, passkeys, known_machines, households, memberships,
			invitations, nodes, machine_keys, enrolments, sessions, refresh_tokens, auth_requests, devices`)
	if err == nil {
		err = run(`VACUUM records, access_log`)
	}
	return errors.Join(err, run(`SET statement_timeout = '10s'`))
}

// others counts the sessions of this database whose picture is older than a
// moment, and those of which an ordinary login is not told: VACUUM keeps what
// they could still see, and says nothing. Of a transaction that writes, in
// whichever database of the server, the picture that VACUUM itself takes says it.
const others = `SELECT COUNT(*) FILTER (WHERE backend_xmin::text::bigint < $1 & 4294967295) + (txid_snapshot_xmin(txid_current_snapshot()) < $1)::int,
		COUNT(*) FILTER (WHERE backend_xmin IS NULL AND state IS NULL)
	FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`

// alone waits until nobody looks at a picture from before. ErrLocked: somebody
// goes on; the caller tries again another time. Who cannot be looked at is
// waited for, and then taken for somebody who does nothing.
func (s *Store) alone(ctx context.Context, c *sql.Conn) error {
	var now int64 // a number that no transaction before has
	if err := c.QueryRowContext(ctx, `SELECT txid_current()`).Scan(&now); err != nil {
		return s.fault("asking for the time", err)
	}
	late := time.NewTimer(scrubPatience)
	defer late.Stop()
	for {
		var older, hidden int
		if err := c.QueryRowContext(ctx, others, now).Scan(&older, &hidden); err != nil {
			return s.fault("looking for readers", err)
		}
		if older+hidden == 0 {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
			continue
		case <-late.C:
			if older == 0 {
				return nil
			}
		case <-ctx.Done():
		}
		return fmt.Errorf("somebody reads in the database, try again: %w", ErrLocked)
	}
}
