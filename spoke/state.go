package spoke

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
	"github.com/warrenmesh/warren/services/sync"
	"github.com/warrenmesh/warren/spoke/vault"
)

// What the vault holds.
const (
	keyPrivate = "private-key" // 32 bytes, made here, before the first Join is sent
	keyReply   = "membership"  // invite.Reply, there once the hub has said yes
	keySelf    = "self"        // the last sync.Self
)

// state is what the vault says, read once.
type state struct {
	key   peer.PrivateKey
	reply invite.Reply
	self  *sync.Self // nil before the first answer of the hub
}

// openVault opens the vault of a machine that has joined.
func openVault(dir string) (*vault.Vault, error) {
	v, err := vault.Open(dir)
	switch {
	case errors.Is(err, vault.ErrNotFound):
		return nil, ErrNotJoined
	case errors.Is(err, vault.ErrLocked):
		return nil, ErrBusy
	}
	return v, err
}

// createVault opens the vault of a machine that may have begun to join.
func createVault(dir string) (*vault.Vault, error) {
	v, err := vault.Create(dir)
	if errors.Is(err, vault.ErrExists) {
		v, err = vault.Open(dir)
	}
	if errors.Is(err, vault.ErrLocked) {
		return nil, ErrBusy
	}
	return v, err
}

// get returns a missing value as nil.
func get(v *vault.Vault, name string) ([]byte, error) {
	b, err := v.Get(name)
	if errors.Is(err, vault.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return b, nil
}

func loadState(v *vault.Vault) (*state, error) {
	raw, err := get(v, keyReply)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, ErrNotJoined
	}
	st := new(state)
	if st.reply, err = invite.ParseReply(raw); err != nil {
		return nil, fmt.Errorf("reading membership: %w", err)
	}
	if st.key, err = loadKey(v); err != nil {
		return nil, err
	}
	if st.key.IsZero() {
		return nil, errors.New("reading key: the vault has lost it; leave and join again")
	}
	if raw, err = get(v, keySelf); err != nil {
		return nil, err
	}
	if raw != nil {
		st.self = new(sync.Self)
		if json.Unmarshal(raw, st.self) != nil {
			st.self = nil // it will be told again
		}
	}
	return st, nil
}

func loadKey(v *vault.Vault) (peer.PrivateKey, error) {
	raw, err := get(v, keyPrivate)
	if err != nil || raw == nil {
		return peer.PrivateKey{}, err
	}
	defer clear(raw)
	key, err := peer.PrivateKeyFrom(raw)
	if err != nil {
		return peer.PrivateKey{}, fmt.Errorf("reading key: %w", err)
	}
	return key, nil
}

// ownKey returns the machine's key, making it first if there is none. It is
// stored before anything is sent, so that a Join which dies half way goes on
// with the same key, which is what makes the hub give the same answer.
func ownKey(v *vault.Vault) (peer.PrivateKey, error) {
	key, err := loadKey(v)
	if err != nil || !key.IsZero() {
		return key, err
	}
	if key, err = peer.NewPrivateKey(); err != nil {
		return key, err
	}
	raw := key.Reveal()
	defer clear(raw[:])
	if err := v.Put(keyPrivate, raw[:]); err != nil {
		return peer.PrivateKey{}, fmt.Errorf("storing key: %w", err)
	}
	return key, nil
}

func (st *state) membership() Membership {
	r := &st.reply
	m := Membership{
		ID: r.ID, Name: r.Name, V4: r.V4, V6: r.V6, Domain: r.Domain, Endpoint: r.Endpoint, Hub: r.Hub,
		PublicKey: st.key.Public(), Owner: r.Owner, Household: r.Household, Tags: r.Tags,
	}
	if s := st.self; s != nil {
		// The admin may have renamed or retagged the machine since.
		m.Name, m.Owner, m.Household, m.Tags = s.Peer.Name, s.Peer.Owner, s.Peer.Household, s.Peer.Tags
		m.Endpoint, m.Domain = s.Endpoint, s.Domain
	}
	return m
}

// firstPolicy is in force until the hub has told this machine its own slice:
// the hub's sync service (which every policy allows) and its DNS, and nothing
// that comes in.
const firstPolicy = `{"acls": [{"action": "accept", "src": ["*"], "dst": ["svc:dns:53"]}]}`

// firstFilter compiles firstPolicy for a world of this machine and the two
// services.
func firstFilter(r *invite.Reply, key peer.PublicKey) (*acl.Filter, error) {
	self := peer.Peer{ID: r.ID, Name: "self", PublicKey: key, V4: r.V4, V6: r.V6, Kind: peer.KindSpoke}
	world := &acl.World{V4: r.NetV4, V6: r.NetV6, Peers: []peer.Peer{self}}
	sync4, sync6 := pair(r.NetV4, r.NetV6, r.Sync.Addr())
	world.Services = append(world.Services, acl.Service{Name: "sync", V4: sync4, V6: sync6,
		Ports: []acl.Port{{Proto: acl.ProtoTCP, First: r.Sync.Port(), Last: r.Sync.Port()}}})
	text := `{}`
	if len(r.DNS) > 0 {
		text = firstPolicy
		dns4, dns6 := pair(r.NetV4, r.NetV6, r.DNS[0])
		world.Services = append(world.Services, acl.Service{Name: "dns", V4: dns4, V6: dns6, Ports: []acl.Port{
			{Proto: acl.ProtoTCP, First: 53, Last: 53}, {Proto: acl.ProtoUDP, First: 53, Last: 53}}})
	}
	return compileFor(text, world, self.ID)
}

// compileFor makes a filter for one machine of a world.
func compileFor(text string, world *acl.World, id peer.ID) (*acl.Filter, error) {
	policy, err := acl.Parse([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("preparing first policy: %w", err)
	}
	whole, err := acl.Compile(policy, world)
	if err != nil {
		return nil, fmt.Errorf("preparing first policy: %w", err)
	}
	f, err := whole.Slice(id).Filter()
	if err != nil {
		return nil, fmt.Errorf("preparing first policy: %w", err)
	}
	return f, nil
}

// pair returns both addresses of the place in the address plan that a has one
// of: network + i and ula::i.
func pair(net4, net6 netip.Prefix, a netip.Addr) (netip.Addr, netip.Addr) {
	base := net4.Masked().Addr().As4()
	var i uint32
	if a.Is4() {
		b := a.As4()
		i = binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(base[:])
	} else {
		b := a.As16()
		i = binary.BigEndian.Uint32(b[12:])
	}
	v4, v6 := base, net6.Masked().Addr().As16()
	binary.BigEndian.PutUint32(v4[:], binary.BigEndian.Uint32(base[:])+i)
	binary.BigEndian.PutUint32(v6[12:], i)
	return netip.AddrFrom4(v4), netip.AddrFrom16(v6)
}
