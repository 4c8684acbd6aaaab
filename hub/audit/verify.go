package audit

import (
	"fmt"
	"iter"
)

// BadEntry says where a chain is not what it was when it was written.
type BadEntry struct {
	// Index is the first place that is wrong, counted from 1. One past the
	// end means that entries are missing from there on.
	Index uint64
	// Why is one clause without a full stop.
	Why string
}

func (e *BadEntry) Error() string {
	return fmt.Sprintf("the audit log is not intact: entry %d: %s", e.Index, e.Why)
}

// Verifier checks a chain one entry at a time, in order from the first, so
// that a log of any length is checked in constant memory. The zero value is
// ready for the first entry.
type Verifier struct{ head Checkpoint }

// Add checks the next entry against those before it. After an error the
// verifier must not be used again.
func (v *Verifier) Add(e Entry) error {
	want := v.head.Count + 1
	switch {
	case e.Index > want:
		return &BadEntry{want, fmt.Sprintf("it is missing, the next one found is %d", e.Index)}
	case e.Index < want:
		return &BadEntry{want, fmt.Sprintf("entry %d stands in its place", e.Index)}
	case e.Prev != v.head.Hash:
		return &BadEntry{want, "it does not follow from the entry before it"}
	}
	next, err := Next(v.head, e.Time, e.Event)
	if err != nil {
		return &BadEntry{want, "it is not in the form in which entries are written"}
	}
	if next.Hash != e.Hash {
		return &BadEntry{want, "its content is not what was recorded"}
	}
	v.head = After(e)
	return nil
}

// Head returns the checkpoint of what was added so far.
func (v *Verifier) Head() Checkpoint { return v.head }

// Verify checks that entries are a chain from the first one on, and that each
// checkpoint lies on it. It returns how many entries are good; a fault is a
// *BadEntry that names the first bad one. Without a checkpoint from outside, a
// cut tail and a chain made anew look good: pass one.
func Verify(entries iter.Seq2[Entry, error], checkpoints ...Checkpoint) (uint64, error) {
	var v Verifier
	if err := v.check(checkpoints); err != nil {
		return 0, err
	}
	for e, err := range entries {
		if err != nil {
			return v.head.Count, fmt.Errorf("reading audit log: %w", err)
		}
		if err := v.Add(e); err != nil {
			return v.head.Count, err
		}
		if err := v.check(checkpoints); err != nil {
			return v.head.Count - 1, err
		}
	}
	for _, c := range checkpoints {
		if c.Count > v.head.Count {
			return v.head.Count, &BadEntry{v.head.Count + 1, fmt.Sprintf("it is missing, and so is all up to entry %d, which a checkpoint vouches for", c.Count)}
		}
	}
	return v.head.Count, nil
}

func (v *Verifier) check(checkpoints []Checkpoint) error {
	for _, c := range checkpoints {
		if c.Count == v.head.Count && c.Hash != v.head.Hash {
			return &BadEntry{max(c.Count, 1), "a checkpoint says that a different entry was here: the log up to this place was made anew"}
		}
	}
	return nil
}
