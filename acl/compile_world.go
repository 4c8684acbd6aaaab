package acl

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/warrenmesh/warren/peer"
)

// The services that the built-in rules speak of. They count only when the hub
// itself offers them: a peer cannot take such a name.
const (
	serviceEnrol   = "enrol"
	serviceSync    = "sync"
	serviceConsole = "console"
)

// machine is whatever a selector can select: a peer, a service, or a ghost.
//
// A ghost stands for a machine that does not exist yet: one for each user the
// policy knows, each tag and each household. Ghosts have no address, so no
// packet is ever theirs, but proofs and tests see them. So "no guest ever
// reaches the console" is refuted before the first guest joins.
type machine struct {
	index     uint16 // 0: a ghost
	id        peer.ID
	name      string // a peer's or service's name
	owner     string // "" if there is none or the machine is tagged
	household string
	tags      []string
	flags     nodeFlags
	ports     []Port      // services only
	offer     []portRange // the same, with ping
	host      peer.ID
	src       uint16 // classes, as in node
	dst, wide uint16
}

func (m *machine) service() bool { return m.flags&flagService != 0 }
func (m *machine) ghost() bool   { return m.index == 0 }

// String names the machine as an admin would.
func (m *machine) String() string {
	switch {
	case m.service():
		return "svc:" + m.name
	case !m.ghost():
		return m.name
	case m.owner != "":
		return "a new machine of " + selector{kind: selUser, name: m.owner}.String()
	case len(m.tags) > 0:
		return "a new machine with " + m.tags[0]
	}
	return "a new machine in household:" + m.household
}

// setPlan takes over the address plan.
func (f *Filter) setPlan(w *World) error {
	if !w.V4.IsValid() || !w.V4.Addr().Is4() || w.V4.Bits() < 16 || w.V4.Bits() > 24 || w.V4 != w.V4.Masked() {
		return fmt.Errorf("the overlay's IPv4 network is %v; it must be a /16 to /24 such as 10.77.0.0/16", w.V4)
	}
	if !w.V6.IsValid() || !w.V6.Addr().Is6() || w.V6.Addr().Is4In6() || w.V6.Bits() != 64 || w.V6 != w.V6.Masked() {
		return fmt.Errorf("the overlay's IPv6 network is %v; it must be a /64 such as fd77:1:2:3::/64", w.V6)
	}
	four, six := w.V4.Addr().As4(), w.V6.Addr().As16()
	f.v4, f.v6 = w.V4, w.V6
	f.net4 = binary.BigEndian.Uint32(four[:])
	f.mask4 = 1<<(32-w.V4.Bits()) - 1
	f.net6 = binary.BigEndian.Uint64(six[:8])
	return nil
}

// addr4 and addr6 are node's inverse.
func (f *Filter) addr4(n uint16) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], f.net4|uint32(n))
	return netip.AddrFrom4(b)
}

func (f *Filter) addr6(n uint16) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], f.net6)
	binary.BigEndian.PutUint64(b[8:], uint64(n))
	return netip.AddrFrom16(b)
}

// place finds the index that two addresses agree on.
func (f *Filter) place(what string, v4, v6 netip.Addr) (uint16, error) {
	n := f.node(v4)
	if n == 0 || uint32(n) == f.mask4 || f.node(v6) != n {
		return 0, fmt.Errorf("%s has the addresses %v and %v, which are not one place on %v and %v; remove it and add it again", what, v4, v6, f.v4, f.v6)
	}
	return n, nil
}

// machines lists everything in the world in the order of its addresses, so
// that the same world in another order compiles to the same filter. What does
// not fit is reported and left out: an address that two claim is nobody's.
func (c *compiler) machines() error {
	list := make([]machine, 0, len(c.world.Peers)+len(c.world.Services))
	hosts := make(map[peer.ID]*peer.Peer, len(c.world.Peers))
	for i := range c.world.Peers {
		p := &c.world.Peers[i]
		n, err := c.f.place(fmt.Sprintf("peer %.80q", p.Name), p.V4, p.V6)
		if err != nil {
			if err := c.misfit(err); err != nil {
				return err
			}
			continue
		}
		hosts[p.ID] = p
		list = append(list, c.peerMachine(p, n))
	}
	for i := range c.world.Services {
		s := &c.world.Services[i]
		n, err := c.f.place(fmt.Sprintf("service %.80q", s.Name), s.V4, s.V6)
		if err != nil {
			if err := c.misfit(err); err != nil {
				return err
			}
			continue
		}
		list = append(list, c.serviceMachine(s, n, hosts))
	}
	slices.SortStableFunc(list, func(a, b machine) int { return cmp.Compare(a.index, b.index) })
	return c.dropShared(list)
}

// dropShared leaves out every machine whose address another claims as well.
func (c *compiler) dropShared(list []machine) error {
	for i := 0; i < len(list); {
		j := i + 1
		for j < len(list) && list[j].index == list[i].index {
			j++
		}
		if j == i+1 {
			c.f.machines = append(c.f.machines, list[i])
		} else if err := c.misfit(fmt.Errorf("%v and %v have the same address %v; remove one of them", &list[i], &list[i+1], c.f.addr4(list[i].index))); err != nil {
			return err
		}
		i = j
	}
	return nil
}

func (c *compiler) peerMachine(p *peer.Peer, n uint16) machine {
	m := machine{index: n, id: p.ID, name: p.Name, household: p.Household, flags: flagKnown}
	switch {
	case p.Kind == peer.KindInvite:
		m.flags |= flagInvite
	case p.Quarantined:
		m.flags |= flagQuarantined
	default:
		m.flags |= flagActive
	}
	if p.Kind == peer.KindInvite {
		return m // no owner and no tags: nothing but the built-in rule is for it
	}
	m.tags = slices.Clone(p.Tags)
	if len(m.tags) == 0 {
		m.owner = p.Owner
		if m.household == "" {
			m.household = c.homes[p.Owner]
		}
	}
	return m
}

func (c *compiler) serviceMachine(s *Service, n uint16, hosts map[peer.ID]*peer.Peer) machine {
	m := machine{index: n, name: s.Name, flags: flagKnown | flagService | flagActive, ports: slices.Clone(s.Ports), host: s.Host}
	m.offer = serviceRanges(m.ports)
	if s.Host == "" {
		m.flags |= flagLocal
		if s.Name == serviceEnrol {
			m.flags = m.flags&^flagActive | flagEnrol
		}
		return m
	}
	host, ok := hosts[s.Host]
	switch {
	case !ok || host.Kind == peer.KindInvite:
		m.flags &^= flagActive // its host is gone, and so is it
	default:
		h := c.peerMachine(host, 1)
		m.household = h.household
		m.flags = m.flags&^flagActive | h.flags&(flagActive|flagQuarantined)
	}
	return m
}

// ghosts adds the machines that may come.
func (c *compiler) ghosts() {
	add := func(m machine) {
		m.flags = flagKnown | flagActive
		c.f.machines = append(c.f.machines, m)
	}
	for _, user := range c.userOrder {
		add(machine{owner: user, household: c.homes[user]})
	}
	for _, t := range c.p.tagOwners {
		add(machine{tags: []string{t.name}})
	}
	for _, h := range c.householdOrder {
		add(machine{household: h})
	}
}
