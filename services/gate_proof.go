package services

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/warrenmesh/warren/peer"
)

// Limits of what callers present, bytes.
const (
	maxToken = 8 << 10
	maxID    = 64
	maxKey   = 512
)

// The refusals of credentials, in the words that Jarvis' clients know.
var (
	refuseNoUser  = refusal(Refusal{Status: http.StatusUnauthorized, Detail: "Missing or invalid Authorization header", Challenge: "Bearer"})
	refuseToken   = refusal(Refusal{Status: http.StatusUnauthorized, Detail: "Invalid token", Challenge: `Bearer error="invalid_token"`})
	refuseNode    = refusal(Refusal{Status: http.StatusUnauthorized, Detail: "Invalid API Key"})
	refuseNoApp   = refusal(Refusal{Status: http.StatusUnauthorized, Detail: "Missing app credentials"})
	refuseApp     = refusal(Refusal{Status: http.StatusUnauthorized, Detail: "Invalid app credentials"})
	refuseAdmin   = refusal(Refusal{Status: http.StatusUnauthorized, Detail: "Invalid Admin API Key"})
	refuseAdminBy = refusal(Refusal{Status: http.StatusUnauthorized, Detail: "Unauthorized"})
	refuseQuery   = refusal(Refusal{Status: http.StatusBadRequest, Detail: "The query of the URL cannot be read."})
	refuseInURL   = refusal(Refusal{Status: http.StatusBadRequest, Detail: "A credential has no place in a URL, where logs and histories keep it; send it in its header, and replace this one."})
)

// proof is what a caller presents besides its address.
type proof struct {
	as Credential
	// id and key are as the header has them; the key alone for AsUser and
	// AsAdmin.
	id, key string
	// by is the header that an admin key came in.
	by string
	// leaf is the verified client certificate, nil without one.
	leaf *x509.Certificate
}

// inURL are the names under which credentials are put into URLs, lower case and
// with _ for -.
var inURL = map[string]bool{
	"access_token": true, "refresh_token": true, "id_token": true, "token": true, "jwt": true, "bearer": true,
	"authorization": true, "auth": true, "key": true, "api_key": true, "apikey": true, "x_api_key": true,
	"node_key": true, "app_key": true, "admin_key": true, "admin_token": true, "x_jarvis_app_key": true,
	"x_jarvis_admin_token": true, "x_admin_token": true, "secret": true, "client_secret": true,
	"password": true, "passwd": true,
}

// proofOf finds the first of the credentials that the request carries.
func (g *Gate) proofOf(r *http.Request, any []Credential) (proof, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return proof{}, refuseQuery
	}
	for name := range values {
		if inURL[strings.ReplaceAll(strings.ToLower(name), "-", "_")] {
			return proof{}, refuseInURL
		}
	}
	for _, as := range any {
		if g.carries(r, as, any) {
			return g.read(r, as)
		}
	}
	return proof{}, g.missing(any[0])
}

// carries reports whether the request has a credential of a kind, good or bad.
func (g *Gate) carries(r *http.Request, as Credential, any []Credential) bool {
	has := func(name string) bool { return len(r.Header.Values(name)) > 0 }
	switch as {
	case AsPeer:
		return true
	case AsUser:
		return has("Authorization")
	case AsNode:
		// Where both will do, the colon tells a node's key from an admin's.
		return has("X-Api-Key") && (!among(AsAdmin, any) || strings.Contains(r.Header.Get("X-Api-Key"), ":"))
	case AsApp:
		headers := has("X-Jarvis-App-Id") || has("X-Jarvis-App-Key")
		switch g.cfg.Apps {
		case ByKey:
			return headers
		case ByCertificate:
			return leafOf(r) != nil
		default:
			return headers || leafOf(r) != nil
		}
	case AsAdmin:
		key := has("X-Api-Key") && (!among(AsNode, any) || !strings.Contains(r.Header.Get("X-Api-Key"), ":"))
		return key || has("X-Jarvis-Admin-Token") || has("X-Admin-Token")
	}
	return false
}

func among(c Credential, any []Credential) bool {
	for _, one := range any {
		if one == c {
			return true
		}
	}
	return false
}

// missing is the refusal of a caller who presents nothing.
func (g *Gate) missing(as Credential) *Refusal {
	switch as {
	case AsUser:
		return refuseNoUser
	case AsNode:
		return refuseNode
	case AsApp:
		return refuseNoApp
	case AsAdmin:
		if g.cfg.Service == "auth" {
			return refuseAdminBy
		}
		return refuseAdmin
	}
	return refuseClosed
}

// read takes a credential apart. What is not exactly of its form is refused
// before anything is looked up.
func (g *Gate) read(r *http.Request, as Credential) (proof, error) {
	switch as {
	case AsPeer:
		return proof{as: as}, nil
	case AsUser:
		value, _ := single(r, "Authorization", maxToken)
		scheme, token, _ := strings.Cut(value, " ")
		if !strings.EqualFold(scheme, "Bearer") || token == "" || strings.Contains(token, " ") {
			return proof{}, refuseNoUser
		}
		return proof{as: as, key: token}, nil
	case AsNode:
		value, _ := single(r, "X-Api-Key", maxKey)
		id, key, _ := strings.Cut(value, ":")
		if !validID(id) || key == "" || strings.Contains(key, " ") {
			return proof{}, refuseNode
		}
		return proof{as: as, id: id, key: key}, nil
	case AsApp:
		return g.readApp(r)
	case AsAdmin:
		return readAdmin(r)
	}
	return proof{}, refuseClosed
}

