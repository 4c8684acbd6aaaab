package publish

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmesh/warren/services"
)

const (
	// idleTCP ends a connection on which nothing moved in either direction, so
	// that those of peers that vanished do not add up to the limit.
	idleTCP = 2 * time.Hour
	bufSize = 32 << 10
)

func (p *Publisher) serveTCP(ctx context.Context, l services.Listeners) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conns := services.NewConnLimit(services.MaxConns, services.MaxConnsAll)
	failed := make(chan error, len(l.TCP))
	var wg sync.WaitGroup
	for _, t := range l.TCP {
		wg.Go(func() {
			for {
				c, err := t.Accept()
				if err != nil {
					failed <- err
					return
				}
				limited, ok := conns.Add(c)
				if !ok {
					p.refused.Add(1)
					_ = c.Close()
					continue
				}
				wg.Go(func() { p.serveConn(ctx, limited) })
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			err = nil
		}
	}
	cancel()
	_ = l.Close()
	conns.CloseAll()
	wg.Wait()
	return err
}

func (p *Publisher) serveConn(ctx context.Context, c net.Conn) {
	defer c.Close()
	from := services.AddrOf(c.RemoteAddr())
	if !p.known(from) {
		p.refused.Add(1)
		return
	}
	target, err := p.dial(ctx)
	if err != nil {
		if ctx.Err() == nil {
			p.log.Warn("published target does not answer", "target", p.cfg.Target.String(), "error", err)
		}
		return
	}
	defer target.Close()
	stop := context.AfterFunc(ctx, func() {
		_ = c.Close()
		_ = target.Close()
	})
	defer stop()
	pipe(c, target, idleTCP)
}

// known asks the roster again: the connection may have waited.
func (p *Publisher) known(from netip.Addr) bool {
	_, ok := services.ActivePeer(p.cfg.Roster(), from)
	return ok
}

// pipe copies both ways until both have ended, or one has failed, or nothing
// has moved for idle. An end in one direction is passed on as such: protocols
// that say "that was my question" by closing their half get their answer.
func pipe(a, b net.Conn, idle time.Duration) {
	var last atomic.Int64
	start := time.Now()
	var wg sync.WaitGroup
	one := func(dst, src net.Conn) {
		if err := copyHalf(dst, src, idle, start, &last); err != nil {
			_ = a.Close()
			_ = b.Close()
			return
		}
		if hc, ok := dst.(interface{ CloseWrite() error }); !ok || hc.CloseWrite() != nil {
			_ = a.Close()
			_ = b.Close()
		}
	}
	wg.Go(func() { one(a, b) })
	wg.Go(func() { one(b, a) })
	wg.Wait()
}

// copyHalf copies until src ends, which is no error.
func copyHalf(dst, src net.Conn, idle time.Duration, start time.Time, last *atomic.Int64) error {
	buf := make([]byte, bufSize)
	for {
		_ = src.SetReadDeadline(time.Now().Add(idle))
		n, err := src.Read(buf)
		if n > 0 {
			last.Store(int64(time.Since(start)))
			_ = dst.SetWriteDeadline(time.Now().Add(idle))
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		case isTimeout(err):
			// Quiet here; but the other direction may be busy.
			if time.Since(start)-time.Duration(last.Load()) >= idle {
				return err
			}
		case err == io.EOF:
			return nil
		default:
			return err
		}
	}
}

// isTimeout asks the error itself: the stack in the tunnel has a timeout of its
// own, which is not os.ErrDeadlineExceeded.
func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
