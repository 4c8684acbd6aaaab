package netstack

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/warrenmesh/warren/acl"
)

// registry knows what users of the stack hold open, so that a change of policy
// can end it. The zero value is empty.
type registry struct {
	mu     sync.Mutex
	open   map[handle]struct{}
	closed bool
}

// handle is a connection, a packet connection or a listener.
type handle interface {
	// end closes it with an error for its user. It may be called twice.
	end(err error)
}

// revocable is a handle with one peer at its far end.
type revocable interface {
	handle
	ends() (t tuple, isTCP bool)
}

// add registers h. It reports false after close: then h must not be used.
func (r *registry) add(h handle) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	if r.open == nil {
		r.open = make(map[handle]struct{})
	}
	r.open[h] = struct{}{}
	return true
}

func (r *registry) remove(h handle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, h)
}

// close ends everything and takes nothing more.
func (r *registry) close() {
	r.mu.Lock()
	r.closed = true
	all := make([]handle, 0, len(r.open))
	for h := range r.open {
		all = append(all, h)
	}
	r.mu.Unlock()
	for _, h := range all {
		h.end(ErrClosed)
	}
}

// cut ends every connection of the stack that match says, and returns how many.
// Both sides are told: the user by an error, the peer by a reset, which is let
// out although the policy may no longer allow the connection.
func (r *registry) cut(match func(t tuple, isTCP bool) bool, s *Stack) int {
	if s.net == nil {
		return 0
	}
	r.mu.Lock()
	var hit []revocable
	for h := range r.open {
		if c, ok := h.(revocable); ok {
			// A socket that is bound and has no one peer stays: its datagrams
			// are judged one by one.
			if t, isTCP := c.ends(); t.remote.IsValid() && match(t, isTCP) {
				hit = append(hit, c)
			}
		}
	}
	r.mu.Unlock()
	for _, c := range hit {
		t, isTCP := c.ends()
		if isTCP {
			s.path.dying.add(t.local, t.remote, s.path.now())
		}
		s.path.aborts.add(t)
		c.end(errRevoked)
		s.path.aborts.remove(t)
	}
	return len(hit) + s.cutUnclaimed(match)
}

// cutUnclaimed resets connections that no user holds: those not yet accepted,
// and those that were closed and still have data to send.
func (s *Stack) cutUnclaimed(match func(t tuple, isTCP bool) bool) int {
	n := 0
	for _, e := range s.net.RegisteredEndpoints() {
		ep, ok := e.(*tcp.Endpoint)
		if !ok || !lively(ep) {
			continue
		}
		local, err1 := ep.GetLocalAddress()
		remote, err2 := ep.GetRemoteAddress()
		if err1 != nil || err2 != nil {
			continue
		}
		t := tuple{addrPort(local), addrPort(remote)}
		if !t.remote.IsValid() || !match(t, true) {
			continue
		}
		s.path.dying.add(t.local, t.remote, s.path.now())
		s.path.aborts.add(t)
		ep.Abort()
		s.path.aborts.remove(t)
		n++
	}
	return n
}

// lively reports whether an endpoint has a peer that could still be told.
func lively(ep *tcp.Endpoint) bool {
	switch ep.EndpointState() {
	case tcp.StateEstablished, tcp.StateFinWait1, tcp.StateFinWait2, tcp.StateCloseWait,
		tcp.StateLastAck, tcp.StateClosing, tcp.StateSynRecv:
		return true
	}
	return false
}

// denied reports whether the policy in force refuses what the far end of a
// connection sends. Direction is the gate's to know: it allows what the filter
// lets the peer send here, and the answers to what this node has dialled.
func (s *Stack) denied(t tuple, isTCP bool) bool {
	if t.local.Addr() == t.remote.Addr() || s.isOwn(t.remote.Addr()) {
		return false // it never leaves this node
	}
	var b [maxHeader]byte
	var p acl.Packet
	_ = p.Parse(appendProbe(b[:0], t, isTCP))
	return !s.gate.Standing(&p)
}

// isOwn reports whether a is one of this node's addresses. It asks the stack,
// which has its own lock, since s.mu may be held.
func (s *Stack) isOwn(a netip.Addr) bool {
	// Not of a given card: for that question, gVisor takes any IPv4 address.
	return s.net.CheckLocalAddress(0, protocolOf(a), tcpip.AddrFromSlice(a.AsSlice())) != 0
}

// appendProbe appends the plainest packet from t's remote to its local end: a
// bare acknowledgement, or an empty datagram. It is only ever judged.
func appendProbe(dst []byte, t tuple, isTCP bool) []byte {
	proto, size := uint8(header.UDPProtocolNumber), header.UDPMinimumSize
	if isTCP {
		proto, size = uint8(header.TCPProtocolNumber), header.TCPMinimumSize
	}
	src, dest := t.remote.Addr().AsSlice(), t.local.Addr().AsSlice()
	at := header.IPv4MinimumSize
	if len(src) == 16 {
		at = header.IPv6MinimumSize
	}
	b := append(dst, make([]byte, at+size)...)[len(dst):]
	if len(src) == 16 {
		b[0], b[6], b[7] = 6<<4, proto, 64
		binary.BigEndian.PutUint16(b[4:], uint16(size))
		copy(b[8:24], src)
		copy(b[24:40], dest)
	} else {
		b[0], b[8], b[9] = 4<<4|5, 64, proto
		binary.BigEndian.PutUint16(b[2:], uint16(at+size))
		copy(b[12:16], src)
		copy(b[16:20], dest)
	}
	binary.BigEndian.PutUint16(b[at:], t.remote.Port())
	binary.BigEndian.PutUint16(b[at+2:], t.local.Port())
	if isTCP {
		b[at+12], b[at+13] = 5<<4, uint8(header.TCPFlagAck)
	} else {
		binary.BigEndian.PutUint16(b[at+4:], header.UDPMinimumSize)
	}
	return b
}
