package store

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// maxMachineID is the longest id of a node, app or client, in bytes.
const maxMachineID = 64

// checkMachineID refuses an id that could not stand in a header before a colon.
func checkMachineID(id string) error {
	bad := func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-", r))
	}
	if id == "" || len(id) > maxMachineID || strings.ContainsFunc(id, bad) {
		return fmt.Errorf("%w: an id is 1 to %d letters, digits, dots, hyphens and underscores", ErrInvalid, maxMachineID)
	}
	return nil
}

// checkNode returns the services as they are kept.
func checkNode(n account.Node) (services string, err error) {
	if err := checkMachineID(n.ID); err != nil {
		return "", err
	}
	if err := checkShort("node's name", n.Name); err != nil {
		return "", err
	}
	if err := checkShort("room", n.Room); err != nil {
		return "", err
	}
	if err := checkShort("machine's id", string(n.Peer)); err != nil {
		return "", err
	}
	return joinSet("services", n.Services)
}

// CreateNode adds a node; ErrExists if its id is taken, in whatever household.
// Created is now if it is zero.
func (tx *accountTx) CreateNode(n account.Node) error {
	fail := func(err error) error { return fmt.Errorf("adding node: %w", err) }
	services, err := checkNode(n)
	if err != nil {
		return fail(err)
	}
	if err := tx.householdThere(n.Household); err != nil {
		return fail(err)
	}
	if n.Created.IsZero() {
		n.Created = tx.now
	}
	c, err := tx.change("writing node", `INSERT INTO nodes (id, name, household, peer, registered_by, room, active, services, created, rotated, seen)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (id) DO NOTHING`,
		n.ID, n.Name, string(n.Household), string(n.Peer), int64(n.RegisteredBy), n.Room, flag(n.Active), services,
		nanos(n.Created), nanos(n.Rotated), nanos(n.Seen))
	if err == nil && c == 0 {
		err = fail(ErrExists)
	}
	return err
}

const selectNodes = `SELECT id, name, household, peer, registered_by, room, active, services, created, rotated, seen FROM nodes`

// Node finds one by id.
func (tx *accountTx) Node(id string) (account.Node, error) {
	if checkMachineID(id) != nil {
		return account.Node{}, ErrNotFound
	}
	return only(tx.nodes(selectNodes+` WHERE id = $1`, id))
}

// NodesOf are a household's, by id.
func (tx *accountTx) NodesOf(h account.HouseholdID) ([]account.Node, error) {
	if !storable(string(h), maxLabel) {
		return nil, nil
	}
	return tx.nodes(selectNodes+` WHERE household = $1 ORDER BY id`, string(h))
}

// AllNodes are those of all households, by id.
func (tx *accountTx) AllNodes() ([]account.Node, error) {
	return tx.nodes(selectNodes + ` ORDER BY id`)
}

func (tx *Tx) nodes(query string, args ...any) ([]account.Node, error) {
	var list []account.Node
	err := tx.each("reading nodes", query, args, func(scan func(...any) error) error {
		var n account.Node
		var h, p, services string
		var by, active, created, rotated, seen int64
		if err := scan(&n.ID, &n.Name, &h, &p, &by, &n.Room, &active, &services, &created, &rotated, &seen); err != nil {
			return err
		}
		n.Household, n.Peer, n.RegisteredBy, n.Active = account.HouseholdID(h), peer.ID(p), account.UserID(by), active != 0
		n.Services = strings.Fields(services)
		n.Created, n.Rotated, n.Seen = fromNanos(created), fromNanos(rotated), fromNanos(seen)
		list = append(list, n)
		return nil
	})
	return list, err
}

// UpdateNode changes everything but ID, Household, Created and Peer.
func (tx *accountTx) UpdateNode(n account.Node) error {
	services, err := checkNode(n)
	if err != nil {
		return fmt.Errorf("changing node: %w", err)
	}
	return tx.must("changing node", `UPDATE nodes SET name = $1, registered_by = $2, room = $3, active = $4, services = $5, rotated = $6, seen = $7 WHERE id = $8`,
		n.Name, int64(n.RegisteredBy), n.Room, flag(n.Active), services, nanos(n.Rotated), nanos(n.Seen), n.ID)
}

