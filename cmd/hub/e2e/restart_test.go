package e2e_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// generous is the most that a recovery may take before a test fails. What is
// promised is 2 s, and what is measured is printed; a stock phone that is left
// alone needs 15 s, and this tells the two apart on the slowest machine.
const generous = 10 * time.Second

// settled waits until the hub has written down where a machine is: it does so
// within a second of a handshake.
func (m *mesh) settled(name string) {
	m.t.Helper()
	until(m.t, "the hub has heard of "+name+" for a while", func() bool {
		p, ok := m.peer(name)
		return ok && !p.Handshake.IsZero() && time.Since(p.Handshake) > 2500*time.Millisecond
	})
}

// back measures how long it takes from now until something works again.
func back(t testing.TB, what string, ok func() bool) {
	t.Helper()
	took := until(t, what, ok)
	t.Logf("%s: %v", what, took.Round(time.Millisecond))
	if took > generous {
		t.Errorf("%s only after %v", what, took)
	}
}

// TestR05_HubRestart kills the hub and starts it again. A spoke is back within
// two seconds, and so is a stock phone, although it says nothing by itself.
func TestR05_HubRestart(t *testing.T) {
	m := newMesh(t)
	s := m.join("laptop", "--owner", "ann").up()
	p := m.phone("ann-phone", "--owner", "ann")
	p.curl("http://page.warren.internal/")
	until(t, "the spoke reads", s.reads)
	m.settled("ann-phone")
	m.settled("laptop")
	// A stock phone asks for a handshake 15 s after it spoke and heard nothing:
	// from now on.
	p.curl("http://page.warren.internal/")
	m.killHub()
	// The phone has one packet to send, into its dead session, and no more: it
	// is asked to ping once, and waits.
	ping := p.start(t, m.dir+"/ping.log", "ping", "-c1", "-W1", "hub.warren.internal")
	took := m.startHub()
	began := time.Now()
	t.Logf("the hub was back %v after it was started", took.Round(time.Millisecond))
	spokeBack := make(chan time.Duration, 1)
	go func() {
		for !s.reads() && time.Since(began) < patience {
			continue
		}
		spokeBack <- time.Since(began)
	}()
	// Seen from the hub: the phone answered its call.
	back(t, "the phone has a session again", func() bool {
		peer, ok := m.peer("ann-phone")
		return ok && peer.Handshake.After(began.Add(-took))
	})
	r := p.curl("http://page.warren.internal/")
	if r.code != 0 {
		t.Errorf("the phone: exit code %d %s", r.code, r.errs)
	}
	t.Logf("the phone has the page: %v after the hub was back", time.Since(began).Round(time.Millisecond))
	if since := time.Since(began); since > generous {
		t.Errorf("the phone has the page only after %v", since)
	}
	if took := <-spokeBack; took > generous {
		t.Errorf("the spoke is back only after %v", took)
	} else {
		t.Logf("the spoke has the page: %v after the hub was back", took.Round(time.Millisecond))
	}
	<-ping.done
}

