package oauth_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer/account"
)

// TestJ14_NewPasswordInBetween: a new password ends every session, and so it
// ends what was agreed to with the old one and would become a session: who
// learnt the old password does not keep a foot in the door.
func TestJ14_NewPasswordInBetween(t *testing.T) {
	k := newKit(t)
	consent := k.browse("bob-phone", request(k.public, callback)).signIn()
	code := k.code("bob-phone", k.public, callback)
	_, user := k.ask("kitchen")
	decide := k.typeCode(user)
	agreed, user2 := k.ask("kitchen")
	k.typeCode(user2).submit("decision", "allow")

	k.ok(k.auth.SetPassword(t.Context(), "hub", k.ann.ID, password+" 2", false))

	k.redeem("bob-phone", code).refused(t, "the code", "invalid_grant")
	k.poll("kitchen", agreed).refused(t, "the device", "invalid_grant")
	if got := consent.submit("decision", "allow"); got.code != http.StatusForbidden {
		t.Errorf("the consent page: %d %s", got.code, got.header.Get("Location"))
	}
	if got := decide.submit("decision", "allow"); got.code != http.StatusForbidden || strings.Contains(got.text, "Connected") {
		t.Errorf("the page about a device: %d", got.code)
	}
}

// failing is a store whose next transaction does everything and then fails.
type failing struct {
	account.Store
	next atomic.Bool
}

func (f *failing) Keep(ctx context.Context, fn func(account.Tx) error) error {
	return f.Store.Keep(ctx, func(tx account.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		if f.next.CompareAndSwap(true, false) {
			return errors.New("the disk is full")
		}
		return nil
	})
}

// TestFormKeyIsTheStoredOne: a key of the forms that was made and not stored is
// nobody's: two hubs on one store would not read each other's pages.
func TestFormKeyIsTheStoredOne(t *testing.T) {
	k := newKitOn(t, storetest.Config(t))
	f := &failing{Store: k.accounts}
	k.accounts = f
	k.open()
	f.next.Store(true)
	if got := k.browse("ann-laptop", "/device"); got.code != http.StatusInternalServerError {
		t.Fatalf("the page is shown without a key: %d", got.code)
	}
	page := k.browse("ann-laptop", "/device")
	k.open() // another hub, or this one started again
	if got := page.submit("email", "ann@example.org", "password", password, "user_code", "BBBB-BBBB"); got.code != http.StatusNotFound {
		t.Errorf("a form of the one hub, posted to the other: %d %s", got.code, got.text)
	}
}

// TestOtherSitesSpeakForNobody: the machine's address is what a browser shows
// for every page, so a page of another site could begin sign-ins until a
// person's own has no room any more, or use up what it has stolen.
func TestOtherSitesSpeakForNobody(t *testing.T) {
	k := newKit(t)
	code := k.code("ann-laptop", k.public, callback)
	c := k.client("ann-laptop")
	for what, header := range map[string]http.Header{
		"another site":   {"Sec-Fetch-Site": {"cross-site"}},
		"a neighbour":    {"Sec-Fetch-Site": {"same-site"}},
		"an old browser": {"Origin": {"https://evil.example"}},
		"no origin":      {"Origin": {"null"}},
	} {
		for path, v := range map[string]url.Values{
			"/oauth/token":                redemption(k.public, code, callback),
			"/oauth/revoke":               {"client_id": {k.public.ID}, "token": {"x"}},
			"/oauth/introspect":           {"client_id": {k.secret.ID}, "client_secret": {k.secretText}, "token": {"x"}},
			"/oauth/device_authorization": {"client_id": {k.device.ID}},
		} {
			if r := k.send(c, path, v, header); r.code != http.StatusForbidden || r.Access != "" {
				t.Errorf("%s, %s: %d", path, what, r.code)
			}
		}
	}
	if r := k.redeem("ann-laptop", code); r.code != http.StatusOK {
		t.Errorf("the program itself, afterwards: %d %s", r.code, r.Error)
	}
	for to, want := range map[string]int{"document": http.StatusOK, "image": http.StatusForbidden, "iframe": http.StatusForbidden, "empty": http.StatusForbidden} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, issuer+request(k.public, callback), nil)
		k.ok(err)
		req.Header.Set("Sec-Fetch-Dest", to)
		resp, err := c.Do(req)
		if got := (&page{k: k, http: c}).shows(resp, err); got.code != want {
			t.Errorf("to %s: %d", to, got.code)
		}
	}
}
