package auth

import (
	"context"
	"net/http"
	"time"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// registerApps adds the admin's routes about apps; route makes a line of the
// table.
func (s *Service) registerApps(r *router.Router, route func(method, path, summary string, status int) router.Route) {
	line := func(method, path, summary string, status int) router.Route {
		rt := route(method, path, summary, status)
		rt.Group = "apps"
		return rt
	}
	router.Handle(r, line("POST", "/admin/app-clients", "Register an app; its key is shown this once.", http.StatusCreated), s.postApp)
	router.Handle(r, line("GET", "/admin/app-clients", "All apps.", 0), s.listApps)
	router.Handle(r, line("POST", "/admin/app-clients/{id}/rotate", "Give an app a new key, shown this once.", 0), s.postRotateApp)
	router.Handle(r, line("POST", "/admin/app-clients/{id}/revoke", "End an app; its keys end.", 0), s.postRevokeApp)
}

// postAppIn is an app as clients ask for one. The last three are our own.
type postAppIn struct {
	Body struct {
		AppID      string                `json:"app_id" minLength:"1" maxLength:"64"`
		Name       string                `json:"name" minLength:"1" maxLength:"100"`
		Services   []string              `json:"services,omitempty" nullable:"true" maxItems:"64" doc:"What the app may call, [\"*\"] for all; auth alone if absent."`
		Households []account.HouseholdID `json:"households,omitempty" nullable:"true" maxItems:"200" doc:"Those it may ask about; all if absent."`
		Peer       string                `json:"peer,omitempty" minLength:"1" maxLength:"63" doc:"The machine it runs on; if absent, the first that proves the key."`
	}
}

type appCreated struct {
	AppID     string     `json:"app_id"`
	Name      string     `json:"name"`
	Key       string     `json:"key"`
	CreatedAt time.Time  `json:"created_at"`
	RotatedAt *time.Time `json:"last_rotated_at"`
}

func (s *Service) postApp(ctx context.Context, c *services.Caller, in *postAppIn) (*out[appCreated], error) {
	n := NewApp{ID: in.Body.AppID, Name: in.Body.Name, Services: in.Body.Services, Households: in.Body.Households, Peer: in.Body.Peer}
	a, key, err := s.createApp(ctx, c.Actor(), n, superuser(c))
	return &out[appCreated]{appCreated{a.ID, a.Name, key, a.Created, orNull(a.Rotated)}}, err
}

type appItem struct {
	AppID      string                `json:"app_id"`
	Name       string                `json:"name"`
	IsActive   bool                  `json:"is_active"`
	CreatedAt  time.Time             `json:"created_at"`
	RotatedAt  *time.Time            `json:"last_rotated_at"`
	Services   []string              `json:"services"`
	Households []account.HouseholdID `json:"households"`
}

func (s *Service) listApps(ctx context.Context, _ *services.Caller, _ *struct{}) (*out[[]appItem], error) {
	all, err := s.Apps(ctx)
	o := &out[[]appItem]{Body: []appItem{}}
	for _, a := range all {
		o.Body = append(o.Body, appItem{a.ID, a.Name, a.Active, a.Created, orNull(a.Rotated), orNone(a.Services), append([]account.HouseholdID{}, a.Households...)})
	}
	return o, err
}

type appRotated struct {
	AppID     string     `json:"app_id"`
	Key       string     `json:"key"`
	RotatedAt *time.Time `json:"last_rotated_at"`
}

func (s *Service) postRotateApp(ctx context.Context, c *services.Caller, in *rotateIn) (*out[appRotated], error) {
	a, key, err := s.rotateApp(ctx, c.Actor(), in.ID, in.Body.overlap(), superuser(c))
	return &out[appRotated]{appRotated{a.ID, key, orNull(a.Rotated)}}, err
}

type appPath struct {
	ID string `path:"id" maxLength:"64"`
}

type appRevoked struct {
	AppID    string `json:"app_id"`
	IsActive bool   `json:"is_active"`
}

func (s *Service) postRevokeApp(ctx context.Context, c *services.Caller, in *appPath) (*out[appRevoked], error) {
	err := s.revokeApp(ctx, c.Actor(), in.ID, superuser(c))
	return &out[appRevoked]{appRevoked{in.ID, false}}, err
}
