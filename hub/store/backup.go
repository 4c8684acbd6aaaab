package store

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/warrenmesh/warren/hub/audit"
	"github.com/warrenmesh/warren/peer/account"
)

// ownMeta are the rows of meta that every store makes for itself.
func ownMeta(key string) bool { return key == metaKeyCheck || key == metaAudit || key == metaEpoch }

// record is one line of a backup: the first has Schema, Created, Epoch and
// Audit, the last has End and Rows, every other one Table and Row.
type record struct {
	Schema  int64           `json:"schema,omitempty"`
	Created time.Time       `json:"created,omitzero"`
	Epoch   uint64          `json:"epoch,omitempty"`
	Audit   string          `json:"audit,omitempty"`
	Table   string          `json:"table,omitempty"`
	Row     json.RawMessage `json:"row,omitempty"`
	End     bool            `json:"end,omitempty"`
	Rows    int             `json:"rows,omitempty"`
}

// Backup writes the whole store, as it is at one moment, to w as one encrypted
// file that Restore reads on either engine. Writers go on meanwhile. With a
// passphrase the file can be restored on another machine by whoever knows it;
// with nil it needs this store's master key. Left out is what a restore must
// not bring to life again: invites and invitations, sign-ins, and people's keys,
// without which what is personal in the file cannot be read (BackupPeople).
func (s *Store) Backup(ctx context.Context, w io.Writer, passphrase []byte) error {
	stream, err := newSealWriter(w, lock{passphrase, s.backupKey})
	if err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	lines := json.NewEncoder(stream)
	err = s.viewSlowly(ctx, func(tx *Tx) error { return tx.dump(lines) })
	if err == nil {
		err = stream.Close()
	}
	if err != nil {
		return fmt.Errorf("writing backup: %w", err)
	}
	return nil
}

func (tx *Tx) dump(lines *json.Encoder) error {
	schema, err := tx.count("reading schema version", `SELECT MAX(version) FROM migrations`)
	if err != nil {
		return err
	}
	epoch, err := tx.Epoch()
	if err != nil {
		return err
	}
	head, err := tx.AuditHead()
	if err != nil {
		return err
	}
	if err := lines.Encode(record{Schema: schema, Created: tx.now, Epoch: epoch, Audit: head.String()}); err != nil {
		return err
	}
	rows := 0
	for _, t := range tables() {
		if err := tx.each("reading "+t.name, t.read, nil, func(scan func(...any) error) error {
			values, err := tx.dumpRow(t, scan)
			if err != nil || values == nil {
				return err
			}
			text, err := json.Marshal(values)
			if err != nil {
				return err
			}
			rows++
			return lines.Encode(record{Table: t.name, Row: text})
		}); err != nil {
			return err
		}
	}
	return lines.Encode(record{End: true, Rows: rows})
}

// dumpRow reads one row into values by column name, nil for a row that stays.
func (tx *Tx) dumpRow(t table, scan func(...any) error) (map[string]any, error) {
	dest := make([]any, len(t.columns))
	var kept []any
	for i, c := range t.columns {
		switch c.kind {
		case number:
			dest[i] = new(int64)
		case words:
			dest[i] = new(string)
		default:
			dest[i] = new([]byte)
		}
		if c.kind != reckoned {
			kept = append(kept, dest[i])
		}
	}
	if err := scan(kept...); err != nil {
		return nil, err
	}
	values := make(map[string]any, len(t.columns))
	for i, c := range t.columns {
		if c.kind == reckoned {
			continue
		}
		if c.kind == sealed {
			plain, err := tx.s.seal.open(t.name, c.name, t.row(dest), *dest[i].(*[]byte))
			if err != nil {
				return nil, err
			}
			values[c.name] = plain
			continue
		}
		values[c.name] = dest[i]
	}
	if t.name == "meta" && ownMeta(*dest[0].(*string)) {
		return nil, nil
	}
	if t.name == "addresses" {
		// An address that an invite holds rests in the new store.
		if holder := dest[1].(*string); strings.HasPrefix(*holder, holdInvite) {
			*holder, *dest[2].(*int64) = "", nanos(tx.now)
		}
	}
	return values, nil
}

