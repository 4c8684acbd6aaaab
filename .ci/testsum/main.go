// Command testsum runs `go test -json` with its own arguments and prints what
// a person wants of it: a line for each package as it ends, the whole output of
// what failed, the slowest tests, why tests were skipped, and as the last line
//
//	N passed, N failed, N skipped
//
// It exits 0 only if nothing failed and `go test` itself agrees.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, os.Stdout, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

// run returns whether everything passed. An error means that the tests could
// not be run or read to the end, after the tally has been printed.
func run(ctx context.Context, out io.Writer, args []string) (bool, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return false, fmt.Errorf("connecting to go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("starting go test: %w", err)
	}
	tally, readErr := summarise(pipe, out)
	waitErr := cmd.Wait()
	if waitErr != nil && tally.failed == 0 {
		// Nothing seen failed and yet go test says so: believe go test.
		fmt.Fprintf(out, "go test failed without naming a test: %v\n", waitErr)
		tally.failed++
	}
	tally.print(out)
	if readErr != nil {
		return false, fmt.Errorf("reading the output of go test: %w", readErr)
	}
	return tally.failed == 0 && waitErr == nil, nil
}
