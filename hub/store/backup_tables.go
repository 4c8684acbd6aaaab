package store

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// kind is how a column's value is written in a backup.
type kind uint8

const (
	number   kind = iota // int64
	words                // string
	octets               // []byte, never NULL
	sealed               // []byte, opened for the backup and sealed again for the new store
	reckoned             // []byte, not in the backup: loadPeople makes it anew
)

type column struct {
	name string
	kind kind
}

// table is how one table is written to a backup and read from it.
type table struct {
	name, read, write string
	columns           []column
	key               int // how many columns, from the first, name the row; 0 is 1
}

// row is the place of a row's sealed values.
func (t table) row(values []any) string {
	var parts []string
	for _, v := range values[:max(t.key, 1)] {
		switch v := v.(type) {
		case *string:
			parts = append(parts, *v)
		case *int64:
			parts = append(parts, strconv.FormatInt(*v, 10))
		case *[]byte:
			parts = append(parts, hex.EncodeToString(*v))
		default:
			parts = append(parts, fmt.Sprint(v))
		}
	}
	return strings.Join(parts, "/")
}

// tables is in an order in which no row refers to one that comes later. What is
// sealed under a person's key is copied as it is: an octets column. Not in a
// backup are people's keys, which have a file of their own; invites, invitations
// and enrolments, of which used ones would be good again; sessions, refresh
// tokens, requests to authorize and signing keys, so that no token from before
// means anything; counts of failures and the machines that people signed in
// from. The keys of nodes and apps are in it, or every household would have to
// be set up again: one that was replaced since is good again, as a machine that
// was removed since is back. Whoever restores an old backup looks at both.
func tables() []table {
	return slices.Concat(meshTables(), accountTables(), tenantTables())
}

// columns reads a list of columns, each with a letter for its kind: n for
// number, w for words, o for octets, s for sealed, r for reckoned.
func columns(list string) []column {
	kinds := map[string]kind{"n": number, "w": words, "o": octets, "s": sealed, "r": reckoned}
	var out []column
	for _, c := range strings.Fields(list) {
		name, letter, _ := strings.Cut(c, ":")
		out = append(out, column{name, kinds[letter]})
	}
	return out
}

func meshTables() []table {
	return []table{
		{"meta", `SELECT key, value FROM meta ORDER BY key`,
			`INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value`,
			[]column{{"key", words}, {"value", octets}}, 0},
		{"secrets", `SELECT name, value FROM secrets ORDER BY name`,
			`INSERT INTO secrets (name, value) VALUES ($1, $2)`,
			[]column{{"name", words}, {"value", sealed}}, 0},
		{"addresses", `SELECT idx, holder, freed FROM addresses ORDER BY idx`,
			`INSERT INTO addresses (idx, holder, freed) VALUES ($1, $2, $3)`,
			[]column{{"idx", number}, {"holder", words}, {"freed", number}}, 0},
		{"peers", `SELECT id, name, public_key, idx, kind, owner, tags, household, quarantined, created, psk, endpoint, last_handshake FROM peers ORDER BY idx`,
			`INSERT INTO peers (id, name, public_key, idx, kind, owner, tags, household, quarantined, created, psk, endpoint, last_handshake)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
			[]column{{"id", words}, {"name", words}, {"public_key", octets}, {"idx", number}, {"kind", words}, {"owner", words}, {"tags", words},
				{"household", words}, {"quarantined", number}, {"created", number}, {"psk", sealed}, {"endpoint", words}, {"last_handshake", number}}, 0},
		{"policies", `SELECT generation, text, author, at, confirm_by FROM policies ORDER BY generation`,
			`INSERT INTO policies (generation, text, author, at, confirm_by) VALUES ($1, $2, $3, $4, $5)`,
			[]column{{"generation", number}, {"text", octets}, {"author", words}, {"at", number}, {"confirm_by", number}}, 0},
		{"services", `SELECT name, target, ports, host, idx, created FROM services ORDER BY idx`,
			`INSERT INTO services (name, target, ports, host, idx, created) VALUES ($1, $2, $3, $4, $5, $6)`,
			[]column{{"name", words}, {"target", words}, {"ports", words}, {"host", words}, {"idx", number}, {"created", number}}, 0},
		{"flows", `SELECT src, dst, proto, port, allowed, reason, count, first_seen, last_seen FROM flows ORDER BY last_seen`,
			`INSERT INTO flows (src, dst, proto, port, allowed, reason, count, first_seen, last_seen) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			[]column{{"src", words}, {"dst", words}, {"proto", number}, {"port", number}, {"allowed", number}, {"reason", words},
				{"count", number}, {"first_seen", number}, {"last_seen", number}}, 0},
		{"audit", `SELECT idx, at, event, prev, hash FROM audit ORDER BY idx`,
			`INSERT INTO audit (idx, at, event, prev, hash) VALUES ($1, $2, $3, $4, $5)`,
			[]column{{"idx", number}, {"at", number}, {"event", words}, {"prev", octets}, {"hash", octets}}, 0},
	}
}

