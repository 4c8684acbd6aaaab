package spoke

import (
	"time"

	"golang.org/x/sys/unix"
)

// clocks reads CLOCK_MONOTONIC, which stands still while the machine sleeps,
// and CLOCK_BOOTTIME, which does not. Nobody can set either.
func clocks() instant {
	var mono, boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return instant{}
	}
	return instant{mono: time.Duration(mono.Nano()), boot: time.Duration(boot.Nano())}
}

// machineMemory returns the bytes of memory, 0 if that is unknown.
func machineMemory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(max(info.Unit, 1))
}
