// Package console is the status page: who is here, what is offered, what was
// refused lately and why. It only shows; nothing can be changed through it, so
// there is no session, no form, no script and nothing to forge.
//
//	GET /            the page
//	GET /api/status  the same as JSON
//
// The page needs nothing from outside: no font, no script, no picture. It asks
// for itself again every 15 seconds. Whatever a peer could have put into a name
// is shown, never obeyed.
package console

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services"
)

// maxRows is how many peers, services and refusals the page shows; the JSON
// has them all.
const maxRows = 500

// maxAsking is how many pages are put together at once.
const maxAsking = 8

//go:embed page.html style.css icon.svg
var files embed.FS

// Page is what there is to show to one peer.
type Page struct {
	// You is the peer that asks.
	You        peer.Peer `json:"you"`
	Now        time.Time `json:"now"`
	Started    time.Time `json:"started"`
	Endpoint   string    `json:"endpoint"`
	Domain     string    `json:"domain"`
	Generation uint64    `json:"generation"`
	// Recovery says why only the admin's way in is open, "" if all is well.
	Recovery string `json:"recovery,omitempty"`
	// Problems are sentences: what is wrong and what to do.
	Problems []string  `json:"problems,omitempty"`
	Peers    []Peer    `json:"peers"`
	Services []Service `json:"services"`
	Refused  []Refusal `json:"refused"`
}

// Peer is one machine as the hub sees it.
type Peer struct {
	peer.Peer
	// Handshake is when the tunnel was last agreed on; zero: never.
	Handshake time.Time `json:"handshake,omitzero"`
	// RxBytes and TxBytes are what the hub received from and sent to it.
	RxBytes uint64 `json:"rx_bytes"`
	TxBytes uint64 `json:"tx_bytes"`
	// Refused counts its packets that the policy turned away.
	Refused uint64 `json:"refused"`
}

// Service is a name in the tunnel.
type Service struct {
	Name  string       `json:"name"`
	FQDN  string       `json:"fqdn"`
	Addrs []netip.Addr `json:"addrs"`
	Ports []string     `json:"ports"` // "tcp:80", "udp:100-200"
	Host  string       `json:"host"`  // "hub" or a peer's name
	Note  string       `json:"note,omitempty"`
}

// Refusal is one kind of packet that was turned away.
type Refusal struct {
	Src   string    `json:"src"`
	Dst   string    `json:"dst"`
	Why   string    `json:"why"`
	Count uint64    `json:"count"`
	Last  time.Time `json:"last"`
}

// Config says where the page comes from.
type Config struct {
	// Status gathers what caller may see. It is needed.
	Status func(ctx context.Context, caller peer.Peer) (Page, error)
	// Logger; nil discards.
	Logger *slog.Logger
}

// Handler serves the page. It expects the peer in the request's context, as
// services.NewServer puts it there after it has checked the host name, and
// refuses without.
func Handler(c Config) http.Handler {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	h := &handler{cfg: c, slots: make(chan struct{}, maxAsking),
		page: template.Must(template.New("page.html").Funcs(functions()).ParseFS(files, "page.html"))}
	return http.HandlerFunc(h.serve)
}

type handler struct {
	cfg   Config
	page  *template.Template
	slots chan struct{}
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request) {
	caller, ok := peer.FromContext(r.Context())
	if !ok {
		services.Refuse(w, http.StatusForbidden, "This machine is not an active peer of the mesh.")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		services.Refuse(w, http.StatusMethodNotAllowed, "This page only shows; changes are made with the hub command.")
		return
	}
	switch r.URL.Path {
	case "/":
		h.status(w, r, caller, h.html)
	case "/api/status":
		h.status(w, r, caller, writeJSON)
	case "/style.css":
		h.file(w, "style.css", "text/css; charset=utf-8")
	case "/icon.svg":
		h.file(w, "icon.svg", "image/svg+xml")
	default:
		services.Refuse(w, http.StatusNotFound, "There is nothing here; the status page is at /.")
	}
}

func (h *handler) status(w http.ResponseWriter, r *http.Request, caller peer.Peer, render func(*bytes.Buffer, Page) (string, error)) {
	// Putting a page together looks at every peer: a few at a time will do.
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-r.Context().Done():
		return
	}
	var b bytes.Buffer
	kind, err := "", errors.New("no status was set")
	if h.cfg.Status != nil {
		var page Page
		if page, err = h.cfg.Status(r.Context(), caller); err == nil {
			kind, err = render(&b, page)
		}
	}
	if err != nil {
		if r.Context().Err() == nil {
			h.cfg.Logger.Error("showing the status page", "error", err)
		}
		services.Refuse(w, http.StatusInternalServerError, "The hub could not gather its status; its log says why.")
		return
	}
	send(w, kind, b.Bytes())
}

func (h *handler) html(b *bytes.Buffer, p Page) (string, error) {
	if err := h.page.Execute(b, newView(p)); err != nil {
		return "", fmt.Errorf("rendering the page: %w", err)
	}
	return "text/html; charset=utf-8", nil
}

func writeJSON(b *bytes.Buffer, p Page) (string, error) {
	if err := json.NewEncoder(b).Encode(p); err != nil {
		return "", fmt.Errorf("encoding the status: %w", err)
	}
	return "application/json", nil
}

func (h *handler) file(w http.ResponseWriter, name, kind string) {
	b, err := files.ReadFile(name)
	if err != nil {
		services.Refuse(w, http.StatusNotFound, "There is nothing here.")
		return
	}
	w.Header().Set("Cache-Control", "private, max-age=3600")
	send(w, kind, b)
}

func send(w http.ResponseWriter, kind string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", kind)
	// The page's own style and icon, and nothing else from anywhere.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	services.SecurityHeaders(h)
	_, _ = w.Write(body)
}