// Restored says what a restore brought back.
type Restored struct {
	// Created is when the backup was made.
	Created time.Time
	// Epoch is the new store's: one more than the backup's. What was issued
	// before is void.
	Epoch uint64
	// Peers are the names of the machines that are on the mesh again. One
	// that was removed after the backup was made is among them: look.
	Peers []string
	// Audit is the number of audit entries, all verified, without the one
	// that records the restore.
	Audit uint64
	// People is how many persons are back. Lost are the numbers of those who
	// were left out: erased since, or without a key in the people file.
	People int
	Lost   []account.UserID
}

// From is what a store is restored from.
type From struct {
	Backup io.Reader
	// People is what BackupPeople wrote, nil for none: then nobody comes
	// back, nor anything that is sealed under somebody's key.
	People io.Reader
	// Passphrase opens both; nil for the master key.
	Passphrase []byte
	// Erased are people who are known to have been erased after the backup
	// was made: they do not come back, whatever the two files hold.
	Erased []account.UserID
}

// Restore is RestoreFrom a backup without its people file.
func Restore(ctx context.Context, cfg Config, r io.Reader, passphrase []byte) (Restored, error) {
	return RestoreFrom(ctx, cfg, From{Backup: r, Passphrase: passphrase})
}

// RestoreFrom makes a new store from a backup, under cfg.Key, which need not be
// the key of the old one if the backup has a passphrase. It never overwrites
// (ErrExists). A backup that is truncated, altered or not ours leaves nothing
// behind (ErrBackup, ErrBackupKey); one from a newer version is ErrNewer. The
// store is left closed.
func RestoreFrom(ctx context.Context, cfg Config, from From) (Restored, error) {
	done, err := restore(ctx, cfg, from)
	if err != nil {
		return Restored{}, fmt.Errorf("restoring backup: %w", err)
	}
	return done, nil
}

func restore(ctx context.Context, cfg Config, from From) (done Restored, err error) {
	key, err := cfg.Key.subkey("backup")
	if err != nil {
		return done, err
	}
	stream, err := newSealReader(from.Backup, lock{from.Passphrase, key})
	if err != nil {
		return done, err
	}
	people, err := readPeople(from.People, lock{from.Passphrase, key})
	if err != nil {
		return done, err
	}
	load := func(tx *Tx) error {
		done, err = tx.load(stream, func(done *Restored) error {
			done.People, done.Lost, err = tx.loadPeople(people, from.Erased)
			return err
		})
		return err
	}
	if cfg.DSN == "" {
		return done, createSQLite(ctx, cfg, load)
	}
	s, err := connectPostgres(ctx, cfg)
	if err != nil {
		return done, err
	}
	err = errors.Join(s.build(ctx, cfg, load), s.Close())
	return done, err
}

// load fills a new store from a backup's lines, then calls people.
func (tx *Tx) load(stream io.Reader, people func(*Restored) error) (Restored, error) {
	in := json.NewDecoder(bufio.NewReader(stream))
	var first record
	if err := in.Decode(&first); err != nil {
		return Restored{}, unreadable(err)
	}
	known, err := tx.count("reading schema version", `SELECT MAX(version) FROM migrations`)
	if err != nil {
		return Restored{}, err
	}
	if first.Schema < 1 || first.Schema > known {
		return Restored{}, fmt.Errorf("a backup of schema %d: %w", first.Schema, ErrNewer)
	}
	head, err := audit.ParseCheckpoint(first.Audit)
	if err != nil {
		return Restored{}, unreadable(err)
	}
	var chain audit.Verifier
	if err := tx.loadRows(in, &chain); err != nil {
		return Restored{}, err
	}
	if chain.Head() != head {
		return Restored{}, fmt.Errorf("%w: its audit log does not end where it says", ErrBackup)
	}
	done := Restored{Created: first.Created, Epoch: first.Epoch + 1, Audit: head.Count}
	if err := errors.Join(tx.setEpoch(done.Epoch), tx.setAuditHead(head)); err != nil {
		return Restored{}, err
	}
	if err := people(&done); err != nil {
		return Restored{}, err
	}
	peers, err := tx.Peers()
	if err != nil {
		return Restored{}, err
	}
	for _, p := range peers {
		done.Peers = append(done.Peers, p.Name)
	}
	return done, tx.Record(audit.Event{Actor: "hub", Action: "store.restore", Detail: map[string]string{
		"made": first.Created.Format(time.RFC3339), "epoch": fmt.Sprint(done.Epoch), "peers": fmt.Sprint(len(peers)),
		"people": fmt.Sprint(done.People), "left out": fmt.Sprint(len(done.Lost)),
	}})
}