// grows waits until a download has got another n bytes.
func grows(t testing.TB, file string, n int64) time.Duration {
	t.Helper()
	size := func() int64 {
		info, err := os.Stat(file)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	from := size()
	return until(t, "the download goes on", func() bool { return size() >= from+n })
}

// TestW13_Roaming moves a phone to another network, and to another port behind
// the same router, in the middle of a download. The session survives both.
//
// Who only listens is found nowhere: the hub goes on sending to where the phone
// was until the phone says something. So the apps for phones open their sockets
// anew when the network changes and then say something; here wg and ping do it.
func TestW13_Roaming(t *testing.T) {
	m := newMesh(t)
	p := m.phone("ann-phone", "--owner", "ann")
	file := filepath.Join(m.dir, "download")
	curl := p.start(t, m.dir+"/curl.log", "curl", "-sS", "--max-time", "60", "-o", file, "http://page.warren.internal/big")
	grows(t, file, 1<<20)
	was, _ := m.peer("ann-phone")
	if want := p.machine.v4 + ":"; !strings.HasPrefix(was.Endpoint, want) {
		t.Fatalf("the phone is at %s, want %s…", was.Endpoint, want)
	}
	for _, move := range []struct {
		name string
		do   func()
	}{
		{"another address", func() {
			p.replug(place())
			p.must(t, "", "wg", "set", p.wg, "listen-port", "0")
		}},
		{"another port", func() { p.must(t, "", "wg", "set", p.wg, "listen-port", "40404") }},
	} {
		move.do()
		p.run(t, "", "ping", "-c1", "-W1", p.setting("DNS")[0])
		t.Logf("%s: the download goes on after %v", move.name, grows(t, file, 2<<20).Round(time.Millisecond))
		now, _ := m.peer("ann-phone")
		if now.Endpoint == was.Endpoint || !strings.HasPrefix(now.Endpoint, p.machine.v4+":") {
			t.Errorf("%s: the hub has the phone at %s, it was at %s", move.name, now.Endpoint, was.Endpoint)
		}
		was = now
	}
	if !strings.HasSuffix(was.Endpoint, ":40404") {
		t.Errorf("the phone is at %s, want port 40404", was.Endpoint)
	}
	select {
	case <-curl.done:
		t.Errorf("the download ended: %s", curl.said())
	default:
	}
	curl.end(syscall.SIGTERM)
	if n := m.pages.began.Load(); n != 1 {
		t.Errorf("the page was asked for %d times: the session did not survive", n)
	}
}

// TestMeshG39_NetworkChange moves a spoke to another network: its addresses,
// then its cable.
func TestMeshG39_NetworkChange(t *testing.T) {
	m := newMesh(t)
	s := m.join("laptop", "--owner", "ann").up()
	until(t, "the spoke reads", s.reads)
	s.address(place())
	back(t, "the spoke reads at its new address", s.reads)
	if p, _ := m.peer("laptop"); !strings.HasPrefix(p.Endpoint, s.v4+":") {
		t.Errorf("the hub has it at %s, want %s", p.Endpoint, s.v4)
	}
	s.replug(place())
	back(t, "the spoke reads with another cable in another place", s.reads)
	if p, _ := m.peer("laptop"); !strings.HasPrefix(p.Endpoint, s.v4+":") {
		t.Errorf("the hub has it at %s, want %s", p.Endpoint, s.v4)
	}
}

// replug takes the machine's cable out and plugs another in, elsewhere.
func (m *machine) replug(place int) {
	m.t.Helper()
	sh(m.t, `ip link del CABLE
		ip link add CABLE type veth peer name eth0 netns NAME
		echo 0 > /proc/sys/net/ipv6/conf/CABLE/accept_dad
		ip netns exec NAME sh -c 'echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad'
		ip link set CABLE up; ip -n NAME link set eth0 up`, "NAME", m.name, "CABLE", m.cable)
	m.address(place)
}

// TestMeshG39_Sleep stops a spoke like a closed lid does, restarts the hub
// meanwhile, and wakes it: SIGSTOP stands for the sleep, in which the clock that
// counts it goes on as well.
func TestMeshG39_Sleep(t *testing.T) {
	m := newMesh(t)
	s := m.join("laptop", "--owner", "ann").up()
	until(t, "the spoke reads", s.reads)
	if err := s.prog.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	m.killHub()
	m.startHub()
	if err := s.prog.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	back(t, "the spoke reads after its sleep", s.reads)
}

// TestW14_ClockBehind brings a spoke back whose clock has fallen behind: the
// hub has seen the newest timestamp there is under its key, and WireGuard would
// refuse everything that follows. The spoke knocks, and the hub calls back.
func TestW14_ClockBehind(t *testing.T) {
	m := newMesh(t)
	s := m.join("laptop", "--owner", "ann")
	key, reply := s.membership(t)
	wire := listenOn(t, m.machine)
	conn, err := net.Dial("udp", net.JoinHostPort(m.v4, hubPort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(lastInitiation(t, key, reply.Hub)); err != nil {
		t.Fatal(err)
	}
	until(t, "the hub takes the last initiation there is", func() bool {
		return len(wire.find(func(s *seen) bool { return s.sent && len(s.payload) == 92 && s.payload[0] == 2 })) == 1
	})
	wire.forget()
	// The hub's WireGuard asks no peer for a handshake within 5 s of its last
	// answer, and the one it has just given counts: that is in what is measured.
	s.launch("-v")
	back(t, "the spoke whose clock is behind reads", s.reads)
	calls := wire.find(func(s *seen) bool { return s.sent && len(s.payload) == 148 && s.payload[0] == 1 })
	if len(calls) == 0 {
		t.Error("the hub did not call: the spoke got in some other way, and this test shows nothing")
	}
	asked := wire.find(func(s *seen) bool { return !s.sent && len(s.payload) == 148 && s.payload[0] == 1 })
	t.Logf("the spoke asked %d times, the hub called %d times", len(asked), len(calls))
}
