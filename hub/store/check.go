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
