package hub

import (
	"net/netip"
	"slices"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
)

// service is a name with an address in the tunnel: of the hub itself,
// published from the hub's machine, or offered by a spoke.
type service struct {
	acl.Service
	builtin  bool
	target   string
	hostName string
}

// withdrawn reports whether its machine offers nothing under the name just now.
// The name and the addresses stay the machine's: a rule about them must not
// come to mean somebody else.
func (s *service) withdrawn() bool { return len(s.Ports) == 0 }

// local reports whether the service ends in the hub's own stack.
func (s *service) local() bool { return s.Host == "" }

// reserved are names that no peer and no published service may take: the
// hub's own, and words that mean something else to people or resolvers.
var reservedNames = [...]string{
	"hub", "enrol", "enroll", "sync", "console", "dns", "auth", "command", "hooks", "localhost", "local", "any", "all", "none", "self",
	"wpad", "isatap", "www",
}

func reserved(name string) bool {
	for _, r := range reservedNames {
		if r == name {
			return true
		}
	}
	return false
}

func builtins(plan store.Plan) []service {
	at := func(name string, index store.Index, ports ...acl.Port) service {
		v4, v6 := plan.Addrs(index)
		return service{builtin: true, hostName: "hub", Service: acl.Service{Name: name, V4: v4, V6: v6, Ports: ports}}
	}
	tcp := func(port uint16) acl.Port { return acl.Port{Proto: acl.ProtoTCP, First: port, Last: port} }
	return []service{
		at("hub", store.IndexHub, acl.Port{Proto: acl.ProtoICMP}),
		at("enrol", store.IndexEnrol, tcp(443)),
		at("sync", store.IndexSync, tcp(80)),
		at("console", store.IndexConsole, tcp(80)),
		at("auth", store.IndexAuth, tcp(80), tcp(443), tcp(portAuth)),
		at("command", store.IndexCommand, tcp(80), tcp(443), tcp(portCommand)),
		at("hooks", store.IndexHooks, tcp(80), tcp(443)),
		at("dns", store.IndexDNS, tcp(53), acl.Port{Proto: acl.ProtoUDP, First: 53, Last: 53}),
	}
}

// allServices lists what has a name, the hub's own first.
func allServices(set settings, published []store.Service, peers []store.Peer) []service {
	byID := make(map[peer.ID]*store.Peer, len(peers))
	for i := range peers {
		byID[peers[i].ID] = &peers[i]
	}
	out := builtins(set.plan)
	own := len(out)
	for _, p := range published {
		// Published by a hub that had no such service itself yet.
		if slices.ContainsFunc(out[:own], func(svc service) bool { return svc.Name == p.Name }) {
			continue
		}
		svc := service{target: p.Target, hostName: "hub", Service: acl.Service{
			Name: p.Name, V4: p.V4, V6: p.V6, Host: p.Host, Ports: ports(p.Ports),
		}}
		if p.Host != "" {
			host, ok := byID[p.Host]
			if !ok {
				continue // its machine is gone; the name stays taken
			}
			svc.hostName = host.Name
		}
		out = append(out, svc)
	}
	return out
}

// shadowed lists the names that published services and machines have from a hub
// that did not use them itself yet.
func shadowed(published []store.Service, peers []store.Peer) (out []string) {
	for _, svc := range published {
		if reserved(svc.Name) {
			out = append(out, svc.Name)
		}
	}
	for _, p := range peers {
		if reserved(p.Name) {
			out = append(out, p.Name)
		}
	}
	return out
}

func ports(kept []store.Port) []acl.Port {
	out := make([]acl.Port, 0, len(kept))
	for _, p := range kept {
		out = append(out, acl.Port{Proto: acl.Proto(p.Proto), First: p.First, Last: p.Last})
	}
	return out
}

// addresses are what the hub's own stack answers on.
func addresses(services []service) []netip.Addr {
	var out []netip.Addr
	for _, svc := range services {
		if svc.local() {
			out = append(out, svc.V4, svc.V6)
		}
	}
	return out
}
