package store

import (
	"errors"
	"fmt"

	"github.com/warrenmesh/warren/peer/account"
)

// Erasing a person goes in steps, each a transaction of its own and each safe
// to repeat, so that it can be broken off anywhere and taken up again:
//
//  1. BeginErasure writes the person into the ledger and locks them out.
//  2. EraseRecords removes their records, some at a time, until none is left.
//  3. FinishErasure removes the person and destroys their key.
//  4. Store.ForgetInBackups takes the key out of the files of BackupPeople.
//  5. Store.Scrub clears what the database keeps of deleted rows.
//
// The ledger stays for ever. It holds a number and two times.

// BeginErasure notes that a person is to be erased, locks them out and takes
// back the invitations that they gave. Again it changes nothing; ErrNotFound if
// there is nobody of that number.
func (tx *accountTx) BeginErasure(u account.UserID) error {
	const doing = "beginning erasure"
	n, err := tx.count(doing, `SELECT COUNT(*) FROM erased WHERE user_id = $1`, int64(u))
	if err != nil || n > 0 {
		return err
	}
	if err := tx.must(doing, `UPDATE users SET disabled = 1 WHERE id = $1`, int64(u)); err != nil {
		return err
	}
	if _, err := tx.RevokeSessions(u, "", "erased"); err != nil {
		return err
	}
	if err := tx.dropPromises(u); err != nil {
		return err
	}
	return tx.exec(doing, `INSERT INTO erased (user_id, at, done) VALUES ($1, $2, 0)`, int64(u), nanos(tx.now))
}

// dropPromises removes what a person gave or asked for that has not come to
// anything yet.
func (tx *Tx) dropPromises(u account.UserID) error {
	for _, query := range []string{
		`DELETE FROM invitations WHERE by_user = $1 AND used_by = 0`,
		`DELETE FROM enrolments WHERE by_user = $1 AND used_at = 0`,
		`DELETE FROM auth_requests WHERE user_id = $1`,
		`DELETE FROM devices WHERE user_id = $1`,
	} {
		if err := tx.exec("removing what a person asked for", query, int64(u)); err != nil {
			return err
		}
	}
	return nil
}

// Erasures lists who is to be erased and not done with, longest waiting first.
func (tx *accountTx) Erasures() ([]account.UserID, error) {
	return tx.ledger(`SELECT user_id FROM erased WHERE done = 0 ORDER BY at, user_id`)
}

// Erased lists everybody who was or is to be erased here, by number. It is what
// Restore wants to know about an older backup.
func (tx *Tx) Erased() ([]account.UserID, error) {
	return tx.ledger(`SELECT user_id FROM erased ORDER BY user_id`)
}

func (tx *Tx) ledger(query string) ([]account.UserID, error) {
	var people []account.UserID
	err := tx.each("reading who was erased", query, nil, func(scan func(...any) error) error {
		var n int64
		if err := scan(&n); err != nil {
			return err
		}
		people = append(people, account.UserID(n))
		return nil
	})
	return people, err
}

// EraseRecords removes up to limit records of the person, in all households and
// in the access log, and says how many; 0 when none is left.
func (tx *accountTx) EraseRecords(u account.UserID, limit int) (int, error) {
	if limit < 1 {
		return 0, fmt.Errorf("%w: erasing %d records", ErrInvalid, limit)
	}
	n, err := tx.change("erasing records", `DELETE FROM records WHERE (household, kind, id) IN
		(SELECT household, kind, id FROM records WHERE user_id = $1 LIMIT $2)`, int64(u), limit)
	if err != nil || int(n) == limit {
		return int(n), err
	}
	more, err := tx.change("erasing access log", `DELETE FROM access_log WHERE (user_id, id) IN
		(SELECT user_id, id FROM access_log WHERE user_id = $1 LIMIT $2)`, int64(u), limit-int(n))
	return int(n + more), err
}

// FinishErasure removes the person, with whatever EraseRecords left, and
// destroys their key; ErrConflict if it was not begun. Again it changes nothing.
func (tx *accountTx) FinishErasure(u account.UserID) error {
	var done int64
	err := tx.one("finishing erasure", `SELECT done FROM erased WHERE user_id = $1`, []any{int64(u)}, &done)
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("the erasure was not begun: %w", ErrConflict)
	}
	if err != nil || done != 0 {
		return err
	}
	if err := tx.removePerson(u); err != nil {
		return err
	}
	return tx.exec("finishing erasure", `UPDATE erased SET done = $1 WHERE user_id = $2`, nanos(tx.now), int64(u))
}

// removePerson removes all that is known about a person. Their number stays
// where it says who did something: as a pseudonym that leads nowhere.
func (tx *Tx) removePerson(u account.UserID) error {
	if err := tx.dropPromises(u); err != nil {
		return err
	}
	for _, query := range []string{
		`DELETE FROM records WHERE user_id = $1`,
		`DELETE FROM access_log WHERE user_id = $1`,
		`DELETE FROM sessions WHERE user_id = $1`,
		`DELETE FROM memberships WHERE user_id = $1`,
		`DELETE FROM known_machines WHERE user_id = $1`,
		`DELETE FROM passkeys WHERE user_id = $1`,
		`DELETE FROM recovery_codes WHERE user_id = $1`,
		`DELETE FROM users WHERE id = $1`,
	} {
		if err := tx.exec("removing person", query, int64(u)); err != nil {
			return err
		}
	}
	return tx.dropPersonKey(u)
}

// AddErased writes people into the ledger who were erased elsewhere, say in the
// hub whose old backup this store came from, and removes those who are here.
func (tx *Tx) AddErased(people ...account.UserID) error {
	for _, u := range people {
		if u <= 0 {
			return fmt.Errorf("%w: user %v", ErrInvalid, u)
		}
		if err := tx.removePerson(u); err != nil {
			return err
		}
		if err := tx.exec("writing who was erased", `INSERT INTO erased (user_id, at, done) VALUES ($1, $2, $2)
			ON CONFLICT (user_id) DO UPDATE SET done = excluded.done WHERE erased.done = 0`, int64(u), nanos(tx.now)); err != nil {
			return err
		}
	}
	return nil
}
