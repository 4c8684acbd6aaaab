package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/certs"
)

const domain = "warren.internal"

var (
	networks = []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16"), netip.MustParsePrefix("fd77::/64")}
	kitchen  = certs.Subject{ID: "p1", Names: []string{"kitchen." + domain}, Addrs: addrs("10.77.1.5", "fd77::105")}
	stt      = certs.Subject{ID: "hub", Names: []string{"stt." + domain}, Addrs: addrs("10.77.0.9", "fd77::9")}
)

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// clock is a clock that a test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func authority(t *testing.T, c *clock) *certs.Authority {
	t.Helper()
	root, err := certs.NewRoot(domain, networks, c.t)
	if err != nil {
		t.Fatal(err)
	}
	return withRoots(t, c, root)
}

func withRoots(t *testing.T, c *clock, roots ...*certs.Root) *certs.Authority {
	t.Helper()
	a, err := certs.New(roots, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// holder is a machine with a key and what the hub vouched for it.
type holder struct {
	key  *ecdsa.PrivateKey
	pair certs.Pair
}

func enrolled(t *testing.T, a *certs.Authority, s certs.Subject) holder {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := a.Issue(request(t, key), s)
	if err != nil {
		t.Fatal(err)
	}
	return holder{key, pair}
}

// request asks for everything; what it asks for must not matter.
func request(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "hub." + domain}, DNSNames: []string{"hub." + domain, "example.org"},
		IPAddresses: []net.IP{net.IPv4(10, 77, 0, 1)},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (h holder) certificate(t *testing.T, text []byte) tls.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: h.key}
}

// handshake connects a client with a server and returns both errors.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	b, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(a, server)
		err := s.HandshakeContext(t.Context())
		if err == nil {
			_, err = s.Write([]byte("x")) // a TLS 1.3 client learns of a refusal with the first data
		}
		a.Close()
		done <- err
	}()
	c := tls.Client(b, client)
	if clientErr = c.HandshakeContext(t.Context()); clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
	}
	b.Close()
	return <-done, clientErr
}

func caller(t *testing.T, a *certs.Authority, h holder, text []byte) *tls.Config {
	return &tls.Config{ServerName: stt.Names[0], RootCAs: a.Pool(), Time: (&clock{time.Now()}).now,
		Certificates: []tls.Certificate{h.certificate(t, text)}}
}

func demanding(a *certs.Authority) *tls.Config {
	cfg := certs.NewServer(func() *certs.Authority { return a }, stt).TLS()
	inner := cfg.GetConfigForClient
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := inner(hello)
		if err == nil {
			c.ClientAuth = tls.RequireAndVerifyClientCert
		}
		return c, err
	}
	return cfg
}

// TestK04_Table: who is believed, on both sides of a connection.
func TestK04_Table(t *testing.T) {
	c := &clock{time.Now()}
	ours, theirs := authority(t, c), authority(t, c)
	good := enrolled(t, ours, kitchen)
	foreign := enrolled(t, theirs, kitchen)
	late, early := &clock{c.t.Add(-2 * certs.Life)}, &clock{c.t.Add(time.Hour)}
	roots := ours.Trusted()
	expired := enrolled(t, withRoots(t, late, roots...), kitchen)
	future := enrolled(t, withRoots(t, early, roots...), kitchen)
	for _, test := range []struct {
		name   string
		holder holder
		text   []byte
		ok     bool
	}{
		{"good", good, good.pair.Client, true},
		{"server certificate as client", good, good.pair.Server, false},
		{"wrong CA", foreign, foreign.pair.Client, false},
		{"expired", expired, expired.pair.Client, false},
		{"not yet valid", future, future.pair.Client, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			serverErr, clientErr := handshake(t, demanding(ours), caller(t, ours, test.holder, test.text))
			if ok := serverErr == nil && clientErr == nil; ok != test.ok {
				t.Errorf("accepted %v, want %v (server: %v, client: %v)", ok, test.ok, serverErr, clientErr)
			}
		})
	}
}

// TestK04_Servers: a peer's certificate for calling does not serve, one of
// another name or authority does not either.
func TestK04_Servers(t *testing.T) {
	c := &clock{time.Now()}
	ours, theirs := authority(t, c), authority(t, c)
	h, foreign := enrolled(t, ours, kitchen), enrolled(t, theirs, kitchen)
	for _, test := range []struct {
		name, want string
		holder     holder
		text       []byte
		ok         bool
	}{
		{"good", kitchen.Names[0], h, h.pair.Server, true},
		{"good by address", "10.77.1.5", h, h.pair.Server, true},
		{"client certificate as server", kitchen.Names[0], h, h.pair.Client, false},
		{"right CA, wrong name", "bath." + domain, h, h.pair.Server, false},
		{"a name the request asked for", "hub." + domain, h, h.pair.Server, false},
		{"an address the request asked for", "10.77.0.1", h, h.pair.Server, false},
		{"wrong CA", kitchen.Names[0], foreign, foreign.pair.Server, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := &tls.Config{Certificates: []tls.Certificate{test.holder.certificate(t, test.text)}}
			_, err := handshake(t, server, &tls.Config{ServerName: test.want, RootCAs: ours.Pool()})
			if (err == nil) != test.ok {
				t.Errorf("%v, want accepted %v", err, test.ok)
			}
		})
	}
}

