package acl

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tailscale/hujson"

	"github.com/warrenmesh/warren/peer"
)

// field is one key that an object may have, and what to do with its value.
type field struct {
	key  string
	read func(hujson.Value) error
}

// policy reads the outermost object.
func (d *decoder) policy(root hujson.Value, p *Policy) error {
	var acls, grants []rule
	err := d.fields(root, "a policy", []field{
		{"households", func(v hujson.Value) error { return d.memberships(v, &p.households, d.householdName, onlyUsers) }},
		{"groups", func(v hujson.Value) error { return d.memberships(v, &p.groups, d.groupName, onlyUsers) }},
		{"tagOwners", func(v hujson.Value) error { return d.memberships(v, &p.tagOwners, d.tagName, usersAndGroups) }},
		{"hosts", func(v hujson.Value) error { return d.hosts(v, p) }},
		{"acls", func(v hujson.Value) error { return d.rules(v, &acls, d.acl) }},
		{"grants", func(v hujson.Value) error { return d.rules(v, &grants, d.grant) }},
		{"tests", func(v hujson.Value) error { return d.tests(v, p) }},
		{"never", func(v hujson.Value) error { return d.rules(v, &p.nevers, d.never) }},
	})
	if err != nil {
		return err
	}
	p.rules = append(acls, grants...)
	return checkMembership(p)
}

// checkMembership refuses a user in two households and a tag nobody owns.
func checkMembership(p *Policy) error {
	home := make(map[string]string)
	for _, h := range p.households {
		for _, m := range h.members {
			if other, ok := home[m.name]; ok && other != h.name {
				return m.at.errorf("%v already lives in household %q; a user lives in one, so delete one of the two", m, other)
			}
			home[m.name] = h.name
		}
	}
	for _, t := range p.tagOwners {
		if len(t.members) == 0 {
			return t.at.errorf("%q has no owner; name who may give it, as in \"%s\": [\"group:admin\"]", t.name, t.name)
		}
	}
	return nil
}

// eachMember calls f for each member of an object, after refusing a key that
// stands there twice: two readers would not agree on which one counts.
func (d *decoder) eachMember(v hujson.Value, f func(key string, at position, v hujson.Value) error) error {
	obj, ok := v.Value.(*hujson.Object)
	if !ok {
		return d.at(v.StartOffset).errorf("here belongs an object in braces, not %s", kindName(v))
	}
	seen := make(map[string]position, len(obj.Members))
	for _, m := range obj.Members {
		lit, _ := m.Name.Value.(hujson.Literal)
		key, at := lit.String(), d.at(m.Name.StartOffset)
		if first, ok := seen[key]; ok {
			return at.errorf("the key %.80q stands here a second time, first on line %d; merge the two", key, first.line)
		}
		seen[key] = at
		if err := f(key, at, m.Value); err != nil {
			return err
		}
	}
	return nil
}

// fields reads an object of which every key is known.
func (d *decoder) fields(v hujson.Value, what string, known []field) error {
	return d.eachMember(v, func(key string, at position, v hujson.Value) error {
		names := make([]string, 0, len(known))
		for _, f := range known {
			if f.key == key {
				return f.read(v)
			}
			if strings.EqualFold(f.key, key) {
				return at.errorf("the key %.80q is unknown; write %q", key, f.key)
			}
			names = append(names, f.key)
		}
		return at.errorf("the key %.80q is unknown; %s has %s", key, what, strings.Join(names, ", "))
	})
}

func kindName(v hujson.Value) string {
	if v.Value == nil {
		return "nothing"
	}
	switch v.Value.Kind() {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a text"
	case '0':
		return "a number"
	case 'n':
		return "null"
	}
	return "true or false"
}