func (g *Gate) readApp(r *http.Request) (proof, error) {
	p := proof{as: AsApp, leaf: leafOf(r)}
	headers := len(r.Header.Values("X-Jarvis-App-Id"))+len(r.Header.Values("X-Jarvis-App-Key")) > 0
	switch g.cfg.Apps {
	case ByCertificate:
		return p, nil
	case ByEither:
		if !headers {
			return p, nil
		}
		p.leaf = nil
	case ByBoth:
		if p.leaf == nil {
			return proof{}, refuseNoApp
		}
	case ByKey:
		p.leaf = nil
	default:
		return proof{}, refuseNoApp
	}
	for _, name := range []string{"X-Jarvis-App-Id", "X-Jarvis-App-Key"} {
		if r.Header.Get(name) == "" {
			return proof{}, refuseNoApp
		}
	}
	id, _ := single(r, "X-Jarvis-App-Id", maxID)
	key, ok := single(r, "X-Jarvis-App-Key", maxKey)
	if !ok || !validID(id) || strings.Contains(key, " ") {
		return proof{}, refuseApp
	}
	p.id, p.key = id, key
	return p, nil
}

// readAdmin wants one admin key in one header.
func readAdmin(r *http.Request) (proof, error) {
	by := ""
	for _, name := range []string{"X-Jarvis-Admin-Token", "X-Admin-Token", "X-Api-Key"} {
		if len(r.Header.Values(name)) == 0 {
			continue
		}
		if by != "" {
			return proof{}, adminRefusal(by)
		}
		by = name
	}
	key, ok := single(r, by, maxKey)
	if !ok || strings.ContainsAny(key, " :") {
		return proof{}, adminRefusal(by)
	}
	return proof{as: AsAdmin, key: key, by: by}, nil
}

func adminRefusal(by string) *Refusal {
	if by == "X-Api-Key" {
		return refuseAdmin
	}
	return refuseAdminBy
}

// single gives the value of a header that is there once, not empty, not longer
// than most and of visible ASCII. With two of them, one reader would take the
// first and another the last.
func single(r *http.Request, name string, most int) (string, bool) {
	values := r.Header.Values(name)
	if len(values) != 1 || values[0] == "" || len(values[0]) > most {
		return "", false
	}
	for i := range len(values[0]) {
		if c := values[0][i]; c < ' ' || c > '~' {
			return "", false
		}
	}
	return values[0], true
}

// validID accepts the names of nodes and apps (account.Node).
func validID(s string) bool {
	if s == "" || len(s) > maxID {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// leafOf is the client certificate that the TLS handshake verified.
func leafOf(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return nil
	}
	return r.TLS.VerifiedChains[0][0]
}

// certifies reports whether a certificate is the peer's own, and valid now: on a
// connection that is kept open it may have ended since the handshake.
func (g *Gate) certifies(leaf *x509.Certificate, p peer.Peer) bool {
	now := g.cfg.Now()
	if leaf == nil || p.Name == "" || now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) || len(leaf.DNSNames) == 0 {
		return false
	}
	for _, name := range leaf.DNSNames {
		if name != p.Name && (g.cfg.Domain == "" || name != p.Name+"."+g.cfg.Domain) {
			return false
		}
	}
	return true
}

// identify lets the authority judge the credential, and fills in the caller.
func (g *Gate) identify(ctx context.Context, q *question, c *Caller) (err error) {
	c.As = q.proof.as
	switch a := g.cfg.Authority; c.As {
	case AsPeer:
		return nil
	case AsUser:
		c.User, c.Session, err = a.User(ctx, c.Peer, q.proof.key)
		if err != nil {
			return challenged(err)
		}
		s := &c.Session
		if c.User.ID <= 0 || c.User.Disabled || s.User != c.User.ID || s.Peer != c.Peer.ID || s.Key != c.Peer.PublicKey || !s.Revoked.IsZero() {
			return refuseToken
		}
		return nil
	case AsNode:
		c.Node, err = a.Node(ctx, c.Peer, q.proof.id, q.proof.key, g.cfg.Service)
		if err == nil && (!c.Node.Active || c.Node.ID != q.proof.id || c.Node.Peer != c.Peer.ID) {
			return refuseNode
		}
		return err
	case AsApp:
		return g.identifyApp(ctx, q, c)
	case AsAdmin:
		c.App, err = a.Admin(ctx, c.Peer, q.proof.key)
		var why *Refusal
		switch {
		case errors.As(err, &why) && why.Status == http.StatusUnauthorized:
			return adminRefusal(q.proof.by)
		case err == nil && (!c.App.Active || !c.App.Admin || c.App.Peer != "" && c.App.Peer != c.Peer.ID):
			return adminRefusal(q.proof.by)
		}
		return err
	}
	return refuseClosed
}

func (g *Gate) identifyApp(ctx context.Context, q *question, c *Caller) (err error) {
	if q.proof.leaf != nil && !g.certifies(q.proof.leaf, c.Peer) {
		return refuseApp
	}
	switch {
	case q.proof.key != "":
		c.App, err = g.cfg.Authority.App(ctx, c.Peer, q.proof.id, q.proof.key, g.cfg.Service)
		if err == nil && c.App.ID != q.proof.id {
			return refuseApp
		}
	case q.proof.leaf != nil:
		c.App, err = g.cfg.Authority.AppByPeer(ctx, c.Peer, g.cfg.Service)
	default:
		return refuseNoApp
	}
	if err == nil && (!c.App.Active || c.App.Peer != c.Peer.ID) {
		return refuseApp
	}
	return err
}

// challenged says with a token's refusal what would do instead (RFC 6750).
func challenged(err error) error {
	var why *Refusal
	if !errors.As(err, &why) || why.Status != http.StatusUnauthorized || why.Challenge != "" {
		return err
	}
	with := *why
	with.Challenge = refuseToken.Challenge
	return &with
}
