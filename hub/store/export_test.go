package store

import "io/fs"

// WithMigrations returns cfg with other migrations than the embedded ones.
func WithMigrations(cfg Config, dir fs.FS) Config {
	cfg.migrations = dir
	return cfg
}

// Embedded returns the migrations of this version.
func Embedded() fs.FS { return embedded }
