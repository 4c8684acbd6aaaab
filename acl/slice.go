package acl

import (
	"fmt"
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
	b := &slicer{f: f, out: &Slice{V4: f.v4, V6: f.v6, Sets: [][]SlicePort{{}}}, sets: map[string]int{"[]": 0}}
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
}

// likeness is all that between depends on, for one side fixed.
type likeness struct {
	src, dst                 uint16
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
		key := likeness{m.src, m.dst, sameOwner(self, m), sameHousehold(self, m), compatible(self, m), m.flags}
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
	key := fmt.Sprint(ranges)
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

// Filter compiles the slice. The spoke's own nodes are its local ones; nodes
// that the slice does not speak of are refused. A slice that does not make
// sense is refused as a whole.
func (s *Slice) Filter() (*Filter, error) {
	if s == nil {
		return nil, fmt.Errorf("reading policy slice: there is none")
	}
	f := &Filter{partial: true}
	if err := f.setPlan(&World{V4: s.V4, V6: s.V6}); err != nil {
		return nil, fmt.Errorf("reading policy slice: %w", err)
	}
	b := &sliceCompiler{f: f, s: s}
	if err := b.sets(); err != nil {
		return nil, fmt.Errorf("reading policy slice: %w", err)
	}
	if err := b.nodes(); err != nil {
		return nil, fmt.Errorf("reading policy slice: %w", err)
	}
	b.matrix()
	return f, nil
}

type sliceCompiler struct {
	f     *Filter
	s     *Slice
	cells []uint32   // for each set
	class []uint16   // for each index; own nodes have the classes from 1
	reach [][]ownSet // for each class
}

// ownSet is what a class of other nodes has to do with one of our own.
type ownSet struct {
	own     uint16 // class
	in, out uint32 // cells
}

func (b *sliceCompiler) sets() error {
	if len(b.s.Sets) > maxSliceSets || len(b.s.Nodes) > maxSliceNodes || len(b.s.Nodes) == 0 {
		return fmt.Errorf("it has %d nodes and %d sets; the most are %d and %d", len(b.s.Nodes), len(b.s.Sets), maxSliceNodes, maxSliceSets)
	}
	for i, set := range b.s.Sets {
		if len(set) > maxSlicePorts {
			return fmt.Errorf("set %d has %d ranges of ports; the most are %d", i, len(set), maxSlicePorts)
		}
		var ranges []portRange
		for _, p := range set {
			lo, hi := portKey(p.Proto, p.First), portKey(p.Proto, p.Last)
			if lo == 0 || hi < lo {
				return fmt.Errorf("set %d has the impossible ports %v", i, p.Port)
			}
			ranges = append(ranges, portRange{lo, hi, p.Rule})
		}
		b.cells = append(b.cells, b.f.addCell(mergeRanges(ranges), nil))
	}
	return nil
}

// nodes refines, own node by own node, which other nodes are treated alike.
func (b *sliceCompiler) nodes() error {
	b.class = make([]uint16, b.f.mask4+1)
	b.reach = make([][]ownSet, len(b.s.Nodes)+1)
	for i, n := range b.s.Nodes {
		if n.Index == 0 || uint32(n.Index) >= b.f.mask4 || b.class[n.Index] != 0 {
			return fmt.Errorf("it has no place for node %d", n.Index)
		}
		b.class[n.Index] = uint16(i + 1)
	}
	own := uint16(len(b.s.Nodes))
	for i, n := range b.s.Nodes {
		type step struct {
			from    uint16
			in, out int
		}
		steps := make(map[step]uint16)
		next := uint32(1)
		for _, r := range n.Reach {
			if uint32(r.First) < next || r.Last < r.First || uint32(r.Last) >= b.f.mask4 ||
				min(r.In, r.Out) < 0 || max(r.In, r.Out) >= len(b.cells) {
				return fmt.Errorf("node %d has the impossible reach %+v", n.Index, r)
			}
			next = uint32(r.Last) + 1
			for at := uint32(r.First); at <= uint32(r.Last); at++ {
				c := b.class[at]
				if c != 0 && c <= own {
					continue // our own nodes do not meet inside the tunnel
				}
				to, ok := steps[step{c, r.In, r.Out}]
				if !ok {
					if len(b.reach) > 1<<16-1 {
						return fmt.Errorf("it tells apart more than 65,535 kinds of node")
					}
					to = uint16(len(b.reach))
					steps[step{c, r.In, r.Out}] = to
					more := ownSet{uint16(i + 1), b.cells[r.In], b.cells[r.Out]}
					b.reach = append(b.reach, append(b.reach[c][:len(b.reach[c]):len(b.reach[c])], more))
				}
				b.class[at] = to
			}
		}
	}
	for i, c := range b.class {
		if c == 0 {
			continue
		}
		flags := flagActive | flagKnown
		if c <= own {
			flags |= flagLocal
		}
		*b.f.slotFor(uint16(i)) = node{src: c, dst: c, flags: flags}
	}
	return nil
}

// matrix fills the rows of our own nodes, and in the others' rows the columns
// of our own. Everything else stays empty.
func (b *sliceCompiler) matrix() {
	f, total := b.f, len(b.reach)
	f.width = (total + blockSize - 1) / blockSize
	f.rows = make([]uint32, total*f.width)
	f.blocks = make([]block, 1)
	for rel := toSelf; rel < numRelations; rel++ {
		f.relative[rel] = make([]uint32, total)
	}
	known := map[block]uint32{{}: 0}
	store := func(row, column int, cells *block) {
		n, ok := known[*cells]
		if !ok {
			n = uint32(len(f.blocks))
			known[*cells] = n
			f.blocks = append(f.blocks, *cells)
		}
		f.rows[row*f.width+column] = n
	}
	own := len(b.s.Nodes)
	out := make([]block, own*f.width)
	for class, list := range b.reach {
		in := make([]block, own/blockSize+1)
		for _, r := range list {
			in[r.own/blockSize][r.own%blockSize] = r.in
			out[int(r.own-1)*f.width+class/blockSize][class%blockSize] = r.out
		}
		for column := range in {
			if class > own {
				store(class, column, &in[column])
			}
		}
	}
	for i := range own {
		for column := range f.width {
			store(i+1, column, &out[i*f.width+column])
		}
	}
}
