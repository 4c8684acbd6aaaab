package spoke

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/netstack"
	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
)

// joinTimeout is how long the hub may take to answer at one address.
const joinTimeout = 6 * time.Second

// Join makes this machine a peer: it makes a key, opens a tunnel with the
// code's throw-away identity, enrols the key, and stores who this machine now
// is in cfg.Dir. It is done once; a Join that was interrupted can be repeated
// with the same code.
func Join(ctx context.Context, text string, cfg Config) (m Membership, err error) {
	code, err := invite.Parse(strings.TrimSpace(text))
	if err != nil {
		return Membership{}, err
	}
	v, err := createVault(cfg.Dir)
	if err != nil {
		return Membership{}, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	if raw, err := get(v, keyReply); err != nil {
		return Membership{}, err
	} else if raw != nil {
		return Membership{}, ErrJoined
	}
	key, err := ownKey(v)
	if err != nil {
		return Membership{}, err
	}
	reply, err := enrol(ctx, &cfg, code, key)
	if err != nil {
		return Membership{}, err
	}
	cfg.progress("storing who this machine is")
	raw, err := reply.Reveal()
	if err != nil {
		return Membership{}, err
	}
	defer clear(raw)
	if err := v.Put(keyReply, raw); err != nil {
		return Membership{}, fmt.Errorf("storing membership: %w", err)
	}
	st := state{key: key, reply: reply}
	return st.membership(), nil
}

// enrol goes through the endpoint's addresses until the hub answers at one.
func enrol(ctx context.Context, cfg *Config, code invite.Code, key peer.PrivateKey) (invite.Reply, error) {
	cfg.progress("looking up " + code.Endpoint)
	list, err := cfg.resolve(ctx, code.Endpoint)
	if err != nil {
		return invite.Reply{}, fmt.Errorf("looking up the hub's name: %w", err)
	}
	stack, err := throwAway(cfg, &code)
	if err != nil {
		return invite.Reply{}, err
	}
	defer stack.Close()
	for _, at := range list {
		cfg.progress("knocking at " + at.String())
		// Not with the hub in place: each address gets a fresh handshake.
		if err := stack.SetPeers(ctx, nil); err != nil {
			return invite.Reply{}, err
		}
		if err := stack.SetPeers(ctx, []netstack.PeerConfig{{
			Key: code.Hub, PSK: code.PSK, Endpoint: at,
			Routes: []netip.Prefix{netip.PrefixFrom(code.EnrolV4, 32), netip.PrefixFrom(code.EnrolV6, 128)},
		}}); err != nil {
			return invite.Reply{}, err
		}
		if !session(ctx, stack, code.Hub) {
			if ctx.Err() != nil {
				return invite.Reply{}, fmt.Errorf("waiting for the hub: %w", ctx.Err())
			}
			continue
		}
		cfg.progress("enrolling")
		return invite.Redeem(ctx, func(ctx context.Context, network, addr string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, err
			}
			return stack.Dial(ctx, network, netip.Addr{}, to)
		}, code, key)
	}
	return invite.Reply{}, silent(code)
}

// silent is what to say when nobody answers: a hub says nothing to those it
// does not know, and after its end an invite is one of them.
func silent(code invite.Code) error {
	if now := time.Now(); now.After(code.Expires) && now.Year() >= 2024 {
		return fmt.Errorf("the hub at %s did not answer: the invite expired at %s; ask the admin for a new one",
			code.Endpoint, code.Expires.Local().Format(time.DateTime))
	}
	return fmt.Errorf("the hub at %s did not answer: see that it is running and that UDP gets there, or ask the admin for a new invite if this one was used or withdrawn", code.Endpoint)
}

// session waits for a WireGuard session with the hub.
func session(ctx context.Context, stack *netstack.Stack, hub peer.PublicKey) bool {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	if stack.Handshake(hub) != nil {
		return false
	}
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		for _, p := range stack.Peers() {
			if p.Key == hub && !p.LastHandshake.IsZero() {
				return true
			}
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return false
		}
	}
}

// throwAway opens a tunnel with the identity that the code carries. Its policy
// is that of every invite: the enrolment service, and nothing that comes in.
func throwAway(cfg *Config, code *invite.Code) (*netstack.Stack, error) {
	net4, net6 := around(code.V4, code.EnrolV4), netip.PrefixFrom(code.V6, 64).Masked()
	self := peer.Peer{ID: "invite", Name: "invite", PublicKey: code.Key.Public(), V4: code.V4, V6: code.V6, Kind: peer.KindInvite}
	filter, err := compileFor(`{}`, &acl.World{V4: net4, V6: net6, Peers: []peer.Peer{self}, Services: []acl.Service{{
		Name: "enrol", V4: code.EnrolV4, V6: code.EnrolV6, Ports: []acl.Port{{Proto: acl.ProtoTCP, First: 443, Last: 443}},
	}}}, self.ID)
	if err != nil {
		return nil, err
	}
	gate := acl.NewGate(acl.GateConfig{Small: true})
	gate.Swap(filter)
	stack, err := netstack.Open(netstack.Config{
		Key: code.Key, V4: net4, V6: net6, Addresses: []netip.Addr{code.V4, code.V6}, Small: true, Gate: gate,
		Bind:   udp.New(udp.Config{Listen: cfg.Listen, Small: true, Key: code.Key.Public(), Remote: code.Hub, ListenPacket: cfg.Outer, Logger: cfg.logger()}),
		Logger: cfg.logger(),
	})
	if err != nil {
		return nil, fmt.Errorf("opening tunnel: %w", err)
	}
	return stack, nil
}

// around returns the longest prefix of at least 16 and at most 24 bits that
// holds both addresses: the code does not say how large the mesh is, and the
// two lie at its two ends.
func around(a, b netip.Addr) netip.Prefix {
	for bits := 24; bits > 16; bits-- {
		if p := netip.PrefixFrom(a, bits).Masked(); p.Contains(b) {
			return p
		}
	}
	return netip.PrefixFrom(a, 16).Masked()
}
