package oauth

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/auth"
)

// The steps of the pages.
const (
	stepSignIn       = "sign-in"
	stepConsent      = "consent"
	stepDeviceSignIn = "device"
	stepDecide       = "decide"
)

const (
	gone     = "This sign-in is over, or began on another machine. Go back to the program that sent you here and begin again."
	notFresh = "This page was open for too long, or in another browser. Go back and begin again."
)

// waiting finds the request that a page is about, and tells the person if there
// is none.
func (s *Server) waiting(w http.ResponseWriter, r *http.Request, who peer.Peer, id string) (a account.AuthRequest, c account.Client, ok bool) {
	err := s.cfg.Store.View(r.Context(), func(tx account.Tx) (err error) {
		a, c, err = requestOf(tx, who, id)
		return err
	})
	switch {
	case errors.Is(err, account.ErrNotFound):
		s.pages.failed(w, http.StatusNotFound, gone)
	case err != nil:
		s.broken(w, "finding an authorization request", err)
	}
	return a, c, err == nil
}

// showSignIn shows the sign-in page of a request.
func (s *Server) showSignIn(w http.ResponseWriter, r *http.Request, who peer.Peer) {
	v, f := parse(r.URL.RawQuery)
	if f != nil {
		s.pages.failed(w, http.StatusBadRequest, gone)
		return
	}
	a, c, ok := s.waiting(w, r, who, v.Get("request"))
	if !ok {
		return
	}
	s.askToSignIn(w, r, who, http.StatusOK, formTarget(a.Redirect), stepSignIn, page{
		Title: "Sign in", Client: c.Name, Known: c.FirstParty, Machine: who.Name, Post: pathSignIn, About: a.ID,
	})
}

// askToSignIn shows the form with a fresh ticket.
func (s *Server) askToSignIn(w http.ResponseWriter, r *http.Request, who peer.Peer, status int, target, step string, data page) {
	key, err := s.formKey(r.Context())
	if err != nil {
		s.broken(w, "showing a form", err)
		return
	}
	data.Ticket = seal(key, who, meet(w, r), ticket{Step: step, About: data.About, Expires: s.cfg.Now().Add(RequestLife).Unix()})
	s.pages.show(w, status, "signin.html", target, data)
}

// posted reads a form of ours: from a page of ours, in the same browser.
func (s *Server) posted(w http.ResponseWriter, r *http.Request, who peer.Peer, step, about string) (get func(string) string, t ticket, ok bool) {
	// Browsers say where a form came from; the ticket is what decides.
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		s.pages.failed(w, http.StatusForbidden, notFresh)
		return nil, t, false
	}
	v, f := form(r)
	if f != nil {
		s.pages.failed(w, f.status, "What was sent cannot be used. "+f.detail)
		return nil, t, false
	}
	key, err := s.formKey(r.Context())
	if err != nil {
		s.broken(w, "reading a form", err)
		return nil, t, false
	}
	t, ok = unseal(key, who, browser(r), v.Get("ticket"), step, v.Get(about), s.cfg.Now())
	if !ok {
		s.pages.failed(w, http.StatusForbidden, notFresh)
	}
	return v.Get, t, ok
}

// authenticate tries what was typed. It returns a ticket for the next step, or
// a refusal to show.
func (s *Server) authenticate(r *http.Request, who peer.Peer, get func(string) string, step, about string) (account.User, ticket, error) {
	u, methods, err := s.cfg.Accounts.Authenticate(r.Context(), who, auth.Login{
		Email: get("email"), Password: get("password"), Code: strings.ReplaceAll(get("code"), " ", ""),
	})
	if err != nil {
		return u, ticket{}, err
	}
	key, err := s.formKey(r.Context())
	if err != nil {
		return u, ticket{}, err
	}
	now := s.cfg.Now()
	t := ticket{Step: step, About: about, Expires: now.Add(RequestLife).Unix(), User: u.ID, At: now.Unix(), Methods: methods}
	err = s.cfg.Store.View(r.Context(), func(tx account.Tx) (err error) {
		t.Mark, err = passwordMark(tx, key, u.ID)
		return err
	})
	return u, t, err
}

