package store

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/peer/account"
)

// Data is the store as services know it: one household at a time.
//
// Three things keep households apart here. The queries of package account's
// Scoped are run by methods that give the household as $1 and refuse a query
// that does not ask for it (confined). On PostgreSQL the transaction has taken
// a role that sees the household's rows and none else, whatever a query asks
// for. And what is a person's is sealed under that person's own key.
func (s *Store) Data() account.Data { return data{s} }

type data struct{ s *Store }

// Do changes something and records ev, both or neither. The audit entry is no
// household's: it is written under the role that sees everything, by this
// method and by no query of fn.
func (d data) Do(ctx context.Context, in account.Scope, ev account.Event, fn func(account.Scoped) error) error {
	return d.update(ctx, in, func(sc *scoped) error {
		if err := fn(sc); err != nil {
			return err
		}
		return sc.tx.asSystem(func() error {
			return sc.tx.Record(audit.Event{Actor: ev.Actor, Action: ev.Action, Target: ev.Target, Detail: ev.Detail})
		})
	})
}

// Keep is Do without a record.
func (d data) Keep(ctx context.Context, in account.Scope, fn func(account.Scoped) error) error {
	return d.update(ctx, in, func(sc *scoped) error { return fn(sc) })
}

// View reads one picture. A scope without a household finds nothing.
func (d data) View(ctx context.Context, in account.Scope, fn func(account.Scoped) error) error {
	if checkScope(in) != nil {
		return fmt.Errorf("reading a household's data: %w", ErrNotFound)
	}
	return d.s.transact(ctx, d.s.read, d.s.engine.snapshot, reach(in), func(tx *Tx) error {
		return fn(&scoped{tx: tx, in: in})
	})
}

func (d data) update(ctx context.Context, in account.Scope, fn func(*scoped) error) error {
	if err := checkScope(in); err != nil {
		return err
	}
	return d.s.transact(ctx, d.s.write, nil, reach(in), taking(func(tx *Tx) error {
		return fn(&scoped{tx: tx, in: in})
	}))
}

func reach(in account.Scope) func(*Tx) error {
	return func(tx *Tx) error { return tx.within(string(in.Household())) }
}

func checkScope(in account.Scope) error {
	h := string(in.Household())
	if h == "" || !storable(h, maxLabel) || strings.Contains(h, "/") || in.User() < 0 {
		return fmt.Errorf("%w: the scope names no household", ErrInvalid)
	}
	return nil
}

// scoped is a transaction inside one household. Its queries go through its own
// one, each, count, change and must, never through tx's.
type scoped struct {
	tx *Tx
	in account.Scope
}

// Now is the transaction's time.
func (sc *scoped) Now() time.Time { return sc.tx.now }

func (sc *scoped) household() string { return string(sc.in.Household()) }

// errUnconfined is a mistake in this package, found before it does harm.
var errUnconfined = fmt.Errorf("a query does not ask for its household: %w", ErrInvalid)

// The four forms of a query inside a household: one statement on one table,
// whose first condition is the household. An UPDATE sets the household to the
// same as well: SQLite numbers $1, $2, … in the order in which they first
// appear, so that is how $1 comes first.
var (
	confinedForm = regexp.MustCompile(`^(SELECT [^$]+ FROM [a-z_]+ WHERE household = \$1\b` +
		`|DELETE FROM [a-z_]+ WHERE household = \$1\b` +
		`|UPDATE [a-z_]+ SET household = \$1, [^()]+ WHERE household = \$1\b` +
		`|INSERT INTO [a-z_]+ \(household, [a-z_, ]+\)\s+VALUES \(\$1, [$0-9, ]+\) ON CONFLICT DO NOTHING$)`)
	loopholes = regexp.MustCompile(`(?i)\b(or|union|join|returning)\b|;|--|/\*`)
	verbs     = regexp.MustCompile(`(?i)\b(select|insert|update|delete|from)\b`)
)

