package auth

import (
	"context"
	"net/http"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/router"
)

// Register adds all routes of the account service to r.
func (s *Service) Register(r *router.Router) {
	s.registerAuth(r)
	s.registerOwn(r)
	s.registerGDPR(r)
	s.registerHouseholds(r)
	s.registerMachines(r)
	s.registerInternal(r)
}

// in is what a route with nothing but a body takes.
type in[T any] struct{ Body T }

// byPeer is what a route asks of somebody who has not signed in.
func byPeer() services.Requirement {
	return services.Requirement{Any: []services.Credential{services.AsPeer}}
}

const tenantSelf = "about the caller alone"

// registerAuth adds the routes of Jarvis' sign-in, with its shapes.
func (s *Service) registerAuth(r *router.Router) {
	route := func(method, path, summary string, status int, need services.Requirement) router.Route {
		rt := router.Route{Method: method, Path: path, Summary: summary, Group: "auth", Status: status, Need: need, Shape: router.Jarvis}
		if need.Any[0] == services.AsUser {
			rt.Tenant = tenantSelf
		}
		return rt
	}
	router.Handle(r, route("GET", "/auth/setup-status", "Say whether the first account is still to be made.", 200, byPeer()), s.getSetupStatus)
	router.Handle(r, route("POST", "/auth/setup", "Make the first account, once, on one of the admin's own machines.", 201, byPeer()), s.postSetup)
	router.Handle(r, route("POST", "/auth/register", "Make an account with an invite code of a household.", 201, byPeer()), s.postRegister)
	router.Handle(r, route("POST", "/auth/login", "Sign in on this machine.", 200, byPeer()), s.postLogin)
	router.Handle(r, route("POST", "/auth/refresh", "Exchange a refresh token for the next pair.", 200, byPeer()), s.postRefresh)
	router.Handle(r, route("POST", "/auth/logout", "Sign out.", 204, byPeer()), s.postLogout)
	router.Handle(r, route("POST", "/auth/change-password", "Change the password; all sessions end, and a new one begins here.", 200, byUser()), s.postChangePassword)
	router.Handle(r, route("GET", "/auth/me", "Who is signed in.", 200, byUser()), s.getMe)
	router.Handle(r, route("DELETE", "/auth/me", "Erase the caller's account and all that is known about them.", 204, byUser()), s.deleteMe)
	switching := route("POST", "/auth/switch-household", "Get an access token for another household of the caller's.", 200, byUser())
	switching.Tenant = "household_id must be one the caller lives in; any other is 403"
	router.Handle(r, switching, s.postSwitchHousehold)
}

// userOut is a person in Jarvis' answers.
type userOut struct {
	ID         account.UserID `json:"id"`
	Email      string         `json:"email"`
	Username   *string        `json:"username"`
	Superuser  bool           `json:"is_superuser"`
	MustChange bool           `json:"must_change_password"`
}

func userAnswer(u account.User) userOut {
	o := userOut{ID: u.ID, Email: u.Email, Superuser: u.Superuser, MustChange: u.MustChange}
	if u.Username != "" {
		o.Username = &u.Username
	}
	return o
}

type registerOut struct {
	AccessToken  string              `json:"access_token"`
	RefreshToken string              `json:"refresh_token"`
	TokenType    string              `json:"token_type"`
	User         userOut             `json:"user"`
	HouseholdID  account.HouseholdID `json:"household_id"`
}

func registerAnswer(j joined, err error) (*out[registerOut], error) {
	if err != nil {
		return nil, err
	}
	return &out[registerOut]{registerOut{j.tokens.Access, j.tokens.Refresh, "bearer", userAnswer(j.user), j.household}}, nil
}

type loginOut struct {
	AccessToken  string  `json:"access_token"`
	RefreshToken string  `json:"refresh_token"`
	TokenType    string  `json:"token_type"`
	ExpiresIn    int     `json:"expires_in" doc:"Seconds that the access token lasts."`
	User         userOut `json:"user"`
	MustChange   bool    `json:"must_change_password"`
}

func loginAnswer(u account.User, t Tokens, err error) (*out[loginOut], error) {
	if err != nil {
		return nil, err
	}
	return &out[loginOut]{loginOut{t.Access, t.Refresh, "bearer", int(AccessLife.Seconds()), userAnswer(u), u.MustChange}}, nil
}

type setupStatusOut struct {
	NeedsSetup bool `json:"needs_setup"`
}

func (s *Service) getSetupStatus(ctx context.Context, _ *services.Caller, _ *struct{}) (*out[setupStatusOut], error) {
	needs, err := s.NeedsSetup(ctx)
	return &out[setupStatusOut]{setupStatusOut{needs}}, err
}

type registerIn struct {
	Email      string  `json:"email" maxLength:"254"`
	Username   *string `json:"username,omitempty" nullable:"true" maxLength:"254" doc:"What the packet policy calls the person, as in ann@."`
	Password   string  `json:"password" minLength:"8" maxLength:"255"`
	InviteCode *string `json:"invite_code,omitempty" nullable:"true" maxLength:"64"`
}

func (b registerIn) person() NewUser {
	n := NewUser{Email: b.Email, Password: b.Password}
	if b.Username != nil {
		n.Username = *b.Username
	}
	return n
}

func (s *Service) postSetup(ctx context.Context, c *services.Caller, v *in[registerIn]) (*out[registerOut], error) {
	return registerAnswer(s.setup(ctx, c.Peer, v.Body.person()))
}

