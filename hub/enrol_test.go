package hub_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub"
	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/hub/hubtest"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
)

// TestE01_InviteReachesOnePort: a throw-away identity reaches the enrolment
// port and nothing else, although the policy says that everybody reaches
// everything.
func TestE01_InviteReachesOnePort(t *testing.T) {
	m := hubtest.New(t)
	m.Apply(open)
	kitchen := m.Join("kitchen", control.PeerSpec{Owner: "ann"})
	ln, err := kitchen.Listen("tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
			t.Error("a throw-away identity reached another machine")
		}
	}()
	first := m.Invited(m.Invite("first", control.PeerSpec{}))
	second := m.Invited(m.Invite("second", control.PeerSpec{}))
	enrol4, enrol6 := m.At(2)
	for _, addr := range []netip.Addr{enrol4, enrol6} {
		if err := dial(t, first, "tcp", netip.AddrPortFrom(addr, 443)); err != nil {
			t.Fatalf("the enrolment port: %v", err)
		}
	}
	for _, target := range targets(m, kitchen.Membership().V4, kitchen.Membership().V6, second.V4, second.V6) {
		if err := dial(t, first, "tcp", target); err == nil {
			t.Errorf("a throw-away identity reaches tcp %v", target)
		}
	}
	for i := uint32(1); i < 60; i++ {
		v4, v6 := m.At(i)
		for _, a := range []netip.Addr{v4, v6} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if _, err := first.Ping(ctx, a); err == nil {
				t.Errorf("a throw-away identity pings %v", a)
			}
			cancel()
		}
	}
}

// targets are all of the hub's addresses on the ports that answer somewhere,
// and the other machines.
func targets(m *hubtest.Mesh, others ...netip.Addr) []netip.AddrPort {
	var out []netip.AddrPort
	for i := uint32(1); i < 60; i++ {
		v4, v6 := m.At(i)
		for _, a := range []netip.Addr{v4, v6} {
			for _, port := range []uint16{22, 53, 80, 443, 8080} {
				if i == 2 && port == 443 {
					continue
				}
				out = append(out, netip.AddrPortFrom(a, port))
			}
		}
	}
	for _, a := range others {
		out = append(out, netip.AddrPortFrom(a, 8080), netip.AddrPortFrom(a, 443))
	}
	return out
}

