package k2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func mustNode(t testing.TB, fill byte) NodeKey {
	t.Helper()
	n, err := NodeKeyFrom(bytes.Repeat([]byte{fill}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func mustSealKey(t testing.TB, to PublicKey, node string, k, before Key) SealedKey {
	t.Helper()
	s, err := SealKey(to, node, k, before)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestC06_KeyOfAnotherNode has a hub that carries sealed keys to where they do
// not belong, changes them, and makes up its own.
func TestC06_KeyOfAnotherNode(t *testing.T) {
	kitchen, bedroom := mustNode(t, 5), mustNode(t, 6)
	first, second := mustKey(t, "k2-202611-aaaaaa", 1), mustKey(t, "k2-202612-bbbbbb", 2)
	hubs := mustKey(t, "k2-202612-cccccc", 3)
	good := mustSealKey(t, kitchen.Public(), "kitchen", first, Key{})
	if k, err := kitchen.OpenKey("kitchen", good, Key{}); err != nil || !k.Equal(first) || !k.Created().Equal(then) {
		t.Fatalf("the first key: %v", err)
	}
	next := mustSealKey(t, kitchen.Public(), "kitchen", second, first)
	wrongTo := good
	wrongTo.To = bedroom.Public().String()
	renamed := good
	renamed.KID = "k2-202611-aaaaab"
	for _, c := range []struct {
		what   string
		by     NodeKey
		node   string
		s      SealedKey
		before Key
		want   error
	}{
		{"sealed to another key", bedroom, "bedroom", good, Key{}, ErrForged},
		{"the same with another address on it", bedroom, "bedroom", wrongTo, Key{}, ErrForged},
		{"for another node with the same key", kitchen, "bedroom", good, Key{}, ErrForged},
		{"under another id", kitchen, "kitchen", renamed, Key{}, ErrForged},
		{"the hub's own, in place of one", kitchen, "kitchen", mustSealKey(t, kitchen.Public(), "kitchen", hubs, Key{}), first, ErrUnproven},
		{"the hub's own, vouched for by itself", kitchen, "kitchen", mustSealKey(t, kitchen.Public(), "kitchen", hubs, hubs), first, ErrUnproven},
		{"vouched for by a key from before", kitchen, "kitchen", next, hubs, ErrUnproven},
		{"the first one again, after the second", kitchen, "kitchen", good, second, ErrUnproven},
		{"the successor", kitchen, "kitchen", next, first, nil},
		{"the successor again", kitchen, "kitchen", next, second, nil},
		{"the first again", kitchen, "kitchen", good, first, nil},
	} {
		k, err := c.by.OpenKey(c.node, c.s, c.before)
		if !errors.Is(err, c.want) || (err != nil) != k.IsZero() {
			t.Errorf("%s: %v (%v), not %v", c.what, k, err, c.want)
		}
	}
}

// TestC01_DamagedKey damages a sealed K2 at every bit and byte.
func TestC01_DamagedKey(t *testing.T) {
	n, k := mustNode(t, 5), mustKey(t, "k2-202611-aaaaaa", 1)
	whole := mustSealKey(t, n.Public(), "kitchen", k, Key{})
	for name, part := range map[string]func(*SealedKey) *string{
		"enc": func(s *SealedKey) *string { return &s.Enc }, "ciphertext": func(s *SealedKey) *string { return &s.Ciphertext },
		"to": func(s *SealedKey) *string { return &s.To },
	} {
		raw, err := decode(name, *part(&whole))
		if err != nil {
			t.Fatal(err)
		}
		check := func(what string, b []byte) {
			s := whole
			*part(&s) = encode(b)
			got, err := n.OpenKey("kitchen", s, Key{})
			want := ErrForged
			if name != "ciphertext" && len(b) != 32 {
				want = ErrMalformed
			}
			// X25519 ignores the top bit of a public key; the HPKE context does not.
			if !errors.Is(err, want) || !got.IsZero() {
				t.Errorf("%s %s: %v, not %v", name, what, err, want)
			}
		}
		for i := range raw {
			check(fmt.Sprint("cut to ", i), raw[:i])
			for bit := range 8 {
				b := bytes.Clone(raw)
				b[i] ^= 1 << bit
				check(fmt.Sprintf("bit %d of byte %d", bit, i), b)
			}
		}
		check("longer", append(bytes.Clone(raw), 0))
	}
	for _, v := range []int{0, 2} {
		s := whole
		s.V = v
		if _, err := n.OpenKey("kitchen", s, Key{}); !errors.Is(err, ErrMalformed) {
			t.Errorf("v %d: %v", v, err)
		}
	}
}

func TestPublicKeys(t *testing.T) {
	n := mustNode(t, 5)
	p, err := ParsePublicKey(n.Public().String())
	if err != nil || p != n.Public() {
		t.Fatal(err)
	}
	if f := p.Fingerprint(); len(f) != 29 || f == mustNode(t, 6).Public().Fingerprint() {
		t.Errorf("fingerprint %q", f)
	}
	low := append([]byte{1}, make([]byte, 31)...)
	for _, bad := range []string{"", encode(make([]byte, 32)), encode(low), encode(low[:31]), p.String() + "=", strings.Repeat("A", 44)} {
		if _, err := ParsePublicKey(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestBackup(t *testing.T) {
	k := mustKey(t, "k2-202611-aaaaaa", 1)
	for _, pass := range []string{"", "correct horse"} {
		text, err := Backup("kitchen", k, pass)
		if err != nil {
			t.Fatal(err)
		}
		node, got, err := Restore(text, pass)
		if err != nil || node != "kitchen" || !got.Equal(k) || !got.Created().Equal(then) {
			t.Errorf("%q: %v", pass, err)
		}
		if pass == "" {
			continue
		}
		for _, wrong := range []string{"", "correct horsf"} {
			if _, got, err := Restore(text, wrong); !errors.Is(err, ErrPassphrase) || !got.IsZero() {
				t.Errorf("passphrase %q: %v", wrong, err)
			}
		}
	}
}

// reworked changes one field of a backup.
func reworked(t *testing.T, text, field string, value any) string {
	t.Helper()
	raw, err := decode("backup", text)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	m[field] = value
	if raw, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	return encode(raw)
}

// TestC02_BackupFields changes what an encrypted backup says of itself.
func TestC02_BackupFields(t *testing.T) {
	k := mustKey(t, "k2-202611-aaaaaa", 1)
	text, err := Backup("kitchen", k, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		field string
		value any
		want  error
	}{
		{"node_id", "bedroom", ErrPassphrase}, {"kid", "k2-202611-aaaaab", ErrPassphrase},
		{"params", kdf{19456, 2, 1}, ErrPassphrase}, {"params", kdf{1 << 30, 3, 1}, ErrMalformed}, {"params", kdf{65536, 1 << 30, 1}, ErrMalformed},
		{"params", kdf{8, 1, 1}, ErrMalformed}, {"params", nil, ErrMalformed}, {"kdf", "pbkdf2", ErrMalformed},
		{"v", 2, ErrMalformed}, {"mode", "none", ErrMalformed}, {"mode", "plain", ErrMalformed},
		{"salt", encode(make([]byte, 16)), ErrPassphrase}, {"salt", "", ErrMalformed}, {"salt", encode(make([]byte, 65)), ErrMalformed},
		{"nonce", encode(make([]byte, 24)), ErrMalformed}, {"tag", encode(make([]byte, 16)), ErrPassphrase}, {"tag", "", ErrMalformed},
		{"ciphertext", "", ErrPassphrase}, {"node_id", "kit:chen", ErrMalformed}, {"created_at", "yesterday", ErrMalformed},
	} {
		if _, got, err := Restore(reworked(t, text, c.field, c.value), "correct horse"); !errors.Is(err, c.want) || !got.IsZero() {
			t.Errorf("%s = %v: %v", c.field, c.value, err)
		}
	}
	for _, bad := range []string{"", "e30", text[:len(text)-1], text + "A", strings.Repeat("A", MaxBackup+1)} {
		if _, _, err := Restore(bad, "correct horse"); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

// TestC06_Withheld: a phone says what there is, a hub keeps some of it back.
func TestC06_Withheld(t *testing.T) {
	have := map[string]Mark{"a": {Version: 3}, "b": {Version: 1}}
	m, err := ParseManifest([]byte(`{"versions":{"a":3,"b":2,"c":1},"every":3600}`))
	if err != nil {
		t.Fatal(err)
	}
	got := m.Check(then, then.Add(time.Hour), have)
	if len(got) != 2 || got[0] != (Stale{"b", then, 2}) || got[1] != (Stale{"c", then, 1}) {
		t.Errorf("on time: %+v", got)
	}
	got = m.Check(then, then.Add(time.Hour+time.Second), have)
	if len(got) != 3 || got[0] != (Stale{Since: then.Add(time.Hour)}) {
		t.Errorf("nothing came when something was due: %+v", got)
	}
	for _, bad := range []string{``, `[]`, `{"every":-1}`, `{"every":1e9}`, `{"versions":{"a":-1}}`} {
		if _, err := ParseManifest([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
