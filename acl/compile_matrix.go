package acl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// How the matrix is made.
//
// Each distinct source selector becomes the list of rules it stands in; those
// with the same list are one. A machine's signature as a source is the set of
// these lists, and machines with the same signature are one class. Likewise
// for destinations, with atoms in place of rules. So there are no more classes
// than the rules can tell apart, and a rule that names 5,000 machines makes one
// class of them.
//
// The matrix is kept in factors, because at 10,000 machines it would have
// millions of different cells: a source class is a row of bits, one for each
// rule that is about it; a destination class is a sorted list of segments of
// ports, each with the rules that open it. A packet is allowed when the two
// have a rule in common.
//
// Lists that a great part of the mesh is on ("*", autogroup:member) would be
// repeated in every destination class. They make classes of their own, so each
// destination has two: its wide one and its narrow one.

// maxSegments bounds the memory of a filter.
const maxSegments = 1 << 23

// What making the matrix may cost: machines on lists, and rules that count for a
// segment of ports. A text of 1 MiB can ask for 200 million of the first (11,000
// groups of the same 10,000 machines, two gigabytes) and for any number of the
// second (nested ranges of ports on every service). Whoever writes a policy gets
// a quarter of what one in force may grow to, so that a mesh that grows does not
// fall silent by surprise.
const (
	maxMatrix      = 1 << 29
	maxMatrixFresh = maxMatrix / 4
	listCost       = 4 // one machine on one list, in the unit of the other
)

var errMatrix = errors.New("compiling policy: the rules overlap too much to be told apart; write fewer, wider ranges of ports and fewer groups of the same people")

// wideShare: a list is wide if more than one in wideShare machines is on it.
const wideShare = 16

// matrixBuilder is the work in progress. Its result goes to f.
type matrixBuilder struct {
	f     *Filter
	r     *resolver
	work  int64 // what it has cost, at most most
	most  int64
	slots []slot
	atoms []atom

	srcLists, dstLists *lists     // of slots; of atoms
	wide               []bool     // for each of dstLists
	srcSig, dstSig     [][]uint32 // for each machine: numbers of lists, to be sorted
	srcClasses         [][]uint32 // signature of each class; class 0 is empty
	dstClasses         [][]uint32
	limits             []uint32                 // for each destination class: the cell of its service's ports
	relatives          [numRelations][][]uint32 // for each slot: atoms by relation
}

func newMatrix(f *Filter, r *resolver) *matrixBuilder {
	return &matrixBuilder{
		f: f, r: r, srcLists: newLists(), dstLists: newLists(),
		srcSig: make([][]uint32, len(f.machines)), dstSig: make([][]uint32, len(f.machines)),
	}
}

// ordered collects, for each distinct selector, a list of numbers.
type ordered struct {
	index map[selectorKey]int
	sels  []selector
	lists [][]uint32
}

func (o *ordered) add(s selector, n uint32) {
	if o.index == nil {
		o.index = make(map[selectorKey]int)
	}
	i, ok := o.index[s.key()]
	if !ok {
		i = len(o.sels)
		o.index[s.key()] = i
		o.sels, o.lists = append(o.sels, s), append(o.lists, nil)
	}
	if l := o.lists[i]; len(l) == 0 || l[len(l)-1] != n {
		o.lists[i] = append(l, n)
	}
}

// rules takes the rules apart into source lists, atoms and destination lists,
// and signs every machine with the lists it is on.
func (m *matrixBuilder) rules(slots []slot) error {
	m.slots = slots
	m.f.slots = slots
	m.f.words = (len(slots) + 63) / 64
	for rel := range m.relatives {
		m.relatives[rel] = make([][]uint32, len(slots))
	}
	var src, never, dst ordered
	for i := range slots {
		for _, s := range slots[i].rule.src {
			if slots[i].never {
				never.add(s, uint32(i))
			} else {
				src.add(s, uint32(i))
			}
		}
		m.ruleAtoms(i, &dst)
	}
	m.sign(&src, m.r.find, m.srcLists, m.srcSig)
	m.sign(&never, m.r.speakers, m.srcLists, m.srcSig)
	counts := m.sign(&dst, m.r.find, m.dstLists, m.dstSig)
	for _, n := range counts {
		m.wide = append(m.wide, n > len(m.f.machines)/wideShare)
	}
	if m.work > m.most {
		return errMatrix
	}
	return nil
}