// dial connects and closes. A refusal comes at once, or, past the limit of
// answers, not at all.
func dial(t *testing.T, s *hubtest.Stranger, network string, to netip.AddrPort) error {
	t.Helper()
	patience := 60 * time.Millisecond
	if to.Port() == 443 {
		patience = hubtest.Patience
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := s.Dial(ctx, network, netip.Addr{}, to)
	if err == nil {
		c.Close()
	}
	return err
}

// redeem joins with a code as a spoke does, but with a key of the test's.
func redeem(t *testing.T, m *hubtest.Mesh, code string, key peer.PrivateKey) (invite.Reply, error) {
	t.Helper()
	c, err := invite.Parse(code)
	if err != nil {
		t.Fatal(err)
	}
	return redeemWith(t, m.Invited(code), c, key)
}

func redeemWith(t *testing.T, s *hubtest.Stranger, c invite.Code, key peer.PrivateKey) (invite.Reply, error) {
	t.Helper()
	// Two that hold one throw-away key take the session from each other, and
	// WireGuard needs 15 s to notice that nobody answers any more.
	ctx, cancel := context.WithTimeout(t.Context(), 3*hubtest.Patience)
	defer cancel()
	return invite.Redeem(ctx, func(ctx context.Context, network, addr string) (net.Conn, error) {
		return s.Dial(ctx, network, netip.Addr{}, netip.MustParseAddrPort(addr))
	}, c, key)
}

func newKey(t *testing.T) peer.PrivateKey {
	t.Helper()
	key, err := peer.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestE02_SpentInvites: used, withdrawn and expired invites get the same
// answer as one that never was, or none at all because their key is gone.
func TestE02_SpentInvites(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	m := hubtest.New(t, func(_ *hub.InitConfig, c *hub.Config) {
		c.Now = func() time.Time { return time.Unix(0, now.Load()) }
	})
	used := m.Invite("used", control.PeerSpec{})
	stranger := m.Invited(used)
	code, err := invite.Parse(used)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := redeemWith(t, stranger, code, newKey(t)); err != nil {
		t.Fatalf("first use: %v", err)
	}
	if _, err := redeemWith(t, stranger, code, newKey(t)); !errors.Is(err, invite.ErrRefused) {
		t.Errorf("second use: %v, want a refusal", err)
	}
	withdrawn := m.Invite("withdrawn", control.PeerSpec{})
	if _, err := m.Hub.EditPeer(t.Context(), "test", control.PeerEdit{Name: "withdrawn", Remove: true}); err != nil {
		t.Fatal(err)
	}
	expired := m.Invite("expired", control.PeerSpec{TTL: time.Minute})
	now.Add(int64(time.Minute + time.Second))
	for name, text := range map[string]string{"withdrawn": withdrawn, "expired": expired} {
		code, err := invite.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		hubtest.Until(t, "the throw-away identity of the "+name+" invite is gone", func() bool {
			return !slices.ContainsFunc(m.Hub.Peers(), func(p control.PeerInfo) bool { return p.PublicKey == code.Key.Public() })
		})
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if _, err := m.Invited(text).Dial(ctx, "tcp", netip.Addr{}, netip.AddrPortFrom(code.EnrolV4, 443)); err == nil {
			t.Errorf("the %s invite still opens a tunnel", name)
		}
		cancel()
	}
}

// TestE03_LostReply: the same key may ask again, another may not.
func TestE03_LostReply(t *testing.T) {
	m := hubtest.New(t)
	text := m.Invite("kitchen", control.PeerSpec{Owner: "ann", Tags: nil})
	key := newKey(t)
	first, err := redeem(t, m, text, key)
	if err != nil {
		t.Fatal(err)
	}
	m.Stop() // the hub dies before the reply is known to have arrived
	m.Start()
	again, err := redeem(t, m, text, key)
	if err != nil {
		t.Fatalf("asking again: %v", err)
	}
	if again.ID != first.ID || again.V4 != first.V4 || again.PSK.RevealText() != first.PSK.RevealText() {
		t.Errorf("the second answer differs: %v, want %v", again.ID, first.ID)
	}
	if _, err := redeem(t, m, text, newKey(t)); !errors.Is(err, invite.ErrRefused) {
		t.Errorf("another key: %v, want a refusal", err)
	}
	if n := len(m.Hub.Peers()); n != 1 {
		t.Errorf("%d peers, want 1", n)
	}
}

// TestE04_SixtyFourJoins: of 64 machines that use one invite at the same time,
// one joins.
func TestE04_SixtyFourJoins(t *testing.T) {
	m := hubtest.New(t)
	text := m.Invite("kitchen", control.PeerSpec{})
	code, err := invite.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	s := m.Invited(text)
	var joined, refused atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		key := newKey(t)
		wg.Go(func() {
			_, err := redeemWith(t, s, code, key)
			switch {
			case err == nil:
				joined.Add(1)
			case errors.Is(err, invite.ErrRefused):
				refused.Add(1)
			default:
				t.Errorf("neither joined nor refused: %v", err)
			}
		})
	}
	wg.Wait()
	if joined.Load() != 1 || refused.Load() != 63 {
		t.Errorf("%d joined and %d were refused, want 1 and 63", joined.Load(), refused.Load())
	}
	if n := len(m.Hub.Peers()); n != 1 {
		t.Errorf("%d peers, want 1", n)
	}
}

// TestE05_ThiefAndOwner: two machines hold the same code and use it at the
// same time from two places. The tunnel flaps between them; the enrolment
// inside is bound to one connection, so whoever wins, the loser learns nothing
// of the winner's.
func TestE05_ThiefAndOwner(t *testing.T) {
	m := hubtest.New(t)
	text := m.Invite("kitchen", control.PeerSpec{})
	code, err := invite.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	replies := make([]invite.Reply, 2)
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i := range 2 {
		s, key := m.Invited(text), newKey(t)
		wg.Go(func() { replies[i], errs[i] = redeemWith(t, s, code, key) })
	}
	wg.Wait()
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, invite.ErrRefused) && !errors.Is(err, context.DeadlineExceeded) {
			t.Logf("loser %d: %v", i, err)
		}
	}
	if won != 1 {
		t.Errorf("%d of two won: %v", won, errs)
	}
	if !replies[0].PSK.IsZero() && !replies[1].PSK.IsZero() {
		t.Error("both got a pre-shared key")
	}
}

// TestE07_PhoneKeyStaysAway: the hub's directory holds neither the private key
// of a phone nor, in the clear, its pre-shared key.
func TestE07_PhoneKeyStaysAway(t *testing.T) {
	m := hubtest.New(t)
	key := newKey(t)
	reply, err := m.Hub.Phone(t.Context(), "test", control.PhoneRequest{
		PeerSpec: control.PeerSpec{Name: "ann-phone"}, PublicKey: key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	m.Stop()
	for name, b := range files(t, m.Dir) {
		raw := key.Reveal()
		for what, secret := range map[string]string{"private key": key.RevealText(), "raw private key": string(raw[:]), "pre-shared key": reply.PSK} {
			if strings.Contains(string(b), secret) {
				t.Errorf("%s holds the %s", name, what)
			}
		}
	}
}

// TestBadKeys: keys that would make two machines one, or none, are refused
// and change nothing.
func TestBadKeys(t *testing.T) {
	m := hubtest.New(t)
	other := newKey(t)
	if _, err := m.Hub.Phone(t.Context(), "test", control.PhoneRequest{PeerSpec: control.PeerSpec{Name: "a"}, PublicKey: other.Public()}); err != nil {
		t.Fatal(err)
	}
	for what, key := range map[string]peer.PublicKey{"zero": {}, "the hub's own": m.Hub.PublicKey(), "another's": other.Public()} {
		_, err := m.Hub.Phone(t.Context(), "test", control.PhoneRequest{PeerSpec: control.PeerSpec{Name: "b"}, PublicKey: key})
		if _, ok := errors.AsType[*control.Error](err); !ok {
			t.Errorf("%s key: %v, want a refusal", what, err)
		}
	}
	text := m.Invite("c", control.PeerSpec{})
	if _, err := redeem(t, m, text, other); !errors.Is(err, invite.ErrRefused) {
		t.Errorf("joining with another peer's key: %v, want a refusal", err)
	}
	if n := len(m.Hub.Peers()); n != 2 { // the phone and the invite
		t.Errorf("%d rows, want 2", n)
	}
}