// signIn takes the sign-in page's form. The hub's own clients are done then;
// for others the person is asked.
func (s *Server) signIn(w http.ResponseWriter, r *http.Request, who peer.Peer) {
	get, _, ok := s.posted(w, r, who, stepSignIn, "request")
	if !ok {
		return
	}
	a, c, ok := s.waiting(w, r, who, get("request"))
	if !ok {
		return
	}
	u, next, err := s.authenticate(r, who, get, stepConsent, a.ID)
	if err != nil {
		s.again(w, r, who, err, formTarget(a.Redirect), stepSignIn, page{
			Title: "Sign in", Client: c.Name, Known: c.FirstParty, Machine: who.Name, Post: pathSignIn, About: a.ID, Email: get("email"),
		})
		return
	}
	if c.FirstParty {
		s.agreed(w, r, who, a, next)
		return
	}
	key, err := s.formKey(r.Context())
	if err != nil {
		s.broken(w, "showing a form", err)
		return
	}
	s.pages.show(w, http.StatusOK, "consent.html", formTarget(a.Redirect), page{
		Title: "Allow " + c.Name + "?", Client: c.Name, Machine: who.Name, Wants: wants(strings.Fields(a.Scope)),
		Post: pathConsent, About: a.ID, User: u.Email, Ticket: seal(key, who, browser(r), next),
	})
}

// again shows the sign-in page with what went wrong.
func (s *Server) again(w http.ResponseWriter, r *http.Request, who peer.Peer, err error, target, step string, data page) {
	var why *services.Refusal
	if !errors.As(err, &why) {
		s.broken(w, "signing in", err)
		return
	}
	data.Problem = why.Detail
	services.SetRefusal(w.Header(), why)
	s.askToSignIn(w, r, who, why.Status, target, step, data)
}

// consent takes the consent page's form.
func (s *Server) consent(w http.ResponseWriter, r *http.Request, who peer.Peer) {
	get, t, ok := s.posted(w, r, who, stepConsent, "request")
	if !ok {
		return
	}
	a, _, ok := s.waiting(w, r, who, get("request"))
	if !ok {
		return
	}
	if get("decision") == "allow" && t.User != 0 {
		s.agreed(w, r, who, a, t)
		return
	}
	err := s.cfg.Store.Keep(r.Context(), func(tx account.Tx) error { return tx.DeleteAuthRequest(a.ID) })
	if err != nil {
		s.broken(w, "ending an authorization request", err)
		return
	}
	http.Redirect(w, r, s.answerAt(a.Redirect, a.State, "error", "access_denied", "error_description", "The person refused."), http.StatusSeeOther)
}

// agreed notes who agreed and sends the code to the client.
func (s *Server) agreed(w http.ResponseWriter, r *http.Request, who peer.Peer, a account.AuthRequest, t ticket) {
	code := newSecret()
	key, err := s.formKey(r.Context())
	if err != nil {
		s.broken(w, "giving out a code", err)
		return
	}
	err = s.cfg.Store.Keep(r.Context(), func(tx account.Tx) error {
		if _, _, err := requestOf(tx, who, a.ID); err != nil {
			return err
		}
		if err := t.stands(tx, key); err != nil {
			return err
		}
		if err := tx.Agree(a.ID, t.User, "", time.Unix(t.At, 0), t.Methods); err != nil {
			return err
		}
		if err := tx.SetCode(a.ID, hash(code), tx.Now().Add(CodeLife)); err != nil {
			return err
		}
		return tx.Record(account.Event{
			Actor: "user:" + t.User.String(), Action: "oauth.agree", Target: "client:" + a.Client, Detail: map[string]string{"peer": string(a.Peer)},
		})
	})
	switch {
	case errors.Is(err, account.ErrConflict), errors.Is(err, account.ErrNotFound):
		s.pages.failed(w, http.StatusConflict, gone)
	case errors.Is(err, errPassword):
		s.pages.failed(w, http.StatusForbidden, notFresh)
	case err != nil:
		s.broken(w, "giving out a code", err)
	default:
		http.Redirect(w, r, s.answerAt(a.Redirect, a.State, "code", code), http.StatusSeeOther)
	}
}
