package store

import (
	"bytes"
	"fmt"
	"math"
	"time"
)

// MaxPolicy is the largest policy text, in bytes.
const MaxPolicy = 1 << 20

// Policy is one generation of the access policy. Generations count from 1,
// without gaps, and are never edited: going back is a new generation with an
// old text.
type Policy struct {
	Generation uint64
	Text       []byte
	Author     string
	At         time.Time
	// ConfirmBy is when the policy lapses unless it is confirmed, zero if it
	// stands.
	ConfirmBy time.Time
}

// Pending reports whether the policy still has to be confirmed.
func (p Policy) Pending() bool { return !p.ConfirmBy.IsZero() }

const (
	selectPolicy = `SELECT generation, text, author, at, confirm_by FROM policies`
	lastPolicy   = `SELECT COALESCE(MAX(generation), 0) FROM policies`
)

// PutPolicy makes text the current policy. base is the generation that its
// author began from, 0 for none: if that is not the current one any more, the
// answer is ErrConflict and nothing changes, so that nobody overwrites what he
// has not seen. With a non-zero confirmBy the policy is pending; who started
// the clock is who goes back, by putting LastConfirmed's text again.
func (tx *Tx) PutPolicy(text []byte, author string, base uint64, confirmBy time.Time) (uint64, error) {
	if len(text) > MaxPolicy {
		return 0, fmt.Errorf("%w: the policy is %d bytes, the most is %d", ErrInvalid, len(text), MaxPolicy)
	}
	if err := checkText("author", author); err != nil {
		return 0, err
	}
	last, err := tx.count("reading policy", lastPolicy)
	if err != nil {
		return 0, err
	}
	if base != uint64(last) {
		return 0, fmt.Errorf("the policy is at generation %d, this edit began from %d: %w", last, base, ErrConflict)
	}
	err = tx.exec("writing policy", `INSERT INTO policies (generation, text, author, at, confirm_by) VALUES ($1, $2, $3, $4, $5)`,
		last+1, append([]byte{}, text...), author, nanos(tx.now), nanos(confirmBy))
	return uint64(last + 1), err
}

// Policy returns one generation, ErrNotFound if there is none.
func (tx *Tx) Policy(generation uint64) (Policy, error) {
	if generation > math.MaxInt64 {
		return Policy{}, ErrNotFound
	}
	return only(tx.policies(selectPolicy+` WHERE generation = $1`, int64(generation)))
}

// CurrentPolicy returns the newest generation, ErrNotFound if there is none.
func (tx *Tx) CurrentPolicy() (Policy, error) {
	return only(tx.policies(selectPolicy + ` ORDER BY generation DESC LIMIT 1`))
}

// LastConfirmed returns the newest generation that does not wait for
// confirmation: what to go back to.
func (tx *Tx) LastConfirmed() (Policy, error) {
	return only(tx.policies(selectPolicy + ` WHERE confirm_by = 0 ORDER BY generation DESC LIMIT 1`))
}

// Policies returns up to limit generations, newest first.
func (tx *Tx) Policies(limit int) ([]Policy, error) {
	return tx.policies(selectPolicy+` ORDER BY generation DESC LIMIT $1`, max(limit, 0))
}

func (tx *Tx) policies(query string, args ...any) ([]Policy, error) {
	var list []Policy
	err := tx.each("reading policy", query, args, func(scan func(...any) error) error {
		var p Policy
		var generation, at, confirmBy int64
		if err := scan(&generation, &p.Text, &p.Author, &at, &confirmBy); err != nil {
			return err
		}
		p.Text = bytes.Clone(p.Text)
		p.Generation, p.At, p.ConfirmBy = uint64(generation), fromNanos(at), fromNanos(confirmBy)
		list = append(list, p)
		return nil
	})
	return list, err
}

// ConfirmPolicy makes the current, pending policy stand. Confirming one that
// stands already changes nothing; one that is not current any more, or whose
// time has run out, is ErrConflict.
func (tx *Tx) ConfirmPolicy(generation uint64) error {
	current, err := tx.CurrentPolicy()
	if err != nil {
		return fmt.Errorf("confirming policy: %w", err)
	}
	switch {
	case current.Generation != generation:
		return fmt.Errorf("confirming policy: generation %d is not the current one, %d is: %w", generation, current.Generation, ErrConflict)
	case !current.Pending():
		return nil
	case !current.ConfirmBy.After(tx.now):
		return fmt.Errorf("confirming policy: the time for generation %d has run out: %w", generation, ErrConflict)
	}
	return tx.exec("confirming policy", `UPDATE policies SET confirm_by = 0 WHERE generation = $1`, int64(generation))
}
