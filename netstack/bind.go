package netstack

import (
	"encoding/binary"
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
// its packets, the queue becomes slower and stays correct; TestMarkSurvives says
// so.

const (
	// markAt is where the mark lies, in bytes from the start of the buffer.
	markAt   = slotSize + 256
	markSize = 16
	// markMagic cannot be there by accident: the bytes past a packet are what
	// the last user of the buffer left, and peers choose some of those.
	markShift = 32
)

func mark(buf []byte, lane uint32) {
	if len(buf) < markAt+markSize {
		return
	}
	m := buf[markAt : markAt+markSize]
	binary.NativeEndian.PutUint64(m, uint64(lane)<<markShift|uint64(^lane))
	binary.NativeEndian.PutUint64(m[8:], ^(uint64(lane)<<markShift | uint64(^lane)))
}

// readMark returns the lane that buf was marked for, and takes the mark away.
func readMark(buf []byte) (lane uint32, ok bool) {
	if cap(buf) < markAt+markSize || len(buf) > markAt {
		return 0, false
	}
	m := buf[:markAt+markSize][markAt:]
	a, b := binary.NativeEndian.Uint64(m), binary.NativeEndian.Uint64(m[8:])
	lane = uint32(a >> markShift)
	if a != ^b || uint32(a) != ^lane {
		return 0, false
	}
	clear(m)
	return lane, true
}

// meter is a Bind that tells the queue what was sent, and remembers its port.
type meter struct {
	conn.Bind
	queue *queue
	port  atomic.Uint32
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
	n := 0
	for _, b := range bufs {
		if len(b) <= device.MessageKeepaliveSize {
			continue
		}
		l, ok := readMark(b)
		switch {
		case !ok:
		case l == lane:
			n++
		default:
			m.report(lane, n)
			lane, n = l, 1
		}
	}
	err := m.Bind.Send(bufs, ep)
	m.report(lane, n)
	return err
}

func (m *meter) report(lane uint32, n int) {
	if n > 0 {
		m.queue.left(lane, n)
	}
}
