// Package limit counts requests for several hubs at once, in Redis.
//
// Each hub asks the same Redis, so that a caller has one allowance and not one
// for every hub. The counting is that of services.MemoryLimiter: exact, in slots
// of a sixtieth of the rate's time. It runs inside Redis, as one script over all
// rates of a request, by the clock of Redis: either every rate counts the request
// or none does, however many hubs ask at once. (redis_rate judges one rate at a
// time, and would have counted against the first what the second refuses; and its
// kind of bucket lets up to twice the rate through.)
//
// When Redis is away the hub counts in its own memory, which holds what this hub
// let through lately, says so once, and goes back when Redis answers. A caller
// may then get, for as long as the outage lasts, one allowance at each hub; never
// more, and never none.
//
// What Redis holds are numbers under names such as peer:ID. It needs to be
// reachable by the hubs alone: who can write to it can take the limits away.
package limit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/warrenmesh/warren/services"
)

// Times of the conversation with Redis.
const (
	// answer is how long Redis has for one request; then it is away.
	answer = 250 * time.Millisecond
	// probe is how often Redis is looked for while it is away.
	probe = time.Second
	// glance is how often it is looked at while it answers: nobody may ask for
	// hours, and whoever looks at the hub wants to know.
	glance = 5 * time.Second
)

// Config says where Redis is. Address is needed.
type Config struct {
	// Address is redis://, rediss:// (TLS) or unix:// with user and password as
	// needed, or the path of a Unix socket. It is never logged.
	Address string
	// Memory counts while Redis is away; nil makes one.
	Memory *services.MemoryLimiter
	// Report is told once whenever Redis goes away or comes back; nil for nobody.
	// It must not block.
	Report func(away bool)
	// Logger; nil discards.
	Logger *slog.Logger
	// Now is the clock of the memory that is made; nil is time.Now.
	Now func() time.Time
}

// Limiter is a services.Limiter that hubs share. It is safe for concurrent use.
type Limiter struct {
	cfg    Config
	client *redis.Client
	script *redis.Script
	away   atomic.Bool
	lost   chan struct{} // wakes the one who looks for Redis
	stop   context.CancelFunc
	done   chan struct{}
	once   sync.Once
}

// Redis returns a limiter. Whether Redis answers is seen within a second, or with
// the first request. It turns the log of the Redis library off, for the whole
// program: that writes to standard error what the limiter says once.
func Redis(cfg Config) (*Limiter, error) {
	opt, err := options(cfg.Address)
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Memory == nil {
		cfg.Memory = services.NewMemoryLimiter(cfg.Now)
	}
	cfg.Address = "" // what is not kept is not printed
	logging.Disable()
	ctx, stop := context.WithCancel(context.Background())
	l := &Limiter{
		cfg: cfg, client: redis.NewClient(opt), script: redis.NewScript(script),
		lost: make(chan struct{}, 1), stop: stop, done: make(chan struct{}),
	}
	go l.watch(ctx, opt.Network, opt.Addr)
	return l, nil
}

// errAddress never says what the address is: it may hold a password.
var errAddress = errors.New("the address of Redis cannot be read; write redis://HOST:PORT, rediss://HOST:PORT, unix:///PATH or the path of a Unix socket")

func options(address string) (*redis.Options, error) {
	opt := &redis.Options{Network: "unix", Addr: address}
	if !strings.HasPrefix(address, "/") {
		var err error
		if opt, err = redis.ParseURL(address); err != nil {
			return nil, errAddress
		}
	}
	if opt.TLSConfig != nil && opt.TLSConfig.InsecureSkipVerify {
		return nil, errors.New("the address of Redis turns the check of its certificate off; take skip_verify out")
	}
	opt.MaxRetries = -1 // a second try would count twice
	opt.DialerRetries = 1
	opt.DialTimeout, opt.ReadTimeout, opt.WriteTimeout, opt.PoolTimeout = answer, answer, answer, answer
	opt.ContextTimeoutEnabled = true
	opt.Protocol = 2
	opt.DisableIdentity = true
	opt.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return opt, nil
}

// Shared reports whether Redis counts, and not this hub alone.
func (l *Limiter) Shared() bool { return !l.away.Load() }

// Close lets go of Redis. From then on this hub counts alone. It may be called
// twice.
func (l *Limiter) Close() error {
	var err error
	l.once.Do(func() {
		l.stop()
		<-l.done
		l.away.Store(true)
		if err = l.client.Close(); err != nil {
			err = fmt.Errorf("closing Redis: %w", err)
		}
	})
	return err
}

// Take implements services.Limiter.
func (l *Limiter) Take(ctx context.Context, key string, rates ...services.Rate) (services.Allowance, error) {
	if l.away.Load() {
		return l.cfg.Memory.Take(ctx, key, rates...)
	}
	if key == "" || len(key) > 128 || len(rates) == 0 {
		return services.Allowance{}, errors.New("counting an event: it needs a key of at most 128 bytes, and a rate")
	}
	for _, r := range rates {
		if err := r.Check(); err != nil {
			return services.Allowance{}, err
		}
	}
	a, err := l.ask(ctx, key, rates)
	if err != nil {
		if ctx.Err() != nil {
			return services.Allowance{}, fmt.Errorf("counting an event: %w", context.Cause(ctx))
		}
		l.leave(err)
		return l.cfg.Memory.Take(ctx, key, rates...)
	}
	if a.Allowed {
		// What Redis knows this hub knows too, should it be alone in a moment.
		_, _ = l.cfg.Memory.Take(ctx, key, rates...)
	}
	return a, nil
}

// leave notes that Redis is away.
func (l *Limiter) leave(err error) {
	if !l.away.CompareAndSwap(false, true) {
		return
	}
	l.cfg.Logger.Warn("Redis does not answer; this hub counts requests by itself until it does", "error", err)
	if l.cfg.Report != nil {
		l.cfg.Report(true)
	}
	select {
	case l.lost <- struct{}{}:
	default:
	}
}

// watch looks for Redis while it is away, and now and then while it is not.
func (l *Limiter) watch(ctx context.Context, network, addr string) {
	defer close(l.done)
	t := time.NewTicker(probe)
	defer t.Stop()
	var seen time.Time // when it last answered
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.lost:
		case <-t.C:
		}
		away := l.away.Load()
		if !away && time.Since(seen) < glance {
			continue
		}
		err := l.answers(ctx, network, addr)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			seen = time.Now()
			if away {
				l.back()
			}
		case !away:
			l.leave(err)
		}
	}
}

// back notes that Redis answers again.
func (l *Limiter) back() {
	l.away.Store(false)
	l.cfg.Logger.Info("Redis answers again; the hubs count together")
	if l.cfg.Report != nil {
		l.cfg.Report(false)
	}
}

// answers tries the script itself, on a key of its own: a Redis that is loading,
// full or read-only does not count. It knocks first, which costs less than what the
// client does when nobody is there.
func (l *Limiter) answers(ctx context.Context, network, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*answer)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return fmt.Errorf("asking Redis: %w", err)
	}
	_ = c.Close()
	_, err = l.ask(ctx, "probe", []services.Rate{{Events: 1000, Per: time.Second}})
	return err
}
