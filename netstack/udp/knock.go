package udp

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"github.com/warrenmesh/warren/peer"
	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/nacl/box"
)

// Message types of the knock; WireGuard uses 1 to 4. Three zero bytes follow.
const (
	typeKnock = 0x51
	typeReply = 0x52
	typeProof = 0x53
	typeDone  = 0x54
)

const (
	nonceSize  = 16
	cookieSize = 16
	tagSize    = sha256.Size

	sizeReply = 4 + nonceSize + cookieSize + tagSize
	sizeDone  = 4 + nonceSize + tagSize
	sizeKnock = 4 + box.AnonymousOverhead + peer.KeySize + nonceSize + tagSize + macSize
	sizeProof = sizeKnock + cookieSize
)

// The law that no answer is larger than its question, kept by the compiler.
const (
	_ = uint(sizeKnock - sizeReply)
	_ = uint(sizeProof - sizeDone)
)

type (
	nonce  [nonceSize]byte
	cookie [cookieSize]byte
	tag    [tagSize]byte
)

// knockKeys are the keys of one pair of peers, one for each message, so that
// none can be passed off as another.
type knockKeys struct{ knock, reply, proof, done []byte }

func newKnockKeys(hub, spoke peer.PublicKey, psk peer.PresharedKey) (k knockKeys, err error) {
	secret := psk.Reveal()
	salt := append(hub[:len(hub):len(hub)], spoke[:]...)
	prk, err := hkdf.Extract(sha256.New, secret[:], salt)
	if err != nil {
		return k, fmt.Errorf("deriving knock keys: %w", err)
	}
	for name, to := range map[string]*[]byte{"knock": &k.knock, "reply": &k.reply, "proof": &k.proof, "done": &k.done} {
		if *to, err = hkdf.Expand(sha256.New, prk, "warren knock v1 "+name, sha256.Size); err != nil {
			return k, fmt.Errorf("deriving knock keys: %w", err)
		}
	}
	return k, nil
}

// sign is the HMAC of one message. A message without a cookie has a zero one.
func sign(key []byte, kind byte, n nonce, c cookie) (t tag) {
	h := hmac.New(sha256.New, key)
	h.Write([]byte{kind})
	h.Write(n[:])
	h.Write(c[:])
	h.Sum(t[:0])
	return t
}

func (t tag) equal(other tag) bool { return subtle.ConstantTimeCompare(t[:], other[:]) == 1 }

// knockMACKey keys the mac that a stranger cannot make.
func knockMACKey(hub peer.PublicKey) [blake2s.Size]byte {
	return blake2s.Sum256(append([]byte("warren knock mac"), hub[:]...))
}

// knockBody is what a knock or a proof says, inside its box.
type knockBody struct {
	kind   byte
	spoke  peer.PublicKey
	nonce  nonce
	cookie cookie // of a proof
	tag    tag
}

// seal makes the datagram for hub.
func (m *knockBody) seal(hub peer.PublicKey) ([]byte, error) {
	plain := append(m.spoke[:len(m.spoke):len(m.spoke)], m.nonce[:]...)
	if m.kind == typeProof {
		plain = append(plain, m.cookie[:]...)
	}
	plain = append(plain, m.tag[:]...)
	msg, err := box.SealAnonymous([]byte{m.kind, 0, 0, 0}, plain, (*[32]byte)(&hub), nil)
	if err != nil {
		return nil, fmt.Errorf("sealing knock: %w", err)
	}
	key := knockMACKey(hub)
	mac := mac1(&key, msg)
	return append(msg, mac[:]...), nil
}

// knockSize is the size of a message with a box, 0 if kind has none.
func knockSize(kind byte) int {
	switch kind {
	case typeKnock:
		return sizeKnock
	case typeProof:
		return sizeProof
	}
	return 0
}

// genuineKnock checks everything that takes no private key: one hash is all
// that a sender without the hub's public key can make us spend.
func genuineKnock(mac *macChecker, msg []byte) bool {
	if len(msg) < 4 || len(msg) != knockSize(msg[0]) || binary.LittleEndian.Uint32(msg) != uint32(msg[0]) {
		return false
	}
	at := len(msg) - macSize
	return mac.check(msg[:at], msg[at:])
}

// openKnock opens the box of a genuine message. What it says is not proven.
func openKnock(public, private *[32]byte, msg []byte) (m knockBody, ok bool) {
	var space [sizeProof]byte
	plain, ok := box.OpenAnonymous(space[:0], msg[4:len(msg)-macSize], public, private)
	if !ok {
		return m, false
	}
	m.kind = msg[0]
	plain = plain[copy(m.spoke[:], plain):]
	plain = plain[copy(m.nonce[:], plain):]
	if m.kind == typeProof {
		plain = plain[copy(m.cookie[:], plain):]
	}
	copy(m.tag[:], plain) // the length was that of its kind, so this is all
	return m, true
}

// answer is a reply or a done.
type answer struct {
	kind   byte
	nonce  nonce
	cookie cookie // of a reply
	tag    tag
}

func (a *answer) marshal() []byte {
	msg := append([]byte{a.kind, 0, 0, 0}, a.nonce[:]...)
	if a.kind == typeReply {
		msg = append(msg, a.cookie[:]...)
	}
	return append(msg, a.tag[:]...)
}

func parseAnswer(msg []byte) (a answer, ok bool) {
	if len(msg) < 4 || binary.LittleEndian.Uint32(msg) != uint32(msg[0]) {
		return a, false
	}
	switch a.kind = msg[0]; {
	case a.kind == typeReply && len(msg) == sizeReply, a.kind == typeDone && len(msg) == sizeDone:
	default:
		return a, false
	}
	msg = msg[4:]
	msg = msg[copy(a.nonce[:], msg):]
	if a.kind == typeReply {
		msg = msg[copy(a.cookie[:], msg):]
	}
	copy(a.tag[:], msg)
	return a, true
}
