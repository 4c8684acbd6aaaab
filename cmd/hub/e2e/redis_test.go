package e2e_test

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// redis starts Redis on the hub's machine: on loopback, and on a Unix socket.
// It keeps nothing on disk.
func (m *mesh) redis() *program {
	m.t.Helper()
	p := m.start(m.t, m.dir+"/redis.log", "redis-server", "--bind", "127.0.0.1", "--port", redisPort,
		"--unixsocket", m.dir+"/redis.sock", "--save", "", "--appendonly", "no", "--dir", m.dir)
	until(m.t, "Redis answers", func() bool {
		c, err := net.Dial("unix", m.dir+"/redis.sock")
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
	return p
}

const redisPort = "6379"

// perMinute is what one machine may ask in a minute.
const perMinute = 200

// spend asks until the minute's allowance is used up, and reads the headers of
// the refusal.
func spend(t *testing.T, p *phone) {
	t.Helper()
	r := p.curl("-o", "/dev/null", "-w", "%{http_code}\\n", fmt.Sprintf("%s/health#[1-%d]", authURL, perMinute+5))
	if r.code != 0 {
		t.Fatalf("asking on: exit code %d %s", r.code, r.errs)
	}
	if n := strings.Count(r.out, "429"); n < 5 || n > 20 {
		t.Errorf("of %d requests %d were refused", perMinute+5, n)
	}
	refused(t, p, "the next")
}

// refused checks that a machine has used up its allowance, and is told so.
func refused(t *testing.T, p *phone, what string) {
	t.Helper()
	a := p.ask(t, "GET", authURL+"/health", "")
	want(t, what, a, 429, "Too many requests")
	for header, pattern := range map[string]string{
		"ratelimit-limit": `^200$`, "ratelimit-remaining": `^0$`, "ratelimit-reset": `^[1-9]\d?$`, "retry-after": `^[1-9]\d?$`,
	} {
		if got := strings.Join(a.header[header], ", "); !regexp.MustCompile(pattern).MatchString(got) {
			t.Errorf("%s: %s is %q, want %s", what, header, got, pattern)
		}
	}
}

// left is what remains of a machine's allowance, after one request more.
func left(t *testing.T, p *phone) int {
	t.Helper()
	a := p.ask(t, "GET", authURL+"/health", "")
	n, err := strconv.Atoi(strings.Join(a.header["ratelimit-remaining"], ""))
	if a.status != 200 || err != nil {
		t.Fatalf("asking: %v, headers %v", a, a.header)
	}
	return n
}

// What the hub's log has when Redis goes and comes.
const (
	saysAway = "Redis does not answer"
	saysBack = "Redis answers again"
)

// says waits until the hub's log has a text for the nth time.
func (m *mesh) says(text string, n int) {
	m.t.Helper()
	until(m.t, fmt.Sprintf("the hub says %q, %d", text, n), func() bool { return strings.Count(m.hub.said(), text) >= n })
}

// TestRedisAndPostgres runs a confined hub on both, as two hubs would: Redis by
// TCP and then by a Unix socket, and PostgreSQL by one. What a machine has used
// up outlives kill -9 of the hub; Redis going away is said once, and locks
// nobody out and nobody in.
func TestRedisAndPostgres(t *testing.T) {
	m := newMeshOn(t, postgres(t), "--redis", "redis://127.0.0.1:"+redisPort+"/0")
	m.settle()
	ann, bob := m.phone("ann-phone", "--owner", "ann"), m.phone("bob-phone", "--owner", "bob")
	m.says(saysAway, 1) // it is not there yet
	counts := m.redis()
	m.says(saysBack, 1)
	m.known(ann, bob)
	m.onlyItsOwn(t, "with Redis by TCP")
	spend(t, ann)
	before := left(t, bob)

	m.killHub()
	m.flags = []string{"--redis", "unix://" + m.dir + "/redis.sock"}
	m.startHub()
	until(t, "the phone is heard again", func() bool { return bob.ask(t, "GET", authURL+"/health", "").status == 200 })
	if out := m.admin("status"); !strings.Contains(out, "shared") {
		t.Errorf("hub status:\n%s", out)
	}
	m.onlyItsOwn(t, "with Redis by its Unix socket")
	refused(t, ann, "after the hub was killed")
	if now := left(t, bob); now >= before {
		t.Errorf("a machine had %d requests left, and %d after the hub was killed", before, now)
	}
	if n := strings.Count(m.hub.said(), saysAway); n != 1 {
		t.Errorf("the hub said %d times that Redis is away:\n%s", n, m.hub.said())
	}
	alone(t, m, bob, counts)
}

// alone takes Redis from the hub and gives it back.
func alone(t *testing.T, m *mesh, p *phone, counts *program) {
	counts.end(syscall.SIGKILL)
	before := left(t, p)
	for range 5 {
		left(t, p)
	}
	if now := left(t, p); now != before-6 {
		t.Errorf("without Redis: %d left, and %d six requests later", before, now)
	}
	m.says(saysAway, 2)
	if out := m.admin("status"); !strings.Contains(out, "away") {
		t.Errorf("hub status:\n%s", out)
	}
	m.redis()
	m.says(saysBack, 2)
	if n := strings.Count(m.hub.said(), saysAway); n != 2 {
		t.Errorf("the hub said %d times that Redis is away, which it was twice:\n%s", n, m.hub.said())
	}
	access, _ := p.signIn(t, "bob")
	want(t, "with Redis back", p.ask(t, "GET", authURL+"/auth/me", "", bearer(access)), 200, "bob@example.org")
}
