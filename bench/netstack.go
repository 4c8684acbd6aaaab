package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"

	"github.com/warrenmesh/warren/peer"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// upstream is wireguard-go with the netstack that comes with it.
type upstream struct {
	key  peer.PrivateKey
	addr netip.Addr
	net  *netstack.Net
	dev  *device.Device
}

func openUpstream(addr netip.Addr) (*upstream, error) {
	key, err := peer.NewPrivateKey()
	if err != nil {
		return nil, err
	}
	tun, n, err := netstack.CreateNetTUN([]netip.Addr{addr}, nil, 1280)
	if err != nil {
		return nil, err
	}
	dev := device.NewDevice(tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	u := &upstream{key, addr, n, dev}
	secret := key.Reveal()
	if err := dev.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=0\n", hex.EncodeToString(secret[:]))); err != nil {
		return nil, err
	}
	return u, dev.Up()
}

// port reads back which UDP port the device took.
func (u *upstream) port() (port int, err error) {
	text, err := u.dev.IpcGet()
	if err != nil {
		return 0, err
	}
	for _, line := range splitLines(text) {
		if _, err := fmt.Sscanf(line, "listen_port=%d", &port); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("the device listens nowhere")
}

// know adds a peer; port is where it listens, 0 if it will call first.
func (u *upstream) know(other *upstream, allowed netip.Prefix, port int) error {
	pub := other.key.Public()
	text := fmt.Sprintf("public_key=%s\nallowed_ip=%s\n", hex.EncodeToString(pub[:]), allowed)
	if port != 0 {
		text += fmt.Sprintf("endpoint=127.0.0.1:%d\npersistent_keepalive_interval=25\n", port)
	}
	return u.dev.IpcSet(text)
}

func (u *upstream) node() node {
	return node{
		addr: u.addr,
		listen: func(port uint16) (net.Listener, error) {
			return u.net.ListenTCPAddrPort(netip.AddrPortFrom(u.addr, port))
		},
		dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			return u.net.DialContextTCPAddrPort(ctx, to)
		},
	}
}

func openNetstack(context.Context) (*contender, error) {
	var ends [3]*upstream
	for i := range ends {
		u, err := openUpstream(netip.AddrFrom4([4]byte{10, 78, 0, byte(i + 1)}))
		if err != nil {
			return nil, err
		}
		ends[i] = u
	}
	hub := ends[0]
	port, err := hub.port()
	if err != nil {
		return nil, err
	}
	for _, spoke := range ends[1:] {
		if err := hub.know(spoke, netip.PrefixFrom(spoke.addr, 32), 0); err != nil {
			return nil, err
		}
		if err := spoke.know(hub, netip.MustParsePrefix("10.78.0.0/16"), port); err != nil {
			return nil, err
		}
	}
	return &contender{
		hub: hub.node(), one: ends[1].node(), two: ends[2].node(),
		proxied: true,
		close: func() {
			for _, u := range ends {
				u.dev.Close()
			}
		},
	}, nil
}
