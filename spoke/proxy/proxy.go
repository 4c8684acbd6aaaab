// Package proxy lets programs that know nothing of the mesh use it: port
// forwards, a SOCKS5 proxy and an HTTP proxy, on addresses of this machine.
//
// Whatever a client asks for is dialed through the one function each server is
// given, and never from this machine's own network: a destination that is not
// on the mesh is refused, in the proxy's own language, with the reason.
//
// A proxy has no password. Everybody who can connect to it speaks with this
// machine's rights on the mesh, so it belongs on a loopback address. A web page
// in a local browser can connect to loopback addresses too, under its own name
// if it controls the DNS for it; the HTTP proxy therefore answers nothing that
// a page can send by itself, and SOCKS is not HTTP. A port forward passes bytes
// on as they are: what is behind it must look at the Host it is asked for.
package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Dialer opens a connection on the mesh. Network is "tcp" or "udp", the address
// is host:port with a name or an address of the mesh.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Why a Dialer says no. The text that wraps them is shown to the client.
var (
	ErrNotMesh = errors.New("not a destination on the mesh")
	ErrNoName  = errors.New("no such name on the mesh")
	ErrPolicy  = errors.New("refused by the policy")
)

const (
	// maxClients is how many connections one proxy serves at a time.
	maxClients = 512
	// helloTimeout is how long a client may take to say what it wants.
	helloTimeout = 10 * time.Second
	dialTimeout  = 20 * time.Second
)

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// serve accepts connections until ctx ends or ln closes, and returns when the
// last handler has. A handler's connection is closed when ctx ends.
func serve(ctx context.Context, ln net.Listener, handle func(context.Context, net.Conn)) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, maxClients)
	for {
		places <- struct{}{}
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			var temporary interface{ Temporary() bool }
			if !errors.As(err, &temporary) || !temporary.Temporary() {
				return err
			}
			// Out of file descriptors, most likely: let some be closed.
			<-places
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		wg.Go(func() {
			defer func() { <-places }()
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			handle(ctx, conn)
		})
	}
}

// halfOpen is how long the open direction of a connection may be idle once the
// other one has ended: a client that has gone looks just like one that has said
// all it had to say.
const halfOpen = 10 * time.Minute

// Pipe copies both ways until both directions have ended or ctx has, passes on
// the end of each, and closes both. An error on one side ends both.
func Pipe(ctx context.Context, a, b net.Conn) {
	shut := func() { _ = a.Close(); _ = b.Close() }
	defer shut()
	stop := context.AfterFunc(ctx, shut)
	defer stop()
	var wg sync.WaitGroup
	var half atomic.Bool
	wg.Go(func() { carry(a, b, &half, shut) })
	wg.Go(func() { carry(b, a, &half, shut) })
	wg.Wait()
}

// carry copies from one to the other. half says that the other way has ended.
func carry(to, from net.Conn, half *atomic.Bool, shut func()) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				shut()
				return
			}
		}
		if half.Load() {
			_ = from.SetReadDeadline(time.Now().Add(halfOpen))
		}
		if err == nil {
			continue
		}
		if c, ok := to.(interface{ CloseWrite() error }); err != io.EOF || !ok || c.CloseWrite() != nil {
			shut()
			return
		}
		half.Store(true)
		_ = to.SetReadDeadline(time.Now().Add(halfOpen))
		return
	}
}

// IsLoopback reports whether only this machine can connect to addr, which is
// host:port as a listener takes it.
func IsLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
