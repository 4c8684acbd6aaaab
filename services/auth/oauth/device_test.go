package oauth_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// ask begins the device grant on a machine.
func (k *kit) ask(machine string) (code, user string) {
	k.Helper()
	r := k.call(machine, "/oauth/device_authorization", url.Values{"client_id": {k.device.ID}, "scope": {"openid warren"}})
	code, _ = r.all["device_code"].(string)
	user, _ = r.all["user_code"].(string)
	if r.code != http.StatusOK || code == "" || len(user) != 9 {
		k.Fatalf("%d %v", r.code, r.all)
	}
	return code, user
}

func (k *kit) poll(machine, code string, pairs ...string) reply {
	k.Helper()
	v := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {code}, "client_id": {k.device.ID}}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return k.call(machine, "/oauth/token", v)
}

// typeCode is what ann does on her laptop.
func (k *kit) typeCode(user string) *page {
	k.Helper()
	return k.browse("ann-laptop", "/device").submit("email", "ann@example.org", "password", password, "user_code", user)
}

func TestDeviceGrantPolling(t *testing.T) {
	k := newKit(t)
	code, user := k.ask("kitchen")
	k.poll("kitchen", code).refused(t, "at first", "authorization_pending")
	k.poll("kitchen", code).refused(t, "at once again", "slow_down")
	k.pass(3 * time.Second)
	k.poll("kitchen", code).refused(t, "after three seconds", "slow_down")
	k.pass(4 * time.Second)
	k.poll("kitchen", code).refused(t, "after four seconds", "authorization_pending")

	// Others see nothing of it, and do not slow the device down.
	for what, r := range map[string]reply{
		"another machine":   k.poll("bob-phone", code),
		"the person's own":  k.poll("ann-laptop", code),
		"another client":    k.poll("kitchen", code, "client_id", k.public.ID),
		"no such code":      k.poll("kitchen", "made-up"),
		"the user code":     k.poll("kitchen", user),
		"the code's hash":   k.poll("kitchen", string(sum(code)[:4])+"x"),
		"a client's secret": k.poll("kitchen", code, "client_secret", "x"),
	} {
		if r.Access != "" || r.Error != "invalid_grant" && r.Error != "unauthorized_client" && r.Error != "invalid_client" && r.Error != "invalid_request" {
			t.Errorf("%s: %d %s", what, r.code, r.Error)
		}
	}
	k.pass(5 * time.Second)
	k.poll("kitchen", code).refused(t, "five seconds later", "authorization_pending")

	p := k.typeCode(" " + strings.ToLower(strings.ReplaceAll(user, "-", " ")))
	if p = p.submit("decision", "allow"); !strings.Contains(p.text, "Connected") {
		t.Fatalf("%d %s", p.code, p.text)
	}
	k.poll("bob-phone", code).refused(t, "another machine when it is decided", "invalid_grant")
	k.poll("ann-laptop", code).refused(t, "the machine that decided", "invalid_grant")
	r := k.poll("kitchen", code)
	if r.code != http.StatusOK || !k.opens("kitchen", r.Access) || k.opens("ann-laptop", r.Access) || k.opens("bob-phone", r.Access) {
		t.Fatalf("%d %s: not the kitchen's token", r.code, r.Error)
	}
	k.poll("kitchen", code).refused(t, "again", "invalid_grant")
	if !k.opens("kitchen", r.Access) {
		t.Error("asking again ended the session")
	}
	if fresh := k.refresh("kitchen", k.device, r.Refresh); fresh.code != http.StatusOK || !k.opens("kitchen", fresh.Access) {
		t.Errorf("refresh: %d %s", fresh.code, fresh.Error)
	}
}

func TestDeviceGrantDenied(t *testing.T) {
	k := newKit(t)
	code, user := k.ask("kitchen")
	p := k.typeCode(user).submit("decision", "deny")
	if p.code != http.StatusOK || !strings.Contains(p.text, "Refused") {
		t.Fatalf("%d %s", p.code, p.text)
	}
	k.poll("kitchen", code).refused(t, "after it was refused", "access_denied")
	// There is no second opinion.
	if p := k.typeCode(user); p.code != http.StatusNotFound {
		t.Errorf("the code can be typed again: %d", p.code)
	}
	k.poll("bob-phone", code).refused(t, "another machine", "invalid_grant")
}

