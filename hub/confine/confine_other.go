//go:build !linux || (!amd64 && !arm64)

package confine

import "context"

// Apply reports that there is no such lock here.
func Apply() error { return ErrUnsupported }

// Check reports that there is no such lock here.
func Check(context.Context) error { return ErrUnsupported }
