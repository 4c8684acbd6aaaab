package acl

import (
	"encoding/binary"
	"net/netip"

	"github.com/warrenmesh/warren/peer"
)

// Slice is the part of a policy that one spoke needs to enforce it on itself:
// who may reach it, and whom it may reach. It names no rule's text and nobody
// the spoke has no business with. Its size grows with the number of machines
// that are treated differently, not with the number of rules.
type Slice struct {
	V4 netip.Prefix `json:"v4"`
	V6 netip.Prefix `json:"v6"`
	// Sets are lists of ports that Reach refers to. Set 0 is empty.
	Sets [][]SlicePort `json:"sets"`
	// Nodes are the spoke itself and the services it hosts.
	Nodes []SliceNode `json:"nodes"`
}

// SlicePort is a range of ports and the number of the rule that allows it.
type SlicePort struct {
	Port
	Rule int32 `json:"rule"`
}

// SliceNode is one of the spoke's own addresses.
type SliceNode struct {
	Index uint16  `json:"index"`
	Reach []Reach `json:"reach"` // sorted, without overlaps
}

// Reach is a run of other nodes that are treated alike: In is the set of what
// they may send to us, Out of what we may send to them.
type Reach struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
	In    int    `json:"in"`
	Out   int    `json:"out"`
}

// Bounds on what a spoke accepts as a slice.
const (
	maxSliceNodes = 256
	maxSliceSets  = 1 << 16
	maxSlicePorts = 1 << 16
)

// Slice cuts out what one peer needs, nil if there is no such peer. A
// quarantined peer's slice allows nothing.
func (f *Filter) Slice(id peer.ID) *Slice {
	if f == nil || id == "" {
		return nil
	}
	b := &slicer{f: f, out: &Slice{V4: f.v4, V6: f.v6, Sets: [][]SlicePort{{}}}, sets: map[string]int{"": 0}}
	found := false
	for i := range f.placed() {
		m := &f.machines[i]
		if m.id == id || m.service() && m.host == id {
			found = found || m.id == id
			b.node(m)
		}
	}
	if !found {
		return nil
	}
	return b.out
}

type slicer struct {
	f    *Filter
	out  *Slice
	sets map[string]int
	key  []byte
}

// likeness is all that between depends on, for one side fixed.
type likeness struct {
	src, dst, wide           uint16
	sameOwner, sameHousehold bool
	compatible               bool
	flags                    nodeFlags
}

func (b *slicer) node(self *machine) {
	n := SliceNode{Index: self.index, Reach: []Reach{}}
	known := make(map[likeness][2]int)
	for i := range b.f.placed() {
		m := &b.f.machines[i]
		if m == self {
			continue
		}
		key := likeness{m.src, m.dst, m.wide, sameOwner(self, m), sameHousehold(self, m), compatible(self, m), m.flags}
		sets, ok := known[key]
		if !ok {
			sets = [2]int{b.set(b.f.between(m, self)), b.set(b.f.between(self, m))}
			known[key] = sets
		}
		if sets == [2]int{} {
			continue
		}
		if k := len(n.Reach) - 1; k >= 0 && n.Reach[k].Last+1 == m.index && n.Reach[k].In == sets[0] && n.Reach[k].Out == sets[1] {
			n.Reach[k].Last = m.index
			continue
		}
		n.Reach = append(n.Reach, Reach{First: m.index, Last: m.index, In: sets[0], Out: sets[1]})
	}
	b.out.Nodes = append(b.out.Nodes, n)
}

func (b *slicer) set(ranges []portRange) int {
	b.key = b.key[:0]
	for _, r := range ranges {
		b.key = binary.LittleEndian.AppendUint32(b.key, r.first)
		b.key = binary.LittleEndian.AppendUint32(b.key, r.last)
		b.key = binary.LittleEndian.AppendUint32(b.key, uint32(r.rule))
	}
	key := string(b.key)
	n, ok := b.sets[key]
	if !ok {
		n = len(b.out.Sets)
		b.sets[key] = n
		list := make([]SlicePort, 0, len(ranges))
		for _, r := range ranges {
			list = append(list, SlicePort{Port: r.port(), Rule: r.rule})
		}
		b.out.Sets = append(b.out.Sets, list)
	}
	return n
}

// between is everything that src may send to dst now.
func (f *Filter) between(src, dst *machine) []portRange {
	if src.flags&flagInvite != 0 && dst.flags&flagEnrol != 0 && !f.recovery {
		return []portRange{{portKey(ProtoTCP, 443), portKey(ProtoTCP, 443), ruleEnrol}}
	}
	if src.flags&dst.flags&flagActive == 0 {
		return nil
	}
	return f.pair(src, dst)
}
