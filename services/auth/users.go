package auth

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"strings"
	"time"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
)

// TempLife is how long a password lasts that somebody else chose.
const TempLife = 24 * time.Hour

// MaxImport is how many accounts one import brings.
const MaxImport = 2_000

// NewUser is somebody to be added. Either Password or Hash is set: Hash is that
// of an imported account, as CheckHash accepts it.
type NewUser struct {
	Email     string
	Username  string // what the packet policy calls them, "" for nothing
	Password  string
	Hash      string
	Superuser bool
	// Temporary says that somebody else chose the password: it lasts TempLife,
	// and the person is asked to change it.
	Temporary bool
}

// prepared is a NewUser that was checked, with its hash.
type prepared struct {
	user account.User
	hash string
	temp bool
}

func (s *Service) prepare(ctx context.Context, n NewUser) (prepared, error) {
	email, err := checkEmail(n.Email)
	if err != nil {
		return prepared{}, err
	}
	if n.Username != "" {
		if err := peer.ValidUser(n.Username); err != nil {
			return prepared{}, fmt.Errorf("%w: %w", err, account.ErrInvalid)
		}
	}
	hash := n.Hash
	switch {
	case n.Hash != "" && n.Password != "":
		return prepared{}, fmt.Errorf("an account has a password or a hash of one, not both: %w", account.ErrInvalid)
	case n.Hash != "":
		err = CheckHash(n.Hash)
	default:
		hash, err = s.hashPassword(ctx, n.Password)
	}
	if err != nil {
		return prepared{}, err
	}
	return prepared{account.User{Email: email, Username: n.Username, Superuser: n.Superuser, MustChange: n.Temporary}, hash, n.Temporary}, nil
}

// checkEmail returns an address as it is stored.
func checkEmail(email string) (string, error) {
	email = foldEmail(email)
	a, err := mail.ParseAddress(email)
	if err != nil || a.Address != email || len(email) > 254 {
		return "", fmt.Errorf("an address looks like ann@example.org: %w", account.ErrInvalid)
	}
	return email, nil
}

func (p prepared) create(tx account.Tx) (account.User, error) {
	if p.temp {
		p.user.TempUntil = tx.Now().Add(TempLife)
	}
	p.user.Created = tx.Now()
	return tx.CreateUser(p.user, p.hash)
}

// CreateUser adds a person. ErrExists: the address or name is taken.
func (s *Service) CreateUser(ctx context.Context, actor string, n NewUser) (u account.User, err error) {
	p, err := s.prepare(ctx, n)
	if err != nil {
		return u, err
	}
	ev := account.Event{Actor: actor, Action: "user.create", Target: "user", Detail: make(map[string]string)}
	if n.Superuser {
		ev.Detail["superuser"] = "true"
	}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		u, err = p.create(tx)
		ev.Detail["id"] = u.ID.String()
		return err
	})
	return u, err
}

// SetPassword gives somebody a password that somebody else chose, and ends all
// of their sessions. temporary is as in NewUser.
func (s *Service) SetPassword(ctx context.Context, actor string, id account.UserID, password string, temporary bool) error {
	hash, err := s.hashPassword(ctx, password)
	if err != nil {
		return err
	}
	ev := account.Event{Actor: actor, Action: "user.password", Target: "user:" + id.String()}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		u, err := tx.User(id)
		if err != nil {
			return fmt.Errorf("finding a person: %w", err)
		}
		u.MustChange, u.TempUntil = temporary, time.Time{}
		if temporary {
			u.TempUntil = tx.Now().Add(TempLife)
		}
		if err := tx.UpdateUser(u); err != nil {
			return fmt.Errorf("changing a person: %w", err)
		}
		if err := tx.SetPassword(id, hash); err != nil {
			return err
		}
		// Who was locked out by somebody's guessing is let in again.
		if err := tx.Forgive(personLimit(tx, foldEmail(u.Email)).key); err != nil {
			return fmt.Errorf("forgiving failures: %w", err)
		}
		_, err = tx.RevokeSessions(id, "", "password")
		return err
	})
	if err != nil {
		return err
	}
	s.changed()
	return nil
}

// TempPassword gives somebody a password that lasts TempLife and returns it,
// this once.
func (s *Service) TempPassword(ctx context.Context, actor string, id account.UserID) (password string, until time.Time, err error) {
	password = newTempPassword()
	if err := s.SetPassword(ctx, actor, id, password, true); err != nil {
		return "", time.Time{}, err
	}
	return password, s.cfg.Now().Add(TempLife), nil
}

// Users lists everybody.
func (s *Service) Users(ctx context.Context) (all []account.User, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		all, err = tx.Users()
		return err
	})
	return all, err
}

// User finds a person by number, address or name.
func (s *Service) User(ctx context.Context, who string) (u account.User, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		if id, bad := account.ParseUserID(who); bad == nil {
			u, err = tx.User(id)
		} else if strings.Contains(who, "@") {
			u, err = tx.UserByEmail(foldEmail(who))
		} else {
			u, err = tx.UserByName(who)
		}
		return err
	})
	if err != nil {
		return account.User{}, fmt.Errorf("finding a person: %w", err)
	}
	return u, nil
}

// Sessions lists the live sessions of a person, newest first.
func (s *Service) Sessions(ctx context.Context, u account.UserID) (all []account.Session, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		all, err = tx.SessionsOf(u)
		return err
	})
	return all, err
}

// imported is one line of an import.
type imported struct {
	Email     string `json:"email"`
	Username  string `json:"username"`
	Hash      string `json:"password_hash"`
	Superuser bool   `json:"superuser"`
}

// ImportUsers adds accounts from elsewhere, one JSON object a line: email,
// username, password_hash, superuser. All are added or none; an error names the
// line, and never what is in it.
func (s *Service) ImportUsers(ctx context.Context, actor string, r io.Reader) (n int, err error) {
	people, err := s.readImport(ctx, r)
	if err != nil {
		return 0, err
	}
	ev := account.Event{Actor: actor, Action: "user.import", Target: "user", Detail: map[string]string{"count": fmt.Sprint(len(people))}}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		for i, p := range people {
			if _, err := p.create(tx); err != nil {
				return fmt.Errorf("importing account %d: %w", i+1, err)
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(people), nil
}

func (s *Service) readImport(ctx context.Context, r io.Reader) ([]prepared, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4096), 4096)
	var people []prepared
	for i := 1; lines.Scan(); i++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" {
			continue
		}
		if len(people) == MaxImport {
			return nil, fmt.Errorf("one import has at most %d accounts: %w", MaxImport, account.ErrInvalid)
		}
		var in imported
		dec := json.NewDecoder(strings.NewReader(text))
		dec.DisallowUnknownFields()
		// The decoder's own error would quote what it found.
		if err := dec.Decode(&in); err != nil || dec.More() {
			return nil, fmt.Errorf("line %d is not an object with email, username, password_hash and superuser: %w", i, account.ErrInvalid)
		}
		if in.Hash == "" {
			return nil, fmt.Errorf("line %d has no password_hash: %w", i, account.ErrInvalid)
		}
		p, err := s.prepare(ctx, NewUser{Email: in.Email, Username: in.Username, Hash: in.Hash, Superuser: in.Superuser})
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i, err)
		}
		people = append(people, p)
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			err = account.ErrInvalid
		}
		return nil, fmt.Errorf("reading accounts: %w", err)
	}
	return people, nil
}
