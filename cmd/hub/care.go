package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/control"
)

func (a *app) publishCmd() *cobra.Command {
	var req control.PublishRequest
	cmd := &cobra.Command{Use: "publish NAME TARGET", GroupID: "what", Args: cobra.ExactArgs(2),
		Short: "Give a service on this machine a name and address in the tunnel",
		Long: `Gives a service of the hub's own machine a name and an address of its own inside
the tunnel. Only what is named is reachable, and only by those the policy lets:
after publishing, write a rule for svc:NAME.

An http:// or https:// target is served on port 80; it receives X-Warren-Peer,
X-Warren-User, X-Warren-Tags and X-Warren-Household, which say who is asking and
cannot be forged by the asker. A tcp:// target is served on its own port.`,
		Example: "  hub publish lights http://127.0.0.1:8123\n  hub publish shell tcp://127.0.0.1:22 --port 2222",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name, req.Target = args[0], args[1]
			var info control.ServiceInfo
			if err := a.call(cmd, "publish", req, &info); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is %s (%s), %s\n", info.Name, info.FQDN, info.Addrs[0], strings.Join(info.Ports, " "))
			note(cmd, info.Note)
			return nil
		}}
	cmd.Flags().Uint16Var(&req.Port, "port", 0, "port in the tunnel (default: 80 for http, the target's own for tcp)")
	return cmd
}

func (a *app) unpublishCmd() *cobra.Command {
	return &cobra.Command{Use: "unpublish NAME", GroupID: "what", Args: cobra.ExactArgs(1),
		Short: "Take a service's name and address away",
		RunE: func(cmd *cobra.Command, args []string) error {
			var c control.Change
			if err := a.call(cmd, "unpublish", args[0], &c); err != nil {
				return err
			}
			printCut(cmd.OutOrStdout(), args[0]+" is gone", c)
			return nil
		}}
}

func (a *app) servicesCmd() *cobra.Command {
	return a.jsonFlag(&cobra.Command{Use: "services", GroupID: "what", Args: cobra.NoArgs,
		Short: "List what has a name in the tunnel",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []control.ServiceInfo
			if err := a.call(cmd, "services", nil, &list); err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), list)
			}
			return printServices(cmd.OutOrStdout(), list)
		}})
}

func printServices(w io.Writer, list []control.ServiceInfo) error {
	rows := [][]string{{"NAME", "ADDRESS", "PORTS", "ON", "TARGET", "NOTE"}}
	for _, s := range list {
		rows = append(rows, []string{s.FQDN, s.Addrs[0].String(), strings.Join(s.Ports, " "), s.Host, s.Target, s.Note})
	}
	return cli.Table(w, rows)
}

func (a *app) statusCmd() *cobra.Command {
	return a.jsonFlag(&cobra.Command{Use: "status", GroupID: "care", Args: cobra.NoArgs,
		Short: "Is it up, who is here, what was refused and why",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var st control.Status
			if err := a.call(cmd, "status", nil, &st); err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), st)
			}
			return printStatus(cmd.OutOrStdout(), st)
		}})
}

func printStatus(w io.Writer, st control.Status) error {
	fmt.Fprintf(w, "%s since %s, %s, reached at %s\n", cli.Colour(w, cli.Green, "up"), st.Started.Local().Format(time.DateTime), st.Listening, st.Endpoint)
	fmt.Fprintf(w, "policy generation %d, domain %s, networks %s %s, version %s\n", st.Generation, st.Domain, st.Networks[0], st.Networks[1], st.Version)
	if st.Recovery != "" {
		fmt.Fprintln(w, cli.Colour(w, cli.Red, "only the recovery path is open: "+st.Recovery))
	}
	if !st.ConfirmBy.IsZero() {
		fmt.Fprintf(w, "%s\n", cli.Colour(w, cli.Yellow, "the policy goes back at "+st.ConfirmBy.Local().Format(time.TimeOnly)+" unless confirmed: hub acl confirm"))
	}
	fmt.Fprintln(w, accountsLine(st.Accounts))
	for _, p := range st.Problems {
		fmt.Fprintln(w, cli.Colour(w, cli.Yellow, "policy: "+p))
	}
	fmt.Fprintln(w)
	if err := printPeers(w, st.Peers); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := printServices(w, st.Services); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return printRefused(w, st)
}

// accountsLine is one line about people and what acts for them.
func accountsLine(a control.AccountsStatus) string {
	line := fmt.Sprintf("%s in %s, %s, %s", cli.Plural(a.Users, "account"), cli.Plural(a.Households, "household"), cli.Plural(a.Nodes, "node"), cli.Plural(a.Apps, "app"))
	if a.Redis != "" {
		line += "; Redis: " + a.Redis
	}
	if n := len(a.Erasing); n > 0 {
		line += "; " + cli.Plural(n, "erasure") + " not finished"
	}
	return line
}

