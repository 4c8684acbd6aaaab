package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/services/settings/k2"
	"github.com/warrenmesh/warren/spoke"
)

// settings are those of the running spoke, or of the vault if none runs.
type settings interface {
	Status() (spoke.SettingsStatus, error)
	Get(configType string) ([]byte, error)
	SetNode(id, key string) error
	ImportKey(text, passphrase string) (kid string, err error)
	ForgetKey() error
	Close() error
}

// remoteSettings closes the way to the running spoke as well.
type remoteSettings struct {
	*spoke.RemoteSettings
	remote *spoke.Remote
}

func (r *remoteSettings) Close() error { return r.remote.Close() }

func (a *app) settings() (settings, error) {
	r, err := spoke.Attach(a.dir)
	if err == nil {
		return &remoteSettings{r.Settings(), r}, nil
	}
	if !errors.Is(err, spoke.ErrNotRunning) {
		return nil, err
	}
	s, err := spoke.OpenSettings(a.dir)
	if err != nil {
		return nil, a.explain(err)
	}
	return s, nil
}

func (a *app) settingsCmd() *cobra.Command {
	cmd := a.jsonFlag(&cobra.Command{
		Use:   "settings",
		Short: "The settings that people have sent to this machine",
		Long: `settings shows what this machine has as a node of a household: which settings, in
which version, and since when it is known that something is missing. Settings are
sealed by the phone and opened here; the hub carries what it cannot read.

A phone seals them with a key, K2. It comes as a QR code (spoke settings key), or
sealed to this machine's own key; then compare the fingerprint and the check with
what the phone shows, once.`,
		Example: `  spoke settings
  spoke settings node --id kitchen < node.key
  spoke settings key --import backup.txt
  spoke settings get node_config`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.settings()
			if err != nil {
				return err
			}
			defer s.Close()
			st, err := s.Status()
			if err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), st)
			}
			return printSettings(cmd.OutOrStdout(), &st)
		},
	})
	cmd.AddCommand(a.settingsGetCmd(), a.settingsNodeCmd(), a.settingsKeyCmd())
	return cmd
}

func printSettings(w io.Writer, st *spoke.SettingsStatus) error {
	if st.Node == "" {
		fmt.Fprintln(w, "This machine is no node of a household yet: spoke settings node --id ID")
	} else {
		fmt.Fprintf(w, "node         %s\n", cli.Colour(w, cli.Bold, st.Node))
	}
	if st.Fingerprint != "" {
		fmt.Fprintf(w, "fingerprint  %s\n", st.Fingerprint)
	}
	switch {
	case st.KID == "":
		fmt.Fprintln(w, "key          none; send it from the phone, or: spoke settings key --import FILE")
	case st.Compared:
		fmt.Fprintf(w, "key          %s\n", st.KID)
	default:
		fmt.Fprintf(w, "key          %s, came through the hub: compare the check with the phone's\n", st.KID)
		fmt.Fprintf(w, "check        %s\n", st.Check)
	}
	if !st.Heard.IsZero() {
		fmt.Fprintf(w, "hub          heard %s\n", cli.Ago(st.Heard))
	}
	if st.Trouble != "" {
		fmt.Fprintf(w, "trouble      %s\n", cli.Line(st.Trouble))
	}
	rows := [][]string{}
	for _, s := range st.Settings {
		version, issued := "without version", ""
		if s.Version > 0 {
			version = "version " + strconv.FormatUint(s.Version, 10)
		}
		if !s.Issued.IsZero() {
			issued = "issued " + s.Issued.Format(time.RFC3339)
		}
		rows = append(rows, []string{"  " + s.Type, version, "taken " + cli.Ago(s.Taken), issued})
	}
	if len(rows) > 0 {
		fmt.Fprintln(w, "\nSettings:")
	}
	if err := cli.Table(w, rows); err != nil {
		return err
	}
	for _, s := range st.Stale {
		what := "everything"
		if s.Type != "" {
			what = s.Type
		}
		line := fmt.Sprintf("%s is stale since %s", what, s.Since.Format(time.RFC3339))
		if s.Want > 0 {
			line += fmt.Sprintf(": version %d was announced and has not come", s.Want)
		}
		if _, err := fmt.Fprintln(w, cli.Colour(w, cli.Yellow, line)); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) settingsGetCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "get TYPE",
		Short:   "Print the value of one setting",
		Example: "  spoke settings get node_config",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.settings()
			if err != nil {
				return err
			}
			defer s.Close()
			value, err := s.Get(args[0])
			if errors.Is(err, spoke.ErrNoSetting) {
				return cli.Hint(fmt.Errorf("this machine has no setting %.128q", args[0]), "see what it has: spoke settings")
			}
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(append(value, '\n'))
			return err
		},
	}
}

