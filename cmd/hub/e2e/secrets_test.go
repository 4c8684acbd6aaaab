package e2e_test

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/warrenmesh/warren/hub/store"
	"github.com/warrenmesh/warren/peer"
	"github.com/warrenmesh/warren/peer/invite"
	"github.com/warrenmesh/warren/spoke/vault"
)

func (m *mesh) read(file string) string {
	m.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}

// secrets collects what a mesh keeps secret, as bytes. The programs are stopped
// for that: their stores have locks.
func (m *mesh) secrets(t *testing.T, s *spoke, p *phone, codes ...string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for i, code := range codes {
		c, err := invite.Parse(code)
		if err != nil {
			t.Fatal(err)
		}
		key, psk := c.Key.Reveal(), c.PSK.Reveal()
		which := []string{"the used", "the unused"}[i]
		out[which+" invite"] = []byte(code)
		out[which+" invite's key"], out[which+" invite's pre-shared key"] = key[:], psk[:]
	}
	for name, text := range map[string]string{"the phone's key": p.setting("PrivateKey")[0], "the phone's pre-shared key": p.setting("PresharedKey")[0]} {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = raw
	}
	s.stop(syscall.SIGTERM)
	key, reply := s.membership(t)
	raw, psk := key.Reveal(), reply.PSK.Reveal()
	out["the spoke's key"], out["the spoke's pre-shared key"] = raw[:], psk[:]
	out["the vault's key"] = m.keyFile(t, s.dir+"/vault.key")

	m.hub.end(syscall.SIGTERM)
	out["the store's key"] = m.keyFile(t, m.dir+"/h/hub.key")
	storeKey, err := store.LoadKey(m.dir + "/h/hub.key")
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), store.Config{Path: m.dir + "/h/hub.db", Key: storeKey})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	err = st.View(t.Context(), func(tx *store.Tx) (err error) {
		out["the hub's key"], err = tx.Secret("hub-key")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// peoplesSecrets makes what people and programs prove themselves with, and uses
// it: rightly, wrongly, and where it does not belong.
func (m *mesh) peoplesSecrets(t *testing.T, p *phone) map[string][]byte {
	t.Helper()
	m.settle()
	access, refresh := p.signIn(t, "ann")
	const wrong = "an almost right password"
	a := p.ask(t, "POST", authURL+"/auth/refresh", object("refresh_token", refresh))
	want(t, "a refresh", a, 200, "")
	out := map[string]string{
		"a password": password, "a wrong password": wrong, "an access token": access, "a refresh token": refresh, "the next": a.str("refresh_token"),
		"a node's key":       m.admin("node", "add", "den", "--household", "home"),
		"an app's key":       m.admin("app", "add", "center"),
		"an admin's key":     m.admin("app", "add", "tools", "--admin"),
		"a client's secret":  m.admin("client", "add", "wiki", "--redirect", "https://wiki.warren.internal/", "--secret"),
		"a webhook's secret": m.admin("webhook", "add", "doorbell", "--household", "home"),
	}
	p.ask(t, "POST", authURL+"/auth/login", object("email", "ann@example.org", "password", wrong))
	p.ask(t, "GET", authURL+"/auth/me?access_token="+access, "")
	p.ask(t, "POST", authURL+"/auth/refresh?refresh_token="+refresh, object("refresh_token", refresh, "what", "is this"))
	p.ask(t, "GET", authURL+"/auth/me", "", bearer(access+"x"))
	p.ask(t, "GET", authURL+"/internal/app-ping", "", "X-Jarvis-App-Id: "+out["an app's key"], "X-Jarvis-App-Key: "+out["a node's key"])
	p.ask(t, "GET", "http://command.warren.internal/api/v0/nodes/den/config/pending", "", "X-API-Key: den:"+out["a node's key"])
	p.ask(t, "GET", "http://command.warren.internal/api/v0/nodes/den/config/pending", "", "X-API-Key: "+out["an admin's key"])
	p.ask(t, "GET", authURL+"/superuser/users", "", "X-Jarvis-Admin-Token: "+out["an admin's key"])
	secrets := make(map[string][]byte, len(out))
	for what, text := range out {
		if len(text) < 16 || strings.ContainsAny(text, "\n") {
			t.Fatalf("%s is no secret: %q", what, text)
		}
		secrets[what] = []byte(text)
	}
	return secrets
}

// keyFile reads a key that a file holds as text, or as it is.
func (m *mesh) keyFile(t *testing.T, file string) []byte {
	t.Helper()
	text := strings.TrimSpace(m.read(file))
	for _, decode := range []func(string) ([]byte, error){hex.DecodeString, base64.StdEncoding.DecodeString} {
		if raw, err := decode(text); err == nil && len(raw) >= 32 {
			return raw
		}
	}
	if len(text) < 32 {
		t.Fatalf("%s holds no key", file)
	}
	return []byte(text)
}

// membership is who a spoke is, from its vault. It must not be running.
func (s *spoke) membership(t *testing.T) (peer.PrivateKey, invite.Reply) {
	t.Helper()
	v, err := vault.Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	raw, err := v.Get("private-key")
	if err != nil {
		t.Fatal(err)
	}
	key, err := peer.PrivateKeyFrom(raw)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = v.Get("membership"); err != nil {
		t.Fatal(err)
	}
	reply, err := invite.ParseReply(raw)
	if err != nil {
		t.Fatal(err)
	}
	return key, reply
}

// forms are the ways in which a secret is written.
func forms(secret []byte) map[string]string {
	if len(secret) == 0 {
		return nil
	}
	return map[string]string{
		"it is": string(secret), "hex": hex.EncodeToString(secret),
		"base64":     base64.RawStdEncoding.EncodeToString(secret),
		"base64 URL": base64.RawURLEncoding.EncodeToString(secret),
	}
}
