package udp

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"sync"
	"time"

	"github.com/warrenmesh/warren/peer"
	"golang.zx2c4.com/wireguard/conn"
)

// Knocks is the hub's side of the knock. All fields are required; a Bind
// without them drops every knock.
type Knocks struct {
	Hub peer.PrivateKey
	// Lookup returns the pre-shared key of a peer that may knock, false if
	// there is none. It is called for forged claims too, from one goroutine.
	Lookup func(peer.PublicKey) (peer.PresharedKey, bool)
	// OnKnock is told that the peer is at the endpoint and waits there for a
	// handshake. It is called from one goroutine, at most acceptMost times a
	// minute for one peer, and may take its time: other knocks wait, packets
	// do not. It may run on for a moment after the Bind is closed.
	OnKnock func(peer.PublicKey, conn.Endpoint)
}

const (
	// cookieEvery is how often the cookie secret changes, in seconds. A cookie
	// of the previous secret still counts.
	cookieEvery = 30
	// acceptMost is how often one peer may have the hub call in the time that
	// a cookie lives; a peer that lost its hub tries a few times.
	acceptMost = 8
	// knockBurst and knockEvery bound what all knocks together cost: 250 a
	// second, about 4 % of one core. Attack: whoever has the hub's public key
	// can forge sources and so spend this budget; honest knocks are then
	// repeated until one gets through, and everything else is untouched.
	knockBurst = 250
	knockEvery = 4 * time.Millisecond
	knockQueue = 64
)

// knockServer answers knocks on a goroutine of its own, so that their
// Diffie-Hellman never holds up packets.
type knockServer struct {
	b       *Bind
	cfg     Knocks
	public  peer.PublicKey
	private [32]byte
	mac     *macChecker
	master  [32]byte // cookie secrets are derived from it
	jobs    chan knockJob
	quit    chan struct{}

	mu   sync.Mutex
	full int64 // the common bucket, see spend

	accepted map[peer.PublicKey][]acceptance // the goroutine's own
}

type knockJob struct {
	msg  [sizeProof]byte
	size int
	from path
}

type acceptance struct {
	nonce nonce
	at    int64
}

func newKnockServer(b *Bind, cfg Knocks) *knockServer {
	s := &knockServer{
		b: b, cfg: cfg, public: cfg.Hub.Public(), private: cfg.Hub.Reveal(),
		jobs: make(chan knockJob, knockQueue), quit: make(chan struct{}),
		accepted: make(map[peer.PublicKey][]acceptance),
	}
	s.mac = newMACChecker(knockMACKey(s.public))
	_, _ = rand.Read(s.master[:]) // crypto/rand ends the program rather than fail
	go s.run()
	return s
}

// close stops the goroutine. It does not wait: OnKnock may be waiting for a
// lock that whoever closes the Bind holds (wireguard-go's does).
func (s *knockServer) close() { close(s.quit) }

func (s *knockServer) run() {
	for {
		select {
		case <-s.quit:
			return
		case job := <-s.jobs:
			s.serve(job.msg[:job.size], &job.from)
		}
	}
}

// admitKnock queues a knock that may be genuine.
func (b *Bind) admitKnock(msg []byte, from *path) {
	s := b.gate.knocks.Load()
	switch {
	case s == nil || len(msg) != knockSize(msg[0]):
		b.count.knock.Add(1)
	case !genuineKnock(s.mac, msg):
		b.count.mac.Add(1)
	case !b.gate.limit.allow(source(from), b.now()) || !s.offer(msg, from):
		b.count.flood.Add(1)
	}
}

// offer queues a knock unless there are too many.
func (s *knockServer) offer(msg []byte, from *path) bool {
	s.mu.Lock()
	ok := spend(&s.full, s.b.now(), knockBurst, knockEvery)
	s.mu.Unlock()
	if !ok {
		return false
	}
	job := knockJob{size: len(msg), from: *from}
	copy(job.msg[:], msg)
	select {
	case s.jobs <- job:
		return true
	default:
		return false
	}
}

