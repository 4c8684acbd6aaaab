//go:build linux && !android

package udp

import "net/netip"

func batchSize(cfg Config) int {
	switch {
	case cfg.ListenPacket != nil:
		return 1
	case cfg.Small:
		return 8
	}
	return 128
}

func (b *Bind) listenKernel(network string, at netip.AddrPort) (transport, error) {
	uc, err := b.listenUDP(network, at)
	if err != nil {
		return nil, err
	}
	return newPlain(b, uc), nil
}
