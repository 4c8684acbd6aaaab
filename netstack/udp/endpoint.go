package udp

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"strconv"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
)

// path is a remote address and the local address it spoke to, in a form that
// compares fast. IPv4 addresses are mapped into IPv6.
type path struct {
	dst   [16]byte
	src   [16]byte // zero: the kernel chooses
	scope uint32   // of a link-local dst or src: the interface index
	port  uint16
	v6    bool
}

// Endpoint is where a peer is. It is immutable but for the source address,
// which can be cleared once: the receive path makes a new one for the next
// datagram. So any number of goroutines and peers may hold the same Endpoint.
type Endpoint struct {
	path
	addr    netip.AddrPort
	epoch   uint32 // the Bind's epoch at which src was learned
	cleared atomic.Bool
}

var _ conn.Endpoint = (*Endpoint)(nil)

func newEndpoint(ap netip.AddrPort) (*Endpoint, error) {
	addr := ap.Addr().Unmap()
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || ap.Port() == 0 {
		return nil, fmt.Errorf("reading endpoint: %v is no address that can be sent to", ap)
	}
	p := pathOf(netip.AddrPortFrom(addr, ap.Port()))
	return &Endpoint{path: p, addr: netip.AddrPortFrom(addr, ap.Port())}, nil
}

// pathOf is the path without a source.
func pathOf(ap netip.AddrPort) path {
	addr := ap.Addr()
	p := path{dst: addr.As16(), port: ap.Port(), v6: addr.Is6()}
	if zone := addr.Zone(); zone != "" {
		p.scope = scopeOf(zone)
	}
	return p
}

func (p *path) addrPort() netip.AddrPort {
	addr := netip.AddrFrom16(p.dst)
	if !p.v6 {
		addr = addr.Unmap()
	} else if p.scope != 0 && addr.IsLinkLocalUnicast() {
		addr = addr.WithZone(strconv.FormatUint(uint64(p.scope), 10))
	}
	return netip.AddrPortFrom(addr, p.port)
}

func (e *Endpoint) is6() bool { return e.v6 }

// source returns the local address to send from, false to let the kernel
// choose: none was learned, it was cleared, or the sockets were replaced.
func (e *Endpoint) source(epoch uint32) (src [16]byte, ok bool) {
	if e.src == ([16]byte{}) || e.epoch != epoch || e.cleared.Load() {
		return src, false
	}
	return e.src, true
}

// ClearSrc implements conn.Endpoint.
func (e *Endpoint) ClearSrc() { e.cleared.Store(true) }

// SrcIP implements conn.Endpoint; the zero address if the kernel chooses.
func (e *Endpoint) SrcIP() netip.Addr {
	if e.src == ([16]byte{}) || e.cleared.Load() {
		return netip.Addr{}
	}
	return netip.AddrFrom16(e.src).Unmap()
}

// SrcToString implements conn.Endpoint.
func (e *Endpoint) SrcToString() string {
	if ip := e.SrcIP(); ip.IsValid() {
		return ip.String()
	}
	return ""
}

// DstIP implements conn.Endpoint.
func (e *Endpoint) DstIP() netip.Addr { return e.addr.Addr() }

// DstToString implements conn.Endpoint.
func (e *Endpoint) DstToString() string { return e.addr.String() }

// DstToBytes implements conn.Endpoint: what WireGuard's cookie is bound to.
func (e *Endpoint) DstToBytes() []byte {
	b := append(make([]byte, 0, 18), e.addr.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(b, e.addr.Port())
}

// AddrPort is where the endpoint is.
func (e *Endpoint) AddrPort() netip.AddrPort { return e.addr }

// endpoints keeps one Endpoint per path that was heard from lately, so that a
// datagram costs no allocation. It is a fixed table of small sets: forged
// sources can push entries out but not make it grow, and what is pushed out
// costs one allocation to come back. It belongs to one receiving goroutine.
type endpoints struct {
	seed maphash.Seed // a stranger must not be able to aim at a set
	last *Endpoint
	sets [][4]*Endpoint
	turn uint32
}

func newEndpoints(small bool) endpoints {
	sets := 1024
	if small {
		sets = 16
	}
	return endpoints{seed: maphash.MakeSeed(), sets: make([][4]*Endpoint, sets)}
}

// get returns the Endpoint for p.
func (t *endpoints) get(p *path, epoch uint32) *Endpoint {
	if t.last != nil && t.last.fits(p, epoch) {
		return t.last
	}
	set := &t.sets[maphash.Comparable(t.seed, *p)%uint64(len(t.sets))]
	free := -1
	for i, e := range set {
		if e == nil || e.path == *p { // a stale one of the same path is replaced
			free = i
			if e != nil && e.fits(p, epoch) {
				t.last = e
				return e
			}
			if e != nil {
				break
			}
		}
	}
	if free < 0 {
		t.turn++
		free = int(t.turn % uint32(len(set)))
	}
	e := &Endpoint{path: *p, addr: p.addrPort(), epoch: epoch}
	set[free], t.last = e, e
	return e
}

func (e *Endpoint) fits(p *path, epoch uint32) bool {
	return e.path == *p && e.epoch == epoch && !e.cleared.Load()
}
