package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// node is one end: how to listen on it and dial from it, inside the tunnel.
type node struct {
	addr   netip.Addr
	listen func(port uint16) (net.Listener, error)
	dial   func(context.Context, netip.AddrPort) (net.Conn, error)
}

// contender is a hub and two spokes.
type contender struct {
	name          string
	hub, one, two node
	proxied       bool // the hub has to relay with a TCP proxy
	close         func()
	received      atomic.Int64 // bytes that the serving side has read
	relayed       netip.AddrPort
	listeners     []net.Listener
}

// The ports inside the tunnel. A connection begins with one byte that says what
// the serving side shall do.
const (
	servePort = 5001
	relayPort = 5002

	cmdSink, cmdSource, cmdEcho = 's', 'g', 'e'

	chunk  = 128 << 10
	warmUp = 300 * time.Millisecond
)

// serve makes the hub and the second spoke answer.
func (c *contender) serve() error {
	for _, n := range []node{c.hub, c.two} {
		l, err := n.listen(servePort)
		if err != nil {
			return fmt.Errorf("listening: %w", err)
		}
		c.accept(l, c.answer)
	}
	c.relayed = netip.AddrPortFrom(c.two.addr, servePort)
	if !c.proxied {
		return nil
	}
	l, err := c.hub.listen(relayPort)
	if err != nil {
		return fmt.Errorf("listening for the relay: %w", err)
	}
	target := c.relayed
	c.relayed = netip.AddrPortFrom(c.hub.addr, relayPort)
	c.accept(l, func(in net.Conn) {
		out, err := c.hub.dial(context.Background(), target)
		if err != nil {
			return
		}
		defer out.Close()
		go func() {
			defer in.Close()
			_, _ = io.CopyBuffer(struct{ io.Writer }{in}, struct{ io.Reader }{out}, make([]byte, chunk))
		}()
		_, _ = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, chunk))
	})
	return nil
}

func (c *contender) accept(l net.Listener, handle func(net.Conn)) {
	c.listeners = append(c.listeners, l)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
}

func (c *contender) answer(conn net.Conn) {
	buf := make([]byte, chunk)
	if _, err := io.ReadFull(conn, buf[:1]); err != nil {
		return
	}
	switch buf[0] {
	case cmdSink:
		for {
			n, err := conn.Read(buf)
			c.received.Add(int64(n))
			if err != nil {
				return
			}
		}
	case cmdSource:
		for {
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
	case cmdEcho:
		for {
			if _, err := io.ReadFull(conn, buf[:1]); err != nil {
				return
			}
			if _, err := conn.Write(buf[:1]); err != nil {
				return
			}
		}
	}
}

// figure is one thing that is measured of every contender.
type figure struct {
	name, unit, cpuUnit string
	measure             func(context.Context, *contender, time.Duration) (sample, error)
}

var figures = []figure{
	{"spoke to hub, 1 TCP stream", "Gbit/s", "CPU s/GB", stream(cmdSink, 1, toHub)},
	{"spoke to hub, 16 TCP streams", "Gbit/s", "CPU s/GB", stream(cmdSink, 16, toHub)},
	{"hub to spoke, 1 TCP stream", "Gbit/s", "CPU s/GB", stream(cmdSource, 1, toHub)},
	{"hub to spoke, 16 TCP streams", "Gbit/s", "CPU s/GB", stream(cmdSource, 16, toHub)},
	{"spoke to hub to spoke, 1 TCP stream", "Gbit/s", "CPU s/GB", stream(cmdSink, 1, toSpoke)},
	{"spoke to hub to spoke, 16 TCP streams", "Gbit/s", "CPU s/GB", stream(cmdSink, 16, toSpoke)},
	{"one byte to the hub and back", "µs", "", roundTrip},
}

func toHub(c *contender) netip.AddrPort   { return netip.AddrPortFrom(c.hub.addr, servePort) }
func toSpoke(c *contender) netip.AddrPort { return c.relayed }

// stream measures what the reading side gets through n connections at once.
func stream(cmd byte, n int, to func(*contender) netip.AddrPort) func(context.Context, *contender, time.Duration) (sample, error) {
	return func(ctx context.Context, c *contender, length time.Duration) (sample, error) {
		var wg sync.WaitGroup
		conns := make([]net.Conn, 0, n)
		stop := func() {
			for _, conn := range conns {
				_ = conn.Close()
			}
			wg.Wait()
		}
		defer stop()
		for range n {
			conn, err := open(ctx, c, to(c), cmd)
			if err != nil {
				return sample{}, err
			}
			conns = append(conns, conn)
			wg.Go(func() {
				buf := make([]byte, chunk)
				for {
					var err error
					if cmd == cmdSink {
						_, err = conn.Write(buf)
					} else {
						var n int
						n, err = conn.Read(buf)
						c.received.Add(int64(n))
					}
					if err != nil {
						return
					}
				}
			})
		}
		before := c.received.Load()
		for end := time.Now().Add(10 * time.Second); c.received.Load() == before && time.Now().Before(end); {
			if err := wait(ctx, time.Millisecond); err != nil {
				return sample{}, err
			}
		}
		if err := wait(ctx, warmUp); err != nil {
			return sample{}, err
		}
		bytes, cpu, began := c.received.Load(), cpuTime(), time.Now()
		if err := wait(ctx, length); err != nil {
			return sample{}, err
		}
		bytes, cpu = c.received.Load()-bytes, cpuTime()-cpu
		took := time.Since(began)
		if bytes == 0 {
			return sample{}, errors.New("nothing arrived")
		}
		return sample{float64(bytes) * 8 / took.Seconds() / 1e9, cpu.Seconds() / (float64(bytes) / 1e9)}, nil
	}
}

// roundTrip is the median of many one-byte exchanges on one connection.
func roundTrip(ctx context.Context, c *contender, length time.Duration) (sample, error) {
	conn, err := open(ctx, c, toHub(c), cmdEcho)
	if err != nil {
		return sample{}, err
	}
	defer conn.Close()
	buf := make([]byte, 1)
	var took []float64
	for end := time.Now().Add(warmUp + length); time.Now().Before(end); {
		began := time.Now()
		if _, err := conn.Write(buf); err != nil {
			return sample{}, err
		}
		if _, err := io.ReadFull(conn, buf); err != nil {
			return sample{}, err
		}
		took = append(took, float64(time.Since(began))/1e3)
	}
	return sample{value: median(took[len(took)/5:])}, nil
}

func open(ctx context.Context, c *contender, to netip.AddrPort, cmd byte) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := c.one.dial(ctx, to)
	if err != nil {
		return nil, fmt.Errorf("dialling %v: %w", to, err)
	}
	if _, err := conn.Write([]byte{cmd}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// cpuTime is the processor time that this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
