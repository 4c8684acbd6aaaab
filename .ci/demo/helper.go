package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// helper is this program in another role, started inside one of the networks.
func helper(ctx context.Context, role string, args []string) error {
	roles := map[string]struct {
		args int
		run  func(context.Context, []string) error
	}{"scan": {1, scan}, "knock": {1, knock}, "dial": {1, dial}, "serve": {2, serve}, "download": {2, download}}
	r, ok := roles[role]
	if !ok || len(args) != r.args {
		return fmt.Errorf("%q is for the demo's own use; run it without arguments", role)
	}
	return r.run(ctx, args)
}

func (t *tour) helper(network, role string, args ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return t.out(network, "", append([]string{self, role}, args...)...)
}

func (t *tour) startHelper(network, name, role string, args ...string) (*proc, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return t.start(network, name, append([]string{self, role}, args...)...)
}

// scan tries every TCP port of a host.
func scan(ctx context.Context, args []string) error {
	var open, silent atomic.Int32
	var wg sync.WaitGroup
	ports := make(chan int)
	began := time.Now()
	for range 256 {
		wg.Go(func() {
			for port := range ports {
				d := net.Dialer{Timeout: 3 * time.Second}
				conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", args[0], port))
				switch {
				case err == nil:
					open.Add(1)
					_ = conn.Close()
				case !errors.Is(err, syscall.ECONNREFUSED):
					silent.Add(1)
				}
			}
		})
	}
	for port := 1; port <= 65535; port++ {
		ports <- port
	}
	close(ports)
	wg.Wait()
	fmt.Printf("%d open, %d without an answer, in %s\n", open.Load(), silent.Load(), ms(time.Since(began)))
	return nil
}

// knock sends datagrams that look like everything but a genuine handshake, and
// counts what comes back.
func knock(ctx context.Context, args []string) error {
	conn, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	const n = 20000
	buf := make([]byte, 1500)
	var out int
	for i := range n {
		b := buf[:1+i%1400]
		if i%4 == 0 {
			b = buf[:148] // the size of a WireGuard handshake
		}
		if _, err := rand.Read(b); err != nil {
			return err
		}
		if len(b) >= 4 {
			b[0], b[1], b[2], b[3] = byte(i%5), 0, 0, 0
		}
		if _, err := conn.Write(b); err == nil {
			out += len(b)
		}
	}
	answers, back := 0, 0
	if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	for {
		n, err := conn.Read(buf)
		if err != nil {
			break
		}
		answers, back = answers+1, back+n
	}
	fmt.Printf("%d answers (%d bytes) to %d datagrams (%d bytes)\n", answers, back, n, out)
	return nil
}

// dial says what became of one connection, and when.
func dial(ctx context.Context, args []string) error {
	began := time.Now()
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", args[0])
	took := ms(time.Since(began))
	switch {
	case err == nil:
		_ = conn.Close()
		fmt.Println("open after " + took)
	case errors.Is(err, syscall.ECONNREFUSED):
		fmt.Println("refused after " + took)
	default:
		fmt.Printf("%v after %s\n", err, took)
	}
	return nil
}

// serve answers every request with the same text.
func serve(_ context.Context, args []string) error {
	return http.ListenAndServe(args[0], http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, args[1])
	}))
}

// page is the web site on the hub's machine.
func page() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "peer=%s user=%s", r.Header.Get("X-Warren-Peer"), r.Header.Get("X-Warren-User"))
	})
	fill := func(w http.ResponseWriter, r *http.Request, n int) {
		block := make([]byte, 256<<10)
		for sent := 0; (n == 0 || sent < n) && r.Context().Err() == nil; sent += len(block) {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) { fill(w, r, pageSize) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) { fill(w, r, 0) })
	return mux
}

// downloaded is how a download ended.
type downloaded struct {
	bytes       int64
	last, ended time.Time
	why         string
}

// download reads until it is cut off. Its report exists from the first byte on.
func download(ctx context.Context, args []string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	buf := make([]byte, 256<<10)
	var d downloaded
	for d.why == "" {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if d.bytes += int64(n); d.bytes == int64(n) {
				if err := os.WriteFile(args[1], nil, 0o600); err != nil {
					return err
				}
			}
			d.last = time.Now()
		}
		if err != nil {
			d.ended, d.why = time.Now(), lastLine(err)
		}
	}
	text := fmt.Sprintf("%d %d %d %s", d.bytes, d.last.UnixNano(), d.ended.UnixNano(), d.why)
	return os.WriteFile(args[1], []byte(text), 0o600)
}

func readDownload(file string) (d downloaded, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return d, err
	}
	var last, ended int64
	if _, err := fmt.Sscan(string(text), &d.bytes, &last, &ended); err != nil {
		return d, fmt.Errorf("the download did not say how it ended: %w", err)
	}
	if parts := strings.SplitN(string(text), " ", 4); len(parts) == 4 {
		d.why = parts[3]
	}
	d.last, d.ended = time.Unix(0, last), time.Unix(0, ended)
	return d, nil
}

// hubServiceAddr finds a service's address in the hub's own table.
func (t *tour) hubServiceAddr(name string) (string, error) {
	table, err := t.hub("services")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[0], name) {
			return f[1], nil
		}
	}
	return "", fmt.Errorf("no service is called %s", name)
}

// lastLine is the end of an error: what the program said, without the command.
func lastLine(err error) string {
	if err == nil {
		return "no error"
	}
	text := err.Error()
	if _, after, ok := strings.Cut(text, "exit status 1: "); ok {
		text = after
	}
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return first
}

func beforeAfter(d time.Duration) string {
	if d < 0 {
		return ms(-d) + " before that"
	}
	return ms(d) + " after that"
}

// unless returns text where a statement is false and needs it.
func unless(held bool, text string) string {
	if held {
		return ""
	}
	return text
}