// BindNode makes a machine the node's, in one statement: of two that come with
// the same key at once one becomes it.
func (tx *accountTx) BindNode(id string, p peer.ID) error {
	return tx.bind("binding node", func() error { _, err := tx.Node(id); return err },
		`UPDATE nodes SET peer = $1 WHERE id = $2 AND (peer = '' OR peer = $3)`, id, p)
}

func (tx *accountTx) bind(doing string, there func() error, query, id string, p peer.ID) error {
	if err := checkLabel("machine's id", string(p)); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if checkMachineID(id) != nil {
		return ErrNotFound
	}
	return tx.once(doing, there, query, string(p), id, string(p))
}

// DeleteNode removes a node and its keys.
func (tx *accountTx) DeleteNode(id string) error {
	if checkMachineID(id) != nil {
		return ErrNotFound
	}
	if err := tx.exec("removing keys", `DELETE FROM machine_keys WHERE owner = $1`, ownerNode+id); err != nil {
		return err
	}
	return tx.must("removing node", `DELETE FROM nodes WHERE id = $1`, id)
}

// checkApp returns services and households as they are kept.
func checkApp(a account.App) (services, households string, err error) {
	if err := checkMachineID(a.ID); err != nil {
		return "", "", err
	}
	if err := checkShort("app's name", a.Name); err != nil {
		return "", "", err
	}
	if err := checkShort("machine's id", string(a.Peer)); err != nil {
		return "", "", err
	}
	ids := make([]string, len(a.Households))
	for i, h := range a.Households {
		ids[i] = string(h)
	}
	if services, err = joinSet("services", a.Services); err != nil {
		return "", "", err
	}
	households, err = joinSet("households", ids)
	return services, households, err
}

// CreateApp adds an app; ErrExists if its id is taken. Created is now if it is
// zero.
func (tx *accountTx) CreateApp(a account.App) error {
	fail := func(err error) error { return fmt.Errorf("adding app: %w", err) }
	services, households, err := checkApp(a)
	if err != nil {
		return fail(err)
	}
	if a.Created.IsZero() {
		a.Created = tx.now
	}
	n, err := tx.change("writing app", `INSERT INTO apps (id, name, peer, active, services, households, admin, created, rotated)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO NOTHING`,
		a.ID, a.Name, string(a.Peer), flag(a.Active), services, households, flag(a.Admin), nanos(a.Created), nanos(a.Rotated))
	if err == nil && n == 0 {
		err = fail(ErrExists)
	}
	return err
}

const selectApps = `SELECT id, name, peer, active, services, households, admin, created, rotated FROM apps`

// App finds one by id.
func (tx *accountTx) App(id string) (account.App, error) {
	if checkMachineID(id) != nil {
		return account.App{}, ErrNotFound
	}
	return only(tx.apps(selectApps+` WHERE id = $1`, id))
}

// Apps lists them by id.
func (tx *accountTx) Apps() ([]account.App, error) { return tx.apps(selectApps + ` ORDER BY id`) }

func (tx *accountTx) apps(query string, args ...any) ([]account.App, error) {
	var list []account.App
	err := tx.each("reading apps", query, args, func(scan func(...any) error) error {
		var a account.App
		var p, services, households string
		var active, admin, created, rotated int64
		if err := scan(&a.ID, &a.Name, &p, &active, &services, &households, &admin, &created, &rotated); err != nil {
			return err
		}
		a.Peer, a.Active, a.Admin, a.Services = peer.ID(p), active != 0, admin != 0, strings.Fields(services)
		for _, h := range strings.Fields(households) {
			a.Households = append(a.Households, account.HouseholdID(h))
		}
		a.Created, a.Rotated = fromNanos(created), fromNanos(rotated)
		list = append(list, a)
		return nil
	})
	return list, err
}

