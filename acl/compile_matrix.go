package acl

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// How the matrix is built.
//
// Each distinct source selector becomes the list of rules it stands in; those
// with the same list are one. A machine's signature as a source is the set of
// these lists, and machines with the same signature are one class. Likewise
// for destinations, with atoms in place of rules. So the matrix has no more
// rows and columns than the rules can tell apart, and a rule that names 5,000
// machines makes one class of them.
//
// A row is the union of what its signature's lists allow. Rows are cut into
// blocks of 64 cells, and built in the order of their signatures along one
// common stack: a row starts as its neighbour's, and only blocks that differ
// are copied. Unions are of numbered sets, so each is worked out once.

const blockSize = 64

// maxBlocks bounds the memory of a matrix: 64 Mi cells of 4 bytes.
const maxBlocks = 1 << 20

type block = [blockSize]uint32

// matrixBuilder is the work in progress. Its result goes to f.
type matrixBuilder struct {
	f     *Filter
	r     *resolver
	slots []slot
	atoms []atom
	sets  *atomSets

	srcLists, dstLists *lists                 // of slots; of atoms
	srcSig, dstSig     [][]uint32             // for each machine: numbers of lists, to be sorted
	slotAtoms          [][numRelations]uint32 // for each slot: a set of atoms by relation
	srcClasses         [][]uint32             // signature of each class; class 0 is empty
	dstClasses         [][]uint32
	atomClasses        [][]uint16 // for each atom: the destination classes it is for
	limits             []uint32   // for each destination class: its service's ports
	limitRanges        [][]portRange
}

func newMatrix(f *Filter, r *resolver) *matrixBuilder {
	return &matrixBuilder{
		f: f, r: r, sets: newAtomSets(), srcLists: newLists(), dstLists: newLists(),
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
func (m *matrixBuilder) rules(slots []slot) {
	m.slots = slots
	m.f.slots = slots
	m.slotAtoms = make([][numRelations]uint32, len(slots))
	var src, dst ordered
	for i := range slots {
		for _, s := range slots[i].rule.src {
			src.add(s, uint32(i))
		}
		m.ruleAtoms(i, &dst)
	}
	m.sign(&src, m.srcLists, m.srcSig)
	m.sign(&dst, m.dstLists, m.dstSig)
}

// ruleAtoms groups the targets of one rule by their ports.
func (m *matrixBuilder) ruleAtoms(i int, dst *ordered) {
	byPorts := make(map[string]uint32)
	var relative [numRelations][]uint32
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
			relative[toSelf] = append(relative[toSelf], n)
		case selSameHousehold:
			relative[toHousehold] = append(relative[toHousehold], n)
		default:
			dst.add(t.sel, n)
		}
	}
	for rel := range relative {
		slices.Sort(relative[rel])
		m.slotAtoms[i][rel] = m.sets.number(slices.Compact(relative[rel]))
	}
}

// sign gives each selector's list a number and notes it with the machines that
// the selector means. The lists that most machines are on come first: that is
// what rows share.
func (m *matrixBuilder) sign(o *ordered, numbers *lists, sigs [][]uint32) {
	nums := make([]uint32, len(o.sels))
	for i, l := range o.lists {
		slices.Sort(l)
		nums[i] = numbers.number(slices.Compact(l))
	}
	count := make([]int, len(numbers.list))
	found := make([][]int32, len(o.sels))
	for i, s := range o.sels {
		found[i] = m.r.find(s)
		count[nums[i]] += len(found[i])
	}
	order := make([]uint32, len(numbers.list))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortStableFunc(order[1:], func(a, b uint32) int { return cmp.Compare(count[b], count[a]) })
	rank := make([]uint32, len(order))
	renamed := make([][]uint32, len(order))
	for i, n := range order {
		rank[n] = uint32(i)
		renamed[i] = numbers.list[n]
	}
	numbers.list, numbers.byKey = renamed, nil
	for i := range o.sels {
		n := rank[nums[i]]
		for _, machine := range found[i] {
			sigs[machine] = append(sigs[machine], n)
		}
	}
}

// build makes the classes and the matrix.
func (m *matrixBuilder) build() error {
	if err := m.classify(); err != nil {
		return err
	}
	m.spread()
	rows, blocks, err := m.rows()
	if err != nil {
		return err
	}
	if err := m.finish(rows, blocks); err != nil {
		return err
	}
	m.relatives()
	return m.grants()
}

