package e2e_test

import (
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"encoding/base64"
	"hash"
	"math"
	"testing"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/warrenmesh/warren/peer"
)

// publicKeyOf reads a key as the command line shows it.
func publicKeyOf(t testing.TB, text string) (key peer.PublicKey) {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != peer.KeySize {
		t.Fatalf("%q is no key: %v", text, err)
	}
	copy(key[:], raw)
	return key
}

// lastInitiation writes a handshake initiation by hand (WireGuard whitepaper,
// 5.4.2) with the newest timestamp there is: nothing comes after it.
func lastInitiation(t testing.TB, from peer.PrivateKey, to peer.PublicKey) []byte {
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
	newest := [12]byte{}
	for i := range newest {
		newest[i] = math.MaxUint8
	}
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
	for _, part := range []struct{ shared, plain []byte }{{es, self[:]}, {ss, newest[:]}} {
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
	return addMAC1(to, append(msg, make([]byte, 32)...))
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

// addMAC1 signs a handshake message with what only the hub's public key gives.
func addMAC1(to peer.PublicKey, msg []byte) []byte {
	key := blake2s.Sum256(append([]byte("mac1----"), to[:]...))
	mac, err := blake2s.New128(key[:])
	if err != nil {
		panic(err) // the key has the right length
	}
	mac.Write(msg[:len(msg)-32])
	copy(msg[len(msg)-32:], mac.Sum(nil))
	return msg
}
