package oauth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// browserCookie names the browser that opened a page: a machine may have more
// than one person. It says nothing about anybody and lasts as long as the
// browser runs.
const browserCookie = "warren_form"

// browser returns what the cookie says, "" if there is none that could be ours.
func browser(r *http.Request) string {
	c, err := r.Cookie(browserCookie)
	if err != nil || len(c.Value) != len(rand.Text()) {
		return ""
	}
	return c.Value
}

// meet returns the browser's name and gives it one if it has none.
func meet(w http.ResponseWriter, r *http.Request) string {
	if known := browser(r); known != "" {
		return known
	}
	name := rand.Text()
	http.SetCookie(w, &http.Cookie{
		Name: browserCookie, Value: name, Path: "/", HttpOnly: true,
		// Lax, not Strict: the way here may begin at the client's own site.
		// Inside the tunnel plain HTTP is private, and has to work.
		SameSite: http.SameSiteLaxMode, Secure: r.TLS != nil,
	})
	return name
}

// ticket is what a page gives its form, so that what is posted is known to come
// from it: of this peer, this browser, for this request.
type ticket struct {
	Step    string         `json:"s"` // what the form is for
	About   string         `json:"a"` // the request, or the user code
	Expires int64          `json:"e"`
	User    account.UserID `json:"u,omitempty"` // who has signed in
	At      int64          `json:"t,omitempty"` // when
	Methods []string       `json:"m,omitempty"`
	Mark    string         `json:"p,omitempty"` // of the password at that time
}

// errPassword says that a ticket is older than its person's password.
var errPassword = errors.New("the password was changed since the sign-in")

// passwordMark changes with a person's password and tells nothing about it.
func passwordMark(tx account.Tx, key []byte, u account.UserID) (string, error) {
	secrets, err := tx.Secrets(u)
	if err != nil {
		return "", fmt.Errorf("finding a person: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("password of " + u.String() + "\x00" + secrets.Password))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), nil
}

// stands reports with errPassword that a new password has ended what a ticket
// says: whoever signed in with the old one may be whom it was changed for.
func (t ticket) stands(tx account.Tx, key []byte) error {
	now, err := passwordMark(tx, key, t.User)
	if err == nil && !hmac.Equal([]byte(now), []byte(t.Mark)) {
		err = errPassword
	}
	return err
}

// seal writes a ticket for a peer and a browser.
func seal(key []byte, who peer.Peer, browser string, t ticket) string {
	text, err := json.Marshal(t)
	if err != nil { // strings and numbers marshal
		return ""
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return b64(text) + "." + b64(sealMAC(key, who, browser, text))
}

// unseal reads a ticket of a step and about something, false unless it was
// sealed for this peer and browser and is not over.
func unseal(key []byte, who peer.Peer, browser, raw, step, about string, now time.Time) (ticket, bool) {
	var t ticket
	text, mac, ok := strings.Cut(raw, ".")
	if !ok || browser == "" || len(raw) > 2<<10 {
		return t, false
	}
	body, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return t, false
	}
	sum, err := base64.RawURLEncoding.DecodeString(mac)
	if err != nil || !hmac.Equal(sum, sealMAC(key, who, browser, body)) || json.Unmarshal(body, &t) != nil {
		return ticket{}, false
	}
	if t.Step != step || t.About != about || now.Unix() >= t.Expires {
		return ticket{}, false
	}
	return t, true
}

func sealMAC(key []byte, who peer.Peer, browser string, text []byte) []byte {
	// The machine's key has a fixed length, the browser's name as well; the
	// rest is hashed. No two inputs run into each other.
	mac := hmac.New(sha256.New, key)
	mac.Write(who.PublicKey[:])
	id := sha256.Sum256([]byte(who.ID))
	mac.Write(id[:])
	name := sha256.Sum256([]byte(browser))
	mac.Write(name[:])
	mac.Write(text)
	return mac.Sum(nil)
}
