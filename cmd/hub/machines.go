package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/hub/control"
)

func (a *app) nodeCmd() *cobra.Command {
	return group("node", "people", "Nodes: machines of a household that act by themselves: add, list, rotate, rm",
		`A node is a machine of a household that acts by itself, such as a voice satellite.
It sends a key, as "X-API-Key: ID:KEY", and the key works from its own tunnel
address and from nowhere else.`,
		a.nodeAdd(), a.nodeList(),
		a.rotate("node", "rotate ID", "Give a node a new key; the old one works for a while", completer(a, "node/list", nodeWord)),
		a.remove("node", "node/rm", "rm ID", "Remove a node and its keys", "is removed", completer(a, "node/list", nodeWord)))
}

func (a *app) nodeAdd() *cobra.Command {
	var spec control.NodeSpec
	cmd := &cobra.Command{Use: "add ID --household HOUSEHOLD", Short: "Add a node and print its key", Args: cobra.ExactArgs(1),
		Long: `Adds a node and prints its key, once, alone on standard output.

Without --peer the node is the peer of the same name, or else the first machine
that proves the key. Without --service it may call the command service.`,
		Example: "  hub node add kitchen --household home > key\n  hub node add den --household home --peer den-pi --service command --service stt",
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.ID = args[0]
			if spec.Household == "" {
				return cli.Usage("--household is missing: whose node is it; see: hub household list")
			}
			var reply control.KeyReply
			if err := a.call(cmd, "node/add", spec, &reply); err != nil {
				return err
			}
			show(cmd, reply.Key, "The node sends it as X-API-Key: "+reply.ID+":KEY. It is not shown again.")
			return nil
		}}
	f := cmd.Flags()
	f.StringVar(&spec.Household, "household", "", "whose node it is: a name, label or id")
	f.StringVar(&spec.Peer, "peer", "", "the machine it runs on")
	f.StringArrayVar(&spec.Services, "service", nil, "a service it may call; may be repeated (default command)")
	completeFlag(a, cmd, "household", "household/list", householdWord)
	completeFlag(a, cmd, "peer", "peers", peerWord)
	return cmd
}

func (a *app) nodeList() *cobra.Command {
	return table(a, "node/list", "List the nodes", "There is none yet. Add one: hub node add ID --household HOUSEHOLD",
		[]string{"ID", "HOUSEHOLD", "MACHINE", "SERVICES", "ROOM", "KEY SINCE", "SEEN", "NOTE"},
		func(n control.NodeInfo) []string {
			since, note := n.Rotated, ""
			if since.IsZero() {
				since = n.Created
			}
			if !n.Active {
				note = "inactive"
			}
			return []string{n.ID, n.Home, n.Peer, strings.Join(n.Services, " "), n.Room, since.Local().Format(time.DateOnly), cli.Ago(n.Seen), note}
		})
}

func (a *app) appCmd() *cobra.Command {
	return group("app", "people", "Apps: programs that call services: add, list, rotate, revoke",
		`An app is a program that calls services, such as a command centre on a spoke. It
sends "X-Jarvis-App-Id: ID" and "X-Jarvis-App-Key: KEY", from its own machine and
from nowhere else. An admin's app (--admin) is the key of the admin's own tools.`,
		a.appAdd(), a.appList(),
		a.rotate("app", "rotate ID", "Give an app a new key; the old one works for a while", completer(a, "app/list", appWord)),
		a.remove("app", "app/revoke", "revoke ID", "End an app's keys, at once", "may call nothing any more", completer(a, "app/list", appWord)))
}

func (a *app) appAdd() *cobra.Command {
	var spec control.AppSpec
	cmd := &cobra.Command{Use: "add ID", Short: "Add an app and print its key", Args: cobra.ExactArgs(1),
		Long: `Adds an app and prints its key, once, alone on standard output.

Without --peer the app is bound to the first machine that proves the key. Without
--service it may call auth, to ask who somebody is; "*" is every service.`,
		Example: "  hub app add command-center --service auth > key\n  hub app add tools --admin --peer ann-laptop > key",
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.ID = args[0]
			var reply control.KeyReply
			if err := a.call(cmd, "app/add", spec, &reply); err != nil {
				return err
			}
			hint := "The app sends X-Jarvis-App-Id: " + reply.ID + " and this as X-Jarvis-App-Key. It is not shown again."
			if spec.Admin {
				hint = "Send it as X-Jarvis-Admin-Token to auth, as X-API-Key to command. It is not shown again."
			}
			show(cmd, reply.Key, hint)
			return nil
		}}
	f := cmd.Flags()
	f.StringVar(&spec.Peer, "peer", "", "the machine it runs on")
	f.StringArrayVar(&spec.Services, "service", nil, "a service it may call; may be repeated; * for all (default auth)")
	f.BoolVar(&spec.Admin, "admin", false, "a key of the admin's own tools")
	completeFlag(a, cmd, "peer", "peers", peerWord)
	return cmd
}

func (a *app) appList() *cobra.Command {
	return table(a, "app/list", "List the apps", "There is none yet. Add one: hub app add ID --service SERVICE",
		[]string{"ID", "MACHINE", "SERVICES", "KEY SINCE", "NOTE"},
		func(p control.AppInfo) []string {
			since := p.Rotated
			if since.IsZero() {
				since = p.Created
			}
			var notes []string
			if p.Admin {
				notes = append(notes, "admin")
			}
			if !p.Active {
				notes = append(notes, "revoked")
			}
			return []string{p.ID, p.Peer, strings.Join(p.Services, " "), since.Local().Format(time.DateOnly), strings.Join(notes, ", ")}
		})
}

// rotate makes the command that replaces a key.
func (a *app) rotate(what, use, short string, complete cobra.CompletionFunc) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: complete,
		Long: "Prints a new key, once, alone on standard output. The key before it goes on\nworking for a while, so that nothing stops while you replace it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			var reply control.KeyReply
			if err := a.call(cmd, what+"/rotate", args[0], &reply); err != nil {
				return err
			}
			until := ""
			if !reply.Overlap.IsZero() {
				until = "The key before it works until " + reply.Overlap.Local().Format(time.DateTime) + "."
			}
			show(cmd, reply.Key, "It is not shown again.", until)
			return nil
		}}
}

// remove makes a command that ends something by its name.
func (a *app) remove(what, command, use, short, say string, complete cobra.CompletionFunc) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: complete,
		Long: "It bites at once, on answers that are still running too.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.call(cmd, command, args[0], nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "The %s %s %s.\n", what, args[0], say)
			return nil
		}}
}
