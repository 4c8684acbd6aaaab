package e2e_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// talkative makes the machine's kernel answer every datagram to a closed port:
// by itself it says so 1,000 times a second and is silent beyond.
func (m *machine) talkative() {
	sh(m.t, `ip netns exec NAME sh -c 'echo 0 > /proc/sys/net/ipv4/icmp_ratemask; echo 128 > /proc/sys/net/ipv6/icmp/ratemask'`, "NAME", m.name)
}

// TestW02_NothingElseAnswers tries every TCP and UDP port of the hub's machine
// from the Internet, and of the hub from inside the tunnel.
//
// What the kernel says on the hub's behalf: a reset for each closed TCP port and
// an ICMP port-unreachable for each closed UDP port. So a scan tells that 51820
// is the one that does not say "closed"; what it does not tell is what is there.
func TestW02_NothingElseAnswers(t *testing.T) {
	m := newMesh(t)
	m.talkative()
	stranger := newMachine(t, place(), "st")
	for family, at := range map[string][2]string{"v4": {stranger.v4, m.v4}, "v6": {stranger.v6, m.v6}} {
		t.Run("TCP/"+family, func(t *testing.T) {
			answers := newProbe(t, stranger, at[0], at[1], unix.IPPROTO_TCP).scanTCP(6)
			open := ports(func(p int) bool { return answers[p]&flagSYN != 0 })
			closed := ports(func(p int) bool { return answers[p]&flagRST != 0 })
			// The other program's port shows that the scan sees what is open.
			if !slices.Equal(open, []uint16{8022}) {
				t.Errorf("open: %v; want only 8022, which is another program's", open)
			}
			if len(closed) != 65534 {
				t.Errorf("%d ports are closed, want all but one of 65,535", len(closed))
			}
		})
		t.Run("UDP/"+family, func(t *testing.T) {
			silent, data := scanUDP(t, stranger, at[0], at[1], 6)
			if !slices.Equal(silent, []uint16{51820}) {
				t.Errorf("the kernel does not say of %d ports that nothing is there: %v; want 51820 alone", len(silent), silent[:min(20, len(silent))])
			}
			if data != 0 {
				t.Errorf("%d datagrams came back", data)
			}
		})
	}
	p := m.phone("ann-phone", "--owner", "ann")
	if r := p.curl("http://page.warren.internal/"); r.code != 0 {
		t.Fatalf("after the scans: curl's exit code is %d %s", r.code, r.errs)
	}
	t.Run("Tunnel", func(t *testing.T) { scanFromInside(t, m, p) })
}

// scanUDP sends a datagram to every port. It returns the ports of which the
// kernel did not say that they are closed, and how many datagrams came back.
func scanUDP(t *testing.T, from *machine, src, dst string, rounds int) (silent []uint16, data int) {
	t.Helper()
	kind, proto, header := byte(3), unix.IPPROTO_ICMP, 20
	to := netip.MustParseAddr(dst)
	if to.Is6() {
		kind, proto, header = 1, unix.IPPROTO_ICMPV6, 40
	}
	icmp := newProbe(t, from, src, dst, proto)
	var conn *net.UDPConn
	err := from.inside(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(icmp.src, 0)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	counted := make(chan int, 1)
	go func() {
		n := 0
		for buf := make([]byte, 2048); ; n++ {
			if _, err := conn.Read(buf); err != nil {
				counted <- n
				return
			}
		}
	}()
	var closed [65536]bool
	for range rounds {
		silent = ports(func(p int) bool { return !closed[p] })
		if len(silent) <= 1 {
			break
		}
		icmp.round(silent, func(port uint16) error {
			_, err := conn.WriteToUDPAddrPort([]byte("anybody there?"), netip.AddrPortFrom(to, port))
			return err
		}, func(b []byte) {
			// Ours is the quoted datagram: after its IP header the ports.
			if len(b) >= 8+header+4 && b[0] == kind {
				closed[binary.BigEndian.Uint16(b[8+header+2:])] = true
			}
		})
	}
	conn.Close()
	return silent, <-counted
}

// scanFromInside has a peer try everything. Refusals are limited in rate, so
// that not each port answers; none may answer otherwise.
func scanFromInside(t *testing.T, m *mesh, p *phone) {
	addrs := map[string][]string{}
	for _, name := range []string{"hub", "page"} {
		for _, kind := range []string{"A", "AAAA"} {
			addrs[name] = append(addrs[name], p.must(t, "", "dig", "+short", name+".warren.internal", kind))
		}
	}
	for name, want := range map[string][]uint16{"hub": nil, "page": {80}} {
		for i, src := range []string{p.v4, p.v6} {
			t.Run(name+[]string{"/v4", "/v6"}[i], func(t *testing.T) {
				// Before the scan, which uses up what the hub answers one peer.
				one := newProbe(t, p.machine, src, addrs[name][i], unix.IPPROTO_TCP)
				for _, port := range want {
					until(t, "what is open answers", func() (open bool) {
						one.round([]uint16{port}, one.syn, func(b []byte) { open = open || len(b) >= 20 && b[13]&flagSYN != 0 })
						return open
					})
				}
				answers := one.scanTCP(1)
				open := ports(func(p int) bool { return answers[p]&flagSYN != 0 })
				refused := ports(func(p int) bool { return answers[p]&flagRST != 0 })
				if extra := slices.DeleteFunc(open, func(p uint16) bool { return slices.Contains(want, p) }); len(extra) > 0 {
					t.Errorf("open: %v, besides %v", extra, want)
				}
				t.Logf("%d of 65,535 ports were refused aloud, the others in silence", len(refused))
			})
		}
	}
	t.Run("hub/UDP", func(t *testing.T) {
		_, data := scanUDP(t, p.machine, p.v4, addrs["hub"][0], 1)
		if data != 0 {
			t.Errorf("%d datagrams came back", data)
		}
	})
	// What listens on the hub's machine, but not for the tunnel: its loopback,
	// its other addresses. The phone believes that the tunnel leads there.
	p.must(t, "", "wg", "set", p.wg, "peer", m.publicKey(), "allowed-ips", "0.0.0.0/0,::/0")
	for _, addr := range []string{lanIP, "169.254.169.254"} {
		p.ip("route", "add", addr, "dev", p.wg)
		if r := p.run(t, "", "curl", "-sS", "--max-time", "1", "http://"+addr+":9999/"); r.code != 7 && r.code != 28 {
			t.Errorf("%s through the tunnel: exit code %d %s%s", addr, r.code, r.out, r.errs)
		}
	}
}
