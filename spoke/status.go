package spoke

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/services/sync"
)

// Status says on one screen whether the mesh is there, who is on it as far as
// this machine may know, and what was refused.
type Status struct {
	Membership
	// Connected: the hub answered WireGuard's last handshake within 180 s.
	Connected bool `json:"connected"`
	// Told: the hub has told this machine its policy in this run.
	Told          bool      `json:"told"`
	HubAddress    string    `json:"hub_address,omitempty"`
	LastHandshake time.Time `json:"last_handshake,omitzero"`
	RxBytes       uint64    `json:"rx_bytes"`
	TxBytes       uint64    `json:"tx_bytes"`
	Epoch         uint64    `json:"epoch"`
	Started       time.Time `json:"started"`
	// Trouble is why the hub could not be asked last, "" if it could.
	Trouble string    `json:"trouble,omitempty"`
	Names   []Name    `json:"names"`
	Serves  []string  `json:"serves"`
	Refused []Refusal `json:"refused"`
	Doors   []string  `json:"doors"` // local listeners, as Door named them
	// SignedIn: a person signed in on this machine, with Login.
	SignedIn bool `json:"signed_in"`
}

// Name is a name of the mesh that this machine may reach something on.
type Name struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
}

// Refusal is one line of what this machine's own policy slice has refused.
type Refusal struct {
	From   string    `json:"from"`
	To     string    `json:"to"`
	Proto  string    `json:"proto"`
	Port   uint16    `json:"port,omitempty"`
	Reason string    `json:"reason"`
	Count  uint64    `json:"count"`
	Last   time.Time `json:"last"`
}

// maxRefusals is how many refusals a Status lists, the latest first.
const maxRefusals = 20

// Status returns the state of things now.
func (c *Client) Status() Status {
	v := c.view.Load()
	s := Status{Membership: c.Membership(), Told: v.told, Epoch: v.self.Epoch, Started: c.started,
		Serves: slices.Clone(v.self.Serves), Names: []Name{}, Refused: []Refusal{}}
	if s.Serves == nil {
		s.Serves = []string{}
	}
	for _, p := range c.stack.Peers() {
		if p.Key != c.hub() {
			continue
		}
		s.LastHandshake, s.RxBytes, s.TxBytes = p.LastHandshake, p.RxBytes, p.TxBytes
		if p.Endpoint.IsValid() {
			s.HubAddress = p.Endpoint.String()
		}
		s.Connected = !p.LastHandshake.IsZero() && time.Since(p.LastHandshake) < sessionLife
	}
	for name, addrs := range v.self.Names {
		s.Names = append(s.Names, Name{name, addrs})
	}
	slices.SortFunc(s.Names, func(a, b Name) int { return cmp.Compare(a.Name, b.Name) })
	s.Refused = refusals(c.gate.Flows(), &v.self, &s.Membership)
	_, err := c.keptLogin()
	s.SignedIn = err == nil
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Trouble, s.Doors = c.lastError, append([]string{}, c.doors...)
	return s
}

// Door notes a local way into the mesh (a forward, a proxy) for Status.
func (c *Client) Door(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doors = append(c.doors, what)
}

func refusals(flows []acl.Flow, self *sync.Self, m *Membership) []Refusal {
	names := make(map[netip.Addr]string)
	for name, addrs := range self.Names {
		for _, a := range addrs {
			names[a] = name
		}
	}
	names[m.V4], names[m.V6] = m.Name, m.Name
	call := func(a netip.Addr) string {
		if n := names[a]; n != "" {
			return n
		}
		return a.String()
	}
	list := []Refusal{}
	for _, f := range flows {
		if !f.Allowed {
			list = append(list, Refusal{call(f.Src), call(f.Dst), f.Proto.String(), f.Port, f.Reason.String(), f.Count, f.Last})
		}
	}
	slices.SortFunc(list, func(a, b Refusal) int { return b.Last.Compare(a.Last) })
	return list[:min(len(list), maxRefusals)]
}
