package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/warrenmesh/warren/acl"
)

// pingInterval is when an echo request that has no answer is sent again: the
// first of a session may be lost while the handshake runs.
const pingInterval = time.Second

// Ping sends an ICMP echo to a machine on the mesh, again every second until
// ctx is over, and returns how long the answer took.
func (s *Stack) Ping(ctx context.Context, dst netip.Addr) (time.Duration, error) {
	d, err := s.ping(ctx, dst.Unmap())
	if err != nil {
		return 0, fmt.Errorf("pinging %v: %w", dst, err)
	}
	return d, nil
}

func (s *Stack) ping(ctx context.Context, dst netip.Addr) (time.Duration, error) {
	if err := s.ready(); err != nil {
		return 0, err
	}
	src, err := s.source(netip.Addr{}, dst)
	if err != nil {
		return 0, err
	}
	proto := icmp.ProtocolNumber4
	if dst.Is6() {
		proto = icmp.ProtocolNumber6
	}
	wq := new(waiter.Queue)
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	ep, err := s.bound(proto, wq, netip.AddrPortFrom(src, 0))
	if err != nil {
		return 0, err
	}
	d := &dialing{ep: ep, failed: make(chan struct{})}
	if !s.conns.add(d) {
		ep.Close()
		return 0, ErrClosed
	}
	defer s.conns.remove(d)
	defer d.end(nil)
	if err := fail(ep.Connect(fullAddress(netip.AddrPortFrom(dst, 0)))); err != nil {
		return 0, err
	}
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for seq := uint16(1); ; seq++ {
		sent := time.Now()
		if err := s.sendEcho(ep, src, dst, seq); err != nil {
			return 0, err
		}
		for waiting := true; waiting; {
			if echoed(ep, seq) {
				return time.Since(sent), nil
			}
			select {
			case <-ready:
			case <-tick.C:
				waiting = false
			case <-d.failed:
				return 0, ErrClosed
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
	}
}

// sendEcho sends one echo request. A refusal is known here and now: the same
// packet is judged before it is sent.
func (s *Stack) sendEcho(ep tcpip.Endpoint, src, dst netip.Addr, seq uint16) error {
	local, err := ep.GetLocalAddress()
	if err != nil {
		return fail(err)
	}
	b := appendProbe(nil, tuple{netip.AddrPortFrom(dst, 0), netip.AddrPortFrom(src, 0)}, false)
	at := len(b) - header.UDPMinimumSize
	echo := b[at:]
	clear(echo)
	if dst.Is4() {
		b[9] = uint8(header.ICMPv4ProtocolNumber)
		echo[0] = uint8(header.ICMPv4Echo)
	} else {
		b[6] = uint8(header.ICMPv6ProtocolNumber)
		echo[0] = uint8(header.ICMPv6EchoRequest)
	}
	binary.BigEndian.PutUint16(echo[4:], local.Port)
	binary.BigEndian.PutUint16(echo[6:], seq)
	var p acl.Packet
	_ = p.Parse(b)
	if !s.isOwn(dst) {
		if v := s.gate.Out(&p, s.gate.Now()); !v.Allow {
			return errors.New("refused: " + v.Reason.String())
		}
	}
	_, err = ep.Write(bytes.NewReader(echo), tcpip.WriteOptions{})
	return fail(err)
}

// echoed reads answers until there are no more, and reports whether one is to
// seq.
func echoed(ep tcpip.Endpoint, seq uint16) bool {
	for {
		var b bytes.Buffer
		if _, err := ep.Read(&b, tcpip.ReadOptions{}); err != nil {
			return false
		}
		if m := b.Bytes(); len(m) >= 8 && binary.BigEndian.Uint16(m[6:]) == seq {
			return true
		}
	}
}