// confined refuses a query that is not of one of these forms, or that has
// anything in it by which it could reach further.
func confined(query string) error {
	n := len(verbs.FindAllString(query, -1)) // SELECT and FROM, DELETE and FROM, or one
	if !confinedForm.MatchString(query) || loopholes.MatchString(query) || n > 2 || (n == 2 && strings.HasPrefix(query, "UPDATE")) {
		return errUnconfined
	}
	return nil
}

func (sc *scoped) args(args []any) []any { return append([]any{sc.household()}, args...) }

// one reads a single row; ErrNotFound if there is none. The household is $1,
// args begin at $2; and so below.
func (sc *scoped) one(doing, query string, args []any, dest ...any) error {
	if err := confined(query); err != nil {
		return err
	}
	return sc.tx.one(doing, query, sc.args(args), dest...)
}

func (sc *scoped) each(doing, query string, args []any, row func(scan func(...any) error) error) error {
	if err := confined(query); err != nil {
		return err
	}
	return sc.tx.each(doing, query, sc.args(args), row)
}

func (sc *scoped) count(doing, query string, args ...any) (n int64, err error) {
	err = sc.one(doing, query, args, &n)
	return n, err
}

func (sc *scoped) change(doing, query string, args ...any) (int64, error) {
	if err := confined(query); err != nil {
		return 0, err
	}
	return sc.tx.change(doing, query, sc.args(args)...)
}

// must is change for a row that has to be there.
func (sc *scoped) must(doing, query string, args ...any) error {
	n, err := sc.change(doing, query, args...)
	if err == nil && n == 0 {
		err = fmt.Errorf("%s: %w", doing, ErrNotFound)
	}
	return err
}

// insert is change for a row that must not be there, in a query with ON
// CONFLICT DO NOTHING: on PostgreSQL an error would end the transaction.
func (sc *scoped) insert(doing, query string, args ...any) error {
	n, err := sc.change(doing, query, args...)
	if err == nil && n == 0 {
		err = fmt.Errorf("%s: %w", doing, ErrExists)
	}
	return err
}

// member refuses a person who does not belong to the household.
func (sc *scoped) member(u account.UserID) error {
	n, err := sc.count("looking for the person", `SELECT COUNT(*) FROM memberships WHERE household = $1 AND user_id = $2`, int64(u))
	if err == nil && n == 0 {
		err = fmt.Errorf("looking for the person: %w", ErrNotFound)
	}
	return err
}

// owned refuses a node that does not belong to the household.
func (sc *scoped) owned(node string) error {
	if !storable(node, maxLabel) {
		return fmt.Errorf("looking for the node: %w", ErrNotFound)
	}
	n, err := sc.count("looking for the node", `SELECT COUNT(*) FROM nodes WHERE household = $1 AND id = $2`, node)
	if err == nil && n == 0 {
		err = fmt.Errorf("looking for the node: %w", ErrNotFound)
	}
	return err
}

// within runs one of the lists that transactions over all households have.
func within[T any](sc *scoped, list func(query string, args ...any) ([]T, error), query string, args ...any) ([]T, error) {
	if err := confined(query); err != nil {
		return nil, err
	}
	return list(query, sc.args(args)...)
}

// Members are the household's people, oldest first.
func (sc *scoped) Members() ([]account.Membership, error) {
	return within(sc, sc.tx.memberships, selectMemberships+` WHERE household = $1 ORDER BY joined, user_id`)
}

// Nodes are the household's, by id.
func (sc *scoped) Nodes() ([]account.Node, error) {
	return within(sc, sc.tx.nodes, selectNodes+` WHERE household = $1 ORDER BY id`)
}

// Node finds one of the household's by id.
func (sc *scoped) Node(id string) (account.Node, error) {
	if !storable(id, maxLabel) {
		return account.Node{}, ErrNotFound
	}
	return only(within(sc, sc.tx.nodes, selectNodes+` WHERE household = $1 AND id = $2`, id))
}
