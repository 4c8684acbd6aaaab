//go:build !linux

package spoke

import (
	"sync"
	"time"
)

// clocks compares Go's monotonic clock with the wall clock. If the monotonic
// one counts sleep on this system, other signs (addresses, silence) must do. A
// wall clock that is set looks like sleep, and costs one handshake.
func clocks() instant {
	now := time.Now()
	return instant{mono: now.Sub(processStart()), boot: time.Duration(now.UnixNano())}
}

// processStart is any fixed moment with a monotonic reading.
var processStart = sync.OnceValue(time.Now)

// machineMemory returns 0: unknown. Such machines are no Pi.
func machineMemory() uint64 { return 0 }
