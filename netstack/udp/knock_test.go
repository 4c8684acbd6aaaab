package udp_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/netstack/udp/udptest"
	"github.com/warrenmesh/warren/peer"
	"golang.zx2c4.com/wireguard/conn"
)

var (
	hubAt   = netip.MustParseAddrPort("192.0.2.1:51820")
	spokeAt = netip.MustParseAddrPort("198.51.100.7:40000")
	evilAt  = netip.MustParseAddrPort("203.0.113.66:6666")
)

// door is a hub that answers knocks and a spoke that may knock, in a bubble of
// fake time.
type door struct {
	t          *testing.T
	net        *udptest.Network
	wire       *wire
	hub, spoke peer.PrivateKey
	psk        peer.PresharedKey
	hubBind    *udp.Bind
	spokeBind  *udp.Bind
	removed    atomic.Bool
	calls      chan conn.Endpoint
}

func newDoor(t *testing.T) *door {
	d := &door{t: t, net: udptest.New(t), hub: newKey(t), spoke: newKey(t), psk: newPSK(t), calls: make(chan conn.Endpoint, 1000)}
	d.wire = tap(d.net)
	cfg := d.net.Config(hubAt)
	cfg.Key = d.hub.Public()
	cfg.Knocks = &udp.Knocks{
		Hub: d.hub,
		Lookup: func(key peer.PublicKey) (peer.PresharedKey, bool) {
			return d.psk, key == d.spoke.Public() && !d.removed.Load()
		},
		OnKnock: func(key peer.PublicKey, ep conn.Endpoint) {
			if key != d.spoke.Public() {
				t.Errorf("OnKnock for %v", key)
			}
			d.calls <- ep
		},
	}
	d.hubBind = udp.New(cfg)
	open(t, d.hubBind)
	d.spokeBind = d.net.Bind(spokeAt)
	open(t, d.spokeBind)
	return d
}

func (d *door) knock(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(d.t.Context(), limit)
	defer cancel()
	return d.spokeBind.Knock(ctx, hubAt, d.hub.Public(), d.spoke.Public(), d.psk)
}

// answers injects a datagram and returns what the hub sends because of it.
func (d *door) answers(from netip.AddrPort, data []byte) []udptest.Datagram {
	d.t.Helper()
	synctest.Wait()
	d.wire.take(hubAt)
	d.net.Inject(udptest.Datagram{From: from, To: hubAt, Data: data})
	synctest.Wait()
	return d.wire.take(hubAt)
}

func (d *door) silent(why string, from netip.AddrPort, data []byte) {
	d.t.Helper()
	if sent := d.answers(from, data); len(sent) != 0 {
		d.t.Fatalf("%s: the hub answered with %d bytes", why, len(sent[0].Data))
	}
}

func (d *door) called(n int) {
	d.t.Helper()
	synctest.Wait()
	if len(d.calls) != n {
		d.t.Fatalf("OnKnock was called %d times, want %d", len(d.calls), n)
	}
	for range n {
		<-d.calls
	}
}

// honest is the knock that the spoke would send.
func (d *door) honest(n byte) udp.Forgery {
	f := udp.Forgery{Kind: udp.TypeKnock, Spoke: d.spoke.Public(), Nonce: [16]byte{n}}
	f.Sign(d.hub.Public(), d.psk)
	return f
}

// proof fetches a cookie for from and makes the proof.
func (d *door) proof(from netip.AddrPort, n byte) udp.Forgery {
	d.t.Helper()
	sent := d.answers(from, d.honest(n).Seal(d.hub.Public()))
	if len(sent) != 1 {
		d.t.Fatalf("an honest knock got %d answers", len(sent))
	}
	_, nonce, cookie, ok := udp.ParseAnswer(sent[0].Data)
	if !ok || nonce != [16]byte{n} {
		d.t.Fatal("the reply is not one")
	}
	f := udp.Forgery{Kind: udp.TypeProof, Spoke: d.spoke.Public(), Nonce: nonce, Cookie: cookie}
	f.Sign(d.hub.Public(), d.psk)
	return f
}

func inBubble(t *testing.T, f func(t *testing.T, d *door)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newDoor(t)) })
}

