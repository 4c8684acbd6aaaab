package hub

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
)

// Defaults of a new hub.
const (
	DefaultDomain  = "warren.internal"
	DefaultPort    = 51820
	DefaultAdmin   = "admin"
	defaultNetwork = "10.77.0.0/16"
)

// Names of the files in a state directory.
const (
	dbFile  = "hub.db"
	keyFile = "hub.key"
	dsnFile = "hub.dsn" // where the store is, when it is PostgreSQL; holds a password
)

// Names of settings in the store.
const (
	metaEndpoint = "endpoint"
	metaDomain   = "domain"
	metaAdmin    = "admin"
	secretHub    = "hub-key"
	secretEnrol  = "enrol-identity"
)

// ErrInitialised says that a directory holds a hub already.
var ErrInitialised = errors.New("a hub already lives here")

// InitConfig says what a new hub is. Dir and Endpoint are needed.
type InitConfig struct {
	Dir string
	// Endpoint is the host and UDP port that machines reach the hub at.
	Endpoint string
	// Network is the private IPv4 prefix of the tunnel, /16 to /24.
	Network netip.Prefix
	// Domain is the tunnel's own DNS domain.
	Domain string
	// DSN names a PostgreSQL database. Empty means an encrypted file in Dir.
	DSN string
	// Admin is the user who administers, a member of group:admin.
	Admin string
	// Key opens the store; zero makes one in Dir.
	Key store.Key
	Now func() time.Time
}

// Check says in one sentence what is wrong with the values, before anything is
// touched. Init checks again.
func (c InitConfig) Check() error {
	if err := c.validate(); err != nil {
		return err
	}
	_, err := store.NewPlan(c.Network)
	return err
}

func (c *InitConfig) validate() error {
	if c.Network == (netip.Prefix{}) {
		c.Network = netip.MustParsePrefix(defaultNetwork)
	}
	if c.Domain == "" {
		c.Domain = DefaultDomain
	}
	if c.Admin == "" {
		c.Admin = DefaultAdmin
	}
	if err := invite.ValidEndpoint(c.Endpoint); err != nil {
		return err
	}
	if err := validDomain(c.Domain); err != nil {
		return err
	}
	if err := peer.ValidUser(c.Admin); err != nil {
		return fmt.Errorf("admin user: %w", err)
	}
	return nil
}

func validDomain(s string) error {
	if len(s) == 0 || len(s) > 200 {
		return fmt.Errorf("a domain has 1 to 200 characters, as in %s", DefaultDomain)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if err := peer.ValidName(strings.ToLower(label)); err != nil {
			return fmt.Errorf("domain %.200q: %w", s, err)
		}
	}
	return nil
}

// Init makes a new hub in cfg.Dir: keys, store, and a policy that admits the
// admin alone. It refuses to touch a directory that holds one. An Init that
// was killed half-way is finished by the next.
func Init(ctx context.Context, cfg InitConfig) (err error) {
	if err := cfg.validate(); err != nil {
		return err
	}
	plan, err := store.NewPlan(cfg.Network)
	if err != nil {
		return err
	}
	if err := makeDir(cfg.Dir); err != nil {
		return err
	}
	st, err := found(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return fill(ctx, st, cfg, plan)
}

// makeDir makes the state directory, or takes one that is empty or ours, and
// closes it to other users. A directory that holds something else is left as
// it is: a mistyped --dir must not close /tmp to everybody.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making state directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("making state directory: %w", err)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("making state directory: %w", err)
	}
	if len(entries) > 0 && !Exists(dir) {
		return fmt.Errorf("%s holds other things, and other users may look into it; give an empty --dir, or a new one", dir)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("protecting state directory: %w", err)
	}
	return nil
}