// serve answers one message, or does not.
func (s *knockServer) serve(msg []byte, from *path) {
	m, ok := openKnock((*[32]byte)(&s.public), &s.private, msg)
	if !ok {
		s.b.count.knock.Add(1)
		return
	}
	psk, ok := s.cfg.Lookup(m.spoke)
	if !ok || psk.IsZero() {
		s.b.count.knock.Add(1)
		return
	}
	keys, err := newKnockKeys(s.public, m.spoke, psk)
	if err != nil {
		s.b.count.knock.Add(1)
		return
	}
	if m.kind == typeKnock {
		s.greet(&m, &keys, from)
	} else {
		s.conclude(&m, &keys, from)
	}
}

// greet answers a knock with a cookie.
func (s *knockServer) greet(m *knockBody, keys *knockKeys, from *path) {
	if !m.tag.equal(sign(keys.knock, typeKnock, m.nonce, cookie{})) {
		s.b.count.knock.Add(1)
		return
	}
	c := s.cookie(m, from, s.b.now()/int64(time.Second)/cookieEvery)
	s.send(answer{typeReply, m.nonce, c, sign(keys.reply, typeReply, m.nonce, c)}, from)
	s.b.count.replied.Add(1)
}

// conclude calls OnKnock for a proof, once.
func (s *knockServer) conclude(m *knockBody, keys *knockKeys, from *path) {
	now := s.b.now()
	period := now / int64(time.Second) / cookieEvery
	fresh := s.cookie(m, from, period).equal(m.cookie) || s.cookie(m, from, period-1).equal(m.cookie)
	if !fresh || !m.tag.equal(sign(keys.proof, typeProof, m.nonce, m.cookie)) {
		s.b.count.knock.Add(1)
		return
	}
	first, ok := s.accept(m, now)
	if !ok {
		s.b.count.flood.Add(1)
		return
	}
	ep := s.send(answer{kind: typeDone, nonce: m.nonce, tag: sign(keys.done, typeDone, m.nonce, cookie{})}, from)
	if first {
		s.b.count.accepted.Add(1)
		s.cfg.OnKnock(m.spoke, ep)
	}
}

// accept notes a proven knock. Not first is one that was noted before: the
// answer to it was lost, or somebody replays it. Only peers get here, so the
// table is no larger than their number.
func (s *knockServer) accept(m *knockBody, now int64) (first, ok bool) {
	const lives = 2 * cookieEvery * int64(time.Second)
	for key, seen := range s.accepted {
		if now-seen[len(seen)-1].at > lives {
			delete(s.accepted, key)
		}
	}
	seen := s.accepted[m.spoke]
	for len(seen) > 0 && now-seen[0].at > lives {
		seen = seen[1:]
	}
	for _, a := range seen {
		if a.nonce == m.nonce {
			return false, true
		}
	}
	if len(seen) >= acceptMost {
		return false, false
	}
	s.accepted[m.spoke] = append(seen, acceptance{m.nonce, now})
	return true, true
}

// cookie binds a nonce to the place that it came from, for one period.
func (s *knockServer) cookie(m *knockBody, from *path, period int64) (c cookie) {
	h := hmac.New(sha256.New, s.master[:])
	var b [8 + 2]byte
	binary.BigEndian.PutUint64(b[:], uint64(period))
	binary.BigEndian.PutUint16(b[8:], from.port)
	h.Write(b[:])
	h.Write(from.dst[:])
	h.Write(m.spoke[:])
	h.Write(m.nonce[:])
	copy(c[:], h.Sum(nil))
	return c
}

func (c cookie) equal(other cookie) bool { return subtle.ConstantTimeCompare(c[:], other[:]) == 1 }

// send answers to where the question came from. A lost answer is asked for
// again, so an error is only counted, by Send.
func (s *knockServer) send(a answer, from *path) *Endpoint {
	ep := &Endpoint{path: *from, addr: from.addrPort(), epoch: s.b.epoch.Load()}
	_ = s.b.Send([][]byte{a.marshal()}, ep)
	return ep
}
