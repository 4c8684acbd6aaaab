package udp_test

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/netstack/udp/udptest"
	"golang.zx2c4.com/wireguard/conn"
)

// got is one datagram that a Bind let through.
type got struct {
	data []byte
	ep   conn.Endpoint
}

// open opens b and hands what it lets through to a channel. The Bind and its
// receivers are gone when the test ends.
func open(t testing.TB, b *udp.Bind) chan got {
	t.Helper()
	fns, _, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, b, fns)
}

func serve(t testing.TB, b *udp.Bind, fns []conn.ReceiveFunc) chan got {
	t.Helper()
	out := make(chan got, 1<<14)
	var wg sync.WaitGroup
	for _, fn := range fns {
		wg.Go(func() { drain(b, fn, out) })
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
	return out
}

func drain(b *udp.Bind, fn conn.ReceiveFunc, out chan got) {
	bufs, sizes, eps := batch(b.BatchSize())
	for {
		n, err := fn(bufs, sizes, eps)
		if err != nil {
			return
		}
		for i, size := range sizes[:n] {
			if size > 0 {
				out <- got{slices.Clone(bufs[i][:size]), eps[i]}
			}
		}
	}
}

func batch(n int) (bufs [][]byte, sizes []int, eps []conn.Endpoint) {
	bufs = make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, 65535)
	}
	return bufs, make([]int, n), make([]conn.Endpoint, n)
}

// wire records what is sent on a network, by sender.
type wire struct {
	mu   sync.Mutex
	sent []udptest.Datagram
}

func tap(n *udptest.Network) *wire {
	w := &wire{}
	n.Tap(func(d udptest.Datagram) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.sent = append(w.sent, d)
	})
	return w
}

// take returns what from has sent since the last call.
func (w *wire) take(from netip.AddrPort) (out []udptest.Datagram) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = slices.DeleteFunc(w.sent, func(d udptest.Datagram) bool {
		if d.From == from {
			out = append(out, d)
		}
		return d.From == from
	})
	return out
}

// first waits for a datagram of from that begins with kind.
func (w *wire) first(t testing.TB, from netip.AddrPort, kind byte) udptest.Datagram {
	t.Helper()
	var found udptest.Datagram
	wait(t, "a datagram of the wanted type", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, d := range w.sent {
			if d.From == from && d.Data[0] == kind {
				found = d
				return true
			}
		}
		return false
	})
	return found
}

// wait polls for a condition that some other goroutine brings about.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