func printRefused(w io.Writer, st control.Status) error {
	if len(st.Refused) == 0 {
		_, err := fmt.Fprintln(w, "Nothing was refused lately.")
		return err
	}
	rows := [][]string{{"REFUSED", "TO", "WHY", "TIMES", "LAST"}}
	for _, r := range st.Refused {
		rows = append(rows, []string{r.Src, r.Dst, r.Why, fmt.Sprint(r.Count), cli.Ago(r.Last)})
	}
	return cli.Table(w, rows)
}

func (a *app) doctorCmd() *cobra.Command {
	return a.jsonFlag(&cobra.Command{Use: "doctor", GroupID: "care", Args: cobra.NoArgs,
		Short: "Find what is wrong and say what to do",
		Long:  "Checks the running hub, in an order in which the first failure explains those\nafter it. Exit code 1 means that something is wrong.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var checks []control.Check
			if err := a.call(cmd, "doctor", nil, &checks); err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if a.json {
				if err := cli.JSON(w, checks); err != nil {
					return err
				}
			} else {
				printChecks(w, checks)
			}
			if !hub.Healthy(checks) {
				return cli.ErrSilent
			}
			return nil
		}})
}

func printChecks(w io.Writer, checks []control.Check) {
	for _, c := range checks {
		mark := cli.Colour(w, cli.Green, "ok   ")
		if c.Warn {
			mark = cli.Colour(w, cli.Yellow, "odd  ")
		}
		if !c.OK {
			mark = cli.Colour(w, cli.Red, "WRONG")
		}
		fmt.Fprintf(w, "%s  %-16s %s\n", mark, c.Name, c.Note)
		if c.Fix != "" && (c.Warn || !c.OK) {
			fmt.Fprintf(w, "       %-16s do: %s\n", "", c.Fix)
		}
	}
}

func (a *app) auditCmd() *cobra.Command {
	var page struct {
		From  uint64 `json:"from"`
		Limit int    `json:"limit"`
	}
	cmd := a.jsonFlag(&cobra.Command{Use: "audit", GroupID: "care", Args: cobra.NoArgs,
		Short: "Show what was done, by whom",
		Long:  "Shows the audit log, oldest first. Every change is in it: an action whose entry\ncannot be written does not happen. The entries are chained; verify them with:\nhub audit verify",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var reply control.AuditReply
			if err := a.call(cmd, "audit", page, &reply); err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), reply.Rows)
			}
			rows := [][]string{{"N", "WHEN", "WHO", "WHAT", "WHICH", "DETAIL"}}
			for _, e := range reply.Rows {
				rows = append(rows, []string{fmt.Sprint(e.Index), e.Time.Local().Format(time.DateTime), e.Actor, e.Action, e.Target, details(e.Detail)})
			}
			return cli.Table(cmd.OutOrStdout(), rows)
		}})
	cmd.Flags().Uint64Var(&page.From, "from", 0, "first entry to show (default: the newest page)")
	cmd.Flags().IntVar(&page.Limit, "limit", 50, "how many entries, up to 10000")
	cmd.AddCommand(a.auditVerifyCmd())
	return cmd
}

func details(m map[string]string) string {
	var out []string
	for k, v := range m {
		if v != "" {
			out = append(out, k+"="+v)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (a *app) auditVerifyCmd() *cobra.Command {
	var checkpoint string
	cmd := a.jsonFlag(&cobra.Command{Use: "verify", Args: cobra.NoArgs, Short: "Verify that nothing in the audit log was altered",
		Long: `Walks the whole chain and names the first entry that does not fit.

It prints a checkpoint. Keep one elsewhere, and give it back with --checkpoint:
then even somebody who holds the store's key cannot have rewritten what came
before it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var v control.VerifyReply
			if err := a.call(cmd, "audit/verify", checkpoint, &v); err != nil {
				return err
			}
			if a.json {
				if err := cli.JSON(cmd.OutOrStdout(), v); err != nil {
					return err
				}
			}
			if v.Bad != nil {
				return fmt.Errorf("the audit log was altered: %s", v.Why)
			}
			if !a.json {
				fmt.Fprintf(cmd.OutOrStdout(), "%s, unbroken.\ncheckpoint %s\n", cli.Plural(v.Entries, "entry"), v.Head)
			}
			return nil
		}})
	cmd.Flags().StringVar(&checkpoint, "checkpoint", "", "a checkpoint printed earlier that must still be in the chain")
	return cmd
}
