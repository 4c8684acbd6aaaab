package oauth

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/auth"
)

//go:embed pages
var files embed.FS

// pages are the pages that people see.
type pages struct {
	all   *template.Template
	sheet []byte
}

func newPages() (*pages, error) {
	all, err := template.ParseFS(files, "pages/*.html")
	if err != nil {
		return nil, fmt.Errorf("reading the pages: %w", err)
	}
	sheet, err := files.ReadFile("pages/style.css")
	if err != nil {
		return nil, fmt.Errorf("reading the style: %w", err)
	}
	return &pages{all, sheet}, nil
}

// page is what a page shows.
type page struct {
	Title   string
	Problem string // what went wrong with what was posted
	// Client is the program that asks, Known says that it is the hub's own.
	Client string
	Known  bool
	// Machine is the one that the tokens will be for.
	Machine string
	Wants   []string // what the program will know, in words
	Post    string   // where the form goes
	About   string   // the request; the user code
	Email   string   // as it was typed
	User    string   // who signed in
	Ticket  string
	Ask     bool // the user code is asked for
}

// show writes a page. Its policy allows the page's own style and forms, and
// nothing else; target is where an answer to the form may lead, besides here.
func (p *pages) show(w http.ResponseWriter, status int, name, target string, data page) {
	var b bytes.Buffer
	if err := p.all.ExecuteTemplate(&b, name, data); err != nil {
		http.Error(w, "The page cannot be shown; the admin finds it in the log.", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'"+target+"; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	services.SecurityHeaders(h)
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// failed tells a person that it does not go on here.
func (p *pages) failed(w http.ResponseWriter, status int, detail string) {
	p.show(w, status, "message.html", "", page{Title: "This does not work", Problem: detail})
}

// done tells a person that it is over.
func (p *pages) done(w http.ResponseWriter, title string, data page) {
	data.Title = title
	p.show(w, http.StatusOK, "message.html", "", data)
}

func (s *Server) style(w http.ResponseWriter, _ *http.Request, _ peer.Peer) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	_, _ = w.Write(s.pages.sheet)
}

// wants says in words what a scope tells a client.
func wants(scope []string) []string {
	words := []string{"know that it is you"}
	for _, s := range scope {
		switch s {
		case auth.ScopeAccount:
			words = append(words, "do whatever you may do on this hub")
		case "profile":
			words = append(words, "know what the policy calls you")
		case "email":
			words = append(words, "know your e-mail address")
		}
	}
	return words
}
