package hub_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/services/sync"
	"github.com/warrenmesh/warren/spoke"
)

// serveEcho lets a spoke offer a server of its own machine under a name.
func serveEcho(t *testing.T, c *spoke.Client, name string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx, spoke.Offer{Name: name, Port: 7000, Target: ln.Addr().String()}) }()
	t.Cleanup(func() {
		stop()
		<-done
		ln.Close()
	})
}

func self(t *testing.T, m *hubtest.Mesh, name string) peer.Peer {
	t.Helper()
	list := m.Hub.Peers()
	i := slices.IndexFunc(list, func(p control.PeerInfo) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("there is no peer %s", name)
	}
	return list[i].Peer
}

// TestOfferEndsAtOnce: whatever takes a spoke's service away (withdrawing it,
// unpublishing it, quarantining or removing its machine) ends the connections
// to it, and its address answers nobody any more.
func TestOfferEndsAtOnce(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *hubtest.Mesh) error{
		"withdrawn": func(t *testing.T, m *hubtest.Mesh) error { return m.Hub.Unserve(t.Context(), self(t, m, "gpu"), "llm") },
		"unpublished": func(t *testing.T, m *hubtest.Mesh) error {
			_, err := m.Hub.Unpublish(t.Context(), "test", "llm")
			return err
		},
		"quarantined": func(t *testing.T, m *hubtest.Mesh) error {
			_, err := m.Hub.EditPeer(t.Context(), "test", control.PeerEdit{Name: "gpu", Quarantine: true})
			return err
		},
		"removed": func(t *testing.T, m *hubtest.Mesh) error {
			_, err := m.Hub.EditPeer(t.Context(), "test", control.PeerEdit{Name: "gpu", Remove: true})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := hubtest.New(t)
			m.Apply(open)
			gpu, kitchen := m.Join("gpu", control.PeerSpec{Owner: "bob"}), m.Join("kitchen", control.PeerSpec{Owner: "ann"})
			serveEcho(t, gpu, "llm")
			hubtest.Until(t, "the service is reached", func() bool { return reaches(t, kitchen, "llm.warren.internal:7000") })
			at := service(t, m, "llm").Addrs[0]
			conn := connect(t, kitchen, "llm.warren.internal:7000")
			defer conn.Close()
			buf := make([]byte, 1)
			if _, err := conn.Write(buf); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, buf); err != nil {
				t.Fatal(err)
			}
			if err := end(t, m); err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write(buf) // what the stack may still send must not come back
			if n, err := conn.Read(buf); err == nil {
				t.Errorf("%d bytes came back after the service had ended", n)
			}
			if reaches(t, kitchen, netip.AddrPortFrom(at, 7000).String()) {
				t.Error("the address still answers")
			}
		})
	}
}

// TestOfferCrossesNoHousehold: a service is of its machine's household,
// whatever the policy says, and so is what its machine says in its name.
func TestOfferCrossesNoHousehold(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	eve, ann := phone(t, m, "eve", "eve"), phone(t, m, "kitchen", "ann")
	if err := offer(t, m, eve, "trap", 80); err != nil {
		t.Fatal(err)
	}
	at := service(t, m, "trap").Addrs
	for _, q := range []control.ExplainRequest{
		{Src: "kitchen", Dst: "trap:80"}, {Src: "svc:trap", Dst: "kitchen:80"},
		{Src: ann.V6.String(), Dst: netip.AddrPortFrom(at[1], 80).String()},
		{Src: at[1].String(), Dst: netip.AddrPortFrom(ann.V6, 80).String()},
	} {
		if ex, err := m.Hub.Explain(q); err != nil || ex.Allowed {
			t.Errorf("%s -> %s: %v, %v", q.Src, q.Dst, ex.Text, err)
		}
	}
	got, _, err := m.Hub.Self(t.Context(), ann)
	if err != nil {
		t.Fatal(err)
	}
	if got.Names["trap"] != nil {
		t.Error("another household's service is told")
	}
}

// TestServiceAddressIsNobody: who speaks from the address of its own service is
// no peer to the hub's services: one machine does not become several, each with
// limits of its own, and none of them gets a name.
func TestServiceAddressIsNobody(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	key := newKey(t)
	reply, err := m.Hub.Phone(t.Context(), "test", control.PhoneRequest{
		PeerSpec: control.PeerSpec{Name: "eve", Owner: "eve"}, PublicKey: key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Hub.Serve(t.Context(), reply.Peer, sync.ServeRequest{Name: "mask", Proto: "tcp", Port: 80}); err != nil {
		t.Fatal(err)
	}
	psk, err := peer.ParsePresharedKey(reply.PSK)
	if err != nil {
		t.Fatal(err)
	}
	at := service(t, m, "mask").Addrs
	s := m.Stranger(key, psk, at[0], at[1])
	for _, to := range []uint32{3, 4, 53} { // sync, console, dns
		v4, _ := m.At(to)
		port := uint16(80)
		if to == 53 {
			port = 53
		}
		c, err := s.Dial(t.Context(), "tcp", netip.Addr{}, netip.AddrPortFrom(v4, port))
		if err != nil {
			continue
		}
		// A peer would be waited for, ten seconds at least.
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err = c.Read(make([]byte, 1))
		if ne, ok := errors.AsType[net.Error](err); err == nil || ok && ne.Timeout() {
			t.Errorf("%v lets the address of a spoke's service wait: %v", v4, err)
		}
		c.Close()
	}
}

// TestOneMachineLeavesSyncToOthers: the connections that one machine can hold
// to the sync service are a small part of those there are.
func TestOneMachineLeavesSyncToOthers(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	eve := stranger(t, m, "eve", control.PeerSpec{Owner: "eve"})
	v4, _ := m.At(3)
	open := 0
	for range 3 * sync.MaxConns {
		c, err := eve.Dial(t.Context(), "tcp", netip.Addr{}, netip.AddrPortFrom(v4, 80))
		if err != nil {
			continue
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err = c.Read(make([]byte, 1))
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			open++
		}
	}
	if open != sync.MaxConns {
		t.Errorf("one address holds %d connections, want %d", open, sync.MaxConns)
	}
}
