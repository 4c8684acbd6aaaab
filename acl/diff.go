package acl

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// maxChanges bounds what Diff lists in each direction.
const maxChanges = 200

// Delta is what changes between two filters.
type Delta struct {
	Opened []Change `json:"opened"`
	Closed []Change `json:"closed"`
	// MoreOpened and MoreClosed count what is left out of the lists.
	MoreOpened int `json:"more_opened,omitempty"`
	MoreClosed int `json:"more_closed,omitempty"`
	// Flows are the recorded ones that would fare differently.
	Flows []FlowChange `json:"flows"`
}

// Change is a rectangle: every source to every destination on every port.
// Destinations and sources are selectors where selectors say it, names where
// not.
type Change struct {
	Src   []string `json:"src"`
	Dst   []string `json:"dst"`
	Ports []Port   `json:"ports"`
}

// String returns the change as a person would say it.
func (c Change) String() string {
	var ports []string
	for _, p := range c.Ports {
		ports = append(ports, p.String())
	}
	return fmt.Sprintf("%s to %s on %s", shortList(c.Src), shortList(c.Dst), shortList(ports))
}

// FlowChange is a recorded flow and what the new filter says to it.
type FlowChange struct {
	Flow
	SrcName string `json:"src_name"`
	DstName string `json:"dst_name"`
	// Allows is the new verdict; it differs from the old filter's.
	Allows bool `json:"allows"`
}

// Empty reports whether nothing changes.
func (d Delta) Empty() bool { return len(d.Opened)+len(d.Closed)+len(d.Flows) == 0 }

// String lists the changes, one a line.
func (d Delta) String() string {
	var b strings.Builder
	list := func(title string, changes []Change, more int) {
		for _, c := range changes {
			fmt.Fprintf(&b, "%s  %v\n", title, c)
		}
		if more > 0 {
			fmt.Fprintf(&b, "%s  and %d more\n", title, more)
		}
	}
	list("opens ", d.Opened, d.MoreOpened)
	list("closes", d.Closed, d.MoreClosed)
	for _, f := range d.Flows {
		verb := "would be refused"
		if f.Allows {
			verb = "would be allowed"
		}
		fmt.Fprintf(&b, "seen    %s to %s %s, %d times, last %s: %s\n", f.SrcName, f.DstName,
			Port{f.Proto, f.Port, f.Port}, f.Count, f.Last.UTC().Format("2006-01-02 15:04"), verb)
	}
	if b.Len() == 0 {
		return "nothing opens and nothing closes\n"
	}
	return b.String()
}

// Diff says what opens and what closes when next takes the place of old, and
// which of the recorded flows that would touch. Either filter may be nil,
// which allows nothing. Machines that may come count as well, so a rule about
// a user without any machine is a change.
func Diff(old, next *Filter, recorded []Flow) Delta {
	d := &differ{side: [2]*Filter{old, next}, seen: make(map[changeKey]map[uint32]map[uint32]bool), memo: make(map[string][2]string)}
	d.join()
	d.unrelated()
	d.related()
	namer := newNamer(d)
	var out Delta
	out.Closed, out.MoreClosed = d.changes(0, namer)
	out.Opened, out.MoreOpened = d.changes(1, namer)
	out.Flows = flowChanges(old, next, recorded)
	return out
}

func flowChanges(old, next *Filter, recorded []Flow) []FlowChange {
	var list []FlowChange
	for _, fl := range recorded {
		was := old.lookup(old.node(fl.Src), old.node(fl.Dst), fl.Proto, fl.Port).Allow
		will := next.lookup(next.node(fl.Src), next.node(fl.Dst), fl.Proto, fl.Port).Allow
		if was == will {
			continue
		}
		c := FlowChange{Flow: fl, Allows: will, SrcName: fl.Src.String(), DstName: fl.Dst.String()}
		for _, f := range []*Filter{old, next} {
			if f == nil {
				continue
			}
			if m := f.machineAt(f.node(fl.Src)); m != nil {
				c.SrcName = m.String()
			}
			if m := f.machineAt(f.node(fl.Dst)); m != nil {
				c.DstName = m.String()
			}
		}
		list = append(list, c)
	}
	slices.SortStableFunc(list, func(a, b FlowChange) int { return int(min(b.Count, 1<<30)) - int(min(a.Count, 1<<30)) })
	return list
}

