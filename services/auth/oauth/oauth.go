package oauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/account"
	"github.com/warrenmesh/warren/services"
	"github.com/warrenmesh/warren/services/auth"
	"github.com/warrenmesh/warren/services/auth/token"
	"github.com/warrenmesh/warren/services/router"
)

// How long things last.
const (
	// RequestLife is how long a person has to sign in and agree.
	RequestLife = 10 * time.Minute
	// CodeLife is how long a code can be redeemed.
	CodeLife = time.Minute
	// DeviceLife is how long a device waits for its person.
	DeviceLife = 10 * time.Minute
	// PollEvery is how often a device may ask. Who asks more than a second too
	// early is told to slow down.
	PollEvery = 5 * time.Second
	// IDTokenLife is how long an id_token can be presented.
	IDTokenLife = 5 * time.Minute
)

// The paths. Those of the protocol are in the metadata; clients need none of
// them.
const (
	pathAuthorize  = "/oauth/authorize"
	pathToken      = "/oauth/token"
	pathDeviceAuth = "/oauth/device_authorization"
	pathIntrospect = "/oauth/introspect"
	pathRevoke     = "/oauth/revoke"
	pathUserinfo   = "/oauth/userinfo"
	pathKeys       = "/oauth/jwks.json"
	pathSignIn     = "/oauth/sign-in"
	pathConsent    = "/oauth/consent"
	pathDevice     = "/device" // short: people type it
	pathDecide     = "/device/decide"
	pathStyle      = "/oauth/style.css"
	pathOpenID     = "/.well-known/openid-configuration"
	pathMetadata   = "/.well-known/oauth-authorization-server"
)

// Accounts is what the server needs of the account service; *auth.Service is
// the one there is.
type Accounts interface {
	Authenticate(ctx context.Context, p peer.Peer, login auth.Login) (account.User, []string, error)
	Start(ctx context.Context, tx account.Tx, sess account.Session) (auth.Tokens, error)
	Rotate(ctx context.Context, p peer.Peer, refresh, client string) (auth.Tokens, account.Session, error)
	Revoke(ctx context.Context, sessionID, why string) error
	Bearer(ctx context.Context, p peer.Peer, raw string) (account.User, account.Session, error)
	Ring() *token.Ring
}

// Config says what a Server works with. All but Logger and Now are needed.
type Config struct {
	Store    account.Store
	Accounts Accounts
	// Roster says who is on the mesh now.
	Roster func() *peer.Roster
	// Issuer is the iss of tokens and the base of every URL in the metadata.
	Issuer string
	Logger *slog.Logger
	Now    func() time.Time // the clock; nil is the machine's
}

// Server is the authorization server. Any number of goroutines may use it.
type Server struct {
	cfg      Config
	log      *slog.Logger
	protocol http.Handler
	pages    *pages

	keyMu sync.Mutex
	key   []byte // of the forms; made when it is first needed
}

// New returns a server. It touches no store before the first request.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Accounts == nil || cfg.Roster == nil {
		return nil, errors.New("starting the authorization server: it needs a store, accounts and a roster")
	}
	issuer, err := url.Parse(cfg.Issuer)
	if err != nil || issuer.Scheme != "https" || issuer.Host == "" || strings.TrimSuffix(cfg.Issuer, issuer.Host) != "https://" {
		return nil, fmt.Errorf("starting the authorization server: issuer %q is not https://HOST", cfg.Issuer)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, log: cfg.Logger}
	if s.pages, err = newPages(); err != nil {
		return nil, fmt.Errorf("starting the authorization server: %w", err)
	}
	// No CORS: who may read an answer across origins is nobody.
	s.protocol = op.RegisterServer(&protocol{s: s}, op.Endpoints{
		Authorization:       op.NewEndpoint(pathAuthorize),
		Token:               op.NewEndpoint(pathToken),
		Introspection:       op.NewEndpoint(pathIntrospect),
		Revocation:          op.NewEndpoint(pathRevoke),
		JwksURI:             op.NewEndpoint(pathKeys),
		DeviceAuthorization: op.NewEndpoint(pathDeviceAuth),
	}, op.WithServerCORSOptions(nil))
	return s, nil
}

// Register adds the server's routes to the account service's.
func (s *Server) Register(r *router.Router) {
	peers := services.Requirement{Any: []services.Credential{services.AsPeer}}
	add := func(method, path, summary string, h func(http.ResponseWriter, *http.Request, peer.Peer)) {
		router.Raw(r, router.Route{Method: method, Path: path, Summary: summary, Group: "oauth", Need: peers, MaxBody: maxForm},
			func(w http.ResponseWriter, req *http.Request, c *services.Caller) {
				// The library hands on the context and nothing else.
				h(w, req.WithContext(peer.NewContext(req.Context(), c.Peer)), c.Peer)
			})
	}
	add(http.MethodGet, pathOpenID, "Metadata for OpenID Connect clients.", s.public)
	add(http.MethodGet, pathMetadata, "Metadata for OAuth clients (RFC 8414).", s.metadata)
	add(http.MethodGet, pathKeys, "The public keys that tokens are signed with.", s.public)
	add(http.MethodGet, pathAuthorize, "Begin the code grant.", s.authorize)
	add(http.MethodPost, pathToken, "Exchange a code, a refresh token or a device code for tokens.", s.token)
	add(http.MethodPost, pathDeviceAuth, "Begin the device grant (RFC 8628).", s.deviceAuthorization)
	add(http.MethodPost, pathIntrospect, "Say what a token is worth (RFC 7662).", s.introspect)
	add(http.MethodPost, pathRevoke, "End what a token belongs to (RFC 7009).", s.revoke)
	add(http.MethodGet, pathSignIn, "The sign-in page.", s.showSignIn)
	add(http.MethodPost, pathSignIn, "Sign in.", s.signIn)
	add(http.MethodPost, pathConsent, "Agree, or do not.", s.consent)
	add(http.MethodGet, pathDevice, "The page where the code of a device is typed.", s.showDevice)
	add(http.MethodPost, pathDevice, "Sign in to connect a device.", s.deviceSignIn)
	add(http.MethodPost, pathDecide, "Connect a device, or do not.", s.decide)
	add(http.MethodGet, pathStyle, "The style of the pages.", s.style)
	add(http.MethodGet, pathUserinfo, "Who the token's person is (OpenID Connect Core, section 5.3).", s.userinfo)
}

// public hands on requests without parameters that are worth anything.
func (s *Server) public(w http.ResponseWriter, r *http.Request, _ peer.Peer) {
	r.Form, r.PostForm = url.Values{}, url.Values{}
	s.protocol.ServeHTTP(w, r)
}

// formKey is the key of what the pages carry, the same on every hub of a store.
func (s *Server) formKey(ctx context.Context) ([]byte, error) {
	s.keyMu.Lock()
	defer s.keyMu.Unlock()
	if s.key != nil {
		return s.key, nil
	}
	var key []byte
	err := s.cfg.Store.Keep(ctx, func(tx account.Tx) (err error) {
		key, err = tx.Secret("oauth-forms")
		return err
	})
	if err != nil {
		// It may have been made just now, and is not stored.
		return nil, fmt.Errorf("reading the key of the forms: %w", err)
	}
	s.key = key
	return key, nil
}

// newSecret returns 256 random bits in base64url without padding.
func newSecret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: without randomness the program ends
	return base64.RawURLEncoding.EncodeToString(b)
}

func hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}
