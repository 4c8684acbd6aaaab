package acl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/warrenmesh/warren/peer"
)

// resolver answers which machines a selector means. Each attribute has an
// index, so the cost is that of the answer, not that of the mesh.
type resolver struct {
	f           *Filter
	all         []int32 // positions in f.machines; invites and enrol are in none of these
	peers       []int32
	members     []int32
	services    []int32
	byOwner     map[string][]int32
	byTag       map[string][]int32
	byHousehold map[string][]int32
	byName      map[string][]int32
	byService   map[string][]int32
	hosted      map[peer.ID][]int32 // services by the machine that offers them
	groups      map[string]*membership
	hosts       map[string]*host
	placed      int // how many machines have an address; they come first
}

func newResolver(f *Filter, p *Policy) *resolver {
	r := &resolver{
		f: f, byOwner: make(map[string][]int32), byTag: make(map[string][]int32), byHousehold: make(map[string][]int32),
		byName: make(map[string][]int32, len(f.machines)), byService: make(map[string][]int32), hosted: make(map[peer.ID][]int32),
		groups: make(map[string]*membership), hosts: make(map[string]*host),
	}
	for i := range f.machines {
		r.add(int32(i), &f.machines[i])
	}
	for i := range p.groups {
		r.groups[p.groups[i].name] = &p.groups[i]
	}
	for i := range p.hosts {
		r.hosts[p.hosts[i].name] = &p.hosts[i]
	}
	return r
}

func (r *resolver) add(i int32, m *machine) {
	if !m.ghost() {
		r.placed++
	}
	if m.flags&flagInvite != 0 {
		return
	}
	if m.service() {
		r.byService[m.name] = append(r.byService[m.name], i)
		if m.host != "" {
			r.hosted[m.host] = append(r.hosted[m.host], i)
		}
		if m.flags&flagEnrol == 0 {
			r.all, r.services = append(r.all, i), append(r.services, i)
		}
		return
	}
	r.all, r.peers = append(r.all, i), append(r.peers, i)
	if m.owner != "" {
		r.members = append(r.members, i)
		r.byOwner[m.owner] = append(r.byOwner[m.owner], i)
	}
	for _, t := range m.tags {
		r.byTag[t] = append(r.byTag[t], i)
	}
	if m.household != "" {
		r.byHousehold[m.household] = append(r.byHousehold[m.household], i)
	}
	if m.name != "" {
		r.byName[m.name] = append(r.byName[m.name], i)
	}
}

// find returns the machines that a selector means, in the order of
// f.machines. The slice belongs to the resolver. A name that two machines
// bear, or that is a host alias as well, means neither.
func (r *resolver) find(s selector) []int32 {
	switch s.kind {
	case selAll:
		return r.all
	case selPeers:
		return r.peers
	case selMember:
		return r.members
	case selAdmin:
		return r.group(adminGroup)
	case selGroup:
		return r.group(s.name)
	case selUser:
		return r.byOwner[s.name]
	case selTag:
		return r.byTag[s.name]
	case selHousehold:
		return r.byHousehold[s.name]
	case selService:
		if s.name == "" {
			return r.services
		}
		return single(r.byService[s.name])
	case selPeer:
		return single(r.byName[s.name])
	case selWord:
		h, ok := r.hosts[s.name]
		switch {
		case ok && len(r.byName[s.name]) > 0:
			return nil
		case ok:
			return r.within(h.sel.prefix)
		}
		return single(r.byName[s.name])
	case selPrefix:
		return r.within(s.prefix)
	}
	return nil
}

// speakers returns whom a never's source means: the machines that the selector
// means and the services that they offer. A machine speaks from its services'
// addresses as well as from its own, and must not get around a never that way.
func (r *resolver) speakers(s selector) []int32 {
	found := r.find(s)
	all := found
	for _, i := range found {
		if m := &r.f.machines[i]; !m.service() && len(r.hosted[m.id]) > 0 {
			all = append(all[:len(all):len(all)], r.hosted[m.id]...)
		}
	}
	if len(all) > len(found) {
		slices.Sort(all)
		all = slices.Compact(all)
	}
	return all
}

func single(list []int32) []int32 {
	if len(list) == 1 {
		return list
	}
	return nil
}

