package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/certs"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/netstack"
	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/dns"
)

// Config says how a hub runs. Only Dir is needed.
type Config struct {
	Dir string
	// Listen is the one UDP address the hub shows the world. The zero value
	// is port 51820 on every address.
	Listen netip.AddrPort
	// Endpoint is what machines that meet this hub are told from now on, instead
	// of InitConfig.Endpoint: the second hub on a database has its own address,
	// and so has a hub that moved. "" tells them that.
	Endpoint string
	// Key opens the store; zero reads hub.key in Dir.
	Key store.Key
	// Resolvers answer names that are not the tunnel's own. Empty means the
	// host's /etc/resolv.conf.
	Resolvers []netip.AddrPort
	// PrivateDomains are those of the home network, such as fritz.box, whose
	// names may have private addresses.
	PrivateDomains []string
	// Redis is the address of a Redis through which several hubs on one store
	// share their rate limits, redis://…; "" counts in memory. It may hold a
	// password: it is never logged.
	Redis string
	// HS256 makes access tokens in the form of Jarvis, signed with a secret
	// that other services share. It is weaker: who can verify can forge.
	HS256 bool
	// Apps says how apps prove themselves to the hub's own services.
	Apps services.AppProof
	// Version is what status prints.
	Version string
	// ListenPacket opens the outer socket in the place of the kernel's.
	ListenPacket func(network string, at netip.AddrPort) (udp.PacketConn, error)
	Logger       *slog.Logger
	Now          func() time.Time
}

// Server is a running hub.
type Server struct {
	cfg      Config
	log      *slog.Logger
	set      settings
	key      peer.PrivateKey
	identity *invite.Identity
	store    *store.Store
	gate     *acl.Gate
	bind     *udp.Bind
	stack    *netstack.Stack
	dns      *dns.Server
	accounts *accounts
	ctl      net.Listener
	started  time.Time

	// mu serialises changes; readers take the snapshot without it.
	mu      sync.Mutex
	snap    atomic.Pointer[snapshot]
	changed broadcast
	running map[string]*listening
	// initial is where machines were when the hub started.
	initial map[peer.ID]netip.AddrPort
	revert  *time.Timer
	// broken is whether what is stored could not be put in force.
	broken bool
	// read is how much of the audit log has been looked through for changes of
	// the mesh.
	read uint64
	// parting is until when the machines of somebody who was erased are left
	// alone, so that the answer reaches them.
	parting time.Time

	// leaving are the IDs of machines that are removed and still hear so.
	leaving sync.Map
	// keeping guards what the store knows already: how much of each line of
	// the ledger, and where each machine is.
	keeping sync.Mutex
	kept    map[flowLine]uint64
	sighted map[peer.ID]sighting

	// stray are backups that may hold the key of somebody who was erased.
	stray atomic.Pointer[[]string]

	// offers, vouched and refusedJoins bound what one machine, and one invite,
	// make the hub write down and sign.
	offers, vouched, refusedJoins *allowance
	authority                     atomic.Pointer[certs.Authority]

	group *errgroup.Group
	ctx   context.Context
	stop  context.CancelFunc
	once  sync.Once
	err   error
}

// New opens the hub in cfg.Dir and puts its policy in force. The caller must
// Run or Close it.
func New(ctx context.Context, cfg Config) (_ *Server, err error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if !cfg.Listen.IsValid() {
		cfg.Listen = netip.AddrPortFrom(netip.IPv6Unspecified(), DefaultPort)
	}
	if !Exists(cfg.Dir) {
		return nil, fmt.Errorf("opening hub: there is none in %s; make one with: hub init --dir %s --endpoint HOST:PORT", cfg.Dir, cfg.Dir)
	}
	s := &Server{cfg: cfg, log: cfg.Logger, running: make(map[string]*listening),
		sighted: make(map[peer.ID]sighting),
		offers:  newAllowance(offersAtOnce, offerEvery), vouched: newAllowance(certificatesAtOnce, certificateEvery),
		refusedJoins: newAllowance(refusalsAtOnce, refusalEvery),
		started:      cfg.Now()}
	s.changed.init()
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.group, s.ctx = errgroup.WithContext(base)
	// A start that fails half-way closes what it opened.
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.openStore(ctx); err != nil {
		return nil, err
	}
	if err := s.openAuthority(ctx); err != nil {
		return nil, err
	}
	if s.ctl, err = control.Listen(cfg.Dir); err != nil {
		return nil, err
	}
	if err := s.openStack(); err != nil {
		return nil, err
	}
	if err := s.openAccounts(ctx); err != nil {
		return nil, err
	}
	return s, s.openServices(ctx)
}