// TestK04_Rollover: a new root is trusted before it signs, the old one until
// what it signed has ended, and neither for longer.
func TestK04_Rollover(t *testing.T) {
	c := &clock{time.Now()}
	a := authority(t, c)
	first := a.Trusted()[0]
	before := enrolled(t, a, kitchen)
	roots, err := a.Rotate(domain, networks)
	if err != nil || len(roots) != 2 {
		t.Fatalf("%d roots, %v", len(roots), err)
	}
	raw, err := certs.Reveal(roots)
	if err != nil {
		t.Fatal(err)
	}
	if roots, err = certs.Parse(raw); err != nil {
		t.Fatal(err)
	}
	a = withRoots(t, c, roots...)
	if _, err := a.Rotate(domain, networks); !errors.Is(err, certs.ErrAnnounced) {
		t.Error("rotated again while a root is announced")
	}
	old := withRoots(t, c, first)
	verify := func(when string, by *certs.Authority, h holder, ok bool) {
		t.Helper()
		block, _ := pem.Decode(h.pair.Client)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		_, err = cert.Verify(x509.VerifyOptions{Roots: by.Pool(), CurrentTime: c.t, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if (err == nil) != ok {
			t.Errorf("%s: %v, want accepted %v", when, err, ok)
		}
	}
	verify("announced: signed before", a, before, true)
	verify("announced: signed now, judged by one who has not heard", old, enrolled(t, a, kitchen), true)
	c.t = c.t.Add(certs.Announce)
	after := enrolled(t, a, kitchen)
	verify("in force: signed by the new one", a, after, true)
	verify("in force: judged by the old root alone", old, after, false)
	if n := len(a.Trusted()); n != 2 {
		t.Errorf("%d roots trusted while certificates of the old one live, want 2", n)
	}
	c.t = c.t.Add(certs.Life + time.Minute)
	if n := len(a.Trusted()); n != 1 {
		t.Errorf("%d roots trusted at the end, want 1", n)
	}
	for when, add := range map[string]time.Duration{"back a year": -365 * 24 * time.Hour, "on twenty years": 20 * 365 * 24 * time.Hour} {
		jump := *c
		jump.t = jump.t.Add(add)
		block, _ := pem.Decode(after.pair.Client)
		cert, _ := x509.ParseCertificate(block.Bytes)
		if _, err := cert.Verify(x509.VerifyOptions{Roots: withRoots(t, &jump, roots...).Pool(), CurrentTime: jump.t, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
			t.Errorf("clock %s: accepted", when)
		}
	}
}

// TestConstraints: a stolen root cannot speak for names or addresses outside
// the mesh.
func TestConstraints(t *testing.T) {
	c := &clock{time.Now()}
	a := authority(t, c)
	for _, s := range []certs.Subject{
		{ID: "x", Names: []string{"example.org"}, Addrs: addrs("10.77.1.5")},
		{ID: "x", Names: []string{"notwarren.internal"}, Addrs: addrs("10.77.1.5")},
		{ID: "x", Names: []string{"kitchen." + domain}, Addrs: addrs("192.0.2.1")},
		{ID: "x", Names: []string{"kitchen." + domain}, Addrs: addrs("2001:db8::1")},
	} {
		h := enrolled(t, a, s)
		block, _ := pem.Decode(h.pair.Server)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: a.Pool()}); err == nil {
			t.Errorf("%v %v is believed", s.Names, s.Addrs)
		}
	}
}

// TestRequests: what is no request, or has a key that is not wanted, is
// refused with a sentence.
func TestRequests(t *testing.T) {
	a := authority(t, &clock{time.Now()})
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := request(t, key)
	forged[len(forged)-1] ^= 1
	for name, der := range map[string][]byte{
		"nothing": nil, "noise": []byte("noise"), "too large": make([]byte, certs.MaxRequest+1),
		"RSA": request(t, weak), "P-384": request(t, p224), "bad signature": forged,
	} {
		if _, err := a.Issue(der, kitchen); !errors.Is(err, certs.ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, s := range []certs.Subject{{}, {ID: "x"}, {ID: "x", Names: kitchen.Names}, {Names: kitchen.Names, Addrs: kitchen.Addrs}} {
		if _, err := a.Issue(request(t, key), s); !errors.Is(err, certs.ErrRequest) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// TestParse: what was altered at rest is not used.
func TestParse(t *testing.T) {
	a, b := authority(t, &clock{time.Now()}), authority(t, &clock{time.Now()})
	ra, err := certs.Reveal(a.Trusted())
	if err != nil {
		t.Fatal(err)
	}
	rb, err := certs.Reveal(b.Trusted())
	if err != nil {
		t.Fatal(err)
	}
	// The certificate of one with the key of the other.
	i, j := strings.Index(string(ra), `"key"`), strings.Index(string(rb), `"key"`)
	mixed := string(ra[:i]) + string(rb[j:])
	for name, text := range map[string]string{"nothing": "", "empty": "[]", "cut": string(ra[:len(ra)/2]), "mixed": mixed} {
		if _, err := certs.Parse([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
