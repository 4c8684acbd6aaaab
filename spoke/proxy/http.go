package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// HTTP is an HTTP proxy: CONNECT for anything, and requests for http:// URLs.
type HTTP struct {
	Dial   Dialer
	Logger *slog.Logger // nil discards
	// Mesh reports whether a host name or address is one of the mesh's. It is
	// what tells the mesh's own pages from the rest of the web.
	Mesh func(host string) bool
}

// Serve answers on ln until ctx ends.
func (h *HTTP) Serve(ctx context.Context, ln net.Listener) error {
	var tunnels sync.WaitGroup
	transport := &http.Transport{
		DialContext:           h.Dial,
		DisableCompression:    true, // the client decides
		MaxIdleConns:          32,
		IdleConnTimeout:       30 * time.Second,
		ResponseHeaderTimeout: 5 * time.Minute, // a language model may think
	}
	defer transport.CloseIdleConnections()
	handler := &httpHandler{HTTP: *h, ctx: ctx, log: logger(h.Logger), tunnels: &tunnels}
	handler.plain = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.Host = r.In.URL.Host },
		Transport:     transport,
		FlushInterval: -1, // answers stream
		ErrorHandler:  handler.failed,
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	srv := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: helloTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err := srv.Serve(limit(ln))
	_ = srv.Close()
	tunnels.Wait()
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

type httpHandler struct {
	HTTP
	ctx     context.Context
	log     *slog.Logger
	plain   *httputil.ReverseProxy
	tunnels *sync.WaitGroup
}

func (h *httpHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		h.connect(w, r)
	case !r.URL.IsAbs():
		// Attack: DNS rebinding. A page under evil.example, which resolves to
		// 127.0.0.1, sends what browsers send to servers; only a client that
		// was told to use a proxy sends a whole URL.
		deny(w, http.StatusBadRequest, "This is a proxy, not a web server: set it as the HTTP proxy of your program.")
	case r.URL.Scheme != "http":
		deny(w, http.StatusBadRequest, "Only http:// URLs are proxied as requests; use CONNECT for "+r.URL.Scheme+".")
	case !h.fromMesh(r.Header):
		// Attack: the browser uses this proxy, and a page of the public web
		// sends requests to the mesh with the rights of this machine.
		deny(w, http.StatusForbidden, "A page outside the mesh may not send requests into it.")
	default:
		h.plain.ServeHTTP(w, r)
	}
}

// fromMesh reports whether a request that a page sent comes from a page of the
// mesh. Requests without an Origin were not sent by a script across sites.
func (h *httpHandler) fromMesh(header http.Header) bool {
	if site := header.Get("Sec-Fetch-Site"); site == "cross-site" && header.Get("Sec-Fetch-Mode") != "navigate" {
		return false
	}
	for _, origin := range header.Values("Origin") {
		u, err := url.Parse(origin)
		if err != nil || u.Hostname() == "" || !h.Mesh(u.Hostname()) {
			return false
		}
	}
	return true
}

func (h *httpHandler) connect(w http.ResponseWriter, r *http.Request) {
	// What a page causes carries one of these; a program's CONNECT does not.
	for _, name := range []string{"Origin", "Referer", "Cookie", "Sec-Fetch-Site", "Sec-Fetch-Mode"} {
		if r.Header.Get(name) != "" {
			deny(w, http.StatusForbidden, "A CONNECT with the header "+name+" comes from a web page, and pages may not open tunnels.")
			return
		}
	}
	host, port, err := net.SplitHostPort(r.RequestURI)
	if err != nil || !validPort(port) || !plainHost([]byte(host)) {
		deny(w, http.StatusBadRequest, "CONNECT takes HOST:PORT.")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), dialTimeout)
	remote, err := h.HTTP.Dial(ctx, "tcp", net.JoinHostPort(host, port))
	cancel()
	if err != nil {
		h.failed(w, r, err)
		return
	}
	h.tunnels.Add(1)
	defer h.tunnels.Done()
	Tunnel(h.ctx, w, remote)
}

// Tunnel answers a CONNECT with "established" and carries bytes between its
// client and remote until both are done or ctx ends. It closes remote.
func Tunnel(ctx context.Context, w http.ResponseWriter, remote net.Conn) {
	client, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = remote.Close()
		deny(w, http.StatusInternalServerError, "The connection cannot be taken over.")
		return
	}
	_ = client.SetDeadline(time.Time{})
	if _, err := client.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		_ = client.Close()
		_ = remote.Close()
		return
	}
	Pipe(ctx, &buffered{client, buf.Reader}, remote)
}

// failed says why there is no connection.
func (h *httpHandler) failed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return
	}
	status := http.StatusBadGateway
	switch {
	case errors.Is(err, ErrNotMesh), errors.Is(err, ErrPolicy):
		status = http.StatusForbidden
	case errors.Is(err, ErrNoName):
		status = http.StatusBadGateway
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		status = http.StatusGatewayTimeout
	}
	h.log.Warn("http proxy: refused", "target", r.URL.Host, "err", err)
	deny(w, status, fmt.Sprintf("warren: %v", err))
}

func deny(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(strings.ToValidUTF8(text, "?") + "\n"))
}

// limited is a listener with at most maxClients open connections.
type limited struct {
	net.Listener
	places chan struct{}
}

func limit(ln net.Listener) net.Listener { return &limited{ln, make(chan struct{}, maxClients)} }

func (l *limited) Accept() (net.Conn, error) {
	l.places <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &placed{Conn: c, leave: sync.OnceFunc(func() { <-l.places })}, nil
}

// placed gives its place back when it is closed.
type placed struct {
	net.Conn
	leave func()
}

func (p *placed) Close() error {
	defer p.leave()
	return p.Conn.Close()
}

func (p *placed) CloseWrite() error {
	if c, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}
