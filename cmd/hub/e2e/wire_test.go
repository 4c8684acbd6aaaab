package e2e_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// seen is one IP packet on a machine's cable.
type seen struct {
	sent     bool // by the machine
	proto    byte
	src, dst netip.AddrPort // ports of TCP and UDP only
	payload  []byte         // of TCP and UDP what follows the ports, of others all
}

// tap records what passes a machine's cable.
type tap struct {
	mu   sync.Mutex
	all  []seen
	fd   int
	done chan struct{}
}

// listenOn begins to record, until the test ends.
func listenOn(t testing.TB, m *machine) *tap {
	t.Helper()
	ifc, err := net.InterfaceByName(m.cable)
	if err != nil {
		t.Fatal(err)
	}
	every := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(every))
	if err != nil {
		t.Fatal(err)
	}
	roomy(fd)
	if err := errors.Join(
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: ifc.Index}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
	); err != nil {
		t.Fatal(err)
	}
	p := &tap{fd: fd, done: make(chan struct{})}
	quit := make(chan struct{})
	go p.record(quit)
	t.Cleanup(func() {
		close(quit)
		<-p.done
		unix.Close(fd)
	})
	return p
}

// roomy gives a socket a large buffer, as far as the machine lets us.
func roomy(fd int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	}
}

func (p *tap) record(quit chan struct{}) {
	defer close(p.done)
	buf := make([]byte, 1<<16)
	for {
		select {
		case <-quit:
			return
		default:
		}
		n, from, err := unix.Recvfrom(p.fd, buf, 0)
		if err != nil {
			continue // most likely the timeout
		}
		if s, ok := parse(buf[:n]); ok {
			s.sent = from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING
			p.mu.Lock()
			p.all = append(p.all, s)
			p.mu.Unlock()
		}
	}
}

// parse reads an IP packet without options; false for anything else.
func parse(b []byte) (s seen, ok bool) {
	if len(b) < 20 {
		return s, false
	}
	var src, dst netip.Addr
	switch {
	case b[0] == 0x45:
		src, dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		s.proto, b = b[9], b[20:]
	case b[0]>>4 == 6 && len(b) >= 40:
		src, dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		s.proto, b = b[6], b[40:]
	default:
		return s, false
	}
	var sport, dport uint16
	if (s.proto == unix.IPPROTO_TCP || s.proto == unix.IPPROTO_UDP) && len(b) >= 8 {
		sport, dport, b = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), b[4:]
		if s.proto == unix.IPPROTO_UDP {
			b = b[4:]
		}
	}
	s.src, s.dst, s.payload = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport), bytes.Clone(b)
	return s, true
}

// find returns what was recorded and fits, and forgets nothing.
func (p *tap) find(fits func(*seen) bool) []seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []seen
	for i := range p.all {
		if fits(&p.all[i]) {
			out = append(out, p.all[i])
		}
	}
	return out
}

// forget begins anew.
func (p *tap) forget() {
	p.mu.Lock()
	p.all = nil
	p.mu.Unlock()
}

// spoken is everything the machine sent that is not the network's own
// housekeeping (neighbour discovery, multicast reports).
func (p *tap) spoken() []seen {
	return p.find(func(s *seen) bool {
		housekeeping := s.dst.Addr().IsMulticast() || s.proto == unix.IPPROTO_ICMPV6 && len(s.payload) > 0 && s.payload[0] >= 130
		return s.sent && !housekeeping
	})
}

// probe is a raw conversation with one address: questions to its ports, and
// what came back.
type probe struct {
	t        testing.TB
	fd       int
	src, dst netip.Addr
}

func newProbe(t testing.TB, from *machine, src, dst string, proto int) *probe {
	t.Helper()
	p := &probe{t: t, src: netip.MustParseAddr(src), dst: netip.MustParseAddr(dst)}
	family := unix.AF_INET
	if p.dst.Is6() {
		family = unix.AF_INET6
	}
	err := from.inside(func() (err error) {
		p.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p.fd) })
	roomy(p.fd)
	err = unix.Bind(p.fd, p.sockaddr(p.src))
	if family == unix.AF_INET6 && proto == unix.IPPROTO_TCP {
		err = errors.Join(err, unix.SetsockoptInt(p.fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, 16))
	}
	err = errors.Join(err, unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000}))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *probe) sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}

// receive returns what comes until nothing does for a while.
func (p *probe) receive(take func(payload []byte)) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := unix.Recvfrom(p.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		b := buf[:n]
		var addr netip.Addr
		switch a := from.(type) {
		case *unix.SockaddrInet4:
			addr = netip.AddrFrom4(a.Addr)
			b = b[int(b[0]&0xf)*4:]
		case *unix.SockaddrInet6:
			addr = netip.AddrFrom16(a.Addr)
		}
		if addr == p.dst {
			take(b)
		}
	}
}

const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
	srcPort = 40000
)

// syn asks a TCP port.
func (p *probe) syn(port uint16) error {
	h := make([]byte, 20)
	binary.BigEndian.PutUint16(h, srcPort)
	binary.BigEndian.PutUint16(h[2:], port)
	binary.BigEndian.PutUint32(h[4:], 0x1000)
	h[12], h[13] = 5<<4, flagSYN
	binary.BigEndian.PutUint16(h[14:], 1024)
	if p.dst.Is4() {
		src, dst := p.src.As4(), p.dst.As4()
		binary.BigEndian.PutUint16(h[16:], checksum(slices.Concat(src[:], dst[:], []byte{0, unix.IPPROTO_TCP, 0, 20}, h)))
	}
	return p.send(h)
}

func (p *probe) send(b []byte) error {
	for {
		err := unix.Sendto(p.fd, b, 0, p.sockaddr(p.dst))
		if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// scanTCP asks every port in rounds, those that did not answer again, and
// returns the flags of each port's answer; 0 is none.
func (p *probe) scanTCP(rounds int) *[65536]byte {
	p.t.Helper()
	var answers [65536]byte
	for range rounds {
		silent := ports(func(port int) bool { return answers[port] == 0 })
		if len(silent) == 0 {
			break
		}
		p.round(silent, p.syn, func(b []byte) {
			if len(b) >= 20 && binary.BigEndian.Uint16(b[2:]) == srcPort {
				answers[binary.BigEndian.Uint16(b)] |= b[13]
			}
		})
	}
	return &answers
}

// round asks each port once and takes what comes back, until it is quiet.
func (p *probe) round(list []uint16, ask func(uint16) error, take func(payload []byte)) {
	p.t.Helper()
	sent := make(chan error, 1)
	go func() { sent <- paced(list, ask) }()
	for {
		p.receive(take)
		select {
		case err := <-sent:
			if err != nil {
				p.t.Fatal(err)
			}
			p.receive(take)
			return
		default:
		}
	}
}

// ports lists those of 1 to 65535 that fit.
func ports(fits func(int) bool) (list []uint16) {
	for port := 1; port <= 65535; port++ {
		if fits(port) {
			list = append(list, uint16(port))
		}
	}
	return list
}

// paced asks ports at a rate that neither end's queue minds.
func paced(list []uint16, ask func(uint16) error) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for i, port := range list {
		if i%200 == 0 {
			<-tick.C
		}
		if err := ask(port); err != nil {
			return err
		}
	}
	return nil
}