func (m *matrixBuilder) classify() error {
	m.srcClasses, m.dstClasses = [][]uint32{nil}, [][]uint32{nil}
	m.limits, m.limitRanges = []uint32{0}, [][]portRange{nil}
	src, dst := map[string]uint16{"": 0}, map[string]uint16{}
	limits := map[string]uint32{}
	var key []byte
	for i := range m.f.machines {
		mc := &m.f.machines[i]
		key = signature(key[:0], &m.srcSig[i])
		if n, ok := src[string(key)]; ok {
			mc.src = n
		} else {
			mc.src = uint16(len(m.srcClasses))
			src[string(key)] = mc.src
			m.srcClasses = append(m.srcClasses, m.srcSig[i])
		}
		limit := m.limit(mc, limits)
		key = binary.LittleEndian.AppendUint32(key[:0], limit)
		key = signature(key, &m.dstSig[i])
		if len(m.dstSig[i]) == 0 {
			continue // class 0: nothing ever reaches it
		}
		if n, ok := dst[string(key)]; ok {
			mc.dst = n
			continue
		}
		mc.dst = uint16(len(m.dstClasses))
		dst[string(key)] = mc.dst
		m.dstClasses, m.limits = append(m.dstClasses, m.dstSig[i]), append(m.limits, limit)
	}
	if len(m.srcClasses) > 1<<16 || len(m.dstClasses) > 1<<16 {
		return fmt.Errorf("compiling policy: the rules tell apart more than 65,535 kinds of machine; use groups and tags")
	}
	return nil
}

// signature sorts a machine's list numbers and appends them to key.
func signature(key []byte, sig *[]uint32) []byte {
	slices.Sort(*sig)
	*sig = slices.Compact(*sig)
	for _, n := range *sig {
		key = binary.LittleEndian.AppendUint32(key, n)
	}
	return key
}

// limit numbers the ports of a service; 0 is a peer, which has no limit.
func (m *matrixBuilder) limit(mc *machine, known map[string]uint32) uint32 {
	if !mc.service() {
		return 0
	}
	ranges := mc.offer
	key := fmt.Sprint(ranges)
	n, ok := known[key]
	if !ok {
		n = uint32(len(m.limitRanges))
		known[key] = n
		m.limitRanges = append(m.limitRanges, ranges)
	}
	return n
}

// serviceRanges is what can ever reach a service: its ports, and ping.
func serviceRanges(ports []Port) []portRange {
	return rangesOf(append(slices.Clone(ports), Port{Proto: ProtoICMP}), 0)
}

// spread turns destination signatures around: for each atom its classes.
func (m *matrixBuilder) spread() {
	m.atomClasses = make([][]uint16, len(m.atoms))
	for class, sig := range m.dstClasses {
		for _, n := range sig {
			for _, a := range m.dstLists.list[n] {
				if l := m.atomClasses[a]; len(l) == 0 || l[len(l)-1] != uint16(class) {
					m.atomClasses[a] = append(l, uint16(class))
				}
			}
		}
	}
}

// sparse is one cell of a row.
type sparse struct {
	class uint16
	set   uint32
}

// listRows works out, for each source list, the cells that its rules fill.
func (m *matrixBuilder) listRows() [][]sparse {
	rows := make([][]sparse, len(m.srcLists.list))
	slotAtoms := make([][]uint32, len(m.slots))
	for a := range m.atoms {
		slotAtoms[m.atoms[a].slot] = append(slotAtoms[m.atoms[a].slot], uint32(a))
	}
	row := make([]uint32, len(m.dstClasses))
	var touched []uint16
	for i, list := range m.srcLists.list {
		touched = touched[:0]
		for _, s := range list {
			for _, a := range slotAtoms[s] {
				one := m.sets.number([]uint32{a})
				for _, class := range m.atomClasses[a] {
					if row[class] == 0 {
						touched = append(touched, class)
					}
					row[class] = m.sets.union(row[class], one)
				}
			}
		}
		slices.Sort(touched)
		rows[i] = make([]sparse, 0, len(touched))
		for _, class := range touched {
			rows[i] = append(rows[i], sparse{class, row[class]})
			row[class] = 0
		}
	}
	return rows
}

// rows builds the row of every source class as numbers of blocks of set
// numbers. Block 0 is empty.
func (m *matrixBuilder) rows() ([][]uint32, []block, error) {
	width := (len(m.dstClasses) + blockSize - 1) / blockSize
	lists := m.listRows()
	order := make([]int, len(m.srcClasses))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return slices.Compare(m.srcClasses[a], m.srcClasses[b]) })
	blocks := make([]block, 1, 1024)
	result := make([][]uint32, len(m.srcClasses))
	// stack[i] is the row for the first i lists of the current signature.
	stack := [][]uint32{make([]uint32, width)}
	var sig []uint32
	for _, class := range order {
		next := m.srcClasses[class]
		common := 0
		for common < len(sig) && common < len(next) && sig[common] == next[common] {
			common++
		}
		stack, sig = stack[:common+1], next
		for _, n := range next[common:] {
			row := slices.Clone(stack[len(stack)-1])
			fresh := uint32(len(blocks)) // blocks from here on are this row's own
			for _, cell := range lists[n] {
				b := row[cell.class/blockSize]
				if b < fresh {
					blocks = append(blocks, blocks[b])
					b = uint32(len(blocks) - 1)
					row[cell.class/blockSize] = b
				}
				at := &blocks[b][cell.class%blockSize]
				*at = m.sets.union(*at, cell.set)
			}
			stack = append(stack, row)
		}
		if len(blocks) > maxBlocks {
			return nil, nil, fmt.Errorf("compiling policy: the rules tell apart too many kinds of machine (%d by %d); use groups and tags", len(m.srcClasses), len(m.dstClasses))
		}
		result[class] = stack[len(stack)-1]
	}
	return result, blocks, nil
}

