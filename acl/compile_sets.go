package acl

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// slot is a rule in its place among all rules.
type slot struct {
	n     int32 // as Verdict.Rule has it; counted from 1 among nevers
	rule  *rule
	never bool
}

// atom is a rule's targets that share a list of ports: the smallest thing that
// either applies to a pair of machines or does not.
type atom struct {
	slot   int32
	ranges []portRange
}

// relation says how a rule's destination hangs on its source.
type relation uint8

const (
	toClass     relation = iota // an ordinary destination: the matrix has it
	toSelf                      // autogroup:self
	toHousehold                 // autogroup:same-household
	numRelations
)

// portRange is a range of ports of one protocol, packed so that a list of
// them for all protocols sorts in one order.
type portRange struct {
	first, last uint32
	rule        int32
}

// portKey packs a protocol and a port; 0 for a protocol that no rule can mean.
func portKey(proto Proto, port uint16) uint32 {
	switch proto {
	case ProtoTCP:
		return 1<<16 | uint32(port)
	case ProtoUDP:
		return 2<<16 | uint32(port)
	case ProtoICMP:
		return 3 << 16
	}
	return 0
}

// unpack is portKey's inverse for a range.
func (r portRange) port() Port {
	p := Port{First: uint16(r.first), Last: uint16(r.last)}
	switch r.first >> 16 {
	case 1:
		p.Proto = ProtoTCP
	case 2:
		p.Proto = ProtoUDP
	case 3:
		p.Proto = ProtoICMP
	}
	return p
}

// rangesOf makes a sorted list without overlaps.
func rangesOf(ports []Port, rule int32) []portRange {
	list := make([]portRange, 0, len(ports))
	for _, p := range ports {
		lo, hi := portKey(p.Proto, p.First), portKey(p.Proto, p.Last)
		if lo != 0 && lo <= hi {
			list = append(list, portRange{lo, hi, rule})
		}
	}
	return mergeRanges(list)
}

// mergeRanges sorts ranges and takes out overlaps. Where two overlap, the
// one that comes first in the list keeps its ports: list is in rule order.
func mergeRanges(list []portRange) []portRange {
	if len(list) < 2 {
		return list
	}
	slices.SortStableFunc(list, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
	var out []portRange
	covered := uint32(0) // everything up to here is dealt with
	for _, r := range list {
		if r.last <= covered {
			continue
		}
		r.first = max(r.first, covered+1)
		covered = r.last
		if n := len(out) - 1; n >= 0 && out[n].rule == r.rule && out[n].last+1 == r.first && r.first&0xffff != 0 {
			out[n].last = r.last
			continue
		}
		out = append(out, r)
	}
	return out
}

// searchRanges finds the range that holds key, nil if none does.
func searchRanges(list []portRange, key uint32) *portRange {
	for len(list) > 8 {
		mid := len(list) / 2
		if list[mid].first <= key {
			list = list[mid:]
		} else {
			list = list[:mid]
		}
	}
	for i := range list {
		if r := &list[i]; key <= r.last {
			if key >= r.first {
				return r
			}
			return nil
		}
	}
	return nil
}

// intersect keeps of a what b covers as well; both sorted, a's rules stay.
func intersect(a, b []portRange) []portRange {
	var out []portRange
	for i, j := 0, 0; i < len(a) && j < len(b); {
		lo, hi := max(a[i].first, b[j].first), min(a[i].last, b[j].last)
		if lo <= hi {
			out = append(out, portRange{lo, hi, a[i].rule})
		}
		if a[i].last < b[j].last {
			i++
		} else {
			j++
		}
	}
	return out
}

// subtract keeps of a what b does not cover; both sorted.
func subtract(a, b []portRange) []portRange {
	var out []portRange
	j := 0
	for _, r := range a {
		for j < len(b) && b[j].last < r.first {
			j++
		}
		for k := j; k < len(b) && b[k].first <= r.last && r.first <= r.last; k++ {
			if b[k].first > r.first {
				out = append(out, portRange{r.first, b[k].first - 1, r.rule})
			}
			r.first = b[k].last + 1
		}
		if r.first <= r.last {
			out = append(out, r)
		}
	}
	return out
}

// lists gives each distinct sorted list of numbers a number of its own; the
// empty list is 0. Two lists are equal exactly when their numbers are.
type lists struct {
	byKey map[string]uint32
	list  [][]uint32
	key   []byte
}

func newLists() *lists {
	return &lists{byKey: map[string]uint32{"": 0}, list: [][]uint32{nil}}
}

// number takes over l, which must be sorted and without duplicates.
func (t *lists) number(l []uint32) uint32 {
	t.key = t.key[:0]
	for _, n := range l {
		t.key = binary.LittleEndian.AppendUint32(t.key, n)
	}
	if n, ok := t.byKey[string(t.key)]; ok {
		return n
	}
	n := uint32(len(t.list))
	t.byKey[string(t.key)] = n
	t.list = append(t.list, l)
	return n
}
