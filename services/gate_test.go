package services

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// Each credential in its good form, and everything else in the words that
// Jarvis' clients know.
func TestCase216to222_CredentialsAndTheirRefusals(t *testing.T) {
	const bearer = "Authorization: Bearer "
	for name, tc := range map[string]struct {
		need    Requirement
		headers []string
		status  int // 0: let in
		detail  string
	}{
		"nothing asked":           {any1(AsPeer), nil, 0, ""},
		"zero requirement":        {Requirement{}, nil, 403, "Nobody is let in here."},
		"credential of the moon":  {any1(99), nil, 403, "Nobody is let in here."},
		"person":                  {any1(AsUser), []string{bearer + "ann-token"}, 0, ""},
		"person, lower case":      {any1(AsUser), []string{"Authorization: bearer ann-token"}, 0, ""},
		"221 no Authorization":    {any1(AsUser), nil, 401, "Missing or invalid Authorization header"},
		"Basic":                   {any1(AsUser), []string{"Authorization: Basic YTpi"}, 401, "Missing or invalid Authorization header"},
		"Bearer of nothing":       {any1(AsUser), []string{"Authorization: Bearer"}, 401, "Missing or invalid Authorization header"},
		"two tokens in one":       {any1(AsUser), []string{bearer + "ann-token x"}, 401, "Missing or invalid Authorization header"},
		"two headers":             {any1(AsUser), []string{bearer + "ann-token", bearer + "ann-token"}, 401, "Missing or invalid Authorization header"},
		"longer than a token":     {any1(AsUser), []string{bearer + strings.Repeat("a", maxToken)}, 401, "Missing or invalid Authorization header"},
		"222 undecodable":         {any1(AsUser), []string{bearer + "x.y.z"}, 401, "Invalid token"},
		"expired":                 {any1(AsUser), []string{bearer + "old-token"}, 401, "Token has expired"},
		"node":                    {any1(AsNode), []string{"X-API-Key: kitchen:nk"}, 0, ""},
		"216 bogus node":          {any1(AsNode), []string{"X-API-Key: cellar:nk"}, 401, "Invalid API Key"},
		"217 no colon":            {any1(AsNode), []string{"X-API-Key: kitchen"}, 401, "Invalid API Key"},
		"no node key":             {any1(AsNode), nil, 401, "Invalid API Key"},
		"empty":                   {any1(AsNode), []string{"X-API-Key: "}, 401, "Invalid API Key"},
		"empty id":                {any1(AsNode), []string{"X-API-Key: :nk"}, 401, "Invalid API Key"},
		"empty key":               {any1(AsNode), []string{"X-API-Key: kitchen:"}, 401, "Invalid API Key"},
		"over-long":               {any1(AsNode), []string{"X-API-Key: kitchen:" + strings.Repeat("k", maxKey)}, 401, "Invalid API Key"},
		"not ASCII":               {any1(AsNode), []string{"X-API-Key: k\u00fcche:nk"}, 401, "Invalid API Key"},
		"two node keys":           {any1(AsNode), []string{"X-API-Key: kitchen:nk", "X-API-Key: kitchen:nk"}, 401, "Invalid API Key"},
		"app":                     {any1(AsApp), []string{"X-Jarvis-App-Id: cc", "X-Jarvis-App-Key: ak"}, 0, ""},
		"219 wrong app key":       {any1(AsApp), []string{"X-Jarvis-App-Id: cc", "X-Jarvis-App-Key: no"}, 401, "Invalid app credentials"},
		"220 no app headers":      {any1(AsApp), nil, 401, "Missing app credentials"},
		"only the id":             {any1(AsApp), []string{"X-Jarvis-App-Id: cc"}, 401, "Missing app credentials"},
		"two ids":                 {any1(AsApp), []string{"X-Jarvis-App-Id: cc", "X-Jarvis-App-Id: cc", "X-Jarvis-App-Key: ak"}, 401, "Invalid app credentials"},
		"admin":                   {any1(AsAdmin), []string{"X-API-Key: root.admin"}, 0, ""},
		"admin, second spelling":  {any1(AsAdmin), []string{"X-Jarvis-Admin-Token: root.admin"}, 0, ""},
		"admin, third":            {any1(AsAdmin), []string{"X-Admin-Token: root.admin"}, 0, ""},
		"218 wrong admin key":     {any1(AsAdmin), []string{"X-API-Key: root.no"}, 401, "Invalid Admin API Key"},
		"wrong admin token":       {any1(AsAdmin), []string{"X-Jarvis-Admin-Token: root.no"}, 401, "Unauthorized"},
		"223 no admin key":        {any1(AsAdmin), nil, 401, "Invalid Admin API Key"},
		"two admin keys":          {any1(AsAdmin), []string{"X-API-Key: root.admin", "X-Admin-Token: root.admin"}, 401, "Unauthorized"},
		"node key as admin's":     {any1(AsAdmin), []string{"X-API-Key: kitchen:nk"}, 401, "Invalid Admin API Key"},
		"app that is no admin":    {any1(AsAdmin), []string{"X-API-Key: cc:ak"}, 401, "Invalid Admin API Key"},
		"either, node":            {any1(AsAdmin, AsNode), []string{"X-API-Key: kitchen:nk"}, 0, ""},
		"either, admin":           {any1(AsNode, AsAdmin), []string{"X-API-Key: root.admin"}, 0, ""},
		"first present is judged": {any1(AsUser, AsNode), []string{bearer + "no", "X-API-Key: kitchen:nk"}, 401, "Invalid token"},
		"second is present":       {any1(AsUser, AsNode), []string{"X-API-Key: kitchen:nk"}, 0, ""},
		"none of two":             {any1(AsUser, AsNode), nil, 401, "Missing or invalid Authorization header"},
		"a token is no node key":  {any1(AsNode), []string{bearer + "ann-token"}, 401, "Invalid API Key"},
	} {
		k := newGated(t)
		c, why := k.try(k.from(peerAt(1, "10.77.1.1"), "/", tc.headers...), tc.need, "")
		switch {
		case tc.status == 0 && (why != nil || c.As == 0):
			t.Errorf("%s: refused: %v", name, why)
		case tc.status != 0 && (why == nil || why.Status != tc.status || why.Detail != tc.detail || c != nil):
			t.Errorf("%s: %+v, want %d %s", name, why, tc.status, tc.detail)
		case tc.status == 401 && tc.need.Any[0] == AsUser && !strings.HasPrefix(why.Challenge, "Bearer"):
			t.Errorf("%s: no challenge: %+v", name, why)
		}
	}
}

