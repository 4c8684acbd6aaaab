package spoke

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	gosync "sync"
	"sync/atomic"
	"time"

	"github.com/warrenmesh/warren/services/sync"
)

// Certificates are what the hub vouches for: that a key is this machine's, by
// its names and addresses on the mesh. They last a day, are kept in memory
// only, and are immutable.
type Certificates struct {
	server, client tls.Certificate
	roots          *x509.CertPool
	reply          sync.CertificateReply
	ours           []*x509.Certificate // the roots
	key            []byte              // PEM
	names          []string
	renew          time.Time
	since          instant // when they came
}

// now is the hub's clock: a machine may have none that is right, or one that is
// set later. What has passed since they came is counted with a clock that nobody
// sets.
func (s *Certificates) now() time.Time { return s.reply.Now.Add(clocks().boot - s.since.boot) }

// NotAfter is when they end. New ones are taken long before.
func (s *Certificates) NotAfter() time.Time { return s.reply.NotAfter }

// renewTime is how long the hub may take to renew certificates that are still
// good. A handshake may be waiting.
const renewTime = 5 * time.Second

// vouched holds the newest certificates.
type vouched struct {
	now atomic.Pointer[Certificates]

	mu    gosync.Mutex  // of who asks the hub
	retry time.Duration // by clocks().boot: not before then, unless there are none
}

// Certificates returns this machine's certificates. It asks the hub when there
// are none, when two thirds of their life are over or when the machine has got
// another name. While the hub does not answer, those that have not ended do: one
// caller at a time asks, for at most five seconds and not twice in half a minute,
// and nobody else waits.
func (c *Client) Certificates(ctx context.Context) (*Certificates, error) {
	if old := c.vouched.now.Load(); c.fresh(old) {
		return old, nil
	} else if !old.good() {
		c.vouched.mu.Lock()
	} else if !c.vouched.mu.TryLock() {
		return old, nil // somebody is asking
	}
	defer c.vouched.mu.Unlock()
	old := c.vouched.now.Load()
	if c.fresh(old) || old.good() && clocks().boot < c.vouched.retry {
		return old, nil
	}
	if old.good() {
		var cancel context.CancelFunc
		// Who hangs up does not keep everybody from getting new ones.
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), renewTime)
		defer cancel()
	}
	names := c.ownNames()
	fresh, err := c.askCertificates(ctx)
	if err != nil {
		if old.good() {
			c.vouched.retry = clocks().boot + certificateRetry
			c.log.Warn("renewing certificates", "err", err, "until", old.NotAfter())
			return old, nil
		}
		return nil, err
	}
	fresh.names = names
	c.vouched.now.Store(fresh)
	return fresh, nil
}

// fresh reports whether s needs no renewal.
func (c *Client) fresh(s *Certificates) bool {
	return s != nil && s.now().Before(s.renew) && slices.Equal(s.names, c.ownNames())
}

// good reports whether s is there and has not ended.
func (s *Certificates) good() bool { return s != nil && s.now().Before(s.NotAfter()) }

// ownNames are what certificates are for.
func (c *Client) ownNames() []string {
	return append([]string{c.Membership().Name}, slices.Sorted(slices.Values(c.view.Load().self.Serves))...)
}

func (c *Client) askCertificates(ctx context.Context) (*Certificates, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making certificate key: %w", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("making certificate request: %w", err)
	}
	reply, err := c.sync.Certificate(ctx, sync.CertificateRequest{Request: request})
	if err != nil {
		return nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding certificate key: %w", err)
	}
	out := &Certificates{reply: reply, since: clocks(), roots: x509.NewCertPool(),
		key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})}
	for rest := []byte(reply.Roots); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading certificate authority: %w", err)
		}
		out.roots.AddCert(root)
		out.ours = append(out.ours, root)
	}
	if len(out.ours) == 0 {
		return nil, errors.New("reading certificates: the hub names no authority")
	}
	if out.server, err = tls.X509KeyPair([]byte(reply.Server), out.key); err != nil {
		return nil, fmt.Errorf("reading server certificate: %w", err)
	}
	if out.client, err = tls.X509KeyPair([]byte(reply.Client), out.key); err != nil {
		return nil, fmt.Errorf("reading client certificate: %w", err)
	}
	out.renew = reply.Now.Add(reply.NotAfter.Sub(reply.Now) * 2 / 3)
	return out, nil
}

// ErrCertificate says that the other side of a connection is not who it says.
var ErrCertificate = errors.New("its certificate is not that of the machine it speaks from")

// DialTLS is Dial with TLS 1.3 on top: this machine shows its certificate if it
// is asked, and the other side must be the machine or service that was named.
// That is judged by the hub's own authority, or by those that this machine
// trusts anyway, for services that bring a public certificate.
func (c *Client) DialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dialing %.120q: it is HOST:PORT", address)
	}
	own, err := c.Certificates(ctx)
	if err != nil {
		return nil, fmt.Errorf("dialing %s: %w", address, err)
	}
	raw, err := c.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: c.fqdn(host), RootCAs: own.withSystem(), NextProtos: []string{"http/1.1"}, Time: own.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own.client, nil },
		VerifyConnection:     own.fromWhereItSpeaks(raw),
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("dialing %s: %w", address, err)
	}
	return conn, nil
}

// fqdn is the name that a certificate has for a host of the mesh.
func (c *Client) fqdn(host string) string {
	if _, err := netip.ParseAddr(host); err == nil {
		return host
	}
	if short, ok := c.short(host); ok {
		return short + "." + strings.ToLower(c.Membership().Domain)
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// ServerTLS is for servers on this machine's own listeners (Listen): both sides
// show certificates of the hub's, and the caller's must be that of the machine
// that it calls from. The caller's name is the first DNS name of the
// certificate.
//
// A removed machine is refused at once, because its tunnel is gone, whatever
// its certificate says.
func (c *Client) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			own, err := c.Certificates(hello.Context())
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own.server}, NextProtos: []string{"http/1.1"},
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: own.roots, SessionTicketsDisabled: true, Time: own.now,
				VerifyConnection: own.fromWhereItSpeaks(hello.Conn),
			}, nil
		},
	}
}

// withSystem are the roots for calling.
func (s *Certificates) withSystem() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return s.roots
	}
	for _, root := range s.ours {
		pool.AddCert(root)
	}
	return pool
}

// fromWhereItSpeaks compares a certificate of the hub's with the address that
// WireGuard proved: a certificate and key that were copied to another machine
// are worth nothing there.
func (s *Certificates) fromWhereItSpeaks(conn net.Conn) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		remote, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		if err != nil || len(state.VerifiedChains) == 0 {
			return ErrCertificate
		}
		byHub := func(chain []*x509.Certificate) bool { return slices.ContainsFunc(s.ours, chain[len(chain)-1].Equal) }
		if !slices.ContainsFunc(state.VerifiedChains, byHub) {
			return nil // a public certificate, which names no address of the mesh
		}
		for _, ip := range state.PeerCertificates[0].IPAddresses {
			if a, ok := netip.AddrFromSlice(ip); ok && a.Unmap() == remote.Addr().Unmap() {
				return nil
			}
		}
		return ErrCertificate
	}
}
