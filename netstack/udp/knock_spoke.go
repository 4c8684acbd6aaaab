package udp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/warrenmesh/warren/peer"
)

const (
	// knockRetry is how long to wait for the first answer; it doubles up to
	// knockRetryMost.
	knockRetry     = 500 * time.Millisecond
	knockRetryMost = 4 * time.Second
	// proofTries is how often a proof is sent before the exchange starts
	// again: our address may have changed, so that the cookie is of no use.
	proofTries = 4
	// callsMost is how many exchanges can run at once.
	callsMost = 16
)

// callers are the exchanges that wait for an answer.
type callers struct {
	mu   sync.Mutex
	wait map[nonce]chan answer
}

func (c *callers) add(n nonce) (chan answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wait) >= callsMost {
		return nil, fmt.Errorf("knocking: %d knocks are under way already", callsMost)
	}
	if c.wait == nil {
		c.wait = make(map[nonce]chan answer)
	}
	ch := make(chan answer, 4)
	c.wait[n] = ch
	return ch, nil
}

func (c *callers) remove(n nonce) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.wait, n)
}

// admitReply hands an answer to the exchange that it names. Whether it is
// genuine is for that exchange to say.
func (b *Bind) admitReply(msg []byte, _ *path) {
	a, ok := parseAnswer(msg)
	if !ok {
		b.count.knock.Add(1)
		return
	}
	b.calls.mu.Lock()
	defer b.calls.mu.Unlock()
	ch, ok := b.calls.wait[a.nonce]
	if !ok {
		b.count.knock.Add(1)
		return
	}
	select {
	case ch <- a:
	default: // forged answers must not hold up packets
		b.count.knock.Add(1)
	}
}

// Knock asks the hub at to to start a handshake with us, self. It repeats
// itself until the hub has confirmed, which means that its initiation is on
// the way, or ctx ends: give it a deadline, a hub that does not know us stays
// silent. The Bind must be open and its receive functions running.
func (b *Bind) Knock(ctx context.Context, to netip.AddrPort, hub, self peer.PublicKey, psk peer.PresharedKey) error {
	if hub.IsZero() || self.IsZero() || psk.IsZero() {
		return errors.New("knocking: the hub's key, our own and the pre-shared key are all needed")
	}
	ep, err := newEndpoint(to)
	if err != nil {
		return fmt.Errorf("knocking: %w", err)
	}
	keys, err := newKnockKeys(hub, self, psk)
	if err != nil {
		return err
	}
	for {
		c := knocking{b: b, ep: ep, hub: hub, self: self, keys: &keys}
		done, err := c.once(ctx)
		if err != nil {
			return fmt.Errorf("knocking at %v: %w", to, err)
		}
		if done {
			return nil
		}
	}
}

// knocking is one exchange, with its own nonce.
type knocking struct {
	b         *Bind
	ep        *Endpoint
	hub, self peer.PublicKey
	keys      *knockKeys
	nonce     nonce
	answers   chan answer
}

// once runs one exchange. Not done and no error means: start again.
func (c *knocking) once(ctx context.Context) (done bool, err error) {
	if _, err := rand.Read(c.nonce[:]); err != nil {
		return false, fmt.Errorf("reading randomness: %w", err)
	}
	if c.answers, err = c.b.calls.add(c.nonce); err != nil {
		return false, err
	}
	defer c.b.calls.remove(c.nonce)

	knock := knockBody{kind: typeKnock, spoke: c.self, nonce: c.nonce, tag: sign(c.keys.knock, typeKnock, c.nonce, cookie{})}
	reply, _, err := c.ask(ctx, &knock, 0, func(a *answer) bool {
		return a.kind == typeReply && a.tag.equal(sign(c.keys.reply, typeReply, c.nonce, a.cookie))
	})
	if err != nil {
		return false, err
	}
	proof := knockBody{kind: typeProof, spoke: c.self, nonce: c.nonce, cookie: reply.cookie,
		tag: sign(c.keys.proof, typeProof, c.nonce, reply.cookie)}
	_, done, err = c.ask(ctx, &proof, proofTries, func(a *answer) bool {
		return a.kind == typeDone && a.tag.equal(sign(c.keys.done, typeDone, c.nonce, cookie{}))
	})
	return done, err
}

// ask sends m until an answer satisfies valid, at most tries times if tries is
// not 0.
func (c *knocking) ask(ctx context.Context, m *knockBody, tries int, valid func(*answer) bool) (a answer, ok bool, err error) {
	msg, err := m.seal(c.hub)
	if err != nil {
		return a, false, err
	}
	wait := knockRetry
	timer := time.NewTimer(0) // the first goes out at once
	defer timer.Stop()
	for sent := 0; ; {
		select {
		case <-ctx.Done():
			return a, false, fmt.Errorf("no answer: %w", ctx.Err())
		case a = <-c.answers:
			if valid(&a) {
				return a, true, nil
			}
			c.b.count.knock.Add(1)
		case <-timer.C:
			if tries > 0 && sent == tries {
				return a, false, nil
			}
			// A network that is down now may be up for the next try.
			if err := c.b.Send([][]byte{msg}, c.ep); errors.Is(err, net.ErrClosed) {
				return a, false, err
			}
			sent++
			timer.Reset(wait)
			wait = min(2*wait, knockRetryMost)
		}
	}
}
