package store_test

import (
	"io/fs"
	"testing/fstest"

	"github.com/warrenmesh/warren/hub/store"
)

// nextSchema is the schema as a later version could have it.
func nextSchema() fs.FS {
	first, err := fs.ReadFile(store.Embedded(), "migrations/0001_first.sql")
	if err != nil {
		panic(err)
	}
	return fstest.MapFS{
		"0001_first.sql": {Data: first},
		"0002_next.sql": {Data: []byte(`ALTER TABLE peers ADD COLUMN note TEXT NOT NULL DEFAULT '';
			CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT NOT NULL)`)},
	}
}

// brokenSchema fails in the middle of its second step.
func brokenSchema() fs.FS {
	steps := nextSchema().(fstest.MapFS)
	steps["0002_next.sql"].Data = append(steps["0002_next.sql"].Data, `; INSERT INTO nowhere VALUES (1)`...)
	return steps
}
