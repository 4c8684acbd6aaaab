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

// migration is one step of the schema, a file NNNN_name.sql. A file
// NNNN_name.ENGINE.sql is run after it on that engine, in the same transaction.
// Steps are never edited once released; a new one is added. They run as the
// owner of the tables; one that changes rows of a table with households in it
// says SET LOCAL ROLE warren_system first on PostgreSQL, or it sees none.
type migration struct {
	version int64
	name    string
	text    string
	only    map[string]string // what follows on one engine, by its name
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
	only := make(map[string]map[string]string)
	for _, e := range entries {
		number, rest, ok := strings.Cut(e.Name(), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		rest, sql := strings.CutSuffix(rest, ".sql")
		if !ok || !sql || err != nil {
			return nil, fmt.Errorf("reading migrations: %s is not called NNNN_name.sql", e.Name())
		}
		text, err := fs.ReadFile(dir, e.Name())
		if err != nil {
			return nil, fmt.Errorf("reading migrations: %w", err)
		}
		name := number + "_" + rest
		if base, engine, ok := strings.Cut(name, "."); ok {
			if only[base] == nil {
				only[base] = make(map[string]string)
			}
			only[base][engine] = string(text)
			continue
		}
		if only[name] == nil {
			only[name] = make(map[string]string)
		}
		steps = append(steps, migration{version, e.Name(), string(text), only[name]})
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
	if err := s.prepare(ctx); err != nil {
		return err
	}
	return s.migrateSlowly(ctx, func(tx *Tx) error {
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
		if err := tx.everywhere(); err != nil {
			return err
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
	own := m.only[tx.s.engine.name]
	if err := tx.exec("migrating with "+m.name, own); err != nil {
		return err
	}
	if err := tx.exec("migrating with "+m.name, tx.s.engine.granted); err != nil {
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
	err = s.transact(ctx, s.read, s.engine.snapshot, (*Tx).asOwner, func(tx *Tx) error {
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
	if err := s.prepare(ctx); err != nil {
		return err
	}
	for _, m := range steps[version:] {
		err := s.migrateSlowly(ctx, func(tx *Tx) error {
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

// prepare makes what the schema needs and a transaction cannot make.
func (s *Store) prepare(ctx context.Context) error {
	if s.engine.prepare == nil {
		return nil
	}
	return s.engine.prepare(ctx, s)
}

// migrateSlowly is a writing transaction of the tables' owner, without time
// limits.
func (s *Store) migrateSlowly(ctx context.Context, fn func(*Tx) error) error {
	return s.transactSlowly(ctx, s.write, nil, (*Tx).asOwner, func(tx *Tx) error {
		tx.writes = true
		if err := tx.exec("lifting time limit", s.engine.unlimited); err != nil {
			return err
		}
		return taking(fn)(tx)
	})
}
