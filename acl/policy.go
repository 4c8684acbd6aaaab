package acl

import (
	"encoding/json"
	"fmt"
	"iter"
	"slices"

	"github.com/warrenmesh/warren/peer"
)

// Policy is a policy text that was read and understood, but not yet held
// against a world: a name in it may still turn out to be nobody's. It never
// changes and may be used by any number of goroutines.
type Policy struct {
	text       []byte
	households []membership
	groups     []membership
	tagOwners  []membership
	hosts      []host
	rules      []rule // acls, then grants
	tests      []test
	nevers     []rule
}

// membership is one line of households, groups or tagOwners.
type membership struct {
	name    string
	members []selector
	at      position
}

type host struct {
	name string
	sel  selector // an address or a CIDR
	at   position
}

// rule is one entry of acls, grants or never: every source may send to every
// target.
type rule struct {
	src []selector
	dst []target
	app map[string][]json.RawMessage // grants only
	at  position
	end int // offset behind the rule in the text
}

// target is a destination and the ports that are meant on it.
type target struct {
	sel   selector
	ports []Port
	// either: no protocol was named, so that a test's accept is content with
	// TCP or UDP.
	either bool
}

// test is an example that must hold.
type test struct {
	src          selector
	accept, deny []target
	at           position
}

// position is a place in the text. Line and column count from 1, the column
// in characters.
type position struct {
	offset, line, column int
}

// Error is what is wrong with a policy, and where.
type Error struct {
	Line, Column int
	Msg          string
}

// Error returns one sentence that begins with the place.
func (e *Error) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Msg)
}

func (p position) errorf(format string, args ...any) *Error {
	return &Error{Line: p.line, Column: p.column, Msg: fmt.Sprintf(format, args...)}
}

// Problem is what Recompile found to be no longer as the policy's author left
// it. What it speaks of matches nothing until it is put right.
type Problem struct {
	Line, Column int // 0: not a place in the text
	Msg          string
}

// String returns one sentence that begins with the place, if there is one.
func (p Problem) String() string {
	if p.Line == 0 {
		return p.Msg
	}
	return fmt.Sprintf("line %d, column %d: %s", p.Line, p.Column, p.Msg)
}

// Text returns the text that was parsed, comments and all.
func (p *Policy) Text() []byte {
	if p == nil {
		return nil
	}
	return slices.Clone(p.text)
}

// Households returns the households that the policy declares, in the order of
// the text.
func (p *Policy) Households() []string {
	if p == nil {
		return nil
	}
	var names []string
	for _, h := range p.households {
		names = append(names, h.name)
	}
	return names
}

// Tags returns the tags that the policy declares, in the order of the text.
func (p *Policy) Tags() []string {
	if p == nil {
		return nil
	}
	var tags []string
	for _, t := range p.tagOwners {
		tags = append(tags, t.name)
	}
	return tags
}

// MayTag reports whether tagOwners lets a user give a machine this tag.
func (p *Policy) MayTag(owner, tag string) bool {
	if p == nil || owner == "" {
		return false
	}
	for _, t := range p.tagOwners {
		if t.name == tag {
			return slices.ContainsFunc(t.members, func(s selector) bool { return p.isUser(owner, s) })
		}
	}
	return false
}

// isUser reports whether a selector of users speaks of owner.
func (p *Policy) isUser(owner string, s selector) bool {
	name := s.name
	switch s.kind {
	case selUser:
		return name == owner
	case selAdmin:
		name = adminGroup
	case selGroup:
	default:
		return false
	}
	for _, g := range p.groups {
		if g.name == name {
			return slices.ContainsFunc(g.members, func(m selector) bool { return m.name == owner })
		}
	}
	return false
}

// HouseholdOf returns the household a machine belongs to: its own if it has
// one, else, unless it is tagged, its owner's, "" for none.
func (p *Policy) HouseholdOf(m *peer.Peer) string {
	if m.Household != "" || p == nil || m.Owner == "" || len(m.Tags) > 0 {
		return m.Household
	}
	return p.householdOf(m.Owner)
}

// householdOf returns the household that the policy gives a user, "" for none.
func (p *Policy) householdOf(owner string) string {
	for _, h := range p.households {
		for _, m := range h.members {
			if m.name == owner {
				return h.name
			}
		}
	}
	return ""
}

// selectors yields every selector in the text, in its order of meaning.
func (p *Policy) selectors() iter.Seq[selector] {
	return func(yield func(selector) bool) {
		for _, lists := range [][]membership{p.households, p.groups, p.tagOwners} {
			for _, m := range lists {
				for _, s := range m.members {
					if !yield(s) {
						return
					}
				}
			}
		}
		for _, h := range p.hosts {
			if !yield(h.sel) {
				return
			}
		}
		for _, rules := range [][]rule{p.rules, p.nevers} {
			for i := range rules {
				if !rules[i].selectors(yield) {
					return
				}
			}
		}
		for i := range p.tests {
			t := rule{src: []selector{p.tests[i].src}, dst: append(slices.Clone(p.tests[i].accept), p.tests[i].deny...)}
			if !t.selectors(yield) {
				return
			}
		}
	}
}

func (r *rule) selectors(yield func(selector) bool) bool {
	for _, s := range r.src {
		if !yield(s) {
			return false
		}
	}
	for _, t := range r.dst {
		if !yield(t.sel) {
			return false
		}
	}
	return true
}

// ruleText returns the rule as it stands in the text, on one line.
func (p *Policy) ruleText(r *rule) string {
	return oneLine(p.text[r.at.offset:r.end], 240)
}

// HasAdmin reports whether group:admin has a member.
func (p *Policy) HasAdmin() bool {
	return p != nil && slices.ContainsFunc(p.groups, func(g membership) bool { return g.name == adminGroup && len(g.members) > 0 })
}
