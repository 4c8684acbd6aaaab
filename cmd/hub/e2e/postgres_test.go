package e2e_test

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

// postgres starts a PostgreSQL server that listens on a Unix socket only, and
// returns the address of its database. It is gone with the test.
//
// PostgreSQL refuses to run as root, and inside this process is root, with no
// other user to become where it was started by an ordinary one. So it gets a
// user namespace more, in which the same user is called nobody.
func postgres(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(nobody.Uid)
	if err != nil {
		t.Fatal(err)
	}
	as := func(argv ...string) *exec.Cmd {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: 0, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: 0, Size: 1}},
		}
		return cmd
	}
	bin := postgresPrograms(t)
	out, err := as(bin+"/initdb", "-D", dir+"/data", "-A", "trust", "-U", "hub", "--no-sync", "-E", "UTF8", "--locale=C").CombinedOutput()
	if err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	server := as(bin+"/postgres", "-D", dir+"/data", "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=32MB")
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGQUIT)
		_ = server.Wait()
	})
	ask := []string{bin + "/psql", "-h", dir, "-U", "hub", "-d", "postgres", "-c"}
	until(t, "PostgreSQL answers", func() bool { return exec.Command(ask[0], append(ask[1:], "SELECT 1")...).Run() == nil })
	if out, err := exec.Command(ask[0], append(ask[1:], "CREATE DATABASE warren")...).CombinedOutput(); err != nil {
		t.Fatalf("making a database: %v\n%s", err, out)
	}
	return "postgres:///warren?user=hub&host=" + dir
}

// postgresPrograms is the folder of the newest that is installed.
func postgresPrograms(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		at, err := exec.LookPath("initdb")
		if err != nil {
			t.Fatal("this test needs PostgreSQL's server programs; run: apt-get install -y --no-install-recommends postgresql")
		}
		found = []string{at}
	}
	version := func(file string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(file))))
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) }))
}
