package acl

import (
	"cmp"
	"slices"
)

// segmentBuilder cuts overlapping ranges into segments.
type segmentBuilder struct {
	f      *Filter
	events []event
	count  []int32 // for each slot, how many open ranges it has
	open   []uint32
	key    []byte
	shared map[string]slotList // equal lists are stored once
	work   int64               // how many slots were looked at
}

// event is a place at which a range of a slot begins, or has ended.
type event struct {
	at    uint32
	slot  int32
	begin bool
}

// add stores the segments of ranges whose rule field is a slot.
func (b *segmentBuilder) add(ranges []portRange) segmentList {
	if len(ranges) == 0 {
		return segmentList{}
	}
	b.events = b.events[:0]
	for _, r := range ranges {
		b.events = append(b.events, event{r.first, r.rule, true}, event{r.last + 1, r.rule, false})
	}
	slices.SortFunc(b.events, func(x, y event) int { return cmp.Compare(x.at, y.at) })
	start := uint32(len(b.f.segments))
	for i := 0; i < len(b.events); {
		at := b.events[i].at
		for ; i < len(b.events) && b.events[i].at == at; i++ {
			b.turn(b.events[i])
		}
		if len(b.open) == 0 {
			continue
		}
		list := b.list()
		// Ranges that merely touch, with the same rules, are one.
		if n := len(b.f.segments); uint32(n) > start && b.f.segments[n-1].last+1 == at && b.f.segments[n-1].slots == list && at&0xffff != 0 {
			b.f.segments[n-1].last = b.events[i].at - 1
			continue
		}
		b.f.segments = append(b.f.segments, segment{first: at, last: b.events[i].at - 1, slots: list})
	}
	for _, seg := range b.f.segments[start:] {
		b.f.firsts = append(b.f.firsts, seg.first)
	}
	return segmentList{start, uint32(len(b.f.segments)) - start}
}

// turn opens or closes a range of a slot. open stays sorted.
func (b *segmentBuilder) turn(e event) {
	was := b.count[e.slot]
	if e.begin {
		b.count[e.slot]++
	} else {
		b.count[e.slot]--
	}
	is := b.count[e.slot]
	if (was == 0) == (is == 0) {
		return
	}
	at, _ := slices.BinarySearch(b.open, uint32(e.slot))
	if is != 0 {
		b.open = slices.Insert(b.open, at, uint32(e.slot))
	} else {
		b.open = slices.Delete(b.open, at, at+1)
	}
}

// list stores the open slots: as numbers if they are few, as bits if not.
func (b *segmentBuilder) list() slotList {
	b.work += int64(len(b.open))
	b.key = signature(b.key[:0], b.open)
	if l, ok := b.shared[string(b.key)]; ok {
		return l
	}
	l := slotList{start: uint32(len(b.f.lists)), n: int32(len(b.open))}
	if len(b.open) > max(6, b.f.words/4) {
		l = slotList{start: uint32(len(b.f.sets)), n: -1}
		b.f.sets = append(b.f.sets, make([]uint64, b.f.words)...)
		for _, s := range b.open {
			b.f.sets[l.start+s/64] |= 1 << (s % 64)
		}
	} else {
		b.f.lists = append(b.f.lists, b.open...)
	}
	b.shared[string(b.key)] = l
	return l
}
