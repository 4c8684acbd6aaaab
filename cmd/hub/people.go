package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/hub/control"
)

// group makes a command that only holds others.
func group(use, id, short, long string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, GroupID: id, Short: short, Long: long,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cli.Usage("there is no command %q in %s", args[0], cmd.CommandPath())
			}
			return cmd.Help()
		}}
	cmd.AddCommand(subs...)
	return cmd
}

// table makes a command that lists something: as a table, or as JSON.
func table[Row any](a *app, command, short string, empty string, head []string, row func(Row) []string) *cobra.Command {
	return a.jsonFlag(&cobra.Command{Use: "list", Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rows := []Row{}
			if err := a.call(cmd, command, nil, &rows); err != nil {
				return err
			}
			return printRows(a, cmd, rows, empty, head, row)
		}})
}

func printRows[Row any](a *app, cmd *cobra.Command, rows []Row, empty string, head []string, row func(Row) []string) error {
	w := cmd.OutOrStdout()
	if a.json {
		return cli.JSON(w, rows)
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, empty)
		return err
	}
	lines := [][]string{head}
	for _, r := range rows {
		lines = append(lines, row(r))
	}
	return cli.Table(w, lines)
}

// completer offers, for a command's first argument, names that the running hub
// knows, with what each is.
func completer[Row any](a *app, command string, name func(Row) (word, what string)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return words(a, cmd, command, name)
	}
}

func words[Row any](a *app, cmd *cobra.Command, command string, name func(Row) (word, what string)) ([]string, cobra.ShellCompDirective) {
	var rows []Row
	if err := a.call(cmd, command, nil, &rows); err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, r := range rows {
		word, what := name(r)
		out = append(out, cobra.CompletionWithDesc(word, what))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeFlag offers values of a flag.
func completeFlag[Row any](a *app, cmd *cobra.Command, flag, command string, name func(Row) (word, what string)) {
	// It fails only for a flag that is not there, which every test would show.
	_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return words(a, cmd, command, name)
	})
}

func userWord(u control.UserInfo) (string, string)           { return u.Email, "user " + u.ID.String() }
func householdWord(h control.HouseholdInfo) (string, string) { return h.Name, string(h.ID) }
func nodeWord(n control.NodeInfo) (string, string)           { return n.ID, n.Home }
func appWord(p control.AppInfo) (string, string)             { return p.ID, p.Name }
func clientWord(c control.ClientInfo) (string, string)       { return c.ID, c.Name }
func webhookWord(h control.WebhookInfo) (string, string)     { return h.Name, h.Home }
func peerWord(p control.PeerInfo) (string, string)           { return p.Name, string(p.Kind) }

// show prints a key alone on standard output, where a script can take it, and
// what to do with it on standard error.
func show(cmd *cobra.Command, key string, hints ...string) {
	fmt.Fprintln(cmd.OutOrStdout(), key)
	for _, h := range hints {
		if h != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "  %s\n", h)
		}
	}
}

// sure asks before something that cannot be undone.
func sure(yes bool, question string) error {
	if yes {
		return nil
	}
	ok, err := cli.Confirm(question)
	if err == nil && !ok {
		err = cli.Hint(fmt.Errorf("nothing was done"), "say --yes if you are sure")
	}
	return err
}