func (r *resolver) group(name string) []int32 {
	g := r.groups[name]
	if g == nil {
		return nil
	}
	var list []int32
	for _, m := range g.members {
		list = append(list, r.byOwner[m.name]...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// within returns the machines whose address of that family is inside p.
// Machines with an address stand in its order.
func (r *resolver) within(p netip.Prefix) []int32 {
	lo, hi, ok := r.f.interval(p)
	if !ok {
		return nil
	}
	var list []int32
	first, _ := slices.BinarySearchFunc(r.f.machines[:r.placed], lo, func(m machine, n uint16) int { return int(m.index) - int(n) })
	for i := first; i < r.placed && r.f.machines[i].index <= hi; i++ {
		if r.f.machines[i].flags&(flagInvite|flagEnrol) == 0 {
			list = append(list, int32(i))
		}
	}
	return list
}

// interval translates a prefix to the indexes it covers.
func (f *Filter) interval(p netip.Prefix) (lo, hi uint16, ok bool) {
	last := uint16(f.mask4)
	if p.Addr().Is4() {
		if p.Bits() <= f.v4.Bits() {
			return 1, last, p.Contains(f.v4.Addr())
		}
		n := f.node(p.Addr())
		return n, n | uint16(uint32(1)<<(32-p.Bits())-1), f.v4.Contains(p.Addr())
	}
	if p.Bits() <= 64 {
		return 1, last, p.Contains(f.v6.Addr())
	}
	if !f.v6.Contains(p.Addr()) {
		return 0, 0, false
	}
	b := p.Addr().As16()
	low := binary.BigEndian.Uint64(b[8:])
	high := low | (1<<(128-p.Bits()) - 1)
	if low > uint64(last) {
		return 0, 0, false
	}
	return uint16(low), uint16(min(high, uint64(last))), true
}

// check says what is wrong with a selector in this world, nil if nothing is.
func (c *compiler) check(s selector) *Error {
	r := c.r
	switch s.kind {
	case selUser:
		if !c.users[s.name] {
			return s.at.errorf("user %v is unknown; add them to a household, as in \"households\": {\"home\": [\"%v\"]}", s, s)
		}
	case selGroup:
		if r.groups[s.name] == nil {
			return s.at.errorf("%v is unknown; declare it, as in \"groups\": {\"%v\": [\"ann@\"]}", s, s)
		}
	case selAdmin:
		if r.groups[adminGroup] == nil {
			return s.at.errorf("autogroup:admin means the users of group:admin, which is not declared; add \"groups\": {\"group:admin\": [\"ann@\"]}")
		}
	case selTag:
		if !c.tags[s.name] {
			return s.at.errorf("%v is unknown; declare who may give it, as in \"tagOwners\": {\"%v\": [\"group:admin\"]}", s, s)
		}
	case selHousehold:
		if !c.households[s.name] {
			return s.at.errorf("%v is unknown; declare it, as in \"households\": {\"%s\": []}", s, s.name)
		}
	case selService:
		return c.checkOne(s, "service", len(r.byService[s.name]), s.name == "" || builtinName(s.name), "publish it first, or see \"hub services\" for the names there are")
	case selPeer:
		return c.checkOne(s, "machine", len(r.byName[s.name]), false, "see \"hub peers\" for the names there are")
	case selWord:
		h, isHost := r.hosts[s.name]
		if isHost && len(r.byName[s.name]) > 0 {
			return s.at.errorf("%v is a host alias and a machine's name; write \"peer:%v\" for the machine or rename the alias", s, s)
		}
		if !isHost {
			return c.checkOne(s, "machine or host alias", len(r.byName[s.name]), false, "see \"hub peers\" for the names there are")
		}
		return c.checkPrefix(s, h.sel)
	case selPrefix:
		return c.checkPrefix(s, s)
	}
	return nil
}

func (c *compiler) checkOne(s selector, what string, n int, fine bool, hint string) *Error {
	switch {
	case n > 1:
		return s.at.errorf("%v is the name of %d of them; rename one", s, n)
	case fine || n == 1:
		return nil
	}
	return s.at.errorf("%v is no %s of this mesh; %s", s, what, hint)
}

func (c *compiler) checkPrefix(s, prefix selector) *Error {
	if _, _, ok := c.f.interval(prefix.prefix); !ok {
		return s.at.errorf("%v is outside the overlay (%v and %v), so it can never match; use an address inside", prefix, c.f.v4, c.f.v6)
	}
	return nil
}

// builtinName reports whether every hub has a service of that name.
func builtinName(s string) bool {
	switch s {
	case "hub", "dns", "auth", "command", "hooks", serviceEnrol, serviceSync, serviceConsole:
		return true
	}
	return false
}

// misfit reports something in the world that does not fit its address plan.
func (c *compiler) misfit(err error) error {
	if c.strict {
		return fmt.Errorf("compiling policy: %w", err)
	}
	c.problem(Problem{Msg: err.Error()})
	return nil
}
