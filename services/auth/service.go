package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
)

// Audience is the aud of access tokens.
const Audience = "warren"

// Config says what a Service works with. Store, Data, Roster and Issuer are
// needed.
type Config struct {
	Store account.Store
	Data  account.Data
	// Roster says who is on the mesh now.
	Roster func() *peer.Roster
	// Issuer is the iss of tokens, https://auth.DOMAIN. Its host is what
	// passkeys are made for.
	Issuer string
	// Live are the running requests; they are judged again after each change
	// that can take a right away.
	Live *services.Live
	// Changed is called after each such change as well; nil for nobody.
	Changed func()
	// Admin says whether a machine is the admin's own, which may do the first
	// set-up. nil: none is.
	Admin func(p peer.Peer) bool
	// HS256 makes access tokens in Jarvis' form. It is weaker; see the package
	// documentation.
	HS256 bool
	// Passwords is what a hash costs; zero is RFC 9106's second choice.
	Passwords PasswordParams
	// Retention is how long records are kept; zero fields are the defaults.
	Retention Retention
	// Scrub removes what was deleted from the store's files. It is called
	// after an erasure and after retention; nil if there is nothing to do.
	Scrub func(ctx context.Context) error
	// Forget removes a person from the backups that the hub knows of and
	// returns the names of those that it could not change; nil if there are
	// none. It may be called again for the same person.
	Forget func(ctx context.Context, u account.UserID) ([]string, error)
	Logger *slog.Logger
	Now    func() time.Time
}

// Service is the account service. Any number of goroutines may use it.
type Service struct {
	cfg        Config
	log        *slog.Logger
	hasher     *hasher
	passkeys   *webauthn.WebAuthn
	ceremonies *ceremonies
	access     chan account.Record
	lost       atomic.Int64 // lines of the access log that found no room
	scrub      atomic.Bool  // something was deleted and not scrubbed yet

	ringMu sync.Mutex
	keys   keyring
}

// New returns a service and makes the first signing key if there is none.
func New(ctx context.Context, cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Data == nil || cfg.Roster == nil {
		return nil, errors.New("starting the account service: it needs a store and a roster")
	}
	issuer, err := url.Parse(cfg.Issuer)
	if err != nil || issuer.Scheme != "https" || issuer.Hostname() == "" || issuer.Path != "" || issuer.RawQuery != "" {
		return nil, fmt.Errorf("starting the account service: issuer %q is not https://HOST", cfg.Issuer)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Retention = cfg.Retention.orDefault()
	s := &Service{cfg: cfg, log: cfg.Logger, ceremonies: newCeremonies(cfg.Now), access: make(chan account.Record, accessQueue)}
	// What was deleted before a restart may not have been scrubbed.
	s.scrub.Store(true)
	if s.hasher, err = newHasher(cfg.Passwords); err != nil {
		return nil, fmt.Errorf("starting the account service: %w", err)
	}
	if s.passkeys, err = newRelyingParty(issuer); err != nil {
		return nil, fmt.Errorf("starting the account service: %w", err)
	}
	if err := s.firstSigningKey(ctx); err != nil {
		return nil, fmt.Errorf("starting the account service: %w", err)
	}
	return s, nil
}

// How often Run looks for what is due.
const (
	upkeepEvery  = time.Minute
	refreshEvery = time.Hour // prune, rotate, retain
)

// Run does what is due from time to time until ctx ends: it prunes, rotates
// signing keys, goes on with erasures that were interrupted, enforces retention
// and writes the access log. What fails is logged and tried again.
func (s *Service) Run(ctx context.Context) error {
	var all sync.WaitGroup
	all.Go(func() { s.writeAccess(ctx) })
	defer all.Wait()
	often := time.NewTicker(upkeepEvery)
	defer often.Stop()
	var last time.Time
	var clock steadyClock
	start := time.Now()
	for {
		s.try("going on with erasures", s.resumeErasures(ctx))
		now := s.cfg.Now()
		steady := clock.steady(now, time.Since(start))
		if last.IsZero() || now.Sub(last) >= refreshEvery {
			last = now
			s.upkeep(ctx)
			if steady >= retainAfter {
				s.try("enforcing retention", s.retain(ctx))
			}
		}
		s.try("scrubbing the store", s.scrubDue(ctx))
		select {
		case <-ctx.Done():
			return nil
		case <-often.C:
		}
	}
}

// Upkeep does once what Run does every hour.
func (s *Service) Upkeep(ctx context.Context) {
	s.upkeep(ctx)
	s.try("enforcing retention", s.retain(ctx))
}

func (s *Service) upkeep(ctx context.Context) {
	s.try("pruning accounts", s.prune(ctx))
	s.try("rotating signing keys", s.rotateIfDue(ctx))
}

func (s *Service) try(doing string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		s.log.Error("upkeep of accounts failed; it is tried again", "doing", doing, "error", err)
	}
}

// prune removes what has ended and nobody asks about any more.
func (s *Service) prune(ctx context.Context) error {
	now := s.cfg.Now()
	return s.cfg.Store.Keep(ctx, func(tx account.Tx) error {
		// What ended is kept as long again: a clock that was ahead costs nobody
		// their sign-in, and a token that was used long ago is known as used.
		if err := tx.PruneSessions(now.Add(-RefreshLife)); err != nil {
			return fmt.Errorf("pruning sessions: %w", err)
		}
		if err := tx.PruneOAuth(now.Add(-time.Hour)); err != nil {
			return fmt.Errorf("pruning authorizations: %w", err)
		}
		if err := tx.ForgetFailures(now.Add(-failuresCount)); err != nil {
			return fmt.Errorf("pruning failures: %w", err)
		}
		return removeExpiredKeys(tx)
	})
}

// changed has running requests judged again. It is called after each change
// that can take a right away, when the change is stored.
func (s *Service) changed() {
	if s.cfg.Live != nil {
		s.cfg.Live.Judge()
	}
	if s.cfg.Changed != nil {
		s.cfg.Changed()
	}
}
