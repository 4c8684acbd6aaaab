package services

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// Limits of every HTTP service. Each is per connection unless it says so.
const (
	// HeaderTimeout is how long a request's header may take: the answer to
	// callers that send one byte a second.
	HeaderTimeout = 10 * time.Second
	// IdleTimeout is how long a connection may wait for its next request.
	IdleTimeout = 90 * time.Second
	// StallTimeout is how long a body may make no progress, in either
	// direction.
	StallTimeout = 30 * time.Second
	// MinBodyRate is the least average rate of a request body, bytes a second,
	// once the body has taken longer than StallTimeout.
	MinBodyRate = 128
	// MaxHeader is the size of a request's header, bytes.
	MaxHeader = 32 << 10
	// MaxConns is how many connections one address may hold open to one
	// service; a further one is closed at once.
	MaxConns = 64
	// MaxConnsAll is the same for all addresses together.
	MaxConnsAll = 4096
	// endTimeout is how long handlers have to return when a service ends.
	endTimeout = 3 * time.Second
)

// ServerConfig says what NewServer is to serve. Handler, Roster and Hosts are
// needed; without them nothing is served.
type ServerConfig struct {
	// Handler sees only requests of active peers for one of Hosts; the peer is
	// in the request's context.
	Handler http.Handler
	// Roster says who is on the mesh now.
	Roster func() *peer.Roster
	// Hosts are the names and addresses that the service answers to, without
	// ports (see AllowHosts).
	Hosts []string
	// Kinds of peers that may call; empty: spokes and phones (see ActivePeer).
	Kinds []peer.Kind
	// MaxBody is the size of a request's body in bytes. Zero means that
	// requests have no body. Negative means any size: only for handlers that
	// stream it.
	MaxBody int64
	// Logger; nil discards.
	Logger *slog.Logger
}

// NewServer returns the HTTP server that every service uses: HTTP/1.1, who is
// calling settled for each request, hosts checked, sizes and times bounded.
func NewServer(c ServerConfig) *http.Server {
	log := orDiscard(c.Logger)
	handler := c.Handler
	if handler == nil {
		handler = http.NotFoundHandler()
	}
	handler = Identify(c.Roster, handler, c.Kinds...)
	handler = AllowHosts(c.Hosts, handler)
	handler = Pace(c.MaxBody, handler)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           handler,
		ConnContext:       ConnContext(c.Roster, log),
		ReadHeaderTimeout: HeaderTimeout,
		IdleTimeout:       IdleTimeout,
		MaxHeaderBytes:    MaxHeader,
		Protocols:         &protocols,
		// net/http writes one line for each client that misbehaves.
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		DisableGeneralOptionsHandler: true,
	}
}

// ServeHTTP serves srv, over TLS if it has a TLSConfig, on every TCP listener
// until ctx ends or one fails, with MaxConns connections for each address and
// MaxConnsAll in total. When it returns every connection is closed, upgraded
// ones included, and every handler has returned: they see the end of their
// request's context. One that does not within endTimeout is given up on, and
// that is the error.
func ServeHTTP(ctx context.Context, srv *http.Server, l Listeners) error {
	return ServeHTTPLimited(ctx, srv, l, NewConnLimit(MaxConns, MaxConnsAll))
}

// ServeHTTPLimited is ServeHTTP with other limits, for this call alone.
func ServeHTTPLimited(ctx context.Context, srv *http.Server, l Listeners, conns *ConnLimit) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv.BaseContext = func(net.Listener) context.Context { return ctx }
	running := track(srv)
	failed := make(chan error, len(l.TCP))
	for _, t := range l.TCP {
		go func() {
			if srv.TLSConfig != nil {
				failed <- srv.ServeTLS(conns.Listener(t), "", "")
				return
			}
			failed <- srv.Serve(conns.Listener(t))
		}()
	}
	var err error
	ended := 0
	if len(l.TCP) == 0 {
		<-ctx.Done()
	} else {
		select {
		case <-ctx.Done():
		case err = <-failed:
			ended++
		}
	}
	cancel()
	_ = srv.Close()
	conns.CloseAll()
	for ; ended < len(l.TCP); ended++ {
		<-failed
	}
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, await(running))
}

// await waits for what track counts. Nothing is added any more when it is
// called: no listener accepts.
func await(running *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		running.Wait()
		close(done)
	}()
	timer := time.NewTimer(endTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return errors.New("ending HTTP service: a request goes on although its context has ended")
	}
}

// track counts the connections of srv and the handlers on those that were
// upgraded, which net/http forgets about.
func track(srv *http.Server) *sync.WaitGroup {
	var running sync.WaitGroup
	handler := srv.Handler
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running.Add(1)
		defer running.Done()
		handler.ServeHTTP(w, r)
	})
	srv.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			running.Add(1)
		case http.StateClosed, http.StateHijacked:
			running.Done()
		}
	}
	return &running
}

// ConnLimit bounds how many connections one address, and all of them together,
// hold open. It is safe for concurrent use.
type ConnLimit struct {
	each, all int

	mu     sync.Mutex
	closed bool
	count  map[netip.Addr]int
	open   map[*limitedConn]struct{}
}

// NewConnLimit allows each connections for one address and all in total.
func NewConnLimit(each, all int) *ConnLimit {
	return &ConnLimit{each: each, all: all, count: make(map[netip.Addr]int), open: make(map[*limitedConn]struct{})}
}

// Add counts c in, or reports false when its address has too many already; the
// caller then closes c. Closing the returned connection counts it out.
func (m *ConnLimit) Add(c net.Conn) (net.Conn, bool) {
	addr := AddrOf(c.RemoteAddr())
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.count[addr] >= m.each || len(m.open) >= m.all {
		return nil, false
	}
	m.count[addr]++
	lc := &limitedConn{Conn: c, limit: m, addr: addr}
	m.open[lc] = struct{}{}
	return lc, true
}

// CloseAll closes what is open; from then on nothing is let in.
func (m *ConnLimit) CloseAll() {
	m.mu.Lock()
	m.closed = true
	open := make([]*limitedConn, 0, len(m.open))
	for c := range m.open {
		open = append(open, c)
	}
	m.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}

// Listener returns t with every accepted connection counted.
func (m *ConnLimit) Listener(t net.Listener) net.Listener { return &limitListener{t, m} }

type limitListener struct {
	net.Listener
	limit *ConnLimit
}

// Accept skips connections over the limit: one greedy peer must not end the
// accept loop, nor make the others wait.
func (l *limitListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if lc, ok := l.limit.Add(c); ok {
			return lc, nil
		}
		_ = c.Close()
	}
}

type limitedConn struct {
	net.Conn
	limit *ConnLimit
	addr  netip.Addr
	once  sync.Once
}

func (c *limitedConn) Close() error {
	c.once.Do(func() {
		c.limit.mu.Lock()
		defer c.limit.mu.Unlock()
		delete(c.limit.open, c)
		if c.limit.count[c.addr]--; c.limit.count[c.addr] <= 0 {
			delete(c.limit.count, c.addr)
		}
	})
	return c.Conn.Close()
}

// CloseWrite half-closes where the connection below can.
func (c *limitedConn) CloseWrite() error {
	if hc, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return c.Conn.Close()
}
