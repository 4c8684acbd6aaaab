package acl

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Explanation is why a packet would be let through or not. It holds what the
// packet path decided, not what somebody thinks it would.
type Explanation struct {
	Src     netip.Addr `json:"src"`
	Dst     netip.Addr `json:"dst"`
	SrcName string     `json:"src_name"` // "" for nobody
	DstName string     `json:"dst_name"`
	Proto   Proto      `json:"proto"`
	Port    uint16     `json:"port"`
	Allowed bool       `json:"allowed"`
	Reason  string     `json:"reason,omitempty"` // when refused
	Rule    string     `json:"rule,omitempty"`   // when allowed: "rule at line 12"
	Text    string     `json:"text,omitempty"`   // the rule's text, on one line
	Line    int        `json:"line,omitempty"`   // 0 for a built-in rule
	Nearest string     `json:"nearest,omitempty"`
}

// Explain says what would happen to a packet that starts a flow, and why.
func (f *Filter) Explain(src, dst netip.Addr, proto Proto, port uint16) Explanation {
	e := Explanation{Src: src, Dst: dst, Proto: proto, Port: port}
	if proto == ProtoICMP {
		e.Port = 0
	}
	if f == nil {
		e.Reason = ReasonNoPolicy.String()
		return e
	}
	s, d := f.node(src), f.node(dst)
	v := f.lookup(s, d, proto, port)
	from, to := f.machineAt(s), f.machineAt(d)
	if from != nil {
		e.SrcName = from.String()
	}
	if to != nil {
		e.DstName = to.String()
	}
	e.Allowed = v.Allow
	if v.Allow {
		e.Rule, e.Text, e.Line = f.ruleName(v.Rule), f.RuleText(v.Rule), f.ruleLine(v.Rule)
		return e
	}
	e.Reason = v.Reason.String()
	if from == nil || to == nil {
		return e
	}
	switch v.Reason {
	case ReasonNoRule:
		e.Nearest = f.nearest(from, to, proto, port)
	case ReasonNotOffered:
		e.Nearest = fmt.Sprintf("%v offers %s", to, portNames(to.offer))
	case ReasonNever:
		if hit := searchRanges(f.forbidden(from, to), portKey(proto, port)); hit != nil && int(hit.rule) <= len(f.policy.nevers) {
			n := &f.policy.nevers[hit.rule-1]
			e.Line, e.Text = n.at.line, f.policy.ruleText(n)
			e.Rule = fmt.Sprintf("never at line %d", e.Line)
		}
	case ReasonCrossHousehold:
		e.Nearest = fmt.Sprintf("%v is in household %q, %v in %q, and no rule can join them", from, from.household, to, to.household)
	}
	return e
}

// String is what the command line prints.
func (e Explanation) String() string {
	var b strings.Builder
	side := func(name string, a netip.Addr) string {
		if name == "" {
			return a.String()
		}
		return fmt.Sprintf("%s (%v)", name, a)
	}
	what := e.Proto.String()
	if e.Proto != ProtoICMP {
		what += "/" + strconv.Itoa(int(e.Port))
	}
	verdict := "refused"
	if e.Allowed {
		verdict = "allowed"
	}
	fmt.Fprintf(&b, "%s: %s to %s, %s\n", verdict, side(e.SrcName, e.Src), side(e.DstName, e.Dst), what)
	switch {
	case e.Allowed:
		fmt.Fprintf(&b, "  by the %s: %s\n", e.Rule, e.Text)
	case e.Nearest != "":
		fmt.Fprintf(&b, "  %s; %s\n", e.Reason, e.Nearest)
	case e.Rule != "":
		fmt.Fprintf(&b, "  %s; %s: %s\n", e.Reason, e.Rule, e.Text)
	default:
		fmt.Fprintf(&b, "  %s\n", e.Reason)
	}
	return b.String()
}

// nearest finds the rule that comes closest: one between the same two for
// another port, else one to the same destination and port for somebody else.
func (f *Filter) nearest(from, to *machine, proto Proto, port uint16) string {
	if list := f.pair(from, to); len(list) > 0 {
		best := slices.MinFunc(list, func(a, b portRange) int {
			return distance(a, proto, port) - distance(b, proto, port)
		})
		return fmt.Sprintf("nearest: the %s allows %s", f.ruleName(best.rule), portNames([]portRange{best}))
	}
	if f.policy == nil {
		return ""
	}
	r := newResolver(f, f.policy)
	key := portKey(proto, port)
	for i := range f.slots {
		s := &f.slots[i]
		if s.never {
			continue
		}
		for _, t := range s.rule.dst {
			if searchRanges(rangesOf(t.ports, s.n), key) == nil {
				continue
			}
			if slices.ContainsFunc(r.find(t.sel), func(m int32) bool { return &f.machines[m] == to }) {
				return fmt.Sprintf("nearest: the %s allows it from %s", f.ruleName(s.n), selectorNames(s.rule.src))
			}
		}
	}
	return fmt.Sprintf("no rule allows that port of %v to anybody", to)
}

