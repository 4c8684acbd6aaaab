package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/confine"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer/invite"
)

// keyFlags say where the store's key comes from.
type keyFlags struct {
	fd         int
	credential string
}

func (k *keyFlags) add(cmd *cobra.Command) {
	cmd.Flags().IntVar(&k.fd, "key-fd", -1, "read the store's key from this file descriptor instead of hub.key")
	cmd.Flags().StringVar(&k.credential, "key-credential", "", "read the store's key from this systemd credential instead of hub.key")
	cmd.MarkFlagsMutuallyExclusive("key-fd", "key-credential")
}

// key returns the zero key when it lies in the state directory.
func (k *keyFlags) key() (store.Key, error) {
	switch {
	case k.credential != "":
		return store.KeyFromCredential(k.credential)
	case k.fd >= 0:
		return store.KeyFromFD(uintptr(k.fd))
	}
	return store.Key{}, nil
}

func (a *app) initCmd() *cobra.Command {
	var cfg hub.InitConfig
	var network string
	var keys keyFlags
	cmd := &cobra.Command{
		Use: "init --endpoint HOST:PORT", GroupID: "run", Args: cobra.NoArgs,
		Short: "Make a new hub: keys, store and a first policy",
		Long: `Makes a new hub in the state directory: its WireGuard key, an encrypted store
and a policy under which only the admin's machines reach anything. It refuses
to touch a directory that holds a hub.

HOST:PORT is how machines reach this hub from where they are: the host's public
address or DNS name and the UDP port (51820 unless you forward another).`,
		Example: `  hub init --endpoint 203.0.113.7:51820
  hub init --endpoint hub.example.org:51820 --network 10.77.0.0/16 --domain home.internal
  hub init --endpoint hub.example.org:51820 --db postgres://warren@/warren?host=/run/postgresql
  hub init --endpoint hub.example.org:51820 --db - < dsn`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			cfg.Dir = a.dir
			if cfg.Endpoint == "" {
				return cli.Usage("--endpoint is missing: how do machines reach this hub, as in hub.example.org:51820")
			}
			if network != "" {
				if cfg.Network, err = netip.ParsePrefix(network); err != nil {
					return cli.Usage("--network %.80q is not a prefix, as in 10.77.0.0/16", network)
				}
			}
			if cfg.Key, err = keys.key(); err != nil {
				return err
			}
			if cfg.DSN, err = readDSN(cmd, cfg.DSN); err != nil {
				return err
			}
			if err := cfg.Check(); err != nil {
				return cli.Usage("%w", err)
			}
			if err := hub.Init(cmd.Context(), cfg); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "A new hub is in %s.\n", a.dir)
			if cfg.Key.IsZero() {
				fmt.Fprintf(cmd.OutOrStdout(), "Its store opens with %s/hub.key: keep a copy elsewhere, or a backup (hub backup).\n", a.dir)
			}
			next := "hub run --dir " + a.dir
			if _, port, _ := net.SplitHostPort(cfg.Endpoint); port != strconv.Itoa(hub.DefaultPort) {
				next += " --listen :" + port
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Next: %s\n", next)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Endpoint, "endpoint", "", "host and UDP port that machines reach the hub at")
	f.StringVar(&network, "network", "", "private IPv4 prefix of the tunnel, /16 to /24 (default 10.77.0.0/16)")
	f.StringVar(&cfg.Domain, "domain", "", "the tunnel's own DNS domain (default "+hub.DefaultDomain+")")
	f.StringVar(&cfg.DSN, "db", "", "keep the store in PostgreSQL: postgres://…, or - to read that from standard input (default: an encrypted file)")
	f.StringVar(&cfg.Admin, "admin", "", "the user who administers (default "+hub.DefaultAdmin+")")
	keys.add(cmd)
	return cmd
}

// readDSN takes a database's address as it was given, or from standard input:
// an argument can be read by every user of the machine, and the address may
// hold a password.
func readDSN(cmd *cobra.Command, dsn string) (string, error) {
	if dsn == "-" {
		b, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 4<<10))
		if err != nil {
			return "", fmt.Errorf("reading the database's address: %w", err)
		}
		return strings.TrimSpace(string(b)), nil
	}
	if u, err := url.Parse(dsn); err == nil && u.User != nil {
		if _, has := u.User.Password(); has {
			fmt.Fprintln(cmd.ErrOrStderr(), cli.Colour(cmd.ErrOrStderr(), cli.Yellow, "warning: ")+
				"other users of this machine can read a command's arguments; give an address with a password on standard input: --db -")
		}
	}
	return dsn, nil
}

