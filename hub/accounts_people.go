package hub

import (
	"bytes"
	"context"
	"net/http"
	"slices"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services/auth"
)

func (s *Server) personRoutes(mux *http.ServeMux) {
	handle(mux, s, "user/add", s.addPerson)
	handle(mux, s, "user/list", func(ctx context.Context, _ string, _ struct{}) ([]control.UserInfo, error) { return s.persons(ctx) })
	handle(mux, s, "user/passwd", s.setPassword)
	handle(mux, s, "user/rm", s.erase)
	handle(mux, s, "user/sessions", func(ctx context.Context, _ string, req control.UserRequest) ([]control.SessionInfo, error) {
		return s.sessions(ctx, req.User)
	})
	handle(mux, s, "user/logout", s.signOut)
	handle(mux, s, "user/import", s.importPersons)
	mux.HandleFunc("POST /v1/user/export", s.export)
}

func (s *Server) addPerson(ctx context.Context, actor string, spec control.UserSpec) (control.UserInfo, error) {
	u, err := s.accounts.auth.CreateUser(ctx, actor, auth.NewUser{Email: spec.Email, Username: spec.Username,
		Password: spec.Password, Superuser: spec.Superuser})
	return userInfo(u), told(err, "")
}

func userInfo(u account.User) control.UserInfo {
	return control.UserInfo{ID: u.ID, Email: u.Email, Username: u.Username, Superuser: u.Superuser,
		Disabled: u.Disabled, MustChange: u.MustChange, Created: u.Created}
}

func (s *Server) persons(ctx context.Context) ([]control.UserInfo, error) {
	out := []control.UserInfo{}
	err := s.store.Accounts().View(ctx, func(tx account.Tx) error {
		users, err := tx.Users()
		if err != nil {
			return err
		}
		for _, u := range users {
			info := userInfo(u)
			seats, err := tx.Memberships(u.ID)
			if err != nil {
				return err
			}
			for _, m := range seats {
				h, err := tx.Household(m.Household)
				if err != nil {
					return err
				}
				info.Households = append(info.Households, control.HouseholdRole{Household: h.ID, Name: h.Name, Role: m.Role})
			}
			sessions, err := tx.SessionsOf(u.ID)
			if err != nil {
				return err
			}
			info.Sessions = len(sessions)
			out = append(out, info)
		}
		return nil
	})
	return out, err
}

func (s *Server) setPassword(ctx context.Context, actor string, req control.UserRequest) (struct{}, error) {
	u, err := s.person(ctx, req.User)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, told(s.accounts.auth.SetPassword(ctx, actor, u.ID, req.Password, req.Temporary), "")
}

func (s *Server) sessions(ctx context.Context, who string) ([]control.SessionInfo, error) {
	out := []control.SessionInfo{}
	err := s.store.Accounts().View(ctx, func(tx account.Tx) error {
		users, err := tx.Users()
		if err != nil {
			return err
		}
		if who != "" {
			u, err := findPerson(tx, who)
			if err != nil {
				return err
			}
			users = []account.User{u}
		}
		for _, u := range users {
			list, err := tx.SessionsOf(u.ID)
			if err != nil {
				return err
			}
			for _, x := range list {
				out = append(out, control.SessionInfo{ID: x.ID, User: u.ID, Email: u.Email, Peer: s.machine(x.Peer), Client: x.Client,
					Methods: x.Methods, Created: x.Created, Expires: x.Expires})
			}
		}
		return nil
	})
	if who != "" {
		err = told(err, "see who there is: hub user list")
	}
	return out, err
}

// signOut ends one session of a person, or all, and says how many.
func (s *Server) signOut(ctx context.Context, actor string, req control.UserRequest) (int, error) {
	u, err := s.person(ctx, req.User)
	if err != nil {
		return 0, err
	}
	n := 0
	ev := account.Event{Actor: actor, Action: "session.revoke", Target: "user:" + u.ID.String()}
	err = s.store.Accounts().Do(ctx, ev, func(tx account.Tx) (err error) {
		if req.Session == "" {
			n, err = tx.RevokeSessions(u.ID, "", "admin")
			return err
		}
		live, err := tx.SessionsOf(u.ID)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(live, func(x account.Session) bool { return x.ID == req.Session }) {
			return refused("see which there are: hub user sessions "+req.User, "%.80q is no session of theirs that lives", req.Session)
		}
		n = 1
		return tx.RevokeSession(req.Session, "admin")
	})
	if err != nil {
		return 0, err
	}
	s.accounts.live.Judge()
	return n, nil
}

func (s *Server) importPersons(ctx context.Context, actor string, req control.ImportRequest) (control.ImportReply, error) {
	n, err := s.accounts.auth.ImportUsers(ctx, actor, bytes.NewReader(req.Document))
	return control.ImportReply{Added: n}, told(err, "nobody was added; put it right and import again")
}

// erase removes a person for good, and says which backups it could not take
// them, or somebody erased before, out of.
func (s *Server) erase(ctx context.Context, actor string, req control.UserRequest) (stray []string, err error) {
	u, err := s.person(ctx, req.User)
	if err != nil {
		return nil, err
	}
	_, err = s.accounts.auth.Erase(ctx, actor, u.ID)
	if known := s.stray.Load(); known != nil {
		stray = *known
	}
	return stray, told(err, "add another superuser first: hub user add EMAIL --superuser")
}

// export streams everything that is known about a person.
func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	var req control.UserRequest
	who, ok := decode(w, r, &req)
	if !ok {
		return
	}
	u, err := s.person(r.Context(), req.User)
	if err != nil {
		s.fail(w, "user/export", err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := s.accounts.auth.Export(r.Context(), who, u.ID, w); err != nil {
		s.log.Error("exporting a person's data", "user", u.ID, "err", err)
		// The document is cut short: the asker must see the connection break.
		panic(http.ErrAbortHandler)
	}
}
