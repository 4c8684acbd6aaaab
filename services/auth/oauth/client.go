package oauth

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services/auth"
)

// client is an OAuth client as the library sees it.
type client struct{ account.Client }

func (c client) confidential() bool { return len(c.SecretDigest) > 0 }

// The methods of op.Client.

func (c client) GetID() string                    { return c.ID }
func (c client) RedirectURIs() []string           { return c.Redirects }
func (c client) PostLogoutRedirectURIs() []string { return nil }
func (c client) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}
func (c client) LoginURL(id string) string                                { return pathSignIn + "?request=" + url.QueryEscape(id) }
func (c client) AccessTokenType() op.AccessTokenType                      { return op.AccessTokenTypeJWT }
func (c client) IDTokenLifetime() time.Duration                           { return IDTokenLife }
func (c client) IsScopeAllowed(s string) bool                             { return s == auth.ScopeAccount }
func (c client) IDTokenUserinfoClaimsAssertion() bool                     { return true }
func (c client) ClockSkew() time.Duration                                 { return 0 }
func (c client) RestrictAdditionalIdTokenScopes() func([]string) []string { return same }
func (c client) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return same
}

// DevMode keeps the library from having an opinion of its own about redirects:
// the filter has compared them with what the admin registered.
func (c client) DevMode() bool { return true }

func (c client) ApplicationType() op.ApplicationType {
	if c.confidential() {
		return op.ApplicationTypeWeb
	}
	return op.ApplicationTypeNative
}

func (c client) AuthMethod() oidc.AuthMethod {
	if c.confidential() {
		return oidc.AuthMethodBasic
	}
	return oidc.AuthMethodNone
}

func (c client) GrantTypes() []oidc.GrantType {
	all := []oidc.GrantType{oidc.GrantTypeRefreshToken}
	if len(c.Redirects) > 0 {
		all = append(all, oidc.GrantTypeCode)
	}
	if c.Device {
		all = append(all, oidc.GrantTypeDeviceCode)
	}
	return all
}

func same(s []string) []string { return s }

// proveClient finds the client that credentials are of. A public client has no
// secret and may send none; which of several reasons a refusal has is not told.
func (s *Server) proveClient(ctx context.Context, cc *op.ClientCredentials) (account.Client, error) {
	refused := op.NewStatusError(oidc.ErrInvalidClient().WithDescription("The client is not known, or its secret is not right."), http.StatusUnauthorized)
	if cc == nil || cc.ClientID == "" || cc.ClientAssertion != "" {
		return account.Client{}, refused
	}
	var c account.Client
	proved := false
	err := s.cfg.Store.View(ctx, func(tx account.Tx) (err error) {
		if c, err = tx.Client(cc.ClientID); err != nil {
			return err
		}
		if len(c.SecretDigest) == 0 {
			proved = cc.ClientSecret == ""
		} else {
			proved = auth.ClientSecretMatches(tx, c, cc.ClientSecret)
		}
		return nil
	})
	if err != nil && !errors.Is(err, account.ErrNotFound) {
		return account.Client{}, err
	}
	if err != nil || !proved {
		return account.Client{}, refused
	}
	return c, nil
}