// unreadable is for what decrypts and yet is not what Backup writes. An error
// of the stream says more than the JSON decoder's.
func unreadable(err error) error {
	if errors.Is(err, ErrBackup) {
		return err
	}
	return fmt.Errorf("%w: its content is not in the form of a backup", ErrBackup)
}

func (tx *Tx) loadRows(in *json.Decoder, chain *audit.Verifier) error {
	byName := make(map[string]table)
	for _, t := range tables() {
		byName[t.name] = t
	}
	for rows := 0; ; rows++ {
		var r record
		if err := in.Decode(&r); err != nil {
			return unreadable(err)
		}
		if r.End {
			if r.Rows != rows {
				return fmt.Errorf("%w: it has %d rows and says %d", ErrBackup, rows, r.Rows)
			}
			// The rest must be the end, authenticated as such.
			if err := in.Decode(&r); !errors.Is(err, io.EOF) {
				return unreadable(err)
			}
			return nil
		}
		t, ok := byName[r.Table]
		if !ok {
			return unreadable(nil)
		}
		args, err := tx.loadRow(t, r.Row)
		if err != nil {
			return err
		}
		if t.name == "meta" && ownMeta(args[0].(string)) {
			return unreadable(nil)
		}
		if t.name == "audit" {
			if err := follow(chain, args); err != nil {
				return err
			}
		}
		if err := tx.exec("writing "+t.name, t.write, args...); err != nil {
			return err
		}
	}
}

// loadRow turns a line's values into arguments; one that an older version did
// not write yet is zero.
func (tx *Tx) loadRow(t table, text json.RawMessage) ([]any, error) {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(text, &values); err != nil {
		return nil, unreadable(err)
	}
	args := make([]any, len(t.columns))
	for i, c := range t.columns {
		if c.kind == reckoned {
			args[i] = []byte(c.name + "/" + t.row(args)) // anything that no other row has
			continue
		}
		raw, ok := values[c.name]
		if !ok {
			raw = json.RawMessage("null")
		}
		delete(values, c.name)
		var err error
		switch c.kind {
		case number:
			var n int64
			err = json.Unmarshal(raw, &n)
			args[i] = n
		case words:
			var s string
			err = json.Unmarshal(raw, &s)
			args[i] = s
		case octets, sealed:
			var b []byte
			if err = json.Unmarshal(raw, &b); err == nil && c.kind == sealed {
				b, err = tx.s.seal.seal(t.name, c.name, t.row(args), b)
			}
			// nil would be NULL; SQLite's driver reads an empty value as nil.
			args[i] = append([]byte{}, b...)
		}
		if err != nil {
			return nil, unreadable(err)
		}
	}
	if len(values) > 0 {
		return nil, unreadable(nil)
	}
	return args, nil
}

// follow checks that an audit row is the next of its chain.
func follow(chain *audit.Verifier, args []any) error {
	e, err := scanEntry(func(dest ...any) error {
		for i, d := range dest {
			switch d := d.(type) {
			case *int64:
				*d = args[i].(int64)
			case *string:
				*d = args[i].(string)
			case *[]byte:
				*d = args[i].([]byte)
			}
		}
		return nil
	})
	if err == nil {
		err = chain.Add(e)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBackup, err)
	}
	return nil
}
