package netstack

import (
	"encoding/binary"
	"slices"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// WireGuard does not say when a packet that it took from Read has left it. But
// a packet is encrypted where it lies: the buffer that Read filled is the one
// that the Bind is given to send. So Read marks each buffer, past the longest
// packet, with the lane it is for, and the Bind's Send reads the mark. A buffer
// without one (a handshake, a keep-alive) counts for nobody; a packet that never
// arrives here is taken for lost after stallTime. So if a later WireGuard copies
// its packets, the queue becomes slow and stays correct; TestMarkSurvives says
// so.
//
// The mark also says which policy allowed the packet. Attack: while a peer has
// no session, WireGuard keeps what is sent to it for a minute and a half, so a
// packet could wait out the policy that allowed it. What SetFilter has not seen
// leave when it returns is therefore dropped here, if it comes at all.

const (
	// markAt is where the mark lies, in bytes from the start of the buffer.
	markAt   = slotSize + 256
	markSize = 16
)

// mark notes in buf the lane that its packet is for and the epoch of the filter
// that allowed it, of which the low 32 bits do: nothing waits for 2^31 others.
// It is written twice, once inverted, so that it is not there by accident.
func mark(buf []byte, lane uint32, epoch uint64) {
	if len(buf) < markAt+markSize {
		return
	}
	m := buf[markAt : markAt+markSize]
	v := uint64(lane)<<32 | uint64(uint32(epoch))
	binary.NativeEndian.PutUint64(m, v)
	binary.NativeEndian.PutUint64(m[8:], ^v)
}

// readMark returns what buf was marked with, and takes the mark away.
func readMark(buf []byte) (lane, epoch uint32, ok bool) {
	if cap(buf) < markAt+markSize || len(buf) > markAt {
		return 0, 0, false
	}
	m := buf[:markAt+markSize][markAt:]
	v, inverted := binary.NativeEndian.Uint64(m), binary.NativeEndian.Uint64(m[8:])
	if v != ^inverted {
		return 0, 0, false
	}
	clear(m)
	return uint32(v >> 32), uint32(v), true
}

// meter is a Bind that tells the queue what was sent, and remembers its port.
type meter struct {
	conn.Bind
	queue *queue
	port  atomic.Uint32
	floor atomic.Uint32 // packets of older epochs are dropped, see SetFilter
	late  atomic.Uint64 // how many were
}

// Open implements conn.Bind.
func (m *meter) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, actual, err := m.Bind.Open(port)
	if err == nil {
		m.port.Store(uint32(actual))
	}
	return fns, actual, err
}

// Send implements conn.Bind. The marks are read before the packets are sent,
// for a Bind may use the room behind one packet to put the next beside it.
func (m *meter) Send(bufs [][]byte, ep conn.Endpoint) error {
	var lane uint32
	n, late, floor := 0, 0, m.floor.Load()
	for i, b := range bufs {
		if len(b) <= device.MessageKeepaliveSize {
			continue
		}
		l, epoch, ok := readMark(b)
		if ok && int32(epoch-floor) < 0 {
			if late == 0 {
				bufs = slices.Clone(bufs) // WireGuard's own list is left alone
			}
			bufs[i] = nil
			late++
		}
		switch {
		case !ok:
		case l == lane:
			n++
		default:
			m.report(lane, n)
			lane, n = l, 1
		}
	}
	if late > 0 {
		m.late.Add(uint64(late))
		bufs = slices.DeleteFunc(bufs, func(b []byte) bool { return b == nil })
	}
	var err error
	if len(bufs) > 0 {
		err = m.Bind.Send(bufs, ep)
	}
	m.report(lane, n)
	return err
}

func (m *meter) report(lane uint32, n int) {
	if n > 0 {
		m.queue.left(lane, n)
	}
}
