package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/peer/invite"
	"github.com/warrenmesh/warren/spoke"
)

func (a *app) joinCmd() *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use:   "join CODE",
		Short: "Join a mesh with an invite",
		Long: `join makes this machine's key and enrols it with the hub that the invite names.
The key stays here; only its public half is sent. It is done once.

An invite is a secret until it is used, and every user of this machine can read
the arguments of a command: "-" reads it from standard input instead.`,
		Example: `  spoke join -                                  and paste the line
  ssh hub.example.org hub invite kitchen | spoke join -
  spoke join warren1AbC...`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.join(cmd, args[0]) },
	})
}

func (a *app) join(cmd *cobra.Command, code string) error {
	if code == "-" {
		var err error
		if code, err = readCode(cmd); err != nil {
			return err
		}
	}
	p := &progress{w: cmd.ErrOrStderr()}
	m, err := spoke.Join(cmd.Context(), code, spoke.Config{Dir: a.dir, Progress: p.step})
	p.done()
	if errors.Is(err, invite.ErrRefused) {
		return cli.Hint(errors.New("the hub does not take this invite: it was used, has expired or was withdrawn"), "ask the admin for a new one: hub invite NAME")
	}
	if err != nil {
		return a.explain(err)
	}
	out := cmd.OutOrStdout()
	if a.json {
		return cli.JSON(out, m)
	}
	_, err = fmt.Fprintf(out, "joined as %s.%s (%s, %s)\nnext: spoke run\n", m.Name, m.Domain, m.V4, m.V6)
	return err
}

// readCode reads an invite from standard input. What a terminal or a mail
// program broke into lines is put together again.
func readCode(cmd *cobra.Command) (string, error) {
	in := cmd.InOrStdin()
	if f, ok := in.(*os.File); ok && cli.Terminal(f) {
		fmt.Fprint(cmd.ErrOrStderr(), "Paste the invite: ")
		line, err := bufio.NewReader(io.LimitReader(f, 2*invite.MaxCode)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("reading invite: %w", err)
		}
		return strings.TrimSpace(line), nil
	}
	b, err := io.ReadAll(io.LimitReader(in, 2*invite.MaxCode))
	if err != nil {
		return "", fmt.Errorf("reading invite: %w", err)
	}
	code := strings.Join(strings.Fields(string(b)), "")
	if code == "" {
		return "", cli.Hint(errors.New("no invite came on standard input"), "hub invite NAME | spoke join -")
	}
	return code, nil
}

// progress tells what a long command is doing: one line that changes on a
// terminal, nothing elsewhere.
type progress struct {
	w     io.Writer
	shown bool
}

func (p *progress) step(what string) {
	if f, ok := p.w.(*os.File); ok && cli.Terminal(f) {
		fmt.Fprintf(f, "\r\x1b[K%s ...", what)
		p.shown = true
	}
}

func (p *progress) done() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
