//go:build !cgo

package store

import (
	"context"
	"errors"
)

// errNoCgo: a hub built without cgo can still use PostgreSQL.
var errNoCgo = errors.New("this program was built without SQLCipher; build it with CGO_ENABLED=1, or use --db postgres://…")

func openSQLite(context.Context, Config) (*Store, error) { return nil, errNoCgo }

func createSQLite(context.Context, Config, func(*Tx) error) error { return errNoCgo }
