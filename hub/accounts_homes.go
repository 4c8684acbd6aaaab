package hub

import (
	"context"
	"net/http"

	"github.com/warrenmesh/warren/hub/control"
	"github.com/warrenmesh/warren/peer/account"
)

func (s *Server) householdRoutes(mux *http.ServeMux) {
	handle(mux, s, "household/add", s.addHousehold)
	handle(mux, s, "household/list", func(ctx context.Context, _ string, _ struct{}) ([]control.HouseholdInfo, error) {
		return s.households(ctx)
	})
	handle(mux, s, "household/label", s.labelHousehold)
	handle(mux, s, "household/member", s.seat)
	handle(mux, s, "household/rm", s.removeHousehold)
}

func (s *Server) addHousehold(ctx context.Context, actor string, spec control.HouseholdSpec) (control.HouseholdInfo, error) {
	homes, err := s.accounts.auth.Households(ctx)
	if err != nil {
		return control.HouseholdInfo{}, err
	}
	for _, h := range homes {
		if h.Name == spec.Name {
			return control.HouseholdInfo{}, refused("choose another name", "there is a household %.80q already", spec.Name)
		}
	}
	if err := s.declared(spec.Label); err != nil {
		return control.HouseholdInfo{}, err
	}
	h, err := s.accounts.auth.CreateHousehold(ctx, actor, spec.Name, spec.Label, 0)
	if err != nil {
		return control.HouseholdInfo{}, told(err, "")
	}
	return control.HouseholdInfo{ID: h.ID, Name: h.Name, Label: h.Label, Created: h.Created}, nil
}

// declared refuses a label that the live policy does not know: nobody's machine
// would be in it, and whoever declares the word later would be let in.
func (s *Server) declared(label string) error {
	if label == "" {
		return nil
	}
	return s.checkDeclared(&control.PeerSpec{Household: label})
}

func (s *Server) households(ctx context.Context) ([]control.HouseholdInfo, error) {
	out := []control.HouseholdInfo{}
	err := s.store.Accounts().View(ctx, func(tx account.Tx) error {
		homes, err := tx.AllHouseholds()
		if err != nil {
			return err
		}
		for _, h := range homes {
			info := control.HouseholdInfo{ID: h.ID, Name: h.Name, Label: h.Label, Created: h.Created, Members: []control.HouseholdMember{}}
			members, err := tx.Members(h.ID)
			if err != nil {
				return err
			}
			for _, m := range members {
				u, err := tx.User(m.User)
				if err != nil {
					return err
				}
				info.Members = append(info.Members, control.HouseholdMember{User: u.ID, Email: u.Email, Role: m.Role})
			}
			nodes, err := tx.NodesOf(h.ID)
			if err != nil {
				return err
			}
			info.Nodes = len(nodes)
			out = append(out, info)
		}
		return nil
	})
	return out, err
}

func (s *Server) labelHousehold(ctx context.Context, actor string, spec control.HouseholdSpec) (struct{}, error) {
	h, err := s.home(ctx, spec.Household)
	if err != nil {
		return struct{}{}, err
	}
	if err := s.declared(spec.Label); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, told(s.accounts.auth.SetLabel(ctx, actor, h.ID, spec.Label), "")
}

func (s *Server) seat(ctx context.Context, actor string, spec control.MemberSpec) (struct{}, error) {
	h, err := s.home(ctx, spec.Household)
	if err != nil {
		return struct{}{}, err
	}
	u, err := s.person(ctx, spec.User)
	if err != nil {
		return struct{}{}, err
	}
	role := account.None
	if spec.Role != account.None.String() {
		if role, err = account.ParseRole(spec.Role); err != nil {
			return struct{}{}, refused("", "%.40q is no role; one is member, power_user, admin or none", spec.Role)
		}
	}
	return struct{}{}, told(s.accounts.auth.SetMember(ctx, actor, h.ID, u.ID, role), "see who lives there: hub household list")
}

func (s *Server) removeHousehold(ctx context.Context, actor string, spec control.HouseholdSpec) (struct{}, error) {
	h, err := s.home(ctx, spec.Household)
	if err != nil {
		return struct{}{}, err
	}
	ev := account.Event{Actor: actor, Action: "household.remove", Target: "household:" + string(h.ID)}
	err = s.store.Accounts().Do(ctx, ev, func(tx account.Tx) error { return tx.DeleteHousehold(h.ID) })
	if err == nil {
		s.accounts.live.Judge()
	}
	return struct{}{}, told(err, "")
}
