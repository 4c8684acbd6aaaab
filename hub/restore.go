package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/warrenmesh/warren/hub/store"
)

// RestoreConfig says where a backup goes. Dir and Passphrase are needed.
type RestoreConfig struct {
	Dir        string
	DSN        string
	Key        store.Key // zero makes a new one in Dir
	Passphrase string
	// People is the file that was written with the backup: people's keys. nil
	// for none; then nobody's account comes back.
	People io.Reader
	// PeopleFile is where that file is, so that the hub takes out of it whoever
	// is erased later; "" if it was read from elsewhere.
	PeopleFile string
	Now        func() time.Time
}

// Restored is what a backup brought back.
type Restored = store.Restored

// Restore makes a hub from a backup: the same keys, machines and policy. It
// refuses to touch a directory that holds a hub. If it fails nothing is left
// behind, so that it can simply be tried again.
func Restore(ctx context.Context, cfg RestoreConfig, from io.Reader) (done Restored, err error) {
	if Exists(cfg.Dir) {
		return done, fmt.Errorf("restoring into %s: %w; use another --dir, or remove this one yourself", cfg.Dir, ErrInitialised)
	}
	if err := makeDir(cfg.Dir); err != nil {
		return done, err
	}
	var made []string
	defer func() {
		if err != nil {
			for _, f := range made {
				err = errors.Join(err, os.Remove(f))
			}
		}
	}()
	if cfg.Key.IsZero() {
		path := filepath.Join(cfg.Dir, keyFile)
		if cfg.Key, err = store.CreateKey(path); err != nil {
			return done, fmt.Errorf("creating store key: %w", err)
		}
		made = append(made, path)
	}
	if cfg.DSN != "" {
		path := filepath.Join(cfg.Dir, dsnFile)
		if err := os.WriteFile(path, []byte(strings.TrimSpace(cfg.DSN)+"\n"), 0o600); err != nil {
			return done, fmt.Errorf("writing where the store is: %w", err)
		}
		made = append(made, path)
	}
	sc := store.Config{Path: filepath.Join(cfg.Dir, dbFile), DSN: cfg.DSN, Key: cfg.Key, Now: cfg.Now}
	done, err = store.RestoreFrom(ctx, sc, store.From{Backup: from, People: cfg.People, Passphrase: []byte(cfg.Passphrase)})
	if err != nil || cfg.PeopleFile == "" {
		return done, err
	}
	// The store is whole: what fails from here on must not take its key away.
	made = nil
	return done, rememberPeople(ctx, sc, cfg.PeopleFile)
}

// rememberPeople notes where a people file is.
func rememberPeople(ctx context.Context, sc store.Config, path string) (err error) {
	st, err := store.Open(ctx, sc)
	if err != nil {
		return fmt.Errorf("noting %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return st.Keep(ctx, func(tx *store.Tx) error { return tx.RememberPeopleFile(path) })
}
