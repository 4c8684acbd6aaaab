package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/spoke"
)

func (a *app) loginCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "login",
		Short: "Sign a person in for this machine",
		Long: `login says a page and a code. Open the page on any machine of yours that is on
the mesh, sign in and type the code; this machine then speaks for you, until
logout. What it gets works from this machine only, and is kept encrypted.`,
		Example: `  spoke login
  spoke get --login https://auth.warren.internal/auth/me`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := a.attach(cmd.Context())
			if err != nil {
				return err
			}
			defer m.Close()
			out := cmd.OutOrStdout()
			var failed error
			err = m.Login(cmd.Context(), func(p spoke.Prompt) {
				_, failed = fmt.Fprintf(out, "Open   %s\nCode   %s\nWaiting until %s …\n", p.URL, p.Code, p.Expires.Local().Format(time.TimeOnly))
			})
			if err != nil {
				return a.explain(err)
			}
			_, err = fmt.Fprintln(out, "Signed in.")
			return errors.Join(failed, err)
		},
	}
}

func (a *app) logoutCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "End the sign-in of this machine",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := a.attach(cmd.Context())
			if err != nil {
				return err
			}
			defer m.Close()
			if err := m.Logout(cmd.Context()); err != nil {
				return a.explain(err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "Signed out.")
			return err
		},
	}
}

// noLogin is what explain says when nobody is signed in.
func noLogin() error {
	return cli.Hint(errors.New("nobody is signed in on this machine"), "sign in with: spoke login")
}
