// Package certs is the hub's own certificate authority. It vouches for what
// the hub knows anyway: which peer has which name and which tunnel addresses.
//
// A spoke sends a key (a PKCS #10 request whose names are ignored) and gets two
// certificates for it, one that is good for serving and one for calling, both
// for a day: long enough to sleep through a night's trouble, short enough that
// nobody needs a revocation list. The spoke renews when two thirds are over.
// A removed peer's certificate is worth nothing sooner than that, because its
// tunnel is gone and every verifier here compares the certificate with the
// machine that the connection comes from: a spoke the addresses in it, the hub's
// gate the names (services.GateConfig.Domain).
//
// An authority's own certificate is limited by name constraints (RFC 5280,
// section 4.2.1.10) to the mesh's domain and networks: whoever installs it in a
// phone does not let the hub vouch for the rest of the world.
//
// Authorities roll over by time alone. A new root is announced for Announce
// before it signs, so that everybody has it by then; the old one is trusted
// until the last certificate it signed has ended.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"time"
)

// The times of the authority.
const (
	// Life is how long a certificate of a peer is valid.
	Life = 24 * time.Hour
	// Announce is how long a new root is shown before it signs: longer than
	// any spoke waits before it renews.
	Announce = Life + time.Hour
	// rootLife is how long a root is valid.
	rootLife = 10 * 365 * 24 * time.Hour
	// skew is how far back a certificate begins, for clocks that are behind.
	skew = 5 * time.Minute
)

// Root is one key that vouches. It holds a private key; it is stored sealed.
type Root struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewRoot makes an authority for the names of a domain and the addresses of
// some networks, and nothing else.
func NewRoot(domain string, networks []netip.Prefix, now time.Time) (*Root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making root key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("making root: %w", err)
	}
	id := sha256.Sum256(spki)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Warren of " + domain}, SubjectKeyId: id[:20],
		NotBefore: now.Add(-skew), NotAfter: now.Add(rootLife),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: []string{domain},
		// Neither mail addresses nor URIs: a constraint that nothing meets.
		PermittedEmailAddresses: []string{"invalid"}, PermittedURIDomains: []string{"invalid"},
	}
	for _, n := range networks {
		template.PermittedIPRanges = append(template.PermittedIPRanges,
			&net.IPNet{IP: n.Masked().Addr().AsSlice(), Mask: net.CIDRMask(n.Bits(), n.Addr().BitLen())})
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("making root: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making root: %w", err)
	}
	return &Root{cert, key}, nil
}

// begun is when the root was made.
func (r *Root) begun() time.Time { return r.cert.NotBefore.Add(skew) }

// kept is the form in which roots are stored.
type kept struct {
	Cert []byte `json:"cert"`
	Key  []byte `json:"key"`
}

// Reveal encodes roots, private keys included, to be stored sealed.
func Reveal(roots []*Root) ([]byte, error) {
	list := make([]kept, 0, len(roots))
	for _, r := range roots {
		key, err := x509.MarshalPKCS8PrivateKey(r.key)
		if err != nil {
			return nil, fmt.Errorf("encoding root: %w", err)
		}
		list = append(list, kept{r.cert.Raw, key})
	}
	b, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("encoding roots: %w", err)
	}
	return b, nil
}

// Parse reads what Reveal wrote. It fails if a key is not its certificate's.
func Parse(b []byte) ([]*Root, error) {
	bad := errors.New("reading roots: what is stored is damaged")
	var list []kept
	if json.Unmarshal(b, &list) != nil || len(list) == 0 {
		return nil, bad
	}
	var roots []*Root
	for _, k := range list {
		cert, err := x509.ParseCertificate(k.Cert)
		if err != nil {
			return nil, bad
		}
		key, err := x509.ParsePKCS8PrivateKey(k.Key)
		private, ok := key.(*ecdsa.PrivateKey)
		if err != nil || !ok || !private.PublicKey.Equal(cert.PublicKey) || !cert.IsCA {
			return nil, bad
		}
		roots = append(roots, &Root{cert, private})
	}
	return roots, nil
}

// Authority vouches with the roots there are. It is immutable and safe for
// concurrent use.
type Authority struct {
	roots []*Root // oldest first
	now   func() time.Time
}

// New returns an authority of one or more roots. now nil is time.Now.
func New(roots []*Root, now func() time.Time) (*Authority, error) {
	if len(roots) == 0 {
		return nil, errors.New("opening certificate authority: there is no root")
	}
	if now == nil {
		now = time.Now
	}
	roots = slices.Clone(roots)
	slices.SortStableFunc(roots, func(a, b *Root) int { return a.begun().Compare(b.begun()) })
	return &Authority{roots, now}, nil
}

// signs is when root i begins to sign: the first at once, each other when it
// has been announced.
func (a *Authority) signs(i int) time.Time {
	if i == 0 {
		return a.roots[0].begun()
	}
	return a.roots[i].begun().Add(Announce)
}

// signer is the newest root that may sign.
func (a *Authority) signer() *Root {
	now := a.now()
	for i := len(a.roots) - 1; i > 0; i-- {
		if !now.Before(a.signs(i)) {
			return a.roots[i]
		}
	}
	return a.roots[0]
}

// Trusted are the roots whose certificates count now: those that sign or will,
// and those that signed something which has not ended.
func (a *Authority) Trusted() []*Root {
	now := a.now()
	var out []*Root
	for i, r := range a.roots {
		if i+1 < len(a.roots) && now.After(a.signs(i+1).Add(Life)) || now.After(r.cert.NotAfter) {
			continue
		}
		out = append(out, r)
	}
	return out
}

// ErrAnnounced says that there is a new root which does not sign yet.
var ErrAnnounced = errors.New("a new one is announced already")

// Rotate returns the roots to store when a new one is announced. Roots that
// are no longer trusted are left out. While one is announced already there is
// nothing to do, and Rotate says so.
func (a *Authority) Rotate(domain string, networks []netip.Prefix) ([]*Root, error) {
	if last := len(a.roots) - 1; a.now().Before(a.signs(last)) {
		return nil, fmt.Errorf("rotating root: %w and signs from %s", ErrAnnounced, a.signs(last).UTC().Format(time.RFC3339))
	}
	fresh, err := NewRoot(domain, networks, a.now())
	if err != nil {
		return nil, err
	}
	return append(a.Trusted(), fresh), nil
}

// Pool is what a verifier trusts now.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, r := range a.Trusted() {
		pool.AddCert(r.cert)
	}
	return pool
}

// PEM is Pool as text, for phones, browsers and other programs.
func (a *Authority) PEM() []byte {
	var out []byte
	for _, r := range a.Trusted() {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.cert.Raw})...)
	}
	return out
}

// Ends is when the newest root ends: a new one is due long before.
func (a *Authority) Ends() time.Time { return a.roots[len(a.roots)-1].cert.NotAfter }

// newSerial is 126 random bits: positive, and unique as far as anyone lives.
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("choosing serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}
