package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/hub/control"
)

func (a *app) aclCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "acl", GroupID: "what", Short: "Read, check, change and explain the policy",
		Long: `The policy says who may reach what; what it does not allow is refused. It is one
text (HuJSON: JSON with comments). To change it:

  hub acl show > policy.hujson     the live one
  hub acl diff policy.hujson       what an edit would open and close
  hub acl apply policy.hujson      put it in force, at once, for running connections too

Its own "tests" must hold and its "never" rules be proven, or it is refused and
the live policy stays untouched. docs/policy.md describes the language.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cli.Usage("there is no command %q", args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(a.aclShow(), a.aclCheck(), a.aclDiff(), a.aclApply(), a.aclConfirm(), a.aclExplain(), a.aclHistory(), a.aclRollback())
	return cmd
}

// readPolicy reads a policy's text from a file, "-" for standard input. More
// than the largest policy is not read.
func readPolicy(cmd *cobra.Command, name string) (control.PolicyRequest, error) {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return control.PolicyRequest{}, fmt.Errorf("reading policy: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, acl.MaxPolicy+1))
	if err != nil {
		return control.PolicyRequest{}, fmt.Errorf("reading policy: %w", err)
	}
	if len(b) > acl.MaxPolicy {
		return control.PolicyRequest{}, fmt.Errorf("%s is larger than 1 MiB, the largest a policy may be", name)
	}
	return control.PolicyRequest{Text: string(b)}, nil
}

func (a *app) aclShow() *cobra.Command {
	return a.jsonFlag(&cobra.Command{Use: "show", Short: "Print the live policy", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var p control.PolicyReply
			if err := a.call(cmd, "acl/show", nil, &p); err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), p)
			}
			_, err := io.WriteString(cmd.OutOrStdout(), p.Text)
			return err
		}})
}

func (a *app) aclCheck() *cobra.Command {
	return &cobra.Command{Use: "check FILE", Short: "Check a policy without putting it in force", Args: cobra.ExactArgs(1),
		Long: "Checks a policy against the mesh as it is: its form, its names, its tests and\nits never rules. FILE may be - for standard input. Nothing changes.",
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := readPolicy(cmd, args[0])
			if err != nil {
				return err
			}
			var c control.Change
			if err := a.call(cmd, "acl/check", req, &c); err != nil {
				return err
			}
			warn(cmd, c.Warnings)
			fmt.Fprintln(cmd.OutOrStdout(), "The policy is good.")
			return nil
		}}
}

func warn(cmd *cobra.Command, warnings []string) {
	for _, w := range warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), cli.Colour(cmd.ErrOrStderr(), cli.Yellow, "warning: ")+w)
	}
}

func (a *app) aclDiff() *cobra.Command {
	return a.jsonFlag(&cobra.Command{Use: "diff FILE", Short: "Show what a policy would open and close", Args: cobra.ExactArgs(1),
		Long: "Shows what would open (+) and close (-), and which flows that were really seen\non this mesh would be treated otherwise. Nothing changes.",
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := readPolicy(cmd, args[0])
			if err != nil {
				return err
			}
			var d control.DiffReply
			if err := a.call(cmd, "acl/diff", req, &d); err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), d)
			}
			warn(cmd, d.Warnings)
			printDiff(cmd.OutOrStdout(), d)
			return nil
		}})
}

func printDiff(w io.Writer, d control.DiffReply) {
	for _, o := range d.Opened {
		fmt.Fprintln(w, cli.Colour(w, cli.Green, "+ "+o))
	}
	for _, c := range d.Closed {
		fmt.Fprintln(w, cli.Colour(w, cli.Red, "- "+c))
	}
	if len(d.Opened)+len(d.Closed) == 0 {
		fmt.Fprintln(w, "Nothing opens and nothing closes.")
	}
	for _, h := range d.Hit {
		would := "would be refused"
		if h.WouldOpen {
			would = "would be allowed"
		}
		fmt.Fprintf(w, "! %s %s: seen %s, last %s\n", h.Flow, would, cli.Plural(h.Count, "time"), cli.Ago(h.Last))
	}
}

func (a *app) aclApply() *cobra.Command {
	var confirm time.Duration
	var lockout bool
	var base uint64
	cmd := &cobra.Command{Use: "apply FILE", Short: "Put a policy in force", Args: cobra.ExactArgs(1),
		Long: `Puts a policy in force. When the command returns, nothing that only the old
policy allowed is delivered any more: connections that are no longer allowed
have been reset on both sides.