// found makes the store, or opens the empty one that a killed Init left.
func found(ctx context.Context, cfg InitConfig) (*store.Store, error) {
	taken := fmt.Errorf("initialising %s: %w; use another --dir, or remove this one yourself", cfg.Dir, ErrInitialised)
	key, fresh, err := foundKey(cfg)
	if err != nil {
		return nil, err
	}
	sc := store.Config{Path: filepath.Join(cfg.Dir, dbFile), DSN: cfg.DSN, Key: key, Now: cfg.Now}
	if !Exists(cfg.Dir) {
		if cfg.DSN != "" {
			if err := os.WriteFile(filepath.Join(cfg.Dir, dsnFile), []byte(cfg.DSN+"\n"), 0o600); err != nil {
				return nil, fmt.Errorf("writing where the store is: %w", err)
			}
		}
		st, err := store.Create(ctx, sc)
		if err != nil {
			// Nothing was founded: what was made for it goes again.
			_ = os.Remove(filepath.Join(cfg.Dir, dsnFile))
			if fresh {
				_ = os.Remove(filepath.Join(cfg.Dir, keyFile))
			}
			return nil, err
		}
		return st, nil
	}
	if dsn, _ := os.ReadFile(filepath.Join(cfg.Dir, dsnFile)); strings.TrimSpace(string(dsn)) != cfg.DSN {
		return nil, taken
	}
	st, err := store.Open(ctx, sc)
	if errors.Is(err, store.ErrNotFound) {
		return store.Create(ctx, sc)
	}
	if err != nil {
		return nil, taken
	}
	err = st.View(ctx, func(tx *store.Tx) error {
		_, err := tx.Meta(metaEndpoint)
		return err
	})
	if !errors.Is(err, store.ErrNotFound) {
		return nil, errors.Join(taken, st.Close())
	}
	return st, nil
}

// foundKey returns the store's key and whether it was made just now.
func foundKey(cfg InitConfig) (key store.Key, fresh bool, err error) {
	if !cfg.Key.IsZero() {
		return cfg.Key, false, nil
	}
	path := filepath.Join(cfg.Dir, keyFile)
	if _, err := os.Lstat(path); err == nil {
		if key, err = store.LoadKey(path); err != nil {
			return store.Key{}, false, fmt.Errorf("reading store key: %w", err)
		}
		return key, false, nil
	}
	if Exists(cfg.Dir) {
		return store.Key{}, false, fmt.Errorf("initialising %s: %w, and its key is missing; bring hub.key back, or use another --dir", cfg.Dir, ErrInitialised)
	}
	if key, err = store.CreateKey(path); err != nil {
		return store.Key{}, false, fmt.Errorf("creating store key: %w", err)
	}
	return key, true, nil
}

// Exists reports whether dir holds a hub, or the beginnings of one.
func Exists(dir string) bool {
	for _, f := range []string{dbFile, dsnFile} {
		if _, err := os.Lstat(filepath.Join(dir, f)); err == nil {
			return true
		}
	}
	return false
}

// KeyLeft reports whether a store's key lies in dir, whatever else does.
func KeyLeft(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, keyFile))
	return err == nil
}

// fill writes what a new hub starts with, in one transaction: a hub that died
// half-way has an empty store, which New reports, and never half a key.
func fill(ctx context.Context, st *store.Store, cfg InitConfig, plan store.Plan) error {
	key, err := peer.NewPrivateKey()
	if err != nil {
		return fmt.Errorf("making hub key: %w", err)
	}
	identity, err := invite.NewIdentity()
	if err != nil {
		return fmt.Errorf("making enrolment identity: %w", err)
	}
	sealed, err := identity.Reveal()
	if err != nil {
		return fmt.Errorf("encoding enrolment identity: %w", err)
	}
	ev := audit.Event{Actor: localActor(os.Getuid()), Action: "hub.init", Target: cfg.Endpoint,
		Detail: map[string]string{"network": cfg.Network.String(), "network6": plan.V6.String(), "domain": cfg.Domain}}
	return st.Do(ctx, ev, func(tx *store.Tx) error {
		raw := key.Reveal()
		for name, secret := range map[string][]byte{secretHub: raw[:], secretEnrol: sealed} {
			if err := tx.SetSecret(name, secret); err != nil {
				return err
			}
		}
		for name, value := range map[string]string{
			metaEndpoint: cfg.Endpoint,
			metaDomain:   strings.ToLower(strings.TrimSuffix(cfg.Domain, ".")), metaAdmin: cfg.Admin,
		} {
			if err := tx.SetMeta(name, value); err != nil {
				return err
			}
		}
		if err := tx.SetPlan(plan); err != nil {
			return err
		}
		_, err := tx.PutPolicy(acl.DefaultPolicy(cfg.Admin), "hub.init", 0, time.Time{})
		return err
	})
}

func localActor(uid int) string { return "local:" + strconv.Itoa(uid) }
