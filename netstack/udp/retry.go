package udp

import (
	"encoding/binary"
	"sync"

	"github.com/warrenmesh/warren/peer"
	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
)

// retry answers a hub under load at once. WireGuard's cookie tells a client to
// repeat its initiation with a mac2, and WireGuard does that when its timer
// runs out, 5 s later; a user does not wait that long. So the one initiation
// that was answered with a cookie goes out again, with the mac2, once. The
// hub has not consumed it, so to it this is the first. The reply is sealed
// with that initiation's mac1, so only who saw it can cause one datagram to be
// sent, to where the initiation went. The device gets the cookie as well.
type retry struct {
	on   bool
	key  [blake2s.Size]byte
	mu   sync.Mutex
	msg  [sizeInitiation]byte
	to   *Endpoint // nil if there is nothing to repeat
	used bool
}

func (r *retry) init(remote peer.PublicKey) {
	if r.on = !remote.IsZero(); r.on {
		// HASH(LABEL-COOKIE || public key), whitepaper 5.4.7.
		r.key = blake2s.Sum256(append([]byte("cookie--"), remote[:]...))
	}
}

// note remembers the initiation that was sent last.
func (r *retry) note(msg []byte, to *Endpoint) {
	if !r.on || len(msg) != sizeInitiation || binary.LittleEndian.Uint32(msg) != typeInitiation {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used && [4]byte(msg[4:8]) == [4]byte(r.msg[4:8]) {
		return // this is the repetition
	}
	copy(r.msg[:], msg)
	r.to, r.used = to, false
}

// repeat returns the initiation that reply is about, with its mac2, and where
// it goes; nil if reply is about nothing, not genuine, or the second one.
func (r *retry) repeat(reply []byte) (msg []byte, to *Endpoint) {
	const mac1At, mac2At = sizeInitiation - 2*macSize, sizeInitiation - macSize
	if !r.on {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.to == nil || r.used || [4]byte(reply[4:8]) != [4]byte(r.msg[4:8]) {
		return nil, nil
	}
	aead, err := chacha20poly1305.NewX(r.key[:])
	if err != nil {
		return nil, nil
	}
	secret, err := aead.Open(nil, reply[8:32], reply[32:sizeCookie], r.msg[mac1At:mac2At])
	if err != nil {
		return nil, nil
	}
	h, err := blake2s.New128(secret)
	if err != nil {
		return nil, nil
	}
	r.used = true
	h.Write(r.msg[:mac2At])
	return h.Sum(append([]byte(nil), r.msg[:mac2At]...)), r.to
}
