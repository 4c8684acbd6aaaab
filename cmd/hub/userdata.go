package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/hub/control"
)

func (a *app) userSessions() *cobra.Command {
	return a.jsonFlag(&cobra.Command{Use: "sessions [WHO]", Short: "List who is signed in, and where", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: completer(a, "user/list", userWord),
		RunE: func(cmd *cobra.Command, args []string) error {
			var req control.UserRequest
			if len(args) > 0 {
				req.User = args[0]
			}
			rows := []control.SessionInfo{}
			if err := a.call(cmd, "user/sessions", req, &rows); err != nil {
				return err
			}
			return printRows(a, cmd, rows, "Nobody is signed in.",
				[]string{"SESSION", "WHO", "MACHINE", "WITH", "CLIENT", "SINCE", "ENDS"},
				func(s control.SessionInfo) []string {
					return []string{s.ID, s.Email, s.Peer, strings.Join(s.Methods, "+"), s.Client,
						s.Created.Local().Format(time.DateTime), s.Expires.Local().Format(time.DateOnly)}
				})
		}})
}

func (a *app) userLogout() *cobra.Command {
	var session string
	cmd := &cobra.Command{Use: "logout WHO", Short: "Sign a person out, everywhere or from one session", Args: cobra.ExactArgs(1),
		Long:              "Ends a person's sessions. Their tokens are worth nothing when the command\nreturns, and answers that were still running have ended.",
		ValidArgsFunction: completer(a, "user/list", userWord),
		RunE: func(cmd *cobra.Command, args []string) error {
			var n int
			if err := a.call(cmd, "user/logout", control.UserRequest{User: args[0], Session: session}, &n); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s ended.\n", args[0], cli.Plural(n, "session"))
			return nil
		}}
	cmd.Flags().StringVar(&session, "session", "", "only this one; see: hub user sessions")
	return cmd
}

func (a *app) userExport() *cobra.Command {
	return &cobra.Command{Use: "export WHO FILE", Short: "Write down all that is known about a person, for them", Args: cobra.ExactArgs(2),
		Long: `Writes everything that is kept about a person to a new file, JSON, for them to
read or to take elsewhere. FILE may be - for standard output. It is readable:
hand it over like a letter.`,
		ValidArgsFunction: completer(a, "user/list", userWord),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[1] != "-" {
				if _, err := os.Lstat(args[1]); err == nil {
					return fileTaken(args[1], "an export is not written over another")
				}
			}
			body, err := control.NewClient(a.dir).Stream(cmd.Context(), "user/export", control.UserRequest{User: args[0]})
			if err != nil {
				return hint(err)
			}
			defer body.Close()
			if args[1] == "-" {
				if _, err := io.Copy(cmd.OutOrStdout(), body); err != nil {
					return fmt.Errorf("writing export: %w", err)
				}
				return nil
			}
			n, err := writeNew(args[1], "export", body)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Wrote %s (%s).\n", args[1], cli.Bytes(uint64(n)))
			return nil
		}}
}

// maxImport is the size of a file of accounts, in bytes.
const maxImport = 4 << 20

func (a *app) userImport() *cobra.Command {
	return &cobra.Command{Use: "import FILE", Short: "Bring people in from a Jarvis, with their passwords", Args: cobra.ExactArgs(1),
		Long: `Adds the people in a file, all of them or none. FILE may be - for standard input.
It holds one JSON object a line:

  {"email": "ann@example.org", "username": "ann", "password_hash": "$2b$12$…", "superuser": true}

Password hashes are bcrypt ($2a$, $2b$, $2y$) or Argon2id ($argon2id$…); a person
keeps their password, and a bcrypt hash is replaced when they next sign in.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("reading accounts: %w", err)
				}
				defer f.Close()
				in = f
			}
			b, err := io.ReadAll(io.LimitReader(in, maxImport+1))
			if err != nil {
				return fmt.Errorf("reading accounts: %w", err)
			}
			if len(b) > maxImport {
				return fmt.Errorf("%s is larger than 4 MiB; split it", args[0])
			}
			var reply control.ImportReply
			if err := a.call(cmd, "user/import", control.ImportRequest{Document: b}, &reply); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Added %s.\n", cli.Plural(reply.Added, "account"))
			return nil
		}}
}
