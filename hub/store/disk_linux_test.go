package store_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
)

// TestR02_DiskFull fills a small disk of its own, page by page, below an open
// store, and limits the size of files, which fails writes in their middle. The
// child has its own mount namespace, so nothing is mounted for anybody else.
func TestR02_DiskFull(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, "-test.run=^TestDiskChild$", "-test.count=1", "-test.v", "-test.timeout=60s")
	c.Env = append(os.Environ(), "STORE_TEST_DISK="+t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestDiskChild") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDiskChild is not a test: it is what the child runs.
func TestDiskChild(t *testing.T) {
	dir := os.Getenv("STORE_TEST_DISK")
	if dir == "" {
		return
	}
	// Private: the mount must not spread to the namespace it came from.
	if err := errors.Join(syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
		syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,mode=0700")); err != nil {
		t.Fatal(err)
	}
	key, err := store.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cfg := store.Config{Path: filepath.Join(dir, "hub.db"), Key: key}
	ballast := newBallast(t, filepath.Join(dir, "ballast"))

	ballast.leave(10 * 4096)
	if _, err := store.Create(t.Context(), cfg); !errors.Is(err, store.ErrStorage) {
		t.Errorf("creating on a full disk: %v", err)
	}
	ballast.leave(-1)
	if left, _ := filepath.Glob(cfg.Path + "*"); len(left) != 1 { // the lock
		t.Errorf("left behind: %v", left)
	}
	s := storetest.Create(t, cfg)
	var full, fine, limited int
	for n := range 40 {
		ballast.leave(n * 4096)
		if tryAction(t, s, fmt.Sprint("full", n)) {
			fine++
		} else {
			full++
		}
		ballast.leave(-1)
		checkAfter(t, s, n)
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	for n := range 40 {
		info, err := os.Stat(cfg.Path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		// Not a multiple of anything: writes are cut short in their middle.
		limit := syscall.Rlimit{Cur: uint64(info.Size() - 40_000 + int64(n)*2_777), Max: old.Max}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		ok := tryAction(t, s, fmt.Sprint("limited", n))
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
		if !ok {
			limited++
		}
		checkAfter(t, s, n)
	}
	t.Logf("full %d, fine %d, limited %d", full, fine, limited)
	if full < 3 || limited < 3 {
		t.Error("the disk was hardly ever full")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = store.Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	checkAfter(t, s, -1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// tryAction makes an action that either happens or says that the disk is full,
// and looks whether it did.
func tryAction(t *testing.T, s *store.Store, name string) (ok bool) {
	t.Helper()
	err := s.Do(t.Context(), someEvent, func(tx *store.Tx) error {
		if err := tx.SetMeta(name, strings.Repeat(name, 3000)); err != nil {
			return err
		}
		last, err := tx.CurrentPolicy()
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		_, err = tx.PutPolicy([]byte(name), "ann", last.Generation, time.Time{})
		return err
	})
	if err != nil && !errors.Is(err, store.ErrStorage) {
		t.Errorf("%s: %v", name, err)
	}
	// Reading goes on meanwhile.
	if viewErr := s.View(t.Context(), func(tx *store.Tx) error {
		_, metaErr := tx.Meta(name)
		last, policyErr := tx.CurrentPolicy()
		if errors.Is(policyErr, store.ErrNotFound) {
			policyErr = nil
		}
		if there := metaErr == nil; there != (err == nil) || there != (string(last.Text) == name) {
			t.Errorf("%s: %v, and yet %v, policy %q", name, err, metaErr, last.Text)
		}
		return policyErr
	}); viewErr != nil {
		t.Errorf("reading on a full disk: %v", viewErr)
	}
	return err == nil
}

// checkAfter makes one more action, now that there is room, and verifies all.
func checkAfter(t *testing.T, s *store.Store, n int) {
	t.Helper()
	if !tryAction(t, s, fmt.Sprint("after", n)) {
		t.Errorf("%d: no recovery", n)
	}
	if _, err := s.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
}

// ballast is a file that takes up a disk.
type ballast struct {
	t    *testing.T
	path string
}

func newBallast(t *testing.T, path string) ballast { return ballast{t, path} }

// leave fills the disk but for n bytes, -1 for emptying it.
func (b ballast) leave(n int) {
	b.t.Helper()
	if err := os.Remove(b.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	if n < 0 {
		return
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(b.path), &disk); err != nil {
		b.t.Fatal(err)
	}
	size := int64(disk.Bavail)*disk.Bsize - int64(n)
	if size <= 0 {
		return
	}
	if err := os.WriteFile(b.path, make([]byte, size), 0o600); err != nil {
		b.t.Fatal(err)
	}
}
