package udp

import (
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"sync"
	"sync/atomic"

	"github.com/warrenmesh/warren/peer"
	"golang.org/x/crypto/blake2s"
)

// The messages of WireGuard (whitepaper, section 5.4): one type byte, three
// zero bytes. Sizes are of the whole datagram, in bytes.
const (
	typeInitiation = 1
	typeResponse   = 2
	typeCookie     = 3
	typeData       = 4

	sizeInitiation = 148
	sizeResponse   = 92
	sizeCookie     = 64
	sizeDataMin    = 32 // header and tag around nothing: a keepalive

	macSize = 16 // of mac1 and mac2, the last two fields of types 1 and 2
)

// gate is what a datagram has to pass before the device sees it.
type gate struct {
	mac    *macChecker // nil: not checked
	limit  *limiter
	asked  asked
	knocks atomic.Pointer[knockServer]
}

func (g *gate) init(key peer.PublicKey, small bool) {
	g.limit = newLimiter(small)
	g.asked.init(small)
	if !key.IsZero() {
		g.mac = newMACChecker(mac1Key(key))
	}
}

// mac1Key is HASH(LABEL-MAC1 || public key), whitepaper 5.4.4.
func mac1Key(key peer.PublicKey) [blake2s.Size]byte {
	return blake2s.Sum256(append([]byte("mac1----"), key[:]...))
}

// mac1 is the keyed hash of msg. It cannot fail: the key has a legal length.
func mac1(key *[blake2s.Size]byte, msg []byte) (tag [macSize]byte) {
	h, err := blake2s.New128(key[:])
	if err != nil {
		return tag
	}
	h.Write(msg)
	h.Sum(tag[:0])
	return tag
}

// genuine checks the mac1 of a handshake message. One hash is all that a
// sender without our public key can make us spend.
func (g *gate) genuine(msg []byte) bool {
	if g.mac == nil {
		return true
	}
	at := len(msg) - 2*macSize
	return g.mac.check(msg[:at], msg[at:at+macSize])
}

// macChecker checks macs under one key. It keeps its hash: a flood of junk
// must not make garbage.
type macChecker struct {
	mu  sync.Mutex
	h   hash.Hash // nil if it could not be made, and then nothing is genuine
	sum [macSize]byte
}

func newMACChecker(key [blake2s.Size]byte) *macChecker {
	h, err := blake2s.New128(key[:])
	if err != nil {
		return &macChecker{}
	}
	return &macChecker{h: h}
}

func (m *macChecker) check(msg, mac []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.h == nil {
		return false
	}
	m.h.Reset()
	m.h.Write(msg)
	return subtle.ConstantTimeCompare(m.h.Sum(m.sum[:0]), mac) == 1
}

// admit reports whether the device may see msg. It counts what it drops and
// keeps the knocks to itself. msg is not kept.
func (b *Bind) admit(msg []byte, from *path) bool {
	if len(msg) < sizeDataMin {
		b.count.size.Add(1)
		return false
	}
	switch binary.LittleEndian.Uint32(msg) {
	case typeData:
		return true
	case typeInitiation:
		return b.admitInitiation(msg, from)
	case typeResponse:
		return b.admitAnswer(msg, sizeResponse, 8)
	case typeCookie:
		if !b.admitAnswer(msg, sizeCookie, 4) {
			return false
		}
		if again, to := b.retry.repeat(msg); again != nil {
			_ = b.Send([][]byte{again}, to) // counted; WireGuard's timer is still there
		}
		return true
	case typeKnock, typeProof:
		b.admitKnock(msg, from)
	case typeReply, typeDone:
		b.admitReply(msg, from)
	default:
		b.count.kind.Add(1)
	}
	return false
}

func (b *Bind) admitInitiation(msg []byte, from *path) bool {
	switch {
	case len(msg) != sizeInitiation:
		b.count.size.Add(1)
	case !b.gate.genuine(msg):
		b.count.mac.Add(1)
	case !b.gate.limit.allow(source(from), b.now()):
		b.count.flood.Add(1)
	default:
		return true
	}
	return false
}

// admitAnswer lets a response or a cookie through if it names, at offset at,
// an index that we sent. Attack: datagrams of these types need no key to be
// made and would fill the device's handshake queue.
func (b *Bind) admitAnswer(msg []byte, size, at int) bool {
	switch {
	case len(msg) != size:
		b.count.size.Add(1)
	case !b.gate.asked.has(binary.LittleEndian.Uint32(msg[at:]), b.now()):
		b.count.unasked.Add(1)
	case size == sizeResponse && !b.gate.genuine(msg):
		b.count.mac.Add(1)
	default:
		return true
	}
	return false
}

// sent notes the index of a handshake message that goes out.
func (g *gate) sent(msg []byte, b *Bind) {
	if len(msg) != sizeInitiation && len(msg) != sizeResponse {
		return
	}
	switch kind := binary.LittleEndian.Uint32(msg); {
	case kind == typeInitiation && len(msg) == sizeInitiation,
		kind == typeResponse && len(msg) == sizeResponse:
		g.asked.add(binary.LittleEndian.Uint32(msg[4:]), b.now())
	}
}
