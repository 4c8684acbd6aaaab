package store

import (
	"fmt"
	"time"

	"github.com/warrenmesh/warren/peer/account"
)

// recordRow is the place of a record for its seal. None of the parts can hold
// a slash: see checkScope and checkRecord.
func recordRow(household string, kind account.Kind, id string) string {
	return household + "/" + string(kind) + "/" + id
}

func accessRow(u account.UserID, id string) string { return u.String() + "/" + id }

// checkRecord refuses what cannot be kept as a record.
func checkRecord(r account.Record) error {
	switch r.Kind {
	case account.Chat, account.Behaviour, account.Access, account.Memory:
	default:
		return fmt.Errorf("%w: %.40q is no kind of record", ErrInvalid, r.Kind)
	}
	if r.User <= 0 {
		return fmt.Errorf("%w: a record is a person's", ErrInvalid)
	}
	if len(r.Body) > account.MaxBlob {
		return fmt.Errorf("%w: a record has at most %d bytes", ErrInvalid, account.MaxBlob)
	}
	return checkID("record", r.ID)
}

// checkID refuses ids that could be mistaken for a part of another.
func checkID(what, id string) error {
	if err := checkLabel(what+"'s id", id); err != nil {
		return err
	}
	for i := range len(id) {
		if id[i] == '/' {
			return fmt.Errorf("%w: a %s's id has no slash", ErrInvalid, what)
		}
	}
	return nil
}

// PutAccess adds a line to a person's access log; ErrNotFound if there is no
// such person, ErrExists if the id is taken. A zero time is now.
func (tx *accountTx) PutAccess(r account.Record) error {
	if err := checkRecord(r); err != nil {
		return err
	}
	if r.Kind != account.Access {
		return fmt.Errorf("%w: %s is not for the access log", ErrInvalid, r.Kind)
	}
	if r.At.IsZero() {
		r.At = tx.now
	}
	body, err := tx.sealFor(r.User, "access_log", "body", accessRow(r.User, r.ID), r.Body)
	if err != nil {
		return err
	}
	n, err := tx.change("writing access log", `INSERT INTO access_log (user_id, id, at, body) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
		int64(r.User), r.ID, nanos(r.At), body)
	if err == nil && n == 0 {
		err = fmt.Errorf("writing access log: %w", ErrExists)
	}
	return err
}

// everyRecord is all that a person has, without its bodies' places.
const everyRecord = `(SELECT household, kind, id, user_id, at, body FROM records
	UNION ALL SELECT '', '` + string(account.Access) + `', id, user_id, at, body FROM access_log) AS every`

// maxRecords is the most records in one answer.
const maxRecords = 1000

// AllRecords are a person's records in all households and their access log, for
// their export: about limit of them, in the order of their ids, with ids after
// the given one. Those that share an id are never parted, so that the last one's
// id is where the next page begins; the page after the last is empty.
func (tx *accountTx) AllRecords(u account.UserID, after string, limit int) ([]account.Record, error) {
	if !storable(after, maxText) {
		return nil, fmt.Errorf("%w: no record has such an id", ErrInvalid)
	}
	limit = min(max(limit, 1), maxRecords)
	var last *string
	if err := tx.each("exporting records", `SELECT id FROM `+everyRecord+` WHERE user_id = $1 AND id > $2 ORDER BY id LIMIT 1 OFFSET $3`,
		[]any{int64(u), after, limit - 1}, func(scan func(...any) error) error {
			last = new(string)
			return scan(last)
		}); err != nil {
		return nil, err
	}
	query, args := `SELECT household, kind, id, user_id, at, body FROM `+everyRecord+` WHERE user_id = $1 AND id > $2`, []any{int64(u), after}
	if last != nil {
		query, args = query+` AND id <= $3`, append(args, *last)
	}
	rows, err := scanRecords(func(row func(func(...any) error) error) error {
		return tx.each("exporting records", query+` ORDER BY id, household, kind`, args, row)
	})
	if err != nil {
		return nil, err
	}
	return tx.openRecords(rows)
}

// sealedRecord is a record as it is kept.
type sealedRecord struct {
	account.Record
	household string
}

// scanRecords collects rows of household, kind, id, user_id, at, body.
func scanRecords(each func(row func(scan func(...any) error) error) error) ([]sealedRecord, error) {
	var rows []sealedRecord
	err := each(func(scan func(...any) error) error {
		var r sealedRecord
		var kind string
		var user, at int64
		if err := scan(&r.household, &kind, &r.ID, &user, &at, &r.Body); err != nil {
			return err
		}
		r.Kind, r.User, r.At = account.Kind(kind), account.UserID(user), fromNanos(at)
		rows = append(rows, r)
		return nil
	})
	return rows, err
}

// openRecords opens the bodies, after the rows are read: reading a person's key
// is a query of its own.
func (tx *Tx) openRecords(rows []sealedRecord) ([]account.Record, error) {
	var records []account.Record
	for _, r := range rows {
		table, row := "records", recordRow(r.household, r.Kind, r.ID)
		if r.household == "" {
			table, row = "access_log", accessRow(r.User, r.ID)
		}
		var err error
		if r.Body, err = tx.openFor(r.User, table, "body", row, r.Body); err != nil {
			return nil, fmt.Errorf("reading record: %w", err)
		}
		records = append(records, r.Record)
	}
	return records, nil
}

// Expire removes records of a kind from before a time, up to limit, oldest
// first or not, and says how many.
func (tx *accountTx) Expire(kind account.Kind, before time.Time, limit int) (int, error) {
	if limit < 1 {
		return 0, fmt.Errorf("%w: expiring %d records", ErrInvalid, limit)
	}
	if kind == account.Access {
		n, err := tx.change("expiring access log", `DELETE FROM access_log WHERE (user_id, id) IN
			(SELECT user_id, id FROM access_log WHERE at < $1 LIMIT $2)`, nanos(before), limit)
		return int(n), err
	}
	n, err := tx.change("expiring records", `DELETE FROM records WHERE (household, kind, id) IN
		(SELECT household, kind, id FROM records WHERE kind = $1 AND at < $2 LIMIT $3)`, string(kind), nanos(before), limit)
	return int(n), err
}