type registerRequest struct {
	Household string `header:"X-Household-Id"`
	Body      registerIn
}

func (s *Service) postRegister(ctx context.Context, c *services.Caller, v *registerRequest) (*out[registerOut], error) {
	code := ""
	if v.Body.InviteCode != nil {
		code = *v.Body.InviteCode
	}
	return registerAnswer(s.register(ctx, c.Peer, v.Body.person(), code, account.HouseholdID(v.Household)))
}

type loginIn struct {
	Email    string  `json:"email" maxLength:"254"`
	Password string  `json:"password" maxLength:"1020"`
	TOTP     *string `json:"totp,omitempty" nullable:"true" maxLength:"64" doc:"The code of an authenticator app."`
	Recovery *string `json:"recovery_code,omitempty" nullable:"true" maxLength:"64" doc:"A recovery code instead."`
}

func (s *Service) postLogin(ctx context.Context, c *services.Caller, v *in[loginIn]) (*out[loginOut], error) {
	l := Login{Email: v.Body.Email, Password: v.Body.Password}
	for _, code := range []*string{v.Body.TOTP, v.Body.Recovery} {
		if code != nil && *code != "" {
			l.Code = *code
		}
	}
	u, t, err := s.login(ctx, c.Peer, l)
	return loginAnswer(u, t, err)
}

type refreshIn struct {
	RefreshToken string `json:"refresh_token" maxLength:"256"`
}

func (s *Service) postRefresh(ctx context.Context, c *services.Caller, v *in[refreshIn]) (*out[loginOut], error) {
	t, sess, err := s.Rotate(ctx, c.Peer, v.Body.RefreshToken, "")
	if err != nil {
		return nil, err
	}
	var u account.User
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		u, err = tx.User(sess.User)
		return err
	})
	return loginAnswer(u, t, err)
}

type logoutIn struct {
	RefreshToken string `json:"refresh_token" maxLength:"256"`
	AllDevices   bool   `json:"all_devices,omitempty"`
}

func (s *Service) postLogout(ctx context.Context, c *services.Caller, v *in[logoutIn]) (*struct{}, error) {
	return nil, s.logout(ctx, c.Peer, v.Body.RefreshToken, v.Body.AllDevices)
}

type changePasswordIn struct {
	Current string `json:"current_password" maxLength:"1020"`
	New     string `json:"new_password" minLength:"8" maxLength:"255"`
}

func (s *Service) postChangePassword(ctx context.Context, c *services.Caller, v *in[changePasswordIn]) (*out[loginOut], error) {
	u, t, err := s.changePassword(ctx, c, v.Body.Current, v.Body.New)
	return loginAnswer(u, t, err)
}

func (s *Service) getMe(_ context.Context, c *services.Caller, _ *struct{}) (*out[userOut], error) {
	return &out[userOut]{userAnswer(c.User)}, nil
}

type passwordIn struct {
	Password string `json:"password" maxLength:"1020"`
}

func (s *Service) deleteMe(ctx context.Context, c *services.Caller, v *in[passwordIn]) (*struct{}, error) {
	return nil, s.deleteSelf(ctx, c, v.Body.Password)
}

type switchIn struct {
	HouseholdID account.HouseholdID `json:"household_id" maxLength:"64"`
}

type switchOut struct {
	AccessToken string              `json:"access_token"`
	HouseholdID account.HouseholdID `json:"household_id"`
}

func (s *Service) postSwitchHousehold(ctx context.Context, c *services.Caller, v *in[switchIn]) (*out[switchOut], error) {
	t, err := s.switchHousehold(ctx, c, v.Body.HouseholdID)
	if err != nil {
		return nil, err
	}
	return &out[switchOut]{switchOut{t.Access, t.Session.Household}}, nil
}

// registerGDPR adds the routes by which people get and erase their data.
func (s *Service) registerGDPR(r *router.Router) {
	own := "{id} must be the caller, or the caller a superuser; anybody else is 403, whoever {id} is"
	export := byUser()
	export.Stream = true
	router.Raw(r, router.Route{Method: "GET", Path: "/gdpr/users/{id}/data", Summary: "All that is stored about a person.", Group: "gdpr", Need: export, Tenant: own}, s.getData)
	router.Handle(r, router.Route{Method: "DELETE", Path: "/gdpr/users/{id}/data", Summary: "Erase a person and all that is known about them.", Group: "gdpr", Need: byUser(), Tenant: own}, s.deleteData)
}

// started notes whether something was written.
type started struct {
	http.ResponseWriter
	any bool
}

func (w *started) Write(p []byte) (int, error) {
	w.any = true
	return w.ResponseWriter.Write(p)
}

func (s *Service) getData(w http.ResponseWriter, r *http.Request, c *services.Caller) {
	id, err := mayHandle(c, r.PathValue("id"))
	if err == nil {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Disposition", `attachment; filename="warren-`+id.String()+`.json"`)
		to := &started{ResponseWriter: w}
		if err = s.Export(r.Context(), c.Actor(), id, to); err == nil {
			return
		}
		w.Header().Del("Content-Disposition")
		if to.any {
			s.log.Error("an export was broken off", "user", id, "error", err)
			panic(http.ErrAbortHandler) // what was sent must not look like all of it
		}
		err = missing(err, "User", "exporting a person's data")
	}
	s.problem(w, r, err)
}
