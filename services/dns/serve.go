package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/warrenmesh/warren/services"
)

const (
	// maxQuery is the largest query that is read, bytes; real ones have less
	// than 300.
	maxQuery = 4096
	// tcpIdle is how long a connection may wait for its next question.
	tcpIdle = 10 * time.Second
	// maxPipelined is how many questions of one connection are under way.
	maxPipelined   = 16
	maxTCP         = 8
	maxTCPAll      = 256
	maxReadFailure = 100
)

// Service is the server as the hub starts it.
func (s *Server) Service() services.Service {
	return services.Service{Name: "dns", TCP: []uint16{Port}, UDP: []uint16{Port}, Serve: s.Serve}
}

// Serve answers on l until ctx ends or a socket fails.
func (s *Server) Serve(ctx context.Context, l services.Listeners) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conns := services.NewConnLimit(maxTCP, maxTCPAll)
	failed := make(chan error, len(l.UDP)+len(l.TCP))
	var wg sync.WaitGroup
	for _, u := range l.UDP {
		wg.Go(func() { failed <- s.serveUDP(ctx, u, &wg) })
	}
	for _, t := range l.TCP {
		wg.Go(func() { failed <- s.serveTCP(ctx, conns.Listener(t), &wg) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		if ctx.Err() != nil {
			err = nil
		}
	}
	cancel()
	_ = l.Close()
	conns.CloseAll()
	wg.Wait()
	return err
}

func (s *Server) serveUDP(ctx context.Context, u net.PacketConn, wg *sync.WaitGroup) error {
	buf := make([]byte, maxQuery)
	failures := 0
	for {
		n, from, err := u.ReadFrom(buf)
		if err != nil {
			// One datagram that could not be delivered shows up here too, so
			// an error ends the loop only when it lasts.
			if failures++; ctx.Err() != nil || errors.Is(err, net.ErrClosed) || failures > maxReadFailure {
				return fmt.Errorf("reading queries: %w", err)
			}
			continue
		}
		failures = 0
		client := services.AddrOf(from)
		if !s.clients.enter(client) {
			s.counts.limited.Add(1)
			continue
		}
		query := append([]byte(nil), buf[:n]...)
		wg.Go(func() {
			defer s.clients.leave(client)
			if reply := s.handle(ctx, client, query, true); reply != nil {
				_, _ = u.WriteTo(reply, from) // a lost answer is asked for again
			}
		})
	}
}

func (s *Server) serveTCP(ctx context.Context, t net.Listener, wg *sync.WaitGroup) error {
	for {
		c, err := t.Accept()
		if err != nil {
			return fmt.Errorf("accepting connections: %w", err)
		}
		wg.Go(func() { s.serveConn(ctx, c) })
	}
}

// serveConn answers the questions of one connection, several at a time and in
// whatever order they are done (RFC 7766, section 6.2.1.1).
func (s *Server) serveConn(ctx context.Context, c net.Conn) {
	client := services.AddrOf(c.RemoteAddr())
	var wg sync.WaitGroup
	defer c.Close()
	defer wg.Wait()
	var write sync.Mutex
	slots := make(chan struct{}, maxPipelined)
	for {
		query, err := readQuery(c)
		if err != nil {
			return
		}
		slots <- struct{}{}
		if !s.clients.enter(client) {
			s.counts.limited.Add(1)
			return
		}
		wg.Go(func() {
			defer func() { <-slots }()
			defer s.clients.leave(client)
			s.answerTCP(ctx, c, client, query, &write)
		})
	}
}

func (s *Server) answerTCP(ctx context.Context, c net.Conn, client netip.Addr, query []byte, write *sync.Mutex) {
	reply := s.handle(ctx, client, query, false)
	if reply == nil {
		_ = c.Close()
		return
	}
	framed := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(reply)), uint16(len(reply))), reply...)
	write.Lock()
	defer write.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(tcpIdle))
	if _, err := c.Write(framed); err != nil {
		_ = c.Close()
	}
}

// readQuery reads one length-prefixed message. The deadline covers all of it,
// so that a byte now and then does not keep a connection.
func readQuery(c net.Conn) ([]byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(tcpIdle)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(size[:])
	if n > maxQuery {
		return nil, errors.New("the query is too large")
	}
	query := make([]byte, n)
	_, err := io.ReadFull(c, query)
	return query, err
}
