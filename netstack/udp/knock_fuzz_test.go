package udp_test

import (
	"testing"

	"github.com/warrenmesh/warren/netstack/udp"
)

// FuzzKnock's law: whatever arrives, there is no panic, an answer that is
// accepted has one spelling, and a tag that is right is right for one key only.
func FuzzKnock(f *testing.F) {
	hub, spoke := newKey(f), newKey(f)
	psk := newPSK(f)
	honest := udp.Forgery{Kind: udp.TypeKnock, Spoke: spoke.Public()}
	honest.Sign(hub.Public(), psk)
	f.Add(honest.Seal(hub.Public()), false)
	f.Add(honest.Seal(hub.Public()), true)
	honest.Kind = udp.TypeProof
	f.Add(honest.Seal(hub.Public()), true)
	f.Add([]byte{udp.TypeKnock, 0, 0, 0}, true)
	f.Add(make([]byte, udp.SizeReply), false)
	f.Fuzz(func(t *testing.T, msg []byte, remac bool) {
		if again, _, _, ok := udp.ParseAnswer(msg); ok && string(again) != string(msg) {
			t.Fatal("an answer that was accepted is written differently")
		}
		if remac && len(msg) >= 16 {
			udp.Remac(hub.Public(), msg)
		}
		body, ok := udp.Open(hub, msg)
		if !ok {
			return
		}
		signed := body
		signed.Sign(hub.Public(), psk)
		if body.Tag == signed.Tag && body.Spoke != spoke.Public() {
			t.Fatal("a tag for another key")
		}
	})
}
