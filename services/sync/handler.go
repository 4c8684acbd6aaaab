package sync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strings"
	gosync "sync"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services"
)

// Source is what the hub answers with. Each method gets the peer that calls,
// as its address proved it. An error that is no *Problem becomes a 500 whose
// cause is logged and not told.
type Source interface {
	// Self returns what p may know, and a channel that is closed once that may
	// have changed. The channel is taken before the answer is put together, so
	// that no change falls between the two. A close without a change is
	// allowed: the handler compares.
	Self(ctx context.Context, p peer.Peer) (Self, <-chan struct{}, error)
	// Serve and Unserve record and forget what p offers.
	Serve(ctx context.Context, p peer.Peer, r ServeRequest) (ServeReply, error)
	Unserve(ctx context.Context, p peer.Peer, name string) error
	// Certificate vouches for a key of p.
	Certificate(ctx context.Context, p peer.Peer, r CertificateRequest) (CertificateReply, error)
	// Leave removes p. The answer may no longer reach it.
	Leave(ctx context.Context, p peer.Peer) error
}

// Handler serves the protocol. It expects the peer in the request's context,
// as services.NewServer puts it there, and refuses without.
func Handler(src Source, log *slog.Logger) http.Handler {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := &handler{src: src, log: log, held: make(map[peer.ID][]chan struct{}), turns: newTurns()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/self", h.self)
	mux.HandleFunc("POST /v1/serve", h.serve)
	mux.HandleFunc("DELETE /v1/serve/{name}", h.unserve)
	mux.HandleFunc("POST /v1/certificate", h.certificate)
	mux.HandleFunc("POST /v1/leave", h.leave)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.problem(w, r, &Problem{http.StatusNotFound, "There is nothing here; the sync protocol is under /v1/."})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		services.SecurityHeaders(w.Header())
		if _, ok := peer.FromContext(r.Context()); !ok {
			h.problem(w, r, Forbidden("This machine is not an active peer of the mesh."))
			return
		}
		if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
			h.problem(w, r, Forbidden("This is for spokes, not for browsers."))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// settle is how long a waiting request rests between two looks.
const settle = 20 * time.Millisecond

type handler struct {
	src Source
	log *slog.Logger

	mu   gosync.Mutex
	held map[peer.ID][]chan struct{} // who waits, oldest first

	turns *turns
}

func (h *handler) self(w http.ResponseWriter, r *http.Request) {
	p, _ := peer.FromContext(r.Context())
	known := r.Header.Get("If-None-Match")
	var giveWay chan struct{}
	if known != "" {
		giveWay = h.hold(p.ID)
		defer h.release(p.ID, giveWay)
	}
	timer := time.NewTimer(Hold)
	defer timer.Stop()
	for round := 0; ; round++ {
		if round > 1 {
			// Many edits in a row are told as one: composing the answer for
			// every peer and every edit would be the dearer flood.
			select {
			case <-time.After(settle):
			case <-r.Context().Done():
				return
			}
		}
		body, changed, err := h.compose(r.Context(), p)
		if err != nil {
			h.problem(w, r, err)
			return
		}
		// The tag is made from what is sent, so it cannot claim a change that
		// is none, nor miss one.
		sum := sha256.Sum256(body)
		etag := `"` + hex.EncodeToString(sum[:16]) + `"`
		if etag != known {
			w.Header().Set("ETag", etag)
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(append(body, '\n'))
			return
		}
		select {
		case <-changed:
			continue
		case <-giveWay:
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
		w.Header().Set("ETag", etag)
		w.WriteHeader(http.StatusNotModified)
		return
	}
}

func (h *handler) compose(ctx context.Context, p peer.Peer) (body []byte, changed <-chan struct{}, err error) {
	done, err := h.turns.take(ctx, p.ID)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	self, changed, err := h.src.Self(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	body, err = json.Marshal(self)
	return body, changed, err
}

// hold counts one more waiting request of a peer. The channel is closed when it
// has to give way to a newer one: a machine that lost its power a few times has
// left requests behind that nobody waits for, and they must not shut it out.
func (h *handler) hold(id peer.ID) chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	waiting := h.held[id]
	if len(waiting) >= MaxHeld {
		close(waiting[0])
		waiting = slices.Delete(waiting, 0, 1)
	}
	giveWay := make(chan struct{})
	h.held[id] = append(waiting, giveWay)
	return giveWay
}

func (h *handler) release(id peer.ID, giveWay chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	waiting := h.held[id]
	if i := slices.Index(waiting, giveWay); i >= 0 {
		waiting = slices.Delete(waiting, i, i+1)
	}
	if h.held[id] = waiting; len(waiting) == 0 {
		delete(h.held, id)
	}
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request) {
	p, _ := peer.FromContext(r.Context())
	var req ServeRequest
	if err := decode(r, &req); err != nil {
		h.problem(w, r, err)
		return
	}
	if err := req.Validate(); err != nil {
		h.problem(w, r, &Problem{http.StatusBadRequest, err.Error()})
		return
	}
	reply, err := h.src.Serve(r.Context(), p, req)
	if err != nil {
		h.problem(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, reply)
}

func (h *handler) unserve(w http.ResponseWriter, r *http.Request) {
	p, _ := peer.FromContext(r.Context())
	name := r.PathValue("name")
	if err := peer.ValidName(name); err != nil {
		h.problem(w, r, &Problem{http.StatusBadRequest, err.Error()})
		return
	}
	if err := h.src.Unserve(r.Context(), p, name); err != nil {
		h.problem(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, struct{}{})
}

func (h *handler) leave(w http.ResponseWriter, r *http.Request) {
	p, _ := peer.FromContext(r.Context())
	var none struct{}
	if err := decode(r, &none); err != nil {
		h.problem(w, r, err)
		return
	}
	if err := h.src.Leave(r.Context(), p); err != nil {
		h.problem(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, struct{}{})
}

// decode reads one JSON object of at most MaxRequest bytes and nothing after.
func decode(r *http.Request, into any) error {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return &Problem{http.StatusUnsupportedMediaType, "The request needs the content type application/json."}
	}
	body := &io.LimitedReader{R: r.Body, N: MaxRequest + 1}
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge || body.N == 0 {
			return &Problem{http.StatusRequestEntityTooLarge, fmt.Sprintf("The request is larger than %d bytes.", MaxRequest)}
		}
		return &Problem{http.StatusBadRequest, "The request is not the JSON object it should be: " + strings.TrimPrefix(err.Error(), "json: ") + "."}
	}
	if _, err := d.Token(); err != io.EOF {
		return &Problem{http.StatusBadRequest, "Something follows the JSON object."}
	}
	return nil
}

func (h *handler) problem(w http.ResponseWriter, r *http.Request, err error) {
	p, ok := errors.AsType[*Problem](err)
	if !ok || p.Status < 400 || p.Status > 599 {
		if r.Context().Err() != nil {
			return
		}
		h.log.Error("answering a spoke", "path", r.URL.Path, "error", err)
		p = &Problem{http.StatusInternalServerError, "The hub could not do this; its log says why."}
	}
	writeJSON(w, p.Status, p)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