// joint is a machine as the old and the new filter see it; nil where it is not
// there or not active.
type joint [2]*machine

func (j joint) any() *machine {
	if j[1] != nil {
		return j[1]
	}
	return j[0]
}

// classPair is a machine's class in both filters, narrow and wide in one
// number for a destination; -1 where it has none.
type classPair [2]int64

// changeKey says what changed: 0 closes, 1 opens; which relation the pair
// must have; and the ranges.
type changeKey struct {
	direction int
	kind      relation
	ranges    string
}

type differ struct {
	side     [2]*Filter
	machines []joint
	src, dst []uint32    // for each machine, its joint class
	srcs     []classPair // for each joint class
	dsts     []classPair
	bySrc    [][]int32 // members
	byDst    [][]int32
	masks    [2][]uint64 // the slots that matter to destination class of
	of       uint32      // 0: to none
	memo     map[string][2]string
	key      []byte
	seen     map[changeKey]map[uint32]map[uint32]bool // destination class, source class
}

// join matches the machines of both worlds, and puts those together that both
// filters treat alike.
func (d *differ) join() {
	index := make(map[string]int)
	for i, f := range d.side {
		if f == nil {
			continue
		}
		for k := range f.machines {
			m := &f.machines[k]
			if m.flags&flagActive == 0 {
				continue
			}
			key := m.String()
			if m.id != "" {
				key = "\x00" + string(m.id)
			}
			n, ok := index[key]
			if !ok {
				n = len(d.machines)
				index[key] = n
				d.machines = append(d.machines, joint{})
			}
			d.machines[n][i] = m
		}
	}
	srcs, dsts := make(map[classPair]uint32), make(map[classPair]uint32)
	put := func(known map[classPair]uint32, list *[]classPair, members *[][]int32, c classPair, i int) uint32 {
		n, ok := known[c]
		if !ok {
			n = uint32(len(*list))
			known[c] = n
			*list, *members = append(*list, c), append(*members, nil)
		}
		(*members)[n] = append((*members)[n], int32(i))
		return n
	}
	for i, j := range d.machines {
		s, t := classPair{-1, -1}, classPair{-1, -1}
		for k, m := range j {
			if m == nil {
				continue
			}
			s[k], t[k] = int64(m.src), int64(m.dst)<<16|int64(m.wide)
			if m.service() {
				t[k] |= 1 << 40 // relations do not reach services, so they are apart
			}
		}
		d.src = append(d.src, put(srcs, &d.srcs, &d.bySrc, s, i))
		d.dst = append(d.dst, put(dsts, &d.dsts, &d.byDst, t, i))
	}
}

// kind is the relation between two machines, as far as a source of this class
// has any use for it.
func (d *differ) kind(s uint32, a, b joint) relation {
	var k relation
	for i, f := range d.side {
		if f == nil || a[i] == nil || b[i] == nil || b[i].service() {
			continue
		}
		if sameOwner(a[i], b[i]) && f.relative[toSelf][d.srcs[s][i]] != 0 {
			k |= toSelf
		}
		if sameHousehold(a[i], b[i]) && f.relative[toHousehold][d.srcs[s][i]] != 0 {
			k |= toHousehold
		}
	}
	return k
}

// aim gets ready for one destination class: which slots can make a difference
// to it, in either filter.
func (d *differ) aim(t uint32) {
	if d.of == t+1 {
		return
	}
	d.of = t + 1
	clear(d.memo)
	for i, f := range d.side {
		if f == nil {
			continue
		}
		d.masks[i] = make([]uint64, f.words)
		if c := d.dsts[t][i]; c >= 0 {
			for _, class := range []uint16{uint16(c >> 16), uint16(c)} {
				for _, l := range []segmentList{f.dsts[class].allow, f.dsts[class].never} {
					for _, seg := range f.segments[l.start : l.start+l.n] {
						f.collect(seg.slots, d.masks[i])
					}
				}
			}
		}
	}
}

