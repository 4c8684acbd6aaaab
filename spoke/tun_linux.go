package spoke

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/warrenmesh/warren/peer/invite"
)

// openTUN makes a network interface with this machine's addresses on the mesh.
// The routes to the mesh come with the addresses, and go with the interface.
func openTUN(name string, r *invite.Reply) (tun.Device, error) {
	dev, err := tun.CreateTUN(name, r.MTU)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EPERM):
		return nil, errors.New("making a network interface needs privileges: run spoke as root, or give it the one it needs: sudo setcap cap_net_admin+ep $(command -v spoke); without --tun none are needed")
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("making a network interface: this machine has no /dev/net/tun (in a container, pass it in); without --tun it is not needed")
	case errors.Is(err, syscall.EBUSY):
		return nil, fmt.Errorf("making a network interface: %s is in use already, perhaps by another spoke", name)
	case err != nil:
		return nil, fmt.Errorf("making network interface %s: %w", name, err)
	}
	v4 := netip.PrefixFrom(r.V4, r.NetV4.Bits())
	v6 := netip.PrefixFrom(r.V6, r.NetV6.Bits())
	for _, args := range [][]string{
		{"link", "set", "dev", name, "mtu", strconv.Itoa(r.MTU), "up"},
		{"address", "replace", v4.String(), "dev", name},
		// Nobody else can have the address, so there is nothing to detect.
		{"-6", "address", "replace", v6.String(), "dev", name, "nodad"},
	} {
		if err := ip(args...); err != nil {
			return nil, errors.Join(fmt.Errorf("setting up network interface %s: %w", name, err), dev.Close())
		}
	}
	return dev, nil
}

// tunAddress adds ("replace") or deletes one address of the interface.
func tunAddress(name, verb string, a netip.Addr) error {
	return ip("address", verb, netip.PrefixFrom(a, a.BitLen()).String(), "dev", name)
}

func ip(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("the command `ip` is missing; install iproute2")
	}
	if err != nil {
		return fmt.Errorf("ip %s: %s", strings.Join(args, " "), strings.TrimSpace(string(out)))
	}
	return nil
}

// through keeps a socket on the interface. Attack: somebody takes the route to
// the mesh away, and the connection goes out in the clear instead.
func through(name string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), name) }); cerr != nil {
			return cerr
		}
		return err
	}
}