// A credential that is good on its own machine is nothing on another, even if
// whoever judges it forgets to look.
func TestJ08_CredentialOfAnotherMachine(t *testing.T) {
	k := newGated(t)
	thief := peerAt(2, "10.77.1.2")
	rekeyed := peerAt(1, "10.77.1.1")
	rekeyed.PublicKey = peer.PublicKey{9}
	for name, tc := range map[string]struct {
		need   Requirement
		header []string
		detail string
	}{
		"token":    {any1(AsUser), []string{"Authorization: Bearer ann-token"}, "Invalid token"},
		"node key": {any1(AsNode), []string{"X-API-Key: kitchen:nk"}, "Invalid API Key"},
		"app key":  {any1(AsApp), []string{"X-Jarvis-App-Id: cc", "X-Jarvis-App-Key: ak"}, "Invalid app credentials"},
	} {
		if _, why := k.try(k.from(peerAt(1, "10.77.1.1"), "/", tc.header...), tc.need, ""); why != nil {
			t.Fatalf("%s on its own machine: %v", name, why)
		}
		if _, why := k.try(k.from(thief, "/", tc.header...), tc.need, ""); why == nil || why.Status != 401 || why.Detail != tc.detail {
			t.Errorf("%s on another machine: %+v", name, why)
		}
		if _, why := k.try(k.from(rekeyed, "/", tc.header...), tc.need, ""); why == nil || why.Status != 403 {
			t.Errorf("%s from a key that the roster does not have: %+v", name, why)
		}
	}
	// The machine has a new key: the session's is not that.
	k.who.set(t, rekeyed, thief)
	if _, why := k.try(k.from(rekeyed, "/", "Authorization: Bearer ann-token"), any1(AsUser), ""); why != refuseToken {
		t.Errorf("a session of the machine's last key: %+v", why)
	}
}

