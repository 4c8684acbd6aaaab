//go:build !linux

package spoke

import (
	"errors"
	"net/netip"
	"syscall"

	"golang.zx2c4.com/wireguard/tun"

	"github.com/warrenmesh/warren/peer/invite"
)

func openTUN(string, *invite.Reply) (tun.Device, error) {
	return nil, errors.New("a network interface (--tun) is made on Linux only; forwards and proxies work here")
}

func tunAddress(string, string, netip.Addr) error { return errors.ErrUnsupported }

func through(string) func(network, address string, c syscall.RawConn) error { return nil }
