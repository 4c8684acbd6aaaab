package store_test

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
	"testing/fstest"

	"github.com/warrenmesh/warren/hub/store"
)

// nextSchema is the schema as a later version could have it: one step more.
func nextSchema() fs.FS {
	steps := fstest.MapFS{}
	files, err := fs.Glob(store.Embedded(), "migrations/*.sql")
	if err != nil {
		panic(err)
	}
	last := ""
	for _, f := range files {
		text, err := fs.ReadFile(store.Embedded(), f)
		if err != nil {
			panic(err)
		}
		steps[path.Base(f)] = &fstest.MapFile{Data: text}
		last = max(last, path.Base(f))
	}
	n := 0
	if _, err := fmt.Sscanf(last, "%04d_", &n); err != nil {
		panic(err)
	}
	steps[fmt.Sprintf("%04d_next.sql", n+1)] = &fstest.MapFile{Data: []byte(`ALTER TABLE peers ADD COLUMN note TEXT NOT NULL DEFAULT '';
		CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT NOT NULL)`)}
	return steps
}

// brokenSchema fails in the middle of its last step.
func brokenSchema() fs.FS {
	steps := nextSchema().(fstest.MapFS)
	for name, f := range steps {
		if strings.HasSuffix(name, "_next.sql") {
			f.Data = append(f.Data, `; INSERT INTO nowhere VALUES (1)`...)
		}
	}
	return steps
}
