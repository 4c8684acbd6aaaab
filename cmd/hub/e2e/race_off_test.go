//go:build !race

package e2e_test

// raceEnabled has the programs built with the race detector too.
const raceEnabled = false
