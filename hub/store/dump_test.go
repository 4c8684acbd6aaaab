package store_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/hub/store/storetest"
	"github.com/warrenmesh/warren/peer/account"
)

// fill puts one of every proof into a store and returns what must not be found
// in it: what lets somebody in, and what names a person.
func fill(t *testing.T, s *store.Store, h *home, c *clock) map[string][]byte {
	t.Helper()
	later := c.in(time.Hour)
	hidden := map[string][]byte{
		"ann's address":   []byte("ann@example.org"),
		"folded address":  []byte("ANN@EXAMPLE.ORG"),
		"password hash":   []byte("$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNo"),
		"totp secret":     []byte("totp-secret-of-20-by"),
		"recovery hash":   hashOf("RECOVERY"), // short codes: a hash is enough to try them out
		"passkey":         []byte(`{"PublicKey":"of the passkey"}`),
		"passkey's name":  []byte("ann's phone"),
		"failed key":      []byte("user:typed@example.org"),
		"invitation hash": hashOf("INVITE"),
		"user code":       []byte("WDJBMJHT"),
		"user code hash":  hashOf("WDJBMJHT"),
		"signing key":     []byte("PKCS #8 of the signing key"),
		"node key":        []byte("node-key-of-128-random-bits"),
		"node key's hash": hashOf("node-key-of-128-random-bits"), // kept is a keyed digest
		"app key":         []byte("app-key-of-128-random-bits"),
		"client secret":   []byte("client-secret-of-128-random-bits"),
		"hook secret":     []byte("hook-secret-of-128-random-bits"),
	}
	kept(t, h.a, func(tx account.Tx) error {
		secret, err := tx.Secret("refresh")
		hidden["refresh secret"] = secret
		device := h.device("WDJBMJHT", c)
		device.Hash = hashOf("device")
		return firstError(err,
			tx.SetPassword(h.ann.ID, string(hidden["password hash"])),
			tx.SetTOTP(h.ann.ID, hidden["totp secret"], true, [][]byte{hashOf("RECOVERY")}),
			tx.PutPasskey(account.Passkey{ID: []byte("cred"), User: h.ann.ID, Name: "ann's phone", Record: hidden["passkey"]}),
			tx.Fail(string(hidden["failed key"])),
			tx.CreateInvitation(account.Invitation{ID: "v", Household: h.household.ID, CodeHash: hashOf("INVITE"), Role: account.Member, Expires: later}),
			tx.CreateSession(h.session("s", c)),
			tx.AddRefresh(account.Refresh{Hash: hashOf("refresh"), Session: "s", Expires: later}),
			tx.CreateNode(account.Node{ID: "node", Household: h.household.ID}),
			tx.AddKey("node:node", account.Key{Digest: tx.Digest("node", hidden["node key"])}, time.Time{}),
			tx.CreateApp(account.App{ID: "app"}),
			tx.AddKey("app:app", account.Key{Digest: tx.Digest("app", hidden["app key"])}, time.Time{}),
			tx.PutEnrolment(account.Enrolment{Hash: hashOf("prov"), Node: "x", Household: h.household.ID, Expires: later}),
			tx.PutClient(account.Client{ID: "third", SecretDigest: tx.Digest("client", hidden["client secret"])}),
			tx.CreateAuthRequest(h.request("r", c)), tx.Agree("r", h.ann.ID, "", c.in(0), nil), tx.SetCode("r", hashOf("code"), later),
			tx.CreateDevice(device),
			tx.PutSigningKey(account.SigningKey{ID: "kid", Private: hidden["signing key"]}),
			tx.Know(h.ann.ID, "p-1"))
	})
	if err := s.Data().Do(t.Context(), account.NewScope(h.household.ID, h.ann.ID), someAccountEvent, func(sc account.Scoped) error {
		return sc.PutHook(account.Hook{Name: "door", Secret: hidden["hook secret"]})
	}); err != nil {
		t.Fatal(err)
	}
	return hidden
}

// TestK03_DumpHoldsNoUsableKey reads every table as somebody with the database,
// and without the master key, does. Nothing in it signs anybody in, and nobody
// can be named from it.
func TestK03_DumpHoldsNoUsableKey(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		c := newClock(&cfg)
		s := storetest.Create(t, cfg)
		hidden := fill(t, s, newHome(t, s, c.in(0)), c)
		tables, values, err := store.Dump(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"users", "recovery_codes", "passkeys", "failures", "known_machines", "households", "memberships", "invitations",
			"sessions", "refresh_tokens", "nodes", "apps", "machine_keys", "enrolments", "oauth_clients", "auth_requests", "devices", "signing_keys",
			"hooks", "person_keys", "secrets"} {
			if tables[name] == 0 {
				t.Errorf("table %s is empty: nothing was shown about it", name)
			}
		}
		all := bytes.Join(values, []byte("\n"))
		lower := bytes.ToLower(all)
		// What is meant to be readable must be, or the search finds nothing at all.
		for _, open := range [][]byte{[]byte("Console"), hashOf("refresh"), hashOf("code")} {
			if !bytes.Contains(all, open) {
				t.Errorf("%q is not in the dump: is it one?", open)
			}
		}
		for what, secret := range hidden {
			for form, text := range map[string]string{
				"as it is": string(secret), "in hex": hex.EncodeToString(secret),
				"in base64": base64.RawStdEncoding.EncodeToString(secret), "in url-safe base64": base64.RawURLEncoding.EncodeToString(secret),
			} {
				if bytes.Contains(all, []byte(text)) || bytes.Contains(lower, []byte(strings.ToLower(text))) {
					t.Errorf("the dump holds the %s, %s", what, form)
				}
			}
		}
	})
}

// TestK03_MovedRowsDoNotOpen: whoever can write to the database cannot give one
// person another's password or second factor.
func TestK03_MovedRowsDoNotOpen(t *testing.T) {
	eachHome(t, func(t *testing.T, h *home, c *clock) {
		s := store.Unwrap(h.a)
		kept(t, h.a, func(tx account.Tx) error {
			return firstError(tx.SetPassword(h.bob.ID, "$argon2id$bob"), tx.SetTOTP(h.bob.ID, []byte("totp"), true, nil))
		})
		for _, query := range []string{
			`UPDATE users SET password = (SELECT password FROM users WHERE id = 2) WHERE id = 1`,
			`UPDATE users SET totp = password`,
		} {
			if err := store.Raw(t.Context(), s, query); err != nil {
				t.Fatal(err)
			}
			turned(t, h.a, store.ErrCorrupt, func(tx account.Tx) error { _, err := tx.Secrets(h.ann.ID); return err })
		}
	})
}
