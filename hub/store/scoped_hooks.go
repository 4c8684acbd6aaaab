package store

import (
	"fmt"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// What a household keeps of webhooks at most.
const (
	maxHooks      = 100
	maxDeliveries = 200 // of one hook; the oldest go
	maxSecret     = 1024
	maxAcceptedID = 256
)

// PutHook adds a hook or replaces its secret. ErrExists if the name is another
// household's: the URL names the hook alone, so a name is given once.
func (sc *scoped) PutHook(h account.Hook) error {
	const doing = "writing hook"
	if err := peer.ValidName(h.Name); err != nil {
		return fmt.Errorf("%s: %w: %w", doing, ErrInvalid, err)
	}
	if len(h.Secret) == 0 || len(h.Secret) > maxSecret {
		return fmt.Errorf("%s: %w: a secret has 1 to %d bytes", doing, ErrInvalid, maxSecret)
	}
	secret, err := sc.tx.s.seal.seal("hooks", "secret", sc.hookRow(h.Name), h.Secret)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	n, err := sc.change(doing, `UPDATE hooks SET household = $1, secret = $2 WHERE household = $1 AND name = $3`, secret, h.Name)
	if err != nil || n == 1 {
		return err
	}
	if n, err = sc.count(doing, `SELECT COUNT(*) FROM hooks WHERE household = $1`); err != nil {
		return err
	}
	if n >= maxHooks {
		return fmt.Errorf("%s: the household has %d: %w", doing, n, ErrConflict)
	}
	if h.Created.IsZero() {
		h.Created = sc.Now()
	}
	return sc.insert(doing, `INSERT INTO hooks (household, name, secret, created) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, h.Name, secret, nanos(h.Created))
}

// hookRow is the place of a hook for its seal.
func (sc *scoped) hookRow(name string) string { return sc.household() + "/" + name }

const selectHooks = `SELECT name, secret, created FROM hooks WHERE household = $1`

// Hook finds one of the household's by name.
func (sc *scoped) Hook(name string) (account.Hook, error) {
	if !storable(name, maxLabel) {
		return account.Hook{}, ErrNotFound
	}
	return only(sc.hooks(selectHooks+` AND name = $2`, name))
}

// Hooks are the household's, by name.
func (sc *scoped) Hooks() ([]account.Hook, error) { return sc.hooks(selectHooks + ` ORDER BY name`) }

func (sc *scoped) hooks(query string, args ...any) ([]account.Hook, error) {
	var list []account.Hook
	err := sc.each("reading hooks", query, args, func(scan func(...any) error) error {
		var h account.Hook
		var secret []byte
		var created int64
		if err := scan(&h.Name, &secret, &created); err != nil {
			return err
		}
		var err error
		h.Created = fromNanos(created)
		h.Secret, err = sc.tx.s.seal.open("hooks", "secret", sc.hookRow(h.Name), secret)
		list = append(list, h)
		return err
	})
	return list, err
}

// DeleteHook removes a hook with its deliveries. The ids that it had accepted
// stay until they expire: a hook of the same name does not accept them again.
func (sc *scoped) DeleteHook(name string) error {
	if !storable(name, maxLabel) {
		return ErrNotFound
	}
	if err := sc.must("removing hook", `DELETE FROM hooks WHERE household = $1 AND name = $2`, name); err != nil {
		return err
	}
	_, err := sc.change("removing deliveries", `DELETE FROM deliveries WHERE household = $1 AND hook = $2`, name)
	return err
}

// Accept notes an id of a hook until expires, which is in the future; ErrExists
// if it is noted. It is a row, so it holds after a restart.
func (sc *scoped) Accept(hook string, id []byte, expires time.Time) error {
	const doing = "accepting a webhook's id"
	if len(id) == 0 || len(id) > maxAcceptedID || !expires.After(sc.Now()) {
		return fmt.Errorf("%s: %w: an id has 1 to %d bytes and expires later than now", doing, ErrInvalid, maxAcceptedID)
	}
	if _, err := sc.Hook(hook); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if _, err := sc.change(doing, `DELETE FROM accepted WHERE household = $1 AND expires < $2`, nanos(sc.Now())); err != nil {
		return err
	}
	return sc.insert(doing, `INSERT INTO accepted (household, hook, id, expires) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, hook, id, nanos(expires))
}

func (sc *scoped) deliveryRow(hook string, seq int64) string {
	return fmt.Sprintf("%s/%s/%d", sc.household(), hook, seq)
}

// PutDelivery keeps a webhook that was accepted. Its Seq is made here, one more
// than the hook's last; a zero time is now. Of each hook the last 200 are kept.
func (sc *scoped) PutDelivery(d account.Delivery) error {
	const doing = "writing delivery"
	if len(d.Body) > account.MaxBlob {
		return fmt.Errorf("%s: %w: a delivery has at most %d bytes", doing, ErrInvalid, account.MaxBlob)
	}
	if _, err := sc.Hook(d.Hook); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	last, err := sc.count(doing, `SELECT COALESCE(MAX(seq), 0) FROM deliveries WHERE household = $1 AND hook = $2`, d.Hook)
	if err != nil {
		return err
	}
	if d.At.IsZero() {
		d.At = sc.Now()
	}
	body, err := sc.tx.s.seal.seal("deliveries", "body", sc.deliveryRow(d.Hook, last+1), d.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := sc.insert(doing, `INSERT INTO deliveries (household, hook, seq, at, body) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
		d.Hook, last+1, nanos(d.At), body); err != nil {
		return err
	}
	_, err = sc.change("dropping old deliveries", `DELETE FROM deliveries WHERE household = $1 AND hook = $2 AND seq <= $3`, d.Hook, last+1-maxDeliveries)
	return err
}

// Deliveries are a hook's after a Seq, oldest first, at most limit.
func (sc *scoped) Deliveries(hook string, after int64, limit int) ([]account.Delivery, error) {
	if !storable(hook, maxLabel) {
		return nil, nil
	}
	var list []account.Delivery
	err := sc.each("reading deliveries", `SELECT seq, at, body FROM deliveries WHERE household = $1 AND hook = $2 AND seq > $3 ORDER BY seq LIMIT $4`,
		[]any{hook, after, min(max(limit, 0), maxDeliveries)}, func(scan func(...any) error) error {
			d := account.Delivery{Hook: hook}
			var at int64
			var body []byte
			if err := scan(&d.Seq, &at, &body); err != nil {
				return err
			}
			var err error
			d.At = fromNanos(at)
			d.Body, err = sc.tx.s.seal.open("deliveries", "body", sc.deliveryRow(hook, d.Seq), body)
			list = append(list, d)
			return err
		})
	return list, err
}
