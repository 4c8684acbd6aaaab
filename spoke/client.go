package spoke

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	gosync "sync"
	"sync/atomic"
	"time"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/netstack"
	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services/sync"
	"github.com/warrenmesh/warren/spoke/vault"
)

// Client is a spoke: this machine on the mesh. All methods may be called from
// any goroutine, until Close has returned.
type Client struct {
	cfg   Config
	log   *slog.Logger
	vault *vault.Vault
	state *state
	gate  *acl.Gate
	stack *netstack.Stack
	bind  *udp.Bind
	sync  *sync.Client

	vouched  vouched
	login    loginState
	settings *Settings

	view  atomic.Pointer[view]
	ready chan struct{} // closed when the hub has told this machine its slice
	left  chan struct{} // closed when this machine has left the mesh
	// refused is closed when the hub has said that this machine is no peer.
	refused chan struct{}
	once    struct{ ready, left, refused gosync.Once }
	kick    chan struct{} // the sync loop should ask again

	work     gosync.WaitGroup // what Run has in the background
	looking  atomic.Bool      // for the endpoint's addresses
	leaving  atomic.Bool
	knocking atomic.Bool
	called   atomic.Pointer[time.Time] // when the hub last said that it calls back

	mu        gosync.Mutex // guards what follows
	endpoints []netip.AddrPort
	closed    bool
	lastError string
	doors     []string
	served    []netip.Addr  // of what this machine offers, beside its own two
	changed   chan struct{} // closed, and made anew, with each new view
	started   time.Time
}

// view is what the hub said last, ready for use. It is immutable.
type view struct {
	self   sync.Self
	filter *acl.Filter
	told   bool // by the hub, in this run
}

// Open reads the state of cfg.Dir, brings the tunnel up with the last known
// policy and returns. It does not wait for the hub: see Ready.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	v, err := openVault(cfg.Dir)
	if err != nil {
		return nil, err
	}
	st, err := loadState(v)
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	c := &Client{
		cfg: cfg, log: cfg.logger(), vault: v, state: st, started: time.Now(),
		ready: make(chan struct{}), left: make(chan struct{}), refused: make(chan struct{}),
		kick: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	if err := c.open(ctx); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	c.makeSettings()
	return c, nil
}

func (c *Client) open(ctx context.Context) error {
	r := &c.state.reply
	first := &view{filter: c.storedFilter()}
	if first.filter == nil {
		var err error
		if first.filter, err = firstFilter(r, c.state.key.Public()); err != nil {
			return err
		}
	}
	if c.state.self != nil {
		first.self = *c.state.self
	}
	c.view.Store(first)
	small := c.cfg.Size.Small()
	c.gate = acl.NewGate(acl.GateConfig{Small: small})
	c.gate.Swap(first.filter)
	c.bind = udp.New(udp.Config{
		Listen: c.cfg.Listen, Small: small, Key: c.state.key.Public(), Remote: r.Hub, ListenPacket: c.cfg.Outer, Logger: c.log,
	})
	config := netstack.Config{
		Key: c.state.key, Listen: c.cfg.Listen, V4: r.NetV4, V6: r.NetV6, Addresses: []netip.Addr{r.V4, r.V6},
		MTU: r.MTU, Small: small, Gate: c.gate, Bind: c.bind, Logger: c.log,
	}
	if c.cfg.TUN != "" {
		dev, err := openTUN(c.cfg.TUN, r)
		if err != nil {
			return err
		}
		config.TUN = dev // the stack closes it
	}
	stack, err := netstack.Open(config)
	if err != nil {
		if config.TUN != nil {
			err = errors.Join(err, config.TUN.Close())
		}
		return fmt.Errorf("opening tunnel: %w", err)
	}
	c.stack = stack
	if err := c.setServed(&first.self); err != nil {
		return errors.Join(err, stack.Close())
	}
	c.sync = &sync.Client{HTTP: c.syncHTTP(), Base: "http://" + r.Sync.String()}
	// A name that does not resolve now is tried again by Run.
	if c.endpoints, err = c.cfg.resolve(ctx, c.endpoint()); err != nil {
		c.log.Warn("looking up the hub", "endpoint", c.endpoint(), "err", err)
	}
	if err := c.ask(ctx, 0, false); err != nil {
		return errors.Join(err, stack.Close())
	}
	return nil
}

