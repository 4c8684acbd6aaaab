package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/warrenmesh/warren/peer/account"
)

// exportPage is how many records are read at once.
const exportPage = 200

// The parts of an export. Others are in none of them, not as a number either:
// who else lives in a household or made an invite is their data.

type exportUser struct {
	ID        account.UserID `json:"id"`
	Email     string         `json:"email"`
	Username  string         `json:"username,omitempty"`
	Superuser bool           `json:"superuser"`
	Created   time.Time      `json:"created"`
}

type exportHousehold struct {
	ID     account.HouseholdID `json:"id"`
	Name   string              `json:"name"`
	Role   account.Role        `json:"role"`
	Joined time.Time           `json:"joined"`
}

type exportSession struct {
	Machine string    `json:"machine"`
	Client  string    `json:"client,omitempty"`
	Scope   string    `json:"scope,omitempty"`
	Methods []string  `json:"methods"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

type exportPasskey struct {
	Name     string    `json:"name"`
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used,omitzero"`
}

type exportNode struct {
	ID        string              `json:"id"`
	Name      string              `json:"name"`
	Household account.HouseholdID `json:"household_id"`
	Room      string              `json:"room,omitempty"`
	Created   time.Time           `json:"created"`
}

type exportHead struct {
	Exported     time.Time         `json:"exported"`
	User         exportUser        `json:"user"`
	Households   []exportHousehold `json:"households"`
	Sessions     []exportSession   `json:"sessions"`
	Passkeys     []exportPasskey   `json:"passkeys"`
	SecondFactor bool              `json:"second_factor"`
	Nodes        []exportNode      `json:"nodes_registered"`
}

type exportRecord struct {
	Kind account.Kind `json:"kind"`
	ID   string       `json:"id"`
	At   time.Time    `json:"at"`
	// Data is the record if it is JSON, Text if it is text, Bytes otherwise.
	Data  json.RawMessage `json:"data,omitempty"`
	Text  string          `json:"text,omitempty"`
	Bytes []byte          `json:"bytes,omitempty"`
}

// Export writes all that is stored about a person as one JSON document: who
// they are, where they live, how they sign in, and their records in all
// households. Secrets are not part of it, and nothing about others. It reads in
// pages: what is added meanwhile may be missing.
func (s *Service) Export(ctx context.Context, actor string, u account.UserID, w io.Writer) error {
	var head exportHead
	ev := account.Event{Actor: actor, Action: "user.export", Target: "user:" + u.String()}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) (err error) {
		head, err = exportHeadOf(tx, u)
		return err
	})
	if err != nil {
		return fmt.Errorf("exporting a person's data: %w", err)
	}
	text, err := json.Marshal(head)
	if err != nil {
		return fmt.Errorf("exporting a person's data: %w", err)
	}
	// The records follow inside the same object.
	if _, err := fmt.Fprintf(w, "%s,\n\"records\":[", text[:len(text)-1]); err != nil {
		return fmt.Errorf("writing an export: %w", err)
	}
	if err := s.exportRecords(ctx, u, w); err != nil {
		return err
	}
	if _, err := io.WriteString(w, "]}\n"); err != nil {
		return fmt.Errorf("writing an export: %w", err)
	}
	return nil
}

func (s *Service) exportRecords(ctx context.Context, u account.UserID, w io.Writer) error {
	after, first := "", true
	for {
		var page []account.Record
		err := s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
			page, err = tx.AllRecords(u, after, exportPage)
			return err
		})
		if err != nil {
			return fmt.Errorf("reading records for an export: %w", err)
		}
		if len(page) == 0 {
			return nil
		}
		for _, r := range page {
			text, err := json.Marshal(exported(r))
			if err != nil {
				return fmt.Errorf("encoding a record: %w", err)
			}
			sep := ",\n"
			if first {
				sep, first = "\n", false
			}
			if _, err := io.WriteString(w, sep+string(text)); err != nil {
				return fmt.Errorf("writing an export: %w", err)
			}
		}
		after = page[len(page)-1].ID
	}
}

func exported(r account.Record) exportRecord {
	out := exportRecord{Kind: r.Kind, ID: r.ID, At: r.At}
	switch {
	case json.Valid(r.Body):
		out.Data = r.Body
	case utf8.Valid(r.Body):
		out.Text = string(r.Body)
	default:
		out.Bytes = r.Body
	}
	return out
}

func exportHeadOf(tx account.Tx, id account.UserID) (exportHead, error) {
	h := exportHead{Exported: tx.Now(), Households: []exportHousehold{}, Sessions: []exportSession{}, Passkeys: []exportPasskey{}, Nodes: []exportNode{}}
	u, err := tx.User(id)
	if err != nil {
		return h, err
	}
	h.User = exportUser{u.ID, u.Email, u.Username, u.Superuser, u.Created}
	secrets, err1 := tx.Secrets(id)
	sessions, err2 := tx.SessionsOf(id)
	keys, err3 := tx.Passkeys(id)
	if err := errors.Join(err1, err2, err3, exportHouseholds(tx, id, &h)); err != nil {
		return h, err
	}
	h.SecondFactor = secrets.Confirmed
	for _, v := range sessions {
		h.Sessions = append(h.Sessions, exportSession{string(v.Peer), v.Client, v.Scope, v.Methods, v.Created, v.Expires})
	}
	for _, k := range keys {
		h.Passkeys = append(h.Passkeys, exportPasskey{k.Name, k.Created, k.LastUsed})
	}
	return h, nil
}

func exportHouseholds(tx account.Tx, id account.UserID, h *exportHead) error {
	mine, err := tx.Memberships(id)
	if err != nil {
		return err
	}
	for _, m := range mine {
		house, err := tx.Household(m.Household)
		if err != nil {
			return err
		}
		h.Households = append(h.Households, exportHousehold{m.Household, house.Name, m.Role, m.Joined})
		nodes, err := tx.NodesOf(m.Household)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if n.RegisteredBy == id {
				h.Nodes = append(h.Nodes, exportNode{n.ID, n.Name, n.Household, n.Room, n.Created})
			}
		}
	}
	return nil
}
