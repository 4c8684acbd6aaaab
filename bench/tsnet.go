package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"tailscale.com/envknob"
	"tailscale.com/ipn/store/mem"
	"tailscale.com/net/netns"
	"tailscale.com/tailcfg"
	"tailscale.com/tsnet"
	"tailscale.com/tstest/integration"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/logger"
)

// openTSNet starts three tsnet servers against a control server, a relay and a
// STUN server of their own, all on this machine, and waits until they talk to
// each other directly rather than through the relay.
func openTSNet(ctx context.Context) (*contender, error) {
	envknob.SetNoLogsNoSupport()
	netns.SetEnabled(false)
	tb := &standIn{}
	control := &testcontrol.Server{
		DERPMap:        integration.RunDERPAndSTUN(tb, logger.Discard, "127.0.0.1"),
		DNSConfig:      &tailcfg.DNSConfig{Proxied: true},
		MagicDNSDomain: "bench.ts.net",
		Logf:           logger.Discard,
	}
	control.HTTPTestServer = httptest.NewUnstartedServer(control)
	control.HTTPTestServer.Start()
	tb.Cleanup(control.HTTPTestServer.Close)
	dir, err := os.MkdirTemp("", "bench-tsnet-")
	if err != nil {
		return nil, err
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })

	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var servers [3]*tsnet.Server
	var nodes [3]node
	for i, name := range []string{"hub", "one", "two"} {
		s := &tsnet.Server{
			Dir: dir + "/" + name, Hostname: name, ControlURL: control.HTTPTestServer.URL,
			Store: new(mem.Store), Ephemeral: true, Logf: logger.Discard, UserLogf: logger.Discard,
		}
		tb.Cleanup(func() { _ = s.Close() })
		if _, err := s.Up(ctx); err != nil {
			return nil, fmt.Errorf("starting %s: %w", name, err)
		}
		servers[i] = s
		v4, _ := s.TailscaleIPs()
		nodes[i] = node{
			addr:   v4,
			listen: func(port uint16) (net.Listener, error) { return s.Listen("tcp", fmt.Sprintf(":%d", port)) },
			dial:   func(ctx context.Context, to netip.AddrPort) (net.Conn, error) { return s.Dial(ctx, "tcp", to.String()) },
		}
	}
	for _, spoke := range servers[1:] {
		if err := direct(ctx, spoke, nodes[0].addr); err != nil {
			return nil, err
		}
	}
	return &contender{hub: nodes[0], one: nodes[1], two: nodes[2], proxied: true, close: tb.cleanup}, nil
}

// direct returns once s reaches the node at addr without a relay.
func direct(ctx context.Context, s *tsnet.Server, addr netip.Addr) error {
	local, err := s.LocalClient()
	if err != nil {
		return err
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		result, err := local.Ping(attempt, addr, tailcfg.PingDisco)
		cancel()
		if err == nil && result.Err == "" && result.Endpoint != "" {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for a direct path to %v: %w", addr, errors.Join(ctx.Err(), err))
		}
	}
}

// standIn is what tsnet's test helpers need of a testing.TB outside of a test.
type standIn struct {
	testing.TB // nil: a method that is not below was never needed
	cleanups   []func()
}

func (*standIn) Helper()                      {}
func (*standIn) Logf(string, ...any)          {}
func (*standIn) Fatal(args ...any)            { panic(fmt.Sprint(args...)) }
func (*standIn) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }
func (s *standIn) Cleanup(f func())           { s.cleanups = append(s.cleanups, f) }

func (s *standIn) cleanup() {
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		s.cleanups[i]()
	}
}

func splitLines(s string) []string { return strings.Split(s, "\n") }