With --confirm the old policy comes back by itself unless you say "hub acl
confirm" in time: use it when an edit could cut the connection you sit on.`,
		Example: "  hub acl apply policy.hujson\n  hub acl apply policy.hujson --confirm 60s && hub acl confirm",
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := readPolicy(cmd, args[0])
			if err != nil {
				return err
			}
			req.Confirm, req.Lockout, req.Base = confirm, lockout, base
			var c control.Change
			if err := a.call(cmd, "acl/apply", req, &c); err != nil {
				return err
			}
			warn(cmd, c.Warnings)
			printCut(cmd.OutOrStdout(), fmt.Sprintf("generation %d is in force", c.Generation), c)
			if !c.ConfirmBy.IsZero() {
				fmt.Fprintf(cmd.OutOrStdout(), "It goes back at %s unless you confirm it: hub acl confirm\n", c.ConfirmBy.Local().Format(time.TimeOnly))
			}
			return nil
		}}
	f := cmd.Flags()
	f.DurationVar(&confirm, "confirm", 0, "go back unless confirmed within this time, 5s to 1h")
	f.BoolVar(&lockout, "lockout", false, "accept a policy that leaves nobody in group:admin")
	f.Uint64Var(&base, "base", 0, "the generation your edit started from; refuse if another is live")
	return cmd
}

func (a *app) aclConfirm() *cobra.Command {
	return &cobra.Command{Use: "confirm", Short: "Keep a policy that was applied with --confirm", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var p control.PolicyReply
			if err := a.call(cmd, "acl/confirm", nil, &p); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Generation %d stays.\n", p.Generation)
			return nil
		}}
}

func (a *app) aclExplain() *cobra.Command {
	return a.jsonFlag(&cobra.Command{Use: "explain SRC DST:PORT[/proto]", Short: "Say whether a connection is allowed, and by which rule", Args: cobra.ExactArgs(2),
		Long:    "Says what the live policy makes of one connection, from the same tables as the\npacket path. Exit code 0 means allowed, 1 refused.",
		Example: "  hub acl explain kitchen stt:443\n  hub acl explain ann-phone dns:53/udp\n  hub acl explain 10.77.1.4 gpu/icmp",
		RunE: func(cmd *cobra.Command, args []string) error {
			var e control.ExplainReply
			if err := a.call(cmd, "acl/explain", control.ExplainRequest{Src: args[0], Dst: args[1]}, &e); err != nil {
				return err
			}
			if a.json {
				if err := cli.JSON(cmd.OutOrStdout(), e); err != nil {
					return err
				}
			} else {
				fmt.Fprintln(cmd.OutOrStdout(), e.Text)
				if e.Recent != "" {
					fmt.Fprintln(cmd.OutOrStdout(), "lately: "+e.Recent)
				}
			}
			if !e.Allowed {
				return cli.ErrSilent
			}
			return nil
		}})
}

func (a *app) aclHistory() *cobra.Command {
	var limit int
	cmd := a.jsonFlag(&cobra.Command{Use: "history", Short: "List the policies there were", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return cli.Usage("--limit is 1 or more, not %d", limit)
			}
			var rows []control.PolicyReply
			if err := a.call(cmd, "acl/history", limit, &rows); err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), rows)
			}
			table := [][]string{{"GENERATION", "WHEN", "BY", "BYTES", "NOTE"}}
			for _, p := range rows {
				note := ""
				switch {
				case p.Live && !p.ConfirmBy.IsZero():
					note = "live, waits to be confirmed"
				case p.Live:
					note = "live"
				}
				table = append(table, []string{strconv.FormatUint(p.Generation, 10), p.At.Local().Format(time.DateTime), p.Author, strconv.Itoa(len(p.Text)), note})
			}
			return cli.Table(cmd.OutOrStdout(), table)
		}})
	cmd.Flags().IntVar(&limit, "limit", 20, "how many, newest first")
	return cmd
}

func (a *app) aclRollback() *cobra.Command {
	return &cobra.Command{Use: "rollback [N]", Short: "Put an older policy in force again", Args: cobra.MaximumNArgs(1),
		Long: "Puts generation N in force again, or the one before this, as a new generation:\nhistory is never rewritten. See which there are with: hub acl history",
		RunE: func(cmd *cobra.Command, args []string) error {
			var n uint64 // the one before
			if len(args) > 0 {
				var err error
				if n, err = strconv.ParseUint(args[0], 10, 64); err != nil || n == 0 {
					return cli.Usage("%.20q is no generation; see: hub acl history", args[0])
				}
			}
			var c control.Change
			if err := a.call(cmd, "acl/rollback", n, &c); err != nil {
				return err
			}
			as := "as before"
			if n != 0 {
				as = fmt.Sprintf("as it was in %d", n)
			}
			printCut(cmd.OutOrStdout(), fmt.Sprintf("generation %d is in force, %s", c.Generation, as), c)
			return nil
		}}
}
