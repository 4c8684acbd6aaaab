package services

import (
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/peer/account"
)

func TestRoleSuperuserAndHousehold(t *testing.T) {
	ann, bob := "Authorization: Bearer ann-token", "Authorization: Bearer bob-token"
	node, admin := "X-API-Key: kitchen:nk", "X-Admin-Token: root.admin"
	in := func(need Requirement) Requirement { need.Household = "h"; return need }
	for name, tc := range map[string]struct {
		peer   byte
		header string
		need   Requirement
		path   account.HouseholdID
		why    *Refusal
		scope  account.Scope
		role   account.Role
	}{
		"own household":              {1, ann, Requirement{Any: []Credential{AsUser}, Role: account.Admin}, "", nil, account.NewScope(home, 1), account.Admin},
		"named household":            {1, ann, in(any1(AsUser)), home, nil, account.NewScope(home, 1), account.Admin},
		"another household":          {1, ann, in(any1(AsUser)), other, refuseHome, account.Scope{}, 0},
		"no such household":          {1, ann, in(any1(AsUser)), nobody, refuseHome, account.Scope{}, 0},
		"no household":               {1, ann, in(any1(AsUser)), "", refuseHome, account.Scope{}, 0},
		"a novel":                    {1, ann, in(any1(AsUser)), account.HouseholdID(strings.Repeat("x", 65)), refuseHome, account.Scope{}, 0},
		"person without household":   {2, bob, any1(AsUser), "", nil, account.Scope{}, 0},
		"role without household":     {2, bob, Requirement{Any: []Credential{AsUser}, Role: account.Member}, "", refuseRole, account.Scope{}, 0},
		"superuser":                  {2, bob, Requirement{Any: []Credential{AsUser}, Superuser: true}, "", nil, account.Scope{}, 0},
		"superuser is no member":     {2, bob, in(any1(AsUser)), home, refuseHome, account.Scope{}, 0},
		"no superuser":               {1, ann, Requirement{Any: []Credential{AsUser}, Superuser: true}, "", refuseSuper, account.Scope{}, 0},
		"admin key for a superuser":  {1, admin, Requirement{Any: []Credential{AsUser, AsAdmin}, Superuser: true}, "", nil, account.Scope{}, 0},
		"node for a superuser":       {1, node, Requirement{Any: []Credential{AsNode}, Superuser: true}, "", refuseSuper, account.Scope{}, 0},
		"machine for a superuser":    {1, "", Requirement{Any: []Credential{AsPeer}, Superuser: true}, "", refuseSuper, account.Scope{}, 0},
		"machine for a role":         {1, "", Requirement{Any: []Credential{AsPeer}, Role: account.Member}, "", refuseRole, account.Scope{}, 0},
		"machine in a household":     {1, "", in(any1(AsPeer)), home, refuseHome, account.Scope{}, 0},
		"node":                       {1, node, any1(AsNode), "", nil, account.NewScope(home, 0), 0},
		"node in its household":      {1, node, in(any1(AsNode)), home, nil, account.NewScope(home, 0), 0},
		"node in another":            {1, node, in(any1(AsNode)), other, refuseHome, account.Scope{}, 0},
		"app without household":      {1, "X-Jarvis-App-Id: cc", any1(AsApp), "", nil, account.Scope{}, 0},
		"app in its list":            {1, "X-Jarvis-App-Id: cc", in(any1(AsApp)), home, nil, account.NewScope(home, 0), 0},
		"app not in its list":        {1, "X-Jarvis-App-Id: cc", in(any1(AsApp)), other, refuseHome, account.Scope{}, 0},
		"admin asks about any":       {1, admin, in(any1(AsAdmin)), other, nil, account.NewScope(other, 0), 0},
		"admin asks about none real": {1, admin, in(any1(AsAdmin)), nobody, refuseHome, account.Scope{}, 0},
	} {
		k := newGated(t)
		r := k.from(peerAt(tc.peer, "10.77.1.1"), "/")
		if header, value, ok := strings.Cut(tc.header, ": "); ok {
			r.Header.Set(header, value)
		}
		if r.Header.Get("X-Jarvis-App-Id") != "" {
			r.Header.Set("X-Jarvis-App-Key", "ak")
		}
		c, why := k.try(r, tc.need, tc.path)
		switch {
		case why != tc.why:
			t.Errorf("%s: %+v, want %+v", name, why, tc.why)
		case why == nil && (c.Scope() != tc.scope || c.Role != tc.role):
			t.Errorf("%s: scope %v role %v", name, c.Scope(), c.Role)
		}
	}
}

