// Package spoke is a machine's side of the mesh, to be embedded or to be run by
// cmd/spoke: it joins with an invite, keeps the tunnel to the hub up, and dials
// and listens inside it without a network interface and without privileges.
//
//	c, err := spoke.Open(ctx, spoke.Config{Dir: dir})
//	...
//	defer c.Close()
//	go c.Run(ctx)
//	conn, err := c.Dial(ctx, "tcp", "stt.warren.internal:443")
//
// The machine's WireGuard key is made by Join, kept in the vault in Dir, and
// never leaves it. The spoke enforces its own slice of the mesh's policy in
// both directions, as the hub does too: until the hub has told it for the first
// time, it reaches the hub's sync and DNS services and nothing reaches it. The
// last slice is kept and is in force again after a restart.
//
// Run is what keeps a Client connected: it notices a restarted hub, another
// network, a sleep, and a clock that is years off, and opens the tunnel again
// in about a second. A Client without Run still works, and does not recover.
//
// Limits: one Dir belongs to one process at a time; names are those of the mesh
// and nothing else is dialed; the hub is one endpoint, given as an address or
// as a name that this machine's own resolver knows.
package spoke

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/spoke/proxy"
)

// Config says where a spoke lives. Dir is all that is needed.
type Config struct {
	// Dir is the state directory. Join makes it, with mode 0700.
	Dir string
	// Listen is the outer UDP address. The zero value is a free port on every
	// address.
	Listen netip.AddrPort
	// Size is how much memory the tunnel may use for speed.
	Size Size
	// TUN makes a network interface of this name for the whole machine, instead
	// of keeping the mesh inside this process. It needs privileges. "" is none.
	TUN string
	// Resolve finds the addresses of the hub's endpoint if that is a name. Nil
	// is the machine's own resolver: the mesh's names are of no use before there
	// is a tunnel.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Outer replaces the UDP sockets of the machine. Nil does not.
	Outer func(network string, at netip.AddrPort) (udp.PacketConn, error)
	// Progress hears what Join is doing, a few words at a time. Nil is deaf.
	Progress func(step string)
	// Logger hears of changes and trouble. Nil discards.
	Logger *slog.Logger
}

// Size is a class of machine.
type Size uint8

// Auto takes Small for less than 1 GiB of memory or a 32-bit ARM, and Large for
// the rest.
const (
	Auto Size = iota
	Small
	Large
)

// Small reports whether the machine is treated as a small one.
func (s Size) Small() bool {
	switch s {
	case Small:
		return true
	case Large:
		return false
	}
	memory := machineMemory()
	return runtime.GOARCH == "arm" || (memory > 0 && memory < 1<<30)
}

// The reasons to refuse a Dial. What wraps them is a sentence for people.
var (
	// ErrNotMesh: the destination is an address outside the mesh.
	ErrNotMesh = proxy.ErrNotMesh
	// ErrNoName: no such name, or one that this machine may reach nothing on.
	ErrNoName = proxy.ErrNoName
	// ErrPolicy: this machine's slice of the policy does not allow it.
	ErrPolicy = proxy.ErrPolicy
)

// The states that a Dir may be in.
var (
	ErrNotJoined = errors.New("this machine has not joined a mesh; run `spoke join` with an invite code")
	ErrJoined    = errors.New("this machine has joined a mesh already; run `spoke leave` first, or use another --dir")
	ErrBusy      = errors.New("another spoke is running in this directory; stop it first, or use another --dir")
)

// Membership is who this machine is on the mesh.
type Membership struct {
	ID        peer.ID        `json:"id"`
	Name      string         `json:"name"`
	V4        netip.Addr     `json:"v4"`
	V6        netip.Addr     `json:"v6"`
	Domain    string         `json:"domain"`
	Endpoint  string         `json:"endpoint"`
	Hub       peer.PublicKey `json:"hub"`
	PublicKey peer.PublicKey `json:"public_key"`
	Owner     string         `json:"owner,omitempty"`
	Household string         `json:"household,omitempty"`
	Tags      []string       `json:"tags,omitempty"`
}

// DefaultDir is the state directory of this platform and user.
func DefaultDir() (string, error) {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		dir, err := os.UserConfigDir()
		return filepath.Join(dir, "Warren", "spoke"), err
	}
	if os.Geteuid() == 0 {
		return "/var/lib/warren/spoke", nil
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "warren", "spoke"), nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "share", "warren", "spoke"), err
}

func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

func (c *Config) progress(step string) {
	if c.Progress != nil {
		c.Progress(step)
	}
}

// resolve returns every address that the endpoint may be reached at, host:port.
func (c *Config) resolve(ctx context.Context, endpoint string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return nil, err
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 0, 4)
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, a)
	} else {
		lookup := c.Resolve
		if lookup == nil {
			lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
				return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
			}
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if addrs, err = lookup(ctx, host); err != nil {
			return nil, err
		}
	}
	list := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range addrs {
		list = append(list, netip.AddrPortFrom(a.Unmap(), uint16(n)))
	}
	if len(list) == 0 {
		return nil, errors.New("the name " + host + " has no address")
	}
	return list, nil
}
