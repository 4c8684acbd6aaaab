// Package cli is what Warren's two commands have in common: exit codes, errors
// with a hint, tables that are JSON on request, and colours only on a
// terminal.
//
// A command's RunE returns an error; Main prints it as one sentence on
// standard error, with a hint of what to do below it, and chooses the exit
// code: 0 done, 1 refused or failed, 2 used wrongly.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes.
const (
	Done   = 0
	Failed = 1
	Misuse = 2
)

// hinted is an error that knows what to do next.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// Hint adds what to do next to an error. A nil error stays nil.
func Hint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hinted{err, hint}
}

// usage marks an error as a wrong use of the command.
type usage struct{ error }

func (u *usage) Unwrap() error { return u.error }

// Usage makes an error about how a command was called.
func Usage(format string, args ...any) error { return &usage{fmt.Errorf(format, args...)} }

// ErrSilent fails without another word: the command has said it all.
var ErrSilent = errors.New("failed")

// Main runs root with args and returns the exit code.
func Main(ctx context.Context, root *cobra.Command, args []string) int {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usage{err} })
	markUsage(root)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return Done
	}
	if errors.Is(err, ErrSilent) {
		return Failed
	}
	out := cmd.ErrOrStderr()
	said, meant, _ := strings.Cut(err.Error(), "\n\nDid you mean this?") // as cobra puts it
	fmt.Fprintf(out, "%s: %s\n", root.Name(), Line(said))
	if meant != "" {
		fmt.Fprintf(out, "  hint: did you mean %s?\n", strings.Join(strings.Fields(meant), " or "))
	}
	if h, ok := errors.AsType[*hinted](err); ok && h.hint != "" {
		fmt.Fprintf(out, "  hint: %s\n", Line(h.hint))
	}
	_, misused := errors.AsType[*usage](err)
	if misused || strings.HasPrefix(err.Error(), "unknown command") {
		fmt.Fprintf(out, "  see: %s --help\n", cmd.CommandPath())
		return Misuse
	}
	return Failed
}

// markUsage makes a wrong number of arguments a misuse, for every command, and
// says which arguments it takes.
func markUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if check(c, args) == nil {
				return nil
			}
			if c.HasSubCommands() && len(args) > 0 {
				return Usage("there is no command %q in %s", args[0], c.CommandPath())
			}
			_, takes, _ := strings.Cut(c.Use, " ")
			if takes == "" || strings.HasPrefix(takes, "-") {
				takes = "no argument"
			}
			return Usage("%s takes %s; %s given", strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" "), takes, given(len(args)))
		}
	}
	for _, sub := range cmd.Commands() {
		markUsage(sub)
	}
}

// given counts arguments in words.
func given(n int) string {
	switch n {
	case 0:
		return "none is"
	case 1:
		return "1 is"
	}
	return fmt.Sprintf("%d are", n)
}

// Line keeps what others wrote (a name, a file) from moving the cursor or
// pretending to be a second line.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.TrimSpace(s))
}

// JSON prints v for programs, indented for people who look all the same.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// Table prints rows in columns. Blanks before a row's first cell indent it.
func Table(w io.Writer, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			if cell == "" {
				cell = "-"
			}
			if i == 0 {
				fmt.Fprint(tw, cell[:len(cell)-len(strings.TrimLeft(cell, " "))])
			}
			fmt.Fprint(tw, Line(cell))
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

// Ago says how long ago t was, in one unit; "never" for the zero time.
func Ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return Span(time.Since(t)) + " ago"
}

// Span is a duration in one unit.
func Span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// Plural counts things: "1 time", "2 times", "3 entries".
func Plural[N int | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if stem, ok := strings.CutSuffix(noun, "y"); ok {
		noun = stem + "ie"
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Bytes is a size in one binary unit.
func Bytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// Colour paints text when w is a terminal that wants it (https://no-color.org).
func Colour(w io.Writer, code, text string) string {
	if !Colours(w) {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Colours reports whether w is a terminal that wants colours.
func Colours(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && Terminal(f) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// Codes for Colour.
const (
	Green  = "32"
	Yellow = "33"
	Red    = "31"
	Bold   = "1"
)

// Terminal reports whether f is one.
func Terminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
