package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
)

// specFlags are what an admin says of a machine that is to join.
func specFlags(cmd *cobra.Command, spec *control.PeerSpec) {
	f := cmd.Flags()
	f.StringVar(&spec.Owner, "owner", "", "the user it belongs to, as in ann or ann@example.org")
	f.StringArrayVar(&spec.Tags, "tag", nil, "a tag it carries, as in tag:speaker; may be repeated")
	f.StringVar(&spec.Household, "household", "", "the household it belongs to")
}

func (a *app) inviteCmd() *cobra.Command {
	var spec control.PeerSpec
	cmd := &cobra.Command{
		Use: "invite NAME", GroupID: "who", Args: cobra.ExactArgs(1),
		Short: "Print a one-line invite that lets one machine join",
		Long: `Prints an invite, one line. Give it to the machine that is to be NAME, and
there: spoke join LINE

Whoever has the line can join in its place, once, until it expires; send it
like a password. Withdraw one that was not used with: hub peer rm NAME`,
		Example: `  hub invite kitchen --owner ann --household home
  hub invite gpu --tag tag:gpu --ttl 1h | ssh gpu spoke join -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Name = args[0]
			var reply control.InviteReply
			if err := a.call(cmd, "invite", spec, &reply); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), reply.Code)
			note(cmd, reply.Note)
			return nil
		},
	}
	specFlags(cmd, &spec)
	cmd.Flags().DurationVar(&spec.TTL, "ttl", 24*time.Hour, "how long it may be used, 1m to 2160h")
	return cmd
}

// phoneFlags are what `hub phone` is told.
type phoneFlags struct {
	spec       control.PeerSpec
	public     string // the phone's own public key, "" if it is made here
	png        string // the picture's file
	conf, code bool
}

func (a *app) phoneCmd() *cobra.Command {
	var p phoneFlags
	cmd := &cobra.Command{
		Use: "phone NAME", GroupID: "who", Args: cobra.ExactArgs(1),
		Short: "Add a phone that runs the stock WireGuard app",
		Long: `Adds a phone and shows its configuration, once, as a QR code to scan with the
WireGuard app (add a tunnel, scan from QR code), as text, or as a picture.

The phone's key pair is made here, by this command; the hub gets the public
half only, and nobody can show the configuration again. If the phone made its
own key, give its public half with --public-key and put the private one where
the text says.`,
		Example: `  hub phone ann-phone --owner ann
  hub phone ann-phone --owner ann --png ann.png
  hub phone bob-phone --owner bob --conf > bob.conf`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p.spec.Name = args[0]
			return a.phone(cmd, &p)
		},
	}
	specFlags(cmd, &p.spec)
	f := cmd.Flags()
	f.StringVar(&p.public, "public-key", "", "the phone's own public key, if it made one")
	f.BoolVar(&p.conf, "conf", false, "print the configuration as text")
	f.BoolVar(&p.code, "qr", false, "print a QR code (the default)")
	f.StringVar(&p.png, "png", "", "write the QR code to this new file, as a picture")
	cmd.MarkFlagsMutuallyExclusive("conf", "qr", "png")
	return cmd
}

func (a *app) phone(cmd *cobra.Command, p *phoneFlags) (err error) {
	req := control.PhoneRequest{PeerSpec: p.spec}
	var key peer.PrivateKey
	switch {
	case p.public != "" && (p.code || p.png != ""):
		return cli.Usage("a QR code needs the private key, which stays on the phone with --public-key; use --conf")
	case p.public != "":
		if req.PublicKey, err = peer.ParsePublicKey(p.public); err != nil {
			return cli.Usage("--public-key: %w", err)
		}
	default:
		if key, err = peer.NewPrivateKey(); err != nil {
			return err
		}
		req.PublicKey = key.Public()
	}
	// The file is opened first: a phone that was added but could not be shown
	// would have to be removed again.
	var picture *os.File
	if p.png != "" {
		if picture, err = os.OpenFile(p.png, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return fmt.Errorf("writing the picture: %w", err)
		}
		defer picture.Close()
	}
	var reply control.PhoneReply
	if err := a.call(cmd, "phone", req, &reply); err != nil {
		if picture != nil {
			os.Remove(p.png)
		}
		return err
	}
	if err := showPhone(cmd.OutOrStdout(), cmd.ErrOrStderr(), key, reply, p.conf || p.public != "", picture); err != nil {
		return err
	}
	note(cmd, reply.Note)
	return nil
}

// note prints what the hub adds to a success.
func note(cmd *cobra.Command, text string) {
	if text != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "  hint: %s\n", text)
	}
}

func showPhone(out, errs io.Writer, key peer.PrivateKey, reply control.PhoneReply, conf bool, picture *os.File) error {
	psk, err := peer.ParsePresharedKey(reply.PSK)
	if err != nil {
		return fmt.Errorf("reading the hub's answer: %w", err)
	}
	phone := invite.Phone{Key: key, V4: reply.Peer.V4, V6: reply.Peer.V6, DNS: reply.DNS, MTU: reply.MTU, Hub: reply.Hub,
		PSK: psk, Networks: reply.Networks, Endpoint: reply.Endpoint}
	switch {
	case conf:
		text, err := phone.Reveal()
		if err != nil {
			return err
		}
		_, err = io.WriteString(out, text)
		return err
	case picture != nil:
		b, err := phone.PNG()
		if err != nil {
			return err
		}
		if _, err := picture.Write(b); err != nil {
			return fmt.Errorf("writing the picture: %w", err)
		}
		fmt.Fprintf(errs, "Wrote %s; delete it once the phone has it.\n", picture.Name())
		return nil
	}
	text, err := phone.QR(cli.Colours(out))
	if err != nil {
		return err
	}
	fmt.Fprintf(errs, "Scan this with the WireGuard app. It is %s (%s), and is shown this once.\n", reply.Peer.Name, reply.Peer.V4)
	_, err = io.WriteString(out, text)
	return err
}

func (a *app) peersCmd() *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use: "peers", GroupID: "who", Args: cobra.NoArgs,
		Short: "List who is on the mesh",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var peers []control.PeerInfo
			if err := a.call(cmd, "peers", nil, &peers); err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), peers)
			}
			return printPeers(cmd.OutOrStdout(), peers)
		},
	})
}

func printPeers(w io.Writer, peers []control.PeerInfo) error {
	if len(peers) == 0 {
		_, err := fmt.Fprintln(w, "Nobody is here yet. Invite a machine: hub invite NAME; or a phone: hub phone NAME")
		return err
	}
	rows := [][]string{{"NAME", "KIND", "ADDRESS", "OWNER", "TAGS", "HOUSEHOLD", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT", "REFUSED"}}
	for _, p := range peers {
		seen := cli.Ago(p.Handshake)
		switch {
		case p.Quarantined:
			seen = "quarantined"
		case p.Kind == peer.KindInvite:
			seen = "expires in " + cli.Span(time.Until(p.Expires))
		}
		rows = append(rows, []string{p.Name, string(p.Kind), p.V4.String(), p.Owner, strings.Join(p.Tags, " "), p.Household,
			p.Endpoint, seen, cli.Bytes(p.RxBytes), cli.Bytes(p.TxBytes), fmt.Sprint(p.Refused)})
	}
	return cli.Table(w, rows)
}

func (a *app) peerCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "peer", GroupID: "who", Short: "Change one machine: rm, rename, tag, quarantine, release"}
	edit := func(use, short, long string, args cobra.PositionalArgs, fill func([]string) control.PeerEdit, say string) {
		cmd.AddCommand(&cobra.Command{Use: use, Short: short, Long: long, Args: args,
			RunE: func(cmd *cobra.Command, args []string) error {
				var change control.Change
				if err := a.call(cmd, "peer/edit", fill(args), &change); err != nil {
					return err
				}
				printCut(cmd.OutOrStdout(), args[0]+" "+say, change)
				return nil
			}})
	}
	edit("rm NAME", "Remove a machine, or withdraw an invite that nobody used",
		"Removes a machine. Its session, its connections and its addresses are gone when\nthe command returns. The same name may be used again; the address not for a day.",
		cobra.ExactArgs(1), func(a []string) control.PeerEdit { return control.PeerEdit{Name: a[0], Remove: true} }, "is removed")
	edit("rename OLD NEW", "Give a machine another name", "", cobra.ExactArgs(2),
		func(a []string) control.PeerEdit { return control.PeerEdit{Name: a[0], Rename: a[1]} }, "is renamed")
	edit("tag NAME [tag:x]…", "Replace a machine's tags; none takes them all away",
		"Replaces a machine's tags. A machine with tags is no longer its owner's, as far\nas the policy is concerned: only rules that name the tag apply.",
		cobra.MinimumNArgs(1), func(a []string) control.PeerEdit {
			return control.PeerEdit{Name: a[0], SetTags: true, Tags: a[1:]}
		}, "has its new tags")
	edit("quarantine NAME", "Cut a machine off, keeping its name and addresses", "", cobra.ExactArgs(1),
		func(a []string) control.PeerEdit { return control.PeerEdit{Name: a[0], Quarantine: true} }, "is cut off")
	edit("release NAME", "End a quarantine", "", cobra.ExactArgs(1),
		func(a []string) control.PeerEdit { return control.PeerEdit{Name: a[0], Release: true} }, "is back")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return cli.Usage("there is no command %q", args[0])
		}
		return errors.Join(cmd.Help())
	}
	return cmd
}

// printCut says what an edit did to running traffic.
func printCut(w io.Writer, what string, c control.Change) {
	fmt.Fprintf(w, "%s; %s cut in %s.\n", what, cli.Plural(c.Cut, "connection"), c.Took.Round(10*time.Microsecond))
}
