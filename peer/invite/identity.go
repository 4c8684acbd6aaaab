package invite

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"time"
)

// ServerName is the host that the certificate and the requests name. Nobody
// checks the certificate for it: the pin does.
const ServerName = "enrol.warren.internal"

// Identity is the enrolment service's TLS key. The hub makes one, keeps it
// sealed, and writes its Pin into every code.
type Identity struct {
	key  *ecdsa.PrivateKey
	cert tls.Certificate
	pin  [32]byte
}

// NewIdentity makes a P-256 key and a certificate for it.
func NewIdentity() (*Identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making enrolment key: %w", err)
	}
	return identity(key)
}

// ParseIdentity reads what Reveal gave.
func ParseIdentity(der []byte) (*Identity, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("reading enrolment key: it is not in PKCS #8 form")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("reading enrolment key: it is not an ECDSA key on P-256")
	}
	return identity(key)
}

func identity(key *ecdsa.PrivateKey) (*Identity, error) {
	// The dates say "always": the machine that joins may think it is 1970,
	// and what it trusts is the pinned key.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: ServerName},
		DNSNames:     []string{ServerName},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Unix(maxExpires, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making enrolment certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making enrolment certificate: %w", err)
	}
	return &Identity{
		key:  key,
		cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf},
		pin:  sha256.Sum256(leaf.RawSubjectPublicKeyInfo),
	}, nil
}

// Pin returns the SHA-256 of the public key (its SubjectPublicKeyInfo, as in
// RFC 7469). It is no secret.
func (i *Identity) Pin() [32]byte { return i.pin }

// Reveal returns the private key in PKCS #8 form, for the hub's sealed store.
func (i *Identity) Reveal() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		return nil, fmt.Errorf("writing enrolment key: %w", err)
	}
	return der, nil
}

// LogValue keeps the key out of logs.
func (*Identity) LogValue() slog.Value { return slog.StringValue("(redacted)") }

// TLSConfig returns the server's side: TLS 1.3, HTTP/1.1, no resumption.
func (i *Identity) TLSConfig() *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{i.cert},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"http/1.1"},
		SessionTicketsDisabled: true,
	}
}

// ClientTLS returns the joining machine's side: TLS 1.3 with the one server
// key that pin names, whatever its certificate says about names and dates.
func ClientTLS(pin [32]byte) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"http/1.1"},
		ServerName: ServerName,
		// The usual check is replaced, not left out: VerifyConnection runs
		// on every connection and compares the key itself. TLS 1.3 has by
		// then proven that the server holds its private half.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) != 1 {
				return errors.New("the enrolment service showed no certificate, or several")
			}
			got := sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if subtle.ConstantTimeCompare(got[:], pin[:]) != 1 {
				return ErrPin
			}
			return nil
		},
	}
}

// ErrPin says that whoever answered is not the hub that made the code.
var ErrPin = errors.New("the enrolment service has another key than the invite says; do not trust it, and ask the admin for a new code")
