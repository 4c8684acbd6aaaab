package dns

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of the cache. An answer that lives shorter or longer than this is
// kept as if it lived as long: a page that lets its name live for no time at
// all, to change it under the browser, gains nothing.
const (
	minTTL      = 5 * time.Second
	maxTTL      = time.Hour
	maxNegative = 5 * time.Minute
	failureTTL  = 2 * time.Second // RFC 9520: between 1 s and 5 min

	maxEntries = 4096
	maxBytes   = 4 << 20 // of answers in wire form
	maxEntry   = 16 << 10
)

// key is a question as it is asked of an upstream.
type key struct {
	name   string // canonical
	qtype  uint16
	do, cd bool
}

// answer is what came back, cleaned. It is immutable once made.
type answer struct {
	rcode    int
	answer   []dns.RR
	ns       []dns.RR
	filtered bool          // something private was dropped
	failed   string        // why there is no answer, "" if there is one
	ttl      time.Duration // how long it may be kept; 0 = not at all
	size     int           // of the wire form, about
}

type entry struct {
	key    key
	answer *answer
	stored time.Time
}

// cache holds the answers asked for last. It is safe for concurrent use.
type cache struct {
	mu    sync.Mutex
	bytes int
	order *list.List // of *entry, the one used last in front
	byKey map[key]*list.Element
	// generation counts flushes, so that an answer from before is not stored after.
	generation uint64
}

func newCache() *cache { return &cache{order: list.New(), byKey: make(map[key]*list.Element)} }

// get returns an answer that is still good, and its age.
func (c *cache) get(k key, now time.Time) (*answer, time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.byKey[k]
	if !ok {
		return nil, 0, false
	}
	e := el.Value.(*entry)
	age := now.Sub(e.stored)
	if age < 0 || age >= e.answer.ttl { // a clock set back ends what it makes unknown
		c.remove(el)
		return nil, 0, false
	}
	c.order.MoveToFront(el)
	return e.answer, age, true
}

func (c *cache) put(k key, a *answer, now time.Time, generation uint64) {
	if a.ttl <= 0 || a.size > maxEntry {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return
	}
	if el, ok := c.byKey[k]; ok {
		c.remove(el)
	}
	c.byKey[k] = c.order.PushFront(&entry{k, a, now})
	c.bytes += a.size
	for c.order.Len() > maxEntries || c.bytes > maxBytes {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(el *list.Element) {
	e := c.order.Remove(el).(*entry)
	delete(c.byKey, e.key)
	c.bytes -= e.answer.size
}

func (c *cache) now() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

// flush forgets everything: another network's resolvers say other things.
func (c *cache) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order.Init()
	clear(c.byKey)
	c.bytes = 0
	c.generation++
}