func (a *app) settingsNodeCmd() *cobra.Command {
	var id string
	cmd := &cobra.Command{
		Use:   "node --id ID",
		Short: "Make this machine a node of a household",
		Long: `node stores the id that the household's admin gave this machine, and its node key,
which is read from standard input: an argument would be seen by every user of this
machine.`,
		Example: "  spoke settings node --id kitchen < node.key",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if id == "" {
				return cli.Usage("say the node's id: --id ID")
			}
			key, err := readText(cmd.InOrStdin(), 1024)
			if err != nil {
				return err
			}
			s, err := a.settings()
			if err != nil {
				return err
			}
			defer s.Close()
			if err := s.SetNode(id, key); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "this machine is the node %s\nnext: spoke settings\n", id)
			return err
		},
	}
	cmd.Flags().StringVar(&id, "id", "", "the node's `ID`")
	return cmd
}

// keyFlags are the flags of spoke settings key.
type keyFlags struct {
	file, passphrase string
	forget           bool
}

func (a *app) settingsKeyCmd() *cobra.Command {
	var f keyFlags
	cmd := &cobra.Command{
		Use:   "key --import FILE | --forget",
		Short: "Take the settings key from a QR code, or forget it",
		Long: `key --import reads the text of a backup's QR code ("-" is standard input) and takes
the settings key, K2, from it. If it is encrypted it asks for the passphrase.
key --forget forgets the key and the settings that came with it.`,
		Example: "  zbarimg --raw -q backup.png | spoke settings key --import - --passphrase-file pass.txt\n  spoke settings key --forget",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (f.file == "") != f.forget {
				return cli.Usage("say either --import FILE or --forget")
			}
			s, err := a.settings()
			if err != nil {
				return err
			}
			defer s.Close()
			if f.forget {
				return s.ForgetKey()
			}
			return f.take(cmd, s)
		},
	}
	cmd.Flags().StringVar(&f.file, "import", "", "the backup's text, in `FILE` or - for standard input")
	cmd.Flags().StringVar(&f.passphrase, "passphrase-file", "", "the backup's passphrase, in `FILE`")
	cmd.Flags().BoolVar(&f.forget, "forget", false, "forget the key and the settings")
	return cmd
}

func (f *keyFlags) take(cmd *cobra.Command, s settings) error {
	in := cmd.InOrStdin()
	if f.file != "-" {
		file, err := os.Open(f.file)
		if err != nil {
			return fmt.Errorf("reading backup: %w", err)
		}
		defer file.Close()
		in = file
	}
	text, err := readText(in, k2.MaxBackup)
	if err != nil {
		return err
	}
	passphrase := ""
	if f.passphrase != "" {
		if passphrase, err = cli.Passphrase(f.passphrase, false); err != nil {
			return err
		}
	}
	kid, err := s.ImportKey(text, passphrase)
	if errors.Is(err, k2.ErrPassphrase) && f.passphrase == "" {
		if passphrase, err = cli.Passphrase("", false); err != nil {
			return err
		}
		kid, err = s.ImportKey(text, passphrase)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "the settings key is %s\n", kid)
	return err
}

// readText reads one short text.
func readText(in io.Reader, most int) (string, error) {
	b, err := io.ReadAll(io.LimitReader(in, int64(most)+1))
	if err != nil {
		return "", fmt.Errorf("reading standard input: %w", err)
	}
	text := strings.TrimSpace(string(b))
	if text == "" || len(b) > most {
		return "", fmt.Errorf("reading: there are 1 to %d characters to be read", most)
	}
	return text, nil
}