func TestKnock(t *testing.T) {
	inBubble(t, func(t *testing.T, d *door) {
		if err := d.knock(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if ep := <-d.calls; ep.DstToString() != spokeAt.String() {
			t.Errorf("the hub was told to call %v, not %v", ep.DstToString(), spokeAt)
		}
		asked, answered := d.wire.take(spokeAt), d.wire.take(hubAt)
		if len(asked) != 2 || len(answered) != 2 {
			t.Fatalf("%d questions, %d answers; want 2 and 2", len(asked), len(answered))
		}
		for i := range asked {
			if len(answered[i].Data) > len(asked[i].Data) {
				t.Errorf("answer %d is larger than its question: %d > %d bytes", i, len(answered[i].Data), len(asked[i].Data))
			}
		}
		if s := d.hubBind.Stats(); s.Knocks.Replied != 1 || s.Knocks.Accepted != 1 {
			t.Errorf("counted %+v", s.Knocks)
		}
	})
}

func TestKnock_LossAndReorder(t *testing.T) {
	inBubble(t, func(t *testing.T, d *door) {
		d.net.Loss(0.4)
		d.net.Reorder(0.2)
		d.net.Delay(100 * time.Millisecond)
		for i := range 5 {
			if err := d.knock(50 * time.Second); err != nil {
				t.Fatalf("knock %d: %v", i, err)
			}
			time.Sleep(time.Minute) // fake: past the budget of one peer
		}
	})
}

// A cookie is for one address: a captured knock fetches nothing of use, and a
// captured proof opens nothing elsewhere.
func TestKnock_Replay(t *testing.T) {
	inBubble(t, func(t *testing.T, d *door) {
		if err := d.knock(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		d.called(1)
		sent := d.wire.take(spokeAt)
		knock, proof := sent[0].Data, sent[1].Data

		answer := d.answers(evilAt, knock)
		if len(answer) != 1 || answer[0].To != evilAt || len(answer[0].Data) != udp.SizeReply {
			t.Fatalf("a replayed knock got %d answers, want the one small cookie", len(answer))
		}
		d.silent("proof from elsewhere", evilAt, proof)
		d.silent("proof from elsewhere, same port", netip.AddrPortFrom(evilAt.Addr(), spokeAt.Port()), proof)
		d.silent("proof from another port", netip.AddrPortFrom(spokeAt.Addr(), 1), proof)

		// The cookie fetched by the replay, with what the thief can still do:
		// seal it under the captured tag.
		stolen, ok := udp.Open(d.hub, proof)
		if !ok {
			t.Fatal("the proof does not open")
		}
		_, _, cookie, _ := udp.ParseAnswer(answer[0].Data)
		stolen.Cookie = cookie
		d.silent("stolen cookie under the old tag", evilAt, stolen.Seal(d.hub.Public()))

		again := d.answers(spokeAt, proof)
		if len(again) != 1 || len(again[0].Data) != udp.SizeDone {
			t.Fatal("a proof whose answer was lost must be answered again")
		}
		d.called(0)
		time.Sleep(61 * time.Second)
		d.silent("proof after its cookie died", spokeAt, proof)
		d.called(0)
	})
}

func TestKnock_StrangersGetSilence(t *testing.T) {
	inBubble(t, func(t *testing.T, d *door) {
		otherPSK, otherKey, otherHub := newPSK(t), newKey(t).Public(), newKey(t).Public()
		hub := d.hub.Public()

		f := d.honest(1)
		f.Sign(hub, otherPSK)
		d.silent("wrong pre-shared key", spokeAt, f.Seal(hub))

		f = d.honest(2)
		d.silent("sealed to another hub", spokeAt, f.Seal(otherHub))
		msg := f.Seal(otherHub)
		udp.Remac(hub, msg)
		d.silent("sealed to another hub, mac of this one", spokeAt, msg)

		f = d.honest(3)
		f.Spoke = otherKey
		d.silent("another key, our tag", spokeAt, f.Seal(hub))
		f.Sign(hub, d.psk)
		d.silent("a key that is no peer", spokeAt, f.Seal(hub))

		f = d.honest(4)
		f.Kind = udp.TypeProof
		d.silent("a knock's tag on a proof", spokeAt, f.Seal(hub))
		f.Sign(hub, d.psk)
		d.silent("a proof with a cookie that nobody gave", spokeAt, f.Seal(hub))

		proof := d.proof(spokeAt, 5)
		proof.Sign(hub, otherPSK)
		d.silent("a proof under the wrong pre-shared key", spokeAt, proof.Seal(hub))

		proof = d.proof(spokeAt, 6)
		d.removed.Store(true)
		d.silent("a proof of a peer that was removed meanwhile", spokeAt, proof.Seal(hub))
		d.silent("a knock of a removed peer", spokeAt, d.honest(7).Seal(hub))
		d.called(0)
	})
}

// Every bit of both messages, as a stranger and as somebody with the hub's key
// would change it.
func TestKnock_BitFlips(t *testing.T) {
	inBubble(t, func(t *testing.T, d *door) {
		hub := d.hub.Public()
		for _, msg := range [][]byte{d.honest(1).Seal(hub), d.proof(spokeAt, 2).Seal(hub)} {
			for bit := range 8 * len(msg) {
				msg[bit/8] ^= 1 << (bit % 8)
				d.silent("one bit changed", spokeAt, msg)
				if bit/8 < len(msg)-16 && bit%8 == bit/8%8 { // a bit of each byte
					mac := [16]byte(msg[len(msg)-16:])
					udp.Remac(hub, msg)
					d.silent("one bit changed under a new mac", spokeAt, msg)
					copy(msg[len(msg)-16:], mac[:])
					time.Sleep(udp.LimitEvery)
				}
				msg[bit/8] ^= 1 << (bit % 8)
			}
		}
		d.called(0)
		// The unchanged proof still works, so the silence had a reason.
		if len(d.answers(spokeAt, d.proof(spokeAt, 3).Seal(hub))) != 1 {
			t.Error("the unchanged proof was not answered")
		}
		d.called(1)
	})
}

// What the spoke accepts is proven too: somebody on the wire cannot make it
// believe that the hub is coming.
func TestKnock_ForgedAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T, d *door) {
		forged := 0
		d.net.Filter(func(dg udptest.Datagram) bool {
			if dg.From == hubAt {
				forged++
				dg.Data[4+16+forged%(len(dg.Data)-20)] ^= 0x10 // cookie or tag
			}
			return true
		})
		if err := d.knock(30 * time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a forged answer was believed: %v", err)
		}
		if forged < 3 {
			t.Fatalf("only %d answers were there to forge", forged)
		}
		d.called(0)
	})
}

