package udp

import (
	"net/netip"
	"sync/atomic"
)

// Stats is what a Bind has done since New. Datagrams received include those
// dropped.
type Stats struct {
	RxDatagrams, RxBytes uint64
	TxDatagrams, TxBytes uint64
	RxErrors, TxErrors   uint64 // of the socket, not of the datagrams
	Dropped              Dropped
	Knocks               KnockStats
	V4, V6               SocketStats // zero if the family is not bound
	// Sources is how many sources have spent of their handshake budget, of
	// SourcesMax that can be told apart.
	Sources, SourcesMax int
}

// Dropped counts datagrams that never reached the device, by cause.
type Dropped struct {
	Size      uint64 // too short, or not the size of its type
	Type      uint64 // no type of WireGuard's or ours
	MAC       uint64 // a handshake message or knock not made with our key
	Flood     uint64 // over the budget of its source
	Unasked   uint64 // a response or cookie to nothing that was sent
	Knock     uint64 // a knock that failed its checks, or that is not for us
	Truncated uint64 // cut by the kernel
}

// KnockStats counts knocks on the hub's side.
type KnockStats struct {
	Replied  uint64 // cookies sent
	Accepted uint64 // OnKnock calls
}

// SocketStats describes one socket.
type SocketStats struct {
	Addr                    netip.AddrPort // the local address
	GSO, GRO                bool           // super-datagrams out and in
	ReadBuffer, WriteBuffer int            // bytes granted; 0 if unknown
}

type counters struct {
	rxDatagrams, rxBytes   atomic.Uint64
	txDatagrams, txBytes   atomic.Uint64
	recvErrors, sendErrors atomic.Uint64

	size, kind, mac, flood, unasked, knock, truncated atomic.Uint64
	replied, accepted                                 atomic.Uint64
}

func (c *counters) rx(datagrams, bytes int) {
	c.rxDatagrams.Add(uint64(datagrams))
	c.rxBytes.Add(uint64(bytes))
}

// Stats returns the counters and the state of the sockets.
func (b *Bind) Stats() Stats {
	c := &b.count
	s := Stats{
		RxDatagrams: c.rxDatagrams.Load(), RxBytes: c.rxBytes.Load(),
		TxDatagrams: c.txDatagrams.Load(), TxBytes: c.txBytes.Load(),
		RxErrors: c.recvErrors.Load(), TxErrors: c.sendErrors.Load(),
		Dropped: Dropped{
			Size: c.size.Load(), Type: c.kind.Load(), MAC: c.mac.Load(), Flood: c.flood.Load(),
			Unasked: c.unasked.Load(), Knock: c.knock.Load(), Truncated: c.truncated.Load(),
		},
		Knocks: KnockStats{Replied: c.replied.Load(), Accepted: c.accepted.Load()},
	}
	s.SourcesMax, s.Sources = b.gate.limit.size(b.now())
	if t := b.v4.sock.Load(); t != nil {
		s.V4 = (*t).info()
	}
	if t := b.v6.sock.Load(); t != nil {
		s.V6 = (*t).info()
	}
	return s
}