func TestGateLooksAtTheMachineAsItIsNow(t *testing.T) {
	k := newGated(t)
	a := peerAt(1, "10.77.1.1")
	quarantined, invite := a, a
	quarantined.Quarantined, invite.Kind = true, peer.KindInvite
	for name, change := range map[string]func(){
		"removed":     func() { k.who.set(t) },
		"quarantined": func() { k.who.set(t, quarantined) },
		"invite":      func() { k.who.set(t, invite) },
		"no roster":   func() { k.who.p.Store(nil) },
	} {
		change()
		if _, why := k.try(k.from(a, "/"), any1(AsPeer), ""); why != refusePeer {
			t.Errorf("%s: %+v", name, why)
		}
	}
	k.who.set(t, a)
	if _, why := k.try(k.from(peer.Peer{}, "/"), any1(AsPeer), ""); why != refusePeer {
		t.Errorf("nobody: %+v", why)
	}
	if k.desk.asked != 0 {
		t.Errorf("%d look-ups for machines that may not call", k.desk.asked)
	}
}

func TestGateWithoutAPartRefusesEverybody(t *testing.T) {
	for name, remove := range map[string]func(*GateConfig){
		"authority": func(c *GateConfig) { c.Authority = nil },
		"roster":    func(c *GateConfig) { c.Roster = nil },
		"grants":    func(c *GateConfig) { c.Grants = nil },
		"limit":     func(c *GateConfig) { c.Limit = nil },
		"live":      func(c *GateConfig) { c.Live = nil },
	} {
		k := newGated(t, remove)
		if _, why := k.try(k.from(peerAt(1, "10.77.1.1"), "/"), any1(AsPeer), ""); why != refuseUnready {
			t.Errorf("without %s: %+v", name, why)
		}
	}
	var none *Gate
	if _, _, _, _, err := none.Admit(newGated(t).from(peerAt(1, "10.77.1.1"), "/"), "", any1(AsPeer), nil); err != refuseUnready {
		t.Errorf("no gate: %v", err)
	}
}

func TestGateAsksThePolicyForTheCapability(t *testing.T) {
	k := newGated(t)
	need := Requirement{Any: []Credential{AsPeer}, Capability: "warren.internal/cap/speak"}
	a := peerAt(1, "10.77.1.1")
	if _, why := k.try(k.from(a, "/"), need, ""); why != refuseGrant {
		t.Errorf("not granted: %+v", why)
	}
	k.grants["warren.internal/cap/other"] = []json.RawMessage{[]byte("{}")}
	if _, why := k.try(k.from(a, "/"), need, ""); why != refuseGrant {
		t.Errorf("another granted: %+v", why)
	}
	k.grants[need.Capability] = []json.RawMessage{[]byte(`{"voice":"low"}`)}
	c, why := k.try(k.from(a, "/"), need, "")
	if why != nil || string(c.Grants(need.Capability)[0]) != `{"voice":"low"}` {
		t.Errorf("granted: %+v", why)
	}
}

// What the checks fail with is no yes and no no, and its text is not the
// caller's to read, nor the log's where it repeats a key.
func TestGateThatCannotAskRefuses(t *testing.T) {
	k := newGated(t)
	k.desk.broken = errors.New("the store is away: looked for ann-token and kitchen:nk")
	for header, need := range map[string]Requirement{
		"Authorization: Bearer ann-token": any1(AsUser),
		"X-API-Key: kitchen:nk":           any1(AsNode),
		"X-Admin-Token: root.admin":       any1(AsAdmin),
	} {
		if _, why := k.try(k.from(peerAt(1, "10.77.1.1"), "/", header), need, ""); why != refuseCheck {
			t.Errorf("%s: %+v", header, why)
		}
	}
	if log := k.log.String(); strings.Count(log, "the store is away") != 3 || strings.Count(log, "(redacted)") != 2 {
		t.Errorf("log: %s", log)
	}
	k = newGated(t, func(c *GateConfig) { c.Limit = brokenLimiter{} })
	if _, why := k.try(k.from(peerAt(1, "10.77.1.1"), "/"), any1(AsPeer), ""); why != refuseCount {
		t.Errorf("limiter away: %+v", why)
	}
	if k.desk.asked != 0 {
		t.Error("a request that could not be counted was looked up")
	}
}

