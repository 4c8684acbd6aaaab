package spoke

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/warrenmesh/warren/acl"
	"github.com/warrenmesh/warren/services/sync"
)

// Run keeps the tunnel up and what the hub says in force, until ctx ends (then
// it returns nil) or Leave was called (ErrLeft). A machine that the hub holds in
// quarantine goes on trying.
func (c *Client) Run(ctx context.Context) error {
	defer c.work.Wait()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.watch(ctx) })
	g.Go(func() error { return c.follow(ctx) })
	g.Go(func() error { return c.settings.run(ctx) })
	g.Go(func() error {
		select {
		case <-c.left:
			return ErrLeft
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// watch looks at the link a few times a second and does what it orders.
func (c *Client) watch(ctx context.Context) error {
	var l link
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	addresses, turn := "", 0
	for n := 0; ; n++ {
		if n%int(time.Second/tick) == 0 {
			addresses = c.outerAddresses()
		}
		o := l.look(clocks(), c.observe(addresses))
		if o.why != "" {
			c.log.Info("reconnecting", "why", o.why)
		}
		if o.next {
			turn++
		}
		c.obey(ctx, o, turn)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// observe reads what the link is told.
func (c *Client) observe(addresses string) seen {
	s := seen{addresses: addresses, age: 100 * 365 * 24 * time.Hour}
	if at := c.called.Load(); at != nil {
		s.coming = time.Since(*at) < callTime
	}
	for _, p := range c.stack.Peers() {
		if p.Key != c.hub() {
			continue
		}
		s.rx, s.tx = p.RxBytes, p.TxBytes
		if !p.LastHandshake.IsZero() {
			s.handshakes = uint64(p.LastHandshake.UnixNano())
			s.age = time.Since(p.LastHandshake)
		}
	}
	return s
}

func (c *Client) obey(ctx context.Context, o orders, turn int) {
	if o.rebind {
		if err := c.stack.Rebind(); err != nil {
			c.log.Warn("opening outer sockets", "err", err)
		}
	}
	if o.resolve {
		c.lookUp(ctx)
	}
	if o.handshake {
		if err := c.ask(ctx, turn, o.renew); err != nil && ctx.Err() == nil {
			c.log.Warn("asking for a session", "err", err)
		}
	}
	if o.knock {
		c.knock(ctx, turn)
	}
	if o.rebind || o.why != "" || o.news {
		// The held request may wait on a connection that the hub, if it is a
		// new one, knows nothing of.
		c.sync.HTTP.CloseIdleConnections()
		select {
		case c.kick <- struct{}{}:
		default:
		}
	}
}

// lookUp asks for the endpoint's addresses, in the background: a resolver may
// take seconds when the network is bad, which is when it is asked.
func (c *Client) lookUp(ctx context.Context) {
	if !c.looking.CompareAndSwap(false, true) {
		return
	}
	c.work.Go(func() {
		defer c.looking.Store(false)
		list, err := c.cfg.resolve(ctx, c.endpoint())
		if err != nil {
			if ctx.Err() == nil {
				c.log.Warn("looking up the hub", "endpoint", c.endpoint(), "err", err)
			}
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.endpoints = list
	})
}

// ask begins a handshake. WireGuard keeps to one in five seconds for one and
// the same peer, so to renew means to take the hub out and put it in again;
// connections inside the tunnel do not notice.
func (c *Client) ask(ctx context.Context, turn int, renew bool) error {
	if renew {
		if err := c.stack.SetPeers(ctx, nil); err != nil {
			return err
		}
	}
	if err := c.setHub(ctx, c.target(turn)); err != nil {
		return err
	}
	return c.stack.Handshake(c.hub())
}

// knock asks the hub to call back, in the background. The knock gets no longer
// than the link waits before it asks again.
func (c *Client) knock(ctx context.Context, turn int) {
	to := c.target(turn)
	if !to.IsValid() || !c.knocking.CompareAndSwap(false, true) {
		return
	}
	c.work.Go(func() {
		defer c.knocking.Store(false)
		ctx, cancel := context.WithTimeout(ctx, 3*retryEvery)
		defer cancel()
		if err := c.bind.Knock(ctx, to, c.hub(), c.state.key.Public(), c.state.reply.PSK); err != nil {
			c.log.Debug("knocking", "err", err)
			return
		}
		now := time.Now()
		c.called.Store(&now)
		c.log.Info("the hub calls back: it finds this machine's clock in the past")
	})
}

// callTime is how long a hub that calls back is given.
const callTime = 2 * time.Second

// target is the endpoint's address that is turn places down the list, the
// invalid one if none is known: the hub may still call.
func (c *Client) target(turn int) netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.endpoints) == 0 {
		return netip.AddrPort{}
	}
	return c.endpoints[turn%len(c.endpoints)]
}

// outerAddresses lists the machine's addresses outside the tunnel, so that a
// change of network shows.
func (c *Client) outerAddresses() string {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	texts := make([]string, 0, len(list))
	for _, a := range list {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		addr = addr.Unmap()
		// Link-local addresses come and go without meaning anything, and our own
		// interface is not a way to the hub.
		if ok && !addr.IsLoopback() && !addr.IsLinkLocalUnicast() && !c.overlay(addr) {
			texts = append(texts, n.String())
		}
	}
	slices.Sort(texts)
	return strings.Join(texts, " ")
}

// follow asks the hub what this machine should know, again and again, and puts
// it in force.
func (c *Client) follow(ctx context.Context) error {
	etag := ""
	wait := retryMin
	for ctx.Err() == nil {
		asking, cancel := context.WithCancel(ctx)
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			select {
			case <-c.kick:
				cancel()
			case <-asking.Done():
			}
		}()
		self, tag, changed, err := c.sync.Self(asking, etag)
		kicked := asking.Err() != nil
		cancel()
		<-stop
		if err == nil {
			wait = retryMin
			c.trouble(nil)
			if changed {
				if err = c.apply(ctx, self); err == nil {
					etag = tag
				}
			}
		}
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		if kicked {
			continue
		}
		c.trouble(err)
		if p, ok := errors.AsType[*sync.Problem](err); ok && p.Status == http.StatusForbidden {
			// In quarantine, most likely, and that may end without anybody
			// coming by to start this again.
			c.once.refused.Do(func() { close(c.refused) })
			wait = retryRefused
		}
		// After a hub's restart the old etag means nothing, and asking without
		// one is answered at once.
		etag = ""
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, retryMax)
	}
	return nil
}

// The pause between questions to a hub that does not answer them.
const (
	retryMin = 100 * time.Millisecond
	retryMax = time.Second
	// retryRefused is the pause after an answer of "you are no peer".
	retryRefused = 10 * time.Second
)

// trouble keeps the last error of the sync loop for Status.
func (c *Client) trouble(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != c.lastError && err != nil && !c.leaving.Load() {
		c.log.Info("the hub cannot be asked", "err", err)
	}
	c.lastError = text
}

// apply puts what the hub said in force: first the filter, then the names. A
// slice that cannot be used leaves the old one in force.
func (c *Client) apply(ctx context.Context, self sync.Self) error {
	if self.Peer.ID != c.state.reply.ID {
		return errors.New("the hub speaks of another machine")
	}
	filter, err := sliceFilter(self.Slice)
	if err != nil {
		return err
	}
	cut := c.stack.SetFilter(filter)
	if err := c.setServed(&self); err != nil {
		return err
	}
	old := c.view.Swap(&view{self: self, filter: filter, told: true})
	c.mu.Lock()
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	if cut.Connections > 0 {
		c.log.Info("policy changed", "cut", cut.Connections, "took", cut.Took)
	}
	raw, err := json.Marshal(self)
	if err != nil {
		return fmt.Errorf("storing policy slice: %w", err)
	}
	was, err := c.vault.Get(keySelf)
	if err != nil || !bytes.Equal(was, raw) {
		// In force it is already; after a restart the old one would be, until
		// the hub has been asked.
		if err := c.vault.Put(keySelf, raw); err != nil {
			c.log.Error("storing policy slice", "err", err)
		}
	}
	if old.self.Endpoint != "" && old.self.Endpoint != self.Endpoint {
		c.log.Info("the hub has moved", "endpoint", self.Endpoint)
		// The tunnel stays as it is while it works; the next question goes to
		// the new place.
		c.lookUp(ctx)
	}
	c.once.ready.Do(func() { close(c.ready) })
	return nil
}

// sliceFilter compiles a slice as the hub sent it.
func sliceFilter(raw json.RawMessage) (*acl.Filter, error) {
	if len(raw) == 0 {
		return nil, errors.New("the hub sent no policy slice")
	}
	var slice acl.Slice
	if err := json.Unmarshal(raw, &slice); err != nil {
		return nil, fmt.Errorf("reading policy slice: %w", err)
	}
	filter, err := slice.Filter()
	if err != nil {
		return nil, fmt.Errorf("reading policy slice: %w", err)
	}
	return filter, nil
}
