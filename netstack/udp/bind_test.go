package udp_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/netstack/udp/udptest"
	"github.com/warrenmesh/warren/peer"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
)

// node is a real WireGuard device over a Bind, with a channel for a TUN.
type node struct {
	t    testing.TB
	key  peer.PrivateKey
	ip   netip.Addr
	bind *udp.Bind
	tun  *tuntest.ChannelTUN
	dev  *device.Device
	at   netip.AddrPort
}

func newKey(t testing.TB) peer.PrivateKey {
	t.Helper()
	key, err := peer.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newPSK(t testing.TB) peer.PresharedKey {
	t.Helper()
	psk, err := peer.NewPresharedKey()
	if err != nil {
		t.Fatal(err)
	}
	return psk
}

// newNode starts a device with key over a Bind of cfg, with inner address ip.
func newNode(t testing.TB, cfg udp.Config, key peer.PrivateKey, ip string) *node {
	t.Helper()
	cfg.Key = key.Public()
	n := &node{t: t, key: key, ip: netip.MustParseAddr(ip), tun: tuntest.NewChannelTUN()}
	n.bind = udp.New(cfg)
	n.dev = device.NewDevice(n.tun.TUN(), n.bind, device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(n.dev.Close)
	secret := key.Reveal()
	n.set("private_key=" + hex.EncodeToString(secret[:]))
	if err := n.dev.Up(); err != nil {
		t.Fatal(err)
	}
	n.at = n.bind.Stats().V4.Addr
	return n
}

func (n *node) set(conf string) {
	n.t.Helper()
	if err := n.dev.IpcSet(conf + "\n"); err != nil {
		n.t.Fatal(err)
	}
}

// add makes other a peer; at is invalid if its endpoint is unknown.
func (n *node) add(other *node, psk peer.PresharedKey, at netip.AddrPort) {
	n.t.Helper()
	key, secret := other.key.Public(), psk.Reveal()
	conf := fmt.Sprintf("public_key=%x\npreshared_key=%x\nallowed_ip=%v/32", key[:], secret[:], other.ip)
	if at.IsValid() {
		conf += "\nendpoint=" + at.String()
	}
	n.set(conf)
	kept.Store(n.dev.LookupPeer(device.NoisePublicKey(key)), nil)
}

// kept holds every device.Peer until the process ends. Their queues have
// finalizers that receive from channels, which is fatal for channels that were
// made in a synctest bubble.
var kept sync.Map

// send hands the device one packet for other.
func (n *node) send(other *node) {
	select {
	case n.tun.Outbound <- tuntest.Ping(other.ip, n.ip):
	case <-n.dev.Wait():
	}
}

// ping sends one packet to other and waits until it arrives.
func (n *node) ping(other *node, limit time.Duration) error {
	packet := tuntest.Ping(other.ip, n.ip)
	deadline := time.After(limit)
	select {
	case n.tun.Outbound <- packet:
	case <-deadline:
		return fmt.Errorf("%v did not take the packet", n.ip)
	}
	for {
		select {
		case got := <-other.tun.Inbound:
			if bytes.Equal(got, packet) {
				return nil
			}
		case <-deadline:
			return fmt.Errorf("no packet from %v to %v within %v", n.ip, other.ip, limit)
		}
	}
}

// field returns the first value of a field of the device's configuration.
func (n *node) field(t testing.TB, name string) string {
	t.Helper()
	conf, err := n.dev.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(conf) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return v
		}
	}
	return ""
}

func mustPing(t testing.TB, from, to *node) {
	t.Helper()
	if err := from.ping(to, 10*time.Second); err != nil {
		t.Fatal(err)
	}
}

// pair is two devices that know each other, a knowing where b is.
func pair(t testing.TB, ca, cb udp.Config) (a, b *node) {
	t.Helper()
	a = newNode(t, ca, newKey(t), "10.77.1.1")
	b = newNode(t, cb, newKey(t), "10.77.1.2")
	psk := newPSK(t)
	at := b.at
	if !at.IsValid() {
		at = b.bind.Stats().V6.Addr
	}
	a.add(b, psk, at)
	b.add(a, psk, netip.AddrPort{})
	return a, b
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
}

func TestDevicesTalk(t *testing.T) {
	v6 := netip.AddrPortFrom(netip.IPv6Loopback(), 0)
	for name, cfg := range map[string]udp.Config{
		"v4":         {Listen: loopback(0)},
		"v6":         {Listen: v6},
		"small":      {Listen: loopback(0), Small: true},
		"no offload": {Listen: loopback(0), NoOffload: true},
		"small v6":   {Listen: v6, Small: true, NoOffload: true},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, cfg, cfg)
			mustPing(t, a, b)
			mustPing(t, b, a)
		})
	}
	t.Run("in memory", func(t *testing.T) {
		net := udptest.New(t)
		a, b := pair(t, net.Config(netip.MustParseAddrPort("192.0.2.1:51820")), net.Config(netip.MustParseAddrPort("192.0.2.2:51820")))
		mustPing(t, a, b)
		mustPing(t, b, a)
	})
}

var _ conn.Bind = (*udp.Bind)(nil)
