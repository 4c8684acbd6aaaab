package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/certs"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
	"github.com/warrenmesh/warren/services/sync"
)

// secretRoots are the keys of the hub's certificate authority.
const secretRoots = "certificate-roots"

// Of certificates one machine gets certificatesAtOnce, and then one every
// certificateEvery: each costs the hub two signatures.
const (
	certificatesAtOnce = 8
	certificateEvery   = time.Minute
)

// openAuthority reads the certificate authority, and makes one in a hub that
// has none.
func (s *Server) openAuthority(ctx context.Context) error {
	err := s.readAuthority(ctx)
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	ev := audit.Event{Actor: "hub", Action: "certificates.root"}
	err = s.store.Do(ctx, ev, func(tx *store.Tx) error {
		if _, err := tx.Secret(secretRoots); err == nil {
			return store.ErrExists // another hub on the same store was faster
		}
		root, err := certs.NewRoot(s.set.domain, s.networks(), s.cfg.Now())
		if err != nil {
			return err
		}
		return putRoots(tx, []*certs.Root{root})
	})
	if err != nil && !errors.Is(err, store.ErrExists) {
		return fmt.Errorf("making certificate authority: %w", err)
	}
	return s.readAuthority(ctx)
}

func putRoots(tx *store.Tx, roots []*certs.Root) error {
	raw, err := certs.Reveal(roots)
	if err != nil {
		return err
	}
	defer clear(raw)
	return tx.SetSecret(secretRoots, raw)
}

// readAuthority takes the authority from the store, where another hub may have
// announced a new root.
func (s *Server) readAuthority(ctx context.Context) error {
	return s.store.View(ctx, func(tx *store.Tx) error {
		raw, err := tx.Secret(secretRoots)
		if err != nil {
			return fmt.Errorf("reading certificate authority: %w", err)
		}
		defer clear(raw)
		roots, err := certs.Parse(raw)
		if err != nil {
			return err
		}
		a, err := certs.New(roots, s.cfg.Now)
		if err != nil {
			return err
		}
		s.authority.Store(a)
		return nil
	})
}

// RotateRoot announces a new root. It signs after certs.Announce; machines that
// do not call for that long have to be started again.
func (s *Server) RotateRoot(ctx context.Context, actor string) (signs time.Time, err error) {
	err = s.store.Do(ctx, audit.Event{Actor: actor, Action: "certificates.rotate"}, func(tx *store.Tx) error {
		raw, err := tx.Secret(secretRoots)
		if err != nil {
			return err
		}
		defer clear(raw)
		old, err := certs.Parse(raw)
		if err != nil {
			return err
		}
		a, err := certs.New(old, s.cfg.Now)
		if err != nil {
			return err
		}
		roots, err := a.Rotate(s.set.domain, s.networks())
		if errors.Is(err, certs.ErrAnnounced) {
			return refused("wait until it signs", "%v", err)
		}
		if err != nil {
			return err
		}
		return putRoots(tx, roots)
	})
	if err != nil {
		return time.Time{}, err
	}
	return s.cfg.Now().Add(certs.Announce), s.readAuthority(ctx)
}

// Certificate vouches for a key of the machine that asks: for its own name and
// addresses, and those of what it offers.
func (s *Server) Certificate(_ context.Context, p peer.Peer, r sync.CertificateRequest) (sync.CertificateReply, error) {
	snap := s.snap.Load()
	now, ok := snap.roster.ByID(p.ID)
	if !ok || now.Quarantined || now.Kind != peer.KindSpoke {
		return sync.CertificateReply{}, sync.Forbidden("This machine is not an active spoke of the mesh.")
	}
	if reserved(now.Name) { // it joined when the hub had no use for the name: a certificate would make it the hub
		return sync.CertificateReply{}, sync.Forbidden("The name of this machine is the hub's own by now; rename it: hub peer rename " + now.Name + " NAME")
	}
	if !s.vouched.take(string(p.ID)) {
		return sync.CertificateReply{}, &sync.Problem{Status: 429, Detail: fmt.Sprintf("This machine asks for certificates too often; try again in %v.", certificateEvery)}
	}
	subject := certs.Subject{ID: now.ID, Names: []string{now.Name + "." + s.set.domain}, Addrs: []netip.Addr{now.V4, now.V6}}
	for _, svc := range snap.services {
		if svc.Host == now.ID && !svc.withdrawn() {
			subject.Names = append(subject.Names, svc.Name+"."+s.set.domain)
			subject.Addrs = append(subject.Addrs, svc.V4, svc.V6)
		}
	}
	a := s.authority.Load()
	pair, err := a.Issue(r.Request, subject)
	if errors.Is(err, certs.ErrRequest) {
		return sync.CertificateReply{}, &sync.Problem{Status: 400, Detail: err.Error()}
	}
	if err != nil {
		return sync.CertificateReply{}, err
	}
	return sync.CertificateReply{Server: string(pair.Server), Client: string(pair.Client), Roots: string(a.PEM()), NotAfter: pair.NotAfter, Now: s.cfg.Now().UTC()}, nil
}

// Roots are the certificates, PEM, that whoever wants to trust the hub's own
// services installs.
func (s *Server) Roots() []byte { return s.authority.Load().PEM() }

// rootsPage hands the roots to whoever opens the page: phones and browsers have
// no other way to them, and over plain HTTP, because they do not trust the hub's
// TLS yet; the tunnel proves whose answer it is.
type rootsPage struct{ roots func() []byte }

// Register adds the page to the account service's routes.
func (p rootsPage) Register(r *router.Router) {
	router.Raw(r, router.Route{
		Method: http.MethodGet, Path: "/ca.crt", Group: "service", Summary: "The hub's certificate authority, PEM, to be trusted for the names of the mesh.",
		Need: services.Requirement{Any: []services.Credential{services.AsPeer}},
	}, func(w http.ResponseWriter, _ *http.Request, _ *services.Caller) {
		w.Header().Set("Content-Type", "application/x-x509-ca-cert") // phones offer to install that
		w.Header().Set("Content-Disposition", `attachment; filename="warren-ca.crt"`)
		_, _ = w.Write(p.roots())
	})
}

// tlsConfig is the TLS of one of the hub's own services.
func (s *Server) tlsConfig(svc service) *tls.Config {
	return certs.NewServer(s.authority.Load, certs.Subject{
		ID: "hub", Names: []string{svc.Name + "." + s.set.domain}, Addrs: []netip.Addr{svc.V4, svc.V6},
	}).TLS()
}
