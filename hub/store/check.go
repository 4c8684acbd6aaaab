package store

import (
	"context"
	"fmt"
)

// Check looks over the store while it is in use: that the database answers,
// that its structures are whole (SQLCipher), and that the key opens what is
// sealed in it.
func (s *Store) Check(ctx context.Context) error {
	if s.lock != nil {
		if err := s.quickCheck(ctx); err != nil {
			return fmt.Errorf("checking store: %w", err)
		}
	}
	return s.View(ctx, (*Tx).checkKey)
}

// quickCheck has SQLite look over its own structures, which catches a file
// that was cut at a page boundary.
func (s *Store) quickCheck(ctx context.Context) error {
	var verdict string
	if err := s.write.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&verdict); err != nil {
		return s.fault("checking the file", err)
	}
	if verdict != "ok" {
		return fmt.Errorf("checking the file: %w", ErrCorrupt)
	}
	return nil
}
