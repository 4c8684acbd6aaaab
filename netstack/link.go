package netstack

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is the network card of our own TCP/IP stack: what the stack sends is
// judged and queued, what arrives is given to it by the path. It takes TCP in
// pieces of up to 64 KiB and leaves checksums to the copy that has to be made
// anyway.
type link struct {
	path       *path
	mtu        atomic.Uint32
	dispatcher atomic.Pointer[stack.NetworkDispatcher]
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

func newLink(p *path, mtu int) *link {
	l := &link{path: p}
	l.mtu.Store(uint32(mtu))
	return l
}

// WritePackets never blocks and never fails: it may be called from inside
// Write, where waiting would hang the removal of a peer, and with locks of the
// stack held. What does not fit is dropped, as a network does.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	pkts := list.AsSlice()
	l.path.outgoing(pkts)
	return len(pkts), nil
}

// deliverer returns whom to give packets to, nil before the card is attached
// and after it was removed.
func (l *link) deliverer() stack.NetworkDispatcher {
	if d := l.dispatcher.Load(); d != nil {
		return *d
	}
	return nil
}

// Attach implements stack.LinkEndpoint.
func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}

// The rest of stack.LinkEndpoint and stack.GSOEndpoint.

func (l *link) IsAttached() bool                        { return l.dispatcher.Load() != nil }
func (l *link) MTU() uint32                             { return l.mtu.Load() }
func (l *link) SetMTU(mtu uint32)                       { l.mtu.Store(mtu) }
func (l *link) MaxHeaderLength() uint16                 { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress          { return "" }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (l *link) AddHeader(*stack.PacketBuffer)           {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *link) Wait()                                   {}
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}
func (l *link) SupportedGSO() stack.SupportedGSO        { return stack.HostGSOSupported }
func (l *link) GSOMaxSize() uint32                      { return 1<<16 - 1 }
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityTXChecksumOffload | stack.CapabilityRXChecksumOffload
}