// finish translates sets of atoms to cells of ports, and keeps each distinct
// block once.
func (m *matrixBuilder) finish(rows [][]uint32, blocks []block) error {
	width := len(rows[0])
	cells := &cellTable{m: m, known: make(map[uint64]uint32)}
	m.f.cells = []cell{{}}
	type place struct {
		block  uint32
		column int
	}
	done := make(map[place]uint32)
	final := map[block]uint32{{}: 0}
	m.f.width = width
	m.f.rows = make([]uint32, 0, len(rows)*width)
	m.f.blocks = make([]block, 1)
	for _, row := range rows {
		for column, b := range row {
			n, ok := done[place{b, column}]
			if b != 0 && !ok {
				var out block
				for i, set := range blocks[b] {
					if set != 0 {
						out[i] = cells.number(set, m.limits[column*blockSize+i])
					}
				}
				if n, ok = final[out]; !ok {
					n = uint32(len(m.f.blocks))
					final[out] = n
					m.f.blocks = append(m.f.blocks, out)
				}
				done[place{b, column}] = n
			}
			m.f.rows = append(m.f.rows, n)
		}
	}
	return nil
}

// cellTable gives each pair of a set and a limit a cell.
type cellTable struct {
	m     *matrixBuilder
	known map[uint64]uint32
}

func (t *cellTable) number(set, limit uint32) uint32 {
	key := uint64(set)<<32 | uint64(limit)
	if n, ok := t.known[key]; ok {
		return n
	}
	allow, never := t.m.split(set)
	if limit != 0 {
		allow, never = intersect(allow, t.m.limitRanges[limit]), intersect(never, t.m.limitRanges[limit])
	}
	n := t.m.f.addCell(allow, never)
	t.known[key] = n
	return n
}

// split returns the ranges of a set's rules and of its nevers.
func (m *matrixBuilder) split(set uint32) (allow, never []portRange) {
	for _, a := range m.sets.list[set] {
		if m.slots[m.atoms[a].slot].never {
			never = append(never, m.atoms[a].ranges...)
		} else {
			allow = append(allow, m.atoms[a].ranges...)
		}
	}
	return mergeRanges(allow), mergeRanges(never)
}

// relatives works out what each source class may do to its own owner's and
// its own household's machines.
func (m *matrixBuilder) relatives() {
	for rel := toSelf; rel < numRelations; rel++ {
		m.f.relative[rel] = make([]uint32, len(m.srcClasses))
		known := map[uint32]uint32{0: 0}
		for class, sig := range m.srcClasses {
			set := uint32(0)
			for _, n := range sig {
				for _, s := range m.srcLists.list[n] {
					set = m.sets.union(set, m.slotAtoms[s][rel])
				}
			}
			if _, ok := known[set]; !ok {
				allow, _ := m.split(set)
				known[set] = m.f.addCell(allow, nil)
			}
			m.f.relative[rel][class] = known[set]
		}
	}
}

// grants notes which classes each application grant is for.
func (m *matrixBuilder) grants() error {
	for i := range m.slots {
		r := m.slots[i].rule
		if len(r.app) == 0 {
			continue
		}
		g := appGrant{src: make(map[uint16]bool), dst: make(map[uint16]bool), app: maps.Clone(r.app)}
		for class, sig := range m.srcClasses {
			g.src[uint16(class)] = slices.ContainsFunc(sig, func(n uint32) bool {
				return slices.Contains(m.srcLists.list[n], uint32(i))
			})
		}
		for a := range m.atoms {
			if m.atoms[a].slot == int32(i) {
				for _, class := range m.atomClasses[a] {
					g.dst[class] = true
				}
				g.toSelf = g.toSelf || slices.Contains(m.sets.list[m.slotAtoms[i][toSelf]], uint32(a))
				g.toHousehold = g.toHousehold || slices.Contains(m.sets.list[m.slotAtoms[i][toHousehold]], uint32(a))
			}
		}
		m.f.grants = append(m.f.grants, g)
	}
	return nil
}
