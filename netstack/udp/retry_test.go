package udp_test

import (
	"bytes"
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/netstack/udp/udptest"
	"golang.zx2c4.com/wireguard/device"
)

// A cookie from the hub repeats the initiation once, at once, with the mac2
// that the hub wants; a forged one does nothing.
func TestCookieIsUsedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wires := udptest.New(t)
		w := tap(wires)
		hub, spoke := newKey(t), newKey(t)
		cfg := wires.Config(spokeAt)
		cfg.Key, cfg.Remote = spoke.Public(), hub.Public()
		b := udp.New(cfg)
		in := open(t, b)

		var checker device.CookieChecker
		checker.Init(device.NoisePublicKey(hub.Public()))
		first := initiation(t, spoke, hub.Public(), stampOf(time.Now()))
		if err := b.Send([][]byte{first}, endpointOf(t, b, hubAt)); err != nil {
			t.Fatal(err)
		}
		w.take(spokeAt)
		src := endpointOf(t, b, spokeAt).DstToBytes()
		made, err := checker.CreateReply(first, binary.LittleEndian.Uint32(first[4:]), src)
		if err != nil {
			t.Fatal(err)
		}
		reply := binary.LittleEndian.AppendUint32([]byte{3, 0, 0, 0}, made.Receiver)
		reply = append(append(reply, made.Nonce[:]...), made.Cookie[:]...)
		repeated := func(reply []byte) []udptest.Datagram {
			wires.Inject(udptest.Datagram{From: hubAt, To: spokeAt, Data: reply})
			synctest.Wait()
			return w.take(spokeAt)
		}
		for bit := range 8 * len(reply) {
			forged := bytes.Clone(reply)
			forged[bit/8] ^= 1 << (bit % 8)
			if len(repeated(forged)) != 0 {
				t.Fatalf("a cookie with bit %d changed made us send", bit)
			}
		}
		again := repeated(reply)
		if len(again) != 1 || again[0].To != hubAt || !bytes.Equal(again[0].Data[:132], first[:132]) ||
			!checker.CheckMAC1(again[0].Data) || !checker.CheckMAC2(again[0].Data, src) {
			t.Fatalf("the initiation was not repeated as it should: %d datagrams", len(again))
		}
		if len(repeated(reply)) != 0 {
			t.Error("the cookie made us send twice")
		}
		seen := false
		for len(in) > 0 {
			seen = bytes.Equal((<-in).data, reply) || seen
		}
		if !seen {
			t.Error("the device did not get the cookie")
		}
	})
}
