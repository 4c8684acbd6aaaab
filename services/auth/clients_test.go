package auth

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/warrenmesh/warren/peer/account"
)

func TestCheckRedirect(t *testing.T) {
	for _, good := range []string{
		"https://console.warren.internal/callback", "https://example.org", "https://example.org:8443/a/b?x=1&y=2",
		"http://127.0.0.1/callback", "http://127.0.0.1:9000/callback", "http://[::1]:9000/",
		"org.example.app:/done", "org.example.app://auth/done",
	} {
		if err := CheckRedirect(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "/callback", "example.org/callback", "//example.org/x", "https://", "https:///x", "https:example.org",
		"http://example.org/callback", "http://localhost:9000/", "http://127.0.0.2/", "http://127.1/", "http://2130706433/",
		"http://[::ffff:127.0.0.1]/", "http://127.0.0.1.example.org/",
		"https://example.org/callback#x", "https://example.org/callback#", "https://*.example.org/", "https://example.org/*",
		"https://user@example.org/", "https://user:pw@example.org/", "https://example.org@evil.example/",
		`https://example.org\@evil.example/`, "https://example.org/ ", " https://example.org/", "https://example.org/\n", "https://example.org/a\tb",
		"https://EXAMPLE.org/", "HTTPS://example.org/", "https://example.org./", "https://example..org/", "https://example.org:/", "https://exa%6dple.org/",
		"https://example.org/a/../b", "https://example.org/./b", "https://ex\u00e4mple.org/", "https://example.org/\u202e",
		"javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "app:/done", "urn:ietf:wg:oauth:2.0:oob",
		"org.example.app:done", ".app:/x", "app.:/x", "org..app:/x", "https://example.org/" + strings.Repeat("a", 1024),
	} {
		if err := CheckRedirect(bad); !errors.Is(err, account.ErrInvalid) {
			t.Errorf("%q is accepted: %v", bad, err)
		}
	}
}

func FuzzCheckRedirect(f *testing.F) {
	for _, s := range []string{"https://example.org/cb", "http://127.0.0.1:1/", "org.example.app:/x", `https://a\b`, "https://a@b/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if CheckRedirect(s) != nil {
			return
		}
		if strings.ContainsAny(s, "#*@\\ \r\n\t<>\"") {
			t.Errorf("%q is accepted", s)
		}
		if !strings.HasPrefix(s, "https://") && !strings.HasPrefix(s, "http://127.0.0.1") && !strings.HasPrefix(s, "http://[::1]") {
			if scheme, _, _ := strings.Cut(s, ":"); !strings.Contains(scheme, ".") {
				t.Errorf("%q is accepted", s)
			}
		}
	})
}

func TestClients(t *testing.T) {
	k := newStand(t)
	ctx := t.Context()
	public, secret, err := k.s.CreateClient(ctx, "local:0", NewClient{Name: "Phone", Redirects: []string{"org.example.app:/done"}})
	k.ok(err)
	if secret != "" || public.SecretDigest != nil || len(public.ID) < 20 {
		t.Errorf("%+v %q", public, secret)
	}
	private, secret, err := k.s.CreateClient(ctx, "local:0", NewClient{Name: "Wiki", Redirects: []string{"https://wiki.example.org/cb"}, Confidential: true})
	k.ok(err)
	k.ok(k.store.View(ctx, func(tx account.Tx) error {
		stored := must(tx.Client(private.ID))(t)
		for guess, want := range map[string]bool{secret: true, secret + "x": false, secret[:len(secret)-1]: false, "": false} {
			if ClientSecretMatches(tx, stored, guess) != want {
				t.Errorf("%d characters: not %v", len(guess), want)
			}
		}
		if ClientSecretMatches(tx, must(tx.Client(public.ID))(t), secret) {
			t.Error("a public client has a secret")
		}
		return nil
	}))
	for _, n := range []NewClient{
		{Name: "", Redirects: []string{"https://example.org/"}}, {Name: "No redirect"}, {Name: "Twice", Redirects: []string{"https://example.org/", "https://example.org/"}},
		{Name: "Bad", Redirects: []string{"https://example.org/", "http://example.org/"}}, {Name: "Many", Redirects: make([]string, 11)},
	} {
		if _, _, err := k.s.CreateClient(ctx, "local:0", n); !errors.Is(err, account.ErrInvalid) {
			t.Errorf("%s: %v", n.Name, err)
		}
	}
	k.removeClient(ctx, private.ID)
}

// removeClient removes a client through which bob is signed in.
func (k *stand) removeClient(ctx context.Context, id string) {
	k.Helper()
	p := k.peer("bob-phone")
	var through Tokens
	k.ok(k.store.Do(ctx, account.Event{Actor: "hub", Action: "test", Target: "session"}, func(tx account.Tx) (err error) {
		through, err = k.s.Start(ctx, tx, account.Session{User: k.users["bob"], Peer: p.ID, Key: p.PublicKey, Client: id, Scope: ScopeAccount})
		return err
	}))
	bearer := "Authorization: Bearer " + through.Access
	k.want(k.from("bob-phone", "GET", "/households", "", bearer), 200, "")
	k.ok(k.s.RemoveClient(ctx, "local:0", id))
	k.want(k.from("bob-phone", "GET", "/households", "", bearer), 401, "Invalid token")
	k.want(k.as("bob", "GET", "/households", ""), 200, "")
	if err := k.s.RemoveClient(ctx, "local:0", id); err == nil {
		k.Error("a client was removed twice")
	}
	if left := must(k.s.Clients(ctx))(k); len(left) != 1 {
		k.Errorf("%d clients are left", len(left))
	}
}
