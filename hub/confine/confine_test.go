package confine_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/confine"
)

// The lock cannot be taken off again, so it is tried in a child: this test
// binary, told by its environment to be one.
const child = "WARREN_CONFINE_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(foreign) {
	case "free":
		fmt.Println(foreignPID() == os.Getpid())
		os.Exit(0)
	case "confined":
		fmt.Println(confine.Apply(), foreignPID())
		os.Exit(0)
	}
	if dir := os.Getenv(child); dir != "" {
		fmt.Println(confined(dir))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// confined does what a hub does, and then what it must not be able to do.
func confined(dir string) string {
	before, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return err.Error()
	}
	if err := confine.Check(context.Background()); err == nil {
		return "Check found a lock before there was one"
	}
	if err := confine.Apply(); err != nil {
		return "apply: " + err.Error()
	}
	for _, network := range []string{"tcp", "tcp4", "tcp6"} {
		if ln, err := net.Listen(network, "localhost:0"); err == nil {
			return network + " listens on " + ln.Addr().String()
		}
	}
	if _, err := net.Listen("unix", filepath.Join(dir, "t")); err == nil {
		return "a second Unix socket listens"
	}
	if err := exec.Command("/bin/true").Run(); err == nil {
		return "a program was started"
	}
	if os.Getuid() == 0 {
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
			return "files cannot be written any more: " + err.Error()
		}
	}
	return works(before, dir)
}

// works checks that what a hub needs is left: accepting on the socket opened
// before, UDP, dialling.
func works(before net.Listener, dir string) string {
	go func() {
		c, err := before.Accept()
		if err == nil {
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
	c, err := net.DialTimeout("unix", filepath.Join(dir, "s"), 5*time.Second)
	if err != nil {
		return "dialling: " + err.Error()
	}
	b := make([]byte, 5)
	if _, err := c.Read(b); err != nil || string(b) != "hello" {
		return fmt.Sprintf("reading: %q %v", b, err)
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return "UDP: " + err.Error()
	}
	defer u.Close()
	if _, err := u.WriteTo([]byte("x"), u.LocalAddr()); err != nil {
		return "UDP: " + err.Error()
	}
	if _, err := net.DialTimeout("tcp", "127.0.0.1:9", time.Second); err != nil && strings.Contains(err.Error(), "not permitted") {
		return "dialling TCP is denied"
	}
	return "ok"
}

// TestW04_NoListener: in a confined process the kernel itself refuses to make
// anything listen, multipath TCP and Unix sockets included.
func TestW04_NoListener(t *testing.T) {
	dir, err := os.MkdirTemp("", "confine") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	if got := strings.TrimSpace(string(out)); got != "ok" {
		t.Errorf("in a confined process: %s", got)
	}
}
