package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/spoke"
	"github.com/warrenmesh/warren/spoke/proxy"
)

// runFlags are the flags of spoke run as they were given.
type runFlags struct {
	forwards  []string
	serves    []string
	socks     string
	httpProxy string
	certs     string
	tun       bool
	verbose   bool
}

func (a *app) runCmd() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Stay on the mesh until stopped",
		Long: `run keeps the tunnel up and opens the doors that the flags name. Programs that
know nothing of the mesh use it through them:

  --forward     one port of this machine is one port on the mesh
  --socks       a SOCKS5 proxy, TCP and UDP; names are the mesh's
  --http-proxy  an HTTP proxy, CONNECT and http:// URLs
  --serve       something on this machine gets a name on the mesh
  --certs       keep certificates of the hub's authority in a directory, for
                programs that do their own mutual TLS; renewed long before a day
  --tun         a real network interface; needs root or CAP_NET_ADMIN

A door has no password: whoever can connect to it speaks with this machine's
rights on the mesh. So doors listen on loopback unless another address is given.
What is not on the mesh is refused, never dialed from this machine.`,
		Example: `  spoke run --forward 127.0.0.1:9000=stt.warren.internal:443
  spoke run --socks 127.0.0.1:1080 --http-proxy 127.0.0.1:8118
  spoke run --serve llm=127.0.0.1:8080
  spoke run --serve wiki:80=127.0.0.1:8090      port 80 on the mesh
  sudo spoke run --tun`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.run(cmd, &f) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.forwards, "forward", nil, "`LOCAL=NAME:PORT`, may be repeated")
	flags.StringVar(&f.socks, "socks", "", "`ADDR` for a SOCKS5 proxy, as in 127.0.0.1:1080")
	flags.StringVar(&f.httpProxy, "http-proxy", "", "`ADDR` for an HTTP proxy, as in 127.0.0.1:8118")
	flags.StringArrayVar(&f.serves, "serve", nil, "`NAME=HOST:PORT` to offer to the mesh, may be repeated")
	flags.StringVar(&f.certs, "certs", "", "`DIR` to keep key.pem, server.pem, client.pem and ca.pem in")
	flags.BoolVar(&f.tun, "tun", false, "make a network interface, warren0, for the whole machine")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "log more")
	return cmd
}

// doors are the flags of run, understood.
type doors struct {
	forwards []proxy.Forward
	offers   []spoke.Offer
	socks    string
	http     string
}

func (f *runFlags) parse() (d doors, err error) {
	for _, s := range f.forwards {
		fw, err := proxy.ParseForward(s)
		if err != nil {
			return d, cli.Usage("%w", err)
		}
		d.forwards = append(d.forwards, fw)
	}
	for _, s := range f.serves {
		o, err := spoke.ParseOffer(s)
		if err != nil {
			return d, cli.Usage("%w", err)
		}
		d.offers = append(d.offers, o)
	}
	for _, p := range []struct {
		flag, in string
		out      *string
	}{{"--socks", f.socks, &d.socks}, {"--http-proxy", f.httpProxy, &d.http}} {
		if p.in == "" {
			continue
		}
		if *p.out, err = proxy.ParseListen(p.in); err != nil {
			return d, cli.Usage("%s: %w", p.flag, err)
		}
	}
	return d, nil
}

// smallMemory is where the garbage collector starts to work harder on a small
// machine, in bytes: under the 64 MB that such a spoke may have in all.
const smallMemory = 40 << 20

func (a *app) run(cmd *cobra.Command, f *runFlags) error {
	ctx := cmd.Context()
	d, err := f.parse()
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	cfg := spoke.Config{Dir: a.dir, Logger: log}
	if cfg.Size.Small() {
		debug.SetMemoryLimit(smallMemory)
	}
	if f.tun {
		cfg.TUN = "warren0"
	}
	c, err := spoke.Open(ctx, cfg)
	if err != nil {
		return a.explain(err)
	}
	defer c.Close()
	g, ctx := errgroup.WithContext(ctx)
	if err := d.open(ctx, g, c, log); err != nil {
		return err
	}
	g.Go(func() error { return c.Run(ctx) })
	g.Go(func() error { return c.Control(ctx) })
	if f.certs != "" {
		g.Go(func() error { return c.KeepCertificates(ctx, f.certs) })
	}
	g.Go(func() error {
		if c.Ready(ctx) == nil {
			m := c.Membership()
			log.Info("ready", "name", m.Name+"."+m.Domain, "v4", m.V4, "v6", m.V6, "hub", m.Endpoint)
		}
		return nil
	})
	err = g.Wait()
	if errors.Is(err, spoke.ErrLeft) {
		log.Info("left the mesh")
		err = nil
	}
	return errors.Join(a.explain(err), c.Close())
}

// open opens every door before anything runs, so that an address that is taken
// is reported at once, and starts them in g.
func (d *doors) open(ctx context.Context, g *errgroup.Group, c *spoke.Client, log *slog.Logger) (err error) {
	var opened []net.Listener
	defer func() {
		if err != nil {
			for _, ln := range opened {
				_ = ln.Close()
			}
		}
	}()
	listen := func(what, addr string) (net.Listener, error) {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, cli.Hint(fmt.Errorf("opening %s on %s: %w", what, addr, err), "is the address taken, or not this machine's?")
		}
		opened = append(opened, ln)
		at := ln.Addr().String()
		if !proxy.IsLoopback(at) {
			log.Warn("a door is open to more than this machine: everybody who can connect to it has this machine's rights on the mesh", "door", what, "addr", at)
		}
		log.Info("listening", "door", what, "addr", at)
		c.Door(what + " on " + at)
		return ln, nil
	}
	for _, f := range d.forwards {
		ln, err := listen("forward to "+f.Target, f.Local)
		if err != nil {
			return err
		}
		g.Go(func() error { return f.Serve(ctx, ln, c.Dial, log) })
	}
	if d.socks != "" {
		ln, err := listen("SOCKS5 proxy", d.socks)
		if err != nil {
			return err
		}
		s := proxy.SOCKS{Dial: c.Dial, Logger: log}
		g.Go(func() error { return s.Serve(ctx, ln) })
	}
	if d.http != "" {
		ln, err := listen("HTTP proxy", d.http)
		if err != nil {
			return err
		}
		h := proxy.HTTP{Dial: c.Dial, Mesh: c.OnMesh, Logger: log}
		g.Go(func() error { return h.Serve(ctx, ln) })
	}
	for _, o := range d.offers {
		c.Door(fmt.Sprintf("%s:%d on the mesh leads to %s", o.Name, o.Port, o.Target))
		g.Go(func() error { return c.Serve(ctx, o) })
	}
	return nil
}