// ruleAtoms groups the targets of one rule by their ports.
func (m *matrixBuilder) ruleAtoms(i int, dst *ordered) {
	byPorts := make(map[string]uint32)
	var key []byte
	for _, t := range m.slots[i].rule.dst {
		key = key[:0]
		for _, p := range t.ports {
			key = append(key, byte(p.Proto))
			key = binary.LittleEndian.AppendUint16(key, p.First)
			key = binary.LittleEndian.AppendUint16(key, p.Last)
		}
		n, ok := byPorts[string(key)]
		if !ok {
			n = uint32(len(m.atoms))
			byPorts[string(key)] = n
			m.atoms = append(m.atoms, atom{slot: int32(i), ranges: rangesOf(t.ports, m.slots[i].n)})
		}
		switch t.sel.kind {
		case selSelf:
			m.relatives[toSelf][i] = append(m.relatives[toSelf][i], n)
		case selSameHousehold:
			m.relatives[toHousehold][i] = append(m.relatives[toHousehold][i], n)
		default:
			dst.add(t.sel, n)
		}
	}
}

// sign gives each selector's list a number and notes it with the machines that
// find says the selector means. It returns how many machines are on each list.
func (m *matrixBuilder) sign(o *ordered, find func(selector) []int32, numbers *lists, sigs [][]uint32) []int {
	var counts []int
	for i, l := range o.lists {
		slices.Sort(l)
		n := numbers.number(slices.Compact(l))
		found := find(o.sels[i])
		for len(counts) <= int(n) {
			counts = append(counts, 0)
		}
		counts[n] += len(found)
		if m.work += int64(len(found)) * listCost; m.work > m.most {
			break // rules refuses it
		}
		for _, machine := range found {
			sigs[machine] = append(sigs[machine], n)
		}
	}
	return counts
}

// build makes the classes and the two factors of the matrix.
func (m *matrixBuilder) build() error {
	if err := m.classify(); err != nil {
		return err
	}
	m.sources()
	if err := m.destinations(); err != nil {
		return err
	}
	m.related()
	m.grants()
	return nil
}

func (m *matrixBuilder) classify() error {
	m.srcClasses, m.dstClasses, m.limits = [][]uint32{nil}, [][]uint32{nil}, []uint32{0}
	src, dst, limits := map[string]uint16{"": 0}, map[string]uint16{"\x00\x00\x00\x00": 0}, map[string]uint32{}
	var key []byte
	class := func(known map[string]uint16, classes *[][]uint32, sig []uint32) (uint16, bool) {
		key = signature(key, sig)
		n, ok := known[string(key)]
		if !ok {
			n = uint16(len(*classes))
			known[string(key)] = n
			*classes = append(*classes, slices.Clone(sig))
		}
		return n, !ok
	}
	var wide, narrow []uint32
	for i := range m.f.machines {
		mc := &m.f.machines[i]
		slices.Sort(m.srcSig[i])
		key = key[:0]
		mc.src, _ = class(src, &m.srcClasses, slices.Compact(m.srcSig[i]))
		limit := m.limit(mc, limits)
		slices.Sort(m.dstSig[i])
		wide, narrow = wide[:0], narrow[:0]
		for _, n := range slices.Compact(m.dstSig[i]) {
			if m.wide[n] && limit == 0 {
				wide = append(wide, n)
			} else {
				narrow = append(narrow, n)
			}
		}
		for _, side := range []struct {
			sig []uint32
			to  *uint16
		}{{wide, &mc.wide}, {narrow, &mc.dst}} {
			key = binary.LittleEndian.AppendUint32(key[:0], limit)
			n, fresh := class(dst, &m.dstClasses, side.sig)
			if *side.to = n; fresh {
				m.limits = append(m.limits, limit)
			}
			if limit != 0 {
				mc.wide = 0
			}
		}
		if len(m.srcClasses) > 1<<16-1 || len(m.dstClasses) > 1<<16-2 {
			return fmt.Errorf("compiling policy: the rules tell apart more than 65,000 kinds of machine; use groups and tags")
		}
	}
	return nil
}

// signature appends a machine's list numbers to key.
func signature(key []byte, sig []uint32) []byte {
	for _, n := range sig {
		key = binary.LittleEndian.AppendUint32(key, n)
	}
	return key
}

