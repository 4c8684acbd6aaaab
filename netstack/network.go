package netstack

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// nic is the one network card of our stack.
const nic tcpip.NICID = 1

// Buffers per TCP connection, bytes. A connection starts at the default and
// grows to the maximum only if it moves data: 8 MiB fill 100 ms at 600 Mbit/s,
// 256 KiB fill 20 ms at the 100 Mbit/s that a Pi's Wi-Fi never reaches.
const (
	receiveMax, sendMax           = 8 << 20, 6 << 20
	receiveMaxSmall, sendMaxSmall = 256 << 10, 256 << 10
	bufferDefault                 = 1 << 20
	bufferDefaultSmall            = 64 << 10
	bufferMin                     = 4 << 10
)

// How long data, or the close of a connection that no user holds any more, is
// sent again to a machine that has vanished. gVisor's own limits, 15 times up to
// two minutes apart, keep the buffers for a quarter of an hour.
const (
	retransmitMost  = 30 * time.Second // between two tries
	retransmitTries = 13               // 38 s of doubling, then 6 times the most
	handshakeTries  = 4                // half a minute, for who dials and who accepts
)

// How long what is left of a closed connection is remembered, rather than a
// minute each: every connection that a peer opens and drops leaves one, so this
// bounds what it can pile up.
const (
	timeWait = 10 * time.Second
	finWait2 = 10 * time.Second
)

// newNetwork makes the TCP/IP stack. It has one card, no loopback, and answers
// for its own addresses only: no forwarding, no promiscuous mode, no packet to
// 127.0.0.0/8 or ::1 from outside, no neighbour or router discovery.
func newNetwork(l *link, small bool, addresses []netip.Addr) (_ *stack.Stack, err error) {
	n := stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: false}),
			ipv6.NewProtocolWithOptions(ipv6.Options{AllowExternalLoopbackTraffic: false}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		HandleLocal: true,
	})
	defer func() {
		if err != nil {
			n.Destroy()
		}
	}()
	if err := tune(n, small); err != nil {
		return nil, err
	}
	if err := fail(n.CreateNIC(nic, l)); err != nil {
		return nil, fmt.Errorf("creating the network card: %w", err)
	}
	n.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nic},
		{Destination: header.IPv6EmptySubnet, NIC: nic},
	})
	for _, a := range addresses {
		if err := addAddress(n, a); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// tune sets what gVisor's defaults leave slow or large. Selective
// acknowledgements, RACK and CUBIC are its defaults and work in this version.
//
// RACK has a price: once a whole window is lost (a phone that moves to another
// network in the middle of a download) it sends one segment per time-out, and
// the download stands still for up to 7 s. Without it that took 0.2 s; but what
// lost a few segments among other flows could stand still for more than 10 s,
// and sixteen streams reached 1.7 Gbit/s in the place of 4.1.
func tune(n *stack.Stack, small bool) error {
	sack := tcpip.TCPSACKEnabled(true)
	control := tcpip.CongestionControlOption("cubic")
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	in := tcpip.TCPReceiveBufferSizeRangeOption{Min: bufferMin, Default: bufferDefault, Max: receiveMax}
	out := tcpip.TCPSendBufferSizeRangeOption{Min: bufferMin, Default: bufferDefault, Max: sendMax}
	datagrams := bufferDefault
	if small {
		in = tcpip.TCPReceiveBufferSizeRangeOption{Min: bufferMin, Default: bufferDefaultSmall, Max: receiveMaxSmall}
		out = tcpip.TCPSendBufferSizeRangeOption{Min: bufferMin, Default: bufferDefaultSmall, Max: sendMaxSmall}
		datagrams = bufferDefaultSmall
	}
	maxRTO, retries := tcpip.TCPMaxRTOOption(retransmitMost), tcpip.TCPMaxRetriesOption(retransmitTries)
	syns := tcpip.TCPSynRetriesOption(handshakeTries)
	wait, linger := tcpip.TCPTimeWaitTimeoutOption(timeWait), tcpip.TCPLingerTimeoutOption(finWait2)
	for _, o := range []tcpip.SettableTransportProtocolOption{
		&sack, &control, &moderate, &in, &out, &maxRTO, &retries, &syns, &wait, &linger,
	} {
		if err := fail(n.SetTransportProtocolOption(tcp.ProtocolNumber, o)); err != nil {
			return fmt.Errorf("tuning TCP (%T): %w", o, err)
		}
	}
	if err := fail(n.SetOption(tcpip.ReceiveBufferSizeOption{Min: bufferMin, Default: datagrams, Max: receiveMax})); err != nil {
		return fmt.Errorf("sizing receive buffers: %w", err)
	}
	if err := fail(n.SetOption(tcpip.SendBufferSizeOption{Min: bufferMin, Default: datagrams, Max: sendMax})); err != nil {
		return fmt.Errorf("sizing send buffers: %w", err)
	}
	return nil
}

// fail turns gVisor's error into one of Go's.
func fail(err tcpip.Error) error {
	if err == nil {
		return nil
	}
	return errors.New(err.String())
}

func addAddress(n *stack.Stack, a netip.Addr) error {
	err := fail(n.AddProtocolAddress(nic, tcpip.ProtocolAddress{
		Protocol:          protocolOf(a),
		AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix(),
	}, stack.AddressProperties{}))
	if err != nil {
		return fmt.Errorf("adding address %v: %w", a, err)
	}
	return nil
}

// moveAddresses makes the card's addresses those of the list. The caller holds
// s.mu.
func (s *Stack) moveAddresses(list []netip.Addr) error {
	want := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		want[a] = true
	}
	have := make(map[netip.Addr]bool, len(s.addresses))
	lost := make(map[netip.Addr]bool)
	for _, a := range s.addresses {
		have[a] = true
		if !want[a] {
			lost[a] = true
		}
	}
	if len(lost) > 0 {
		s.conns.cut(func(t tuple, _ bool) bool { return lost[t.local.Addr()] }, s)
	}
	for a := range lost {
		if err := fail(s.net.RemoveAddress(nic, tcpip.AddrFromSlice(a.AsSlice()))); err != nil {
			return fmt.Errorf("removing address %v: %w", a, err)
		}
	}
	for _, a := range list {
		if !have[a] {
			if err := addAddress(s.net, a); err != nil {
				return err
			}
		}
	}
	return nil
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// fullAddress is gVisor's form of an address and port.
func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}

// addrPort is the way back, the invalid AddrPort for an empty address.
func addrPort(f tcpip.FullAddress) netip.AddrPort {
	a, ok := netip.AddrFromSlice(f.Addr.AsSlice())
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, f.Port)
}