type brokenLimiter struct{}

func (brokenLimiter) Take(context.Context, string, ...Rate) (Allowance, error) {
	return Allowance{Allowed: true}, errors.New("away")
}

func TestAccessIsToldOfPeopleOnly(t *testing.T) {
	var told []string
	k := newGated(t, func(c *GateConfig) {
		c.Access = func(c *Caller, method, route string, status int) {
			told = append(told, strings.Join([]string{c.Actor(), method, route, http.StatusText(status)}, " "))
		}
	})
	a := peerAt(1, "10.77.1.1")
	k.try(k.from(a, "/"), any1(AsPeer), "")
	k.try(k.from(a, "/", "X-API-Key: kitchen:nk"), any1(AsNode), "")
	k.try(k.from(a, "/", "Authorization: Bearer no"), any1(AsUser), "")
	k.try(k.from(a, "/", "Authorization: Bearer ann-token"), any1(AsUser), "")
	if len(told) != 1 || told[0] != "user:1 GET GET / OK" {
		t.Errorf("told: %q", told)
	}
	if n := k.cfg.Live.Count(); n != 0 {
		t.Errorf("%d requests left running", n)
	}
}

// stuckDesk answers nothing about nodes from the n-th question on. While the
// first answer is on its way something happens.
type stuckDesk struct {
	*desk
	n         int
	meanwhile func()
}

func (d *stuckDesk) Node(ctx context.Context, p peer.Peer, id, key, service string) (account.Node, error) {
	if d.n--; d.n <= 0 {
		<-ctx.Done()
		return account.Node{}, ctx.Err()
	}
	node, err := d.desk.Node(ctx, p, id, key, service)
	if f := d.meanwhile; f != nil {
		d.meanwhile = nil
		f()
	}
	return node, err
}

// An authority that does not answer costs a caller the time of one check, the
// second time as well, when the check is repeated beside a round.
func TestGateRunsWithinATime(t *testing.T) {
	for name, n := range map[string]int{"the first": 1, "again": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newGated(t)
				k.Gate.cfg.Authority = &stuckDesk{k.desk, n, k.cfg.Live.Judge}
				start := time.Now()
				ctx, cancel := context.WithTimeout(peer.NewContext(t.Context(), peerAt(1, "10.77.1.1")), time.Hour)
				defer cancel()
				r := k.from(peerAt(1, "10.77.1.1"), "/", "X-API-Key: kitchen:nk").WithContext(ctx)
				if _, why := k.try(r, any1(AsNode), ""); why != refuseCheck || time.Since(start) > checkTimeout {
					t.Errorf("after %v: %+v", time.Since(start), why)
				}
			})
		})
	}
}

// What was lost while the first check ran, the handler does not see.
func TestCallerIsThatOfTheLastCheck(t *testing.T) {
	k := newGated(t)
	k.Gate.cfg.Authority = &stuckDesk{k.desk, 3, func() {
		k.desk.set(func() {
			n := k.desk.nodes["kitchen:nk"]
			n.Household = other
			k.desk.nodes["kitchen:nk"] = n
		})
		k.cfg.Live.Judge()
	}}
	c, why := k.try(k.from(peerAt(1, "10.77.1.1"), "/", "X-API-Key: kitchen:nk"), any1(AsNode), "")
	if why != nil || c.Scope().Household() != other {
		t.Errorf("%+v %+v", c, why)
	}
}