func (a *app) runCmd() *cobra.Command {
	var listen, level, proof string
	var redis redisFlags
	var resolvers []string
	var keys keyFlags
	cfg := hub.Config{Version: version}
	cmd := &cobra.Command{
		Use: "run", GroupID: "run", Args: cobra.NoArgs,
		Short: "Run the hub",
		Long: `Runs the hub until it is interrupted. It opens one UDP port and no other, and
needs no privileges. If the state directory is empty it makes a hub first, with
this machine's own address as the endpoint, unless --endpoint says another.

One line on standard error says when it is ready.`,
		Example: `  hub run
  hub run --dir /srv/warren --listen 0.0.0.0:51820`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			cfg.Dir = a.dir
			if cfg.Listen, err = listenAddr(listen); err != nil {
				return err
			}
			if cfg.Endpoint != "" {
				if err := invite.ValidEndpoint(cfg.Endpoint); err != nil {
					return cli.Usage("--endpoint: %w", err)
				}
			}
			if cfg.Resolvers, err = resolverAddrs(resolvers); err != nil {
				return err
			}
			if cfg.Redis, err = redis.read(cmd); err != nil {
				return err
			}
			if cfg.Apps, err = appProof(proof); err != nil {
				return err
			}
			var lvl slog.Level
			if err := lvl.UnmarshalText([]byte(level)); err != nil {
				return cli.Usage("--log is debug, info, warn or error, not %.20q", level)
			}
			// A library writes to the default logger; of that, only what matters.
			slog.SetDefault(slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: max(lvl, slog.LevelWarn)})))
			cfg.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: lvl}))
			if cfg.Key, err = keys.key(); err != nil {
				return err
			}
			return run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "", "UDP address to listen on (default :51820, all addresses)")
	f.StringVar(&cfg.Endpoint, "endpoint", "", "host and UDP port that machines are told to reach this hub at (default what hub init was told)")
	f.StringArrayVar(&resolvers, "resolver", nil, "ask this resolver, ADDR or ADDR:PORT, for names outside the tunnel; may be repeated (default: the host's own)")
	f.StringArrayVar(&cfg.PrivateDomains, "private-domain", nil, "a domain of the home network, such as fritz.box, whose names may have private addresses; may be repeated")
	redis.add(cmd)
	f.StringVar(&proof, "app-proof", "key", "how apps prove themselves to the hub's services: key, certificate (on port 443), both or either")
	f.BoolVar(&cfg.HS256, "hs256", false, "sign access tokens with a shared secret, as Jarvis does, for services that know nothing else; weaker, see docs/accounts.md")
	f.StringVar(&level, "log", "info", "least level of what is logged: debug, info, warn, error")
	keys.add(cmd)
	return cmd
}

func run(ctx context.Context, cfg hub.Config) error {
	if !hub.Exists(cfg.Dir) {
		// A key without its store is a hub that has lost it, to a mount that is
		// missing perhaps. A new one in its place would lock every machine out.
		if hub.KeyLeft(cfg.Dir) {
			return cli.Hint(fmt.Errorf("%s holds a hub's key but not its store", cfg.Dir),
				"bring hub.db back or restore a backup into another --dir; to begin anew: hub init --dir "+cfg.Dir+" --endpoint HOST:PORT")
		}
		endpoint, err := cfg.Endpoint, error(nil)
		if endpoint == "" {
			endpoint, err = guessEndpoint(cfg.Listen)
		}
		if err != nil {
			return cli.Hint(err, "make the hub yourself: hub init --dir "+cfg.Dir+" --endpoint HOST:PORT")
		}
		cfg.Logger.Info("making a new hub", "dir", cfg.Dir, "endpoint", endpoint)
		if err := hub.Init(ctx, hub.InitConfig{Dir: cfg.Dir, Endpoint: endpoint, Key: cfg.Key}); err != nil {
			return err
		}
	}
	srv, err := hub.New(ctx, cfg)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return cli.Hint(fmt.Errorf("the UDP port is taken by another program, another hub perhaps: %w", err),
				"stop that one, or choose another port: hub run --listen :PORT")
		}
		if errors.Is(err, store.ErrWrongKey) || errors.Is(err, store.ErrKeyFile) && errors.Is(err, fs.ErrNotExist) {
			return cli.Hint(err, "bring back the hub.key that belongs to this store, or restore a backup: hub restore FILE")
		}
		return err
	}
	// Everything that listens is open now; from here on the kernel lets this
	// process open nothing of the kind again.
	switch err := confine.Apply(); {
	case errors.Is(err, confine.ErrUnsupported):
		cfg.Logger.Warn("running without confinement", "why", err)
	case err != nil:
		return errors.Join(err, srv.Close())
	}
	return srv.Run(ctx)
}

func listenAddr(s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return netip.AddrPort{}, cli.Usage("--listen %.80q is not ADDR:PORT, as in 0.0.0.0:51820 or :51820", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, cli.Usage("--listen %.80q: the port is a number from 0 to 65535", s)
	}
	addr := netip.IPv6Unspecified()
	if host != "" {
		if addr, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, cli.Usage("--listen %.80q: give an address, not a name", s)
		}
	}
	return netip.AddrPortFrom(addr, uint16(n)), nil
}

func resolverAddrs(list []string) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, s := range list {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			addr, err := netip.ParseAddr(s)
			if err != nil {
				return nil, cli.Usage("--resolver %.80q is neither ADDR nor ADDR:PORT", s)
			}
			ap = netip.AddrPortFrom(addr, 53)
		}
		out = append(out, ap)
	}
	return out, nil
}

// guessEndpoint is for the first run without init: the address that this
// machine would use to reach the Internet. Nothing is sent.
func guessEndpoint(listen netip.AddrPort) (string, error) {
	port := uint16(hub.DefaultPort)
	if listen.IsValid() {
		if listen.Port() != 0 {
			port = listen.Port()
		}
		if addr := listen.Addr(); !addr.IsUnspecified() {
			return netip.AddrPortFrom(addr, port).String(), nil
		}
	}
	for _, probe := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		c, err := net.Dial("udp", probe)
		if err != nil {
			continue
		}
		addr := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		c.Close()
		return netip.AddrPortFrom(addr, port).String(), nil
	}
	return "", errors.New("this machine has no address that others could reach")
}
