// Binary spoke puts a machine on a Warren mesh.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/spoke"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Main(ctx, root(), os.Args[1:]))
}

// app is what every command needs.
type app struct {
	dir  string
	json bool
}

func root() *cobra.Command {
	a := &app{}
	cmd := &cobra.Command{
		Use:     "spoke",
		Short:   "Put this machine on a Warren mesh",
		Version: version,
		Long: `spoke puts this machine on a Warren mesh: it joins with a one-line invite and
then reaches what the mesh's policy allows, by name. It needs no privileges and
makes no network interface unless told to.

The first minute:

  spoke join -                       paste the invite that "hub invite" printed
  spoke run                          leave it running
  spoke get http://stt.warren.internal/
  spoke status                       is it up, what may I reach, what was refused`,
		Example: `  spoke run --forward 127.0.0.1:9000=stt.warren.internal:443
  spoke run --socks 127.0.0.1:1080 --http-proxy 127.0.0.1:8118
  spoke run --serve llm=127.0.0.1:8080`,
	}
	dir, err := spoke.DefaultDir()
	if err != nil {
		dir = "warren-spoke"
	}
	cmd.PersistentFlags().StringVar(&a.dir, "dir", dir, "state directory")
	cmd.AddCommand(a.joinCmd(), a.runCmd(), a.statusCmd(), a.pingCmd(), a.getCmd(), a.loginCmd(), a.logoutCmd(), a.settingsCmd(), a.leaveCmd(), versionCmd())
	return cmd
}

func versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "spoke %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// jsonFlag gives a command --json.
func (a *app) jsonFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON, for programs")
	return cmd
}

// explain adds what to do next to the errors that people meet most.
func (a *app) explain(err error) error {
	switch {
	case errors.Is(err, spoke.ErrNotJoined):
		return cli.Hint(fmt.Errorf("this machine has not joined a mesh (state directory %s)", a.dir),
			"get an invite from the admin (hub invite NAME) and run: spoke join -")
	case errors.Is(err, spoke.ErrJoined):
		return cli.Hint(fmt.Errorf("this machine has joined a mesh already (state directory %s)", a.dir),
			"leave it first (spoke leave), or join another one with --dir OTHER")
	case errors.Is(err, spoke.ErrBusy):
		return cli.Hint(fmt.Errorf("a spoke is using the state directory %s", a.dir),
			"stop it first, or use another --dir")
	case errors.Is(err, spoke.ErrNoLogin):
		return noLogin()
	case errors.Is(err, spoke.ErrRemoved):
		return cli.Hint(errors.New("the hub says that this machine is no active peer of the mesh"),
			"it was removed or quarantined; ask the admin, or forget the mesh with: spoke leave")
	}
	return err
}

// mesh is a way into the mesh: a running spoke's, or one of our own.
type mesh interface {
	Status(context.Context) (spoke.Status, error)
	Ping(ctx context.Context, host string) (time.Duration, netip.Addr, error)
	Dial(ctx context.Context, network, address string) (net.Conn, error)
	DialTLS(ctx context.Context, network, address string) (net.Conn, error)
	Login(ctx context.Context, show func(spoke.Prompt)) error
	Token(context.Context) (string, error)
	Logout(context.Context) error
	Leave(context.Context) error
	Close() error
}

// own is a spoke that this command runs for itself.
type own struct {
	*spoke.Client
	stop func()
}

func (o *own) Status(context.Context) (spoke.Status, error) { return o.Client.Status(), nil }

func (o *own) Close() error {
	o.stop()
	return o.Client.Close()
}

// readyTime is how long a command waits for the hub when it opens the tunnel
// itself.
const readyTime = 15 * time.Second

// attach finds the running spoke, or opens the tunnel for this one command. A
// spoke that is just starting has the vault already and no socket yet.
func (a *app) attach(ctx context.Context) (mesh, error) {
	for deadline := time.Now().Add(3 * time.Second); ; {
		r, err := spoke.Attach(a.dir)
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, spoke.ErrNotRunning) {
			return nil, err
		}
		m, err := a.open(ctx)
		if err == nil {
			return m, nil
		}
		if !errors.Is(err, spoke.ErrBusy) || time.Now().After(deadline) {
			return nil, a.explain(err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// start opens the tunnel.
func (a *app) start(ctx context.Context) (*own, error) {
	c, err := spoke.Open(ctx, spoke.Config{Dir: a.dir})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Run(ctx) // Ready says what there is to say
	}()
	return &own{c, func() { cancel(); <-done }}, nil
}

// open opens the tunnel and waits for the hub's first answer.
func (a *app) open(ctx context.Context) (mesh, error) {
	o, err := a.start(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	if err = o.Ready(ctx); err == nil {
		return o, nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = cli.Hint(fmt.Errorf("the hub at %s does not answer", o.Membership().Endpoint),
			"see that it is running and that UDP gets there")
	}
	return nil, errors.Join(err, o.Close())
}
