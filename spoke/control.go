package spoke

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/warrenmesh/warren/services/settings/k2"
	"github.com/warrenmesh/warren/spoke/proxy"
)

// The control socket is how the commands of this machine's owner use the
// tunnel of the spoke that is running: HTTP over a Unix socket in the state
// directory, which nobody else can enter. Status, ping, leave and the sign-in
// are requests; a connection into the mesh is a CONNECT, as with any HTTP proxy.

// socketName is the socket's name in the state directory.
const socketName = "spoke.sock"

// ErrNotRunning says that no spoke runs in the directory.
var ErrNotRunning = errors.New("no spoke is running in this directory; start one with `spoke run`")

// Control answers on the directory's socket until ctx ends.
func (c *Client) Control(ctx context.Context) error {
	path := filepath.Join(c.cfg.Dir, socketName)
	// The vault's lock says that we are alone, so what is there is left over.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("opening control socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("opening control socket %s (a path of more than about 100 characters is too long for one): %w", path, err)
	}
	// The directory is ours alone (0700), so there is no moment in between.
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("opening control socket: %w", err), ln.Close())
	}
	srv := &http.Server{
		Handler:           c.controls(ctx),
		ReadHeaderTimeout: 5 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving control socket: %w", err)
	}
	return nil
}

// fault is an error on its way through the socket: the sentence, and which of
// the errors that callers tell apart it is.
type fault struct {
	Error string `json:"error"`
	Kind  string `json:"kind,omitempty"`
}

// kinds are the errors that keep their identity through the socket.
func kinds() map[string]error {
	return map[string]error{"policy": ErrPolicy, "name": ErrNoName, "outside": ErrNotMesh, "removed": ErrRemoved, "login": ErrNoLogin,
		"refused": syscall.ECONNREFUSED, "timeout": context.DeadlineExceeded,
		"no setting": ErrNoSetting, "no node": ErrNoNode, "malformed": k2.ErrMalformed, "passphrase": k2.ErrPassphrase}
}

func reportFault(w http.ResponseWriter, err error) { reply(w, http.StatusBadGateway, faultOf(err)) }

func faultOf(err error) *fault {
	f := &fault{Error: err.Error()}
	for kind, target := range kinds() {
		if errors.Is(err, target) {
			f.Kind = kind
		}
	}
	return f
}

// reply says its length: the answer to leave is the last thing that this process
// says, and without a length a reader waits for one more word.
func reply(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// remoteError is a fault on the other side of the socket.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

type pong struct {
	Took time.Duration `json:"took_ns"`
	Addr netip.Addr    `json:"addr"`
}

func (c *Client) controls(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) { reply(w, http.StatusOK, c.Status()) })
	mux.HandleFunc("POST /v1/ping", func(w http.ResponseWriter, r *http.Request) {
		took, addr, err := c.Ping(r.Context(), r.URL.Query().Get("host"))
		if err != nil {
			reportFault(w, err)
			return
		}
		reply(w, http.StatusOK, pong{took, addr})
	})
	mux.HandleFunc("POST /v1/leave", func(w http.ResponseWriter, r *http.Request) {
		if err := c.forget(r.Context()); err != nil {
			reportFault(w, err)
		} else {
			reply(w, http.StatusOK, struct{}{})
		}
		// The answer goes out before this process may end.
		_ = http.NewResponseController(w).Flush()
		c.end()
	})
	c.loginControls(mux)
	c.settingsControls(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			mux.ServeHTTP(w, r)
			return
		}
		dial := c.Dial
		if r.Header.Get(overTLS) != "" {
			dial = c.DialTLS
		}
		remote, err := dial(r.Context(), "tcp", r.RequestURI)
		if err != nil {
			reportFault(w, err)
			return
		}
		proxy.Tunnel(ctx, w, remote)
	})
}

// Remote is a running spoke, seen through its control socket.
type Remote struct {
	path string
	http *http.Client
}

// Attach finds the spoke that runs in dir, ErrNotRunning if there is none.
func Attach(dir string) (*Remote, error) {
	r := &Remote{path: filepath.Join(dir, socketName)}
	conn, err := net.Dial("unix", r.path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("the spoke in %s belongs to another user; run this as that user", dir)
	case err != nil:
		return nil, ErrNotRunning
	}
	_ = conn.Close()
	r.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", r.path)
		},
	}}
	return r, nil
}

// Close gives connections to the socket back. Those that Dial made stay open.
func (r *Remote) Close() error {
	r.http.CloseIdleConnections()
	return nil
}

// Status is Client.Status of the running spoke.
func (r *Remote) Status(ctx context.Context) (s Status, err error) {
	err = r.do(ctx, http.MethodGet, "/v1/status", &s)
	return s, err
}

// Ping is Client.Ping of the running spoke.
func (r *Remote) Ping(ctx context.Context, host string) (time.Duration, netip.Addr, error) {
	var p pong
	err := r.do(ctx, http.MethodPost, "/v1/ping?host="+url.QueryEscape(host), &p)
	return p.Took, p.Addr, err
}

// Leave is Client.Leave of the running spoke, which then ends.
func (r *Remote) Leave(ctx context.Context) error {
	return r.do(ctx, http.MethodPost, "/v1/leave", new(struct{}))
}

func (r *Remote) do(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://spoke"+path, nil)
	if err != nil {
		return err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking the running spoke: %w", err)
	}
	defer resp.Body.Close()
	return readAnswer(resp, into)
}

func readAnswer(resp *http.Response, into any) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return fmt.Errorf("asking the running spoke: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var f fault
		if json.Unmarshal(body, &f) != nil || f.Error == "" {
			return fmt.Errorf("asking the running spoke: it answered %s", resp.Status)
		}
		return &remoteError{f.Error, kinds()[f.Kind]}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("reading the running spoke's answer: %w", err)
	}
	return nil
}

// overTLS is the header of a CONNECT that asks for DialTLS.
const overTLS = "Spoke-Tls"

// Dial is Client.Dial of the running spoke, for TCP.
func (r *Remote) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return r.dial(ctx, network, address, "Spoke-Plain")
}

func (r *Remote) dial(ctx context.Context, network, address, how string) (net.Conn, error) {
	if !strings.HasPrefix(network, "tcp") {
		return nil, errors.New("dialing through a running spoke: only TCP")
	}
	if strings.ContainsAny(address, " \r\n\t/") {
		return nil, fmt.Errorf("dialing %.120q: it is HOST:PORT", address)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", r.path)
	if err != nil {
		return nil, fmt.Errorf("asking the running spoke: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s: 1\r\n\r\n", address, address, how); err != nil {
		return nil, errors.Join(fmt.Errorf("asking the running spoke: %w", err), conn.Close())
	}
	buf := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buf, &http.Request{Method: http.MethodConnect})
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("asking the running spoke: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer conn.Close()
		return nil, readAnswer(resp, new(struct{}))
	}
	return &tunneled{conn, buf}, nil
}

// tunneled is a connection whose first bytes may have come with the answer.
type tunneled struct {
	net.Conn
	buf *bufio.Reader
}

func (t *tunneled) Read(b []byte) (int, error) { return t.buf.Read(b) }
