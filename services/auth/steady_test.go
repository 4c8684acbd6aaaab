package auth

import (
	"testing"
	"time"
)

// TestSteadyClock: a clock that was set, ahead or back, is not believed for a
// while; one that goes on is, however long nobody looked.
func TestSteadyClock(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var c steadyClock
	for _, look := range []struct {
		wall, running, want time.Duration
	}{
		{0, 0, 0},
		{time.Minute, time.Minute, time.Minute},
		{3 * time.Hour, 3 * time.Hour, 3 * time.Hour}, // asleep in between
		{3*time.Hour + 50*time.Second, 3*time.Hour + time.Second, 3*time.Hour + time.Second}, // nudged
		{365 * day, 4 * time.Hour, 0}, // a year ahead
		{365*day + time.Hour, 5 * time.Hour, time.Hour},
		{6 * time.Hour, 6 * time.Hour, 0}, // and back
		{8 * time.Hour, 8 * time.Hour, 2 * time.Hour},
	} {
		if got := c.steady(at.Add(look.wall), look.running); got != look.want {
			t.Errorf("at %v: %v, want %v", look.running, got, look.want)
		}
	}
}
