package auth

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
)

// twoHubs are two services on one PostgreSQL database, each with a connection
// of its own, as two hubs have it.
func twoHubs(t *testing.T) (*kit, http.Handler) {
	t.Helper()
	cfg := storetest.PostgresConfig(t)
	k := newKitOn(t, cfg, func(c *Config) { c.Passwords.Waiting = 100 })
	cfg.Now = k.clock.now
	far, err := store.Open(t.Context(), cfg)
	k.ok(err)
	t.Cleanup(func() { k.ok(far.Close()) })
	second := k.cfg
	second.Store, second.Data, second.Live = far.Accounts(), far.Data(), nil
	_, http := k.open(second)
	return k, http
}

// TestJ11_ManyAtOnceOnTwoHubs: one successor, whichever hub they come to.
func TestJ11_ManyAtOnceOnTwoHubs(t *testing.T) {
	k, far := twoHubs(t)
	first := k.setUp()
	hubs := []http.Handler{k.http, far}
	replies := make([]reply, 32)
	var all sync.WaitGroup
	for i := range replies {
		all.Go(func() {
			replies[i] = k.callOn(hubs[i%2], "ann-laptop", "POST", "/auth/refresh", "", fields{"refresh_token": first.RefreshToken})
		})
	}
	all.Wait()
	successor := ""
	for _, r := range replies {
		next := get[loginOut](k, r, 200).RefreshToken
		if successor != "" && next != successor {
			t.Fatal("there are two successors")
		}
		successor = next
	}
	get[loginOut](k, k.refresh("ann-laptop", successor), 200)
	k.want(k.callOn(far, "ann-laptop", "POST", "/auth/refresh", "", fields{"refresh_token": first.RefreshToken}), 401, "")
	k.clock.pass(time.Second)
	if k.alive("ann-laptop", first.AccessToken) {
		t.Error("the family lives on")
	}
}

// TestJ16_TwoHubsCountTogether: guessing at two hubs is no faster than at one.
func TestJ16_TwoHubsCountTogether(t *testing.T) {
	k, far := twoHubs(t)
	k.setUp()
	hubs := []http.Handler{k.http, far}
	codes := make([]int, 40)
	var all sync.WaitGroup
	for i := range codes {
		all.Go(func() {
			codes[i] = k.callOn(hubs[i%2], "thief", "POST", "/auth/login", "", fields{"email": "ann@example.org", "password": "wrong password"}).code
		})
	}
	all.Wait()
	judged := 0
	for _, code := range codes {
		if code == 401 {
			judged++
		} else if code != 429 {
			t.Errorf("%d", code)
		}
	}
	if judged != freeMachine {
		t.Errorf("%d were judged", judged)
	}
}
