package udp

import (
	"net/netip"
	"testing"

	"github.com/warrenmesh/warren/peer"
)

// BenchmarkGate is what one datagram costs before it is let in or dropped.
func BenchmarkGate(b *testing.B) {
	key, err := peer.NewPrivateKey()
	if err != nil {
		b.Fatal(err)
	}
	psk, err := peer.NewPresharedKey()
	if err != nil {
		b.Fatal(err)
	}
	from := pathOf(netip.MustParseAddrPort("192.0.2.1:1"))
	data, junk, init := make([]byte, 1312), make([]byte, sizeInitiation), make([]byte, sizeInitiation)
	data[0], junk[0], init[0] = typeData, typeInitiation, typeInitiation
	macKey := mac1Key(key.Public())
	tag := mac1(&macKey, init[:len(init)-2*macSize])
	copy(init[len(init)-2*macSize:], tag[:])
	for name, msg := range map[string][]byte{"data": data, "junk": junk, "flood": init, "unknown": make([]byte, 100)} {
		b.Run(name, func(b *testing.B) {
			bind := New(Config{Key: key.Public()})
			b.ReportAllocs()
			for b.Loop() {
				bind.admit(msg, &from)
			}
		})
	}
	b.Run("knock", func(b *testing.B) { // on a goroutine of its own, not in the receive path
		bind := New(Config{Key: key.Public()})
		s := newKnockServer(bind, Knocks{Hub: key,
			Lookup: func(peer.PublicKey) (peer.PresharedKey, bool) { return psk, true }})
		defer s.close()
		forged := knockBody{kind: typeKnock}
		msg, err := forged.seal(key.Public())
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			s.serve(msg, &from)
		}
	})
}
