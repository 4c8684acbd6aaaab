package services

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// maxWrite is the most that one write deadline covers, bytes.
const maxWrite = 64 << 10

// errSlow ends a body that trickles.
var errSlow = errors.New("the request body arrives too slowly")

// Pace bounds a request's body to maxBody bytes (zero: no body, negative: any
// size) and sees that both directions make progress: a caller who sends a
// byte now and then, or never reads its answer, holds a connection for
// StallTimeout and not for ever. A handler that itself is slow, a long poll
// or an event stream, is left alone.
func Pace(maxBody int64, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if maxBody >= 0 && r.ContentLength > maxBody {
			w.Header().Set("Connection", "close")
			Refuse(w, http.StatusRequestEntityTooLarge, "The request is larger than this service takes.")
			return
		}
		pw := &pacedWriter{ResponseWriter: w, ctl: http.NewResponseController(w)}
		if r.Body != nil && r.Body != http.NoBody {
			body := r.Body
			if maxBody >= 0 {
				body = http.MaxBytesReader(w, body, maxBody)
			}
			pw.body = &pacedBody{body: body, ctl: pw.ctl, start: time.Now()}
			r.Body = pw.body
		}
		defer pw.finish()
		next.ServeHTTP(pw, r)
	})
}

// pacedBody gives each read a deadline, and the body as a whole a least rate.
type pacedBody struct {
	body  io.ReadCloser
	ctl   *http.ResponseController
	start time.Time
	first sync.Once

	mu    sync.Mutex
	total int64
	ended bool
}

func (b *pacedBody) Read(p []byte) (int, error) {
	_ = b.ctl.SetReadDeadline(time.Now().Add(StallTimeout))
	b.first.Do(func() {
		// The first read may write "100 Continue".
		_ = b.ctl.SetWriteDeadline(time.Now().Add(StallTimeout))
	})
	n, err := b.body.Read(p)
	// After the body net/http reads ahead in the background, and takes a
	// deadline that passes there for a caller who went away.
	_ = b.ctl.SetReadDeadline(time.Time{})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total += int64(n)
	if err != nil {
		b.ended = err == io.EOF
		return n, err
	}
	if took := time.Since(b.start); took > StallTimeout && float64(b.total) < MinBodyRate*took.Seconds() {
		return n, errSlow
	}
	return n, nil
}

// Close makes net/http read on for a while, in case the connection can be used
// again.
func (b *pacedBody) Close() error {
	_ = b.ctl.SetReadDeadline(time.Now().Add(HeaderTimeout))
	defer func() { _ = b.ctl.SetReadDeadline(time.Time{}) }()
	return b.body.Close()
}

func (b *pacedBody) unread() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.ended
}

// pacedWriter gives each write of at most maxWrite bytes a deadline.
type pacedWriter struct {
	http.ResponseWriter
	ctl     *http.ResponseController
	body    *pacedBody
	started bool
}

// Unwrap lets http.ResponseController and ReverseProxy find Hijack.
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *pacedWriter) Write(p []byte) (int, error) {
	written := 0
	for {
		chunk := p[written:min(len(p), written+maxWrite)]
		done := w.deadline()
		n, err := w.ResponseWriter.Write(chunk)
		done()
		written += n
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// FlushError is what http.ResponseController looks for.
func (w *pacedWriter) FlushError() error {
	defer w.deadline()()
	return w.ctl.Flush()
}

// Flush implements http.Flusher.
func (w *pacedWriter) Flush() { _ = w.FlushError() }

// deadline starts the clock of one write. The first write may make net/http
// read what is left of the body, so that gets a deadline too.
func (w *pacedWriter) deadline() (done func()) {
	_ = w.ctl.SetWriteDeadline(time.Now().Add(StallTimeout))
	if w.started || !w.body.unread() {
		return func() {}
	}
	w.started = true
	_ = w.ctl.SetReadDeadline(time.Now().Add(HeaderTimeout))
	return func() { _ = w.ctl.SetReadDeadline(time.Time{}) }
}

// finish covers what net/http does after the handler: writing what is still
// buffered and reading what is left of the body.
func (w *pacedWriter) finish() {
	_ = w.ctl.SetWriteDeadline(time.Now().Add(StallTimeout))
	if w.body.unread() {
		_ = w.ctl.SetReadDeadline(time.Now().Add(HeaderTimeout))
	}
}
