package limit_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/limit"
)

// server is the distribution's redis-server, on a Unix socket and nothing else.
type server struct {
	t      *testing.T
	socket string
	args   []string
	cmd    *exec.Cmd
}

func newServer(t *testing.T, args ...string) *server {
	t.Helper()
	// The path of a socket is short; t.TempDir's is not.
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &server{t: t, socket: filepath.Join(dir, "s"), args: args}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *server) start() {
	s.t.Helper()
	args := append([]string{"--port", "0", "--unixsocket", s.socket, "--save", "", "--appendonly", "no", "--dir", filepath.Dir(s.socket)}, s.args...)
	s.cmd = exec.Command("redis-server", args...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		if c, err := net.Dial("unix", s.socket); err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatal("redis-server did not start")
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (s *server) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	_ = os.Remove(s.socket)
	s.cmd = nil
}

func open(t *testing.T, cfg limit.Config) *limit.Limiter {
	t.Helper()
	l, err := limit.Redis(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func take(t *testing.T, l services.Limiter, key string, rates ...services.Rate) services.Allowance {
	t.Helper()
	a, err := l.Take(context.Background(), key, rates...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Two hubs and a hundred callers at once share one allowance, to the last event.
func TestHubsShareOneAllowance(t *testing.T) {
	s := newServer(t)
	hubs := []*limit.Limiter{open(t, limit.Config{Address: s.socket}), open(t, limit.Config{Address: "unix://" + s.socket})}
	minute, hour := services.Rate{Events: 200, Per: time.Minute}, services.Rate{Events: 2000, Per: time.Hour}
	var wg sync.WaitGroup
	var mu sync.Mutex
	allowed, left := 0, map[int]bool{}
	for i := range 20 {
		wg.Go(func() {
			for range 25 {
				a := take(t, hubs[i%2], "user:1", minute, hour)
				mu.Lock()
				if a.Allowed {
					allowed++
					left[a.Remaining] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if allowed != 200 || len(left) != 200 {
		t.Errorf("%d allowed, %d different remainders", allowed, len(left))
	}
	for _, l := range hubs {
		a := take(t, l, "user:1", minute, hour)
		if a.Allowed || a.Limit != minute || a.Remaining != 0 || a.Retry <= 0 || a.Retry > 61*time.Second || a.Reset < a.Retry || !l.Shared() {
			t.Errorf("%+v", a)
		}
	}
	// The hour has counted what was allowed, and none of the 300 refusals.
	if a := take(t, hubs[0], "user:1", hour); !a.Allowed || a.Remaining != 2000-201 {
		t.Errorf("hour: %+v", a)
	}
	if a := take(t, hubs[0], "user:2", minute, hour); !a.Allowed || a.Remaining != 199 {
		t.Errorf("another person: %+v", a)
	}
}

// Event by event, Redis says what the memory limiter says.
func TestSameAsMemory(t *testing.T) {
	s := newServer(t)
	l, m := open(t, limit.Config{Address: s.socket}), services.NewMemoryLimiter(nil)
	rates := []services.Rate{{Events: 5, Per: time.Hour}, {Events: 30, Per: time.Hour}, {Events: 8, Per: 2 * time.Hour}}
	for i := range 60 {
		some := rates[i%3 : min(i%3+1+i%2, 3)]
		want, got := take(t, m, "k", some...), take(t, l, "k", some...)
		if got.Allowed != want.Allowed || got.Limit != want.Limit || got.Remaining != want.Remaining || (got.Retry == 0) != (want.Retry == 0) {
			t.Fatalf("event %d: %+v, memory %+v", i, got, want)
		}
		if d := got.Reset - want.Reset; d.Abs() > got.Limit.Slot() {
			t.Fatalf("event %d: whole in %v, memory %v", i, got.Reset, want.Reset)
		}
	}
}

// In no stretch of a second are there more events than a second allows, and what
// Retry says is true.
func TestNeverMoreInAnyStretch(t *testing.T) {
	s := newServer(t)
	l := open(t, limit.Config{Address: s.socket})
	rate := services.Rate{Events: 20, Per: time.Second}
	type event struct{ before, after time.Time }
	var events []event
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); {
		before := time.Now()
		a := take(t, l, "k", rate)
		if a.Allowed {
			events = append(events, event{before, time.Now()})
			continue
		}
		if len(events) > rate.Events {
			<-time.After(time.Millisecond) // try as soon as can be
			continue
		}
		<-time.After(a.Retry)
		before = time.Now()
		if a := take(t, l, "k", rate); !a.Allowed {
			t.Fatalf("refused after what Retry said: %+v", a)
		}
		events = append(events, event{before, time.Now()})
	}
	for i := range len(events) - rate.Events {
		if d := events[i+rate.Events].after.Sub(events[i].before); d < rate.Per {
			t.Fatalf("%d events in %v", rate.Events+1, d)
		}
	}
	if len(events) < 30 {
		t.Errorf("only %d events", len(events))
	}
}

// Redis forgets by itself, and what it holds stays small.
func TestRedisForgets(t *testing.T) {
	s := newServer(t)
	l := open(t, limit.Config{Address: s.socket})
	for range 100 {
		take(t, l, "k", services.Rate{Events: 50, Per: time.Minute}, services.Rate{Events: 60, Per: time.Hour})
	}
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket})
	defer c.Close()
	keys, err := c.Keys(context.Background(), "*").Result()
	if err != nil || len(keys) != 2 {
		t.Fatal(keys, err)
	}
	for _, k := range keys {
		ttl, err := c.TTL(context.Background(), k).Result()
		if err != nil || ttl <= 0 || ttl > time.Hour+5*time.Minute || !strings.HasPrefix(k, "warren:limit:{k}:") {
			t.Errorf("%s lives for %v, %v", k, ttl, err)
		}
		if n, err := c.HLen(context.Background(), k).Result(); err != nil || n > services.Slots+1 {
			t.Errorf("%s has %d slots, %v", k, n, err)
		}
	}
}

// logs is a log that two goroutines write to.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *logs) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// Without Redis the hub counts on from where it was, says so once, and goes back.
func TestRedisGoesAndComesBack(t *testing.T) {
	s := newServer(t)
	var log logs
	reports := make(chan bool, 16)
	l := open(t, limit.Config{
		Address: s.socket, Logger: slog.New(slog.NewTextHandler(&log, nil)), Report: func(away bool) { reports <- away },
	})
	rate := services.Rate{Events: 10, Per: time.Hour}
	for range 4 {
		take(t, l, "k", rate)
	}
	s.stop()
	for i := range 6 {
		if a := take(t, l, "k", rate); !a.Allowed || a.Remaining != 5-i {
			t.Fatalf("event %d alone: %+v", i, a)
		}
	}
	if a := take(t, l, "k", rate); a.Allowed || l.Shared() {
		t.Fatalf("%+v", a)
	}
	if away := <-reports; !away {
		t.Error("reported the wrong way round")
	}
	s.start()
	select {
	case away := <-reports:
		if away || !l.Shared() {
			t.Error("away again")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Redis is back, and the hub does not notice")
	}
	if a := take(t, l, "k", rate); !a.Allowed {
		t.Errorf("with a Redis that knows nothing yet: %+v", a)
	}
	if got := log.String(); strings.Count(got, "level=WARN") != 1 || strings.Count(got, "answers again") != 1 {
		t.Errorf("log: %s", got)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if a := take(t, l, "other", rate); !a.Allowed || l.Shared() {
		t.Errorf("closed: %+v", a)
	}
}

// That Redis is not there is known before anybody asks for anything.
func TestRedisThatIsNotThere(t *testing.T) {
	reports := make(chan bool, 16)
	l := open(t, limit.Config{Address: filepath.Join(t.TempDir(), "none"), Report: func(away bool) { reports <- away }})
	select {
	case away := <-reports:
		if !away || l.Shared() {
			t.Error("reported the wrong way round")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nobody asks, and the hub takes Redis to be there")
	}
}

// A Redis that hangs costs a request a quarter of a second, once.
func TestRedisThatHangs(t *testing.T) {
	s := newServer(t)
	l := open(t, limit.Config{Address: s.socket})
	rate := services.Rate{Events: 100, Per: time.Hour}
	take(t, l, "k", rate)
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: s.socket})
	defer c.Close()
	if err := c.Do(context.Background(), "CLIENT", "PAUSE", 600_000, "ALL").Err(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for range 50 {
		if a := take(t, l, "k", rate); !a.Allowed {
			t.Fatalf("%+v", a)
		}
	}
	if took := time.Since(start); took > 5*time.Second || l.Shared() {
		t.Errorf("50 requests took %v", took)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	fresh := open(t, limit.Config{Address: s.socket})
	if _, err := fresh.Take(ctx, "k", rate); err == nil || !fresh.Shared() {
		t.Errorf("a caller who went away takes Redis with them: %v", err)
	}
}

// The password is in the address, and nowhere else.
func TestPasswordStaysSecret(t *testing.T) {
	const secret = "hunter2hunter2"
	s := newServer(t, "--requirepass", secret)
	var log logs
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	rate := services.Rate{Events: 10, Per: time.Hour}
	good := open(t, limit.Config{Address: "unix://:" + secret + "@" + s.socket, Logger: logger})
	take(t, good, "k", rate)
	if !good.Shared() {
		t.Error("the right password does not do")
	}
	wrong := open(t, limit.Config{Address: "unix://:" + secret + "x@" + s.socket, Logger: logger})
	if a := take(t, wrong, "k", rate); !a.Allowed || wrong.Shared() {
		t.Error("the wrong password does")
	}
	var texts []string
	for _, address := range []string{"", "redis", "http://" + secret + "@host", "redis://:" + secret + "@host:port", "redis://:" + secret + "@host/%zz", "rediss://:" + secret + "@host?skip_verify=true"} {
		l, err := limit.Redis(limit.Config{Address: address, Logger: logger})
		if err == nil {
			_ = l.Close()
			t.Errorf("%q is taken for an address", strings.ReplaceAll(address, secret, "…"))
			continue
		}
		texts = append(texts, err.Error())
	}
	texts = append(texts, log.String(), fmt.Sprintf("%+v", good))
	if strings.Contains(strings.Join(texts, "\n"), "hunter2") {
		t.Errorf("the password is out: %s", texts)
	}
}
