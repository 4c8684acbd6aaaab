package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/control"
)

// peopleSuffix ends the name of the file with people's keys.
const peopleSuffix = ".people"

func (a *app) backupCmd() *cobra.Command {
	var pass string
	var destroyed bool
	cmd := &cobra.Command{Use: "backup FILE", GroupID: "care", Args: cobra.ExactArgs(1),
		Short: "Write everything to two encrypted files",
		Long: `Writes all that the hub knows, its keys included, to FILE, and people's keys to
FILE.people. Only the passphrase opens them. The hub keeps running. Without the
passphrase the files are lost; there is no other way in.

People's keys are apart so that somebody who is erased can be taken out of a
backup: leave FILE.people where it is, and the hub does so by itself. If you move
or destroy it, say so: hub backup --destroyed FILE`,
		Example: "  hub backup /mnt/stick/warren.backup",
		RunE: func(cmd *cobra.Command, args []string) error {
			people, err := filepath.Abs(args[0] + peopleSuffix)
			if err != nil {
				return fmt.Errorf("finding the file: %w", err)
			}
			if destroyed {
				if err := a.call(cmd, "backup/destroyed", people, nil); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s is forgotten.\n", people)
				return nil
			}
			return a.backup(cmd, args[0], people, pass)
		}}
	cmd.Flags().StringVar(&pass, "passphrase-file", "", "read the passphrase from this file, - for standard input (default: ask)")
	cmd.Flags().BoolVar(&destroyed, "destroyed", false, "write nothing: note that FILE.people is no more")
	return cmd
}

func (a *app) backup(cmd *cobra.Command, file, people, pass string) error {
	for _, name := range []string{file, people} {
		if _, err := os.Lstat(name); err == nil {
			return fileTaken(name, notOver)
		}
	}
	phrase, err := cli.Passphrase(pass, true)
	if err != nil {
		return err
	}
	req := control.BackupRequest{Passphrase: phrase}
	n, err := a.download(cmd, "backup", req, file)
	if err != nil {
		return err
	}
	// After the backup: nobody in that one may be missing in this.
	req.People = people
	m, err := a.download(cmd, "backup/people", req, people)
	if err != nil {
		return errors.Join(err, os.Remove(file))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "Wrote %s (%s) and %s%s (%s). Keep them together.\n", file, cli.Bytes(uint64(n)), file, peopleSuffix, cli.Bytes(uint64(m)))
	return nil
}

// download writes what the hub streams to a new file.
func (a *app) download(cmd *cobra.Command, command string, req any, file string) (int64, error) {
	body, err := control.NewClient(a.dir).Stream(cmd.Context(), command, req)
	if err != nil {
		return 0, hint(err)
	}
	defer body.Close()
	return writeNew(file, "backup", body)
}

// writeNew writes a file that must not exist yet; what is half-written is
// removed. Should even that fail, a restore refuses what is left: a backup
// ends with a seal over all of it.
func writeNew(name, what string, from io.Reader) (n int64, err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return 0, fileTaken(name, notOver)
	}
	if err != nil {
		return 0, fmt.Errorf("writing %s: %w", what, err)
	}
	defer func() {
		if err != nil {
			os.Remove(name)
		}
	}()
	n, err = io.Copy(f, from)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return n, fmt.Errorf("writing %s: %w", what, err)
	}
	return n, nil
}

// notOver is why a backup is not written.
const notOver = "backups are not overwritten"

func fileTaken(name, why string) error {
	return cli.Hint(fmt.Errorf("%s exists", name), "choose another name; "+why)
}

func (a *app) restoreCmd() *cobra.Command {
	var pass, dsn string
	var without bool
	var keys keyFlags
	cmd := &cobra.Command{Use: "restore FILE", GroupID: "care", Args: cobra.ExactArgs(1),
		Short: "Make a hub from a backup, in an empty directory",
		Long: `Makes a hub in the state directory from a backup: the same keys, machines and
policy. It refuses to touch a directory that holds a hub. Invites that were open
when the backup was made are void.

FILE.people, which was written with it, brings people's accounts and data back;
without it they are gone for good. Who was erased since does not come back.`,
		Example: "  hub restore /mnt/stick/warren.backup --dir /var/lib/warren/hub",
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("reading backup: %w", err)
			}
			defer f.Close()
			key, err := keys.key()
			if err != nil {
				return err
			}
			if dsn, err = readDSN(cmd, dsn); err != nil {
				return err
			}
			phrase, err := cli.Passphrase(pass, false)
			if err != nil {
				return err
			}
			cfg := hub.RestoreConfig{Dir: a.dir, DSN: dsn, Key: key, Passphrase: phrase}
			if !without {
				people, err := openPeople(args[0] + peopleSuffix)
				if err != nil {
					return err
				}
				defer people.Close()
				cfg.People = people
				if cfg.PeopleFile, err = filepath.Abs(people.Name()); err != nil {
					return fmt.Errorf("reading people's keys: %w", err)
				}
			}
			done, err := hub.Restore(cmd.Context(), cfg, f)
			if err != nil {
				return err
			}
			return restored(cmd, a.dir, done)
		}}
	cmd.Flags().BoolVar(&without, "without-people", false, "bring back no account: there is no FILE.people")
	cmd.Flags().StringVar(&pass, "passphrase-file", "", "read the passphrase from this file, - for standard input (default: ask)")
	cmd.Flags().StringVar(&dsn, "db", "", "restore into this PostgreSQL database: postgres://…, or - to read that from standard input")
	keys.add(cmd)
	return cmd
}

func openPeople(name string) (*os.File, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, cli.Hint(fmt.Errorf("%s, which belongs to the backup, is not there: it brings people's accounts back", name),
			"bring it; or go on without anybody's account and data: --without-people")
	}
	if err != nil {
		return nil, fmt.Errorf("reading people's keys: %w", err)
	}
	return f, nil
}

// restored says what came back.
func restored(cmd *cobra.Command, dir string, done hub.Restored) error {
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "The hub is back in %s, as it was on %s.\n", dir, done.Created.Local().Format(time.DateTime))
	if len(done.Peers) > 0 {
		fmt.Fprintf(w, "On the mesh again: %s.\nIf one of them was removed since, remove it again: hub peer rm NAME\n", strings.Join(done.Peers, ", "))
	}
	if done.People > 0 {
		fmt.Fprintf(w, "%s came back.\n", cli.Plural(done.People, "account"))
	}
	if n := len(done.Lost); n > 0 {
		fmt.Fprintf(w, "%s did not: erased, or not in the file with people's keys.\n", cli.Plural(n, "account"))
	}
	_, err := fmt.Fprintf(w, "Next: hub run --dir %s\n", dir)
	return err
}
