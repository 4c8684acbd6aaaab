package netstack

import (
	"errors"
	"os"

	"golang.zx2c4.com/wireguard/tun"

	"github.com/warrenmesh/warren/acl"
)

// kernelOffset is the room that the kernel's interface wants before a packet
// for its own header (virtio-net, 10 bytes), rounded up.
const kernelOffset = 16

// readKernel takes packets from the kernel's interface, judges them and queues
// them, until the interface is closed. It is the kernel's counterpart to
// outgoing.
func (p *path) readKernel() {
	batch := p.kernel.BatchSize()
	bufs := make([][]byte, batch)
	for i := range bufs {
		bufs[i] = make([]byte, kernelOffset+slotSize)
	}
	sizes := make([]int, batch)
	var s scratch
	for {
		n, err := p.kernel.Read(bufs, sizes, kernelOffset)
		turn := p.fence.enter()
		now := p.now()
		for i := range n {
			if sizes[i] > 0 {
				p.fromKernel(&s, bufs[i][kernelOffset:kernelOffset+sizes[i]], now)
			}
		}
		p.fence.leave(turn)
		if err != nil && !errors.Is(err, tun.ErrTooManySegments) {
			if !errors.Is(err, os.ErrClosed) {
				p.log.Error("reading the tunnel interface failed; the tunnel is down", "error", err)
			}
			return
		}
	}
}

func (p *path) fromKernel(s *scratch, b []byte, now int64) {
	defer p.recovered("kernel")
	pkt := &s.packet
	epoch := p.gate.Epoch()
	_ = pkt.Parse(b)
	if v := p.gate.Out(pkt, now); !v.Allow {
		p.refuseOutgoing(b, pkt)
		return
	}
	l := p.table.Load().lookup(pkt.Dst())
	if l == nil {
		p.counts.noPeer.Add(1)
		p.refuseOutgoing(b, pkt)
		return
	}
	if pkt.Proto() == acl.ProtoTCP && pkt.Flags()&acl.FlagSYN != 0 {
		clampMSS(b, pkt.HeaderLen(), p.mtu)
	}
	it := newCopy(b)
	it.epoch = epoch
	p.queue.push(l, flowHash(b, pkt), it)
}