func (s *Server) openStore(ctx context.Context) (err error) {
	key := s.cfg.Key
	if key.IsZero() {
		if key, err = store.LoadKey(filepath.Join(s.cfg.Dir, keyFile)); err != nil {
			return fmt.Errorf("reading store key: %w", err)
		}
	}
	dsn, err := os.ReadFile(filepath.Join(s.cfg.Dir, dsnFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading where the store is: %w", err)
	}
	s.store, err = store.Open(ctx, store.Config{
		Path: filepath.Join(s.cfg.Dir, dbFile), DSN: strings.TrimSpace(string(dsn)),
		Key: key, Now: s.cfg.Now, Logger: s.log,
	})
	if err != nil {
		return err
	}
	return s.store.View(ctx, func(tx *store.Tx) error {
		if s.set, err = loadSettings(tx); err != nil {
			return err
		}
		if s.cfg.Endpoint != "" {
			s.set.endpoint = s.cfg.Endpoint
		}
		raw, err := tx.Secret(secretHub)
		if err != nil {
			return fmt.Errorf("reading hub key: %w", err)
		}
		if s.key, err = peer.PrivateKeyFrom(raw); err != nil {
			return fmt.Errorf("reading hub key: %w", err)
		}
		if raw, err = tx.Secret(secretEnrol); err != nil {
			return fmt.Errorf("reading enrolment identity: %w", err)
		}
		s.identity, err = invite.ParseIdentity(raw)
		return err
	})
}

// openStack brings the packet path up with a filter that denies everything.
func (s *Server) openStack() (err error) {
	s.gate = acl.NewGate(acl.GateConfig{})
	s.bind = udp.New(udp.Config{
		Listen: s.cfg.Listen, Key: s.key.Public(), ListenPacket: s.cfg.ListenPacket, Logger: s.log,
		Knocks: &udp.Knocks{Hub: s.key, Lookup: s.pskOf, OnKnock: s.knocked},
	})
	s.stack, err = netstack.Open(netstack.Config{
		Key: s.key, Listen: s.cfg.Listen, V4: s.set.plan.V4, V6: s.set.plan.V6,
		Addresses: addresses(builtins(s.set.plan)), Forward: true,
		Gate: s.gate, Bind: s.bind, Logger: s.log,
	})
	if err != nil {
		return fmt.Errorf("opening tunnel on %s: %w", s.cfg.Listen, err)
	}
	return nil
}

func (s *Server) openServices(ctx context.Context) error {
	resolvers, err := dns.New(dns.Config{
		Domain: s.set.domain, Networks: s.networks(), Roster: s.roster, Visible: s.visible,
		Upstreams: s.cfg.Resolvers, PrivateDomains: s.cfg.PrivateDomains,
		Logger: s.log, Now: s.cfg.Now,
	})
	if err != nil {
		return err
	}
	s.dns = resolvers
	s.mu.Lock()
	defer s.mu.Unlock()
	s.overdue(ctx)
	if _, err := s.enforce(ctx); err != nil {
		return fmt.Errorf("putting the stored state in force: %w", err)
	}
	return nil
}

// Run serves until ctx ends or a part that must not stop does. It closes the
// hub before it returns.
func (s *Server) Run(ctx context.Context) error {
	s.group.Go(func() error { return s.serveControl(s.ctx) })
	s.group.Go(func() error { return s.sweep(s.ctx) })
	s.group.Go(func() error { return s.greet(s.ctx) })
	s.group.Go(func() error { return s.accounts.live.Run(s.ctx) })
	s.group.Go(func() error { return s.accounts.auth.Run(s.ctx) })
	s.group.Go(func() error { return s.tidyBackups(s.ctx) })
	s.log.Info("hub ready", "udp", s.ListenAddr().String(), "endpoint", s.set.endpoint, "key", s.key.Public().String(),
		"peers", len(s.snap.Load().peers), "generation", s.snap.Load().policy.Generation)
	if why := s.snap.Load().recovery; why != "" {
		s.log.Error("only the recovery path is open", "why", why)
	}
	select {
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	return s.Close()
}

// Close ends everything in the reverse order of New. It is safe to call more
// than once and from any goroutine; each call returns when all is closed.
func (s *Server) Close() error {
	s.once.Do(func() { s.err = s.shut() })
	return s.err
}

func (s *Server) shut() error {
	var errs []error
	s.stop()
	if s.ctl != nil {
		_ = s.ctl.Close()
	}
	s.mu.Lock()
	if s.revert != nil {
		s.revert.Stop()
	}
	running := s.running
	s.running = make(map[string]*listening)
	s.mu.Unlock()
	// Without the lock: Stop waits for handlers, and one may be waiting for it.
	for name, l := range running {
		if err := l.run.Stop(); err != nil {
			s.log.Error("ending service", "service", name, "err", err)
		}
	}
	if err := s.group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		errs = append(errs, err)
	}
	if s.store != nil && s.stack != nil && s.snap.Load() != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		s.keepEndpoints(ctx)
		s.keepFlows(ctx)
		cancel()
	}
	errs = append(errs, s.accounts.close())
	if s.stack != nil {
		errs = append(errs, s.stack.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	return errors.Join(errs...)
}

// ListenAddr is the one UDP address the hub answers on.
func (s *Server) ListenAddr() netip.AddrPort {
	return netip.AddrPortFrom(s.cfg.Listen.Addr(), s.stack.Port())
}

// PublicKey is the hub's WireGuard key.
func (s *Server) PublicKey() peer.PublicKey { return s.key.Public() }

func (s *Server) networks() []netip.Prefix { return []netip.Prefix{s.set.plan.V4, s.set.plan.V6} }

// change does one thing and puts the result in force: the action and its
// audit entry in one transaction, then the new state, filter first. When it
// returns without error, nothing that only the old state allowed is delivered.
func (s *Server) change(ctx context.Context, ev audit.Event, fn func(*store.Tx) error) (netstack.Cut, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.store.Do(ctx, ev, fn); err != nil {
		return netstack.Cut{}, err
	}
	return s.enforce(ctx)
}

// enforce puts what is stored in force. The caller holds s.mu. If that fails,
// everything is denied until it succeeds: what is enforced must never be wider
// than what is stored.
func (s *Server) enforce(ctx context.Context) (netstack.Cut, error) {
	// The action is done and recorded; an admin who hangs up must not leave
	// it unenforced.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	cut, err := s.putInForce(ctx)
	if s.broken = err != nil; s.broken {
		s.stack.SetFilter(nil)
		return cut, fmt.Errorf("%w (it is stored, but everything is denied until this works; the hub goes on trying)", err)
	}
	return cut, nil
}

func (s *Server) putInForce(ctx context.Context) (netstack.Cut, error) {
	snap, err := load(ctx, s.store, s.set, s.heard())
	if err != nil {
		return netstack.Cut{}, fmt.Errorf("reading the state back: %w", err)
	}
	s.snap.Store(snap)
	s.arm(snap.policy)
	if s.initial == nil {
		s.initial = make(map[peer.ID]netip.AddrPort, len(snap.peers))
		for _, p := range snap.peers {
			s.initial[p.ID] = p.Endpoint
		}
	}
	if err := s.stack.SetAddresses(addresses(snap.services)); err != nil {
		return netstack.Cut{}, fmt.Errorf("setting tunnel addresses: %w", err)
	}
	cut := s.stack.SetFilter(snap.filter)
	if err := s.stack.SetPeers(ctx, s.peerConfigs(snap)); err != nil {
		return cut, fmt.Errorf("setting peers: %w", err)
	}
	if err := s.dns.SetRecords(snap.names); err != nil {
		s.log.Error("setting names", "err", err)
	}
	s.listen(snap)
	s.changed.notify()
	// Whoever lost the mesh, or a capability, loses the requests that run.
	s.accounts.live.Judge()
	return cut, nil
}