// storedFilter compiles the slice of the last run, nil if there is none that
// can be used.
func (c *Client) storedFilter() *acl.Filter {
	if c.state.self == nil {
		return nil
	}
	f, err := sliceFilter(c.state.self.Slice)
	if err != nil {
		c.log.Warn("stored policy slice", "err", err)
		return nil
	}
	return f
}

// endpoint is where the hub said last that it can be reached.
func (c *Client) endpoint() string {
	if v := c.view.Load(); v.self.Endpoint != "" {
		return v.self.Endpoint
	}
	return c.state.reply.Endpoint
}

// keepalive keeps the way from the hub to us open through address translation.
const keepalive = 25 * time.Second

func (c *Client) setHub(ctx context.Context, at netip.AddrPort) error {
	r := &c.state.reply
	return c.stack.SetPeers(ctx, []netstack.PeerConfig{{
		Key: r.Hub, PSK: r.PSK, Routes: []netip.Prefix{r.NetV4, r.NetV6}, Endpoint: at, Keepalive: keepalive,
	}})
}

// Ready waits until the hub has told this machine its part of the policy, in
// this run. It fails when ctx ends or the hub has said that this machine is no
// peer (ErrRemoved).
func (c *Client) Ready(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-c.left:
		return ErrLeft
	case <-c.refused:
		return ErrRemoved
	case <-ctx.Done():
		return fmt.Errorf("waiting for the hub at %s: %w", c.endpoint(), ctx.Err())
	}
}

// ErrLeft says that this machine has left the mesh of its own will.
var ErrLeft = errors.New("this machine has left the mesh")

// ErrRemoved says that the hub knows this machine no more, or holds it in
// quarantine.
var ErrRemoved = errors.New("the hub says that this machine is no active peer of the mesh: it was removed or quarantined; ask the admin")

// Membership returns who this machine is on the mesh.
func (c *Client) Membership() Membership {
	st := *c.state
	if v := c.view.Load(); v.self.Peer.ID != "" {
		st.self = &v.self
	}
	return st.membership()
}

// Leave takes this machine off the mesh and forgets everything about it; Run
// then ends with ErrLeft. If the hub cannot be reached before ctx ends, Leave
// still forgets, and says so.
func (c *Client) Leave(ctx context.Context) error {
	err := c.forget(ctx)
	c.end()
	return err
}

// leaveTime is how long the hub may take to answer to a farewell.
const leaveTime = 3 * time.Second

// forget is Leave without ending Run.
func (c *Client) forget(ctx context.Context) error {
	name := c.Membership().Name
	sent := false
	ctx, cancel := context.WithTimeout(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(info httptrace.WroteRequestInfo) { sent = info.Err == nil },
	}), leaveTime)
	defer cancel()
	connected := c.Status().Connected
	c.leaving.Store(true) // the hub ends every other question with us
	err := c.sync.Leave(ctx)
	switch p, ok := errors.AsType[*sync.Problem](err); {
	case ok && p.Status == http.StatusForbidden:
		err = nil // the hub has forgotten first
	case err != nil && !ok && sent && connected:
		// A peer that the hub has removed hears nothing more, not even that.
		c.log.Debug("the hub did not confirm that this machine has left")
		err = nil
	}
	if err := c.settings.forgetAll(map[string][]byte{keyReply: nil, keySelf: nil, keyPrivate: nil, keyLogin: nil}); err != nil {
		return fmt.Errorf("forgetting the mesh: %w", err)
	}
	if err != nil {
		return fmt.Errorf("this machine has forgotten the mesh, but the hub could not be told; ask the admin: hub peer rm %s", name)
	}
	return nil
}

// end makes Run return ErrLeft.
func (c *Client) end() { c.once.left.Do(func() { close(c.left) }) }

// Close takes the tunnel down and gives the directory back. Connections are
// reset. It is safe to call twice.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	c.sync.HTTP.CloseIdleConnections()
	c.settings.http.CloseIdleConnections()
	return errors.Join(c.stack.Close(), c.vault.Close())
}

// syncHTTP is an HTTP client for the sync service and nothing else.
func (c *Client) syncHTTP() *http.Client {
	return &http.Client{
		Timeout: sync.Hold + 15*time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return c.dialAddr(ctx, "tcp", c.state.reply.Sync)
			},
			MaxIdleConns:       1,
			DisableCompression: true,
		},
	}
}

// hub is the hub's key.
func (c *Client) hub() peer.PublicKey { return c.state.reply.Hub }
