package acl

import "fmt"

// maxSliceWords bounds the memory of a slice's filter, in 64-bit words.
const maxSliceWords = 1 << 22

// Filter compiles the slice. The spoke's own nodes are its local ones; nodes
// that the slice does not speak of are refused. A slice that does not make
// sense is refused as a whole.
func (s *Slice) Filter() (*Filter, error) {
	if s == nil {
		return nil, fmt.Errorf("reading policy slice: there is none")
	}
	f := &Filter{partial: true, cells: []cell{{}}}
	if err := f.setPlan(&World{V4: s.V4, V6: s.V6}); err != nil {
		return nil, fmt.Errorf("reading policy slice: %w", err)
	}
	b := &sliceCompiler{f: f, s: s, known: make(map[sliceSlot]int32)}
	for _, step := range []func() error{b.check, b.nodes, b.matrix} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("reading policy slice: %w", err)
		}
	}
	return f, nil
}

// sliceCompiler turns a slice back into the factors of a matrix. Our own nodes
// have the classes from 1; then come the classes of other nodes.
type sliceCompiler struct {
	f     *Filter
	s     *Slice
	sets  [][]portRange
	class []uint16    // for each index
	reach [][]ownSets // for each class
	known map[sliceSlot]int32
}

// ownSets is what a class of other nodes has to do with one of our own.
type ownSets struct {
	own     int // class
	in, out int // sets
}

// sliceSlot stands for "own node and the set of ports", one direction, one
// rule: the two sides of a pair have it in common.
type sliceSlot struct {
	own, set int
	rule     int32
	out      bool
}

func (b *sliceCompiler) check() error {
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
		b.sets = append(b.sets, mergeRanges(ranges))
	}
	return nil
}

// nodes refines, own node by own node, which other nodes are treated alike.
func (b *sliceCompiler) nodes() error {
	b.class = make([]uint16, b.f.mask4+1)
	b.reach = make([][]ownSets, len(b.s.Nodes)+1)
	for i, n := range b.s.Nodes {
		if n.Index == 0 || uint32(n.Index) >= b.f.mask4 || b.class[n.Index] != 0 {
			return fmt.Errorf("it has no place for node %d", n.Index)
		}
		b.class[n.Index] = uint16(i + 1)
	}
	for i := range b.s.Nodes {
		if err := b.refine(i+1, &b.s.Nodes[i]); err != nil {
			return err
		}
	}
	for i, c := range b.class {
		if c == 0 {
			continue
		}
		flags := flagActive | flagKnown
		if int(c) <= len(b.s.Nodes) {
			flags |= flagLocal
		}
		*b.f.slotFor(uint16(i)) = node{src: c, dst: c, flags: flags}
	}
	return nil
}

func (b *sliceCompiler) refine(own int, n *SliceNode) error {
	type step struct {
		from    uint16
		in, out int
	}
	steps := make(map[step]uint16)
	next := uint32(1)
	for _, r := range n.Reach {
		if uint32(r.First) < next || r.Last < r.First || uint32(r.Last) >= b.f.mask4 ||
			min(r.In, r.Out) < 0 || max(r.In, r.Out) >= len(b.sets) {
			return fmt.Errorf("node %d has the impossible reach %+v", n.Index, r)
		}
		next = uint32(r.Last) + 1
		for at := uint32(r.First); at <= uint32(r.Last); at++ {
			c := b.class[at]
			if c != 0 && int(c) <= len(b.s.Nodes) {
				continue // our own nodes do not meet inside the tunnel
			}
			to, ok := steps[step{c, r.In, r.Out}]
			if !ok {
				if len(b.reach) > 1<<16-1 {
					return fmt.Errorf("it tells apart more than 65,535 kinds of node")
				}
				to = uint16(len(b.reach))
				steps[step{c, r.In, r.Out}] = to
				before := b.reach[c]
				b.reach = append(b.reach, append(before[:len(before):len(before)], ownSets{own, r.In, r.Out}))
			}
			b.class[at] = to
		}
	}
	return nil
}

// slot numbers what a range of a set stands for.
func (b *sliceCompiler) slot(own, set int, rule int32, out bool) int32 {
	key := sliceSlot{own, set, rule, out}
	n, ok := b.known[key]
	if !ok {
		n = int32(len(b.f.slots))
		b.known[key] = n
		b.f.slots = append(b.f.slots, slot{n: rule})
	}
	return n
}

// matrix writes both factors. First every slot gets its number, because that
// decides how wide a row is.
func (b *sliceCompiler) matrix() error {
	total := len(b.reach)
	dst := make([][]portRange, total)
	row := make([][]int32, total)
	done := make(map[sliceSlot]bool)
	for class, list := range b.reach {
		for _, r := range list {
			for _, p := range b.sets[r.in] {
				n := b.slot(r.own, r.in, p.rule, false)
				row[class] = append(row[class], n)
			}
			if key := (sliceSlot{own: r.own, set: r.in}); !done[key] {
				done[key] = true
				for _, p := range b.sets[r.in] {
					dst[r.own] = append(dst[r.own], portRange{p.first, p.last, b.slot(r.own, r.in, p.rule, false)})
				}
			}
			for _, p := range b.sets[r.out] {
				n := b.slot(r.own, r.out, p.rule, true)
				row[r.own] = append(row[r.own], n)
				dst[class] = append(dst[class], portRange{p.first, p.last, n})
			}
		}
	}
	f := b.f
	f.words = (len(f.slots) + 63) / 64
	if f.words*total > maxSliceWords {
		return fmt.Errorf("it tells apart too many kinds of node (%d) and ports (%d)", total, len(f.slots))
	}
	f.sources = make([]uint64, f.words*total)
	f.dsts = make([]destination, total)
	for rel := toSelf; rel < numRelations; rel++ {
		f.relative[rel] = make([]uint32, total)
	}
	segs := &segmentBuilder{f: f, count: make([]int32, len(f.slots)), shared: make(map[string]slotList)}
	for class := range total {
		for _, n := range row[class] {
			f.sources[class*f.words+int(n/64)] |= 1 << (n % 64)
		}
		f.dsts[class].allow = segs.add(dst[class])
	}
	return nil
}
