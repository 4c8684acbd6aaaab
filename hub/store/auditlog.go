package store

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/warrenmesh/warren/hub/audit"
)

// zeroHead is the checkpoint of a chain without entries.
var zeroHead = audit.Checkpoint{}

// Record appends one more entry to the audit log in this transaction. Do has
// recorded its own event; this is for Keep, and for what happens besides.
func (tx *Tx) Record(ev audit.Event) error {
	head, err := tx.AuditHead()
	if err != nil {
		return err
	}
	e, err := audit.Next(head, tx.now, ev)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	text, err := e.Event.Canonical()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	err = tx.exec("recording the action", `INSERT INTO audit (idx, at, event, prev, hash) VALUES ($1, $2, $3, $4, $5)`,
		int64(e.Index), nanos(e.Time), string(text), e.Prev[:], e.Hash[:])
	if err != nil {
		return err
	}
	return tx.setAuditHead(audit.After(e))
}

// AuditHead returns the checkpoint of the audit log as it is now. Kept outside
// the hub, it proves later that nothing up to here was changed or cut off.
func (tx *Tx) AuditHead() (audit.Checkpoint, error) {
	b, err := tx.sealedMeta(metaAudit)
	if errors.Is(err, ErrNotFound) || (err == nil && len(b) != 8+audit.HashSize) {
		return audit.Checkpoint{}, fmt.Errorf("the audit log's sealed head: %w", ErrCorrupt)
	}
	if err != nil {
		return audit.Checkpoint{}, err
	}
	return audit.Checkpoint{Count: binary.BigEndian.Uint64(b), Hash: [audit.HashSize]byte(b[8:])}, nil
}

func (tx *Tx) setAuditHead(c audit.Checkpoint) error {
	b := binary.BigEndian.AppendUint64(nil, c.Count)
	return tx.setSealedMeta(metaAudit, append(b, c.Hash[:]...))
}

// maxEntries is the most that AuditEntries returns at once.
const maxEntries = 1000

const selectAudit = `SELECT idx, at, event, prev, hash FROM audit WHERE idx >= $1 ORDER BY idx LIMIT $2`

// AuditEntries returns up to limit entries (at most 1000) from index from on,
// oldest first. For the newest n, begin at AuditHead().Count-n+1.
func (tx *Tx) AuditEntries(from uint64, limit int) ([]audit.Entry, error) {
	return tx.auditPage(int64(min(from, math.MaxInt64)), min(max(limit, 0), maxEntries))
}

func (tx *Tx) auditPage(from int64, limit int) ([]audit.Entry, error) {
	var entries []audit.Entry
	err := tx.each("reading audit log", selectAudit, []any{from, limit}, func(scan func(...any) error) error {
		e, err := scanEntry(scan)
		if err != nil {
			return err
		}
		entries = append(entries, e)
		return nil
	})
	return entries, err
}

// scanEntry refuses a row that is not exactly what Record wrote: what differs
// only in form (blanks in the JSON, an unknown key) would hash alike.
func scanEntry(scan func(...any) error) (audit.Entry, error) {
	var e audit.Entry
	var index, at int64
	var text string
	var prev, hash []byte
	if err := scan(&index, &at, &text, &prev, &hash); err != nil {
		return e, err
	}
	bad := func(why string) error { return &audit.BadEntry{Index: uint64(index), Why: why} }
	if index < 1 || len(prev) != audit.HashSize || len(hash) != audit.HashSize {
		return e, bad("its hash is not one")
	}
	e.Index, e.Time = uint64(index), fromNanos(at)
	e.Prev, e.Hash = [audit.HashSize]byte(prev), [audit.HashSize]byte(hash)
	if err := json.Unmarshal([]byte(text), &e.Event); err != nil {
		return e, bad("its content is not what was recorded")
	}
	if again, err := e.Event.Canonical(); err != nil || string(again) != text {
		return e, bad("its content is not what was recorded")
	}
	return e, nil
}

// VerifyAudit checks the whole audit log: every hash, every link, and that it
// ends where the sealed head says, so that a cut tail or a log made anew shows.
// Whoever can replace the store as a whole by an older copy of itself is found
// only by a checkpoint kept outside; pass those. It returns how many entries
// are good. A fault is a *audit.BadEntry naming the first bad one.
func (s *Store) VerifyAudit(ctx context.Context, outside ...audit.Checkpoint) (uint64, error) {
	var n uint64
	err := s.viewSlowly(ctx, func(tx *Tx) error {
		head, err := tx.AuditHead()
		if err != nil {
			return err
		}
		n, err = audit.Verify(tx.entries, append(outside, head)...)
		if err == nil && n > head.Count {
			return &audit.BadEntry{Index: head.Count + 1, Why: "it was added by something other than the hub"}
		}
		return err
	})
	if err != nil {
		return n, fmt.Errorf("verifying audit log: %w", err)
	}
	return n, nil
}

// entries yields the whole log a page at a time.
func (tx *Tx) entries(yield func(audit.Entry, error) bool) {
	// From the very lowest number: an entry smuggled in below 1 counts too.
	for from := int64(math.MinInt64); ; {
		page, err := tx.auditPage(from, maxEntries)
		for _, e := range page {
			if !yield(e, nil) {
				return
			}
			from = int64(e.Index) + 1
		}
		if err != nil {
			yield(audit.Entry{}, err)
			return
		}
		if len(page) == 0 {
			return
		}
	}
}
