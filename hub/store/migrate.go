package store

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql
var embedded embed.FS

// migration is one step of the schema, a file NNNN_name.sql. Steps are never
// edited once released; a new one is added.
type migration struct {
	version int64
	name    string
	text    string
}

func (cfg Config) steps() ([]migration, error) {
	dir := cfg.migrations
	if dir == nil {
		sub, err := fs.Sub(embedded, "migrations")
		if err != nil {
			return nil, fmt.Errorf("reading migrations: %w", err)
		}
		dir = sub
	}
	entries, err := fs.ReadDir(dir, ".")
	if err != nil {
		return nil, fmt.Errorf("reading migrations: %w", err)
	}
	var steps []migration
	for _, e := range entries {
		number, _, ok := strings.Cut(e.Name(), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("reading migrations: %s is not called NNNN_name.sql", e.Name())
		}
		text, err := fs.ReadFile(dir, e.Name())
		if err != nil {
			return nil, fmt.Errorf("reading migrations: %w", err)
		}
		steps = append(steps, migration{version, e.Name(), string(text)})
	}
	slices.SortFunc(steps, func(a, b migration) int { return cmp.Compare(a.version, b.version) })
	for i, m := range steps {
		if m.version != int64(i+1) {
			return nil, fmt.Errorf("reading migrations: %s should be number %d", m.name, i+1)
		}
	}
	return steps, nil
}

const createMigrations = `CREATE TABLE migrations (version BIGINT PRIMARY KEY, name TEXT NOT NULL, applied BIGINT NOT NULL)`

// Internal rows of table meta; SetMeta refuses the prefix.
const (
	metaPrefix   = "store."
	metaKeyCheck = metaPrefix + "key-check" // sealed: tells a wrong key from damage
	metaAudit    = metaPrefix + "audit"     // sealed: the checkpoint of the audit chain
	metaEpoch    = metaPrefix + "epoch"
	metaPlan     = metaPrefix + "plan"
	keyCheck     = "this is the right key"
)

// initialised reports whether the database holds a store.
func (tx *Tx) initialised() (bool, error) {
	n, err := tx.count("looking for the store", tx.s.engine.hasTable, "migrations")
	return n > 0, err
}

// build makes the schema and its first rows in one transaction, then runs load
// in the same one, nil for none.
func (s *Store) build(ctx context.Context, cfg Config, load func(*Tx) error) error {
	steps, err := cfg.steps()
	if err != nil {
		return err
	}
	return s.updateSlowly(ctx, func(tx *Tx) error {
		if there, err := tx.initialised(); err != nil {
			return err
		} else if there {
			return fmt.Errorf("the database holds a store: %w", ErrExists)
		}
		if err := tx.exec("creating schema", createMigrations); err != nil {
			return err
		}
		for _, m := range steps {
			if err := tx.migrate(m); err != nil {
				return err
			}
		}
		if err := tx.setSealedMeta(metaKeyCheck, []byte(keyCheck)); err != nil {
			return err
		}
		if err := tx.setEpoch(1); err != nil {
			return err
		}
		if err := tx.setAuditHead(zeroHead); err != nil {
			return err
		}
		if load == nil {
			return nil
		}
		return load(tx)
	})
}

func (tx *Tx) migrate(m migration) error {
	if err := tx.exec("migrating with "+m.name, m.text); err != nil {
		return err
	}
	return tx.exec("migrating with "+m.name,
		`INSERT INTO migrations (version, name, applied) VALUES ($1, $2, $3)`, m.version, m.name, nanos(tx.now))
}

// ready checks the version and the key, in that order and without writing,
// then brings the schema up to date.
func (s *Store) ready(ctx context.Context, cfg Config) error {
	steps, err := cfg.steps()
	if err != nil {
		return err
	}
	var version int64
	err = s.View(ctx, func(tx *Tx) error {
		there, err := tx.initialised()
		if err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("the database holds no store, create one first: %w", ErrNotFound)
		}
		if version, err = tx.count("reading schema version", `SELECT COALESCE(MAX(version), 0) FROM migrations`); err != nil {
			return err
		}
		if version > int64(len(steps)) {
			return fmt.Errorf("schema %d, this program knows %d: %w", version, len(steps), ErrNewer)
		}
		return tx.checkKey()
	})
	if err != nil {
		return err
	}
	for _, m := range steps[version:] {
		err := s.updateSlowly(ctx, func(tx *Tx) error {
			// Another hub on the same database may have been faster.
			n, err := tx.count("reading schema version", `SELECT COUNT(*) FROM migrations WHERE version = $1`, m.version)
			if err != nil || n > 0 {
				return err
			}
			return tx.migrate(m)
		})
		if err != nil {
			return err
		}
		s.log.Info("store migrated", "step", m.name)
	}
	return nil
}

// updateSlowly is a writing transaction without time limits.
func (s *Store) updateSlowly(ctx context.Context, fn func(*Tx) error) error {
	return s.transactSlowly(ctx, s.write, nil, func(tx *Tx) error {
		tx.writes = true
		if err := tx.exec("lifting time limit", s.engine.unlimited); err != nil {
			return err
		}
		if err := tx.exec("taking turns", s.engine.begin); err != nil {
			return err
		}
		return fn(tx)
	})
}
