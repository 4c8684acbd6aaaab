package udp_test

import (
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"hash"
	"math"
	"testing"
	"time"

	"github.com/warrenmesh/warren/netstack/udp"
	"github.com/warrenmesh/warren/peer"
	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
)

// stamp is a TAI64N timestamp; WireGuard compares them as bytes.
type stamp [12]byte

func stampOf(t time.Time) (s stamp) {
	binary.BigEndian.PutUint64(s[:], uint64(1<<62+10+t.Unix()))
	binary.BigEndian.PutUint32(s[8:], uint32(t.Nanosecond()))
	return s
}

// stampMax is the newest timestamp there is: nothing comes after it.
func stampMax() (s stamp) {
	binary.BigEndian.PutUint64(s[:], math.MaxUint64)
	binary.BigEndian.PutUint32(s[8:], math.MaxUint32)
	return s
}

// initiation writes a handshake initiation by hand (whitepaper, 5.4.2), so
// that a test can choose its timestamp.
func initiation(t testing.TB, from peer.PrivateKey, to peer.PublicKey, at stamp) []byte {
	t.Helper()
	eph, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ecdh.X25519().NewPublicKey(to[:])
	if err != nil {
		t.Fatal(err)
	}
	es, err := eph.ECDH(pub)
	if err != nil {
		t.Fatal(err)
	}
	ss, err := from.Shared(to)
	if err != nil {
		t.Fatal(err)
	}
	self := from.Public()

	chain := blake2s.Sum256([]byte("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"))
	h := blake2s.Sum256(append(chain[:], "WireGuard v1 zx2c4 Jason@zx2c4.com"...))
	mix := func(data []byte) { h = blake2s.Sum256(append(h[:], data...)) }
	mix(to[:])

	msg := make([]byte, 8, 148)
	msg[0] = 1
	_, _ = rand.Read(msg[4:8])
	e := eph.PublicKey().Bytes()
	msg = append(msg, e...)
	chain, _ = kdf2(chain, e)
	mix(e)
	for _, part := range []struct{ shared, plain []byte }{{es, self[:]}, {ss, at[:]}} {
		var key [32]byte
		chain, key = kdf2(chain, part.shared)
		aead, err := chacha20poly1305.New(key[:])
		if err != nil {
			t.Fatal(err)
		}
		box := aead.Seal(nil, make([]byte, 12), part.plain, h[:])
		msg = append(msg, box...)
		mix(box)
	}
	msg = append(msg, make([]byte, 32)...) // mac1, mac2
	udp.MAC1(to, msg)
	return msg
}

// kdf2 is HKDF with HMAC-BLAKE2s and two results.
func kdf2(chain [32]byte, input []byte) (a, b [32]byte) {
	mac := func(key, data []byte) []byte {
		m := hmac.New(func() hash.Hash { h, _ := blake2s.New256(nil); return h }, key)
		m.Write(data)
		return m.Sum(nil)
	}
	prk := mac(chain[:], input)
	copy(a[:], mac(prk, []byte{1}))
	copy(b[:], mac(prk, append(a[:len(a):len(a)], 2)))
	return a, b
}

// junkInitiation has a valid mac1 and nothing else: what somebody who knows
// only the hub's public key can send.
func junkInitiation(to peer.PublicKey) []byte {
	msg := make([]byte, 148)
	_, _ = rand.Read(msg)
	copy(msg, []byte{1, 0, 0, 0})
	udp.MAC1(to, msg)
	return msg
}
