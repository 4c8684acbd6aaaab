package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
)

// Forward makes one destination on the mesh a port of this machine.
type Forward struct {
	Local  string // where to listen, host:port
	Target string // host:port on the mesh
}

// ParseForward reads LOCAL=NAME:PORT. LOCAL is ADDRESS:PORT, or PORT alone for
// 127.0.0.1.
func ParseForward(s string) (Forward, error) {
	local, target, ok := strings.Cut(s, "=")
	if !ok {
		return Forward{}, fmt.Errorf("a forward is LOCAL=NAME:PORT, as in 127.0.0.1:9000=stt.warren.internal:443, not %.120q", s)
	}
	local, err := ParseListen(local)
	if err != nil {
		return Forward{}, fmt.Errorf("in the forward %.120q: %w", s, err)
	}
	host, port, err := net.SplitHostPort(target)
	if err != nil || host == "" || !validPort(port) {
		return Forward{}, fmt.Errorf("in the forward %.120q: the target is NAME:PORT, as in stt.warren.internal:443", s)
	}
	return Forward{Local: local, Target: target}, nil
}

// ParseListen reads an address to listen on: ADDRESS:PORT, or PORT alone for
// 127.0.0.1. Port 0 is any free one.
func ParseListen(s string) (string, error) {
	if n, err := strconv.ParseUint(s, 10, 16); err == nil {
		return "127.0.0.1:" + strconv.FormatUint(n, 10), nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || (port != "0" && !validPort(port)) {
		return "", fmt.Errorf("the address to listen on is ADDRESS:PORT, as in 127.0.0.1:9000, not %.80q", s)
	}
	return s, nil
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == s
}

// Serve passes every connection that ln accepts on to the target, until ctx
// ends.
func (f Forward) Serve(ctx context.Context, ln net.Listener, dial Dialer, log *slog.Logger) error {
	log = logger(log)
	return serve(ctx, ln, func(ctx context.Context, client net.Conn) {
		dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
		remote, err := dial(dialCtx, "tcp", f.Target)
		cancel()
		if err != nil {
			log.Warn("forward refused", "target", f.Target, "err", err)
			reset(client)
			return
		}
		Pipe(ctx, client, remote)
	})
}

// reset closes with a reset rather than an orderly end, so that the client does
// not take a refusal for an empty answer.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