func accountTables() []table {
	return []table{
		{"users", `SELECT id, email, name, superuser, change, temp_until, disabled, created, password, totp, confirmed, last_step FROM users ORDER BY id`,
			`INSERT INTO users (id, email, email_idx, name, name_idx, superuser, change, temp_until, disabled, created, password, totp, confirmed, last_step) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
			columns(`id:n email:o email_idx:r name:o name_idx:r superuser:n change:n temp_until:n disabled:n created:n password:o totp:o confirmed:n last_step:n`), 0},
		{"recovery_codes", `SELECT code_idx, user_id FROM recovery_codes ORDER BY code_idx`,
			`INSERT INTO recovery_codes (code_idx, user_id) VALUES ($1, $2)`,
			columns(`code_idx:o user_id:n`), 0},
		{"passkeys", `SELECT id, user_id, name, record, created, last_used FROM passkeys ORDER BY id`,
			`INSERT INTO passkeys (id, user_id, name, record, created, last_used) VALUES ($1, $2, $3, $4, $5, $6)`,
			columns(`id:o user_id:n name:o record:o created:n last_used:n`), 0},
		{"households", `SELECT id, name, label, created FROM households ORDER BY id`,
			`INSERT INTO households (id, name, label, created) VALUES ($1, $2, $3, $4)`,
			columns(`id:w name:w label:w created:n`), 0},
		{"memberships", `SELECT household, user_id, role, joined FROM memberships ORDER BY household, user_id`,
			`INSERT INTO memberships (household, user_id, role, joined) VALUES ($1, $2, $3, $4)`,
			columns(`household:w user_id:n role:n joined:n`), 0},
		{"nodes", `SELECT id, name, household, peer, registered_by, room, active, services, created, rotated, seen FROM nodes ORDER BY id`,
			`INSERT INTO nodes (id, name, household, peer, registered_by, room, active, services, created, rotated, seen) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
			columns(`id:w name:w household:w peer:w registered_by:n room:w active:n services:w created:n rotated:n seen:n`), 0},
		{"apps", `SELECT id, name, peer, active, services, households, admin, created, rotated FROM apps ORDER BY id`,
			`INSERT INTO apps (id, name, peer, active, services, households, admin, created, rotated) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			columns(`id:w name:w peer:w active:n services:w households:w admin:n created:n rotated:n`), 0},
		{"machine_keys", `SELECT digest, owner, created, expires FROM machine_keys ORDER BY owner, digest`,
			`INSERT INTO machine_keys (digest, owner, created, expires) VALUES ($1, $2, $3, $4)`,
			columns(`digest:o owner:w created:n expires:n`), 0},
		{"oauth_clients", `SELECT id, name, redirects, secret, device, first_party, created FROM oauth_clients ORDER BY id`,
			`INSERT INTO oauth_clients (id, name, redirects, secret, device, first_party, created) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			columns(`id:w name:w redirects:w secret:o device:n first_party:n created:n`), 0},
	}
}

func tenantTables() []table {
	return []table{
		{"erased", `SELECT user_id, at, done FROM erased ORDER BY user_id`,
			`INSERT INTO erased (user_id, at, done) VALUES ($1, $2, $3)`,
			columns(`user_id:n at:n done:n`), 0},
		{"access_log", `SELECT user_id, id, at, body FROM access_log ORDER BY user_id, id`,
			`INSERT INTO access_log (user_id, id, at, body) VALUES ($1, $2, $3, $4)`,
			columns(`user_id:n id:w at:n body:o`), 0},
		{"records", `SELECT household, kind, id, user_id, at, body FROM records ORDER BY household, kind, id`,
			`INSERT INTO records (household, kind, id, user_id, at, body) VALUES ($1, $2, $3, $4, $5, $6)`,
			columns(`household:w kind:w id:w user_id:n at:n body:o`), 0},
		{"blobs", `SELECT household, kind, id, node, by_user, state, payload, created, expires FROM blobs ORDER BY household, kind, id`,
			`INSERT INTO blobs (household, kind, id, node, by_user, state, payload, created, expires) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			columns(`household:w kind:w id:w node:w by_user:n state:w payload:o created:n expires:n`), 0},
		{"versions", `SELECT household, node, config_type, version FROM versions ORDER BY household, node, config_type`,
			`INSERT INTO versions (household, node, config_type, version) VALUES ($1, $2, $3, $4)`,
			columns(`household:w node:w config_type:w version:n`), 0},
		{"hooks", `SELECT household, name, secret, created FROM hooks ORDER BY household, name`,
			`INSERT INTO hooks (household, name, secret, created) VALUES ($1, $2, $3, $4)`,
			columns(`household:w name:w secret:s created:n`), 2},
		{"accepted", `SELECT household, hook, id, expires FROM accepted ORDER BY household, hook, id`,
			`INSERT INTO accepted (household, hook, id, expires) VALUES ($1, $2, $3, $4)`,
			columns(`household:w hook:w id:o expires:n`), 0},
		{"deliveries", `SELECT household, hook, seq, at, body FROM deliveries ORDER BY household, hook, seq`,
			`INSERT INTO deliveries (household, hook, seq, at, body) VALUES ($1, $2, $3, $4, $5)`,
			columns(`household:w hook:w seq:n at:n body:s`), 3},
	}
}
