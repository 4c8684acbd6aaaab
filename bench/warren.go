package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/netstack"
	"github.com/warrenmesh/warren/peer"
)

// policy lets ann's two machines reach the service on the hub and each other,
// on the ports of this program and no others.
const policy = `{
	"households": { "home": ["ann@"] },
	"acls": [
		{ "action": "accept", "src": ["ann@"], "proto": "tcp", "dst": ["svc:bench:5001"] },
		{ "action": "accept", "src": ["ann@"], "proto": "tcp", "dst": ["autogroup:self:5001"] },
	],
}`

var (
	overlay4 = netip.MustParsePrefix("10.77.0.0/16")
	overlay6 = netip.MustParsePrefix("fd77:7777:7777:7777::/64")
)

// address gives index i of the overlay in both families.
func address(i uint16) (v4, v6 netip.Addr) {
	a, b := overlay4.Addr().As4(), overlay6.Addr().As16()
	a[2], a[3] = byte(i>>8), byte(i)
	b[14], b[15] = byte(i>>8), byte(i)
	return netip.AddrFrom4(a), netip.AddrFrom16(b)
}

// openWarren starts a hub that judges and forwards, and two spokes that each
// enforce their own slice of the same policy.
func openWarren(ctx context.Context) (*contender, error) {
	const serviceIndex = 10
	v4, v6 := address(serviceIndex)
	keys := make([]peer.PrivateKey, 3)
	for i := range keys {
		key, err := peer.NewPrivateKey()
		if err != nil {
			return nil, err
		}
		keys[i] = key
	}
	world := &acl.World{
		V4: overlay4, V6: overlay6, Admin: "ann",
		Services: []acl.Service{{Name: "bench", V4: v4, V6: v6, Ports: []acl.Port{{Proto: acl.ProtoTCP, First: servePort, Last: servePort}}}},
	}
	for i, name := range []string{"one", "two"} {
		v4, v6 := address(uint16(1000 + i))
		world.Peers = append(world.Peers, peer.Peer{
			ID: peer.ID(name), Name: name, PublicKey: keys[i+1].Public(), V4: v4, V6: v6,
			Kind: peer.KindSpoke, Owner: "ann", Household: "home", Created: time.Now(),
		})
	}
	parsed, err := acl.Parse([]byte(policy))
	if err != nil {
		return nil, err
	}
	filter, err := acl.Compile(parsed, world)
	if err != nil {
		return nil, err
	}
	psk, err := peer.NewPresharedKey()
	if err != nil {
		return nil, err
	}

	hub, err := openStack(netstack.Config{Key: keys[0], Addresses: []netip.Addr{v4, v6}, Forward: true}, filter)
	if err != nil {
		return nil, err
	}
	stacks := []*netstack.Stack{hub}
	nodes := []node{stackNode(hub, v4)}
	var peers []netstack.PeerConfig
	for i, p := range world.Peers {
		slice, err := filter.Slice(p.ID).Filter()
		if err != nil {
			return nil, fmt.Errorf("slicing the policy for %s: %w", p.Name, err)
		}
		spoke, err := openStack(netstack.Config{Key: keys[i+1], Addresses: []netip.Addr{p.V4, p.V6}}, slice)
		if err != nil {
			return nil, err
		}
		stacks, nodes = append(stacks, spoke), append(nodes, stackNode(spoke, p.V4))
		peers = append(peers, netstack.PeerConfig{Key: p.PublicKey, PSK: psk, Addresses: []netip.Addr{p.V4, p.V6}})
		if err := spoke.SetPeers(ctx, []netstack.PeerConfig{{
			Key: keys[0].Public(), PSK: psk, Routes: []netip.Prefix{overlay4, overlay6},
			Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), hub.Port()), Keepalive: 25 * time.Second,
		}}); err != nil {
			return nil, err
		}
	}
	if err := hub.SetPeers(ctx, peers); err != nil {
		return nil, err
	}
	return &contender{hub: nodes[0], one: nodes[1], two: nodes[2], close: func() {
		for _, s := range stacks {
			_ = s.Close()
		}
	}}, nil
}

func openStack(c netstack.Config, filter *acl.Filter) (*netstack.Stack, error) {
	c.V4, c.V6, c.Gate = overlay4, overlay6, acl.NewGate(acl.GateConfig{})
	c.Listen = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	s, err := netstack.Open(c)
	if err != nil {
		return nil, err
	}
	s.SetFilter(filter)
	return s, nil
}

func stackNode(s *netstack.Stack, addr netip.Addr) node {
	return node{
		addr:   addr,
		listen: func(port uint16) (net.Listener, error) { return s.Listen(netip.AddrPortFrom(addr, port)) },
		dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			return s.Dial(ctx, "tcp", netip.Addr{}, to)
		},
	}
}
