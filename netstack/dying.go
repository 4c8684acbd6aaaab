package netstack

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/warrenmesh/warren/acl"
)

// dying remembers the TCP connections that a change of policy has just ended.
// Packets of them are still in the air, and which of the resets that answer
// them has the number that its receiver believes, nobody here knows; so each of
// them is answered, both ways, whatever the limit of answers says.
type dying struct {
	some  atomic.Bool // spares the lock while there are none
	mu    sync.Mutex
	until map[tuple]int64 // ns; both directions of a connection are one entry
}

const (
	dyingTime = int64(2e9) // ns
	dyingMost = 4096
)

// key is the same for both directions.
func (d *dying) key(a, b netip.AddrPort) tuple {
	if a.Compare(b) > 0 {
		a, b = b, a
	}
	return tuple{a, b}
}

// add notes a connection at now (ns). Beyond dyingMost, connections die with
// the ordinary resets.
func (d *dying) add(a, b netip.AddrPort, now int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.until == nil {
		d.until = make(map[tuple]int64)
	}
	if len(d.until) >= dyingMost {
		d.sweep(now)
	}
	if len(d.until) < dyingMost {
		d.until[d.key(a, b)] = now + dyingTime
		d.some.Store(true)
	}
}

func (d *dying) sweep(now int64) {
	for t, until := range d.until {
		if until < now {
			delete(d.until, t)
		}
	}
	d.some.Store(len(d.until) > 0)
}

// has reports whether pkt belongs to such a connection.
func (d *dying) has(pkt *acl.Packet, now int64) bool {
	if !d.some.Load() || pkt.Proto() != acl.ProtoTCP || pkt.Flags()&acl.FlagSYN != 0 {
		return false
	}
	k := d.key(netip.AddrPortFrom(pkt.Src(), pkt.SrcPort()), netip.AddrPortFrom(pkt.Dst(), pkt.DstPort()))
	d.mu.Lock()
	defer d.mu.Unlock()
	until, ok := d.until[k]
	if ok && until < now {
		d.sweep(now)
		return false
	}
	return ok
}
