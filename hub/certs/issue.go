package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/warrenmesh/warren/peer"
)

// MaxRequest is the size of a PKCS #10 request in bytes.
const MaxRequest = 4 << 10

// Subject is whom a certificate is for.
type Subject struct {
	ID peer.ID
	// Names are fully qualified. The first is the peer's own, under which it
	// calls; the others are those of services that it offers.
	Names []string
	Addrs []netip.Addr // tunnel addresses
}

// Pair is one key's two certificates, PEM, and when both end.
type Pair struct {
	Server, Client []byte
	NotAfter       time.Time
}

// ErrRequest is wrapped by the refusal of a request.
var ErrRequest = errors.New("the certificate request is refused")

// Issue vouches for the key in a PKCS #10 request (DER). The request proves
// that whoever sends it has the key; what it asks for is not looked at.
func (a *Authority) Issue(request []byte, s Subject) (Pair, error) {
	if len(request) > MaxRequest {
		return Pair{}, fmt.Errorf("%w: it is larger than %d bytes", ErrRequest, MaxRequest)
	}
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil || csr.CheckSignature() != nil {
		return Pair{}, fmt.Errorf("%w: it is not a PKCS #10 request signed with its own key", ErrRequest)
	}
	switch key := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return Pair{}, fmt.Errorf("%w: the key must be ECDSA P-256 or Ed25519", ErrRequest)
		}
	case ed25519.PublicKey:
	default:
		return Pair{}, fmt.Errorf("%w: the key must be ECDSA P-256 or Ed25519", ErrRequest)
	}
	root := a.signer()
	server, err := a.sign(root, s, csr.PublicKey, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return Pair{}, err
	}
	s.Names = s.Names[:1]
	client, err := a.sign(root, s, csr.PublicKey, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Server: toPEM(server), Client: toPEM(client), NotAfter: server.NotAfter}, nil
}

func toPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func (a *Authority) sign(root *Root, s Subject, key crypto.PublicKey, use x509.ExtKeyUsage) (*x509.Certificate, error) {
	if len(s.Names) == 0 || len(s.Addrs) == 0 || s.ID == "" {
		return nil, fmt.Errorf("%w: nobody is named", ErrRequest)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := a.now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: s.Names[0], SerialNumber: string(s.ID)},
		NotBefore:    now.Add(-skew), NotAfter: now.Add(Life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{use},
		BasicConstraintsValid: true, DNSNames: s.Names,
	}
	for _, addr := range s.Addrs {
		template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, root.cert, key, root.key)
	if err != nil {
		return nil, fmt.Errorf("signing certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("signing certificate: %w", err)
	}
	return cert, nil
}

// Server is the TLS of one of the hub's own services. Its certificate is made
// in memory, and again when two thirds of its life are over, or when another
// root signs.
type Server struct {
	authority func() *Authority
	subject   Subject

	mu    sync.Mutex
	leaf  *tls.Certificate
	by    *Root
	until time.Time
}

// NewServer serves s; authority says who vouches now.
func NewServer(authority func() *Authority, s Subject) *Server {
	return &Server{authority: authority, subject: s}
}

// TLS returns the configuration for the service: TLS 1.3, and a client
// certificate is asked for, not demanded; one that is shown must be the
// authority's. What it is good for is the gate's to say.
func (s *Server) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// For each connection, so that a root that is announced or retired
		// counts from then on. Tickets would outlive that.
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			leaf, err := s.current()
			if err != nil {
				return nil, err
			}
			a := s.authority()
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"http/1.1"},
				ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: a.Pool(), Time: a.now, SessionTicketsDisabled: true,
			}, nil
		},
	}
}

func (s *Server) current() (*tls.Certificate, error) {
	a := s.authority()
	root := a.signer()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaf != nil && s.by == root && a.now().Before(s.until) {
		return s.leaf, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making certificate key: %w", err)
	}
	cert, err := a.sign(root, s.subject, &key.PublicKey, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	s.leaf = &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	s.by, s.until = root, a.now().Add(Life*2/3)
	return s.leaf, nil
}
