package oauth

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

const noDevice = "No device waits with this code. Look at the device again; codes end after ten minutes."

// showDevice shows the page where somebody types what a device shows. Whether
// there is such a device is told only to who has signed in.
func (s *Server) showDevice(w http.ResponseWriter, r *http.Request, who peer.Peer) {
	v, f := parse(r.URL.RawQuery)
	if f != nil || len(v.Get("user_code")) > 32 {
		s.pages.failed(w, http.StatusBadRequest, noDevice)
		return
	}
	s.askToSignIn(w, r, who, http.StatusOK, "", stepDeviceSignIn, devicePage(v.Get("user_code"), ""))
}

// devicePage asks for the code, who types it being free to change it: the
// ticket is about no code.
func devicePage(code, email string) page {
	return page{Title: "Connect a device", Post: pathDevice, Ask: true, User: shownCode(code), Email: email}
}

// shownCode writes a user code as devices show it.
func shownCode(typed string) string {
	code := userCode(typed)
	if len(code) == 8 {
		return code[:4] + "-" + code[4:]
	}
	return code
}

// deviceSignIn takes the code and who types it.
func (s *Server) deviceSignIn(w http.ResponseWriter, r *http.Request, who peer.Peer) {
	get, _, ok := s.posted(w, r, who, stepDeviceSignIn, "request")
	if !ok {
		return
	}
	typed := get("user_code")
	u, next, err := s.authenticate(r, who, get, stepDecide, userCode(typed))
	if err != nil {
		s.again(w, r, who, err, "", stepDeviceSignIn, devicePage(typed, get("email")))
		return
	}
	var d account.Device
	var c account.Client
	err = s.cfg.Store.View(r.Context(), func(tx account.Tx) (err error) {
		d, c, err = findDevice(tx, typed)
		return err
	})
	if errors.Is(err, account.ErrNotFound) {
		data := devicePage(typed, get("email"))
		data.Problem = noDevice
		s.askToSignIn(w, r, who, http.StatusNotFound, "", stepDeviceSignIn, data)
		return
	}
	if err != nil {
		s.broken(w, "finding a device", err)
		return
	}
	machine, ok := s.cfg.Roster().ByID(d.Peer)
	if !ok || machine.Quarantined {
		s.pages.failed(w, http.StatusNotFound, noDevice)
		return
	}
	key, err := s.formKey(r.Context())
	if err != nil {
		s.broken(w, "showing a form", err)
		return
	}
	s.pages.show(w, http.StatusOK, "consent.html", "", page{
		Title: "Connect " + machine.Name + "?", Client: c.Name, Machine: machine.Name, Wants: wants(strings.Fields(d.Scope)),
		Post: pathDecide, About: d.UserCode, User: u.Email, Ticket: seal(key, who, browser(r), next),
	})
}

// decide takes the decision about a device, once.
func (s *Server) decide(w http.ResponseWriter, r *http.Request, who peer.Peer) {
	get, t, ok := s.posted(w, r, who, stepDecide, "request")
	if !ok {
		return
	}
	if t.User == 0 {
		s.pages.failed(w, http.StatusForbidden, notFresh)
		return
	}
	denied := get("decision") != "allow"
	key, err := s.formKey(r.Context())
	if err != nil {
		s.broken(w, "deciding about a device", err)
		return
	}
	var d account.Device
	err = s.cfg.Store.Keep(r.Context(), func(tx account.Tx) (err error) {
		if d, _, err = findDevice(tx, t.About); err != nil {
			return err
		}
		if err := t.stands(tx, key); err != nil {
			return err
		}
		if err := tx.DecideDevice(d.UserCode, t.User, "", denied, time.Unix(t.At, 0), t.Methods); err != nil {
			return err
		}
		action := "oauth.agree"
		if denied {
			action = "oauth.refuse"
		}
		return tx.Record(account.Event{
			Actor: "user:" + t.User.String(), Action: action, Target: "client:" + d.Client, Detail: map[string]string{"peer": string(d.Peer)},
		})
	})
	switch {
	case errors.Is(err, account.ErrConflict), errors.Is(err, account.ErrNotFound):
		s.pages.failed(w, http.StatusConflict, noDevice)
	case errors.Is(err, errPassword):
		s.pages.failed(w, http.StatusForbidden, notFresh)
	case err != nil:
		s.broken(w, "deciding about a device", err)
	case denied:
		s.pages.done(w, "Refused", page{Problem: "The device was not connected. You can close this page."})
	default:
		s.pages.done(w, "Connected", page{Client: "The device goes on by itself within seconds. You can close this page."})
	}
}
