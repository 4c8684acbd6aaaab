package store

import (
	"context"
	"io/fs"
)

// WithMigrations returns cfg with other migrations than the embedded ones.
func WithMigrations(cfg Config, dir fs.FS) Config {
	cfg.migrations = dir
	return cfg
}

// Embedded returns the migrations of this version.
func Embedded() fs.FS { return embedded }

// Raw runs SQL that the program never would, as somebody with the database in
// his hands could.
func Raw(ctx context.Context, s *Store, query string, args ...any) error {
	_, err := s.write.ExecContext(ctx, query, args...)
	return err
}

// RawText reads one value as text.
func RawText(ctx context.Context, s *Store, query string, args ...any) (text string, err error) {
	err = s.write.QueryRowContext(ctx, query, args...).Scan(&text)
	return text, err
}
