//go:build race

package udp_test

// patience stretches limits of time under the race detector, which makes
// handshakes an order of magnitude slower.
const patience = 10
