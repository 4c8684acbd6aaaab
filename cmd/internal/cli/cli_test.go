package cli

import (
	"bytes"
	"context"
	"testing"

	"github.com/spf13/cobra"
)

func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := Table(&b, [][]string{{"  a", "b"}, {"  long\x1b[2J", ""}, {"", "x"}}); err != nil {
		t.Fatal(err)
	}
	if want := "  a         b\n  long?[2J  -\n-           x\n"; b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestMainSaysWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"add", "x"}, Done, ""},
		{[]string{"add"}, Misuse, "tool: add takes NAME; none is given\n  see: tool add --help\n"},
		{[]string{"add", "x", "y"}, Misuse, "tool: add takes NAME; 2 are given\n  see: tool add --help\n"},
		{[]string{"list", "x"}, Misuse, "tool: list takes no argument; 1 is given\n  see: tool list --help\n"},
		{[]string{"lst"}, Misuse, "tool: unknown command \"lst\" for \"tool\"\n  hint: did you mean list?\n  see: tool --help\n"},
	} {
		root := &cobra.Command{Use: "tool"}
		run := func(*cobra.Command, []string) error { return nil }
		root.AddCommand(&cobra.Command{Use: "add NAME", Args: cobra.ExactArgs(1), RunE: run},
			&cobra.Command{Use: "list --all", Args: cobra.NoArgs, RunE: run})
		var out bytes.Buffer
		root.SetErr(&out)
		if code := Main(context.Background(), root, tt.args); code != tt.code || out.String() != tt.want {
			t.Errorf("%q: exit code %d, said %q; want %d, %q", tt.args, code, out.String(), tt.code, tt.want)
		}
	}
}

func TestPlural(t *testing.T) {
	for want, got := range map[string]string{
		"0 times": Plural(0, "time"), "1 entry": Plural(uint64(1), "entry"), "2 entries": Plural(2, "entry"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
