//go:build !linux || android

package udp

import "net/netip"

// batchSize is 1: datagrams come one at a time here.
func batchSize(Config) int { return 1 }

func (b *Bind) listenKernel(network string, at netip.AddrPort) (transport, error) {
	uc, err := b.listenUDP(network, at)
	if err != nil {
		return nil, err
	}
	return newPlain(b, uc), nil
}

// setMark does nothing: routing marks exist on Linux only.
func setMark(PacketConn, uint32) error { return nil }
