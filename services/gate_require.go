package services

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// Require puts a gate in front of h: h runs only for callers who meet need, with
// a context that ends when they no longer do. Refusals are written by refuse,
// in the words and the form of the route. Path parameters are those of
// http.ServeMux.
//
// A handler that panics costs its caller a 500 and nobody else anything. When
// the context ends, reads and writes of h fail, hijacked connections included:
// a stream ends even if its handler looks at nothing but its connection.
func Require(g *Gate, route string, need Requirement, refuse Refuser, h func(w http.ResponseWriter, r *http.Request, c *Caller)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		SecurityHeaders(w.Header())
		c, ctx, limits, done, err := g.Admit(r, route, need, r.PathValue)
		for name, values := range limits {
			w.Header()[name] = values
		}
		if err != nil {
			var why *Refusal
			if !errors.As(err, &why) {
				why = refuseUnknown
			}
			refuse(w, r, why)
			return
		}
		lw := &liveWriter{ResponseWriter: w, ctx: ctx}
		status := http.StatusInternalServerError
		defer func() { done(status) }()
		defer lw.watch(need.Stream)()
		if g.run(lw, r.WithContext(ctx), route, c, h) {
			status = lw.Status()
			return
		}
		if lw.Status() != 0 {
			panic(http.ErrAbortHandler) // half an answer must not look like a whole one
		}
		refuse(w, r, refuseBroken)
	})
}

var (
	refuseBroken  = refusal(Refusal{Status: http.StatusInternalServerError, Detail: "Something went wrong here; the admin finds it in the log."})
	refuseUnknown = refusal(Refusal{Status: http.StatusServiceUnavailable, Detail: "Who is calling could not be checked; try again."})
)

// run reports false when h panicked. What it panicked with is not logged in
// full: it may hold what the caller sent.
func (g *Gate) run(w http.ResponseWriter, r *http.Request, route string, c *Caller, h func(http.ResponseWriter, *http.Request, *Caller)) (whole bool) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(p) // net/http closes the connection: what was sent is not whole
		}
		g.cfg.Logger.Error("handler panicked", "service", g.cfg.Service, "route", route, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
	}()
	h(w, r, c)
	return true
}

// liveWriter ends with its context, and knows the status that was sent.
type liveWriter struct {
	http.ResponseWriter
	ctx    context.Context
	stream atomic.Bool
	status atomic.Int32
}

// Unwrap is for http.ResponseController.
func (w *liveWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Status is what was sent, 0 if nothing was.
func (w *liveWriter) Status() int { return int(w.status.Load()) }

// watch makes what blocks on the connection return once a stream's context
// ends: a caller who stopped reading would hold it for StallTimeout otherwise.
func (w *liveWriter) watch(stream bool) (stop func()) {
	w.stream.Store(stream)
	if !stream {
		return func() {}
	}
	ended := context.AfterFunc(w.ctx, func() {
		ctl := http.NewResponseController(w.ResponseWriter)
		_ = ctl.SetWriteDeadline(time.Unix(1, 0))
		_ = ctl.SetReadDeadline(time.Unix(1, 0))
	})
	return func() { ended() }
}

// over is what a write fails with after the context ended. Answers that are no
// streams may still be written: they say why.
func (w *liveWriter) over() error {
	if !w.stream.Load() || w.ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("writing to a caller who may not read on: %w", context.Cause(w.ctx))
}

func (w *liveWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.status.CompareAndSwap(0, int32(status))
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *liveWriter) Write(p []byte) (int, error) {
	if err := w.over(); err != nil {
		return 0, err
	}
	w.status.CompareAndSwap(0, http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// FlushError is what http.ResponseController looks for.
func (w *liveWriter) FlushError() error {
	if err := w.over(); err != nil {
		return err
	}
	w.status.CompareAndSwap(0, http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (w *liveWriter) Flush() { _ = w.FlushError() }

// Hijack hands out the connection, which closes when the context ends.
func (w *liveWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("taking over the connection: %w", err)
	}
	w.status.CompareAndSwap(0, http.StatusSwitchingProtocols)
	context.AfterFunc(w.ctx, func() { _ = conn.Close() })
	return conn, rw, nil
}
