package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/warrenmesh/warren/peer/account"
)

const (
	maxRedirects = 10   // of one client
	maxRedirect  = 1024 // bytes
)

// NewClient is an OAuth client to be registered.
type NewClient struct {
	Name string
	// Redirects are where a code may be sent, each checked by CheckRedirect. A
	// client that only uses the device grant needs none.
	Redirects []string
	// Confidential clients get a secret; one that runs on a person's machine
	// cannot keep one.
	Confidential bool
	// Device lets it use the device grant.
	Device bool
	// FirstParty clients are the hub's own: they ask for no consent and may do
	// all that the person may.
	FirstParty bool
}

// CheckRedirect accepts a redirect URI: https; http to a loopback address, as
// programs on a person's own machine listen on (RFC 8252, section 7.3); or a
// scheme of the program's own with a dot in it, as in org.example.app:/done
// (section 7.1). Redirects are compared as text, so whatever could be written
// in two ways, or read in two, is refused: fragments, user names, wildcards,
// dots as path segments, other letters than visible ASCII.
func CheckRedirect(raw string) error {
	bad := func(why string) error {
		return fmt.Errorf("the redirect URI %s: %w", why, account.ErrInvalid)
	}
	if raw == "" || len(raw) > maxRedirect {
		return bad(fmt.Sprintf("has 1 to %d characters", maxRedirect))
	}
	for i := range len(raw) {
		if raw[i] <= ' ' || raw[i] > '~' || strings.IndexByte("\\*\"<>^`{|}#", raw[i]) >= 0 {
			return bad(fmt.Sprintf("has %q in it; use no fragment, no wildcard and plain letters", raw[i]))
		}
	}
	u, err := url.Parse(raw)
	if err != nil || u.User != nil || u.String() != raw || strings.ContainsRune(raw, '@') {
		return bad("is not one that can be read in one way only; leave out user names and odd escapes")
	}
	for segment := range strings.SplitSeq(u.Path, "/") {
		if segment == "." || segment == ".." {
			return bad("has dots for a path segment")
		}
	}
	switch u.Scheme {
	case "https":
		return checkHost(u, bad)
	case "http":
		addr, err := netip.ParseAddr(u.Hostname())
		if err != nil || addr != netip.MustParseAddr("127.0.0.1") && addr != netip.IPv6Loopback() {
			return bad("is plain http and not to 127.0.0.1 or [::1]; use https")
		}
		return nil
	}
	if !strings.Contains(u.Scheme, ".") || strings.HasPrefix(u.Scheme, ".") || strings.HasSuffix(u.Scheme, ".") || strings.Contains(u.Scheme, "..") {
		return bad("is neither https nor of a scheme with a dot in it, as in org.example.app:/done")
	}
	if u.Opaque != "" || !strings.HasPrefix(u.Path, "/") && u.Host == "" {
		return bad("has no path; write org.example.app:/done")
	}
	return nil
}

// checkHost accepts a host as it is compared: lower case, no dot at its end,
// with a port or without, but not with an empty one.
func checkHost(u *url.URL, bad func(string) error) error {
	host := u.Hostname()
	switch {
	case host == "" || host != strings.ToLower(host) || strings.HasSuffix(host, ".") || strings.Contains(host, ".."):
		return bad("has no host, or one with capitals or stray dots")
	case strings.HasSuffix(u.Host, ":"):
		return bad("has an empty port")
	case strings.ContainsRune(host, '%') || strings.ContainsRune(u.Host, '%'):
		return bad("has an escape in its host")
	}
	return nil
}

// CreateClient registers an OAuth client under a random id. The secret of a
// confidential one is shown this once and kept nowhere.
func (s *Service) CreateClient(ctx context.Context, actor string, n NewClient) (c account.Client, secret string, err error) {
	if err := checkName(n.Name); err != nil {
		return c, "", err
	}
	if len(n.Redirects) > maxRedirects || len(n.Redirects) == 0 && !n.Device {
		return c, "", fmt.Errorf("a client has 1 to %d redirect URIs, or uses the device grant: %w", maxRedirects, account.ErrInvalid)
	}
	for i, r := range n.Redirects {
		if err := CheckRedirect(r); err != nil {
			return c, "", err
		}
		if slices.Contains(n.Redirects[:i], r) {
			return c, "", fmt.Errorf("a redirect URI is there twice: %w", account.ErrInvalid)
		}
	}
	c = account.Client{ID: newSecret()[:22], Name: n.Name, Redirects: slices.Clone(n.Redirects), Device: n.Device, FirstParty: n.FirstParty}
	ev := account.Event{Actor: actor, Action: "client.create", Target: "client:" + c.ID}
	err = s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		c.Created = tx.Now()
		if n.Confidential {
			secret = newSecret()
			c.SecretDigest = tx.Digest(clientPurpose, []byte(secret))
		}
		if err := tx.PutClient(c); err != nil {
			return fmt.Errorf("registering a client: %w", err)
		}
		return nil
	})
	if err != nil {
		return account.Client{}, "", err
	}
	return c, secret, nil
}

// Clients lists the OAuth clients.
func (s *Service) Clients(ctx context.Context) (all []account.Client, err error) {
	err = s.cfg.Store.View(ctx, func(tx account.Tx) error {
		all, err = tx.Clients()
		return err
	})
	return all, err
}

// RemoveClient removes an OAuth client and ends every sign-in through it.
func (s *Service) RemoveClient(ctx context.Context, actor, id string) error {
	ev := account.Event{Actor: actor, Action: "client.remove", Target: "client:" + id}
	err := s.cfg.Store.Do(ctx, ev, func(tx account.Tx) error {
		if _, err := tx.Client(id); err != nil {
			if errors.Is(err, account.ErrNotFound) {
				return notFound("Client")
			}
			return fmt.Errorf("finding the client: %w", err)
		}
		if err := endSessionsOf(tx, id); err != nil {
			return err
		}
		return tx.DeleteClient(id)
	})
	if err == nil {
		s.changed()
	}
	return err
}

// endSessionsOf ends the sign-ins of everybody through one client.
func endSessionsOf(tx account.Tx, client string) error {
	people, err := tx.Users()
	if err != nil {
		return fmt.Errorf("reading people: %w", err)
	}
	for _, u := range people {
		sessions, err := tx.SessionsOf(u.ID)
		if err != nil {
			return fmt.Errorf("reading sessions: %w", err)
		}
		for _, sess := range sessions {
			if sess.Client != client {
				continue
			}
			if err := tx.RevokeSession(sess.ID, "client removed"); err != nil {
				return fmt.Errorf("ending a session: %w", err)
			}
		}
	}
	return nil
}
