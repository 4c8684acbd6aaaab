package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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
				_, failed = fmt.Fprintf(out, "Open   %s\nCode   %s\nWaiting until %s …\n", cli.Line(p.URL), cli.Line(p.Code), p.Expires.Local().Format(time.TimeOnly))
			})
			if err != nil {
				return a.explain(err)
			}
			_, err = fmt.Fprintf(out, "Signed in%s.\n", whose(cmd.Context(), m))
			return errors.Join(failed, err)
		},
	}
}

// whose is " as" and the address of who signed in, "" if the hub does not say.
func whose(ctx context.Context, m mesh) string {
	s, err := m.Status(ctx)
	if err != nil {
		return ""
	}
	token, err := m.Token(ctx)
	if err != nil {
		return ""
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://auth."+s.Domain+"/auth/me", nil)
	if err != nil {
		return ""
	}
	req.Header.Set("Authorization", "Bearer "+token)
	transport := &http.Transport{DialContext: m.Dial, DialTLSContext: m.DialTLS}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	var me struct{ Email string }
	if json.NewDecoder(io.LimitReader(res.Body, 1<<16)).Decode(&me) != nil || me.Email == "" {
		return ""
	}
	return " as " + cli.Line(me.Email)
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