func distance(r portRange, proto Proto, port uint16) int {
	p := r.port()
	switch {
	case p.Proto != proto:
		return 1 << 20
	case port < p.First:
		return int(p.First - port)
	}
	return int(port) - int(p.Last)
}

func portNames(list []portRange) string {
	var names []string
	for _, r := range list {
		names = append(names, r.port().String())
	}
	return shortList(names)
}

func selectorNames(list []selector) string {
	var names []string
	for _, s := range list {
		names = append(names, s.String())
	}
	return shortList(names)
}

func shortList(names []string) string {
	const most = 6
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// RuleText returns the text of a Verdict's rule on one line, "" for rule 0.
func (f *Filter) RuleText(rule int32) string {
	switch rule {
	case ruleSync:
		return "every machine reaches svc:sync on tcp:80"
	case ruleEnrol:
		return "an invite reaches svc:enrol on tcp:443"
	case ruleRecovery:
		return "without a policy, the admin's machines reach svc:console on tcp:80"
	}
	if f == nil || f.policy == nil || rule < 1 || int(rule) > len(f.policy.rules) {
		return ""
	}
	return f.policy.ruleText(&f.policy.rules[rule-1])
}

// ruleLine returns the line of a rule in the text, 0 if it is built in.
func (f *Filter) ruleLine(rule int32) int {
	if f == nil || f.policy == nil || rule < 1 || int(rule) > len(f.policy.rules) {
		return 0
	}
	return f.policy.rules[rule-1].at.line
}

func (f *Filter) ruleName(rule int32) string {
	if line := f.ruleLine(rule); line > 0 {
		return fmt.Sprintf("rule at line %d", line)
	}
	if rule < 0 {
		return "built-in rule"
	}
	return fmt.Sprintf("rule %d", rule)
}

// Resolve returns the addresses a selector means, IPv4 and IPv6, in the order
// of the mesh. A service's name may stand without "svc:". It fails if the
// text is no selector or nobody answers to it.
func (f *Filter) Resolve(name string) ([]netip.Addr, error) {
	if f == nil {
		return nil, fmt.Errorf("resolving %.80q: no policy is loaded", name)
	}
	sel, err := parseSelector(name)
	if err == nil {
		err = notRelative(sel)
	}
	if err != nil {
		return nil, fmt.Errorf("resolving: %w", err)
	}
	p := f.policy
	if p == nil {
		p = &Policy{}
	}
	r := newResolver(f, p)
	found := r.find(sel)
	if len(found) == 0 && sel.kind == selWord {
		found = r.find(selector{kind: selService, name: sel.name})
	}
	var list []netip.Addr
	for _, i := range found {
		if m := &f.machines[i]; !m.ghost() {
			list = append(list, f.addr4(m.index), f.addr6(m.index))
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("resolving: %.80q is nobody on this mesh; see \"hub peers\" and \"hub services\" for the names there are", name)
	}
	return list, nil
}

// ParseDestination reads what a person types behind "explain SRC": a name, a
// port and perhaps a protocol, as in "svc:stt:443", "kitchen:6000/udp" or
// "svc:hub/icmp". Without a protocol it is TCP.
func ParseDestination(s string) (name string, proto Proto, port uint16, err error) {
	rest, word, ok := strings.Cut(s, "/")
	proto = ProtoTCP
	if ok {
		protos, err := protoWord(word)
		if err != nil {
			return "", 0, 0, fmt.Errorf("reading destination: %w", err)
		}
		proto = protos[0]
	}
	if proto == ProtoICMP {
		return rest, proto, 0, nil
	}
	name, ports, ok := cutPorts(rest)
	if !ok {
		return "", 0, 0, fmt.Errorf("reading destination: %.80q lacks a port; write it as in \"svc:stt:443\" or \"kitchen:6000/udp\"", s)
	}
	if port, err = parsePort(ports); err != nil {
		return "", 0, 0, fmt.Errorf("reading destination: %w", err)
	}
	return name, proto, port, nil
}
