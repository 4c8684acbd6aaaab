package udp

import (
	"net/netip"

	"github.com/warrenmesh/warren/peer"
)

// What the tests of package udp_test need from the inside. They live in a
// package of their own because udptest imports this one.

// Sizes and types of the knock's messages, for tests.
const (
	TypeKnock, SizeKnock = typeKnock, sizeKnock
	TypeReply, SizeReply = typeReply, sizeReply
	TypeProof, SizeProof = typeProof, sizeProof
	TypeDone, SizeDone   = typeDone, sizeDone
	AcceptMost           = acceptMost
	LimitBurst           = limitBurst
	LimitEvery           = limitEvery
	AskedFor             = askedFor
)

// Forgery is a knock or a proof whose every field can be chosen.
type Forgery struct {
	Kind   byte
	Spoke  peer.PublicKey
	Nonce  [16]byte
	Cookie [16]byte
	Tag    [32]byte
}

// Sign fills in the tag as the spoke with psk would.
func (f *Forgery) Sign(hub peer.PublicKey, psk peer.PresharedKey) {
	keys, err := newKnockKeys(hub, f.Spoke, psk)
	if err != nil {
		panic(err)
	}
	key := keys.knock
	if f.Kind == typeProof {
		key = keys.proof
	}
	f.Tag = sign(key, f.Kind, f.Nonce, f.Cookie)
}

// Seal makes the datagram.
func (f Forgery) Seal(hub peer.PublicKey) []byte {
	m := knockBody{kind: f.Kind, spoke: f.Spoke, nonce: f.Nonce, cookie: f.Cookie, tag: f.Tag}
	msg, err := m.seal(hub)
	if err != nil {
		panic(err)
	}
	return msg
}

// Remac gives a changed knock a valid mac, as whoever has the hub's key can.
func Remac(hub peer.PublicKey, msg []byte) {
	key := knockMACKey(hub)
	at := len(msg) - macSize
	mac := mac1(&key, msg[:at])
	copy(msg[at:], mac[:])
}

// Open reads a knock as the hub does.
func Open(hub peer.PrivateKey, msg []byte) (f Forgery, ok bool) {
	public, private := hub.Public(), hub.Reveal()
	if !genuineKnock(newMACChecker(knockMACKey(public)), msg) {
		return f, false
	}
	m, ok := openKnock((*[32]byte)(&public), &private, msg)
	return Forgery{m.kind, m.spoke, m.nonce, m.cookie, m.tag}, ok
}

// ParseAnswer reads a reply or a done and writes it again.
func ParseAnswer(msg []byte) (again []byte, nonce, cookie [16]byte, ok bool) {
	a, ok := parseAnswer(msg)
	return a.marshal(), a.nonce, a.cookie, ok
}

// MAC1 fills in the mac1 of a handshake message to key.
func MAC1(key peer.PublicKey, msg []byte) {
	k := mac1Key(key)
	at := len(msg) - 2*macSize
	mac := mac1(&k, msg[:at])
	copy(msg[at:], mac[:])
}

// Limiter is the limiter by itself, for tests.
type Limiter struct{ l *limiter }

func NewLimiter(small bool) Limiter { return Limiter{newLimiter(small)} }
func (l Limiter) Allow(from netip.Addr, now int64) bool {
	p := pathOf(netip.AddrPortFrom(from, 1))
	return l.l.allow(source(&p), now)
}
func (l Limiter) Size(now int64) (size, held int) { return l.l.size(now) }
