package main

import (
	"context"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/warrenmesh/warren/cmd/internal/cli"
	"github.com/warrenmesh/warren/hub/control"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hub": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		os.Exit(cli.Main(ctx, root(), os.Args[1:]))
	}})
}

// TestCommands runs the scripts in testdata: what a person types, and what
// they are told.
func TestCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			// A Unix socket's path is short; the script's directory is not.
			dir, err := os.MkdirTemp("", "hub")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(dir) })
			e.Setenv("D", filepath.Join(dir, "h"))
			e.Setenv("D2", filepath.Join(dir, "h2"))
			c, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				return err
			}
			e.Setenv("ADDR", c.LocalAddr().String())
			return c.Close()
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"ready": ready},
	})
}

// ready waits until the hub in a directory answers.
func ready(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: ready DIR")
	}
	client := control.NewClient(args[0])
	deadline := time.Now().Add(20 * time.Second)
	for {
		var st control.Status
		err := client.Call(context.Background(), "status", nil, &st)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the hub does not get ready: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
}