func TestDeviceGrantExpires(t *testing.T) {
	k := newKit(t)
	code, user := k.ask("kitchen")
	decided, other := k.ask("stt")
	late := k.typeCode(user)
	if p := k.typeCode(other).submit("decision", "allow"); !strings.Contains(p.text, "Connected") {
		t.Fatalf("%d", p.code)
	}
	k.pass(10 * time.Minute)
	k.poll("kitchen", code).refused(t, "after ten minutes", "expired_token")
	k.poll("stt", decided).refused(t, "decided, after ten minutes", "expired_token")
	if p := late.submit("decision", "allow"); p.code == http.StatusOK {
		t.Errorf("decided after it was over: %d", p.code)
	}
	if p := k.typeCode(user); p.code != http.StatusNotFound {
		t.Errorf("typed after it was over: %d", p.code)
	}
	k.poll("kitchen", code).refused(t, "still", "expired_token")
}

// TestDeviceGrantParallel: one of 32 polls gets the session, on both engines.
func TestDeviceGrantParallel(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		k := newKitOn(t, cfg)
		code, user := k.ask("kitchen")
		k.typeCode(user).submit("decision", "allow")
		replies := make([]reply, 32)
		var all sync.WaitGroup
		for i := range replies {
			all.Go(func() { replies[i] = k.poll("kitchen", code) })
		}
		all.Wait()
		won := 0
		for _, r := range replies {
			if r.code == http.StatusOK {
				won++
			} else {
				r.refused(t, "a loser", "invalid_grant")
			}
		}
		if won != 1 {
			t.Errorf("%d of 32 got tokens", won)
		}
	})
}

// TestDevicePage: whether there is a device is told to who has signed in, and a
// guess costs a sign-in.
func TestDevicePage(t *testing.T) {
	k := newKit(t)
	_, user := k.ask("kitchen")
	wrong := k.browse("ann-laptop", "/device").submit("email", "ann@example.org", "password", "wrong", "user_code", user)
	none := k.browse("ann-laptop", "/device").submit("email", "ann@example.org", "password", "wrong", "user_code", "BBBB-BBBB")
	if wrong.code != http.StatusUnauthorized || none.code != wrong.code || strings.Contains(wrong.text, "kitchen") || len(wrong.text) != len(none.text) {
		t.Errorf("%d and %d: a wrong password tells of the device", wrong.code, none.code)
	}
	for _, typed := range []string{"BBBB-BBBB", "", "A", user + user, "' OR 1=1", strings.Repeat("B", 40)} {
		if p := k.typeCode(typed); p.code != http.StatusNotFound || !strings.Contains(p.text, "No device waits") {
			t.Errorf("%q: %d", typed, p.code)
		}
	}
	if p := k.browse("ann-laptop", "/device?user_code="+url.QueryEscape(`"><script>alert(1)</script>`)); strings.Contains(p.text, "<script") {
		t.Errorf("a script in the code: %d", p.code)
	}
	if p := k.browse("ann-laptop", "/device?user_code="+user); !strings.Contains(p.text, `value="`+user+`"`) {
		t.Error("the code of the complete address is not filled in")
	}

	// A machine that was quarantined since it asked gets nobody's tokens.
	peers := k.roster.Load().All()
	out := append([]peer.Peer(nil), peers...)
	for i := range out {
		out[i].Quarantined = out[i].Name == "kitchen"
	}
	k.setRoster(out)
	if p := k.typeCode(user); p.code != http.StatusNotFound {
		t.Errorf("a quarantined machine's code: %d", p.code)
	}
}

func TestDeviceGrantIsForSomeClients(t *testing.T) {
	k := newKit(t)
	for _, c := range []account.Client{k.public, k.own, k.other} {
		k.call("kitchen", "/oauth/device_authorization", url.Values{"client_id": {c.ID}}).refused(t, c.Name, "unauthorized_client")
	}
	k.call("kitchen", "/oauth/device_authorization", url.Values{"client_id": {"nobody"}}).refused(t, "nobody", "invalid_client")
	k.call("kitchen", "/oauth/device_authorization", url.Values{}).refused(t, "no client", "invalid_request")
	k.call("kitchen", "/oauth/device_authorization?client_id="+k.device.ID, url.Values{}).refused(t, "in the URL", "invalid_request")
	k.call("ann-laptop", "/oauth/token", redemption(k.device, "x", callback)).refused(t, "a code for a device's client", "unauthorized_client")
	// Without a scope the token says who somebody is.
	r := k.call("kitchen", "/oauth/device_authorization", url.Values{"client_id": {k.device.ID}})
	code, _ := r.all["device_code"].(string)
	user, _ := r.all["user_code"].(string)
	k.typeCode(user).submit("decision", "allow")
	if r := k.poll("kitchen", code); r.code != http.StatusOK || r.ID != "" || k.opens("kitchen", r.Access) || !k.works("kitchen", r.Access) {
		t.Errorf("%d %s, scope %q", r.code, r.Error, r.Scope)
	}
}
