package oauth

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/warrenmesh/warren/peer"
)

// description is the metadata, for both kinds of clients (RFC 8414, OpenID
// Connect Discovery). It says what there is and nothing that there is not.
type description struct {
	oidc.DiscoveryConfiguration
	// Issuer tells that answers carry iss (RFC 9207, section 3).
	Issuer bool `json:"authorization_response_iss_parameter_supported"`
}

func (s *Server) describe() description {
	at := func(path string) string { return s.cfg.Issuer + path }
	proofs := []oidc.AuthMethod{oidc.AuthMethodBasic, oidc.AuthMethodPost}
	return description{Issuer: true, DiscoveryConfiguration: oidc.DiscoveryConfiguration{
		Issuer:                                    s.cfg.Issuer,
		AuthorizationEndpoint:                     at(pathAuthorize),
		TokenEndpoint:                             at(pathToken),
		IntrospectionEndpoint:                     at(pathIntrospect),
		UserinfoEndpoint:                          at(pathUserinfo),
		RevocationEndpoint:                        at(pathRevoke),
		DeviceAuthorizationEndpoint:               at(pathDeviceAuth),
		JwksURI:                                   at(pathKeys),
		ScopesSupported:                           scopes,
		ResponseTypesSupported:                    []string{string(oidc.ResponseTypeCode)},
		ResponseModesSupported:                    []string{string(oidc.ResponseModeQuery)},
		GrantTypesSupported:                       grants,
		SubjectTypesSupported:                     []string{"public"},
		IDTokenSigningAlgValuesSupported:          []string{"ES256"},
		TokenEndpointAuthMethodsSupported:         append([]oidc.AuthMethod{oidc.AuthMethodNone}, proofs...),
		RevocationEndpointAuthMethodsSupported:    append([]oidc.AuthMethod{oidc.AuthMethodNone}, proofs...),
		IntrospectionEndpointAuthMethodsSupported: proofs,
		ClaimsSupported:                           []string{"sub", "aud", "exp", "iat", "iss", "auth_time", "nonce", "amr", "azp", "sid", "at_hash", "email", "email_verified", "preferred_username"},
		CodeChallengeMethodsSupported:             []oidc.CodeChallengeMethod{oidc.CodeChallengeMethodS256},
	}}
}

// metadata is the same document at the place where OAuth clients look.
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request, _ peer.Peer) {
	writeJSON(w, s.describe())
}

// Discovery implements op.Server.
func (p *protocol) Discovery(context.Context, *op.Request[struct{}]) (*op.Response, error) {
	return op.NewResponse(p.s.describe()), nil
}

// Keys implements op.Server.
func (p *protocol) Keys(context.Context, *op.Request[struct{}]) (*op.Response, error) {
	return op.NewResponse(json.RawMessage(p.s.cfg.Accounts.Ring().JWKS())), nil
}

// writeJSON writes what is known to marshal.
func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}