func (d *decoder) text1(v hujson.Value) (string, position, error) {
	at := d.at(v.StartOffset)
	lit, ok := v.Value.(hujson.Literal)
	if !ok || lit.Kind() != '"' {
		hint := ""
		if ok && lit.Kind() == '0' {
			hint = "; put the number in double quotes"
		}
		return "", at, at.errorf("here belongs a text in double quotes, not %s%s", kindName(v), hint)
	}
	return lit.String(), at, nil
}

func (d *decoder) list(v hujson.Value, f func(hujson.Value) error) error {
	arr, ok := v.Value.(*hujson.Array)
	if !ok {
		return d.at(v.StartOffset).errorf("here belongs a list in square brackets, not %s", kindName(v))
	}
	for _, e := range arr.Elements {
		if err := f(e); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) householdName(s string) error { return peer.ValidName(s) }
func (d *decoder) tagName(s string) error       { return peer.ValidTag(s) }
func (d *decoder) groupName(s string) error {
	name, ok := strings.CutPrefix(s, "group:")
	if !ok {
		return fmt.Errorf("a group's name starts with \"group:\", as in \"group:admin\"")
	}
	return peer.ValidName(name)
}

func onlyUsers(s selector) error {
	if s.kind != selUser {
		return fmt.Errorf("%q is no user; only users can be members, as in \"ann@\"", s)
	}
	return nil
}

func usersAndGroups(s selector) error {
	if s.kind != selUser && s.kind != selGroup && s.kind != selAdmin {
		return fmt.Errorf("%q cannot own a tag; name users, groups or autogroup:admin", s)
	}
	return nil
}

func (d *decoder) memberships(v hujson.Value, into *[]membership, valid func(string) error, may func(selector) error) error {
	return d.eachMember(v, func(key string, at position, v hujson.Value) error {
		if err := valid(key); err != nil {
			return at.errorf("%v", nameError(key, err))
		}
		members, err := d.selectors(v, may)
		if err != nil {
			return err
		}
		*into = append(*into, membership{name: key, members: members, at: at})
		return nil
	})
}

func (d *decoder) selectors(v hujson.Value, may func(selector) error) ([]selector, error) {
	var list []selector
	err := d.list(v, func(v hujson.Value) error {
		sel, err := d.selector(v, may)
		list = append(list, sel)
		return err
	})
	return list, err
}

func (d *decoder) selector(v hujson.Value, may func(selector) error) (selector, error) {
	s, at, err := d.text1(v)
	if err != nil {
		return selector{}, err
	}
	sel, err := parseSelector(s)
	if err == nil {
		err = may(sel)
	}
	if err != nil {
		return selector{}, at.errorf("%v", err)
	}
	sel.at = at
	return sel, nil
}

func (d *decoder) hosts(v hujson.Value, p *Policy) error {
	return d.eachMember(v, func(key string, at position, v hujson.Value) error {
		if sel, err := parseSelector(key); err != nil {
			return at.errorf("%v", err)
		} else if sel.kind != selWord {
			return at.errorf("%.80q cannot name a host; use a plain word, as in \"printer-pi\"", key)
		}
		sel, err := d.selector(v, func(s selector) error {
			if s.kind != selPrefix {
				return fmt.Errorf("%q is no address; a host is an address or a network, as in \"10.77.1.9\"", s)
			}
			return nil
		})
		if err != nil {
			return err
		}
		p.hosts = append(p.hosts, host{name: key, sel: sel, at: at})
		return nil
	})
}

func (d *decoder) rules(v hujson.Value, into *[]rule, read func(hujson.Value, *rule) error) error {
	return d.list(v, func(v hujson.Value) error {
		r := rule{at: d.at(v.StartOffset), end: v.EndOffset}
		if err := read(v, &r); err != nil {
			return err
		}
		if len(r.src) == 0 {
			return r.at.errorf("the rule has no \"src\"; say who, as in \"src\": [\"group:admin\"]")
		}
		if len(r.dst) == 0 {
			return r.at.errorf("the rule has no \"dst\"; say what it reaches, as in \"dst\": [\"svc:stt:443\"]")
		}
		*into = append(*into, r)
		return nil
	})
}

// notRelative refuses, as a source, what only means something next to one.
func notRelative(s selector) error {
	if s.kind == selSelf || s.kind == selSameHousehold {
		return fmt.Errorf("%q is measured from the source and stands only in a rule's dst; name who is meant", s)
	}
	return nil
}

func anySelector(selector) error { return nil }

func (d *decoder) acl(v hujson.Value, r *rule) error {
	action := ""
	targets := &targetList{}
	err := d.fields(v, "a rule of acls", []field{
		{"action", func(v hujson.Value) error {
			s, at, err := d.text1(v)
			if err == nil && s != "accept" {
				err = at.errorf("the action %.40q is unknown; the only one is \"accept\", and what no rule accepts is refused", s)
			}
			action = s
			return err
		}},
		{"src", func(v hujson.Value) (err error) { r.src, err = d.selectors(v, notRelative); return err }},
		{"proto", func(v hujson.Value) error { return d.proto(v, targets) }},
		{"dst", func(v hujson.Value) error { return d.texts(v, &targets.dst) }},
	})
	if err != nil {
		return err
	}
	if action == "" {
		return r.at.errorf("the rule has no \"action\"; write \"action\": \"accept\"")
	}
	r.dst, err = targets.read(targets.dst, anySelector)
	return err
}

func (d *decoder) never(v hujson.Value, r *rule) error {
	targets := &targetList{}
	err := d.fields(v, "an entry of never", []field{
		{"src", func(v hujson.Value) (err error) { r.src, err = d.selectors(v, notRelative); return err }},
		{"proto", func(v hujson.Value) error { return d.proto(v, targets) }},
		{"dst", func(v hujson.Value) error { return d.texts(v, &targets.dst) }},
	})
	if err != nil {
		return err
	}
	r.dst, err = targets.read(targets.dst, notRelative)
	return err
}

func (d *decoder) grant(v hujson.Value, r *rule) error {
	var dst []selector
	var ports []Port
	err := d.fields(v, "a grant", []field{
		{"src", func(v hujson.Value) (err error) { r.src, err = d.selectors(v, notRelative); return err }},
		{"dst", func(v hujson.Value) (err error) { dst, err = d.selectors(v, anySelector); return err }},
		{"ip", func(v hujson.Value) error {
			return d.list(v, func(v hujson.Value) error {
				s, at, err := d.text1(v)
				if err != nil {
					return err
				}
				more, err := parseGrantIP(s)
				if err != nil {
					return at.errorf("%v", err)
				}
				ports = append(ports, more...)
				return nil
			})
		}},
		{"app", func(v hujson.Value) error { return d.app(v, r) }},
	})
	if err != nil {
		return err
	}
	if ports == nil && r.app == nil {
		return r.at.errorf("the grant has neither \"ip\" nor \"app\", so it grants nothing; add one, as in \"ip\": [\"tcp:443\"]")
	}
	for _, sel := range dst {
		r.dst = append(r.dst, target{sel: sel, ports: ports})
	}
	return nil
}

// app reads capabilities: names that look like a domain with a path, each
// with a list of anything.
func (d *decoder) app(v hujson.Value, r *rule) error {
	r.app = make(map[string][]json.RawMessage)
	return d.eachMember(v, func(key string, at position, v hujson.Value) error {
		domain, path, ok := strings.Cut(key, "/")
		if !ok || domain == "" || path == "" || len(key) > 255 || !isASCII(key) {
			return at.errorf("%.80q is no capability; write a domain and a path, as in \"warren.internal/cap/notes\"", key)
		}
		list := []json.RawMessage{}
		err := d.list(v, func(v hujson.Value) error {
			if err := d.checkValue(v); err != nil {
				return err
			}
			plain := v.Clone()
			plain.Minimize()
			list = append(list, json.RawMessage(plain.Pack()))
			return nil
		})
		r.app[key] = list
		return err
	})
}
