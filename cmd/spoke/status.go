package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/spoke"
)

func (a *app) statusCmd() *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use:     "status",
		Short:   "Is it up, what may this machine reach, what was refused",
		Example: "  spoke status\n  spoke status --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := a.attach(cmd.Context())
			if err != nil {
				return err
			}
			defer m.Close()
			s, err := m.Status(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), s)
			}
			if _, alone := m.(*own); alone {
				fmt.Fprintln(cmd.ErrOrStderr(), "spoke: no spoke is running here; this command opened the tunnel for itself")
			}
			return printStatus(cmd.OutOrStdout(), &s)
		},
	})
}

func printStatus(w io.Writer, s *spoke.Status) error {
	state := cli.Colour(w, cli.Green, "connected")
	switch {
	case !s.Connected:
		state = cli.Colour(w, cli.Red, "not connected")
	case s.Trouble != "":
		state = cli.Colour(w, cli.Yellow, "connected, but the hub does not answer")
	}
	fmt.Fprintf(w, "%s.%s  %s\n", cli.Colour(w, cli.Bold, s.Name), s.Domain, state)
	if s.Trouble != "" {
		fmt.Fprintf(w, "  trouble    %s\n", cli.Line(s.Trouble))
	}
	fmt.Fprintf(w, "  addresses  %s  %s\n", s.V4, s.V6)
	printWho(w, s)
	hub := s.Endpoint
	if s.HubAddress != "" && s.HubAddress != hub {
		hub += " at " + s.HubAddress
	}
	fmt.Fprintf(w, "  hub        %s, handshake %s, received %s, sent %s\n", hub, cli.Ago(s.LastHandshake), cli.Bytes(s.RxBytes), cli.Bytes(s.TxBytes))
	for _, door := range s.Doors {
		fmt.Fprintf(w, "  door       %s\n", door)
	}
	if len(s.Serves) > 0 {
		fmt.Fprintf(w, "  offers     %s\n", strings.Join(s.Serves, " "))
	}
	fmt.Fprintln(w, "\nThis machine may reach:")
	rows := [][]string{}
	for _, n := range s.Names {
		addrs := make([]string, len(n.Addresses))
		for i, addr := range n.Addresses {
			addrs[i] = addr.String()
		}
		rows = append(rows, []string{"  " + n.Name + "." + s.Domain, strings.Join(addrs, "  ")})
	}
	if len(rows) == 0 {
		fmt.Fprintln(w, "  nothing; ask the admin to allow something: hub acl show")
	}
	if err := cli.Table(w, rows); err != nil || len(s.Refused) == 0 {
		return err
	}
	return printRefused(w, s)
}

func printRefused(w io.Writer, s *spoke.Status) error {
	fmt.Fprintln(w, "\nRefused here by this machine's part of the policy:")
	rows := [][]string{}
	for _, r := range s.Refused {
		to := r.To
		if r.Port != 0 {
			to += ":" + strconv.Itoa(int(r.Port))
		}
		rows = append(rows, []string{"  " + r.From, "to " + to + "/" + r.Proto, cli.Plural(r.Count, "time"), cli.Ago(r.Last), r.Reason})
	}
	return cli.Table(w, rows)
}

// printWho prints whose machine this is, and whether somebody is signed in.
func printWho(w io.Writer, s *spoke.Status) {
	who := []string{}
	for _, part := range []struct{ what, is string }{{"owner ", s.Owner}, {"household ", s.Household}, {"", strings.Join(s.Tags, " ")}} {
		if part.is != "" {
			who = append(who, part.what+part.is)
		}
	}
	if len(who) > 0 {
		fmt.Fprintf(w, "  who        %s\n", strings.Join(who, ", "))
	}
	if s.SignedIn {
		fmt.Fprintf(w, "  sign-in    somebody is signed in; who: spoke get --login https://auth.%s/auth/me\n", s.Domain)
	}
}

// pong is one line of ping.
type pong struct {
	Address string  `json:"address,omitempty"`
	Millis  float64 `json:"ms"`
	Error   string  `json:"error,omitempty"`
}

func (a *app) pingCmd() *cobra.Command {
	var count int
	cmd := a.jsonFlag(&cobra.Command{
		Use:     "ping NAME",
		Short:   "See whether a machine on the mesh answers",
		Long:    "ping sends ICMP echo requests through the tunnel. The policy must allow icmp; a refusal says so at once.",
		Example: "  spoke ping hub\n  spoke ping kitchen.warren.internal -c 1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 1 || count > 1000 {
				return cli.Usage("-c is a number from 1 to 1000")
			}
			m, err := a.attach(cmd.Context())
			if err != nil {
				return err
			}
			defer m.Close()
			return a.ping(cmd, m, args[0], count)
		},
	})
	cmd.Flags().IntVarP(&count, "count", "c", 3, "how many times")
	return cmd
}

func (a *app) ping(cmd *cobra.Command, m mesh, host string, count int) error {
	pongs, answers := []pong{}, 0
	var last error
	for n := range count {
		if n > 0 {
			select {
			case <-time.After(500 * time.Millisecond):
			case <-cmd.Context().Done():
				return cmd.Context().Err()
			}
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Second)
		took, addr, err := m.Ping(ctx, host)
		cancel()
		if errors.Is(err, spoke.ErrPolicy) || errors.Is(err, spoke.ErrNoName) || errors.Is(err, spoke.ErrNotMesh) {
			return err // it will not be otherwise the next time
		}
		p := pong{Millis: float64(took.Microseconds()) / 1000}
		who := host
		if addr.IsValid() {
			p.Address = addr.String()
			who += " (" + p.Address + ")"
		}
		if err != nil {
			last, p.Error = err, err.Error()
		} else {
			answers++
		}
		pongs = append(pongs, p)
		if a.json {
			continue
		}
		if err != nil {
			fmt.Fprintf(cmd.OutOrStdout(), "%s: no answer\n", who)
		} else {
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %.1f ms\n", who, p.Millis)
		}
	}
	if a.json {
		if err := cli.JSON(cmd.OutOrStdout(), pongs); err != nil {
			return err
		}
	}
	if answers == 0 {
		if errors.Is(last, context.DeadlineExceeded) {
			last = errors.New("nothing came back in time")
		}
		return cli.Hint(fmt.Errorf("%s did not answer: %w", host, last), "is it on? see: spoke status")
	}
	return nil
}

// leaveTime is how long leave tries to tell the hub.
const leaveTime = 10 * time.Second

func (a *app) leaveCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "leave",
		Short: "Take this machine off the mesh and forget its key",
		Long: `leave tells the hub to remove this machine, and forgets its key and who it was.
A running spoke ends. To come back, this machine needs a new invite.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), leaveTime)
			defer cancel()
			var m mesh
			m, err := spoke.Attach(a.dir)
			if errors.Is(err, spoke.ErrNotRunning) {
				// Not with attach: a hub that does not answer is no reason to
				// keep the key.
				m, err = a.start(cmd.Context())
			}
			if err != nil {
				return a.explain(err)
			}
			if err := errors.Join(m.Leave(ctx), m.Close()); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "left the mesh")
			return err
		},
	}
}
