package storetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // driver "pgx"
)

// Server is a PostgreSQL server on a Unix socket in a temporary directory. It
// listens on no network, keeps nothing, and dies with the test process, also
// when that is killed.
type Server struct {
	dir, bin string
	cred     *syscall.Credential // nil unless the test runs as root
	next     atomic.Int64
	leash    io.WriteCloser // the server ends when this is closed
	done     chan struct{}
}

// one is the server that the tests of this process share.
var one = sync.OnceValues(start)

func shared(t testing.TB) *Server {
	t.Helper()
	s, err := one()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// NewServer starts a server of its own for a test that stops or restarts it.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s, err := start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func start() (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	// Not t.TempDir: a Unix socket's path ends at 107 bytes.
	dir, err := os.MkdirTemp("/tmp", "warren-pg")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, bin: bin}
	if os.Getuid() == 0 {
		if s.cred, err = unprivileged(dir); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	init := s.command(filepath.Join(bin, "initdb"), "-D", filepath.Join(dir, "data"), "-A", "trust", "-U", "hub", "--no-sync", "-E", "UTF8", "--locale=C")
	if out, err := init.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("initdb: %w: %s", err, out), os.RemoveAll(dir))
	}
	if err := s.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

// binaries finds the distribution's server, the newest one.
func binaries() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		return "", errors.New("this test needs PostgreSQL's server programs; run: apt-get install -y --no-install-recommends postgresql")
	}
	slices.SortFunc(found, func(a, b string) int { return version(a) - version(b) })
	return filepath.Dir(found[len(found)-1]), nil
}

func version(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// unprivileged gives the directory to the user that PostgreSQL's package made:
// its programs refuse to run as root.
func unprivileged(dir string) (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("looking for the user that PostgreSQL runs as: %w", err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2, os.Chown(dir, uid, gid)); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir = s.dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred, Setpgid: true}
	return c
}

// leashed runs the server until standard input ends, which it also does when
// the test process is killed; then nobody needs its data any more. "keep" on a
// line says that somebody does.
const leashed = `"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c full_page_writes=off \
	-c shared_buffers=32MB -c max_connections=60 >>"$2/log" 2>&1 &
pid=$!
read after
kill -QUIT $pid
wait $pid
test "$after" = keep || rm -rf "$2"`

// Start starts the server after Stop or Halt and waits until it answers.
func (s *Server) Start() error {
	c := s.command("sh", "-c", leashed, "sh", s.bin, s.dir)
	leash, err := c.StdinPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	s.leash, s.done = leash, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		_ = c.Wait()
	}(s.done)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	db, err := sql.Open("pgx", s.dsn("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	for {
		if err = db.PingContext(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("starting PostgreSQL: %w: %s", err, log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Halt ends the server at once, as a crash would, and keeps its data.
func (s *Server) Halt() {
	_, _ = io.WriteString(s.leash, "keep\n")
	_ = s.leash.Close()
	<-s.done
}

// Stop ends the server and removes its data.
func (s *Server) Stop() {
	s.Halt()
	_ = os.RemoveAll(s.dir)
}

// Dir is where the server keeps its files.
func (s *Server) Dir() string { return s.dir }

func (s *Server) dsn(database string) string {
	return "postgres:///" + database + "?" + url.Values{"host": {s.dir}, "user": {"hub"}, "sslmode": {"disable"}}.Encode()
}

// NewDatabase makes an empty database, dropped when the test ends, and returns
// its DSN.
func (s *Server) NewDatabase(t testing.TB) string {
	t.Helper()
	name := "t" + strconv.FormatInt(s.next.Add(1), 10)
	s.admin(t, "CREATE DATABASE "+name)
	t.Cleanup(func() { s.admin(t, "DROP DATABASE "+name+" WITH (FORCE)") })
	return s.dsn(name)
}

func (s *Server) admin(t testing.TB, statement string) {
	t.Helper()
	db, err := sql.Open("pgx", s.dsn("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(context.Background(), statement); err != nil {
		t.Fatal(err)
	}
}

// DSN makes a database that lives as long as the server, and returns its
// address.
func (s *Server) DSN(t testing.TB) string {
	t.Helper()
	name := "t" + strconv.FormatInt(s.next.Add(1), 10)
	s.admin(t, "CREATE DATABASE "+name)
	return s.dsn(name)
}
