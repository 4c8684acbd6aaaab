package spoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	gosync "sync"
	"time"

	"golang.org/x/oauth2"
)

// loginClient is what a spoke is called by the hub's authorization server.
const loginClient = "spoke"

// keyLogin is where the vault holds a person's sign-in.
const keyLogin = "login"

// ErrNoLogin says that nobody is signed in on this machine.
var ErrNoLogin = errors.New("nobody is signed in on this machine; run `spoke login`")

// Prompt is what a person needs to sign in for this machine: a page, opened on
// any machine of theirs, and the code to type there.
type Prompt struct {
	URL     string    `json:"url"`
	Code    string    `json:"code"`
	Expires time.Time `json:"expires"`
}

// loginState guards the one sign-in of a machine: two refreshes at once would
// look like a stolen token.
type loginState struct{ mu gosync.Mutex }

// kept is the sign-in as the vault holds it.
type keptLogin struct {
	Token  *oauth2.Token `json:"token"`
	Server loginServer   `json:"server"`
}

// loginServer is what is used of an authorization server's metadata (RFC 8414).
type loginServer struct {
	Issuer string `json:"issuer"`
	Token  string `json:"token_endpoint"`
	Device string `json:"device_authorization_endpoint"`
	Revoke string `json:"revocation_endpoint"`
}

func (s loginServer) config() *oauth2.Config {
	return &oauth2.Config{ClientID: loginClient, Scopes: []string{"openid", "warren"},
		Endpoint: oauth2.Endpoint{TokenURL: s.Token, DeviceAuthURL: s.Device, AuthStyle: oauth2.AuthStyleInParams}}
}

// Login signs a person in for this machine by the device grant (RFC 8628): show
// is called once with what the person has to do, on any machine of theirs, and
// Login returns when they have. What comes of it is kept in the vault and works
// from this machine only.
func (c *Client) Login(ctx context.Context, show func(Prompt)) error {
	ctx, done := c.loginHTTP(ctx)
	defer done()
	server, err := c.loginServer(ctx)
	if err != nil {
		return fmt.Errorf("signing in: %w", err)
	}
	cfg := server.config()
	device, err := cfg.DeviceAuth(ctx)
	if err != nil {
		return fmt.Errorf("signing in: %w", oauthError(err))
	}
	at := device.VerificationURIComplete
	if at == "" {
		at = device.VerificationURI
	}
	show(Prompt{URL: at, Code: device.UserCode, Expires: device.Expiry})
	token, err := cfg.DeviceAccessToken(ctx, device)
	if err != nil {
		return fmt.Errorf("signing in: %w", oauthError(err))
	}
	c.login.mu.Lock()
	defer c.login.mu.Unlock()
	return c.keepLogin(keptLogin{Token: token, Server: server})
}

// Token returns an access token of the person who signed in, good for at least
// half a minute and from this machine only; ErrNoLogin if there is none. It is
// for Authorization: Bearer headers on the mesh.
func (c *Client) Token(ctx context.Context) (string, error) {
	c.login.mu.Lock()
	defer c.login.mu.Unlock()
	kept, err := c.keptLogin()
	if err != nil {
		return "", err
	}
	if time.Until(kept.Token.Expiry) > 30*time.Second {
		return kept.Token.AccessToken, nil
	}
	ctx, done := c.loginHTTP(ctx)
	defer done()
	old := *kept.Token
	old.Expiry = time.Unix(1, 0) // the library's own margin is another one
	fresh, err := kept.Server.config().TokenSource(ctx, &old).Token()
	if err != nil {
		if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok && e.ErrorCode == "invalid_grant" {
			err = errors.Join(ErrNoLogin, c.vault.Apply(map[string][]byte{keyLogin: nil}))
		}
		return "", fmt.Errorf("renewing the sign-in: %w", oauthError(err))
	}
	kept.Token = fresh
	if err := c.keepLogin(kept); err != nil {
		return "", err
	}
	return fresh.AccessToken, nil
}

// Logout ends the sign-in here and at the hub. If the hub cannot be told it is
// still forgotten here, and the error says so.
func (c *Client) Logout(ctx context.Context) error {
	c.login.mu.Lock()
	defer c.login.mu.Unlock()
	kept, err := c.keptLogin()
	if err != nil {
		return err
	}
	if err := c.vault.Apply(map[string][]byte{keyLogin: nil}); err != nil {
		return fmt.Errorf("forgetting the sign-in: %w", err)
	}
	ctx, done := c.loginHTTP(ctx)
	defer done()
	if err := revoke(ctx, kept); err != nil {
		return fmt.Errorf("the sign-in is forgotten here, but the hub could not be told: %w", err)
	}
	return nil
}

// revoke is RFC 7009.
func revoke(ctx context.Context, kept keptLogin) error {
	hc, _ := ctx.Value(oauth2.HTTPClient).(*http.Client)
	form := url.Values{"client_id": {loginClient}, "token": {kept.Token.RefreshToken}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, kept.Server.Revoke, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("it answered %s", res.Status)
	}
	return nil
}

// loginHTTP gives ctx a client for the mesh, where the library looks for it.
func (c *Client) loginHTTP(ctx context.Context) (context.Context, func()) {
	hc := c.HTTPClient()
	hc.Timeout = 30 * time.Second
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return context.WithValue(ctx, oauth2.HTTPClient, hc), hc.CloseIdleConnections
}

// loginServer asks the hub's authorization server where what is. It must be
// the mesh's own: nobody else is sent a code or a token.
func (c *Client) loginServer(ctx context.Context) (loginServer, error) {
	issuer := "https://" + c.fqdn("auth")
	hc, _ := ctx.Value(oauth2.HTTPClient).(*http.Client)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, issuer+"/.well-known/oauth-authorization-server", nil)
	if err != nil {
		return loginServer{}, err
	}
	res, err := hc.Do(req)
	if err != nil {
		return loginServer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	if err != nil {
		return loginServer{}, err
	}
	var s loginServer
	if res.StatusCode != http.StatusOK || json.Unmarshal(body, &s) != nil {
		return loginServer{}, fmt.Errorf("the hub's authorization server answered %s", res.Status)
	}
	for _, at := range []string{s.Token, s.Device, s.Revoke} {
		if u, err := url.Parse(at); err != nil || s.Issuer != issuer || u.Scheme+"://"+u.Host != issuer {
			return loginServer{}, errors.New("the hub's authorization server names another one")
		}
	}
	return s, nil
}

func (c *Client) keptLogin() (kept keptLogin, err error) {
	raw, err := get(c.vault, keyLogin)
	if err != nil {
		return kept, err
	}
	defer clear(raw)
	if raw == nil || json.Unmarshal(raw, &kept) != nil || kept.Token == nil {
		return kept, ErrNoLogin
	}
	return kept, nil
}

func (c *Client) keepLogin(kept keptLogin) error {
	raw, err := json.Marshal(kept)
	if err != nil {
		return fmt.Errorf("storing the sign-in: %w", err)
	}
	defer clear(raw)
	if err := c.vault.Put(keyLogin, raw); err != nil {
		return fmt.Errorf("storing the sign-in: %w", err)
	}
	return nil
}

// oauthError is the server's sentence, without the answer it came in: that may
// hold a token.
func oauthError(err error) error {
	e, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		return err
	}
	switch e.ErrorCode {
	case "access_denied":
		return errors.New("the person said no")
	case "expired_token":
		return errors.New("nobody came in time; try again")
	}
	if e.ErrorDescription != "" {
		return errors.New(e.ErrorDescription)
	}
	return fmt.Errorf("the hub's authorization server says %q", e.ErrorCode)
}
