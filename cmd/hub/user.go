package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/hub/control"
)

func (a *app) userCmd() *cobra.Command {
	return group("user", "people", "People: add, list, passwd, sessions, logout, export, import, rm",
		`A person signs in at https://auth.DOMAIN from a machine of the mesh, and is then
somebody there: their tokens work from that machine only.

The machine is one thing, the person another. The policy says which machines
reach which service at all; accounts say who may do what there. The username of
an account is what the policy calls the owner of a machine, as in ann@.

WHO is a number, an e-mail address or a username.`,
		a.userAdd(), a.userList(), a.userPasswd(), a.userSessions(), a.userLogout(), a.userExport(), a.userImport(), a.userRm())
}

func (a *app) userAdd() *cobra.Command {
	var spec control.UserSpec
	cmd := &cobra.Command{Use: "add EMAIL", Short: "Add a person", Args: cobra.ExactArgs(1),
		Long: `Adds a person. The password is asked for, twice, or read from standard input if
that is no terminal; it is never an argument, where others could read it.`,
		Example: "  hub user add ann@example.org --name ann --superuser\n  pass show ann | hub user add ann@example.org --name ann",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			spec.Email = args[0]
			if spec.Password, err = cli.Password(); err != nil {
				return err
			}
			var u control.UserInfo
			if err := a.call(cmd, "user/add", spec, &u); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is user %s.\n", u.Email, u.ID)
			note(cmd, "seat them in a household: hub household member NAME "+u.Email+" --role member")
			return nil
		}}
	cmd.Flags().StringVar(&spec.Username, "name", "", "what the policy calls them, as in ann for ann@")
	cmd.Flags().BoolVar(&spec.Superuser, "superuser", false, "may look after all households")
	return cmd
}

func (a *app) userList() *cobra.Command {
	return table(a, "user/list", "List the people there are", "Nobody yet. Add one: hub user add EMAIL --name USER",
		[]string{"ID", "EMAIL", "NAME", "HOUSEHOLDS", "SIGNED IN", "SINCE", "NOTE"},
		func(u control.UserInfo) []string {
			var homes, notes []string
			for _, h := range u.Households {
				homes = append(homes, h.Name+" ("+h.Role.String()+")")
			}
			for _, n := range []struct {
				is   bool
				what string
			}{{u.Superuser, "superuser"}, {u.Disabled, "being erased"}, {u.MustChange, "must change the password"}} {
				if n.is {
					notes = append(notes, n.what)
				}
			}
			return []string{u.ID.String(), u.Email, u.Username, strings.Join(homes, ", "), cli.Plural(u.Sessions, "time"),
				u.Created.Local().Format(time.DateOnly), strings.Join(notes, ", ")}
		})
}

func (a *app) userPasswd() *cobra.Command {
	var req control.UserRequest
	cmd := &cobra.Command{Use: "passwd WHO", Short: "Give a person a new password; they are signed out everywhere", Args: cobra.ExactArgs(1),
		Long: `Sets a person's password and signs them out everywhere. With --temporary it lasts
a day, and they are asked to choose one of their own.`,
		ValidArgsFunction: completer(a, "user/list", userWord),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			req.User = args[0]
			if req.Password, err = cli.Password(); err != nil {
				return err
			}
			if err := a.call(cmd, "user/passwd", req, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s has a new password, and is signed out everywhere.\n", args[0])
			return nil
		}}
	cmd.Flags().BoolVar(&req.Temporary, "temporary", false, "it lasts a day and has to be changed")
	return cmd
}

func (a *app) userRm() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "rm WHO", Short: "Erase a person and all that is known about them", Args: cobra.ExactArgs(1),
		Long: `Erases a person: signs them out everywhere, removes their records, and destroys
the key that their data is sealed with, so that copies elsewhere, backups
included, can no longer be read. What they did stays in the audit log, under a
number that leads nowhere. It cannot be undone; export first if they ask for it.`,
		ValidArgsFunction: completer(a, "user/list", userWord),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := sure(yes, "Everything about "+args[0]+" will be erased for good."); err != nil {
				return err
			}
			var stray []string
			if err := a.call(cmd, "user/rm", control.UserRequest{User: args[0]}, &stray); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is erased.\n", args[0])
			for _, file := range stray {
				note(cmd, file+" may still hold their key: destroy it, then: hub backup --destroyed "+strings.TrimSuffix(file, peopleSuffix))
			}
			return nil
		}}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