// One forged cookie costs one retry, not the exchange.
func TestKnock_ForgedCookie(t *testing.T) {
	inBubble(t, func(t *testing.T, d *door) {
		forged := false
		d.net.Filter(func(dg udptest.Datagram) bool {
			if dg.Data[0] == udp.TypeReply && !forged {
				forged = true
				dg.Data[4+16] ^= 1
			}
			return true
		})
		if err := d.knock(2 * time.Second); err != nil || !forged {
			t.Errorf("forged %v: %v", forged, err)
		}
	})
}

// A NAT that forgets the mapping half way: the exchange starts again.
func TestKnock_MovesHalfWay(t *testing.T) {
	inBubble(t, func(t *testing.T, d *door) {
		to, moved := netip.MustParseAddrPort("198.51.100.8:1024"), false
		d.net.Filter(func(dg udptest.Datagram) bool {
			if dg.Data[0] == udp.TypeProof && !moved {
				moved = true
				go func() { // not from inside the filter
					if err := d.net.Move(spokeAt, to); err != nil {
						t.Error(err)
					}
				}()
				return false
			}
			return true
		})
		if err := d.knock(60 * time.Second); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if ep := <-d.calls; ep.DstToString() != to.String() {
			t.Errorf("the hub was told to call %v, not %v", ep.DstToString(), to)
		}
	})
}

func TestKnock_Budgets(t *testing.T) {
	inBubble(t, func(t *testing.T, d *door) {
		hub := d.hub.Public()
		for i := range udp.AcceptMost + 5 {
			sent := d.answers(spokeAt, d.proof(spokeAt, byte(i+1)).Seal(hub))
			if want := i < udp.AcceptMost; (len(sent) == 1) != want {
				t.Fatalf("proof %d of one peer: %d answers", i, len(sent))
			}
		}
		d.called(udp.AcceptMost)
		time.Sleep(2 * time.Minute)

		d.wire.take(hubAt)
		msg := d.honest(99).Seal(hub)
		for range 2000 {
			d.net.Inject(udptest.Datagram{From: evilAt, To: hubAt, Data: msg})
			synctest.Wait()
		}
		if n := len(d.wire.take(hubAt)); n != udp.LimitBurst {
			t.Errorf("2000 knocks at once from one source got %d answers, want %d", n, udp.LimitBurst)
		}
	})
}

func TestKnock_Errors(t *testing.T) {
	inBubble(t, func(t *testing.T, d *door) {
		ctx := t.Context()
		hub, self := d.hub.Public(), d.spoke.Public()
		for name, err := range map[string]error{
			"no hub":   d.spokeBind.Knock(ctx, hubAt, peer.PublicKey{}, self, d.psk),
			"no self":  d.spokeBind.Knock(ctx, hubAt, hub, peer.PublicKey{}, d.psk),
			"no psk":   d.spokeBind.Knock(ctx, hubAt, hub, self, peer.PresharedKey{}),
			"no place": d.spokeBind.Knock(ctx, netip.AddrPort{}, hub, self, d.psk),
		} {
			if err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		closed := d.net.Bind(evilAt)
		if err := closed.Knock(ctx, hubAt, hub, self, d.psk); !errors.Is(err, net.ErrClosed) {
			t.Errorf("knocking over a closed Bind: %v", err)
		}
		// A Bind without Knocks is no door.
		if err := d.knock(5 * time.Second); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := d.hubBind.Knock(ctx, spokeAt, self, hub, d.psk); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("knocking at a spoke: %v", err)
		}
	})
}
