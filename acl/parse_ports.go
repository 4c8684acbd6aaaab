package acl

import (
	"fmt"
	"strconv"
	"strings"
)

// protoWord reads the value of "proto". No word at all is every protocol.
func protoWord(s string) ([]Proto, error) {
	switch s {
	case "tcp":
		return []Proto{ProtoTCP}, nil
	case "udp":
		return []Proto{ProtoUDP}, nil
	case "icmp":
		return []Proto{ProtoICMP}, nil
	}
	return nil, fmt.Errorf("%.80q is no protocol; write \"tcp\", \"udp\" or \"icmp\", or leave it out for all three", s)
}

// parseTarget reads a destination of acls, tests and never: a selector, a
// colon and ports. A service may come without ports: all it has.
func parseTarget(s string, protos []Proto) (target, error) {
	name, ports, ok := cutPorts(s)
	icmpOnly := len(protos) == 1 && protos[0] == ProtoICMP
	sel, err := parseSelector(name)
	if err != nil {
		return target{}, err
	}
	if !ok {
		if sel.kind != selService && !icmpOnly {
			return target{}, fmt.Errorf("%.80q lacks a port; write %q for one or %q for all", s, s+":443", s+":*")
		}
		ports = "*"
	}
	list, err := parsePorts(ports, protos)
	if err != nil {
		return target{}, err
	}
	return target{sel: sel, ports: list, either: protos == nil}, nil
}

// cutPorts splits "svc:stt:443" into "svc:stt" and "443". It reports false if
// what stands behind the last colon cannot be ports.
func cutPorts(s string) (name, ports string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || s == "svc:*" {
		return s, "", false
	}
	if strings.HasSuffix(s, "]") {
		return s, "", false
	}
	name, ports = s[:i], s[i+1:]
	if strings.HasPrefix(name, "[") != strings.HasSuffix(name, "]") {
		return s, "", false
	}
	if strings.Count(name, ":") > 1 && !strings.HasPrefix(name, "[") {
		// An IPv6 address without brackets: the last group is not ports.
		return s, "", false
	}
	if ports == "" || strings.Trim(ports, "0123456789,-* ") != "" {
		return s, "", false
	}
	return name, ports, true
}

// parsePorts reads "*", "443", "80,443" or "10700-10710,22" for each of the
// protocols; protos nil is what an absent protocol means: all of them for "*",
// TCP and UDP for numbers.
func parsePorts(s string, protos []Proto) ([]Port, error) {
	if s == "*" {
		if protos == nil {
			protos = []Proto{ProtoTCP, ProtoUDP, ProtoICMP}
		}
		return portsOf(protos, 1, 65535), nil
	}
	if protos == nil {
		protos = []Proto{ProtoTCP, ProtoUDP}
	}
	if len(protos) == 1 && protos[0] == ProtoICMP {
		return nil, fmt.Errorf("ICMP has no ports; write \"*\" instead of %.40q", s)
	}
	var list []Port
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		lo, err := parsePort(first)
		if err != nil {
			return nil, err
		}
		hi := lo
		if isRange {
			if hi, err = parsePort(last); err != nil {
				return nil, err
			}
		}
		if hi < lo {
			return nil, fmt.Errorf("the range %.40q runs backwards; write \"%d-%d\"", part, hi, lo)
		}
		list = append(list, portsOf(protos, lo, hi)...)
	}
	return list, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' || s[0] == '+' {
		return 0, fmt.Errorf("%.40q is no port; ports are the numbers 1 to 65535, as in \"443\", \"80,443\" or \"6000-6010\"", s)
	}
	return uint16(n), nil
}

func portsOf(protos []Proto, first, last uint16) []Port {
	list := make([]Port, 0, len(protos))
	for _, proto := range protos {
		if proto == ProtoICMP {
			list = append(list, Port{Proto: ProtoICMP})
			continue
		}
		list = append(list, Port{Proto: proto, First: first, Last: last})
	}
	return list
}

// parseGrantIP reads one entry of a grant's "ip": "*", "icmp", "443",
// "tcp:80,443" or "udp:*".
func parseGrantIP(s string) ([]Port, error) {
	if s == "icmp" || s == "icmp:*" {
		return portsOf([]Proto{ProtoICMP}, 0, 0), nil
	}
	word, ports, ok := strings.Cut(s, ":")
	if !ok {
		if word == "tcp" || word == "udp" {
			return nil, fmt.Errorf("%q lacks a port; write %q for one or %q for all", s, s+":443", s+":*")
		}
		return parsePorts(s, nil)
	}
	protos, err := protoWord(word)
	if err != nil {
		return nil, err
	}
	return parsePorts(ports, protos)
}