// A role counts as it is stored now, and a session's household only while its
// person belongs there.
func TestRoleIsThatOfNow(t *testing.T) {
	k := newGated(t)
	ann := k.from(peerAt(1, "10.77.1.1"), "/", "Authorization: Bearer ann-token")
	k.desk.roles[1][home] = account.Member
	if _, why := k.try(ann, Requirement{Any: []Credential{AsUser}, Role: account.PowerUser}, ""); why != refuseRole {
		t.Errorf("member as power user: %+v", why)
	}
	delete(k.desk.roles[1], home)
	if _, why := k.try(ann, Requirement{Any: []Credential{AsUser}, Role: account.Member}, ""); why != refuseHome {
		t.Errorf("left the household: %+v", why)
	}
	c, why := k.try(ann, any1(AsUser), "")
	if why != nil || c.Scope() != (account.Scope{}) || c.Role != account.None {
		t.Errorf("left the household, on a route that asks for no role: %+v %+v", c, why)
	}
}

// The policy's word on where a machine belongs stands above who sits at it, and
// above which machine a node says it is.
func TestT02_MachineOfAnotherHousehold(t *testing.T) {
	for label, want := range map[string]*Refusal{"": nil, "home": nil, "guests": refuseHome} {
		k := newGated(t)
		p := peerAt(1, "10.77.1.1")
		p.Household = label
		k.who.set(t, p)
		for header, need := range map[string]Requirement{
			"Authorization: Bearer ann-token": {Any: []Credential{AsUser}, Household: "h"},
			"X-API-Key: kitchen:nk":           {Any: []Credential{AsNode}, Household: "h"},
			"X-Admin-Token: root.admin":       {Any: []Credential{AsAdmin}, Household: "h"},
		} {
			// The request's context knows the machine as it was at connecting.
			if _, why := k.try(k.from(peerAt(1, "10.77.1.1"), "/", header), need, home); why != want {
				t.Errorf("machine of %q with %s: %+v", label, header, why)
			}
		}
		c, why := k.try(k.from(p, "/", "Authorization: Bearer ann-token"), any1(AsUser), "")
		if why != nil || (c.Scope() == account.Scope{}) != (want != nil) {
			t.Errorf("machine of %q without naming the household: %+v %+v", label, c, why)
		}
		if _, why := k.try(k.from(p, "/", "X-API-Key: kitchen:nk"), any1(AsNode), ""); why != want {
			t.Errorf("node on a machine of %q: %+v", label, why)
		}
		k.desk.homes[home] = account.Household{ID: home}
		if _, why := k.try(k.from(p, "/", "Authorization: Bearer ann-token"), Requirement{Any: []Credential{AsUser}, Household: "h"}, home); why != nil {
			t.Errorf("machine of %q in a household without a label: %+v", label, why)
		}
	}
}

