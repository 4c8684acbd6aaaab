// Binary hub runs a Warren hub and administers it.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/hub/control"
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
		Use:     "hub",
		Short:   "A private mesh that only its own machines can reach",
		Version: version,
		Long: `hub runs the appliance and administers it.

A hub ends WireGuard in its own process: one UDP port is all it shows the
world, and everything it offers exists only inside the tunnel. Machines join
with a one-line invite, phones by scanning a QR code, and a policy decides,
packet by packet, who may reach what.

The first five minutes:

  hub init --endpoint hub.example.org:51820    once
  hub run                                      leave it running
  hub phone ann-phone --owner ann --qr         scan it with the WireGuard app
  hub invite kitchen --owner ann               give the line to: spoke join
  hub publish lights http://127.0.0.1:8123     then allow it: hub acl show
  hub status                                   is it up, who is here, what was refused`,
	}
	cmd.PersistentFlags().StringVar(&a.dir, "dir", defaultDir(), "state directory")
	cmd.AddGroup(
		&cobra.Group{ID: "run", Title: "Running:"},
		&cobra.Group{ID: "who", Title: "Who is on the mesh:"},
		&cobra.Group{ID: "what", Title: "What they may reach:"},
		&cobra.Group{ID: "people", Title: "People, and what acts for them:"},
		&cobra.Group{ID: "care", Title: "Looking after it:"},
	)
	cmd.AddCommand(a.initCmd(), a.runCmd(), a.inviteCmd(), a.phoneCmd(), a.peersCmd(), a.peerCmd(), a.aclCmd(),
		a.publishCmd(), a.unpublishCmd(), a.servicesCmd(),
		a.userCmd(), a.householdCmd(), a.nodeCmd(), a.appCmd(), a.clientCmd(), a.webhookCmd(), a.keysCmd(), a.statusCmd(), a.doctorCmd(), a.auditCmd(), a.backupCmd(), a.restoreCmd())
	return cmd
}

// defaultDir is /var/lib/warren/hub for root and the user's data directory for
// everybody else.
func defaultDir() string {
	if os.Getuid() == 0 {
		return "/var/lib/warren/hub"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "warren", "hub")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "warren-hub"
	}
	return filepath.Join(home, ".local", "share", "warren", "hub")
}

// call asks the running hub and turns its refusal into an error with a hint.
func (a *app) call(cmd *cobra.Command, command string, req, reply any) error {
	return hint(control.NewClient(a.dir).Call(cmd.Context(), command, req, reply))
}

func hint(err error) error {
	if refusal, ok := errors.AsType[*control.Error](err); ok {
		return cli.Hint(refusal, refusal.Hint)
	}
	return err
}

// jsonFlag adds --json to a command that prints a table.
func (a *app) jsonFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
	return cmd
}
