package store

import "errors"

// What a transaction can reach. On PostgreSQL the database itself draws the
// line, with two roles and row-level security (see roles.go): an ordinary
// transaction takes the role that sees all households, one of package
// account's Data the role that sees the household it names, and nothing that
// belongs to none. SET LOCAL ends with the transaction, however it ends, so
// that a connection goes back to the pool as it came. On SQLite there are no
// roles, and the queries alone draw the line.

// asOwner leaves the transaction to the tables' owner, for migrations.
func (tx *Tx) asOwner() error { return nil }

// everywhere lets the transaction reach all households.
func (tx *Tx) everywhere() error {
	return tx.set("taking a role", tx.s.engine.system)
}

// within confines the transaction to one household.
func (tx *Tx) within(household string) error {
	if tx.s.engine.tenant == "" {
		return nil
	}
	if err := tx.set("choosing the household", tx.s.engine.confine, household); err != nil {
		return err
	}
	tx.tenant = tx.s.engine.tenant
	return tx.set("taking a role", tx.tenant)
}

// asSystem runs fn outside the household that the transaction is confined to.
// It is for the few things that a confined transaction needs and must not be
// able to ask for in general: one person's key, an audit entry, whether an id
// is free.
func (tx *Tx) asSystem(fn func() error) error {
	tenant := tx.tenant
	if tenant == "" {
		return fn()
	}
	if err := tx.everywhere(); err != nil {
		return err
	}
	tx.tenant = ""
	err := fn()
	tx.tenant = tenant
	// If this fails the transaction is broken, and nothing follows in it.
	return errors.Join(err, tx.set("taking a role", tenant))
}

// set changes something about the transaction itself, which a reader may too.
func (tx *Tx) set(doing, query string, args ...any) error {
	if query == "" {
		return nil
	}
	_, err := tx.tx.ExecContext(tx.ctx, query, args...)
	return tx.s.fault(doing, err)
}