func TestAppsProveThemselvesAsConfigured(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	cert := func(from, to time.Duration, names ...string) *x509.Certificate {
		return &x509.Certificate{DNSNames: names, NotBefore: now.Add(from), NotAfter: now.Add(to)}
	}
	good := cert(-time.Hour, time.Hour, "peer1", "peer1.warren.internal")
	key, id := "X-Jarvis-App-Key: ak", "X-Jarvis-App-Id: cc"
	for name, tc := range map[string]struct {
		by      AppProof
		leaf    *x509.Certificate
		headers []string
		why     *Refusal
	}{
		"key":                        {ByKey, nil, []string{id, key}, nil},
		"key, certificate not asked": {ByKey, good, nil, refuseNoApp},
		"certificate":                {ByCertificate, good, nil, nil},
		"certificate, only a key":    {ByCertificate, nil, []string{id, key}, refuseNoApp},
		"both":                       {ByBoth, good, []string{id, key}, nil},
		"both, no key":               {ByBoth, good, nil, refuseNoApp},
		"both, no certificate":       {ByBoth, nil, []string{id, key}, refuseNoApp},
		"both, certificate of peer2": {ByBoth, cert(-1, 1, "peer2"), []string{id, key}, refuseApp},
		"either by key":              {ByEither, nil, []string{id, key}, nil},
		"either by certificate":      {ByEither, good, nil, nil},
		"either, nothing":            {ByEither, nil, nil, refuseNoApp},
		"a proof that is none":       {99, good, []string{id, key}, refuseNoApp},
		"another peer's":             {ByCertificate, cert(-1, 1, "peer2"), nil, refuseApp},
		"its own and another's":      {ByCertificate, cert(-1, 1, "peer1", "peer2"), nil, refuseApp},
		"a wildcard":                 {ByCertificate, cert(-1, 1, "*.warren.internal"), nil, refuseApp},
		"another domain":             {ByCertificate, cert(-1, 1, "peer1.example.org"), nil, refuseApp},
		"no name":                    {ByCertificate, cert(-1, 1), nil, refuseApp},
		"expired since connecting":   {ByCertificate, cert(-2, -1, "peer1"), nil, refuseApp},
		"not yet valid":              {ByCertificate, cert(1, 2, "peer1"), nil, refuseApp},
	} {
		k := newGated(t, func(c *GateConfig) { c.Apps, c.Now = tc.by, func() time.Time { return now } })
		r := k.from(peerAt(1, "10.77.1.1"), "/", tc.headers...)
		if tc.leaf != nil {
			r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{tc.leaf}}, PeerCertificates: []*x509.Certificate{tc.leaf}}
		}
		if _, why := k.try(r, any1(AsApp), ""); why != tc.why {
			t.Errorf("%s: %+v, want %+v", name, why, tc.why)
		}
	}
	// A certificate that was sent and not verified is none.
	k := newGated(t, func(c *GateConfig) { c.Apps = ByCertificate })
	r := k.from(peerAt(1, "10.77.1.1"), "/")
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{good}}
	if _, why := k.try(r, any1(AsApp), ""); why != refuseNoApp {
		t.Errorf("not verified: %+v", why)
	}
}

// A key in a URL is refused even if it would do, and even where none is asked:
// it is in somebody's history now.
func TestK02_KeyInURL(t *testing.T) {
	k := newGated(t)
	a := peerAt(1, "10.77.1.1")
	for name := range inURL {
		for _, spelled := range []string{name, strings.ToUpper(name), strings.ReplaceAll(name, "_", "-")} {
			for header, need := range map[string]Requirement{"X: y": any1(AsPeer), "Authorization: Bearer ann-token": any1(AsUser)} {
				if _, why := k.try(k.from(a, "/x?a=b&"+spelled+"=ann-token", header), need, ""); why != refuseInURL {
					t.Errorf("%s: %+v", spelled, why)
				}
			}
		}
	}
	if _, why := k.try(k.from(a, "/x?%61ccess_token=ann-token"), any1(AsPeer), ""); why != refuseInURL {
		t.Errorf("escaped name: %+v", why)
	}
	for _, query := range []string{"a;access_token=x", "%zz=1"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.RawQuery = query
		if _, why := k.try(r.WithContext(k.from(a, "/").Context()), any1(AsPeer), ""); why != refuseQuery {
			t.Errorf("%s: %+v", query, why)
		}
	}
	if _, why := k.try(k.from(a, "/x?category=key&code=1&state=token"), any1(AsPeer), ""); why != nil {
		t.Errorf("plain words: %+v", why)
	}
}

func TestK02_KeyOfAnotherService(t *testing.T) {
	k := newGated(t, func(c *GateConfig) { c.Service = "hooks" })
	a := peerAt(1, "10.77.1.1")
	if _, why := k.try(k.from(a, "/", "X-API-Key: kitchen:nk"), any1(AsNode), ""); why == nil || why.Detail != "Invalid API Key" {
		t.Errorf("node: %+v", why)
	}
	if _, why := k.try(k.from(a, "/", "X-Jarvis-App-Id: cc", "X-Jarvis-App-Key: ak"), any1(AsApp), ""); why == nil || why.Detail != "Invalid app credentials" {
		t.Errorf("app: %+v", why)
	}
}