// change returns what closes and what opens between two joint classes.
// Sources that have the same slots of those that matter fare alike.
func (d *differ) change(s, t uint32, kind relation) [2]string {
	d.aim(t)
	d.key = append(d.key[:0], byte(kind))
	for i, f := range d.side {
		if f == nil || d.srcs[s][i] < 0 {
			continue
		}
		d.key = append(d.key, byte(i))
		for w, word := range f.source(uint16(d.srcs[s][i])) {
			if word &= d.masks[i][w]; word != 0 {
				d.key = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(d.key, uint32(w)), word)
			}
		}
		d.key = binary.LittleEndian.AppendUint32(d.key, ^uint32(0)) // the words end here
		for rel := toSelf; rel < numRelations; rel++ {
			if kind&rel != 0 {
				d.key = binary.LittleEndian.AppendUint32(d.key, f.relative[rel][d.srcs[s][i]])
			}
		}
	}
	if c, ok := d.memo[string(d.key)]; ok {
		return c
	}
	allow := [2][]portRange{d.ranges(0, s, t, kind), d.ranges(1, s, t, kind)}
	c := [2]string{packRanges(subtract(allow[0], allow[1])), packRanges(subtract(allow[1], allow[0]))}
	d.memo[string(d.key)] = c
	return c
}

// ranges is what one of the two filters allows between joint classes.
func (d *differ) ranges(i int, s, t uint32, kind relation) []portRange {
	f := d.side[i]
	if f == nil || d.srcs[s][i] < 0 || d.dsts[t][i] < 0 {
		return nil
	}
	row := f.source(uint16(d.srcs[s][i]))
	var allow, never []portRange
	for _, class := range []uint16{uint16(d.dsts[t][i] >> 16), uint16(d.dsts[t][i])} {
		allow = append(allow, f.matching(f.dsts[class].allow, row)...)
		never = append(never, f.matching(f.dsts[class].never, row)...)
	}
	for rel := toSelf; rel < numRelations; rel++ {
		if kind&rel != 0 {
			allow = append(allow, f.ports(f.relative[rel][d.srcs[s][i]])...)
		}
	}
	return subtract(mergeRanges(allow), mergeRanges(never))
}

// packRanges makes a list of ranges comparable, whatever rules it came from.
func packRanges(list []portRange) string {
	var b []byte
	for _, r := range portsFrom(list) {
		b = append(b, byte(r.Proto), byte(r.First>>8), byte(r.First), byte(r.Last>>8), byte(r.Last))
	}
	return string(b)
}

func unpackRanges(s string) []Port {
	var list []Port
	for ; len(s) >= 5; s = s[5:] {
		list = append(list, Port{Proto(s[0]), uint16(s[1])<<8 | uint16(s[2]), uint16(s[3])<<8 | uint16(s[4])})
	}
	return list
}

// portsFrom joins ranges that touch, whatever rules they came from.
func portsFrom(list []portRange) []Port {
	plain := slices.Clone(list)
	for i := range plain {
		plain[i].rule = 0
	}
	var out []Port
	for _, r := range mergeRanges(plain) {
		out = append(out, r.port())
	}
	return out
}

func (d *differ) note(s, t uint32, kind relation) {
	for direction, ranges := range d.change(s, t, kind) {
		if ranges == "" {
			continue
		}
		key := changeKey{direction, kind, ranges}
		if d.seen[key] == nil {
			d.seen[key] = make(map[uint32]map[uint32]bool)
		}
		if d.seen[key][t] == nil {
			d.seen[key][t] = make(map[uint32]bool)
		}
		d.seen[key][t][s] = true
	}
}