// limit returns the cell that holds the ports of a service; 0 is a peer, which
// has no limit.
func (m *matrixBuilder) limit(mc *machine, known map[string]uint32) uint32 {
	if !mc.service() {
		return 0
	}
	key := packRanges(mc.offer)
	n, ok := known[key]
	if !ok {
		n = m.f.addCell(mc.offer)
		known[key] = n
	}
	return n
}

// serviceRanges is what can ever reach a service: its ports, and ping.
func serviceRanges(ports []Port) []portRange {
	return rangesOf(append(slices.Clone(ports), Port{Proto: ProtoICMP}), 0)
}

// sources writes each source class as a row of bits.
func (m *matrixBuilder) sources() {
	m.f.sources = make([]uint64, len(m.srcClasses)*m.f.words)
	for class, sig := range m.srcClasses {
		row := m.f.sources[class*m.f.words:]
		for _, n := range sig {
			for _, s := range m.srcLists.list[n] {
				row[s/64] |= 1 << (s % 64)
			}
		}
	}
}

// destinations writes each destination class as segments of ports.
func (m *matrixBuilder) destinations() error {
	m.f.dsts = make([]destination, len(m.dstClasses))
	b := &segmentBuilder{f: m.f, count: make([]int32, len(m.slots)), shared: make(map[string]slotList)}
	var allow, never []portRange
	var atoms []uint32
	for class, sig := range m.dstClasses {
		atoms = atoms[:0]
		for _, n := range sig {
			atoms = append(atoms, m.dstLists.list[n]...)
		}
		slices.Sort(atoms)
		atoms = slices.Compact(atoms)
		limit := m.f.ports(m.limits[class])
		allow, never = allow[:0], never[:0]
		for _, a := range atoms {
			ranges := m.atoms[a].ranges
			if m.limits[class] != 0 {
				ranges = intersect(ranges, limit)
			}
			to := &allow
			if m.slots[m.atoms[a].slot].never {
				to = &never
			}
			for _, r := range ranges {
				*to = append(*to, portRange{r.first, r.last, m.atoms[a].slot})
			}
		}
		m.f.dsts[class] = destination{allow: b.add(allow), never: b.add(never), offer: m.limits[class]}
		if m.work+b.work > m.most {
			return errMatrix
		}
		if len(m.f.segments)+len(m.f.lists) > maxSegments {
			return fmt.Errorf("compiling policy: the rules tell apart too many kinds of machine; use groups and tags")
		}
	}
	return nil
}

// related works out what each source class may do to its own owner's and its
// own household's machines.
func (m *matrixBuilder) related() {
	for rel := toSelf; rel < numRelations; rel++ {
		m.f.relative[rel] = make([]uint32, len(m.srcClasses))
		concerned := make([]uint64, m.f.words)
		for s, atoms := range m.relatives[rel] {
			if len(atoms) > 0 && !m.slots[s].never {
				concerned[s/64] |= 1 << (s % 64)
			}
		}
		known := make(map[string]uint32)
		var key []byte
		for class := range m.srcClasses {
			key = key[:0]
			var ranges []portRange
			for w, word := range m.f.source(uint16(class)) {
				for word &= concerned[w]; word != 0; word &= word - 1 {
					key = binary.LittleEndian.AppendUint32(key, uint32(w*64+bits.TrailingZeros64(word)))
				}
			}
			n, ok := known[string(key)]
			if !ok {
				for k := 0; k < len(key); k += 4 {
					for _, a := range m.relatives[rel][binary.LittleEndian.Uint32(key[k:])] {
						ranges = append(ranges, m.atoms[a].ranges...)
					}
				}
				n = m.f.addCell(mergeRanges(ranges))
				known[string(key)] = n
			}
			m.f.relative[rel][class] = n
		}
	}
}

// grants notes, for each application grant, where to find out whom it is for.
func (m *matrixBuilder) grants() {
	for i := range m.slots {
		r := m.slots[i].rule
		if len(r.app) == 0 {
			continue
		}
		g := appGrant{slot: uint32(i), app: r.app, dst: make(map[uint16]bool)}
		g.toSelf = len(m.relatives[toSelf][i]) > 0
		g.toHousehold = len(m.relatives[toHousehold][i]) > 0
		for class, sig := range m.dstClasses {
			for _, n := range sig {
				if slices.ContainsFunc(m.dstLists.list[n], func(a uint32) bool { return m.atoms[a].slot == int32(i) }) {
					g.dst[uint16(class)] = true
				}
			}
		}
		m.f.grants = append(m.f.grants, g)
	}
}
