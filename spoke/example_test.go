package spoke_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"testing"

	"github.com/warrenmesh/warren/spoke"
)

// A program that is on the mesh by itself: it joins once, stays connected, and
// talks to a service by its name.
func Example() {
	ctx := context.Background()
	cfg, code, end := exampleMesh() // in life: a directory, and what `hub invite` printed
	defer end()

	m, err := spoke.Join(ctx, code, cfg) // the first time only
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("joined as", m.Name)

	c, err := spoke.Open(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go c.Run(ctx) // keeps it connected

	conn, err := c.Dial(ctx, "tcp", "stt.warren.internal:80")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /raw HTTP/1.0\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)

	// What the policy does not allow fails at once, and says why.
	_, err = c.Dial(ctx, "tcp", "stt.warren.internal:22")
	fmt.Println(err)

	// Output:
	// joined as kitchen
	// 200 OK
	// dialing stt.warren.internal:22: refused by the policy: no rule allows it; ask the admin for svc:stt:22
}

// A service on this machine that the mesh can reach, if the policy says so.
func ExampleClient_Listen() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	cfg, code, end := exampleMesh()
	defer end()
	if _, err := spoke.Join(ctx, code, cfg); err != nil {
		log.Fatal(err)
	}
	c, err := spoke.Open(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	go c.Run(ctx)

	ln, err := c.Listen("tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	go srv.Serve(ln)
	fmt.Println("listening on port 8080 of", c.Membership().Name)
	srv.Close()

	// Output:
	// listening on port 8080 of kitchen
}

// exampleMesh starts a mesh in this process. An example has no testing.TB, so
// this lends it one that panics.
func exampleMesh() (spoke.Config, string, func()) {
	t := new(exampleTB)
	cfg, code := spoke.MeshForExample(t)
	return cfg, code, t.end
}

type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (t *exampleTB) Helper()                  {}
func (t *exampleTB) Log(...any)               {}
func (t *exampleTB) Error(args ...any)        { panic(fmt.Sprint(args...)) }
func (t *exampleTB) Fatal(args ...any)        { panic(fmt.Sprint(args...)) }
func (t *exampleTB) Context() context.Context { return context.Background() }
func (t *exampleTB) Cleanup(f func())         { t.cleanups = append(t.cleanups, f) }
func (t *exampleTB) Output() io.Writer        { return io.Discard }
func (t *exampleTB) end() {
	for i := len(t.cleanups) - 1; i >= 0; i-- {
		t.cleanups[i]()
	}
}

func (t *exampleTB) TempDir() string {
	dir, err := os.MkdirTemp("", "spoke")
	if err != nil {
		panic(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
