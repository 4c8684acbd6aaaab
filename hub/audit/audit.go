// Package audit is the record of what was done on the hub: who, what, to
// whom, when. It knows the form of an entry and how entries are chained; where
// they are kept is the store's business, and the store writes an action and
// its entry in one transaction, so that there is never one without the other.
//
// Each entry holds the SHA-256 of the one before it. Whoever changes, removes,
// inserts or reorders an entry breaks the chain at a place that Verify names.
// A chain alone cannot tell that its tail was cut off, or that all of it was
// made anew: for that, Verify compares with a Checkpoint that was kept
// elsewhere. The store keeps one sealed under its master key; a careful admin
// writes one down now and then.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// HashSize is the length of an entry's hash in bytes.
const HashSize = sha256.Size

// MaxEvent is the most that one event takes in its canonical form, in bytes.
// An event is a sentence, not a document: what is larger is refused, so that
// nobody fills the disk by way of the record.
const MaxEvent = 16 << 10

// ErrEvent is wrapped by the refusal of an event that cannot be recorded.
var ErrEvent = errors.New("recording the action")

// Event is what happened.
type Event struct {
	// Actor is who did it: "local:UID" for a person at the hub's machine,
	// "peer:NAME", or "hub" for what the hub does by itself.
	Actor string `json:"actor"`
	// Action is what was done, as in "peer.add".
	Action string `json:"action"`
	// Target is what it was done to, "" for the hub as a whole.
	Target string `json:"target,omitempty"`
	// Detail is what else a reader needs. It never holds a secret.
	Detail map[string]string `json:"detail,omitempty"`
}

// Entry is an event in its place in the chain.
type Entry struct {
	// Index counts from 1 without gaps.
	Index uint64 `json:"index"`
	// Time is when it was recorded, in UTC, as right as the machine's clock
	// was; the order is Index's.
	Time time.Time `json:"time"`
	Event
	Prev [HashSize]byte `json:"-"`
	Hash [HashSize]byte `json:"-"`
}

// Canonical returns the one form of e that is hashed and kept: JSON with
// sorted keys, NUL escaped, and bytes that are not UTF-8 replaced by U+FFFD.
// It fails when actor or action is missing, or the event is over MaxEvent.
func (e Event) Canonical() ([]byte, error) {
	if e.Actor == "" || e.Action == "" {
		return nil, fmt.Errorf("%w: who did what must both be said", ErrEvent)
	}
	size := len(e.Actor) + len(e.Action) + len(e.Target)
	for k, v := range e.Detail {
		size += len(k) + len(v)
	}
	if size > MaxEvent {
		return nil, fmt.Errorf("%w: the entry is %d bytes, the most is %d", ErrEvent, size, MaxEvent)
	}
	clean := Event{Actor: valid(e.Actor), Action: valid(e.Action), Target: valid(e.Target)}
	if len(e.Detail) > 0 {
		clean.Detail = make(map[string]string, len(e.Detail))
		for k, v := range e.Detail {
			clean.Detail[valid(k)] = valid(v)
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(clean); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvent, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func valid(s string) string { return strings.ToValidUTF8(s, string(utf8.RuneError)) }

// Next returns the entry that follows head. It is deterministic.
func Next(head Checkpoint, at time.Time, e Event) (Entry, error) {
	text, err := e.Canonical()
	if err != nil {
		return Entry{}, err
	}
	next := Entry{Index: head.Count + 1, Time: at.UTC(), Prev: head.Hash}
	if err := json.Unmarshal(text, &next.Event); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrEvent, err)
	}
	next.Hash = sum(next.Index, next.Time, next.Prev, text)
	return next, nil
}

// sum is SHA-256 over a label, the index, the time in nanoseconds, the hash
// before and the canonical event. All but the last have a fixed length, so no
// two entries have the same input.
func sum(index uint64, at time.Time, prev [HashSize]byte, event []byte) [HashSize]byte {
	b := make([]byte, 0, 64+HashSize+len(event))
	b = append(b, "warren audit entry 1\n"...)
	b = binary.BigEndian.AppendUint64(b, index)
	b = binary.BigEndian.AppendUint64(b, uint64(at.UnixNano()))
	b = append(b, prev[:]...)
	return sha256.Sum256(append(b, event...))
}

// Checkpoint says how long the chain was at one moment and what its last hash
// was. It is no secret. The zero value is the chain before its first entry.
type Checkpoint struct {
	Count uint64
	Hash  [HashSize]byte
}

// After returns the checkpoint that e, once appended, makes.
func After(e Entry) Checkpoint { return Checkpoint{Count: e.Index, Hash: e.Hash} }

const checkpointPrefix = "warren-audit:"

// String returns the form that a person can keep: "warren-audit:COUNT:HASH",
// the hash in unpadded URL-safe base64. The empty chain's is all A.
func (c Checkpoint) String() string {
	return checkpointPrefix + strconv.FormatUint(c.Count, 10) + ":" + base64.RawURLEncoding.EncodeToString(c.Hash[:])
}

// ParseCheckpoint reads what String wrote, and nothing else.
func ParseCheckpoint(s string) (Checkpoint, error) {
	bad := errors.New("reading checkpoint: it looks like \"warren-audit:COUNT:HASH\", as the audit command prints it")
	rest, ok := strings.CutPrefix(s, checkpointPrefix)
	if !ok || len(s) > 100 {
		return Checkpoint{}, bad
	}
	count, hash, ok := strings.Cut(rest, ":")
	if !ok {
		return Checkpoint{}, bad
	}
	n, err := strconv.ParseUint(count, 10, 64)
	if err != nil {
		return Checkpoint{}, bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(hash)
	if err != nil || len(b) != HashSize {
		return Checkpoint{}, bad
	}
	c := Checkpoint{Count: n, Hash: [HashSize]byte(b)}
	if c.String() != s {
		return Checkpoint{}, bad
	}
	return c, nil
}
