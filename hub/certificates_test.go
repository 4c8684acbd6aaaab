package hub_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/spoke"
)

// greeter is a service on a spoke that believes certificates of the hub's only.
func greeter(t *testing.T, c *spoke.Client, port string) {
	t.Helper()
	ln, err := c.Listen("tcp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{TLSConfig: c.ServerTLS(), ReadHeaderTimeout: hubtest.Patience, ErrorLog: rude(),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "hello "+r.TLS.PeerCertificates[0].DNSNames[0])
		})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.ServeTLS(ln, "", "")
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

// rude is what net/http says about callers that are turned away.
func rude() *log.Logger { return slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug) }

// fetch asks url through the mesh and returns the answer.
func fetch(t *testing.T, c *http.Client, url string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hubtest.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// copied is an HTTP client of thief that shows a certificate which lies in dir.
func copied(t *testing.T, thief *spoke.Client, dir, name string) *http.Client {
	t.Helper()
	file := func(name string) string { return filepath.Join(dir, name) }
	pair, err := tls.LoadX509KeyPair(file(name), file(spoke.CertificateKey))
	if err != nil {
		t.Fatal(err)
	}
	roots, err := os.ReadFile(file(spoke.CertificateRoots))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	return &http.Client{Transport: &http.Transport{
		DialContext:     thief.Dial,
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool},
	}}
}

// TestK04_OverTheTunnel: two services on spokes prove to each other who they
// are; a certificate that was copied to a third machine proves nothing there,
// and no certificate proves nothing at all.
func TestK04_OverTheTunnel(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	bath := m.Join("bath", control.PeerSpec{Owner: "ann"})
	thief := m.Join("thief", control.PeerSpec{Owner: "bob"})
	greeter(t, kitchen, "8443")
	const url = "https://kitchen.warren.internal:8443/"
	hubtest.Until(t, "the names are known", func() bool {
		for _, c := range []*spoke.Client{bath, thief} {
			conn, err := c.Dial(t.Context(), "tcp", "kitchen:8443")
			if err != nil {
				return false
			}
			conn.Close()
		}
		return true
	})
	if got, err := fetch(t, bath.HTTPClient(), url); got != "hello bath.warren.internal" {
		t.Fatalf("%q, %v", got, err)
	}
	dir := filepath.Join(t.TempDir(), "certs")
	keeping, stop := context.WithCancel(t.Context())
	kept := make(chan error, 1)
	go func() { kept <- bath.KeepCertificates(keeping, dir) }()
	defer func() {
		stop()
		if err := <-kept; err != nil {
			t.Error(err)
		}
	}()
	hubtest.Until(t, "the files are written", func() bool {
		_, err := os.Stat(filepath.Join(dir, spoke.CertificateRoots))
		return err == nil
	})
	if info, err := os.Stat(filepath.Join(dir, spoke.CertificateKey)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info.Mode(), err)
	}
	if got, err := fetch(t, copied(t, bath, dir, spoke.CertificateClient), url); got != "hello bath.warren.internal" {
		t.Errorf("from the files, at home: %q, %v", got, err)
	}
	for what, client := range map[string]*http.Client{
		"copied to another machine": copied(t, thief, dir, spoke.CertificateClient),
		"the certificate to serve":  copied(t, bath, dir, spoke.CertificateServer),
		"none": {Transport: &http.Transport{DialContext: thief.Dial,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}, // the server is to refuse
	} {
		if got, err := fetch(t, client, url); err == nil {
			t.Errorf("%s: let in: %q", what, got)
		}
	}
}

// TestK04_ServerElsewhere: a machine that serves with a copied certificate is
// not believed, and neither is one by another's name.
func TestK04_ServerElsewhere(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	bath := m.Join("bath", control.PeerSpec{Owner: "ann"})
	dir := t.TempDir()
	keeping, stop := context.WithTimeout(t.Context(), hubtest.Patience)
	defer stop()
	go func() {
		hubtest.Until(t, "the files are written", func() bool {
			_, err := os.Stat(filepath.Join(dir, spoke.CertificateRoots))
			return err == nil
		})
		stop()
	}()
	if err := kitchen.KeepCertificates(keeping, dir); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, spoke.CertificateServer), filepath.Join(dir, spoke.CertificateKey))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := bath.Listen("tcp", ":8443")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}}).HandshakeContext(t.Context())
			}()
		}
	}()
	caller := m.Join("caller", control.PeerSpec{Owner: "ann"})
	ctx, cancel := context.WithTimeout(t.Context(), hubtest.Patience)
	defer cancel()
	conn, err := caller.DialTLS(ctx, "tcp", "bath.warren.internal:8443")
	if err == nil {
		conn.Close()
		t.Error("kitchen's certificate is believed at bath")
	}
	// By address, the name does not matter; the address does.
	at := net.JoinHostPort(bath.Membership().V4.String(), "8443")
	if conn, err := caller.DialTLS(ctx, "tcp", at); err == nil {
		conn.Close()
		t.Error("kitchen's certificate is believed at bath's address")
	}
}

// TestCertificatesLast: certificates are for a day, and are not asked for again
// without need.
func TestCertificatesLast(t *testing.T) {
	m := hubtest.New(t)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	first, err := kitchen.Certificates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(first.NotAfter()); left < 23*time.Hour || left > 25*time.Hour {
		t.Errorf("they last %v, want a day", left)
	}
	if again, err := kitchen.Certificates(t.Context()); again != first || err != nil {
		t.Errorf("asked again without need: %v", err)
	}
}

// TestK04_RootAtTwoHubs: a root that one hub announces is shown by the other
// too, signs at neither yet, and is not announced twice.
func TestK04_RootAtTwoHubs(t *testing.T) {
	p := newPair(t)
	before := string(p.a.Hub.Roots())
	if before != string(p.b.Hub.Roots()) {
		t.Fatal("two hubs on one store have different authorities")
	}
	if _, err := p.a.Hub.RotateRoot(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	after := string(p.a.Hub.Roots())
	if after == before || !strings.HasPrefix(after, before) {
		t.Errorf("the old root is not shown beside the new one:\n%s", after)
	}
	hubtest.Until(t, "the other hub shows it", func() bool { return string(p.b.Hub.Roots()) == after })
	if _, err := p.b.Hub.RotateRoot(t.Context(), "test"); err == nil {
		t.Error("announced twice")
	}
}