// UpdateApp changes everything but ID, Created and Peer.
func (tx *accountTx) UpdateApp(a account.App) error {
	services, households, err := checkApp(a)
	if err != nil {
		return fmt.Errorf("changing app: %w", err)
	}
	return tx.must("changing app", `UPDATE apps SET name = $1, active = $2, services = $3, households = $4, admin = $5, rotated = $6 WHERE id = $7`,
		a.Name, flag(a.Active), services, households, flag(a.Admin), nanos(a.Rotated), a.ID)
}

// BindApp is BindNode for an app.
func (tx *accountTx) BindApp(id string, p peer.ID) error {
	return tx.bind("binding app", func() error { _, err := tx.App(id); return err },
		`UPDATE apps SET peer = $1 WHERE id = $2 AND (peer = '' OR peer = $3)`, id, p)
}

// DeleteApp removes an app and its keys.
func (tx *accountTx) DeleteApp(id string) error {
	if checkMachineID(id) != nil {
		return ErrNotFound
	}
	if err := tx.exec("removing keys", `DELETE FROM machine_keys WHERE owner = $1`, ownerApp+id); err != nil {
		return err
	}
	return tx.must("removing app", `DELETE FROM apps WHERE id = $1`, id)
}

// What begins the owner of a key.
const (
	ownerNode = "node:"
	ownerApp  = "app:"
)

// ownerThere is ErrNotFound if there is no such node or app.
func (tx *accountTx) ownerThere(owner string) error {
	var err error
	if id, ok := strings.CutPrefix(owner, ownerNode); ok {
		_, err = tx.Node(id)
	} else if id, ok := strings.CutPrefix(owner, ownerApp); ok {
		_, err = tx.App(id)
	} else {
		err = ErrNotFound
	}
	return err
}

// AddKey gives an owner a further key. Of those there were the one in use lives
// on until overlap, and no longer than it would have; any others end now, so
// that never more than two are valid.
func (tx *accountTx) AddKey(owner string, k account.Key, overlap time.Time) error {
	fail := func(err error) error { return fmt.Errorf("adding key: %w", err) }
	if err := checkHash("key's digest", k.Digest); err != nil {
		return fail(err)
	}
	if err := tx.ownerThere(owner); err != nil {
		return fail(err)
	}
	if k.Created.IsZero() {
		k.Created = tx.now
	}
	old, err := tx.Keys(owner)
	if err != nil {
		return fail(err)
	}
	if err := tx.exec("removing keys", `DELETE FROM machine_keys WHERE owner = $1`, owner); err != nil {
		return err
	}
	keys := []account.Key{k}
	if len(old) > 0 && overlap.After(tx.now) {
		last := old[0]
		if last.Expires.IsZero() || last.Expires.After(overlap) {
			last.Expires = overlap
		}
		keys = append(keys, last)
	}
	for _, k := range keys {
		if err := tx.exec("writing key", `INSERT INTO machine_keys (digest, owner, created, expires) VALUES ($1, $2, $3, $4)`,
			k.Digest, owner, nanos(k.Created), nanos(k.Expires)); err != nil {
			return err
		}
	}
	return nil
}

// Keys are an owner's that have not expired, the one that lives longest first.
func (tx *accountTx) Keys(owner string) ([]account.Key, error) {
	if !storable(owner, maxLabel) {
		return nil, nil
	}
	var list []account.Key
	err := tx.each("reading keys", `SELECT digest, created, expires FROM machine_keys WHERE owner = $1 AND (expires = 0 OR expires > $2)`,
		[]any{owner, nanos(tx.now)}, func(scan func(...any) error) error {
			var k account.Key
			var created, expires int64
			if err := scan(&k.Digest, &created, &expires); err != nil {
				return err
			}
			k.Created, k.Expires = fromNanos(created), fromNanos(expires)
			list = append(list, k)
			return nil
		})
	slices.SortFunc(list, func(a, b account.Key) int {
		if a.Expires.IsZero() != b.Expires.IsZero() {
			return 1 - 2*int(flag(a.Expires.IsZero()))
		}
		return b.Expires.Compare(a.Expires)
	})
	return list, err
}
