package auth

import (
	"crypto/rand"
	"sync"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// A ceremony is what a passkey is asked and answers. It is kept in memory until
// it is answered, once, by the machine that began it: a restart means to begin
// again, which browsers do by themselves.
const (
	ceremonyLife     = 5 * time.Minute
	maxCeremonies    = 1024 // of all machines
	maxCeremoniesOne = 8    // of one machine; a further one ends its oldest
)

type ceremony struct {
	peer  peer.ID
	key   peer.PublicKey
	user  account.UserID // who registers; 0 for a sign-in
	begun time.Time
	state webauthn.SessionData
}

type ceremonies struct {
	now  func() time.Time
	mu   sync.Mutex
	open map[string]ceremony
}

func newCeremonies(now func() time.Time) *ceremonies {
	return &ceremonies{now: now, open: make(map[string]ceremony)}
}

// begin keeps a ceremony and returns its name.
func (c *ceremonies) begin(p peer.Peer, u account.UserID, state webauthn.SessionData) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	mine := 0
	for id, have := range c.open {
		if now.Sub(have.begun) >= ceremonyLife {
			delete(c.open, id)
		} else if have.peer == p.ID {
			mine++
		}
	}
	if mine >= maxCeremoniesOne {
		c.dropOldest(func(have ceremony) bool { return have.peer == p.ID })
	} else if len(c.open) >= maxCeremonies {
		c.dropOldest(func(ceremony) bool { return true })
	}
	id := rand.Text()
	c.open[id] = ceremony{p.ID, p.PublicKey, u, now, state}
	return id
}

func (c *ceremonies) dropOldest(of func(ceremony) bool) {
	oldest := ""
	for id, have := range c.open {
		if of(have) && (oldest == "" || have.begun.Before(c.open[oldest].begun)) {
			oldest = id
		}
	}
	delete(c.open, oldest)
}

// finish takes a ceremony out, once, for the machine and person that began it.
func (c *ceremonies) finish(id string, p peer.Peer, u account.UserID) (webauthn.SessionData, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	have, ok := c.open[id]
	if !ok || have.peer != p.ID || have.key != p.PublicKey || have.user != u || c.now().Sub(have.begun) >= ceremonyLife {
		return webauthn.SessionData{}, false
	}
	delete(c.open, id)
	return have.state, true
}
