package vault

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/warrenmesh/warren/hub/store/storetest"
)

// The environment that a child of these tests is told by what to do.
const (
	envAction = "VAULT_TEST_ACTION"
	envDir    = "VAULT_TEST_DIR"
	envFile   = "VAULT_TEST_FILE"
	envDisk   = "VAULT_TEST_DISK"
)

func makerOf(t *testing.T, file string) maker {
	for _, m := range makers() {
		if m.file == file {
			return m
		}
	}
	t.Fatalf("no form has the file %q", file)
	return maker{}
}

// change is a change of several values that belong together.
func change(n int) map[string][]byte {
	c := map[string][]byte{fmt.Sprint("gone", n-1): nil, fmt.Sprint("gone", n): []byte("x")}
	for _, name := range []string{"key", "identity", "endpoint"} {
		c[name] = bytes.Repeat([]byte(strconv.Itoa(n)+","), 2000)
	}
	return c
}

// state returns which change the vault is at, -1 if it is at none whole one.
func state(t *testing.T, v *Vault) int {
	t.Helper()
	names, err := v.Names("")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		return 0
	}
	key, err := v.Get("key")
	if err != nil {
		return -1
	}
	first, _, _ := strings.Cut(string(key), ",")
	n, err := strconv.Atoi(first)
	if err != nil {
		return -1
	}
	for name, want := range change(n) {
		if got, err := v.Get(name); !bytes.Equal(got, want) || (want == nil) != errors.Is(err, ErrNotFound) {
			return -1
		}
	}
	return n
}

// TestCrashChild is not a test: it is what the children run.
func TestCrashChild(t *testing.T) {
	if !storetest.Child() {
		return
	}
	dir := os.Getenv(envDir)
	switch os.Getenv(envAction) {
	case "create":
		storetest.Begin()
		v := mustCreate(t, dir, makerOf(t, os.Getenv(envFile)))
		fmt.Println("acknowledged")
		mustClose(t, v)
	case "apply":
		v, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		n := state(t, v)
		storetest.Begin()
		mustApply(t, v, change(n+1))
		fmt.Println("acknowledged")
		mustClose(t, v)
	}
}

// TestR01_KillAtEveryWrite kills a process at each of its writes in turn, while
// it makes a vault and while it changes several values.
func TestR01_KillAtEveryWrite(t *testing.T) {
	eachForm(t, func(t *testing.T, m maker) {
		t.Parallel()
		dir := t.TempDir()
		v := mustCreate(t, dir, m)
		mustApply(t, v, change(1))
		mustClose(t, v)
		at := 1
		for n := 1; ; n++ {
			killed, output := storetest.KillAtWrite(t, n, "TestCrashChild", envAction+"=apply", envDir+"="+dir)
			v, err := Open(dir)
			if err != nil {
				t.Fatalf("after a kill at write %d: %v", n, err)
			}
			now := state(t, v)
			if now != at && now != at+1 || strings.Contains(output, "acknowledged") && now != at+1 {
				t.Fatalf("a kill at write %d led from %d to %d\n%s", n, at, now, output)
			}
			at = now
			mustClose(t, v)
			if !killed {
				t.Logf("%d writes of a change", n-1)
				break
			}
		}
		for n := 1; ; n++ {
			dir := filepath.Join(t.TempDir(), "state")
			killed, output := storetest.KillAtWrite(t, n, "TestCrashChild", envAction+"=create", envDir+"="+dir, envFile+"="+m.file)
			v, err := Open(dir)
			if errors.Is(err, ErrNotFound) && !strings.Contains(output, "acknowledged") {
				v, err = create(dir, m)
			}
			if err != nil {
				t.Fatalf("after a kill at write %d: %v", n, err)
			}
			mustApply(t, v, change(1))
			mustClose(t, v)
			if !killed {
				t.Logf("%d writes of creation", n-1)
				return
			}
		}
	})
}

// TestR02_DiskFull fills a small disk of its own below an open vault.
func TestR02_DiskFull(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, "-test.run=^TestDiskChild$", "-test.count=1", "-test.v", "-test.timeout=60s")
	c.Env = append(os.Environ(), envDisk+"="+t.TempDir())
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
	disk := os.Getenv(envDisk)
	if disk == "" {
		return
	}
	// Private: the mount must not spread to the namespace it came from.
	if err := errors.Join(syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
		syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=2m,mode=0700")); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(disk, "ballast")
	eachForm(t, func(t *testing.T, m maker) {
		dir := filepath.Join(disk, m.file+".d")
		v := mustCreate(t, dir, m)
		mustApply(t, v, change(1))
		at, full := 1, 0
		for free := range 20 {
			fill(t, ballast, int64(free)*4096)
			err := v.Apply(change(at + 1))
			if err != nil && !errors.Is(err, ErrStorage) {
				t.Errorf("%d pages free: %v", free, err)
			}
			if err == nil {
				at++
			} else {
				full++
			}
			if now := state(t, v); now != at {
				t.Errorf("%d pages free: %v, and at %d instead of %d", free, err, now, at)
			}
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			mustApply(t, v, change(at+1)) // there is room again
			at++
		}
		if full < 2 {
			t.Error("the disk was hardly ever full")
		}
		mustClose(t, v)
		v, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if now := state(t, v); now != at {
			t.Errorf("at %d instead of %d", now, at)
		}
		mustClose(t, v)
	})
}

// fill leaves n bytes of the disk free.
func fill(t *testing.T, path string, n int64) {
	t.Helper()
	var disk syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(path), &disk); err != nil {
		t.Fatal(err)
	}
	write(t, path, strings.Repeat("b", max(int(int64(disk.Bavail)*disk.Bsize-n), 0)))
}
