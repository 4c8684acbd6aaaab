//go:build !race

package udp_test

const patience = 1
