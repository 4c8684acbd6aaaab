package store

import (
	"fmt"
	"time"

	"github.com/warrenmesh/warren/peer/account"
)

// whose says whose records are meant: u's, where 0 is everybody's. A scope with
// a person in it reaches that person's and nobody else's.
func (sc *scoped) whose(u account.UserID) (account.UserID, error) {
	me := sc.in.User()
	switch {
	case me == 0 || me == u:
		return u, nil
	case u == 0:
		return me, nil
	}
	return 0, ErrNotFound
}

// PutRecord keeps a record of one of the household's people, or replaces it. A
// zero time is now. ErrNotFound if the person is not one of them, or not the
// one in the scope; ErrExists if the id is another person's record. The access
// log is not written here but by PutAccess: it belongs to no household.
func (sc *scoped) PutRecord(r account.Record) error {
	const doing = "writing record"
	if err := checkRecord(r); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if r.Kind == account.Access {
		return fmt.Errorf("%s: %w: the access log is not a household's", doing, ErrInvalid)
	}
	if _, err := sc.whose(r.User); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := sc.member(r.User); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if r.At.IsZero() {
		r.At = sc.Now()
	}
	body, err := sc.tx.sealFor(r.User, "records", "body", recordRow(sc.household(), r.Kind, r.ID), r.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	n, err := sc.change(doing, `UPDATE records SET household = $1, at = $2, body = $3 WHERE household = $1 AND kind = $4 AND id = $5 AND user_id = $6`,
		nanos(r.At), body, string(r.Kind), r.ID, int64(r.User))
	if err != nil || n == 1 {
		return err
	}
	return sc.insert(doing, `INSERT INTO records (household, kind, id, user_id, at, body) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
		string(r.Kind), r.ID, int64(r.User), nanos(r.At), body)
}

const selectRecords = `SELECT household, kind, id, user_id, at, body FROM records WHERE household = $1`

// Record finds one record.
func (sc *scoped) Record(kind account.Kind, id string) (account.Record, error) {
	if !storable(string(kind), maxLabel) || !storable(id, maxLabel) {
		return account.Record{}, ErrNotFound
	}
	r, err := only(sc.records(selectRecords+` AND kind = $2 AND id = $3`, string(kind), id))
	if err != nil {
		return account.Record{}, err
	}
	if _, err := sc.whose(r.User); err != nil {
		return account.Record{}, err
	}
	return r, nil
}

// Records are a person's of one kind since a time, newest first, at most limit
// and never more than 1000; 0 for a person is everybody whom the scope reaches.
func (sc *scoped) Records(kind account.Kind, user account.UserID, since time.Time, limit int) ([]account.Record, error) {
	user, err := sc.whose(user)
	if err != nil || !storable(string(kind), maxLabel) {
		return nil, nil
	}
	limit = min(max(limit, 0), maxRecords)
	if user != 0 {
		return sc.records(selectRecords+` AND kind = $2 AND at >= $3 AND user_id = $4 ORDER BY at DESC, id LIMIT $5`, string(kind), nanos(since), int64(user), limit)
	}
	return sc.records(selectRecords+` AND kind = $2 AND at >= $3 ORDER BY at DESC, id LIMIT $4`, string(kind), nanos(since), limit)
}

func (sc *scoped) records(query string, args ...any) ([]account.Record, error) {
	rows, err := scanRecords(func(row func(func(...any) error) error) error {
		return sc.each("reading records", query, args, row)
	})
	if err != nil {
		return nil, err
	}
	return sc.tx.openRecords(rows)
}

// DeleteRecord removes one record.
func (sc *scoped) DeleteRecord(kind account.Kind, id string) error {
	if !storable(string(kind), maxLabel) || !storable(id, maxLabel) {
		return ErrNotFound
	}
	if me := sc.in.User(); me != 0 {
		return sc.must("removing record", `DELETE FROM records WHERE household = $1 AND kind = $2 AND id = $3 AND user_id = $4`, string(kind), id, int64(me))
	}
	return sc.must("removing record", `DELETE FROM records WHERE household = $1 AND kind = $2 AND id = $3`, string(kind), id)
}
