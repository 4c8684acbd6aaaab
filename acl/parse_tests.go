package acl

import (
	"github.com/tailscale/hujson"
)

// targetList holds destinations until the protocol is known: the order of
// keys in an object means nothing.
type targetList struct {
	protos       []Proto
	dst          []located
	accept, deny []located
}

// located is a text and where it stands.
type located struct {
	text string
	at   position
}

func (t *targetList) read(list []located, may func(selector) error) ([]target, error) {
	var out []target
	for _, l := range list {
		tgt, err := parseTarget(l.text, t.protos)
		if err == nil {
			err = may(tgt.sel)
		}
		if err != nil {
			return nil, l.at.errorf("%v", err)
		}
		tgt.sel.at = l.at
		out = append(out, tgt)
	}
	return out, nil
}

func (d *decoder) texts(v hujson.Value, into *[]located) error {
	return d.list(v, func(v hujson.Value) error {
		s, at, err := d.text1(v)
		*into = append(*into, located{s, at})
		return err
	})
}

func (d *decoder) proto(v hujson.Value, t *targetList) error {
	s, at, err := d.text1(v)
	if err != nil {
		return err
	}
	if t.protos, err = protoWord(s); err != nil {
		return at.errorf("%v", err)
	}
	return nil
}

func (d *decoder) tests(v hujson.Value, p *Policy) error {
	return d.list(v, func(v hujson.Value) error {
		t := test{at: d.at(v.StartOffset)}
		targets, hasSrc := &targetList{}, false
		err := d.fields(v, "a test", []field{
			{"src", func(v hujson.Value) (err error) {
				hasSrc = true
				t.src, err = d.selector(v, notRelative)
				return err
			}},
			{"proto", func(v hujson.Value) error { return d.proto(v, targets) }},
			{"accept", func(v hujson.Value) error { return d.texts(v, &targets.accept) }},
			{"deny", func(v hujson.Value) error { return d.texts(v, &targets.deny) }},
		})
		if err != nil {
			return err
		}
		if !hasSrc {
			return t.at.errorf("the test has no \"src\"; say who, as in \"src\": \"ann@\"")
		}
		if len(targets.accept)+len(targets.deny) == 0 {
			return t.at.errorf("the test has neither \"accept\" nor \"deny\", so it tests nothing; add one")
		}
		if t.accept, err = targets.read(targets.accept, notRelative); err != nil {
			return err
		}
		if t.deny, err = targets.read(targets.deny, notRelative); err != nil {
			return err
		}
		p.tests = append(p.tests, t)
		return nil
	})
}
